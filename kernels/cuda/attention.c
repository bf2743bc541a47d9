// Attention: the table of kernels, the plans of the shapes asked for lately (attention_plan.c makes them), and the ops.
//
// The layers of a step ask for the same few shapes again and again, so that the last PLANS shapes are kept, known by
// their content. A plan's tables are made in pinned memory and copied in stream order: nothing waits but a plan that
// takes the place of an older one. Room for plans is made by attention_reserve.
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cuda.h"
#include "src/base/memory.h"
#include <stdlib.h>
#include <string.h>

// Best first: a shape is computed by the first row that the device can run and that takes its width.
static const AttentionKernels *const KERNELS[] = {&attention_tensor, &attention_plain_bf16, &attention_plain_fp32};

enum {
    KERNELS_COUNT = sizeof KERNELS / sizeof *KERNELS,
    PLANS = 8,
    PLAN_BYTES = 1 << 16, // of a plan, beside what its tokens need: chains of many segments, as of a sequence's pages
};

typedef struct Entry {
    AttentionShape shape; // its segments and queries point into `copies`
    char *copies;         // host: segments and queries
    size_t copies_room;
    char *host, *device; // the tables, pinned and on the device
    size_t room;
    AttentionDraft draft;
    AttentionPlan plan;
    uint64_t last_use; // 0: empty
} Entry;

struct AttentionPlans {
    const AttentionKernels *kernels[KERNELS_COUNT]; // those that the device can run for its dtype
    int32_t kernel_count;
    const AttentionKernels *ready; // set up for shapes of ready_width
    int32_t ready_width;
    Entry entry[PLANS];
    uint64_t uses;
    void *space; // of making a plan
    size_t space_room;
};

// --- the kernels of a device ---

static Status check_instances(const Device *device, const AttentionInstances *all) {
    for (int32_t i = 0; i < all->count; i++) {
        const AttentionInstance *x = &all->instance[i];
        if (x->shared_bytes <= device->shared_bytes) continue;
        return error_set(STATUS_FAILED,
                         "%s (GPU %d): attention's kernel %s needs %.1f KiB of shared memory a block, this GPU has "
                         "%.1f; use another GPU",
                         device->name, device->index, x->name, (double)x->shared_bytes / 1024,
                         (double)device->shared_bytes / 1024);
    }
    return STATUS_OK;
}

Status attention_open(Device *device) {
    TRY(MEMORY_ALLOC(device->attention, 1, "attention plans"));
    AttentionPlans *plans = device->attention;
    for (int i = 0; i < KERNELS_COUNT; i++) {
        const AttentionKernels *kernels = KERNELS[i];
        if (kernels->dtype != device->dtype || kernels->capability > device->capability) continue;
        TRY(check_instances(device, &kernels->forward));
        TRY(check_instances(device, &kernels->query_gradient));
        TRY(check_instances(device, &kernels->key_gradient));
        plans->kernels[plans->kernel_count++] = kernels;
    }
    return STATUS_OK;
}

int32_t attention_key_block(const Device *device) {
    return device->attention->kernels[0]->key_block;
}

// Lets the kernels for a width have their shared memory, which loads them.
static Status allow_shared(const Device *device, const AttentionInstances *all, int32_t head_dim) {
    int32_t width = 0;
    for (int32_t i = 0; i < all->count; i++) {
        const AttentionInstance *x = &all->instance[i];
        if (x->head_dim < head_dim || (width > 0 && x->head_dim != width)) continue;
        width = x->head_dim;
        CUDA_TRY(device,
                 cudaFuncSetAttribute(x->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)x->shared_bytes));
    }
    return STATUS_OK;
}

// The kernels for a width, set up.
static Status find_kernels(Device *device, int32_t group, int32_t head_dim, const AttentionKernels **out) {
    AttentionPlans *plans = device->attention;
    if (head_dim > ATTENTION_HEAD_DIM_MAX || group > ATTENTION_GROUP_MAX)
        return error_set(STATUS_FAILED,
                         "attention with head_dim %d and %d query heads a key head is larger than the CUDA device "
                         "takes (%d and %d); use another model, or the CPU",
                         head_dim, group, ATTENTION_HEAD_DIM_MAX, ATTENTION_GROUP_MAX);
    int32_t i = 0;
    while (head_dim % plans->kernels[i]->head_dim_step != 0) i++; // the last takes every width
    const AttentionKernels *kernels = *out = plans->kernels[i];
    if (kernels == plans->ready && head_dim == plans->ready_width) return STATUS_OK;
    TRY(allow_shared(device, &kernels->forward, head_dim));
    TRY(allow_shared(device, &kernels->query_gradient, head_dim));
    TRY(allow_shared(device, &kernels->key_gradient, head_dim));
    plans->ready = kernels;
    plans->ready_width = head_dim;
    return STATUS_OK;
}

// --- room ---

static Status entry_room(Device *device, Entry *entry, size_t bytes) {
    if (bytes <= entry->room) return STATUS_OK;
    cudaFree(entry->device); // waits for the device: nothing reads the host's copy any more either
    cudaFreeHost(entry->host);
    entry->host = entry->device = NULL;
    entry->room = 0;
    CUDA_TRY(device, cudaMallocHost((void **)&entry->host, bytes));
    CUDA_TRY(device, cudaMalloc((void **)&entry->device, bytes));
    entry->room = bytes;
    return STATUS_OK;
}

// Room for `bytes` that nothing is kept in.
static Status host_room(void **at, size_t *room, size_t bytes) {
    if (bytes <= *room) return STATUS_OK;
    free(*at);
    *at = NULL;
    *room = 0;
    char *grown;
    TRY(MEMORY_ALLOC(grown, bytes, "an attention plan"));
    *at = grown;
    *room = bytes;
    return STATUS_OK;
}

static size_t copies_bytes(int64_t segments, int64_t queries) {
    return (size_t)segments * sizeof(Segment) + (size_t)queries * sizeof(QueryRange);
}

static size_t plan_bytes(int64_t tokens) {
    return PLAN_BYTES + attention_plan_room(tokens);
}

size_t attention_reserved_bytes(const DeviceShapes *shapes) {
    return PLANS * plan_bytes(shapes->tokens);
}

Status attention_reserve(Device *device, const DeviceShapes *shapes) {
    AttentionPlans *plans = device->attention;
    const int64_t tokens = shapes->tokens; // segments and ranges have one token at least
    if (shapes->kv_heads > 0) {
        const AttentionKernels *kernels;
        TRY(find_kernels(device, shapes->heads / shapes->kv_heads, shapes->head_dim, &kernels));
    }
    TRY(host_room(&plans->space, &plans->space_room, attention_plan_space(tokens, tokens) + 1));
    const size_t bytes = plan_bytes(tokens), copies = copies_bytes(tokens, tokens);
    for (int i = 0; i < PLANS; i++) {
        Entry *entry = &plans->entry[i];
        if (bytes <= entry->room && copies <= entry->copies_room) continue;
        entry->last_use = 0;
        TRY(entry_room(device, entry, bytes));
        TRY(host_room((void **)&entry->copies, &entry->copies_room, copies));
    }
    return STATUS_OK;
}

void attention_close(Device *device) {
    AttentionPlans *plans = device->attention;
    for (int i = 0; i < PLANS && plans != NULL; i++) {
        free(plans->entry[i].copies);
        cudaFreeHost(plans->entry[i].host);
        cudaFree(plans->entry[i].device);
    }
    if (plans != NULL) free(plans->space);
    free(plans);
    device->attention = NULL;
}

// --- plans by their shape ---

// memcmp and memcpy that take NULL for nothing.
static bool same_bytes(const void *a, const void *b, size_t bytes) {
    return bytes == 0 || memcmp(a, b, bytes) == 0;
}

static void copy_bytes(void *to, const void *from, size_t bytes) {
    if (bytes > 0) memcpy(to, from, bytes);
}

static bool same_shape(const AttentionShape *a, const AttentionShape *b) {
    const Attention *x = &a->attention, *y = &b->attention;
    return x->heads == y->heads && x->kv_heads == y->kv_heads && x->head_dim == y->head_dim && x->scale == y->scale &&
           x->segment_count == y->segment_count && x->query_count == y->query_count && a->key_rows == b->key_rows &&
           a->backward == b->backward &&
           same_bytes(x->segments, y->segments, (size_t)x->segment_count * sizeof *x->segments) &&
           same_bytes(x->queries, y->queries, (size_t)x->query_count * sizeof *x->queries);
}

static Status keep_shape(Entry *entry, const AttentionShape *shape) {
    const Attention *a = &shape->attention;
    const size_t segments = copies_bytes(a->segment_count, 0), queries = copies_bytes(0, a->query_count);
    const size_t bytes = segments + queries;
    if (bytes > entry->copies_room) TRY(host_room((void **)&entry->copies, &entry->copies_room, 2 * bytes));
    copy_bytes(entry->copies, a->segments, segments);
    copy_bytes(entry->copies + segments, a->queries, queries);
    entry->shape = *shape;
    entry->shape.attention.segments = (const Segment *)entry->copies;
    entry->shape.attention.queries = (const QueryRange *)(entry->copies + segments);
    return STATUS_OK;
}

static Status make_plan(Device *device, const AttentionKernels *kernels, Entry *entry) {
    AttentionPlans *plans = device->attention;
    const AttentionShape *shape = &entry->shape;
    const size_t space = attention_plan_space(shape->attention.segment_count, shape->key_rows);
    if (space >= plans->space_room) TRY(host_room(&plans->space, &plans->space_room, 2 * space + 1));
    attention_plan_draft(shape, kernels, device->multiprocessors, plans->space, &entry->draft);
    CUDA_TRY(device, cudaStreamSynchronize(device->stream)); // the plan that was here may still be read
    const size_t bytes = entry->draft.bytes;
    if (bytes > entry->room) TRY(entry_room(device, entry, 2 * bytes));
    attention_plan_fill(shape, &entry->draft, plans->space, entry->host, entry->device, &entry->plan);
    if (bytes > 0)
        CUDA_TRY(device, cudaMemcpyAsync(entry->device, entry->host, bytes, cudaMemcpyHostToDevice, device->stream));
    return STATUS_OK;
}

static Status find_plan(Device *device, const AttentionShape *shape, const Entry **out) {
    AttentionPlans *plans = device->attention;
    Entry *oldest = &plans->entry[0];
    for (int i = 0; i < PLANS; i++) {
        Entry *entry = &plans->entry[i];
        if (entry->last_use > 0 && same_shape(&entry->shape, shape)) {
            entry->last_use = ++plans->uses;
            *out = entry;
            return STATUS_OK;
        }
        if (entry->last_use < oldest->last_use) oldest = entry;
    }
    const Attention *a = &shape->attention;
    const AttentionKernels *kernels;
    TRY(find_kernels(device, a->heads / a->kv_heads, a->head_dim, &kernels));
    oldest->last_use = 0;
    TRY(keep_shape(oldest, shape));
    TRY(make_plan(device, kernels, oldest));
    oldest->last_use = ++plans->uses;
    *out = oldest;
    return STATUS_OK;
}

// --- ops ---

// Of the terms of `rows` rows (attention.h), before the partial sums.
static size_t terms_bytes(int64_t rows, int32_t heads) {
    return ((size_t)rows * (size_t)heads * 2 * sizeof(float) + 255) / 256 * 256;
}

static size_t backward_bytes(int64_t rows, int32_t heads, int32_t kv_heads, int32_t head_dim) {
    return terms_bytes(rows, heads) +
           (size_t)attention_plan_slot_keys(rows) * 2 * (size_t)kv_heads * (size_t)head_dim * sizeof(float);
}

size_t attention_scratch_bytes(const DeviceShapes *shapes) {
    return backward_bytes(shapes->tokens, shapes->heads, shapes->kv_heads, shapes->head_dim);
}

// One past the last row of q.
static int64_t query_rows(const Attention *a) {
    int64_t rows = 0;
    for (int32_t i = 0; i < a->query_count; i++) {
        const int64_t end = (int64_t)a->queries[i].row + a->queries[i].length;
        rows = end > rows ? end : rows;
    }
    return rows;
}

Status cuda_attention(Device *device, const Attention *shape, const void *q, const void *k, const void *v, void *out,
                      float *lse) {
    const Entry *entry;
    TRY(find_plan(device, &(AttentionShape){.attention = *shape}, &entry));
    const AttentionDraft *draft = &entry->draft;
    CUDA_TRY(device, draft->kernels->start_forward(draft->forward, &entry->plan, q, k, v, out, lse, device->stream));
    return STATUS_OK;
}

Status cuda_attention_backward(Device *device, const Attention *shape, const void *q, const void *k, const void *v,
                               const void *out, const float *lse, const void *dout, void *dq, void *dk, void *dv,
                               int32_t key_rows) {
    const Entry *entry;
    TRY(find_plan(device, &(AttentionShape){.attention = *shape, .key_rows = key_rows, .backward = true}, &entry));
    const int64_t rows = query_rows(shape);
    char *terms;
    TRY(cuda_scratch(device, backward_bytes(rows, shape->heads, shape->kv_heads, shape->head_dim), (void **)&terms));
    float *partial = (float *)(terms + terms_bytes(rows, shape->heads));
    const AttentionDraft *draft = &entry->draft;
    CUDA_TRY(device, draft->kernels->start_query_gradient(draft->query_gradient, &entry->plan, q, k, v, out, lse, dout,
                                                          dq, terms, device->stream));
    CUDA_TRY(device, draft->kernels->start_key_gradient(draft->key_gradient, &entry->plan, q, k, v, dout, terms,
                                                        partial, dk, dv, device->stream));
    return STATUS_OK;
}
