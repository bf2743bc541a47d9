// Prints the training steps of a metrics.h5 for scripts: one line "STEP SECONDS COMPUTED_TOKENS SCORED_TOKENS" a step,
// the seconds without those of reference passes.
//
//     bench_steps METRICS.H5
#include "io/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: bench_steps METRICS.H5\n");
        return STATUS_USAGE;
    }
    MetricsRow *rows = NULL;
    int64_t count = 0;
    Status status = metrics_read(argv[1], METRICS_TRAIN, &rows, &count);
    if (status != STATUS_OK) {
        fprintf(stderr, "bench_steps: %s\n", error_text());
        return (int)status;
    }
    for (int64_t i = 0; i < count; i++)
        printf("%" PRId64 " %.6f %.0f %.0f\n", rows[i].step, rows[i].step_seconds - rows[i].reference_seconds,
               rows[i].computed_tokens, rows[i].scored_tokens);
    free(rows);
    return 0;
}
