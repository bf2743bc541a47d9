#include "src/setup/run.h"

#include "io/files.h"
#include "src/base/memory.h"
#include "src/base/names.h"
#include "src/setup/device.h"
#include "src/setup/memory_plan.h"

#include <limits.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

// Weights up to here: a thread alone computes one sequence's token almost as fast as all threads together, and threads
// apart compute more of many (docs/speed.md has the figures).
#define APART_BYTES ((size_t)8 << 20)

Status run_begin(Run *run, int argc, char **argv) {
    TRY(comm_agree(run->comm, config_load(&run->config, arch_modules, argv[0], argc - 1, argv + 1)));
    return run_apply_config(run);
}

Status run_apply_config(Run *run) {
    char text[300];
    run->comm->timeout_seconds = run->config.device.timeout_seconds;
    for (int i = 0; config_assignment(&run->config, i, text, sizeof text); i++)
        TRY(device_same_on_all_ranks(run->comm, text, "give all machines the same configuration"));
    return STATUS_OK;
}

ModelOptions run_model_options(const Config *config) {
    ModelOptions options = {
        .device = {.dtype = config->model.dtype == MODEL_BFLOAT16 ? DTYPE_BF16 : DTYPE_F32,
                   .weights_advice = config->model.dtype == MODEL_FLOAT32
                                         ? "take a GPU with more memory, or set model.dtype = \"bfloat16\""
                                         : "take a GPU with more memory",
                   .memory_advice = "set a smaller train.micro_batch_tokens, or train.recompute = \"layer\""},
        .lora_r = (int32_t)config->lora.r,
        .lora_alpha = config->lora.alpha,
        .lora_dropout = config->lora.dropout,
        .recompute = config->train.recompute == RECOMPUTE_LAYER,
        .paged_moments = config->train.optim == OPTIM_PAGED_ADAMW_32BIT};
    names_read(arch_modules, config->lora.target_modules, options.lora_target);
    return options;
}

static Status open_model(Run *run, bool sums) {
    ModelConfig config;
    TRY(comm_agree(run->comm, model_config_read(&config, run->config.model.path)));
    const int64_t longest =
        run->train.counts.longest > run->eval.counts.longest ? run->train.counts.longest : run->eval.counts.longest;
    if (longest > config.max_position)
        return comm_agree(
            run->comm,
            error_set(STATUS_USAGE, "a row of %lld tokens is longer than the model's %s %d; set data.max_length = %d",
                      (long long)longest, model_config_limit(&config), config.max_position, config.max_position));
    ModelOptions options = run_model_options(&run->config);
    options.device.threads = device_threads(run->comm);
    options.device.index = run->comm->node_rank;
    options.max_positions = config.max_position;
    run->copies = 1;
    if (run->apart && model_weight_bytes(&config, options.device.dtype) <= APART_BYTES) {
        run->copies = options.device.threads > 0 ? options.device.threads : omp_get_max_threads();
        options.device.threads = 1;
    }
    DeviceShare share;
    TRY(device_choose(&run->config, run->comm, sums, &options, &share));
    run->device_ranks = share.ranks;
    run->device_sum = share.sum;
    run->has_model = true;
    DeviceInfo info;
    options.backend->info(options.opened, &info);
    if (device_is_gpu(&info)) run->copies = 1;
    TRY(comm_agree(run->comm, model_open(&run->model, run->config.model.path, &options, run->comm)));
    char text[64];
    snprintf(text, sizeof text, "base weights of hash %016llx", (unsigned long long)run->model.hash);
    return device_same_on_all_ranks(run->comm, text, "give all machines the same model.path");
}

static Status open_rows(Run *run, int32_t vocab) {
    const Config *config = &run->config;
    const LossType loss = (LossType)config->kto.loss_type;
    DatasetOptions options = {.max_length = config->data.max_length,
                              .max_prompt_length = config->data.max_prompt_length,
                              .shuffle = config->data.order == ORDER_SHUFFLE,
                              .skip_bad_rows = config->data.skip_bad_rows,
                              .need_kl = kto_loss(loss)->needs_z0,
                              .pairs = loss_takes_pairs(loss),
                              .loss = config_word(config, "kto.loss_type"),
                              .need_owners = config->lora.dropout > 0,
                              .seed = (uint64_t)config->train.seed,
                              .batch_size = (int32_t)config->train.global_batch_size,
                              .chat = run->chat,
                              .vocab = vocab};
    TRY(dataset_open(&run->train, config->data.train, run->tokenizer, &options, run->comm));
    if (config->data.eval[0] != '\0') {
        options.shuffle = options.need_owners = false;
        TRY(dataset_open(&run->eval, config->data.eval, run->tokenizer, &options, run->comm));
    }
    char text[80]; // every machine has made its rows of files of its own
    snprintf(text, sizeof text, "rows of hashes %016llx (data.train) and %016llx (data.eval)",
             (unsigned long long)run->train.hash, (unsigned long long)run->eval.hash);
    return device_same_on_all_ranks(run->comm, text, "give all machines the same rows, tokenizer and chat template");
}

static Status open_step(Run *run, int64_t saved_micro_batch_tokens) {
    Config *config = &run->config;
    const DatasetCounts *counts = &run->train.counts;
    KtoOptions kto = {.loss = (LossType)config->kto.loss_type,
                      .beta = config->kto.beta,
                      .desirable_weight = config->kto.desirable_weight,
                      .undesirable_weight = config->kto.undesirable_weight};
    if (isnan(kto.desirable_weight))
        kto.desirable_weight = kto_auto_weight(counts->desirable, counts->undesirable, kto.undesirable_weight);
    else if (isnan(kto.undesirable_weight))
        kto.undesirable_weight = kto_auto_weight(counts->undesirable, counts->desirable, kto.desirable_weight);
    run->step.comm = run->comm;
    run->step.model = &run->model;
    run->step.kto = kto;
    run->step.share_prefixes = config->data.share_prefixes;
    run->step.seed = (uint64_t)config->train.seed;
    run->has_step = true;
    if (run->device_sum != NULL) {
        const Model *model = &run->model;
        DeviceInfo info;
        model->options.backend->info(model->device, &info);
        DeviceComm *joined;
        TRY(device_comm_open(run->comm, run->device_sum, info.index, model->options.backend->stream(model->device),
                             &joined));
        run->step.device_comm = joined;
    }
    TRY(step_open(&run->step, (int32_t)config->train.global_batch_size));
    TRY(memory_plan_choose(run, saved_micro_batch_tokens));
    return memory_plan_reserve(run);
}

// Noon of a day that is written as one number.
static Status noon_of(int64_t day, time_t *out) {
    struct tm noon = {.tm_year = (int)(day / 10000) - 1900,
                      .tm_mon = (int)(day / 100 % 100) - 1,
                      .tm_mday = (int)(day % 100),
                      .tm_hour = 12,
                      .tm_isdst = -1};
    const struct tm asked = noon;
    *out = mktime(&noon);
    if (noon.tm_mday == asked.tm_mday && noon.tm_mon == asked.tm_mon && *out != (time_t)-1) return STATUS_OK;
    return error_set(STATUS_USAGE, "data.today is %lld, which is no day; write one as 20261231", (long long)day);
}

static int64_t day_of(time_t now) {
    struct tm day;
    if (localtime_r(&now, &day) == NULL) return 0;
    return (day.tm_year + 1900) * INT64_C(10000) + (day.tm_mon + 1) * 100 + day.tm_mday;
}

static Status first_day(const Run *run, int64_t *day) {
    char path[PATH_MAX];
    ChatTemplate *chat;
    TRY(chat_template_open(&chat, run->config.model.path, run->config.data.chat_template, "", "", 0));
    const bool tells_time = chat_template_tells_time(chat);
    chat_template_close(chat);
    if (!tells_time) return STATUS_OK;
    if ((size_t)snprintf(path, sizeof path, "%s/config.cfg", run->config.train.output_dir) < sizeof path &&
        file_exists(path)) {
        Config saved;
        TRY(config_load(&saved, arch_modules, path, 0, NULL));
        *day = saved.data.today;
    }
    if (*day == 0) *day = day_of(time(NULL));
    return STATUS_OK;
}

Status run_fix_today(Run *run) {
    int64_t day = run->config.data.today;
    TRY(comm_agree(run->comm, run->comm->rank == 0 && day == 0 ? first_day(run, &day) : STATUS_OK));
    TRY(comm_broadcast(run->comm, "the day of the start", &day, sizeof day, 0));
    run->config.data.today = day;
    return STATUS_OK;
}

Status run_open_words(const Config *config, time_t now, Tokenizer **tokenizer, ChatTemplate **chat) {
    if (config->data.today > 0) TRY(noon_of(config->data.today, &now));
    TRY(tokenizer_open(tokenizer, config->model.path));
    if (chat == NULL) return STATUS_OK;
    return chat_template_open(chat, config->model.path, config->data.chat_template, tokenizer_bos_text(*tokenizer),
                              tokenizer_eos_text(*tokenizer), now);
}

static Status open_words(Run *run, time_t now, int32_t *vocab) {
    const char *dir = run->config.model.path;
    ModelConfig config;
    TRY(model_config_read(&config, dir));
    TRY(run_open_words(&run->config, now, &run->tokenizer, &run->chat));
    end_tokens_add(&run->ends, tokenizer_eos(run->tokenizer));
    TRY(generation_config_ends(dir, &run->ends));
    *vocab = config.vocab;
    if (tokenizer_vocab(run->tokenizer) > config.vocab)
        return error_set(STATUS_DATA,
                         "%s: the tokenizer has %d tokens but the embedding only %d; tokenizer and model do not "
                         "belong together",
                         dir, tokenizer_vocab(run->tokenizer), config.vocab);
    return STATUS_OK;
}

Status run_open(Run *run, unsigned parts, int64_t saved_micro_batch_tokens) {
    int32_t vocab = 0;
    time_t now = time(NULL); // of one rank: chat templates may tell it
    TRY(comm_broadcast(run->comm, "the time of the start", &now, sizeof now, 0));
    TRY(comm_agree(run->comm, open_words(run, now, &vocab)));
    if (parts & RUN_ROWS) TRY(open_rows(run, vocab));
    if (parts & RUN_MODEL) TRY(open_model(run, parts & RUN_STEP));
    if (parts & RUN_STEP) TRY(comm_agree(run->comm, open_step(run, saved_micro_batch_tokens)));
    return STATUS_OK;
}

Status run_open_references(Run *run, const char *folder) {
    const BatchOptions plan = step_batch_options(&run->step);
    TRY(reference_open(&run->train_reference, &run->train, &run->model, &plan, run->comm, folder));
    if (run->eval.count == 0) return STATUS_OK;
    return reference_open(&run->eval_reference, &run->eval, &run->model, &plan, run->comm, folder);
}

void run_close(Run *run) {
    reference_close(&run->train_reference);
    reference_close(&run->eval_reference);
    if (run->has_step) step_close(&run->step);
    if (run->has_model) model_close(&run->model);
    dataset_close(&run->train);
    dataset_close(&run->eval);
    chat_template_close(run->chat);
    tokenizer_close(run->tokenizer);
}

int64_t run_total_steps(const Run *run) {
    if (run->config.train.max_steps > 0) return run->config.train.max_steps;
    return (int64_t)ceil(run->config.train.num_train_epochs * run->train.batch_count);
}
