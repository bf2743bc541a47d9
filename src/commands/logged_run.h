// A run as its folder shows it from outside: the rows of metrics.h5, what the run is, and whether it still goes on.
// Nothing is written, and a run that is going is not disturbed. What is shown of it is decided in log_summary.c.
#pragma once
#include "io/config.h"
#include "io/metrics.h"

#include <limits.h>

typedef enum RunState {
    RUN_GOING,    // a process holds the folder's lock
    RUN_FINISHED, // the adapter is there
    RUN_STOPPED   // neither: stopped on request, or killed; the same command goes on
} RunState;

typedef struct LoggedRun {
    const char *name; // as it was given: a run's folder, or its metrics.h5
    char folder[PATH_MAX], path[PATH_MAX];
    bool alone;     // a metrics.h5 without its run's folder
    RunState state; // when it was last looked at
    MetricsRun about;
    bool has_config; // config is that of the log; false where another version wrote keys that this one lacks
    Config config;
    MetricsRow *rows[2]; // [group][count]
    int64_t count[2];
} LoggedRun;

// Where the log of `name` is, and whether there is one yet (*there). STATUS_USAGE where `name` is no run.
Status logged_run_find(LoggedRun *run, const char *name, bool *there);
// Reads everything. STATUS_DATA naming the file.
Status logged_run_read(LoggedRun *run);
void logged_run_free(LoggedRun *run);

// Looks at the state, then gives the rows of a group from `first` on, as metrics_read_from does. A file that the run
// writes to in this instant is tried again for a while.
Status logged_run_rows(LoggedRun *run, MetricsGroup group, int64_t first, MetricsRow **rows, int64_t *count);

// Steps of the whole run; 0 where it is not known yet.
int64_t logged_run_total_steps(const LoggedRun *run);
// Wall time of its steps so far, and tokens that went through the model; pauses between a stop and going on are out.
double logged_run_seconds(const LoggedRun *run);
double logged_run_tokens(const LoggedRun *run);
const char *logged_run_state(const LoggedRun *run); // one word
