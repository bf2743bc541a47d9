// README.md of an exported folder: the model card of the Hugging Face Hub. What the folder is, how it is loaded, what
// it was trained on, with what settings and what came of it.
#pragma once
#include "io/config.h"

typedef struct ModelCard {
    bool merged;            // a whole model; otherwise an adapter
    const char *folder;     // the exported folder; the examples load it by its last name
    const char *run_dir;    // for its name and metrics.h5
    const char *base;       // name or folder of the base model
    bool base_on_hub;       // `base` is OWNER/NAME there
    const char *base_dir;   // its folder, for the license of its own card
    const char *dtype;      // of the weights
    const Config *config;   // the run's
    int64_t step;           // of the adapter; -1: not known
    uint64_t adapter_hash;  // as `kto train` prints it
    bool base_has_template; // the base's tokenizer carries a chat template
} ModelCard;

// Rows and metrics that cannot be read are left out, with a warning. STATUS_FAILED naming the file.
Status model_card_write(const char *path, const ModelCard *card);
// Whether it has the form OWNER/NAME.
bool model_card_hub_name(const char *name);
