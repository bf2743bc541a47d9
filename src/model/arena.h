// The arena of activations: one allocation that is cut into slabs, a kind of rows each.
//
// Activations that backward needs are kept per layer in one slab a kind: layer l's rows start at l * slot_rows, and the
// y' rows, which backward never reads, lie behind the kept ones where the next layer's slot begins: they are dead by
// the time that layer writes it. So only prefixes and y cost memory per layer.
#pragma once
#include "src/model/model.h"

// Kinds of activations kept per layer.
enum {
    KEPT_X,
    KEPT_RSTD1,
    KEPT_Q,
    KEPT_K,
    KEPT_V,
    KEPT_ATT,
    KEPT_LSE,
    KEPT_X2,
    KEPT_RSTD2,
    KEPT_GATE_UP, // a row is gate, then up
    KEPT_H_QKV,
    KEPT_H_O,
    KEPT_H_GATE_UP,
    KEPT_H_DOWN,
    KEPT_Q_IN, // what the norms of queries and keys take, and of what the sublayers add; where there are such norms
    KEPT_RSTD_Q,
    KEPT_K_IN,
    KEPT_RSTD_K,
    KEPT_ATTENTION_OUT,
    KEPT_RSTD_ATTENTION_OUT,
    KEPT_MLP_OUT,
    KEPT_RSTD_MLP_OUT,
    KEPT_KINDS
};
// Buffers that exist once.
enum {
    ONE_XF,
    ONE_RSTDF,
    ONE_UNIT,
    ONE_H_Q,
    ONE_NORM,
    ONE_ACT,
    ONE_DELTA,
    ONE_LOGP,
    ONE_ENTROPY,
    ONE_MEAN,
    ONE_DRES,
    ONE_DACT,
    ONE_DNORM,
    ONE_DATT,
    ONE_DQ,
    ONE_DK,
    ONE_DV,
    ONE_DQ_IN,
    ONE_DK_IN,
    ONE_DDELTA, // where it is not the residual's gradient
    ONE_DH,
    ONE_FACTOR,
    ONE_TOKEN,
    ONE_POSITION,
    ONE_OWNER,
    ONE_TARGET,
    ONE_KINDS
};

typedef struct Slab {
    char *base;
    size_t row_bytes;
} Slab;

typedef struct Buffers {
    Slab kept[KEPT_KINDS], one[ONE_KINDS];
} Buffers;

// Cuts the arena at `base` (NULL: only counts) for micro-batches up to this many tokens, as model_reserve has them, and
// returns its bytes.
size_t arena_cut(const ModelConfig *config, const ModelOptions *options, int64_t keep, int64_t all, char *base,
                 Buffers *out);
// From one layer's slot to the next, where `keep` rows are kept.
int64_t arena_slot_rows(int64_t keep);

// Whether what a sublayer adds has another gradient than the residual that it is added to.
bool arena_has_ddelta(const ModelConfig *config);
