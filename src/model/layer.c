// A layer forward: which op runs on which rows of which buffer. No arithmetic and no device code here. What a family
// computes beyond Llama hangs on the tensors that it has (src/model/arch.h) and on config.json's multipliers: norms of
// queries and keys, norms of what a sublayer adds in place of those before it, layers without rotation.
#include "src/model/layer.h"

#include "src/model/lora.h"

static Status linear(Model *model, int layer, int target, const void *x, void *y, int32_t n) {
    return model->options.backend->linear(model->device, &model->state->layers[layer].linear[target],
                                          linear_count(target), x, y, n);
}

// The norm of queries or keys, of each head or of all features; x, y: T[n, width].
static Status norm_heads(Model *model, int layer, ArchRole role, const void *x, void *y, float *rstd, int32_t n,
                         int32_t width) {
    const int32_t dim = (int32_t)arch_rows(&model->config, role);
    return model->options.backend->rmsnorm(model->device, x, NULL, model->state->layers[layer].norm[role],
                                           model->config.rms_norm_eps, y, y, rstd, n * (width / dim), dim);
}

Status layer_add_and_norm(Model *model, const void *x, const void *delta, const void *w, void *sum, float *rstd,
                          int32_t n, void **out) {
    const Backend *backend = model->options.backend;
    const int32_t hidden = model->config.hidden;
    *out = w == NULL ? sum : one(model, ONE_NORM);
    if (w != NULL)
        return backend->rmsnorm(model->device, x, delta, w, model->config.rms_norm_eps, sum, *out, rstd, n, hidden);
    if (delta == NULL) return STATUS_OK; // x is the sum
    return backend->scale_add(model->device, delta, 1, x, sum, (size_t)n * (size_t)hidden);
}

// What a sublayer adds, from its last product (`out`) to ONE_DELTA.
static Status finish_delta(Model *model, const void *w, void *out, float *rstd, int32_t n) {
    const ModelConfig *c = &model->config;
    const Backend *backend = model->options.backend;
    void *delta = one(model, ONE_DELTA);
    if (w != NULL)
        TRY(backend->rmsnorm(model->device, out, NULL, w, c->rms_norm_eps, delta, delta, rstd, n, c->hidden));
    if (c->residual_multiplier == 1) return STATUS_OK;
    return backend->scale_add(model->device, delta, c->residual_multiplier, NULL, delta, (size_t)n * (size_t)c->hidden);
}

// Queries, keys and values of the attention's input: norms and rotation done.
static Status queries_and_keys(Model *model, const LayerRun *run, int l, void *in) {
    const ModelConfig *c = &model->config;
    const Backend *backend = model->options.backend;
    struct ModelState *state = model->state;
    const Layer *layer = &state->layers[l];
    const bool last = l == c->layers - 1;
    const int32_t n = run->n, from = last ? run->from : 0, m = n - from;
    void *in_from = at(in, from, state->buffers.kept[KEPT_X].row_bytes);
    void *q = kept(model, run, KEPT_Q, l), *k = kept(model, run, KEPT_K, l), *v = kept(model, run, KEPT_V, l);
    const bool q_norm = layer->norm[ARCH_Q_NORM] != NULL, k_norm = layer->norm[ARCH_K_NORM] != NULL;
    void *q_in = q_norm ? kept(model, run, KEPT_Q_IN, l) : q, *k_in = k_norm ? kept(model, run, KEPT_K_IN, l) : k;
    void *const y[ARCH_MODULES] = {q_in, k_in, v};

    TRY(linear(model, l, K, in, k_in, n));
    TRY(linear(model, l, V, in, v, n));
    if (last) {
        TRY(lora_forward(model, run, l, GROUP_KV, in, kept(model, run, KEPT_H_QKV, l), y, 0, n));
        TRY(linear(model, l, Q, in_from, q_in, m));
        TRY(lora_forward(model, run, l, GROUP_Q, in_from, one(model, ONE_H_Q), y, from, m));
    } else {
        TRY(linear(model, l, Q, in, q_in, n));
        TRY(lora_forward(model, run, l, GROUP_QKV, in, kept(model, run, KEPT_H_QKV, l), y, 0, n));
    }
    if (q_norm)
        TRY(norm_heads(model, l, ARCH_Q_NORM, q_in, q, kept(model, run, KEPT_RSTD_Q, l), m, c->heads * c->head_dim));
    if (k_norm)
        TRY(norm_heads(model, l, ARCH_K_NORM, k_in, k, kept(model, run, KEPT_RSTD_K, l), n, c->kv_heads * c->head_dim));
    if (c->no_rope[l]) return STATUS_OK;
    return backend->rope(model->device, q, k, one(model, ONE_POSITION), state->cos, state->sin, from, n, c->heads,
                         c->kv_heads, c->head_dim, 1);
}

// From the layer's input (KEPT_X) and what its attention takes of it (`in`) to ONE_DELTA, which the next norm adds to
// KEPT_X2.
static Status layer_forward(Model *model, const LayerRun *run, int l, void *in) {
    const ModelConfig *c = &model->config;
    const Backend *backend = model->options.backend;
    struct ModelState *state = model->state;
    Device *device = model->device;
    const Layer *layer = &state->layers[l];
    const bool last = l == c->layers - 1;
    const int32_t n = run->n, from = last ? run->from : 0, m = n - from, kv_dim = c->kv_heads * c->head_dim;
    void *q = kept(model, run, KEPT_Q, l), *k = kept(model, run, KEPT_K, l), *v = kept(model, run, KEPT_V, l);
    void *x = kept(model, run, KEPT_X, l), *x2 = kept(model, run, KEPT_X2, l), *att = kept(model, run, KEPT_ATT, l);
    void *gate_up = kept(model, run, KEPT_GATE_UP, l), *act = one(model, ONE_ACT), *delta = one(model, ONE_DELTA);
    const void *att_norm = layer->norm[ARCH_ATTENTION_OUT_NORM], *mlp_norm = layer->norm[ARCH_MLP_OUT_NORM];
    void *att_out = att_norm != NULL ? kept(model, run, KEPT_ATTENTION_OUT, l) : delta;
    void *mlp_out = mlp_norm != NULL ? kept(model, run, KEPT_MLP_OUT, l) : delta;
    void *const y[ARCH_MODULES] = {[O] = att_out, [GATE] = gate_up, [UP] = up_of(model, gate_up), [DOWN] = mlp_out};

    TRY(queries_and_keys(model, run, l, in));
    if (run->place != NULL) {
        const size_t layer_bytes = (size_t)state->cache_rows * state->buffers.kept[KEPT_K].row_bytes;
        char *cache_k = state->cache_k + (size_t)l * layer_bytes, *cache_v = state->cache_v + (size_t)l * layer_bytes;
        TRY(backend->scatter_rows(device, k, run->place, cache_k, n, kv_dim));
        TRY(backend->scatter_rows(device, v, run->place, cache_v, n, kv_dim));
        k = cache_k;
        v = cache_v;
    }
    if (m == 0) return STATUS_OK; // only keys and values were wanted
    TRY(backend->attention(device, last ? &run->last_attention : &run->attention, q, k, v, att,
                           kept(model, run, KEPT_LSE, l)));
    TRY(linear(model, l, O, att, att_out, m));
    TRY(lora_forward(model, run, l, GROUP_O, att, kept(model, run, KEPT_H_O, l), y, from, m));
    TRY(finish_delta(model, att_norm, att_out, kept(model, run, KEPT_RSTD_ATTENTION_OUT, l), m));
    void *mlp_in;
    TRY(layer_add_and_norm(model, at(x, from, state->buffers.kept[KEPT_X].row_bytes), delta, layer->norm[ARCH_MLP_NORM],
                           x2, kept(model, run, KEPT_RSTD2, l), m, &mlp_in));
    TRY(linear(model, l, GATE, mlp_in, gate_up, m));
    TRY(lora_forward(model, run, l, GROUP_GATE_UP, mlp_in, kept(model, run, KEPT_H_GATE_UP, l), y, from, m));
    TRY(backend->swiglu(device, gate_up, act, m, c->intermediate));
    TRY(linear(model, l, DOWN, act, mlp_out, m));
    TRY(lora_forward(model, run, l, GROUP_DOWN, act, kept(model, run, KEPT_H_DOWN, l), y, from, m));
    return finish_delta(model, mlp_norm, mlp_out, kept(model, run, KEPT_RSTD_MLP_OUT, l), m);
}

Status layers_forward(Model *model, const LayerRun *run) {
    const ModelConfig *c = &model->config;
    const Backend *backend = model->options.backend;
    struct ModelState *state = model->state;
    const size_t hidden = (size_t)c->hidden;
    void *norm = one(model, ONE_NORM), *delta = one(model, ONE_DELTA), *first = kept(model, run, KEPT_X, 0);
    TRY(backend->embed(model->device, one(model, ONE_TOKEN), state->embedding, first, run->n, c->hidden));
    if (c->embedding_multiplier != 1)
        TRY(backend->scale_add(model->device, first, c->embedding_multiplier, NULL, first, (size_t)run->n * hidden));
    for (int l = 0; l < c->layers; l++) {
        void *in, *x = kept(model, run, KEPT_X, l);
        TRY(layer_add_and_norm(model, l == 0 ? x : kept(model, run, KEPT_X2, l - 1), l == 0 ? NULL : delta,
                               state->layers[l].norm[ARCH_ATTENTION_NORM], x, kept(model, run, KEPT_RSTD1, l), run->n,
                               &in));
        TRY(layer_forward(model, run, l, in));
    }
    const int32_t m = run->n - run->from;
    if (m == 0) return STATUS_OK;
    TRY(backend->rmsnorm(model->device, kept(model, run, KEPT_X2, c->layers - 1), delta, state->final_norm,
                         c->rms_norm_eps, one(model, ONE_XF), norm, one(model, ONE_RSTDF), m, c->hidden));
    if (c->logits_scaling == 1) return STATUS_OK;
    return backend->scale_add(model->device, norm, 1 / c->logits_scaling, NULL, norm, (size_t)m * hidden);
}

Status layer_forward_again(Model *model, const LayerRun *run, int l) {
    void *in, *x = kept(model, run, KEPT_X, l);
    TRY(layer_add_and_norm(model, x, NULL, model->state->layers[l].norm[ARCH_ATTENTION_NORM], x,
                           kept(model, run, KEPT_RSTD1, l), run->n, &in));
    return layer_forward(model, run, l, in);
}
