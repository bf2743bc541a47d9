// Loading: which tensors, from which bytes, to which place of the state.
#include "src/model/weights.h"

#include "comm/comm.h"
#include "src/base/memory.h"
#include "src/model/state.h"

#include <math.h>
#include <stdlib.h>

// One tensor that the architecture needs and where its device pointer goes.
typedef struct Wanted {
    ArchWeight weight;
    const Tensor *tensor;
} Wanted;

typedef struct WantedList {
    Wanted *item; // [count]
    int count;
} WantedList;

static Status list_weights(const ModelConfig *c, WantedList *list) {
    int count = 0;
    for (ArchWeight weight = {0}; arch_next(c, &weight);) count++;
    TRY(MEMORY_ALLOC(list->item, count, "the list of weights"));
    for (ArchWeight weight = {0}; arch_next(c, &weight);) list->item[list->count++].weight = weight;
    return STATUS_OK;
}

// Where a tensor's address goes.
static const void **place_of(struct ModelState *state, const ArchWeight *weight) {
    const ArchRole role = weight->row->role;
    switch (role) {
    case ARCH_EMBEDDING:
        return &state->embedding;
    case ARCH_FINAL_NORM:
        return &state->final_norm;
    case ARCH_HEAD:
        return &state->head;
    default:
        break;
    }
    Layer *layer = &state->layers[weight->layer];
    if (role >= ARCH_MODULES) return &layer->norm[role];
    return weight->bias ? &layer->linear[role].bias : &layer->linear[role].weight;
}

static void set_shapes(Model *model) {
    for (ArchWeight weight = {0}; arch_next(&model->config, &weight);) {
        if (weight.row->role >= ARCH_MODULES || weight.bias) continue;
        Linear *linear = &model->state->layers[weight.layer].linear[weight.row->role];
        linear->out = (int32_t)weight.rows;
        linear->in = (int32_t)weight.cols;
    }
}

static size_t wanted_elements(const Wanted *wanted) {
    return (size_t)(wanted->weight.rows * wanted->weight.cols);
}

// Whether the mapped bytes serve as they are.
static bool as_mapped(const Wanted *wanted, DType dtype) {
    return wanted->tensor->type == (dtype == DTYPE_BF16 ? TENSOR_BF16 : TENSOR_F32) &&
           (uintptr_t)wanted->tensor->data % dtype_size(dtype) == 0;
}

// The tensors that cannot be read as they lie, in *shared one after the other: each rank of a node converts its share.
static Status convert_weights(Comm *comm, const WantedList *list, DType dtype, char **shared) {
    size_t converted = 0;
    for (int i = 0; i < list->count; i++)
        if (!as_mapped(&list->item[i], dtype))
            converted += memory_aligned(wanted_elements(&list->item[i]) * dtype_size(dtype));
    if (converted == 0) return STATUS_OK;
    TRY(comm_node_alloc(comm, converted, "weights in the working dtype", (void **)shared));
    char *to = *shared;
    for (int i = 0; i < list->count; i++) {
        const Wanted *wanted = &list->item[i];
        if (as_mapped(wanted, dtype)) continue;
        size_t count = wanted_elements(wanted);
        if (i % comm->node_size == comm->node_rank) {
            if (dtype == DTYPE_BF16)
                tensor_to_bf16(wanted->tensor->data, wanted->tensor->type, count, (uint16_t *)to);
            else
                tensor_to_f32(wanted->tensor->data, wanted->tensor->type, count, (float *)to);
        }
        to += memory_aligned(count * dtype_size(dtype));
    }
    return comm_node_barrier(comm, "the end of converting the weights");
}

// Whether it lies behind the tensor before it, where the device has memory of its own: up behind gate, for one product.
static bool joins(const Wanted *wanted) {
    return wanted->weight.row->role == ARCH_UP && !wanted->weight.bias;
}

static Status map_weights(Model *model, Comm *comm, const WantedList *list) {
    const DType dtype = model->options.device.dtype;
    const Backend *backend = model->options.backend;
    char *shared = NULL;
    TRY(convert_weights(comm, list, dtype, &shared));
    HostPiece pieces[2];
    int32_t count = 0;
    for (int i = 0; i < list->count; i++) {
        const Wanted *wanted = &list->item[i];
        HostPiece *piece = &pieces[count++];
        *piece = (HostPiece){.host = wanted->tensor->data,
                             .bytes = wanted_elements(wanted) * dtype_size(dtype),
                             .out = place_of(model->state, &wanted->weight)};
        if (!as_mapped(wanted, dtype)) {
            piece->host = shared;
            shared += memory_aligned(piece->bytes);
        }
        model->memory.weights += piece->bytes;
        if (i + 1 < list->count && joins(&list->item[i + 1])) continue;
        TRY(backend->map(model->device, pieces, count));
        count = 0;
    }
    if (model->config.tied_head) model->state->head = model->state->embedding;
    return STATUS_OK;
}

Status weights_load(Model *model, const char *model_dir, Comm *comm) {
    const ModelConfig *c = &model->config;
    TRY(MEMORY_ALLOC(model->state->layers, c->layers, "layers"));
    set_shapes(model);
    WantedList list = {0};
    TRY(list_weights(c, &list));
    Status status = tensor_files_open(&model->state->files, model_dir);
    for (int i = 0; i < list.count && status == STATUS_OK; i++) {
        const ArchWeight *weight = &list.item[i].weight;
        status = tensor_files_get(model->state->files, weight->name, weight->dims,
                                  (int64_t[]){weight->rows, weight->cols}, &list.item[i].tensor);
    }
    status = comm_agree(comm, status); // before the collective part of mapping
    if (status == STATUS_OK) status = map_weights(model, comm, &list);
    if (status == STATUS_OK) model->hash = tensor_files_hash(model->state->files);
    free(list.item);
    return status;
}

// --- rotary positions -----------------------------------------------------------------------------------------------

// Frequency i of head_dim/2: RoFormer (arXiv 2104.09864), with transformers' "llama3" scaling
// (modeling_rope_utils._compute_llama3_parameters).
static float rope_frequency(const ModelConfig *c, int i) {
    double frequency = 1 / pow(c->rope_theta, 2.0 * i / c->head_dim);
    if (!c->rope_llama3) return (float)frequency;
    double turns = c->rope_original_max_position * frequency / (2 * M_PI); // over the original context
    if (turns < c->rope_low_freq_factor) return (float)(frequency / c->rope_factor);
    if (turns > c->rope_high_freq_factor) return (float)frequency;
    double smooth = (turns - c->rope_low_freq_factor) / (c->rope_high_freq_factor - c->rope_low_freq_factor);
    return (float)((1 - smooth) * frequency / c->rope_factor + smooth * frequency);
}

Status weights_make_rope(Model *model) {
    const ModelConfig *c = &model->config;
    const Backend *backend = model->options.backend;
    const int64_t half = c->head_dim / 2, count = half * model->options.max_positions;
    float *cos_host = NULL, *sin_host = NULL;
    Status status = MEMORY_ALLOC(cos_host, count, "rotary table");
    if (status == STATUS_OK) status = MEMORY_ALLOC(sin_host, count, "rotary table");
    for (int64_t i = 0; i < count && status == STATUS_OK; i++) {
        // The angle is rounded to fp32 as transformers does, so that long positions agree with it.
        float angle = (float)(i / half) * rope_frequency(c, (int)(i % half));
        cos_host[i] = (float)cos(angle);
        sin_host[i] = (float)sin(angle);
    }
    size_t bytes = (size_t)count * sizeof(float);
    if (status == STATUS_OK) status = backend->alloc(model->device, bytes, "rotary table", (void **)&model->state->cos);
    if (status == STATUS_OK) status = backend->alloc(model->device, bytes, "rotary table", (void **)&model->state->sin);
    if (status == STATUS_OK) status = backend->upload(model->device, model->state->cos, cos_host, bytes);
    if (status == STATUS_OK) status = backend->upload(model->device, model->state->sin, sin_host, bytes);
    free(cos_host);
    free(sin_host);
    return status;
}
