// A Llama with LoRA adapters, or one of its kind: which op runs on which rows of which buffer. No arithmetic and no
// device code here. What a family computes beyond Llama hangs on the tensors that it has (src/model/arch.h) and on
// config.json's multipliers: norms of queries and keys, norms of what a sublayer adds in place of those before it,
// layers without rotation.
//
// Activations that backward needs are kept per layer in one slab a kind: layer l's rows start at l * slot_rows, and the
// y' rows, which backward never reads, lie behind the kept ones where the next layer's slot begins: they are dead by
// the time that layer writes it. So only prefixes and y cost memory per layer.
#include "src/model/model.h"

#include "comm/comm.h"
#include "io/safetensors.h"
#include "src/base/memory.h"
#include "src/base/rng.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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
// Buffers that exist once. K: sized by the kept tokens, the others by all.
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

// --- the arena of activations ---------------------------------------------------------------------------------------

#define SLOT_ROWS_MULTIPLE 32 // keeps the slots of a slab aligned

static int64_t round_up(int64_t n, int64_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

static bool in_group(const ModelConfig *c, int group, int target) {
    if (group == GROUP_Q) return target == Q;
    if (group == GROUP_KV) return target == K || target == V;
    return (int)arch_tensor(c, (ArchRole)target)->group == group;
}

static int group_size(const ModelConfig *c, const ModelOptions *options, int group) {
    int n = 0;
    for (int target = 0; target < ARCH_MODULES; target++)
        n += options->lora_target[target] && in_group(c, group, target);
    return options->lora_r > 0 ? n : 0;
}

// Of the group that has most.
static size_t most_modules(const ModelConfig *c, const ModelOptions *options) {
    int most = 0;
    for (int group = 0; group < ARCH_GROUPS; group++) {
        const int n = group_size(c, options, group);
        most = n > most ? n : most;
    }
    return (size_t)most;
}

// Features of one norm of that role: of a head, or of all; 0: there is none.
static size_t norm_width(const ModelConfig *c, ArchRole role) {
    const ArchTensor *row = arch_tensor(c, role);
    return row == NULL ? 0 : (size_t)arch_size(c, row->rows);
}

// Whether what a sublayer adds has another gradient than the residual that it is added to.
static bool has_ddelta(const ModelConfig *c) {
    return c->residual_multiplier != 1 || arch_tensor(c, ARCH_ATTENTION_OUT_NORM) != NULL;
}

// Bytes of a row of each kind that is kept.
static void kept_row_bytes(const ModelConfig *c, const ModelOptions *options, size_t bytes[KEPT_KINDS]) {
    const size_t t = dtype_size(options->device.dtype), f = sizeof(float);
    const size_t q = (size_t)c->heads * (size_t)c->head_dim, kv = (size_t)c->kv_heads * (size_t)c->head_dim;
    const size_t hidden = (size_t)c->hidden, wide = (size_t)c->intermediate, r = (size_t)options->lora_r;
    const size_t q_norm = norm_width(c, ARCH_Q_NORM), k_norm = norm_width(c, ARCH_K_NORM);
    const size_t out_norm = norm_width(c, ARCH_ATTENTION_OUT_NORM) > 0;
    const size_t rows[KEPT_KINDS] = {[KEPT_X] = hidden * t,
                                     [KEPT_RSTD1] = f,
                                     [KEPT_Q] = q * t,
                                     [KEPT_K] = kv * t,
                                     [KEPT_V] = kv * t,
                                     [KEPT_ATT] = q * t,
                                     [KEPT_LSE] = (size_t)c->heads * f,
                                     [KEPT_X2] = hidden * t,
                                     [KEPT_RSTD2] = f,
                                     [KEPT_GATE_UP] = 2 * wide * t,
                                     [KEPT_H_QKV] = (size_t)group_size(c, options, GROUP_QKV) * r * t,
                                     [KEPT_H_O] = (size_t)group_size(c, options, GROUP_O) * r * t,
                                     [KEPT_H_GATE_UP] = (size_t)group_size(c, options, GROUP_GATE_UP) * r * t,
                                     [KEPT_H_DOWN] = (size_t)group_size(c, options, GROUP_DOWN) * r * t,
                                     [KEPT_Q_IN] = q_norm > 0 ? q * t : 0,
                                     [KEPT_RSTD_Q] = q_norm > 0 ? q / q_norm * f : 0,
                                     [KEPT_K_IN] = k_norm > 0 ? kv * t : 0,
                                     [KEPT_RSTD_K] = k_norm > 0 ? kv / k_norm * f : 0,
                                     [KEPT_ATTENTION_OUT] = out_norm * hidden * t,
                                     [KEPT_RSTD_ATTENTION_OUT] = out_norm * f,
                                     [KEPT_MLP_OUT] = out_norm * hidden * t,
                                     [KEPT_RSTD_MLP_OUT] = out_norm * f};
    memcpy(bytes, rows, sizeof rows);
}

// Cuts the arena at `base` (NULL: only counts) and returns its bytes.
static size_t cut_arena(const ModelConfig *c, const ModelOptions *options, int64_t keep, int64_t all, char *base,
                        Buffers *out) {
    const size_t t = dtype_size(options->device.dtype), f = sizeof(float), i32 = sizeof(int32_t);
    const size_t q = (size_t)c->heads * (size_t)c->head_dim, kv = (size_t)c->kv_heads * (size_t)c->head_dim;
    const size_t hidden = (size_t)c->hidden, wide = (size_t)c->intermediate, r = (size_t)options->lora_r;
    size_t kept_bytes[KEPT_KINDS];
    kept_row_bytes(c, options, kept_bytes);
    const struct {
        size_t row_bytes;
        bool of_keep;
    } one[ONE_KINDS] = {[ONE_XF] = {hidden * t, false},
                        [ONE_RSTDF] = {f, false},
                        [ONE_UNIT] = {hidden * t, true},
                        [ONE_H_Q] = {(size_t)group_size(c, options, GROUP_Q) * r * t, false},
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
                        [ONE_DQ_IN] = {norm_width(c, ARCH_Q_NORM) > 0 ? q * t : 0, true},
                        [ONE_DK_IN] = {norm_width(c, ARCH_K_NORM) > 0 ? kv * t : 0, true},
                        [ONE_DDELTA] = {has_ddelta(c) ? hidden * t : 0, true},
                        [ONE_DH] = {most_modules(c, options) * r * LORA_DH_BYTES, true},
                        [ONE_FACTOR] = {f, true},
                        [ONE_TOKEN] = {i32, false},
                        [ONE_POSITION] = {i32, false},
                        [ONE_OWNER] = {i32, false},
                        [ONE_TARGET] = {i32, false}};
    size_t used = 0;
    for (int kind = 0; kind < KEPT_KINDS; kind++) {
        bool per_layer = kind == KEPT_X || !options->recompute;
        int64_t rows = (per_layer ? (int64_t)(c->layers - 1) * round_up(keep, SLOT_ROWS_MULTIPLE) : 0) + all;
        if (out != NULL) out->kept[kind] = (Slab){base + used, kept_bytes[kind]};
        used = (size_t)round_up((int64_t)(used + (size_t)rows * kept_bytes[kind]), MEMORY_ALIGNMENT);
    }
    for (int kind = 0; kind < ONE_KINDS; kind++) {
        if (out != NULL) out->one[kind] = (Slab){base + used, one[kind].row_bytes};
        size_t rows = (size_t)(one[kind].of_keep ? keep : all);
        used = (size_t)round_up((int64_t)(used + rows * one[kind].row_bytes), MEMORY_ALIGNMENT);
    }
    return used;
}

size_t model_activation_bytes(const ModelConfig *config, const ModelOptions *options, int64_t keep_tokens,
                              int64_t all_tokens) {
    return cut_arena(config, options, keep_tokens, all_tokens, NULL, NULL);
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
    cut_arena(&model->config, &model->options, keep, all, state->activations, &state->buffers);
    const DeviceShapes shapes = model_shapes(&model->config, &model->options, all);
    model->memory.scratch = backend->scratch_bytes(&model->options.device, &shapes);
    TRY(backend->reserve(model->device, &shapes));
    state->keep_capacity = keep;
    state->all_capacity = all;
    return STATUS_OK;
}

static void *at(void *base, int64_t row, size_t row_bytes) {
    return (char *)base + (size_t)row * row_bytes;
}

// --- weights --------------------------------------------------------------------------------------------------------

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

// Whether it lies behind the tensor before it, where the device has memory of its own: up behind gate, for one product.
static bool joins(const Wanted *wanted) {
    return wanted->weight.row->role == ARCH_UP && !wanted->weight.bias;
}

static Status map_weights(Model *model, Comm *comm, const WantedList *list) {
    const DType dtype = model->options.device.dtype;
    const Backend *backend = model->options.backend;
    size_t converted = 0;
    for (int i = 0; i < list->count; i++)
        if (!as_mapped(&list->item[i], dtype))
            converted +=
                (size_t)round_up((int64_t)(wanted_elements(&list->item[i]) * dtype_size(dtype)), MEMORY_ALIGNMENT);
    char *shared = NULL;
    if (converted > 0) {
        TRY(comm_node_alloc(comm, converted, "weights in the working dtype", (void **)&shared));
        char *to = shared;
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
            to += round_up((int64_t)(count * dtype_size(dtype)), MEMORY_ALIGNMENT);
        }
        TRY(comm_node_barrier(comm, "the end of converting the weights"));
    }
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
            shared += round_up((int64_t)piece->bytes, MEMORY_ALIGNMENT);
        }
        model->memory.weights += piece->bytes;
        if (i + 1 < list->count && joins(&list->item[i + 1])) continue;
        TRY(backend->map(model->device, pieces, count));
        count = 0;
    }
    if (model->config.tied_head) model->state->head = model->state->embedding;
    return STATUS_OK;
}

static Status load_weights(Model *model, const char *model_dir, Comm *comm) {
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

size_t model_weight_bytes(const ModelConfig *c, DType dtype) {
    return (size_t)arch_elements(c) * dtype_size(dtype);
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

static Status make_rope(Model *model) {
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

// --- adapters -------------------------------------------------------------------------------------------------------

// Elements from one row of a module's output to the next: gate's and up's stand side by side.
static int32_t output_stride(const ModelConfig *c, ArchRole role) {
    const int32_t width = (int32_t)arch_size(c, arch_tensor(c, role)->rows);
    return role == ARCH_GATE || role == ARCH_UP ? 2 * width : width;
}

// The groups of ops that an adapted module takes part in.
static void place_module(Model *model, const AdapterModule *module) {
    const ModelOptions *options = &model->options;
    const AdapterTensor *a = &model->table.tensors[module->a], *b = &model->table.tensors[module->b];
    const size_t t = dtype_size(options->device.dtype);
    for (int group = 0; group < GROUPS; group++) {
        if (!in_group(&model->config, group, (int)module->role)) continue;
        Group *g = &model->state->groups[module->layer][group];
        g->target[g->lora.count] = (int)module->role;
        g->lora.r = options->lora_r;
        g->lora.scale = (float)(options->lora_alpha / options->lora_r);
        g->lora.in = a->cols;
        g->lora.module[g->lora.count++] = (LoraModule){.a = at(model->state->work, a->offset, t),
                                                       .b = at(model->state->work, b->offset, t),
                                                       .da = model->gradient + a->offset,
                                                       .db = model->gradient + b->offset,
                                                       .out = b->rows,
                                                       .ld = output_stride(&model->config, module->role),
                                                       .id = module->layer * ARCH_MODULES + (int32_t)module->role};
    }
}

static Status make_adapters(Model *model) {
    const ModelConfig *c = &model->config;
    const ModelOptions *options = &model->options;
    const Backend *backend = options->backend;
    struct ModelState *state = model->state;
    const size_t t = dtype_size(options->device.dtype);
    TRY(adapter_table_make(c, options->lora_r, options->lora_target, &model->table));
    const size_t bytes = (size_t)model->table.count * sizeof(float);
    float **vectors[] = {&model->adapter, &model->gradient, &model->adam_m, &model->adam_v};
    for (int i = 0; i < 4; i++) {
        const bool paged = options->paged_moments && i >= 2;
        TRY((paged ? backend->alloc_paged : backend->alloc)(model->device, bytes, "adapters", (void **)vectors[i]));
    }
    state->work = model->adapter;
    if (options->device.dtype != DTYPE_F32)
        TRY(backend->alloc(model->device, (size_t)model->table.count * t, "adapters", &state->work));
    model->memory.adapters = 4 * bytes + (options->device.dtype != DTYPE_F32 ? (size_t)model->table.count * t : 0);
    TRY(memory_alloc((void **)&state->groups, (size_t)c->layers, sizeof *state->groups, "groups"));
    for (int32_t i = 0; i < model->table.module_count; i++) place_module(model, &model->table.modules[i]);
    return STATUS_OK;
}

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
    TRY(load_weights(model, model_dir, comm));
    TRY(make_rope(model));
    return make_adapters(model);
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

// --- forward --------------------------------------------------------------------------------------------------------

// What the rows of one run through the layers are. Rows [from, n) are what the last layer answers for: its queries,
// output and MLP, the final norm and the head.
typedef struct Run {
    int32_t n, from;
    int64_t slot_rows; // rows from one layer's slot to the next; 0: every layer uses the first
    bool adapters;
    Dropout dropout;
    Attention attention, last_attention; // of all layers but the last, and of the last
    const int32_t *place;                // decoding: cache row of each row's key and value; else NULL
} Run;

static void *kept(const Model *model, const Run *run, int kind, int layer) {
    const Slab *slab = &model->state->buffers.kept[kind];
    bool per_layer = kind == KEPT_X || !model->options.recompute;
    return slab->base + (per_layer ? (size_t)(layer * run->slot_rows) * slab->row_bytes : 0);
}

static void *one(const Model *model, int kind) {
    return model->state->buffers.one[kind].base;
}

// Gate and up are one product, which target GATE names.
static int32_t linear_count(int target) {
    return target == GATE ? UP - GATE + 1 : 1;
}

static Status linear(Model *model, int layer, int target, const void *x, void *y, int32_t n) {
    return model->options.backend->linear(model->device, &model->state->layers[layer].linear[target],
                                          linear_count(target), x, y, n);
}

static Status linear_backward(Model *model, int layer, int target, const void *dy, void *dx, int32_t n,
                              bool accumulate) {
    return model->options.backend->linear_backward(model->device, &model->state->layers[layer].linear[target],
                                                   linear_count(target), dy, dx, n, accumulate);
}

// Where up's outputs begin in rows that gate's begin.
static void *up_of(const Model *model, void *gate_up) {
    return at(gate_up, model->config.intermediate, dtype_size(model->options.device.dtype));
}

static Dropout dropout_from(const Run *run, int32_t row) {
    Dropout dropout = run->dropout;
    if (dropout.p > 0) {
        dropout.owner += row;
        dropout.position += row;
    }
    return dropout;
}

// y[target] += LoRA of x, for the group's targets; rows [row, row + n) of the run.
static Status lora(Model *model, const Run *run, int layer, int group, const void *x, void *h,
                   void *const y[ARCH_MODULES], int32_t row, int32_t n) {
    const Group *g = &model->state->groups[layer][group];
    if (!run->adapters || g->lora.count == 0) return STATUS_OK;
    void *out[LORA_GROUP_MAX];
    for (int i = 0; i < g->lora.count; i++) out[i] = y[g->target[i]];
    Dropout dropout = dropout_from(run, row);
    return model->options.backend->lora(model->device, &g->lora, &dropout, x, h, out, n);
}

// The dy of a group's modules.
static void group_rows(const Group *g, const void *const dy[ARCH_MODULES], const void *out[LORA_GROUP_MAX]) {
    for (int i = 0; i < g->lora.count; i++) out[i] = dy[g->target[i]];
}

// dh from dy[target], and dx += LoRA's share unless dx is NULL.
static Status lora_backward(Model *model, const Run *run, int layer, int group, const void *const dy[ARCH_MODULES],
                            void *dh, void *dx, int32_t row, int32_t n) {
    const Group *g = &model->state->groups[layer][group];
    if (g->lora.count == 0) return STATUS_OK;
    const void *rows[LORA_GROUP_MAX];
    group_rows(g, dy, rows);
    Dropout dropout = dropout_from(run, row);
    return model->options.backend->lora_backward(model->device, &g->lora, &dropout, rows, dh, dx, n);
}

static Status lora_weight_backward(Model *model, const Run *run, int layer, int group, const void *x, const void *h,
                                   const void *const dy[ARCH_MODULES], const void *dh, int32_t row, int32_t n) {
    const Group *g = &model->state->groups[layer][group];
    if (g->lora.count == 0) return STATUS_OK;
    const void *rows[LORA_GROUP_MAX];
    group_rows(g, dy, rows);
    Dropout dropout = dropout_from(run, row);
    return model->options.backend->lora_weight_backward(model->device, &g->lora, &dropout, x, h, rows, dh, n);
}

// The norm of queries or keys, of each head or of all features; x, y: T[n, width].
static Status norm_heads(Model *model, int layer, ArchRole role, const void *x, void *y, float *rstd, int32_t n,
                         int32_t width) {
    const int32_t dim = (int32_t)norm_width(&model->config, role);
    return model->options.backend->rmsnorm(model->device, x, NULL, model->state->layers[layer].norm[role],
                                           model->config.rms_norm_eps, y, y, rstd, n * (width / dim), dim);
}

// sum = x + delta; the norm of it, where there is one. Returns in *out what the sublayer takes.
static Status add_and_norm(Model *model, const void *x, const void *delta, const void *w, void *sum, float *rstd,
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
static Status queries_and_keys(Model *model, const Run *run, int l, void *in) {
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
        TRY(lora(model, run, l, GROUP_KV, in, kept(model, run, KEPT_H_QKV, l), y, 0, n));
        TRY(linear(model, l, Q, in_from, q_in, m));
        TRY(lora(model, run, l, GROUP_Q, in_from, one(model, ONE_H_Q), y, from, m));
    } else {
        TRY(linear(model, l, Q, in, q_in, n));
        TRY(lora(model, run, l, GROUP_QKV, in, kept(model, run, KEPT_H_QKV, l), y, 0, n));
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
static Status layer_forward(Model *model, const Run *run, int l, void *in) {
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
    TRY(lora(model, run, l, GROUP_O, att, kept(model, run, KEPT_H_O, l), y, from, m));
    TRY(finish_delta(model, att_norm, att_out, kept(model, run, KEPT_RSTD_ATTENTION_OUT, l), m));
    void *mlp_in;
    TRY(add_and_norm(model, at(x, from, state->buffers.kept[KEPT_X].row_bytes), delta, layer->norm[ARCH_MLP_NORM], x2,
                     kept(model, run, KEPT_RSTD2, l), m, &mlp_in));
    TRY(linear(model, l, GATE, mlp_in, gate_up, m));
    TRY(lora(model, run, l, GROUP_GATE_UP, mlp_in, kept(model, run, KEPT_H_GATE_UP, l), y, from, m));
    TRY(backend->swiglu(device, gate_up, act, m, c->intermediate));
    TRY(linear(model, l, DOWN, act, mlp_out, m));
    TRY(lora(model, run, l, GROUP_DOWN, act, kept(model, run, KEPT_H_DOWN, l), y, from, m));
    return finish_delta(model, mlp_norm, mlp_out, kept(model, run, KEPT_RSTD_MLP_OUT, l), m);
}

// All layers: tokens to the final norm (ONE_NORM) of rows [from, n), divided as the logits are to be.
static Status layers_forward(Model *model, const Run *run) {
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
        TRY(add_and_norm(model, l == 0 ? x : kept(model, run, KEPT_X2, l - 1), l == 0 ? NULL : delta,
                         state->layers[l].norm[ARCH_ATTENTION_NORM], x, kept(model, run, KEPT_RSTD1, l), run->n, &in));
        TRY(layer_forward(model, run, l, in));
    }
    const int32_t m = run->n - run->from;
    if (m == 0) return STATUS_OK;
    TRY(backend->rmsnorm(model->device, kept(model, run, KEPT_X2, c->layers - 1), delta, state->final_norm,
                         c->rms_norm_eps, one(model, ONE_XF), norm, one(model, ONE_RSTDF), m, c->hidden));
    if (c->logits_scaling == 1) return STATUS_OK;
    return backend->scale_add(model->device, norm, 1 / c->logits_scaling, NULL, norm, (size_t)m * hidden);
}

// Queries of the batch's first `segments` segments (all rows), and of those among them that are scored (rows counted
// from the end of the prefixes).
static Status make_queries(Model *model, const MicroBatch *batch, int32_t segments, Run *run) {
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
static Status prepare(Model *model, const MicroBatch *batch, const Pass *pass, bool backward, Run *out) {
    *out = (Run){.n = backward ? batch->n_grad : batch->n_total,
                 .from = batch->n_prefix,
                 .adapters = pass->adapters,
                 .slot_rows = pass->keep ? round_up(batch->n_grad, SLOT_ROWS_MULTIPLE) : 0};
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
    Run run;
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

// --- backward -------------------------------------------------------------------------------------------------------

static bool has_lora(const Model *model, int layer, int group) {
    return model->state->groups[layer][group].lora.count > 0;
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

// What add_and_norm made of x.
static void *sublayer_input(const Model *model, void *x, const void *w) {
    return w == NULL ? x : one(model, ONE_NORM);
}

// dres += the gradient at x, from that at what add_and_norm made of it (`din`); with `again`, makes that once more.
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
    const int32_t dim = (int32_t)norm_width(&model->config, role);
    TRY(backend->zero(model->device, dx, (size_t)n * (size_t)width * dtype_size(model->options.device.dtype)));
    return backend->rmsnorm_backward(model->device, dy, x, model->state->layers[layer].norm[role], rstd, dx, NULL,
                                     n * (width / dim), dim);
}

// ONE_DRES of the layer's scored rows (`dout`): from the gradient at the layer's output to that at KEPT_X2.
static Status mlp_backward(Model *model, const Run *run, int l, void *dout) {
    const ModelConfig *c = &model->config;
    const Backend *backend = model->options.backend;
    const Layer *layer = &model->state->layers[l];
    const int32_t from = l == c->layers - 1 ? run->from : 0, m = run->n - from;
    void *act = one(model, ONE_ACT), *dact = one(model, ONE_DACT), *din = one(model, ONE_DNORM);
    void *dh = one(model, ONE_DH), *gate_up = kept(model, run, KEPT_GATE_UP, l), *x2 = kept(model, run, KEPT_X2, l);
    const void *norm = layer->norm[ARCH_MLP_NORM], *ddelta = has_ddelta(c) ? one(model, ONE_DDELTA) : dout;
    // gate and up are overwritten by their gradients: nothing needs them after.
    const void *const dy[ARCH_MODULES] = {[GATE] = gate_up, [UP] = up_of(model, gate_up), [DOWN] = ddelta};

    TRY(delta_gradient(model, layer->norm[ARCH_MLP_OUT_NORM], kept(model, run, KEPT_MLP_OUT, l),
                       kept(model, run, KEPT_RSTD_MLP_OUT, l), dout, m));
    TRY(linear_backward(model, l, DOWN, ddelta, dact, m, false));
    TRY(lora_backward(model, run, l, GROUP_DOWN, dy, dh, dact, from, m));
    // What LoRA's weight gradients read is made again beside what reads the same rows.
    TRY(backend->swiglu_backward(model->device, gate_up, dact, gate_up, has_lora(model, l, GROUP_DOWN) ? act : NULL, m,
                                 c->intermediate));
    TRY(lora_weight_backward(model, run, l, GROUP_DOWN, act, kept(model, run, KEPT_H_DOWN, l), dy, dh, from, m));
    TRY(linear_backward(model, l, GATE, gate_up, din, m, false));
    TRY(lora_backward(model, run, l, GROUP_GATE_UP, dy, dh, din, from, m));
    TRY(norm_gradient(model, din, x2, norm, kept(model, run, KEPT_RSTD2, l), dout, has_lora(model, l, GROUP_GATE_UP),
                      m));
    return lora_weight_backward(model, run, l, GROUP_GATE_UP, sublayer_input(model, x2, norm),
                                kept(model, run, KEPT_H_GATE_UP, l), dy, dh, from, m);
}

// The gradients at the products of q and k, from those at the rotated queries and keys (ONE_DQ, ONE_DK): there, or
// where there are norms in ONE_DQ_IN and ONE_DK_IN.
static Status queries_and_keys_backward(Model *model, const Run *run, int l) {
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
static Status projections_backward(Model *model, const Run *run, int l, const void *const dy[ARCH_MODULES]) {
    const ModelOptions *options = &model->options;
    const size_t row_bytes = model->state->buffers.kept[KEPT_X].row_bytes;
    const bool last = l == model->config.layers - 1, adapted = has_lora(model, l, GROUP_QKV);
    const int32_t n = run->n, from = last ? run->from : 0, m = n - from;
    const void *norm = model->state->layers[l].norm[ARCH_ATTENTION_NORM];
    void *x = kept(model, run, KEPT_X, l), *in = sublayer_input(model, x, norm), *h = kept(model, run, KEPT_H_QKV, l);
    void *din = l > 0 ? one(model, ONE_DNORM) : NULL, *din_from = l > 0 ? at(din, from, row_bytes) : NULL;
    // In the last layer, where q has other rows, its dh lies behind that of k and v.
    const size_t kv_bytes =
        (size_t)group_size(&model->config, options, GROUP_KV) * (size_t)options->lora_r * LORA_DH_BYTES;
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
        TRY(add_and_norm(model, x, NULL, norm, x, rstd, n, &in));
    if (!last) return lora_weight_backward(model, run, l, GROUP_QKV, in, h, dy, dh, 0, n);
    TRY(lora_weight_backward(model, run, l, GROUP_KV, in, h, dy, dh, 0, n));
    return lora_weight_backward(model, run, l, GROUP_Q, at(in, from, row_bytes), one(model, ONE_H_Q), dy, dh_q, from,
                                m);
}

// ONE_DRES: from the gradient at KEPT_X2 to the one at the layer's input.
static Status attention_backward(Model *model, const Run *run, int l, void *dout) {
    const ModelConfig *c = &model->config;
    const Layer *layer = &model->state->layers[l];
    const bool last = l == c->layers - 1;
    const int32_t from = last ? run->from : 0, m = run->n - from;
    void *att = kept(model, run, KEPT_ATT, l), *datt = one(model, ONE_DATT), *dh = one(model, ONE_DH);
    void *dv = one(model, ONE_DV);
    const void *ddelta = has_ddelta(c) ? one(model, ONE_DDELTA) : dout;
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

// ONE_DRES: from the gradient at the layer's output to the one at its input.
static Status layer_backward(Model *model, const Run *run, int l) {
    const int32_t from = l == model->config.layers - 1 ? run->from : 0;
    void *dout = at(one(model, ONE_DRES), from, model->state->buffers.kept[KEPT_X].row_bytes);
    TRY(mlp_backward(model, run, l, dout));
    return attention_backward(model, run, l, dout);
}

// train.recompute = "layer": the layer's activations again, from its kept input.
static Status layer_again(Model *model, const Run *run, int l) {
    void *in, *x = kept(model, run, KEPT_X, l);
    TRY(add_and_norm(model, x, NULL, model->state->layers[l].norm[ARCH_ATTENTION_NORM], x,
                     kept(model, run, KEPT_RSTD1, l), run->n, &in));
    return layer_forward(model, run, l, in);
}

Status model_backward(Model *model, const MicroBatch *batch, const Pass *pass, const float *dlogp) {
    const ModelConfig *c = &model->config;
    const Backend *backend = model->options.backend;
    Device *device = model->device;
    const int32_t n_y = batch->n_grad - batch->n_prefix;
    if (n_y == 0) return STATUS_OK;
    Run run;
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
        if (model->options.recompute) TRY(layer_again(model, &run, l));
        TRY(layer_backward(model, &run, l));
    }
    return STATUS_OK;
}

// --- decoding -------------------------------------------------------------------------------------------------------

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
    Run run = {.n = n, .from = logits == NULL ? n : 0, .adapters = adapters, .place = one(model, ONE_TARGET)};
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
