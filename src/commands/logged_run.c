// Reading a run's folder from outside.
#include "src/commands/logged_run.h"

#include "io/files.h"
#include "src/model/arch.h"

#include <errno.h>
#include <libgen.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_TRIES         25
#define PAUSE_MICROSECONDS 40000

static void look(LoggedRun *run) {
    char adapter[PATH_MAX + 32];
    snprintf(adapter, sizeof adapter, "%s/adapter/adapter_config.json", run->folder);
    run->state = run_locked(run->folder) ? RUN_GOING : file_exists(adapter) ? RUN_FINISHED : RUN_STOPPED;
}

Status logged_run_find(LoggedRun *run, const char *name, bool *there) {
    struct stat info;
    char config[PATH_MAX + 32];
    *run = (LoggedRun){.name = name};
    *there = true;
    if (stat(name, &info) != 0)
        return error_set(STATUS_USAGE, "%s: %s; name a run's folder (its train.output_dir)", name, strerror(errno));
    if (strlen(name) + sizeof "/metrics.h5" > PATH_MAX)
        return error_set(STATUS_USAGE, "%.64s...: the path is too long", name);
    if (!S_ISDIR(info.st_mode)) { // a log that was brought from elsewhere
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s", name);
        snprintf(run->path, sizeof run->path, "%s", name);
        snprintf(run->folder, sizeof run->folder, "%s", dirname(path));
        snprintf(config, sizeof config, "%s/config.cfg", run->folder);
        run->alone = !file_exists(config);
        look(run);
        return STATUS_OK;
    }
    snprintf(run->folder, sizeof run->folder, "%s", name);
    snprintf(run->path, sizeof run->path, "%s/metrics.h5", name);
    snprintf(config, sizeof config, "%s/config.cfg", name);
    *there = file_exists(run->path);
    if (!*there && !file_exists(config))
        return error_set(STATUS_USAGE, "%s: is no run's folder: it holds no metrics.h5", name);
    look(run);
    return STATUS_OK;
}

// Between two rows of log.swmr = false, and while a resume replaces it, the file cannot be read for an instant.
static bool again(const LoggedRun *run, int *tries) {
    if (run->state != RUN_GOING || ++*tries == READ_TRIES) return false;
    error_clear();
    usleep(PAUSE_MICROSECONDS);
    return true;
}

static Status refuse(void) {
    return error_advise(STATUS_DATA, "after a power cut: the command that trains goes on and writes it anew");
}

static Status read_rows(const LoggedRun *run, MetricsGroup group, int64_t first, MetricsRow **rows, int64_t *count) {
    Status status;
    int tries = 0;
    do status = metrics_read_from(run->path, group, first, rows, count);
    while (status != STATUS_OK && again(run, &tries));
    return status == STATUS_OK ? STATUS_OK : refuse();
}

Status logged_run_rows(LoggedRun *run, MetricsGroup group, int64_t first, MetricsRow **rows, int64_t *count) {
    look(run); // first: the rows of a run that is finished are all there
    return read_rows(run, group, first, rows, count);
}

static Status read_about(LoggedRun *run) {
    Status status;
    int tries = 0;
    do status = metrics_read_run(run->path, &run->about);
    while (status != STATUS_OK && again(run, &tries));
    if (status != STATUS_OK) return refuse();
    run->has_config = config_parse(&run->config, arch_modules, run->about.config, run->path, 0, NULL) == STATUS_OK;
    if (!run->has_config) error_clear();
    return STATUS_OK;
}

Status logged_run_read(LoggedRun *run) {
    look(run);
    for (int g = METRICS_TRAIN; g <= METRICS_EVAL; g++)
        TRY(read_rows(run, (MetricsGroup)g, 0, &run->rows[g], &run->count[g]));
    TRY(read_about(run));
    const int64_t total = logged_run_total_steps(run);
    if (run->alone && total > 0 && run->count[METRICS_TRAIN] > 0 &&
        run->rows[METRICS_TRAIN][run->count[METRICS_TRAIN] - 1].step >= total)
        run->state = RUN_FINISHED;
    return STATUS_OK;
}

void logged_run_free(LoggedRun *run) {
    metrics_run_free(&run->about);
    for (int g = METRICS_TRAIN; g <= METRICS_EVAL; g++) free(run->rows[g]);
    *run = (LoggedRun){0};
}

int64_t logged_run_total_steps(const LoggedRun *run) {
    if (!run->has_config) return 0;
    if (run->config.train.max_steps > 0) return run->config.train.max_steps;
    if (run->count[METRICS_TRAIN] == 0) return 0;
    const MetricsRow *last = &run->rows[METRICS_TRAIN][run->count[METRICS_TRAIN] - 1];
    if (!(last->epoch > 0)) return 0;
    return (int64_t)ceil(run->config.train.num_train_epochs * round((double)last->step / last->epoch));
}

double logged_run_seconds(const LoggedRun *run) {
    double seconds = 0;
    const int64_t count = run->count[METRICS_TRAIN], evaluations = run->count[METRICS_EVAL];
    for (int64_t i = 0; i < count; i++) seconds += run->rows[METRICS_TRAIN][i].step_seconds;
    // A step's seconds hold the evaluation before it; no step follows the last one.
    if (count > 0 && evaluations > 0) {
        const MetricsRow *eval = &run->rows[METRICS_EVAL][evaluations - 1];
        if (eval->step == run->rows[METRICS_TRAIN][count - 1].step) seconds += eval->step_seconds;
    }
    return seconds;
}

double logged_run_tokens(const LoggedRun *run) {
    double tokens = 0;
    for (int64_t i = 0; i < run->count[METRICS_TRAIN]; i++) tokens += run->rows[METRICS_TRAIN][i].computed_tokens;
    return tokens;
}

const char *logged_run_state(const LoggedRun *run) {
    static const char *const words[] = {"going on", "finished", "stopped"};
    return words[run->state];
}
