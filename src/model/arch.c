// The tables of the families, and walks over them. CONTRIBUTING.md says how to add one.
#include "src/model/arch.h"

#include "src/base/memory.h"
#include "src/base/names.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define Q_PROJ    "q_proj"
#define K_PROJ    "k_proj"
#define V_PROJ    "v_proj"
#define O_PROJ    "o_proj"
#define GATE_PROJ "gate_proj"
#define UP_PROJ   "up_proj"
#define DOWN_PROJ "down_proj"

const char *const arch_modules[ARCH_MODULES + 1] = {Q_PROJ, K_PROJ, V_PROJ, O_PROJ, GATE_PROJ, UP_PROJ, DOWN_PROJ};
static_assert(ARCH_MODULES <= NAMES_MAX, "a choice of modules is one of names");

// clang-format off
//  name                          role                     layer  rows               cols               when              bias           group
#define OUTSIDE \
    {"model.embed_tokens",        ARCH_EMBEDDING,          false, ARCH_VOCAB,        ARCH_HIDDEN,       ARCH_ALWAYS,      ARCH_NEVER,    ARCH_NO_GROUP}, \
    {"model.norm",                ARCH_FINAL_NORM,         false, ARCH_HIDDEN,       ARCH_ONE,          ARCH_ALWAYS,      ARCH_NEVER,    ARCH_NO_GROUP}, \
    {"lm_head",                   ARCH_HEAD,               false, ARCH_VOCAB,        ARCH_HIDDEN,       ARCH_UNLESS_TIED, ARCH_NEVER,    ARCH_NO_GROUP}
#define NORMS_BEFORE \
    {"input_layernorm",           ARCH_ATTENTION_NORM,     true,  ARCH_HIDDEN,       ARCH_ONE,          ARCH_ALWAYS,      ARCH_NEVER,    ARCH_NO_GROUP}, \
    {"post_attention_layernorm",  ARCH_MLP_NORM,           true,  ARCH_HIDDEN,       ARCH_ONE,          ARCH_ALWAYS,      ARCH_NEVER,    ARCH_NO_GROUP}
#define NORMS_BEHIND \
    {"post_attention_layernorm",  ARCH_ATTENTION_OUT_NORM, true,  ARCH_HIDDEN,       ARCH_ONE,          ARCH_ALWAYS,      ARCH_NEVER,    ARCH_NO_GROUP}, \
    {"post_feedforward_layernorm", ARCH_MLP_OUT_NORM,      true,  ARCH_HIDDEN,       ARCH_ONE,          ARCH_ALWAYS,      ARCH_NEVER,    ARCH_NO_GROUP}
#define NORMS_OF_HEADS \
    {"self_attn.q_norm",          ARCH_Q_NORM,             true,  ARCH_HEAD_DIM,     ARCH_ONE,          ARCH_ALWAYS,      ARCH_NEVER,    ARCH_NO_GROUP}, \
    {"self_attn.k_norm",          ARCH_K_NORM,             true,  ARCH_HEAD_DIM,     ARCH_ONE,          ARCH_ALWAYS,      ARCH_NEVER,    ARCH_NO_GROUP}
#define NORMS_OF_QUERIES_AND_KEYS \
    {"self_attn.q_norm",          ARCH_Q_NORM,             true,  ARCH_QUERIES,      ARCH_ONE,          ARCH_ALWAYS,      ARCH_NEVER,    ARCH_NO_GROUP}, \
    {"self_attn.k_norm",          ARCH_K_NORM,             true,  ARCH_KEYS,         ARCH_ONE,          ARCH_ALWAYS,      ARCH_NEVER,    ARCH_NO_GROUP}
#define ATTENTION \
    {"self_attn." Q_PROJ,         ARCH_Q,                  true,  ARCH_QUERIES,      ARCH_HIDDEN,       ARCH_ALWAYS,      ARCH_QKV_BIAS, ARCH_GROUP_QKV}, \
    {"self_attn." K_PROJ,         ARCH_K,                  true,  ARCH_KEYS,         ARCH_HIDDEN,       ARCH_ALWAYS,      ARCH_QKV_BIAS, ARCH_GROUP_QKV}, \
    {"self_attn." V_PROJ,         ARCH_V,                  true,  ARCH_KEYS,         ARCH_HIDDEN,       ARCH_ALWAYS,      ARCH_QKV_BIAS, ARCH_GROUP_QKV}, \
    {"self_attn." O_PROJ,         ARCH_O,                  true,  ARCH_HIDDEN,       ARCH_QUERIES,      ARCH_ALWAYS,      ARCH_O_BIAS,   ARCH_GROUP_O}
#define MLP \
    {"mlp." GATE_PROJ,            ARCH_GATE,               true,  ARCH_INTERMEDIATE, ARCH_HIDDEN,       ARCH_ALWAYS,      ARCH_NEVER,    ARCH_GROUP_GATE_UP}, \
    {"mlp." UP_PROJ,              ARCH_UP,                 true,  ARCH_INTERMEDIATE, ARCH_HIDDEN,       ARCH_ALWAYS,      ARCH_NEVER,    ARCH_GROUP_GATE_UP}, \
    {"mlp." DOWN_PROJ,            ARCH_DOWN,               true,  ARCH_HIDDEN,       ARCH_INTERMEDIATE, ARCH_ALWAYS,      ARCH_NEVER,    ARCH_GROUP_DOWN}

static const ArchTensor llama[] = {OUTSIDE, NORMS_BEFORE, ATTENTION, MLP};
static const ArchTensor qwen3[] = {OUTSIDE, NORMS_BEFORE, ATTENTION, NORMS_OF_HEADS, MLP};
static const ArchTensor olmo2[] = {OUTSIDE, ATTENTION, NORMS_OF_QUERIES_AND_KEYS, NORMS_BEHIND, MLP};
// clang-format on

#define ROWS(table) table, sizeof table / sizeof *table
static const Arch families[] = {[MODEL_LLAMA] = {"Llama", ROWS(llama)},     [MODEL_MISTRAL] = {"Mistral", ROWS(llama)},
                                [MODEL_QWEN2] = {"Qwen 2", ROWS(llama)},    [MODEL_QWEN3] = {"Qwen 3", ROWS(qwen3)},
                                [MODEL_GRANITE] = {"Granite", ROWS(llama)}, [MODEL_SMOLLM3] = {"SmolLM 3", ROWS(llama)},
                                [MODEL_OLMO2] = {"OLMo 2", ROWS(olmo2)}};
static_assert(sizeof families / sizeof *families == MODEL_FAMILIES, "every family that config.json may name has a row");

const Arch *arch_of(const ModelConfig *config) {
    return &families[config->family];
}

int64_t arch_size(const ModelConfig *c, ArchSize size) {
    const int64_t sizes[] = {[ARCH_ONE] = 1,
                             [ARCH_HIDDEN] = c->hidden,
                             [ARCH_INTERMEDIATE] = c->intermediate,
                             [ARCH_QUERIES] = (int64_t)c->heads * c->head_dim,
                             [ARCH_KEYS] = (int64_t)c->kv_heads * c->head_dim,
                             [ARCH_HEAD_DIM] = c->head_dim,
                             [ARCH_VOCAB] = c->vocab};
    return sizes[size];
}

const ArchTensor *arch_tensor(const ModelConfig *config, ArchRole role) {
    const Arch *arch = arch_of(config);
    for (int i = 0; i < arch->count; i++)
        if (arch->tensors[i].role == role) return &arch->tensors[i];
    return NULL;
}

int64_t arch_rows(const ModelConfig *config, ArchRole role) {
    const ArchTensor *row = arch_tensor(config, role);
    return row == NULL ? 0 : arch_size(config, row->rows);
}

// --- the tensors of the files ---------------------------------------------------------------------------------------

static bool is_there(const ModelConfig *c, ArchWhen when) {
    switch (when) {
    case ARCH_ALWAYS:
        return true;
    case ARCH_NEVER:
        return false;
    case ARCH_UNLESS_TIED:
        return !c->tied_head;
    case ARCH_QKV_BIAS:
        return c->qkv_bias;
    case ARCH_O_BIAS:
        return c->o_bias;
    }
    return false;
}

static void write_name(const ArchTensor *row, int32_t layer, const char *end, char *out, size_t size) {
    if (row->per_layer)
        snprintf(out, size, "model.layers.%d.%s.%s", layer, row->name, end);
    else
        snprintf(out, size, "%s.%s", row->name, end);
}

void arch_name(const ModelConfig *config, ArchRole role, int32_t layer, const char *end, char *out, size_t size) {
    write_name(arch_tensor(config, role), layer, end, out, size);
}

// To the next row that the model has; false: there is none.
static bool next_row(const ModelConfig *c, ArchWeight *weight) {
    const Arch *arch = arch_of(c);
    if (weight->row == NULL) weight->layer = -1;
    do {
        weight->row = weight->row == NULL ? arch->tensors : weight->row + 1;
        if (weight->row == arch->tensors + arch->count) {
            weight->row = arch->tensors;
            if (++weight->layer == c->layers) return false;
        }
    } while (weight->row->per_layer != (weight->layer >= 0) || !is_there(c, weight->row->when));
    return true;
}

bool arch_next(const ModelConfig *c, ArchWeight *weight) {
    weight->bias = weight->row != NULL && !weight->bias && is_there(c, weight->row->bias);
    if (!weight->bias && !next_row(c, weight)) return false;
    weight->rows = arch_size(c, weight->row->rows);
    weight->cols = weight->bias ? 1 : arch_size(c, weight->row->cols);
    weight->dims = weight->bias || weight->row->cols == ARCH_ONE ? 1 : 2;
    write_name(weight->row, weight->layer, weight->bias ? "bias" : "weight", weight->name, sizeof weight->name);
    return true;
}

int64_t arch_elements(const ModelConfig *config) {
    int64_t count = 0;
    for (ArchWeight weight = {0}; arch_next(config, &weight);) count += weight.rows * weight.cols;
    return count;
}

// --- adapters -------------------------------------------------------------------------------------------------------

static int32_t add_tensor(const ModelConfig *c, AdapterTable *table, const AdapterModule *module, bool is_a,
                          int32_t r) {
    const ArchTensor *row = arch_tensor(c, module->role);
    AdapterTensor *tensor = &table->tensors[table->tensor_count];
    write_name(row, module->layer, is_a ? "lora_A.weight" : "lora_B.weight", tensor->name, sizeof tensor->name);
    tensor->offset = table->count;
    tensor->rows = is_a ? r : (int32_t)arch_size(c, row->rows);
    tensor->cols = is_a ? (int32_t)arch_size(c, row->cols) : r;
    table->count += (int64_t)tensor->rows * tensor->cols;
    return table->tensor_count++;
}

Status adapter_table_make(const ModelConfig *c, int32_t r, const bool targets[ARCH_MODULES], AdapterTable *out) {
    const Arch *arch = arch_of(c);
    *out = (AdapterTable){0};
    TRY(MEMORY_ALLOC(out->modules, ARCH_MODULES * c->layers, "adapter table"));
    TRY(MEMORY_ALLOC(out->tensors, 2 * ARCH_MODULES * c->layers, "adapter table"));
    for (int32_t l = 0; l < c->layers && r > 0; l++)
        for (int group = 0; group < ARCH_GROUPS; group++) {
            AdapterModule *first = &out->modules[out->module_count], *end = first;
            for (int i = 0; i < arch->count; i++)
                if ((int)arch->tensors[i].group == group && targets[arch->tensors[i].role])
                    *end++ = (AdapterModule){.layer = l, .role = arch->tensors[i].role};
            for (AdapterModule *m = first; m < end; m++) m->a = add_tensor(c, out, m, true, r);
            for (AdapterModule *m = first; m < end; m++) m->b = add_tensor(c, out, m, false, r);
            out->module_count += (int32_t)(end - first);
        }
    return STATUS_OK;
}

void adapter_table_free(AdapterTable *table) {
    free(table->tensors);
    free(table->modules);
    *table = (AdapterTable){0};
}
