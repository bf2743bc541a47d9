// A layer backward, last op first. What LoRA's weight gradients read is made again beside what reads the same rows.
#include "src/model/layer_backward.h"

#include "src/model/layer.h"
#include "src/model/lora.h"

static Status linear_backward(Model *model, int layer, int target, const void *dy, void *dx, int32_t n,
                              bool accumulate) {
    return model->options.backend->linear_backward(model->device, &model->state->layers[layer].linear[target],
                                                   linear_count(target), dy, dx, n, accumulate);
}

// The gradient at a sublayer's last product, from that at the sum it was added to (`dout`): dout itself, or in
// ONE_DDELTA.
static Status delta_gradient(Model *model, const void *w, const void *out, const float *rstd, const void *dout,
                             int32_t n) {
    const ModelConfig *c = &model->config;
    const Backend *backend = model->options.backend;
    const size_t row_bytes = model->state->buffers.kept[KEPT_X].row_bytes;
    void *ddelta = one(model, ONE_DDELTA);
    if (w != NULL) {
        TRY(backend->zero(model->device, ddelta, (size_t)n * row_bytes));
        TRY(backend->rmsnorm_backward(model->device, dout, out, w, rstd, ddelta, NULL, n, c->hidden));
    }
    if (c->residual_multiplier == 1) return STATUS_OK;
    return backend->scale_add(model->device, w != NULL ? ddelta : dout, c->residual_multiplier, NULL, ddelta,
                              (size_t)n * (size_t)c->hidden);
}

// What layer_add_and_norm made of x.
static void *sublayer_input(const Model *model, void *x, const void *w) {
    return w == NULL ? x : one(model, ONE_NORM);
}

// dres += the gradient at x, from that at what layer_add_and_norm made of it (`din`); with `again`, makes that once
// more.
static Status norm_gradient(Model *model, const void *din, void *x, const void *w, const float *rstd, void *dres,
                            bool again, int32_t n) {
    const Backend *backend = model->options.backend;
    const int32_t hidden = model->config.hidden;
    if (w == NULL) return backend->scale_add(model->device, din, 1, dres, dres, (size_t)n * (size_t)hidden);
    return backend->rmsnorm_backward(model->device, din, x, w, rstd, dres, again ? one(model, ONE_NORM) : NULL, n,
                                     hidden);
}

// Through the norm of queries or keys: dy to dx, T[n, width].
static Status norm_heads_backward(Model *model, int layer, ArchRole role, const void *dy, const void *x,
                                  const float *rstd, void *dx, int32_t n, int32_t width) {
    const Backend *backend = model->options.backend;
    const int32_t dim = (int32_t)arch_rows(&model->config, role);
    TRY(backend->zero(model->device, dx, (size_t)n * (size_t)width * dtype_size(model->options.device.dtype)));
    return backend->rmsnorm_backward(model->device, dy, x, model->state->layers[layer].norm[role], rstd, dx, NULL,
                                     n * (width / dim), dim);
}

// ONE_DRES of the layer's scored rows (`dout`): from the gradient at the layer's output to that at KEPT_X2.
static Status mlp_backward(Model *model, const LayerRun *run, int l, void *dout) {
    const ModelConfig *c = &model->config;
    const Backend *backend = model->options.backend;
    const Layer *layer = &model->state->layers[l];
    const int32_t from = l == c->layers - 1 ? run->from : 0, m = run->n - from;
    void *act = one(model, ONE_ACT), *dact = one(model, ONE_DACT), *din = one(model, ONE_DNORM);
    void *dh = one(model, ONE_DH), *gate_up = kept(model, run, KEPT_GATE_UP, l), *x2 = kept(model, run, KEPT_X2, l);
    const void *norm = layer->norm[ARCH_MLP_NORM], *ddelta = arena_has_ddelta(c) ? one(model, ONE_DDELTA) : dout;
    // gate and up are overwritten by their gradients: nothing needs them after.
    const void *const dy[ARCH_MODULES] = {[GATE] = gate_up, [UP] = up_of(model, gate_up), [DOWN] = ddelta};

    TRY(delta_gradient(model, layer->norm[ARCH_MLP_OUT_NORM], kept(model, run, KEPT_MLP_OUT, l),
                       kept(model, run, KEPT_RSTD_MLP_OUT, l), dout, m));
    TRY(linear_backward(model, l, DOWN, ddelta, dact, m, false));
    TRY(lora_backward(model, run, l, GROUP_DOWN, dy, dh, dact, from, m));
    TRY(backend->swiglu_backward(model->device, gate_up, dact, gate_up, lora_has(model, l, GROUP_DOWN) ? act : NULL, m,
                                 c->intermediate));
    TRY(lora_weight_backward(model, run, l, GROUP_DOWN, act, kept(model, run, KEPT_H_DOWN, l), dy, dh, from, m));
    TRY(linear_backward(model, l, GATE, gate_up, din, m, false));
    TRY(lora_backward(model, run, l, GROUP_GATE_UP, dy, dh, din, from, m));
    TRY(norm_gradient(model, din, x2, norm, kept(model, run, KEPT_RSTD2, l), dout, lora_has(model, l, GROUP_GATE_UP),
                      m));
    return lora_weight_backward(model, run, l, GROUP_GATE_UP, sublayer_input(model, x2, norm),
                                kept(model, run, KEPT_H_GATE_UP, l), dy, dh, from, m);
}

// The gradients at the products of q and k, from those at the rotated queries and keys (ONE_DQ, ONE_DK): there, or
// where there are norms in ONE_DQ_IN and ONE_DK_IN.
static Status queries_and_keys_backward(Model *model, const LayerRun *run, int l) {
    const ModelConfig *c = &model->config;
    const Backend *backend = model->options.backend;
    struct ModelState *state = model->state;
    const int32_t n = run->n, from = l == c->layers - 1 ? run->from : 0, m = n - from;
    void *dq = one(model, ONE_DQ), *dk = one(model, ONE_DK);
    if (!c->no_rope[l])
        TRY(backend->rope(model->device, dq, dk, one(model, ONE_POSITION), state->cos, state->sin, from, n, c->heads,
                          c->kv_heads, c->head_dim, -1));
    if (state->layers[l].norm[ARCH_Q_NORM] != NULL)
        TRY(norm_heads_backward(model, l, ARCH_Q_NORM, dq, kept(model, run, KEPT_Q_IN, l),
                                kept(model, run, KEPT_RSTD_Q, l), one(model, ONE_DQ_IN), m, c->heads * c->head_dim));
    if (state->layers[l].norm[ARCH_K_NORM] != NULL)
        TRY(norm_heads_backward(model, l, ARCH_K_NORM, dk, kept(model, run, KEPT_K_IN, l),
                                kept(model, run, KEPT_RSTD_K, l), one(model, ONE_DK_IN), n, c->kv_heads * c->head_dim));
    return STATUS_OK;
}

// From the gradients of q, k and v (in dy) to ONE_DRES; below the first layer nothing is trained.
static Status projections_backward(Model *model, const LayerRun *run, int l, const void *const dy[ARCH_MODULES]) {
    const ModelOptions *options = &model->options;
    const size_t row_bytes = model->state->buffers.kept[KEPT_X].row_bytes;
    const bool last = l == model->config.layers - 1, adapted = lora_has(model, l, GROUP_QKV);
    const int32_t n = run->n, from = last ? run->from : 0, m = n - from;
    const void *norm = model->state->layers[l].norm[ARCH_ATTENTION_NORM];
    void *x = kept(model, run, KEPT_X, l), *in = sublayer_input(model, x, norm), *h = kept(model, run, KEPT_H_QKV, l);
    void *din = l > 0 ? one(model, ONE_DNORM) : NULL, *din_from = l > 0 ? at(din, from, row_bytes) : NULL;
    // In the last layer, where q has other rows, its dh lies behind that of k and v.
    const size_t kv_bytes =
        (size_t)lora_group_size(&model->config, options, GROUP_KV) * (size_t)options->lora_r * LORA_DH_BYTES;
    void *dh = one(model, ONE_DH), *dh_q = at(dh, n, kv_bytes);
    float *rstd = kept(model, run, KEPT_RSTD1, l);

    if (din != NULL) {
        TRY(linear_backward(model, l, K, dy[K], din, n, false));
        TRY(linear_backward(model, l, V, dy[V], din, n, true));
        TRY(linear_backward(model, l, Q, dy[Q], din_from, m, true));
    }
    TRY(lora_backward(model, run, l, last ? GROUP_KV : GROUP_QKV, dy, dh, din, 0, n));
    if (last) TRY(lora_backward(model, run, l, GROUP_Q, dy, dh_q, din_from, from, m));
    if (din != NULL)
        TRY(norm_gradient(model, din, x, norm, rstd, one(model, ONE_DRES), adapted, n));
    else if (adapted)
        TRY(layer_add_and_norm(model, x, NULL, norm, x, rstd, n, &in));
    if (!last) return lora_weight_backward(model, run, l, GROUP_QKV, in, h, dy, dh, 0, n);
    TRY(lora_weight_backward(model, run, l, GROUP_KV, in, h, dy, dh, 0, n));
    return lora_weight_backward(model, run, l, GROUP_Q, at(in, from, row_bytes), one(model, ONE_H_Q), dy, dh_q, from,
                                m);
}

// ONE_DRES: from the gradient at KEPT_X2 to the one at the layer's input.
static Status attention_backward(Model *model, const LayerRun *run, int l, void *dout) {
    const ModelConfig *c = &model->config;
    const Layer *layer = &model->state->layers[l];
    const bool last = l == c->layers - 1;
    const int32_t from = last ? run->from : 0, m = run->n - from;
    void *att = kept(model, run, KEPT_ATT, l), *datt = one(model, ONE_DATT), *dh = one(model, ONE_DH);
    void *dv = one(model, ONE_DV);
    const void *ddelta = arena_has_ddelta(c) ? one(model, ONE_DDELTA) : dout;
    const void *dq = one(model, layer->norm[ARCH_Q_NORM] != NULL ? ONE_DQ_IN : ONE_DQ);
    const void *dk = one(model, layer->norm[ARCH_K_NORM] != NULL ? ONE_DK_IN : ONE_DK);
    const void *const dy[ARCH_MODULES] = {dq, dk, dv, ddelta};

    TRY(delta_gradient(model, layer->norm[ARCH_ATTENTION_OUT_NORM], kept(model, run, KEPT_ATTENTION_OUT, l),
                       kept(model, run, KEPT_RSTD_ATTENTION_OUT, l), dout, m));
    TRY(linear_backward(model, l, O, ddelta, datt, m, false));
    TRY(lora_backward(model, run, l, GROUP_O, dy, dh, datt, from, m));
    TRY(lora_weight_backward(model, run, l, GROUP_O, att, kept(model, run, KEPT_H_O, l), dy, dh, from, m));
    TRY(model->options.backend->attention_backward(model->device, last ? &run->last_attention : &run->attention,
                                                   kept(model, run, KEPT_Q, l), kept(model, run, KEPT_K, l),
                                                   kept(model, run, KEPT_V, l), att, kept(model, run, KEPT_LSE, l),
                                                   datt, one(model, ONE_DQ), one(model, ONE_DK), dv, run->n));
    TRY(queries_and_keys_backward(model, run, l));
    return projections_backward(model, run, l, dy);
}

Status layer_backward(Model *model, const LayerRun *run, int l) {
    const int32_t from = l == model->config.layers - 1 ? run->from : 0;
    void *dout = at(one(model, ONE_DRES), from, model->state->buffers.kept[KEPT_X].row_bytes);
    TRY(mlp_backward(model, run, l, dout));
    return attention_backward(model, run, l, dout);
}
