// metrics.h5: groups /train and /eval of one-dimensional columns, appended row by row, readable while the run goes on.
#pragma once
#include "src/base/status.h"
#include <stddef.h>
#include <stdint.h>

// Columns, in file order; all float64 but step. Definitions are TRL 1.16's; units and descriptions stand in metrics.c.
// clang-format off
#define METRICS_COLUMNS(X) \
    X(epoch) X(time) X(loss) X(kl) X(grad_norm) \
    X(learning_rate) X(entropy) X(num_tokens) \
    X(rewards_chosen) X(rewards_rejected) X(rewards_margins) X(rewards_accuracies) \
    X(logps_chosen) X(logps_rejected) X(logits_chosen) X(logits_rejected) \
    X(rows) X(rows_chosen) X(scored_tokens) X(computed_tokens) \
    X(step_seconds) X(reference_seconds) X(comm_seconds) X(wait_seconds) X(tokens_per_second) X(skipped)
// clang-format on

typedef struct MetricsRow {
    int64_t step; // 1-based, after the update
#define METRICS_FIELD(name) double name;
    METRICS_COLUMNS(METRICS_FIELD)
#undef METRICS_FIELD
} MetricsRow;

// What the root attributes say.
typedef struct MetricsRun {
    const char *version, *git_commit, *config, *hosts, *devices;
    int ranks;
    double start_time; // seconds since 1970 UTC
} MetricsRun;

typedef enum MetricsGroup { METRICS_TRAIN = 0, METRICS_EVAL = 1 } MetricsGroup;
extern const char *const metrics_group_names[3]; // "train", "eval", NULL

// A column's words. Column 0 is the step; the others are those of METRICS_COLUMNS, in their order.
typedef struct MetricsColumn {
    const char *name;
    size_t offset; // in MetricsRow
    const char *units, *trl_name, *description;
} MetricsColumn;
enum {
    METRICS_STEP_COLUMN,
#define METRICS_NUMBER(name) METRICS_##name,
    METRICS_COLUMNS(METRICS_NUMBER)
#undef METRICS_NUMBER
        METRICS_COLUMN_COUNT
};
extern const MetricsColumn metrics_columns[METRICS_COLUMN_COUNT];
double metrics_value(const MetricsRow *row, int column); // of a column that is not the step
typedef struct Metrics Metrics;

// Makes the file, with resume_step > 0 of the rows up to that step of the one there, however its writer ended. After a
// power cut these are all that were fsynced. swmr: readers follow live; else the file is opened, appended to and closed
// per row. The caller holds the run directory's lock. STATUS_FAILED naming the file.
Status metrics_open(Metrics **out, const char *path, const MetricsRun *run, int64_t resume_step, bool swmr);
// Makes the row readable by others. What fails is tried once more after a pause, in a new file; STATUS_FAILED when
// that fails too, or the file was removed meanwhile.
Status metrics_append(Metrics *metrics, MetricsGroup group, const MetricsRow *row);
int64_t metrics_last_step(const Metrics *metrics, MetricsGroup group); // of the newest row; 0: none
Status metrics_close(Metrics *metrics);                                // NULL is allowed

// All rows of a group, for reports. Works while a writer is alive. Caller frees *rows.
Status metrics_read(const char *path, MetricsGroup group, MetricsRow **rows, int64_t *count);
// The same from row `first` (0-based) on. *count is negative where the group has fewer than `first` (a resume cut it).
Status metrics_read_from(const char *path, MetricsGroup group, int64_t first, MetricsRow **rows, int64_t *count);
// The root's attributes, in a process of its own: not under MPI. Caller frees *run with metrics_run_free.
Status metrics_read_run(const char *path, MetricsRun *run);
void metrics_run_free(MetricsRun *run);
