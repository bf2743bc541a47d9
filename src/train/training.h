// A run that trains: the state that saving.c writes and resuming.c reads, and that loop.c moves on.
#pragma once
#include "io/checkpoint.h"
#include "io/metrics.h"
#include "src/train/run.h"

#include <limits.h>

// The run so far: what a checkpoint holds besides the vectors.
typedef struct Progress {
    int64_t step, skipped;
    double num_tokens, best_eval;
    char run_id[RUN_ID_MAX];
} Progress;

typedef struct Training {
    Run run;
    Progress progress;
    int64_t total_steps;
    Metrics *metrics; // rank 0
    int lock;         // rank 0
    int32_t *visit;   // batches of the current epoch
    int64_t epoch;    // that `visit` is of
    double started, last_step_end, last_save, trained_tokens, append_seconds;
    int64_t last_saved_step, first_step;
    bool save_again;                      // the last checkpoint could not be written
    int64_t evaluated_step, sampled_step; // of the last row in /eval, of the last lines in samples.jsonl
    MetricsRow last_eval;                 // step 0: none yet
    Checkpoint resumed;                   // rank 0, until it is restored: the checkpoint to go on from
    char *path_resumed;                   // its file; NULL: none
    char path_checkpoints[PATH_MAX], path_adapter[PATH_MAX], path_samples[PATH_MAX], path_metrics[PATH_MAX];
} Training;

// Whether this rank writes files and says things.
static inline bool training_speaks(const Training *t) {
    return t->run.comm->rank == 0;
}
