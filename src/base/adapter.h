// How a flat adapter vector is cut into matrices: what the model, checkpoints and PEFT folders agree on.
#pragma once
#include <stdint.h>

#define ADAPTER_NAME_MAX 128

typedef struct AdapterTensor {
    char name[ADAPTER_NAME_MAX]; // as in the base model's files: model.layers.0.self_attn.q_proj.lora_A.weight
    int64_t offset;              // elements
    int32_t rows, cols;
} AdapterTensor;
