// PEFT adapter folders: adapter_config.json and adapter_model.safetensors.
#pragma once
#include "io/config.h"
#include "src/base/status.h"
#include <stdint.h>

typedef struct PeftTensor {
    char name[160]; // PEFT's, e.g. base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight
    int32_t rows, cols;
    float *data; // fp32 [rows, cols]
} PeftTensor;

typedef struct PeftConfig {
    int32_t r;
    double alpha, dropout;
    bool target[CONFIG_TARGETS_MAX];
    const char *base_model; // base_model_name_or_path
} PeftConfig;

// Writes the folder (made when missing) so that peft.PeftModel.from_pretrained loads it; files through temporary names.
Status peft_write(const char *dir, const PeftConfig *config, const PeftTensor *tensors, int count);
// Reads r, alpha, dropout and targets (base_model is left NULL). STATUS_DATA: what is unsupported (use_rslora, DoRA,
// bias, rank_pattern, other peft_type, ...), named.
Status peft_read_config(const char *dir, PeftConfig *out);
// Fills tensors[i].data (allocated by the caller) for all i by name and shape; any float dtype. STATUS_DATA naming what
// is missing, left over or of another shape.
Status peft_read_tensors(const char *dir, PeftTensor *tensors, int count);
