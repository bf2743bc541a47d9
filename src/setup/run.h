// What every command opens before it works: configuration, ranks, tokenizer, rows, model, steps.
#pragma once
#include "src/train/run.h"
#include <time.h>

// A command's CONFIG [key=value ...], and what of it holds for the whole process (run_apply_config). `run` is zeroed
// but for comm. Collective.
Status run_begin(Run *run, int argc, char **argv);
// device.timeout_seconds becomes the limit of every wait. Collective; STATUS_USAGE when the ranks' configurations
// differ in more than the places of files.
Status run_apply_config(Run *run);

typedef enum RunParts { RUN_ROWS = 1, RUN_MODEL = 2, RUN_STEP = 4 } RunParts; // bits; RUN_STEP needs both others

// Opens the parts asked for. Collective over all ranks; a failure is agreed on. `run` is zeroed but for config and
// comm. saved_micro_batch_tokens: of the checkpoint that training goes on from; 0: none.
Status run_open(Run *run, unsigned parts, int64_t saved_micro_batch_tokens);
// The reference log-probs of both data sets, from the caches in `folder`. Collective.
Status run_open_references(Run *run, const char *folder);
void run_close(Run *run);
// Sets data.today, where it is not set and the chat template tells the day, to the day on which the run in
// train.output_dir began: a run that goes on another day keeps its rows. Collective; before run_open.
Status run_fix_today(Run *run);

// Tokenizer and, unless chat is NULL, chat template as the configuration names them. `now` is what the template tells
// where data.today is not set. Not collective. Close both, also after an error.
Status run_open_words(const Config *config, time_t now, Tokenizer **tokenizer, ChatTemplate **chat);

// The model's options as the configuration says them; no device yet.
ModelOptions run_model_options(const Config *config);
// Steps of the whole run: train.max_steps, or train.num_train_epochs (rounded up).
int64_t run_total_steps(const Run *run);
