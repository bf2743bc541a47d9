// What an open model is inside, and a run of rows through it; for src/model only.
#pragma once
#include "io/safetensors.h"
#include "src/model/arena.h"
#include "src/model/model.h"

#include <assert.h>

// Short for the linear layers, which all of this folder names in every line.
enum { Q = ARCH_Q, K = ARCH_K, V = ARCH_V, O = ARCH_O, GATE = ARCH_GATE, UP = ARCH_UP, DOWN = ARCH_DOWN };

// Norms that the family does not have are NULL.
typedef struct Layer {
    const void *norm[ARCH_ROLES]; // by role
    Linear linear[ARCH_MODULES];
} Layer;

// LoRA modules that share an input, with the target each is of.
typedef struct Group {
    LoraGroup lora;
    int target[LORA_GROUP_MAX];
} Group;

// The architecture's groups, and the parts of the first that the last layer computes apart.
enum {
    GROUP_QKV = ARCH_GROUP_QKV,
    GROUP_O = ARCH_GROUP_O,
    GROUP_GATE_UP = ARCH_GROUP_GATE_UP,
    GROUP_DOWN = ARCH_GROUP_DOWN,
    GROUP_Q = ARCH_GROUPS,
    GROUP_KV,
    GROUPS
};
static_assert(LORA_GROUP_MAX >= V - Q + 1, "q, k and v are one group");

struct ModelState {
    TensorFiles *files;
    const void *embedding, *head, *final_norm;
    Layer *layers;           // [layers]
    Group (*groups)[GROUPS]; // [layers]
    float *cos, *sin;        // device, fp32[max_positions, head_dim/2]
    void *work;              // device, T: the adapter vector as the ops read it (the vector itself in float32)
    void *activations;       // device, the arena that `buffers` cuts
    Buffers buffers;
    int64_t keep_capacity, all_capacity;
    // decoding
    char *cache_k, *cache_v; // device, T[layers, cache_rows, kv_dim]
    int32_t cache_rows;
    float *logits;       // device, fp32[max_rows, vocab]
    QueryRange *queries; // host, scratch of forward
    int64_t query_capacity;
};

// What the rows of one run through the layers are. Rows [from, n) are what the last layer answers for: its queries,
// output and MLP, the final norm and the head.
typedef struct LayerRun {
    int32_t n, from;
    int64_t slot_rows; // rows from one layer's slot to the next; 0: every layer uses the first
    bool adapters;
    Dropout dropout;
    Attention attention, last_attention; // of all layers but the last, and of the last
    const int32_t *place;                // decoding: cache row of each row's key and value; else NULL
} LayerRun;

static inline void *at(void *base, int64_t row, size_t row_bytes) {
    return (char *)base + (size_t)row * row_bytes;
}

static inline void *kept(const Model *model, const LayerRun *run, int kind, int layer) {
    const Slab *slab = &model->state->buffers.kept[kind];
    bool per_layer = kind == KEPT_X || !model->options.recompute;
    return slab->base + (per_layer ? (size_t)(layer * run->slot_rows) * slab->row_bytes : 0);
}

static inline void *one(const Model *model, int kind) {
    return model->state->buffers.one[kind].base;
}

// Gate and up are one product, which target GATE names.
static inline int32_t linear_count(int target) {
    return target == GATE ? UP - GATE + 1 : 1;
}

// Where up's outputs begin in rows that gate's begin.
static inline void *up_of(const Model *model, void *gate_up) {
    return at(gate_up, model->config.intermediate, dtype_size(model->options.device.dtype));
}
