// The adapters' modules as the ops want them: in groups that share an input.
#pragma once
#include "src/model/state.h"

// Modules of a group that have adapters.
int lora_group_size(const ModelConfig *config, const ModelOptions *options, int group);
// Makes the table and the vectors, zeroed, and the groups that point into them.
Status lora_make(Model *model);
bool lora_has(const Model *model, int layer, int group);

// y[target] += LoRA of x, for the group's targets; rows [row, row + n) of the run. h is kept for backward.
Status lora_forward(Model *model, const LayerRun *run, int layer, int group, const void *x, void *h,
                    void *const y[ARCH_MODULES], int32_t row, int32_t n);
// dh from dy[target], and dx += LoRA's share unless dx is NULL.
Status lora_backward(Model *model, const LayerRun *run, int layer, int group, const void *const dy[ARCH_MODULES],
                     void *dh, void *dx, int32_t row, int32_t n);
// Adds to the gradients of A and B; x, h, dy and dh as they were given before.
Status lora_weight_backward(Model *model, const LayerRun *run, int layer, int group, const void *x, const void *h,
                            const void *const dy[ARCH_MODULES], const void *dh, int32_t row, int32_t n);
