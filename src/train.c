// `kto train`: the loop. Each step is a few calls into step.c, the op table and io/; here is only what happens when.
#include "src/run.h"

#include "io/checkpoint.h"
#include "io/files.h"
#include "src/base/clock.h"
#include "src/base/hash.h"
#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/optim.h"
#include "src/stop.h"
#include "src/version.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SAVE_SECONDS 600 // train.save_steps = 0: a checkpoint every 10 minutes

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
    char path_checkpoints[PATH_MAX], path_adapter[PATH_MAX], path_samples[PATH_MAX], path_metrics[PATH_MAX];
} Training;

static bool speaks(const Training *t) {
    return t->run.comm->rank == 0;
}

static void join_path(char to[PATH_MAX], const char *folder, const char *name) {
    snprintf(to, PATH_MAX, "%s/%s", folder, name);
}

// --- saving ---------------------------------------------------------------------------------------------------------

static Status write_checkpoint(Training *t) {
    Run *run = &t->run;
    Model *model = &run->model;
    TRY(reference_save(&run->train_reference, run->comm));
    TRY(reference_save(&run->eval_reference, run->comm));
    if (t->last_saved_step == t->progress.step) return STATUS_OK;
    Checkpoint c = {.step = t->progress.step,
                    .epoch = (double)t->progress.step / run->train.batch_count,
                    .batch_in_epoch = t->progress.step % run->train.batch_count,
                    .num_tokens = t->progress.num_tokens,
                    .seed = run->config.train.seed,
                    .micro_batch_tokens = run->step.micro_batch_tokens,
                    .best_eval = t->progress.best_eval,
                    .skipped = t->progress.skipped,
                    .dataset_hash = run->train.hash,
                    .model_hash = model->hash,
                    .count = model->adapter_count,
                    .tensors = model->tensors,
                    .tensor_count = model->tensor_count};
    memcpy(c.run_id, t->progress.run_id, sizeof c.run_id);
    float **host[] = {&c.adapter, &c.adam_m, &c.adam_v};
    const float *device[] = {model->adapter, model->adam_m, model->adam_v};
    Status status = STATUS_OK;
    for (int i = 0; i < 3 && status == STATUS_OK; i++) {
        status = MEMORY_ALLOC(*host[i], c.count, "a checkpoint");
        if (status == STATUS_OK) status = model_get(model, device[i], *host[i]);
    }
    c.config = config_text(&run->config);
    if (c.config == NULL) status = error_set(STATUS_FAILED, "out of memory for a checkpoint");
    // What belongs to the steps up to here, before it counts: a run that goes on from here goes on with it.
    if (status == STATUS_OK && file_exists(t->path_samples)) status = file_sync(t->path_samples);
    if (status == STATUS_OK) status = file_sync(t->path_metrics);
    if (status == STATUS_OK)
        status = checkpoint_write(t->path_checkpoints, &c, (int)run->config.train.save_total_limit);
    for (int i = 0; i < 3; i++) free(*host[i]);
    free(c.config);
    return status;
}

// With `must` a failure ends the run; else it is said, older checkpoints stay, and the next step tries again.
static Status save_checkpoint(Training *t, bool must) {
    Comm *comm = t->run.comm;
    const Status status = comm_agree(comm, speaks(t) ? write_checkpoint(t) : STATUS_OK);
    t->save_again = status == STATUS_FAILED && comm->agreed_failure && !must;
    if (t->save_again) {
        log_warning("%s; no checkpoint at step %lld, the run goes on and tries again after the next step", error_text(),
                    (long long)t->progress.step);
        error_clear();
        comm->agreed_failure = false;
        return STATUS_OK;
    }
    TRY(status);
    t->last_saved_step = t->progress.step;
    t->last_save = clock_seconds();
    return STATUS_OK;
}

static Status save_adapter(Training *t) {
    Model *model = &t->run.model;
    const Config *config = &t->run.config;
    if (!speaks(t)) return STATUS_OK;
    float *host = NULL;
    PeftTensor *tensors = NULL;
    Status status = MEMORY_ALLOC(host, model->adapter_count, "the adapter");
    if (status == STATUS_OK) status = run_peft_tensors(model, host, &tensors);
    if (status == STATUS_OK) status = model_get(model, model->adapter, host);
    if (status == STATUS_OK) {
        PeftConfig peft = {.r = (int32_t)config->lora.r,
                           .alpha = config->lora.alpha,
                           .dropout = config->lora.dropout,
                           .base_model = config->model.path};
        memcpy(peft.target, config->lora.target, sizeof peft.target);
        status = peft_write(t->path_adapter, &peft, tensors, model->tensor_count);
        log_info("%-8s %s (hash %016llx)", "adapter", t->path_adapter,
                 (unsigned long long)hash_bytes(0, host, (size_t)model->adapter_count * sizeof(float)));
    }
    free(tensors);
    free(host);
    return status;
}

// --- starting and resuming ------------------------------------------------------------------------------------------

static Status refuse_other_run(const Training *t, const Config *saved, const char *where) {
    char key[64], a[256], b[256];
    if (config_same_run(saved, &t->run.config, key, a, b)) return STATUS_OK;
    return error_set(STATUS_USAGE,
                     "%s: %s holds another run: %s was %s and is now %s; choose another train.output_dir or "
                     "restore the value",
                     where, t->run.config.train.output_dir, key, a, b);
}

// Rank 0: the folder, its lock, and a configuration that belongs to this run.
static Status open_folder(Training *t) {
    const Config *config = &t->run.config;
    char path[PATH_MAX];
    TRY(folder_make(config->train.output_dir));
    TRY(run_lock(config->train.output_dir, &t->lock));
    join_path(path, config->train.output_dir, "config.cfg");
    if (file_exists(path)) {
        Config saved;
        TRY(config_load(&saved, path, 0, NULL));
        TRY(refuse_other_run(t, &saved, path));
    }
    char *text = config_text(config);
    if (text == NULL) return error_set(STATUS_FAILED, "out of memory for the configuration");
    Status status = file_write_durable(path, text, strlen(text));
    free(text);
    return status;
}

static void new_run_id(Training *t) {
    char host[128] = "";
    gethostname(host, sizeof host - 1);
    const double facts[] = {clock_unix_seconds(), (double)getpid()};
    uint64_t id = hash_bytes(hash_bytes(0, facts, sizeof facts), host, strlen(host));
    snprintf(t->progress.run_id, sizeof t->progress.run_id, "%016llx", (unsigned long long)id);
}

// Rank 0: the newest checkpoint into host vectors (host[0] NULL: none).
static Status read_checkpoint(Training *t, float *host[3], int64_t *micro_batch_tokens) {
    Run *run = &t->run;
    char *path = NULL;
    TRY(checkpoint_newest(t->path_checkpoints, &path));
    if (path == NULL) return STATUS_OK;
    Checkpoint c;
    Status status = checkpoint_read(path, &c);
    if (status == STATUS_OK) {
        Config saved;
        status = config_parse(&saved, c.config, path, 0, NULL);
        if (status == STATUS_OK) status = refuse_other_run(t, &saved, path);
        if (status == STATUS_OK && c.dataset_hash != run->train.hash)
            status = error_set(STATUS_USAGE,
                               "%s: the training rows are not those of this run any more; restore %s or choose "
                               "another train.output_dir",
                               path, run->config.data.train);
        if (status == STATUS_OK && (c.model_hash != run->model.hash || c.count != run->model.adapter_count))
            status = error_set(STATUS_USAGE,
                               "%s: the model in %s is not that of this run any more; restore it or choose "
                               "another train.output_dir",
                               path, run->config.model.path);
        if (status == STATUS_OK) {
            t->progress =
                (Progress){.step = c.step, .skipped = c.skipped, .num_tokens = c.num_tokens, .best_eval = c.best_eval};
            memcpy(t->progress.run_id, c.run_id, sizeof c.run_id);
            *micro_batch_tokens = c.micro_batch_tokens;
            host[0] = c.adapter;
            host[1] = c.adam_m;
            host[2] = c.adam_v;
            c.adapter = c.adam_m = c.adam_v = NULL;
            log_info("%-8s from %s", "resume", path);
        }
        checkpoint_free(&c);
    }
    free(path);
    return status;
}

// All ranks get the state of the newest checkpoint, or of a new run.
static Status restore(Training *t) {
    Run *run = &t->run;
    Model *model = &run->model;
    float *host[3] = {NULL};
    int64_t found = 0, micro = run->step.micro_batch_tokens;
    t->progress.best_eval = NAN;
    Status status = speaks(t) ? read_checkpoint(t, host, &micro) : STATUS_OK;
    found = host[0] != NULL;
    TRY(comm_agree(run->comm, status));
    TRY(comm_broadcast(run->comm, &found, sizeof found, 0));
    if (!found) {
        if (speaks(t)) new_run_id(t);
        TRY(comm_broadcast(run->comm, &t->progress, sizeof t->progress, 0));
        return run_first_adapter(run);
    }
    TRY(comm_broadcast(run->comm, &t->progress, sizeof t->progress, 0));
    TRY(comm_broadcast(run->comm, &micro, sizeof micro, 0));
    if (run->config.train.micro_batch_tokens == 0) run->step.micro_batch_tokens = micro;
    float *device[] = {model->adapter, model->adam_m, model->adam_v};
    const size_t bytes = (size_t)model->adapter_count * sizeof(float);
    for (int i = 0; i < 3 && status == STATUS_OK; i++) {
        if (host[i] == NULL) status = MEMORY_ALLOC(host[i], model->adapter_count, "a checkpoint");
        if (status == STATUS_OK) status = comm_broadcast(run->comm, host[i], bytes, 0);
        if (status == STATUS_OK) status = model_set(model, device[i], host[i]);
    }
    for (int i = 0; i < 3; i++) free(host[i]);
    TRY(status);
    t->last_saved_step = t->progress.step;
    return model_adapter_changed(model);
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
    while (getline(&line, &room, file) > 0) {
        long long step;
        if (sscanf(line, "{\"step\": %lld", &step) != 1 || step > t->progress.step) break;
        t->sampled_step = step;
        keep = ftell(file);
    }
    free(line);
    Status status = STATUS_OK;
    if (ftruncate(fileno(file), keep) != 0) status = error_set(STATUS_FAILED, "%s: cannot be cut", t->path_samples);
    fclose(file);
    return status;
}

// --- what a person sees ---------------------------------------------------------------------------------------------

static void show_step(const Training *t, const MetricsRow *row) {
    const int64_t left = t->total_steps - row->step;
    const double per_step = (row->time - t->started) / (double)(row->step - t->first_step);
    const int seconds = (int)(per_step * (double)left);
    char text[256], z0[32] = "";
    if (t->run.config.kto.loss_type == LOSS_KTO) snprintf(z0, sizeof z0, "z0 %.3f  ", row->kl);
    snprintf(text, sizeof text, "step %lld/%lld  loss %.4f  %smargin %+.3f  %.0f tokens/s  %d:%02d:%02d left",
             (long long)row->step, (long long)t->total_steps, row->loss, z0, row->rewards_margins,
             row->tokens_per_second, seconds / 3600, seconds / 60 % 60, seconds % 60);
    if (!log_is_terminal()) {
        if (row->step % t->run.config.train.logging_steps == 0) log_info("%s", text);
        return;
    }
    enum { BAR = 24 };
    char line[512], bar[3 * BAR + 1] = "";
    const int filled = (int)(BAR * row->step / t->total_steps);
    for (int i = 0; i < BAR; i++) strcat(bar, i < filled ? "█" : "·");
    snprintf(line, sizeof line, "%s %s", bar, text);
    log_progress(line);
}

// Appends to metrics.h5 and keeps account of the time; collective.
static Status append_row(Training *t, MetricsGroup group, const MetricsRow *row) {
    const double start = clock_seconds();
    const Status status = speaks(t) ? metrics_append(t->metrics, group, row) : STATUS_OK;
    t->append_seconds += clock_seconds() - start;
    return comm_agree(t->run.comm, status);
}

static Status run_evaluation(Training *t) {
    Run *run = &t->run;
    if (run->eval.count == 0) return STATUS_OK;
    MetricsRow row = {.step = t->progress.step,
                      .epoch = (double)t->progress.step / run->train.batch_count,
                      .num_tokens = t->progress.num_tokens};
    TRY(evaluate(run, &row));
    row.time = clock_unix_seconds();
    t->last_eval = row;
    t->evaluated_step = row.step;
    if (!(row.loss >= t->progress.best_eval)) t->progress.best_eval = row.loss;
    log_info("eval at step %lld: loss %.4f  margin %+.3f  accuracy %.3f  (%.1f s)", (long long)row.step, row.loss,
             row.rewards_margins, row.rewards_accuracies, row.step_seconds);
    return append_row(t, METRICS_EVAL, &row);
}

static Status write_samples(Training *t) {
    Run *run = &t->run;
    char *lines = NULL;
    SampleOptions options = sample_defaults;
    options.seed = run->config.train.seed;
    TRY(sample_file(run, run->config.train.sample_prompts, &options, t->progress.step, &lines));
    Status status = STATUS_OK;
    if (lines != NULL) {
        FILE *file = fopen(t->path_samples, "a");
        bool written = file != NULL && fputs(lines, file) >= 0;
        if (file != NULL) written = fclose(file) == 0 && written;
        if (!written) status = error_set(STATUS_FAILED, "%s: cannot be written", t->path_samples);
        log_info("samples at step %lld:\n%s", (long long)t->progress.step, lines);
    }
    free(lines);
    t->sampled_step = t->progress.step;
    return comm_agree(run->comm, status);
}

// --- one step -------------------------------------------------------------------------------------------------------

static int32_t batch_of_step(Training *t, int64_t step) {
    const Dataset *dataset = &t->run.train;
    const int64_t epoch = (step - 1) / dataset->batch_count;
    if (epoch != t->epoch) {
        dataset_epoch_order(dataset, t->run.config.data.order == 0, (uint64_t)t->run.config.train.seed, epoch,
                            t->visit);
        t->epoch = epoch;
    }
    return t->visit[(step - 1) % dataset->batch_count];
}

// Clip and update; *row gets grad_norm and learning_rate. A step whose numbers are not finite is skipped and counted.
static Status update(Training *t, MetricsRow *row) {
    Run *run = &t->run;
    Model *model = &run->model;
    const Config *config = &run->config;
    const Backend *backend = model->options.backend;
    double squares;
    TRY(backend->sum_squares(model->device, model->gradient, (size_t)model->adapter_count, &squares));
    row->grad_norm = sqrt(squares);
    row->learning_rate = optim_learning_rate((Scheduler)config->train.lr_scheduler_type, config->train.learning_rate,
                                             row->step, config->train.warmup_steps, t->total_steps);
    if (!isfinite(row->loss) || !isfinite(row->grad_norm)) {
        row->skipped = 1;
        t->progress.skipped++;
        char rows[PATH_MAX + 400];
        step_name_rows(&run->step, &run->train, rows, sizeof rows);
        log_warning("step %lld: loss %g, gradient norm %g; the step is skipped (%lld of at most %lld); its rows are %s",
                    (long long)row->step, row->loss, row->grad_norm, (long long)t->progress.skipped,
                    (long long)config->train.max_skipped_steps, rows);
        return STATUS_OK;
    }
    const AdamW adamw = {.learning_rate = (float)row->learning_rate,
                         .beta1 = (float)config->train.adam_beta1,
                         .beta2 = (float)config->train.adam_beta2,
                         .epsilon = (float)config->train.adam_epsilon,
                         .weight_decay = (float)config->train.weight_decay,
                         .gradient_scale = (float)optim_clip_scale(row->grad_norm, config->train.max_grad_norm),
                         .step = row->step - t->progress.skipped};
    TRY(backend->adamw(model->device, &adamw, model->adapter, model->adam_m, model->adam_v, model->gradient,
                       (size_t)model->adapter_count));
    return model_adapter_changed(model);
}

static Status train_step(Training *t) {
    Run *run = &t->run;
    MetricsRow row = {.step = t->progress.step + 1}, unused;
    StepTimes times = {0};
    const int32_t batch = batch_of_step(t, row.step);
    if (!reference_has(&run->train_reference, &run->train, batch)) {
        double start = clock_seconds();
        TRY(step_run(&run->step, &run->train, batch, STEP_REFERENCE, 0, &run->train_reference, &unused, &times));
        row.reference_seconds = clock_seconds() - start;
        times = (StepTimes){0};
    }
    TRY(step_run(&run->step, &run->train, batch, STEP_TRAIN, row.step, &run->train_reference, &row, &times));
    TRY(update(t, &row));
    t->progress.step = row.step;
    t->progress.num_tokens += row.num_tokens;
    row.num_tokens = t->progress.num_tokens;
    row.epoch = (double)row.step / run->train.batch_count;
    row.comm_seconds = times.comm_seconds;
    row.wait_seconds = times.wait_seconds;
    row.time = clock_unix_seconds();
    row.step_seconds = row.time - t->last_step_end;
    row.tokens_per_second = row.computed_tokens / row.step_seconds;
    t->last_step_end = row.time;
    t->trained_tokens += row.computed_tokens;
    if (speaks(t)) show_step(t, &row);
    TRY(append_row(t, METRICS_TRAIN, &row));
    if (t->progress.skipped <= run->config.train.max_skipped_steps) return STATUS_OK;
    return comm_agree(
        run->comm, error_set(STATUS_FAILED,
                             "%lld steps had numbers that are not finite, more than train.max_skipped_steps; look at "
                             "the rows named above and lower train.learning_rate",
                             (long long)t->progress.skipped));
}

// Whether it is time for a checkpoint, by steps or by rank 0's clock, and whether the run was asked to stop.
static Status agree(Training *t, bool *save, bool *stop) {
    const int64_t every = t->run.config.train.save_steps;
    const bool by_clock = every == 0 && speaks(t) && clock_seconds() - t->last_save > SAVE_SECONDS;
    unsigned said;
    TRY(stop_agree(t->run.comm, by_clock ? SAY_SAVE : 0, &said));
    *save = (said & SAY_SAVE) != 0 || (every > 0 && t->progress.step % every == 0);
    *stop = (said & SAY_STOP) != 0;
    return STATUS_OK;
}

// Evaluation, samples and a checkpoint, as they are due after the step that was done last. STATUS_STOPPED when the run
// was asked to stop; a checkpoint is written then.
static Status finish_step(Training *t) {
    const Config *config = &t->run.config;
    const int64_t step = t->progress.step;
    const bool last = step == t->total_steps;
    if (t->evaluated_step != step && (last || (config->train.eval_steps > 0 && step % config->train.eval_steps == 0))) {
        Status status = run_evaluation(t);
        if (status == STATUS_STOPPED) TRY(save_checkpoint(t, true));
        TRY(status);
    }
    if (t->sampled_step != step && config->train.sample_prompts[0] != '\0' && config->train.sample_steps > 0 &&
        step % config->train.sample_steps == 0) {
        Status status = write_samples(t);
        if (status == STATUS_STOPPED) TRY(save_checkpoint(t, true));
        TRY(status);
    }
    bool save, stop;
    TRY(agree(t, &save, &stop));
    if (save || t->save_again || stop || last) TRY(save_checkpoint(t, stop || last));
    return stop && !last ? STATUS_STOPPED : STATUS_OK;
}

static Status train_loop(Training *t) {
    t->started = t->last_step_end = clock_unix_seconds();
    t->last_save = clock_seconds();
    t->first_step = t->progress.step;
    if (t->progress.step > 0) TRY(finish_step(t)); // what a run that was stopped or killed had not come to
    while (t->progress.step < t->total_steps) {
        TRY(train_step(t));
        TRY(finish_step(t));
    }
    return comm_agree(t->run.comm, save_adapter(t));
}

static void describe_end(const Training *t) {
    const double seconds = clock_unix_seconds() - t->started;
    log_info("%-8s %lld steps in %.1f s, %.0f tokens/s", "done", (long long)(t->progress.step - t->first_step), seconds,
             t->trained_tokens / seconds);
    if (t->last_eval.step > 0)
        log_info("%-8s loss %.4f, reward margin %+.3f", "eval", t->last_eval.loss, t->last_eval.rewards_margins);
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
    TRY(comm_agree(run->comm, speaks(t) ? open_folder(t) : STATUS_OK));
    TRY(run_open(run, RUN_ROWS | RUN_MODEL | RUN_STEP));
    t->total_steps = run_total_steps(run);
    t->epoch = -1;
    TRY(MEMORY_ALLOC(t->visit, run->train.batch_count, "the order of the batches"));
    TRY(restore(t));
    if (speaks(t)) run_describe(run);
    if (t->progress.step >= t->total_steps && file_exists(t->path_adapter)) {
        log_info("%s: this run of %lld steps is finished; its adapter is in %s", output, (long long)t->progress.step,
                 t->path_adapter);
        return STATUS_OK;
    }
    const char *cache = run->config.data.reference_cache[0] != '\0' ? run->config.data.reference_cache : output;
    TRY(comm_agree(run->comm, speaks(t) ? folder_make(cache) : STATUS_OK));
    TRY(reference_open(&run->train_reference, &run->train, &run->step, cache));
    if (run->eval.count > 0) TRY(reference_open(&run->eval_reference, &run->eval, &run->step, cache));
    TRY(comm_agree(run->comm, speaks(t) ? open_metrics(t) : STATUS_OK));
    TRY(comm_agree(run->comm, speaks(t) ? open_samples(t) : STATUS_OK));
    TRY(comm_broadcast(run->comm, &t->evaluated_step, sizeof t->evaluated_step, 0));
    TRY(comm_broadcast(run->comm, &t->sampled_step, sizeof t->sampled_step, 0));
    Status status = train_loop(t);
    if (status == STATUS_STOPPED)
        log_info("%-8s on request after step %lld of %lld; the same command goes on from there", "stopped",
                 (long long)t->progress.step, (long long)t->total_steps);
    TRY(status);
    if (speaks(t)) describe_end(t);
    return STATUS_OK;
}

static Status run_command(Comm *comm, int argc, char **argv) {
    Training t = {.run.comm = comm, .lock = -1};
    TRY(comm_agree(comm, command_parse(&command_train, &argc, argv, NULL)));
    TRY(comm_agree(comm, config_load(&t.run.config, argv[0], argc - 1, argv + 1)));
    comm->timeout_seconds = t.run.config.device.timeout_seconds;
    Status status = train(&t);
    Status closed = metrics_close(t.metrics);
    if (status == STATUS_OK) status = closed;
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
