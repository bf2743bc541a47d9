// An open model: what it holds, and the way of a micro-batch through layers and head.
#include "src/model/model.h"

#include "comm/comm.h"
#include "src/base/memory.h"
#include "src/base/rng.h"
#include "src/model/decode.h"
#include "src/model/layer.h"
#include "src/model/layer_backward.h"
#include "src/model/lora.h"
#include "src/model/state.h"
#include "src/model/weights.h"

#include <math.h>
#include <stdlib.h>

// --- memory ---------------------------------------------------------------------------------------------------------

size_t model_weight_bytes(const ModelConfig *c, DType dtype) {
    return (size_t)arch_elements(c) * dtype_size(dtype);
}

size_t model_activation_bytes(const ModelConfig *config, const ModelOptions *options, int64_t keep_tokens,
                              int64_t all_tokens) {
    return arena_cut(config, options, keep_tokens, all_tokens, NULL, NULL);
}

static DeviceShapes model_shapes(const ModelConfig *c, const ModelOptions *options, int64_t tokens) {
    const int32_t widest = c->intermediate > c->heads * c->head_dim ? c->intermediate : c->heads * c->head_dim;
    return (DeviceShapes){.tokens = (int32_t)tokens,
                          .features = widest > c->hidden ? widest : c->hidden,
                          .hidden = c->hidden,
                          .vocab = c->vocab,
                          .heads = c->heads,
                          .kv_heads = c->kv_heads,
                          .head_dim = c->head_dim,
                          .lora_rank = options->lora_r};
}

size_t model_scratch_bytes(const ModelConfig *config, const ModelOptions *options, int64_t tokens) {
    const DeviceShapes shapes = model_shapes(config, options, tokens);
    return options->backend->scratch_bytes(&options->device, &shapes);
}

Status model_reserve(Model *model, int64_t keep_tokens, int64_t all_tokens) {
    struct ModelState *state = model->state;
    if (keep_tokens <= state->keep_capacity && all_tokens <= state->all_capacity) return STATUS_OK;
    const Backend *backend = model->options.backend;
    int64_t keep = keep_tokens > state->keep_capacity ? keep_tokens : state->keep_capacity;
    int64_t all = all_tokens > state->all_capacity ? all_tokens : state->all_capacity;
    backend->release(model->device, state->activations);
    state->activations = NULL;
    state->keep_capacity = state->all_capacity = 0;
    model->memory.activations = model_activation_bytes(&model->config, &model->options, keep, all);
    TRY(backend->alloc(model->device, model->memory.activations, "activations", &state->activations));
    arena_cut(&model->config, &model->options, keep, all, state->activations, &state->buffers);
    const DeviceShapes shapes = model_shapes(&model->config, &model->options, all);
    model->memory.scratch = backend->scratch_bytes(&model->options.device, &shapes);
    TRY(backend->reserve(model->device, &shapes));
    state->keep_capacity = keep;
    state->all_capacity = all;
    return STATUS_OK;
}

// --- open and close -------------------------------------------------------------------------------------------------

Status model_open(Model *model, const char *model_dir, const ModelOptions *options, Comm *comm) {
    *model = (Model){.options = *options, .device = options->opened};
    TRY(MEMORY_ALLOC(model->state, 1, "the model"));
    TRY(model_config_read(&model->config, model_dir));
    if (options->max_positions > model->config.max_position)
        return error_set(STATUS_USAGE,
                         "sequences of %d tokens are longer than the model's %s %d; lower data.max_length",
                         options->max_positions, model_config_limit(&model->config), model->config.max_position);
    if (model->device == NULL) TRY(options->backend->open(&options->device, &model->device));
    TRY(weights_load(model, model_dir, comm));
    TRY(weights_make_rope(model));
    return lora_make(model);
}

void model_close(Model *model) {
    struct ModelState *state = model->state;
    if (state == NULL) return;
    if (model->device != NULL) {
        const Backend *backend = model->options.backend;
        model_decode_close(model);
        void *owned[] = {
            model->adapter, model->gradient, model->adam_m,      model->adam_v,
            state->cos,     state->sin,      state->activations, state->work == model->adapter ? NULL : state->work};
        for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) backend->release(model->device, owned[i]);
        backend->close(model->device);
    }
    tensor_files_close(state->files);
    free(state->layers);
    free(state->groups);
    free(state->queries);
    free(state);
    adapter_table_free(&model->table);
    *model = (Model){0};
}

// --- the adapter's vectors ------------------------------------------------------------------------------------------

Status model_get(Model *model, const float *which, float *host) {
    return model->options.backend->download(model->device, host, which, (size_t)model->table.count * sizeof(float));
}

Status model_set(Model *model, float *which, const float *host) {
    return model->options.backend->upload(model->device, which, host, (size_t)model->table.count * sizeof(float));
}

Status model_zero_gradient(Model *model) {
    return model->options.backend->zero(model->device, model->gradient, (size_t)model->table.count * sizeof(float));
}

Status model_adapter_changed(Model *model) {
    if (model->state->work == model->adapter) return STATUS_OK;
    return model->options.backend->cast(model->device, model->adapter, model->state->work, (size_t)model->table.count);
}

Status model_init_adapter(Model *model, uint64_t seed) {
    float *host = NULL;
    TRY(MEMORY_ALLOC(host, model->table.count, "the first adapter"));
    for (int32_t i = 0; i < model->table.module_count; i++) { // B starts at zero
        const int32_t index = model->table.modules[i].a;
        const AdapterTensor *tensor = &model->table.tensors[index];
        Rng rng = rng_make(seed, RNG_LORA_INIT, (uint32_t)index);
        double bound = 1 / sqrt(tensor->cols);
        for (int64_t j = 0; j < (int64_t)tensor->rows * tensor->cols; j++)
            host[tensor->offset + j] = (float)(bound * (2 * rng_uniform(&rng) - 1));
    }
    Status status = model_set(model, model->adapter, host);
    free(host);
    TRY(status);
    return model_adapter_changed(model);
}

// --- forward and backward -------------------------------------------------------------------------------------------

// Queries of the batch's first `segments` segments (all rows), and of those among them that are scored (rows counted
// from the end of the prefixes).
static Status make_queries(Model *model, const MicroBatch *batch, int32_t segments, LayerRun *run) {
    struct ModelState *state = model->state;
    if (2 * segments > state->query_capacity) {
        free(state->queries);
        state->query_capacity = 0;
        TRY(MEMORY_ALLOC(state->queries, 4 * segments, "queries"));
        state->query_capacity = 4 * segments;
    }
    QueryRange *queries = state->queries, *scored = queries + segments;
    const int32_t scored_count = segments - batch->prefix_segments;
    for (int32_t i = 0; i < segments; i++)
        queries[i] = (QueryRange){i, 0, batch->segment[i].length, batch->segment[i].first};
    for (int32_t i = 0; i < scored_count; i++) {
        scored[i] = queries[batch->prefix_segments + i];
        scored[i].row -= batch->n_prefix;
    }
    const ModelConfig *c = &model->config;
    run->attention = (Attention){.heads = c->heads,
                                 .kv_heads = c->kv_heads,
                                 .head_dim = c->head_dim,
                                 .scale = c->attention_scale,
                                 .segments = batch->segment,
                                 .queries = queries,
                                 .segment_count = segments,
                                 .query_count = segments};
    run->last_attention = run->attention;
    run->last_attention.queries = scored;
    run->last_attention.query_count = scored_count;
    return STATUS_OK;
}

// The rows that forward (all regions) or backward (the first two) run over.
static Status prepare(Model *model, const MicroBatch *batch, const Pass *pass, bool backward, LayerRun *out) {
    *out = (LayerRun){.n = backward ? batch->n_grad : batch->n_total,
                      .from = batch->n_prefix,
                      .adapters = pass->adapters,
                      .slot_rows = pass->keep ? arena_slot_rows(batch->n_grad) : 0};
    if (pass->dropout && pass->adapters)
        out->dropout = (Dropout){.p = (float)model->options.lora_dropout,
                                 .key = pass->dropout_key,
                                 .owner = one(model, ONE_OWNER),
                                 .position = one(model, ONE_POSITION)};
    return make_queries(model, batch, backward ? batch->grad_segments : batch->segment_count, out);
}

Status model_forward(Model *model, const MicroBatch *batch, const Pass *pass, const TokenScores *out) {
    const ModelConfig *c = &model->config;
    const Backend *backend = model->options.backend;
    struct ModelState *state = model->state;
    Device *device = model->device;
    const size_t n = (size_t)batch->n_total, scored = n - (size_t)batch->n_prefix;
    if (scored == 0) return STATUS_OK;
    TRY(model_reserve(model, pass->keep ? batch->n_grad : 0, batch->n_total));
    TRY(backend->upload(device, one(model, ONE_TOKEN), batch->token, n * sizeof(int32_t)));
    TRY(backend->upload(device, one(model, ONE_POSITION), batch->position, n * sizeof(int32_t)));
    TRY(backend->upload(device, one(model, ONE_OWNER), batch->owner, n * sizeof(int32_t)));
    TRY(backend->upload(device, one(model, ONE_TARGET), batch->target, scored * sizeof(int32_t)));
    LayerRun run;
    TRY(prepare(model, batch, pass, false, &run));
    TRY(layers_forward(model, &run));
    const int32_t n_y = pass->keep ? batch->n_grad - batch->n_prefix : 0;
    TRY(backend->head(device, state->head, one(model, ONE_NORM), one(model, ONE_TARGET), one(model, ONE_LOGP),
                      one(model, ONE_ENTROPY), one(model, ONE_MEAN), one(model, ONE_UNIT), (int32_t)scored, n_y,
                      c->hidden, c->vocab));
    TRY(backend->download(device, out->logp, one(model, ONE_LOGP), scored * sizeof(float)));
    TRY(backend->download(device, out->entropy, one(model, ONE_ENTROPY), scored * sizeof(float)));
    return backend->download(device, out->mean_logit, one(model, ONE_MEAN), scored * sizeof(float));
}

Status model_backward(Model *model, const MicroBatch *batch, const Pass *pass, const float *dlogp) {
    const ModelConfig *c = &model->config;
    const Backend *backend = model->options.backend;
    Device *device = model->device;
    const int32_t n_y = batch->n_grad - batch->n_prefix;
    if (n_y == 0) return STATUS_OK;
    LayerRun run;
    TRY(prepare(model, batch, pass, true, &run));
    const size_t row_bytes = model->state->buffers.kept[KEPT_X].row_bytes;
    void *dres = one(model, ONE_DRES), *dnorm = one(model, ONE_DNORM);
    TRY(backend->upload(device, one(model, ONE_FACTOR), dlogp, (size_t)n_y * sizeof(float)));
    TRY(backend->scale_rows(device, one(model, ONE_UNIT), one(model, ONE_FACTOR), dnorm, n_y, c->hidden));
    if (c->logits_scaling != 1)
        TRY(backend->scale_add(device, dnorm, 1 / c->logits_scaling, NULL, dnorm, (size_t)n_y * (size_t)c->hidden));
    TRY(backend->zero(device, dres, (size_t)batch->n_grad * row_bytes));
    TRY(backend->rmsnorm_backward(device, dnorm, one(model, ONE_XF), model->state->final_norm, one(model, ONE_RSTDF),
                                  at(dres, batch->n_prefix, row_bytes), NULL, n_y, c->hidden));
    for (int l = c->layers - 1; l >= 0; l--) {
        if (model->options.recompute) TRY(layer_forward_again(model, &run, l));
        TRY(layer_backward(model, &run, l));
    }
    return STATUS_OK;
}
