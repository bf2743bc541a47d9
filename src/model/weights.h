// The base model on the device: the tensors of its files, and the rotary table.
#pragma once
#include "src/model/model.h"

// Maps the weights of `model_dir` for model->state, and counts and hashes them; see model_open. Collective.
Status weights_load(Model *model, const char *model_dir, struct Comm *comm);
// cos and sin of model->options.max_positions positions.
Status weights_make_rope(Model *model);
