// Each step is a few calls into step.c, the op table and io/; here is only what happens when.
#include "src/train/loop.h"

#include "comm/stop.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/text.h"
#include "src/decode/answers.h"
#include "src/train/evaluate.h"
#include "src/train/optim.h"
#include "src/train/saving.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAVE_SECONDS 600 // train.save_steps = 0: a checkpoint every 10 minutes

static void show_step(const Training *t, const MetricsRow *row) {
    const int64_t left = t->total_steps - row->step;
    const double per_step = (row->time - t->started) / (double)(row->step - t->first_step);
    const int seconds = (int)(per_step * (double)left);
    char text[256], z0[64] = "", kl[32], loss[32], margin[32];
    if (kto_loss(t->run.step.kto.loss)->needs_z0)
        snprintf(z0, sizeof z0, "z0 %s  ", figure_text(row->kl, 3, false, kl));
    snprintf(text, sizeof text, "step %lld/%lld  loss %s  %smargin %s  %.0f tokens/s  %d:%02d:%02d left",
             (long long)row->step, (long long)t->total_steps, figure_text(row->loss, 4, false, loss), z0,
             figure_text(row->rewards_margins, 3, true, margin), row->tokens_per_second, seconds / 3600,
             seconds / 60 % 60, seconds % 60);
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
    const Status status = training_speaks(t) ? metrics_append(t->metrics, group, row) : STATUS_OK;
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
    char loss[32], margin[32], accuracy[32];
    log_info("eval at step %lld: loss %s  margin %s  accuracy %s  (%.1f s)", (long long)row.step,
             figure_text(row.loss, 4, false, loss), figure_text(row.rewards_margins, 3, true, margin),
             figure_text(row.rewards_accuracies, 3, false, accuracy), row.step_seconds);
    return append_row(t, METRICS_EVAL, &row);
}

static Status write_samples(Training *t) {
    Run *run = &t->run;
    char *lines = NULL;
    SampleOptions options = sample_defaults;
    options.seed = run->config.train.seed;
    const Answering who = run_answering(run);
    TRY(answer_file(&who, run->config.train.sample_prompts, &options, t->progress.step, &lines));
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
        dataset_epoch_order(dataset, t->run.config.data.order == ORDER_SHUFFLE, (uint64_t)t->run.config.train.seed,
                            epoch, t->visit);
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
    TRY(backend->sum_squares(model->device, model->gradient, (size_t)model->table.count, &squares));
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
                       (size_t)model->table.count));
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
    if (training_speaks(t)) show_step(t, &row);
    TRY(append_row(t, METRICS_TRAIN, &row));
    if (t->progress.skipped <= run->config.train.max_skipped_steps) return STATUS_OK;
    return comm_agree(
        run->comm, error_set(STATUS_FAILED,
                             "%lld steps had numbers that are not finite, more than train.max_skipped_steps; look at "
                             "the rows named above and lower train.learning_rate",
                             (long long)t->progress.skipped));
}

// What a GPU would else do in the first steps, and in those that have a batch of a new size.
static Status warm_up(Training *t) {
    Run *run = &t->run;
    if (run->model.options.backend->warm == NULL) return STATUS_OK;
    const double start = clock_seconds();
    TRY(comm_agree(run->comm, step_warm(&run->step, &run->train, run->largest_batch, run->tokens_max)));
    log_info("%-8s for batches of up to %lld tokens, %.1f s", "warm-up", (long long)run->tokens_max,
             clock_seconds() - start);
    return STATUS_OK;
}

// Whether it is time for a checkpoint, by steps or by rank 0's clock, and whether the run was asked to stop.
static Status agree(Training *t, bool *save, bool *stop) {
    const int64_t every = t->run.config.train.save_steps;
    const bool by_clock = every == 0 && training_speaks(t) && clock_seconds() - t->last_save > SAVE_SECONDS;
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
        if (status == STATUS_STOPPED) TRY(saving_checkpoint(t, true));
        TRY(status);
    }
    if (t->sampled_step != step && config->train.sample_prompts[0] != '\0' && config->train.sample_steps > 0 &&
        step % config->train.sample_steps == 0) {
        Status status = write_samples(t);
        if (status == STATUS_STOPPED) TRY(saving_checkpoint(t, true));
        TRY(status);
    }
    bool save, stop;
    TRY(agree(t, &save, &stop));
    if (save || t->save_again || stop || last) TRY(saving_checkpoint(t, stop || last));
    return stop && !last ? STATUS_STOPPED : STATUS_OK;
}

Status loop_run(Training *t) {
    TRY(warm_up(t));
    t->started = t->last_step_end = clock_unix_seconds();
    t->last_save = clock_seconds();
    t->first_step = t->progress.step;
    if (t->progress.step > 0) TRY(finish_step(t)); // what a run that was stopped or killed had not come to
    while (t->progress.step < t->total_steps) {
        TRY(train_step(t));
        TRY(finish_step(t));
    }
    return saving_adapter(t);
}
