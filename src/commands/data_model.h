// What tells a `kto data` command how training would make tokens of rows: tokenizer, chat template, lengths, pairs. It
// comes from the files of a model folder, of which the tokenizer's alone are needed, or from a configuration.
#pragma once
#include "src/data/dataset.h"

typedef struct DataModel {
    bool configured; // by a configuration or a run, and not by the defaults
    Tokenizer *tokenizer;
    ChatTemplate *chat;  // NULL: none
    DatasetOptions rows; // as training has them; the vocabulary is the tokenizer's
} DataModel;

// `model` is a model folder, a configuration, or a run directory, whose own configuration is then taken;
// words[word_count], at most DATA_MODEL_WORDS key=value words of the configuration, come on top. Without with_template
// none is opened. Close also after an error.
#define DATA_MODEL_WORDS 4
Status data_model_open(DataModel *out, const char *model, bool with_template, int word_count, char *const *words);
void data_model_close(DataModel *model);
