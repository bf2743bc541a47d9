// checkpoints/step-N.h5: the whole state of a run, independent of the rank count.
#pragma once
#include "src/base/adapter.h"
#include "src/base/status.h"
#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#define RUN_ID_MAX 40

typedef struct Checkpoint {
    char run_id[RUN_ID_MAX];
    int64_t step, batch_in_epoch, seed, micro_batch_tokens, skipped;
    double epoch, num_tokens, best_eval; // best_eval NaN: none yet
    char *config;                        // config_text's text; owned when read
    uint64_t dataset_hash, model_hash;
    int64_t count; // elements of each vector
    float *adapter, *adam_m, *adam_v;
    AdapterTensor *tensors; // [tensor_count]: cuts the vectors
    int32_t tensor_count;
} Checkpoint;

// Writes DIR/step-%06d.h5 through a temporary name, a seal over every byte, reading back, fsync, rename, and fsync of
// the folder. Keeps the newest save_total_limit (>= 1) files of the exact name form and removes older ones after that.
// STATUS_FAILED naming the file; nothing is lost then.
Status checkpoint_write(const char *dir, const Checkpoint *checkpoint, int save_total_limit);

// Reads one file in full (allocating). Checks its seal, layout and lengths. STATUS_DATA naming the file.
Status checkpoint_read(const char *path, Checkpoint *out);
void checkpoint_free(Checkpoint *checkpoint);

// The path of the newest checkpoint in DIR that reads well, the ones passed over named by log_warning. *path is NULL
// when there is none (also when DIR does not exist). Caller frees.
Status checkpoint_newest(const char *dir, char **path);
// The steps of the files in DIR by their names, newest first; none where there is no such folder. Caller frees *steps.
Status checkpoint_steps(const char *dir, int64_t **steps, size_t *count);
void checkpoint_path(char path[PATH_MAX], const char *dir, int64_t step);
