// poll_metrics METRICS.H5 PROCESS: reads the log of a living run 50 times a second until the process has ended; every
// time the steps must be 1, 2, 3 ... without a hole, no fewer than before, and their losses numbers. Prints how often
// it read.
#include "io/files.h"
#include "io/metrics.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#define PAUSE_MICROSECONDS 20000

static int64_t read_once(const char *path, int64_t before) {
    MetricsRow *rows;
    int64_t count;
    if (metrics_read(path, METRICS_TRAIN, &rows, &count) != STATUS_OK) {
        fprintf(stderr, "%s\n", error_text());
        exit(1);
    }
    bool good = count >= before;
    for (int64_t i = 0; i < count; i++) good = good && rows[i].step == i + 1 && isfinite(rows[i].loss);
    free(rows);
    if (good) return count;
    fprintf(stderr, "%s: %lld rows after %lld, or a hole in them\n", path, (long long)count, (long long)before);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    const pid_t process = (pid_t)atol(argv[2]);
    long reads = 0;
    int64_t rows = 0;
    for (bool alive = true; alive;) {
        alive = kill(process, 0) == 0;
        if (file_exists(argv[1])) {
            rows = read_once(argv[1], rows);
            reads++;
        }
        usleep(PAUSE_MICROSECONDS);
    }
    printf("%ld reads, %lld rows\n", reads, (long long)rows);
    return 0;
}
