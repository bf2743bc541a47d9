// Writes the seeds that are HDF5 files, by our own writers. The other seeds are made by the script `seeds`.
//
//     fuzz_seeds FOLDER
#include "io/checkpoint.h"
#include "io/metrics.h"
#include "io/reference_cache.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

static Status write_checkpoint(void) {
    float values[12];
    for (int i = 0; i < 12; i++) values[i] = (float)i / 8;
    AdapterTensor tensors[2] = {{"model.layers.0.self_attn.q_proj.lora_A.weight", 0, 2, 3},
                                {"model.layers.0.self_attn.q_proj.lora_B.weight", 6, 3, 2}};
    const Checkpoint c = {.run_id = "a-run",
                          .step = 1,
                          .seed = 42,
                          .epoch = 0.5,
                          .best_eval = NAN,
                          .config = "model: { path = \"m\"; };\n",
                          .dataset_hash = 1,
                          .model_hash = 2,
                          .count = 12,
                          .adapter = values,
                          .adam_m = values,
                          .adam_v = values,
                          .tensors = tensors,
                          .tensor_count = 2};
    return checkpoint_write("checkpoint", &c, 2);
}

static Status write_metrics(const char *path, bool close) {
    const MetricsRun run = {
        .version = "1", .git_commit = "c", .config = "", .hosts = "h", .devices = "cpu", .ranks = 1};
    Metrics *metrics;
    TRY(metrics_open(&metrics, path, &run, 0, true));
    for (int64_t step = 1; step <= 3; step++) {
        const MetricsRow row = {.step = step, .loss = 0.5};
        TRY(metrics_append(metrics, METRICS_TRAIN, &row));
    }
    return close ? metrics_close(metrics) : STATUS_OK; // else as after a kill
}

static Status write_all(void) {
    const double logp[5] = {-1, -2, -3, -4, -5};
    TRY(write_checkpoint());
    TRY(reference_cache_write("reference_cache/full.h5", "key", logp, logp, 5));
    TRY(reference_cache_write("reference_cache/short.h5", "key", logp, logp, 4));
    TRY(write_metrics("metrics/closed.h5", true));
    return write_metrics("metrics/killed.h5", false);
}

int main(int argc, char **argv) {
    if (argc != 2 || chdir(argv[1]) != 0) {
        fprintf(stderr, "usage: fuzz_seeds FOLDER\n");
        return 2;
    }
    if (write_all() == STATUS_OK) _exit(0); // as a kill does: metrics/killed.h5 stays open
    fprintf(stderr, "%s\n", error_text());
    return 1;
}
