// The layers, forward. A row is a token of a run (src/model/state.h).
#pragma once
#include "src/model/state.h"

// All layers: ONE_TOKEN to the final norm (ONE_NORM) of rows [from, n), divided as the logits are to be.
Status layers_forward(Model *model, const LayerRun *run);
// train.recompute = "layer": the layer's activations again, from its kept input.
Status layer_forward_again(Model *model, const LayerRun *run, int layer);
// sum = x + delta (NULL: x is the sum); the norm of it by w, where there is one. Returns in *out what the sublayer
// takes: ONE_NORM, or sum.
Status layer_add_and_norm(Model *model, const void *x, const void *delta, const void *w, void *sum, float *rstd,
                          int32_t n, void **out);
