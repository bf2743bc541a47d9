// `kto train`: the run's folder, what is opened in it, and what is said at the end. The loop is src/train/loop.c.
#include "src/commands/commands.h"

#include "io/files.h"
#include "io/jsonl.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/base/text.h"
#include "src/base/version.h"
#include "src/setup/describe.h"
#include "src/setup/run.h"
#include "src/train/loop.h"
#include "src/train/resuming.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void join_path(char to[PATH_MAX], const char *folder, const char *name) {
    snprintf(to, PATH_MAX, "%s/%s", folder, name);
}

// Rank 0: the folder, its lock, and a configuration that belongs to this run.
static Status open_folder(Training *t) {
    const Config *config = &t->run.config;
    char path[PATH_MAX];
    TRY(folder_make(config->train.output_dir));
    TRY(run_lock(config->train.output_dir, &t->lock));
    join_path(path, config->train.output_dir, "config.cfg");
    // Without a log it is of a start that failed, and nothing stands behind it.
    if (file_exists(path) && (file_exists(t->path_metrics) || file_exists(t->path_adapter))) {
        Config saved;
        TRY(config_load(&saved, arch_modules, path, 0, NULL));
        TRY(resuming_refuse_other(t, &saved, path));
    }
    char *text = config_text(config);
    if (text == NULL) return error_set(STATUS_FAILED, "out of memory for the configuration");
    Status status = file_write_durable(path, text, strlen(text));
    free(text);
    return status;
}

static Status open_metrics(Training *t) {
    const Run *run = &t->run;
    char host[128] = "", *text = config_text(&run->config);
    gethostname(host, sizeof host - 1);
    DeviceInfo info;
    run->model.options.backend->info(run->model.device, &info);
    const MetricsRun about = {.version = KTO_VERSION,
                              .git_commit = KTO_GIT_COMMIT,
                              .config = text == NULL ? "" : text,
                              .hosts = host,
                              .devices = info.name,
                              .ranks = run->comm->size,
                              .start_time = clock_unix_seconds()};
    Status status = metrics_open(&t->metrics, t->path_metrics, &about, t->progress.step, run->config.log.swmr);
    free(text);
    if (status == STATUS_OK) t->evaluated_step = metrics_last_step(t->metrics, METRICS_EVAL);
    return status;
}

// Rank 0: drops the samples of steps after the one resumed from, and notes the last step that has some.
static Status open_samples(Training *t) {
    FILE *file = fopen(t->path_samples, "r+");
    if (file == NULL) return STATUS_OK;
    char *line = NULL;
    size_t room = 0;
    long keep = 0;
    for (ssize_t bytes; (bytes = getline(&line, &room, file)) > 0;) {
        const int64_t step = jsonl_sample_step(line, (size_t)bytes);
        if (step < 0 || step > t->progress.step) break;
        t->sampled_step = step;
        keep = ftell(file);
    }
    free(line);
    Status status = STATUS_OK;
    if (ftruncate(fileno(file), keep) != 0) status = error_set(STATUS_FAILED, "%s: cannot be cut", t->path_samples);
    fclose(file);
    return status;
}

static void describe_end(const Training *t) {
    const double seconds = clock_unix_seconds() - t->started;
    log_info("%-8s %lld steps in %.1f s, %.0f tokens/s", "done", (long long)(t->progress.step - t->first_step), seconds,
             t->trained_tokens / seconds);
    char loss[32], margin[32];
    if (t->last_eval.step > 0)
        log_info("%-8s loss %s, reward margin %s", "eval", figure_text(t->last_eval.loss, 4, false, loss),
                 figure_text(t->last_eval.rewards_margins, 3, true, margin));
    log_info("%-8s %s (curves, %.2f %% of the time), %s (whole state)", "files", t->path_metrics,
             100 * t->append_seconds / seconds, t->path_checkpoints);
}

static Status train(Training *t) {
    Run *run = &t->run;
    const char *output = run->config.train.output_dir;
    join_path(t->path_checkpoints, output, "checkpoints");
    join_path(t->path_adapter, output, "adapter");
    join_path(t->path_samples, output, "samples.jsonl");
    join_path(t->path_metrics, output, "metrics.h5");
    TRY(run_fix_today(run));
    TRY(comm_agree(run->comm, training_speaks(t) ? open_folder(t) : STATUS_OK));
    int64_t saved_micro_batch_tokens;
    TRY(resuming_find(t, &saved_micro_batch_tokens));
    TRY(run_open(run, RUN_ROWS | RUN_MODEL | RUN_STEP, saved_micro_batch_tokens));
    t->total_steps = run_total_steps(run);
    t->epoch = -1;
    TRY(MEMORY_ALLOC(t->visit, run->train.batch_count, "the order of the batches"));
    TRY(resuming_restore(t));
    if (training_speaks(t)) describe_run(run);
    if (t->progress.step >= t->total_steps && file_exists(t->path_adapter)) {
        log_info("%s: this run of %lld steps is finished; its adapter is in %s", output, (long long)t->progress.step,
                 t->path_adapter);
        return STATUS_OK;
    }
    const char *cache = run->config.data.reference_cache[0] != '\0' ? run->config.data.reference_cache : output;
    TRY(comm_agree(run->comm, training_speaks(t) ? folder_make(cache) : STATUS_OK));
    TRY(run_open_references(run, cache));
    TRY(comm_agree(run->comm, training_speaks(t) ? open_metrics(t) : STATUS_OK));
    TRY(comm_agree(run->comm, training_speaks(t) ? open_samples(t) : STATUS_OK));
    TRY(comm_broadcast(run->comm, "the log's last steps", &t->evaluated_step, sizeof t->evaluated_step, 0));
    TRY(comm_broadcast(run->comm, "the log's last steps", &t->sampled_step, sizeof t->sampled_step, 0));
    Status status = loop_run(t);
    if (status == STATUS_STOPPED)
        log_info("%-8s on request after step %lld of %lld; the same command goes on from there", "stopped",
                 (long long)t->progress.step, (long long)t->total_steps);
    TRY(status);
    if (training_speaks(t)) describe_end(t);
    return STATUS_OK;
}

static Status run_command(Comm *comm, int argc, char **argv) {
    Training t = {.run.comm = comm, .lock = -1};
    TRY(comm_agree(comm, command_parse(&command_train, &argc, argv, NULL)));
    TRY(run_begin(&t.run, argc, argv));
    Status status = train(&t);
    Status closed = metrics_close(t.metrics);
    if (status == STATUS_OK) status = closed;
    resuming_close(&t);
    run_close(&t.run);
    free(t.visit);
    run_unlock(t.lock);
    return status;
}

const Command command_train = {
    .name = "train",
    .operands = "CONFIG [key=value ...]",
    .operands_min = 1,
    .operands_max = -1,
    .takes_keys = true,
    .stops_on_request = true,
    .summary = "train a model, or go on from the newest checkpoint",
    .text =
        "Alone, or as several ranks under mpirun or srun. SIGUSR1 to mpirun, srun or any rank writes a checkpoint and\n"
        "ends the job with exit code 75; the same command goes on from there.",
    .examples = "kto train run.cfg\n"
                "mpirun -n 2 kto train run.cfg train.learning_rate=1e-4\n"
                "sbatch slurm/train.sbatch run.cfg",
    .run = run_command,
};
