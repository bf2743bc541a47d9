// A configuration for rows alone. How rows become tokens is src/data/dataset's.
#include "src/commands/data_model.h"

#include "io/files.h"
#include "src/model/arch.h"
#include "src/setup/run.h"

#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

// The defaults for a model folder: what a configuration must say besides the model is nothing that rows need.
static Status default_config(Config *out, const char *folder, int word_count, char *const *words) {
    static char train[] = "data.train=rows.jsonl", output[] = "train.output_dir=run";
    char path[PATH_MAX], *all[DATA_MODEL_WORDS + 3] = {path, train, output};
    if ((size_t)snprintf(path, sizeof path, "model.path=%s", folder) >= sizeof path)
        return error_set(STATUS_USAGE, "%s: the path is too long", folder);
    for (int i = 0; i < word_count; i++) all[3 + i] = words[i];
    return config_parse(out, arch_modules, "", folder, 3 + word_count, all);
}

static Status read_config(Config *out, bool *configured, const char *model, int word_count, char *const *words) {
    char path[PATH_MAX];
    struct stat info;
    const bool is_run = (size_t)snprintf(path, sizeof path, "%s/config.cfg", model) < sizeof path && file_exists(path);
    *configured = is_run || (stat(model, &info) == 0 && !S_ISDIR(info.st_mode));
    return *configured ? config_load(out, arch_modules, is_run ? path : model, word_count, words)
                       : default_config(out, model, word_count, words);
}

Status data_model_open(DataModel *out, const char *model, bool with_template, int word_count, char *const *words) {
    Config config;
    *out = (DataModel){0};
    TRY(read_config(&config, &out->configured, model, word_count, words));
    TRY(run_open_words(&config, time(NULL), &out->tokenizer, with_template ? &out->chat : NULL));
    out->rows = (DatasetOptions){.max_length = config.data.max_length,
                                 .max_prompt_length = config.data.max_prompt_length,
                                 .pairs = loss_takes_pairs((LossType)config.kto.loss_type),
                                 .loss = config_word(&config, "kto.loss_type"),
                                 .chat = out->chat,
                                 .vocab = tokenizer_vocab(out->tokenizer)};
    return STATUS_OK;
}

void data_model_close(DataModel *model) {
    chat_template_close(model->chat);
    tokenizer_close(model->tokenizer);
    *model = (DataModel){0};
}
