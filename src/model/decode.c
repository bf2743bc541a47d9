// The cache's memory, and a run through the layers that reads and fills it.
#include "src/model/decode.h"

#include "src/base/memory.h"
#include "src/model/layer.h"
#include "src/model/state.h"

#include <stdlib.h>

Status model_decode_open(Model *model, int32_t capacity, int32_t max_rows) {
    const ModelConfig *c = &model->config;
    const Backend *backend = model->options.backend;
    struct ModelState *state = model->state;
    model_decode_close(model);
    const size_t bytes = (size_t)c->layers * (size_t)capacity * (size_t)c->kv_heads * (size_t)c->head_dim *
                         dtype_size(model->options.device.dtype);
    TRY(backend->alloc(model->device, bytes, "key/value cache", (void **)&state->cache_k));
    TRY(backend->alloc(model->device, bytes, "key/value cache", (void **)&state->cache_v));
    TRY(backend->alloc(model->device, (size_t)max_rows * (size_t)c->vocab * sizeof(float), "logits",
                       (void **)&state->logits));
    state->cache_rows = capacity;
    return STATUS_OK;
}

void model_decode_close(Model *model) {
    struct ModelState *state = model->state;
    void *owned[] = {state->cache_k, state->cache_v, state->logits};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) model->options.backend->release(model->device, owned[i]);
    state->cache_k = state->cache_v = NULL;
    state->logits = NULL;
}

Status model_decode_copy(Model *model, int32_t from, int32_t to, int32_t count) {
    const ModelConfig *c = &model->config;
    const Backend *backend = model->options.backend;
    struct ModelState *state = model->state;
    const int32_t kv_dim = c->kv_heads * c->head_dim;
    const size_t row_bytes = (size_t)kv_dim * dtype_size(model->options.device.dtype);
    int32_t *place = NULL;
    TRY(model_reserve(model, 0, count));
    TRY(MEMORY_ALLOC(place, count, "places in the cache"));
    for (int32_t i = 0; i < count; i++) place[i] = to + i;
    Status status = backend->upload(model->device, one(model, ONE_TARGET), place, (size_t)count * sizeof *place);
    for (int l = 0; l < c->layers; l++) {
        const size_t layer = (size_t)l * (size_t)state->cache_rows * row_bytes;
        char *caches[] = {state->cache_k + layer, state->cache_v + layer};
        for (int i = 0; i < 2 && status == STATUS_OK; i++)
            status = backend->scatter_rows(model->device, at(caches[i], from, row_bytes), one(model, ONE_TARGET),
                                           caches[i], count, kv_dim);
    }
    free(place);
    return status;
}

Status model_decode(Model *model, const int32_t *tokens, const int32_t *position, const int32_t *place, int32_t n,
                    const Segment *segments, int32_t segment_count, const QueryRange *queries, int32_t query_count,
                    bool adapters, float *logits) {
    const ModelConfig *c = &model->config;
    const Backend *backend = model->options.backend;
    Device *device = model->device;
    const size_t rows = (size_t)n;
    TRY(model_reserve(model, 0, n));
    TRY(backend->upload(device, one(model, ONE_TOKEN), tokens, rows * sizeof *tokens));
    TRY(backend->upload(device, one(model, ONE_POSITION), position, rows * sizeof *position));
    TRY(backend->upload(device, one(model, ONE_TARGET), place, rows * sizeof *place));
    LayerRun run = {.n = n, .from = logits == NULL ? n : 0, .adapters = adapters, .place = one(model, ONE_TARGET)};
    run.attention = (Attention){.heads = c->heads,
                                .kv_heads = c->kv_heads,
                                .head_dim = c->head_dim,
                                .scale = c->attention_scale,
                                .segments = segments,
                                .queries = queries,
                                .segment_count = segment_count,
                                .query_count = query_count};
    run.last_attention = run.attention;
    TRY(layers_forward(model, &run));
    if (logits == NULL) return STATUS_OK;
    TRY(backend->head_logits(device, model->state->head, one(model, ONE_NORM), model->state->logits, n, c->hidden,
                             c->vocab));
    return backend->download(device, logits, model->state->logits, rows * (size_t)c->vocab * sizeof(float));
}
