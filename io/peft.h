// PEFT adapter folders: adapter_config.json and adapter_model.safetensors.
#pragma once
#include "src/base/adapter.h"
#include "src/base/status.h"

#define PEFT_MODULES_MAX 1024

typedef struct PeftConfig {
    int32_t r;
    double alpha, dropout;
    char target_modules[PEFT_MODULES_MAX]; // a choice of names (src/base/names.h)
    const char *base_model;                // base_model_name_or_path
} PeftConfig;

// Writes the folder (made when missing) so that peft.PeftModel.from_pretrained loads it; files through temporary names.
// `tensors` cuts `adapter` (host, fp32).
Status peft_write(const char *dir, const PeftConfig *config, const AdapterTensor *tensors, int count,
                  const float *adapter);
// Reads r, alpha, dropout and target_modules, which are of `modules` (arch_modules of src/model/arch.h); base_model is
// left NULL. STATUS_DATA: what is unsupported (use_rslora, DoRA, bias, rank_pattern, other peft_type, ...), named.
Status peft_read_config(const char *dir, const char *const *modules, PeftConfig *out);
// Fills `adapter`, as `tensors` cuts it, by name and shape; any float dtype. STATUS_DATA naming what is missing, left
// over or of another shape.
Status peft_read_tensors(const char *dir, const AdapterTensor *tensors, int count, float *adapter);
