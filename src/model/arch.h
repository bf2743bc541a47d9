// The architectures as tables: for each family one row a tensor, which says its name in the files, what it is to the
// model, its shape, whether it has a bias and which LoRA group it is of. Loading, byte counts, adapters, PEFT's names,
// merging and the roofline read these rows; nothing else knows a tensor's name. What is computed with the tensors is
// src/model/layer.h's; which of them a model has by its config.json, io/model_config.h's.
#pragma once
#include "io/model_config.h"
#include "src/base/adapter.h"
#include <stddef.h>

// What a tensor is to the model. Linear layers come first; their numbers decide bits (dropout draws by them), so they
// stay.
typedef enum ArchRole {
    ARCH_Q,
    ARCH_K,
    ARCH_V,
    ARCH_O,
    ARCH_GATE,
    ARCH_UP,
    ARCH_DOWN,
    ARCH_MODULES, // linear layers of a block: what adapters may be put on
    ARCH_EMBEDDING = ARCH_MODULES,
    ARCH_FINAL_NORM,
    ARCH_HEAD,
    ARCH_ATTENTION_NORM, // of the attention's input
    ARCH_MLP_NORM,       // of the MLP's input
    ARCH_Q_NORM,         // of queries before they are rotated: of each head, or of all features, by its shape
    ARCH_K_NORM,
    ARCH_ATTENTION_OUT_NORM, // of what attention adds
    ARCH_MLP_OUT_NORM,
    ARCH_ROLES
} ArchRole;

typedef enum ArchSize {
    ARCH_ONE,
    ARCH_HIDDEN,
    ARCH_INTERMEDIATE,
    ARCH_QUERIES,
    ARCH_KEYS,
    ARCH_HEAD_DIM,
    ARCH_VOCAB
} ArchSize;

// When a tensor is in the files.
typedef enum ArchWhen { ARCH_ALWAYS, ARCH_NEVER, ARCH_UNLESS_TIED, ARCH_QKV_BIAS, ARCH_O_BIAS } ArchWhen;

// Modules that share their input, in the order in which the flat adapter vector has them.
typedef enum ArchGroup {
    ARCH_GROUP_QKV,
    ARCH_GROUP_O,
    ARCH_GROUP_GATE_UP,
    ARCH_GROUP_DOWN,
    ARCH_GROUPS,
    ARCH_NO_GROUP = ARCH_GROUPS
} ArchGroup;

typedef struct ArchTensor {
    const char *name; // without ".weight"; of a layer's tensor behind "model.layers.N."
    ArchRole role;
    bool per_layer;
    ArchSize rows, cols; // cols ARCH_ONE: a vector
    ArchWhen when, bias; // the tensor; the vector [rows] beside it, ".bias"
    ArchGroup group;
} ArchTensor;

typedef struct Arch {
    const char *title; // as people write it
    const ArchTensor *tensors;
    int count;
} Arch;

const Arch *arch_of(const ModelConfig *config);
int64_t arch_size(const ModelConfig *config, ArchSize size);
// The row of a role; NULL: the family has none.
const ArchTensor *arch_tensor(const ModelConfig *config, ArchRole role);
// Its rows: features of one norm, outputs of a linear layer; 0: the family has none.
int64_t arch_rows(const ModelConfig *config, ArchRole role);

// One tensor of a model's files.
#define ARCH_NAME_MAX 96
typedef struct ArchWeight {
    const ArchTensor *row;
    int32_t layer; // -1: of none
    bool bias;
    char name[ARCH_NAME_MAX]; // model.layers.0.self_attn.q_proj.weight
    int64_t rows, cols;
    int dims; // 1: a vector, [rows]
} ArchWeight;
// Makes `weight` the next tensor of the model, the first of a zeroed one; false: there are no more.
bool arch_next(const ModelConfig *config, ArchWeight *weight);
// The name of a tensor, or of its bias; `layer` is not read for one outside the layers.
void arch_name(const ModelConfig *config, ArchRole role, int32_t layer, const char *end, char *out, size_t size);
int64_t arch_elements(const ModelConfig *config); // of all tensors

// The modules' names, which lora.target_modules and PEFT's target_modules take; ends with NULL.
extern const char *const arch_modules[ARCH_MODULES + 1];

// One adapted module: B A is added to its weight.
typedef struct AdapterModule {
    int32_t layer;
    ArchRole role;
    int32_t a, b; // of `tensors`: A [r, in], B [out, r]
} AdapterModule;

// The table that cuts the flat adapter vector: layer by layer, group by group; in a group first all A, one after the
// other as the ops want them, then all B.
typedef struct AdapterTable {
    AdapterTensor *tensors; // [tensor_count]
    AdapterModule *modules; // [module_count]
    int32_t tensor_count, module_count;
    int64_t count; // elements of a vector
} AdapterTable;
// r 0: no adapters. To be freed after a failure too.
Status adapter_table_make(const ModelConfig *config, int32_t r, const bool targets[ARCH_MODULES], AdapterTable *out);
void adapter_table_free(AdapterTable *table);
