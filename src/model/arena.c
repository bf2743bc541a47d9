// Which rows of activations there are, how wide and how many.
#include "src/model/arena.h"

#include "src/base/memory.h"
#include "src/model/lora.h"
#include "src/model/state.h"

#define SLOT_ROWS_MULTIPLE 32 // keeps the slots of a slab aligned

int64_t arena_slot_rows(int64_t keep) {
    return (keep + SLOT_ROWS_MULTIPLE - 1) / SLOT_ROWS_MULTIPLE * SLOT_ROWS_MULTIPLE;
}

bool arena_has_ddelta(const ModelConfig *c) {
    return c->residual_multiplier != 1 || arch_tensor(c, ARCH_ATTENTION_OUT_NORM) != NULL;
}

// Of the group that has most.
static size_t most_modules(const ModelConfig *c, const ModelOptions *options) {
    int most = 0;
    for (int group = 0; group < ARCH_GROUPS; group++) {
        const int n = lora_group_size(c, options, group);
        most = n > most ? n : most;
    }
    return (size_t)most;
}

// Bytes of a row of each kind.
typedef struct RowBytes {
    size_t kept[KEPT_KINDS];
    struct {
        size_t bytes;
        bool of_keep; // as many rows as tokens are kept; else as all
    } one[ONE_KINDS];
} RowBytes;

static RowBytes row_bytes(const ModelConfig *c, const ModelOptions *options) {
    const size_t t = dtype_size(options->device.dtype), f = sizeof(float), i32 = sizeof(int32_t);
    const size_t q = (size_t)c->heads * (size_t)c->head_dim, kv = (size_t)c->kv_heads * (size_t)c->head_dim;
    const size_t hidden = (size_t)c->hidden, wide = (size_t)c->intermediate, r = (size_t)options->lora_r;
    const size_t q_norm = (size_t)arch_rows(c, ARCH_Q_NORM), k_norm = (size_t)arch_rows(c, ARCH_K_NORM);
    const size_t out_norm = arch_rows(c, ARCH_ATTENTION_OUT_NORM) > 0;
    return (RowBytes){.kept = {[KEPT_X] = hidden * t,
                               [KEPT_RSTD1] = f,
                               [KEPT_Q] = q * t,
                               [KEPT_K] = kv * t,
                               [KEPT_V] = kv * t,
                               [KEPT_ATT] = q * t,
                               [KEPT_LSE] = (size_t)c->heads * f,
                               [KEPT_X2] = hidden * t,
                               [KEPT_RSTD2] = f,
                               [KEPT_GATE_UP] = 2 * wide * t,
                               [KEPT_H_QKV] = (size_t)lora_group_size(c, options, GROUP_QKV) * r * t,
                               [KEPT_H_O] = (size_t)lora_group_size(c, options, GROUP_O) * r * t,
                               [KEPT_H_GATE_UP] = (size_t)lora_group_size(c, options, GROUP_GATE_UP) * r * t,
                               [KEPT_H_DOWN] = (size_t)lora_group_size(c, options, GROUP_DOWN) * r * t,
                               [KEPT_Q_IN] = q_norm > 0 ? q * t : 0,
                               [KEPT_RSTD_Q] = q_norm > 0 ? q / q_norm * f : 0,
                               [KEPT_K_IN] = k_norm > 0 ? kv * t : 0,
                               [KEPT_RSTD_K] = k_norm > 0 ? kv / k_norm * f : 0,
                               [KEPT_ATTENTION_OUT] = out_norm * hidden * t,
                               [KEPT_RSTD_ATTENTION_OUT] = out_norm * f,
                               [KEPT_MLP_OUT] = out_norm * hidden * t,
                               [KEPT_RSTD_MLP_OUT] = out_norm * f},
                      .one = {[ONE_XF] = {hidden * t, false},
                              [ONE_RSTDF] = {f, false},
                              [ONE_UNIT] = {hidden * t, true},
                              [ONE_H_Q] = {(size_t)lora_group_size(c, options, GROUP_Q) * r * t, false},
                              [ONE_NORM] = {hidden * t, false},
                              [ONE_ACT] = {wide * t, false},
                              [ONE_DELTA] = {hidden * t, false},
                              [ONE_LOGP] = {f, false},
                              [ONE_ENTROPY] = {f, false},
                              [ONE_MEAN] = {f, false},
                              [ONE_DRES] = {hidden * t, true},
                              [ONE_DACT] = {wide * t, true},
                              [ONE_DNORM] = {hidden * t, true},
                              [ONE_DATT] = {q * t, true},
                              [ONE_DQ] = {q * t, true},
                              [ONE_DK] = {kv * t, true},
                              [ONE_DV] = {kv * t, true},
                              [ONE_DQ_IN] = {q_norm > 0 ? q * t : 0, true},
                              [ONE_DK_IN] = {k_norm > 0 ? kv * t : 0, true},
                              [ONE_DDELTA] = {arena_has_ddelta(c) ? hidden * t : 0, true},
                              [ONE_DH] = {most_modules(c, options) * r * LORA_DH_BYTES, true},
                              [ONE_FACTOR] = {f, true},
                              [ONE_TOKEN] = {i32, false},
                              [ONE_POSITION] = {i32, false},
                              [ONE_OWNER] = {i32, false},
                              [ONE_TARGET] = {i32, false}}};
}

size_t arena_cut(const ModelConfig *c, const ModelOptions *options, int64_t keep, int64_t all, char *base,
                 Buffers *out) {
    const RowBytes row = row_bytes(c, options);
    size_t used = 0;
    for (int kind = 0; kind < KEPT_KINDS; kind++) {
        const bool per_layer = kind == KEPT_X || !options->recompute;
        const int64_t rows = (per_layer ? (int64_t)(c->layers - 1) * arena_slot_rows(keep) : 0) + all;
        if (out != NULL) out->kept[kind] = (Slab){base + used, row.kept[kind]};
        used += memory_aligned((size_t)rows * row.kept[kind]);
    }
    for (int kind = 0; kind < ONE_KINDS; kind++) {
        if (out != NULL) out->one[kind] = (Slab){base + used, row.one[kind].bytes};
        used += memory_aligned((size_t)(row.one[kind].of_keep ? keep : all) * row.one[kind].bytes);
    }
    return used;
}
