// Attention: plans, made on the host from segments and queries and kept on the device, and the launches (attention.cu).
//
// The layers of a step ask for the same few shapes again and again, so that the last PLANS shapes are kept, known by
// their content. A plan's tables are made in pinned memory and copied in stream order: nothing waits but a plan that
// takes the place of an older one.
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cuda.h"
#include "src/base/memory.h"
#include <stdlib.h>
#include <string.h>

enum {
    PLANS = 8,
    PART_TOKENS = 1024,     // query tokens whose gradients one block of threads sums for its keys
    PLAN_TOKEN_BYTES = 160, // of a plan, a token of the shape: reserved; what needs more makes room at first sight
    PLAN_BYTES = 1 << 16,
    SPARE_SLOTS = 64,
};

// What a plan was made from, to know it again.
typedef struct Shape {
    Attention attention; // its segments and queries point into this entry's own copies
    int32_t key_rows;
    bool backward;
} Shape;

typedef struct Entry {
    Shape shape;
    char *copies; // host: segments and queries
    size_t copies_room;
    char *host, *device; // the tables, pinned and on the device
    size_t room;
    AttentionPlan plan;
    uint64_t last_use; // 0: empty
} Entry;

struct AttentionPlans {
    Entry entry[PLANS];
    uint64_t uses;
};

// --- making a plan ---

static int32_t tile_tokens(DType dtype, const Attention *a) {
    return attention_rows(dtype, a->head_dim) / (a->heads / a->kv_heads);
}

static int32_t blocks_of(int32_t length) {
    return (length + ATTENTION_KEYS - 1) / ATTENTION_KEYS;
}

// Slots of partial sums that scratch has room for, by the rows of keys.
static int64_t slots_allowed(int64_t rows) {
    return rows / ATTENTION_KEYS + SPARE_SLOTS;
}

static size_t slot_floats(int32_t kv_heads, int32_t head_dim) {
    return (size_t)2 * (size_t)kv_heads * ATTENTION_KEYS * (size_t)head_dim;
}

typedef struct Counts {
    int32_t chain, tiles, list, keys, sums, slots;
} Counts;

// Work space of making a plan, by segment.
typedef struct Work {
    int32_t *depth;   // segments in the chain, itself included; 0: no query of its own, so no chain is needed
    int32_t *listed;  // tiles that attend to it
    int32_t *written; // of its list so far
} Work;

// How many tiles of a segment's list one block of keys takes at a time.
static int32_t parts_of(int32_t listed, int32_t part_tiles) {
    return (listed + part_tiles - 1) / part_tiles;
}

static void count_slots(const Attention *a, const Work *work, int32_t part_tiles, Counts *c) {
    int64_t slots = 0, keys = 0, sums = 0;
    for (int32_t s = 0; s < a->segment_count; s++) {
        if (work->listed[s] == 0) continue;
        const int32_t blocks = blocks_of(a->segments[s].length), parts = parts_of(work->listed[s], part_tiles);
        keys += (int64_t)blocks * parts;
        if (parts == 1) continue;
        slots += (int64_t)blocks * parts;
        sums += blocks;
    }
    c->slots = slots > INT32_MAX ? INT32_MAX : (int32_t)slots;
    c->keys = (int32_t)keys;
    c->sums = (int32_t)sums;
}

// Counts what the tables hold, and picks how many tiles a part has: PART_TOKENS, or more until the slots fit.
static void count_tables(DType dtype, const Shape *shape, Work *work, Counts *c, int32_t *part_tiles) {
    const Attention *a = &shape->attention;
    const int32_t tokens = tile_tokens(dtype, a);
    *c = (Counts){0};
    for (int32_t i = 0; i < a->query_count; i++) {
        const QueryRange *range = &a->queries[i];
        const int32_t tiles = (range->length + tokens - 1) / tokens;
        c->tiles += tiles;
        int32_t depth = 0;
        for (int32_t s = range->segment; s >= 0 && tiles > 0; s = a->segments[s].parent) {
            depth++;
            work->listed[s] += tiles;
            c->list += tiles;
        }
        if (tiles > 0 && work->depth[range->segment] == 0) {
            work->depth[range->segment] = depth;
            c->chain += depth;
        }
    }
    *part_tiles = PART_TOKENS / tokens > 0 ? PART_TOKENS / tokens : 1;
    if (!shape->backward) return;
    const int64_t allowed = slots_allowed(shape->key_rows);
    for (count_slots(a, work, *part_tiles, c); c->slots > allowed; count_slots(a, work, *part_tiles, c))
        *part_tiles *= 2;
}

// The tables' places behind `base` (NULL: counts only); returns their bytes. Kernels do not write them: the plan holds
// them as const, this file fills them.
static size_t cut_tables(const Attention *a, const Counts *c, bool backward, char *base, AttentionPlan *out) {
    size_t at = 0;
#define CUT(field, type, count)                                                                                        \
    do {                                                                                                               \
        out->field = (const type *)(base + at);                                                                        \
        at += ((size_t)(count) * sizeof(type) + 15) / 16 * 16;                                                         \
    } while (0)
    CUT(segments, Segment, a->segment_count);
    CUT(chain_begin, int32_t, a->segment_count + 1);
    CUT(chain, int32_t, c->chain);
    CUT(tiles, AttentionTile, c->tiles);
    if (backward) {
        CUT(list, int32_t, c->list);
        CUT(keys, AttentionKeys, c->keys);
        CUT(sums, AttentionSum, c->sums);
    }
#undef CUT
    return at;
}

static void fill_chains(const Attention *a, const Work *work, const AttentionPlan *plan) {
    int32_t *begin = (int32_t *)plan->chain_begin, *chain = (int32_t *)plan->chain, used = 0;
    for (int32_t s = 0; s < a->segment_count; s++) {
        begin[s] = used;
        int32_t at = used += work->depth[s];
        for (int32_t link = s; link >= 0 && work->depth[s] > 0; link = a->segments[link].parent) chain[--at] = link;
    }
    begin[a->segment_count] = used;
}

// Tiles in the order of the queries, and each segment's list of those that attend to it. first: where a list begins.
static void fill_tiles(const Attention *a, int32_t tokens, bool backward, const int32_t *first, Work *work,
                       const AttentionPlan *plan) {
    AttentionTile *tile = (AttentionTile *)plan->tiles;
    int32_t index = 0;
    for (int32_t i = 0; i < a->query_count; i++) {
        const QueryRange *range = &a->queries[i];
        for (int32_t done = 0; done < range->length; done += tokens, index++) {
            const int32_t left = range->length - done;
            tile[index] =
                (AttentionTile){range->segment, range->offset + done, left < tokens ? left : tokens, range->row + done};
            for (int32_t s = range->segment; s >= 0 && backward; s = a->segments[s].parent)
                ((int32_t *)plan->list)[first[s] + work->written[s]++] = index;
        }
    }
}

// Longest lists first: their blocks of threads run longest.
static void fill_keys(const Attention *a, const int32_t *first, const Work *work, int32_t part_tiles,
                      const AttentionPlan *plan) {
    AttentionKeys *keys = (AttentionKeys *)plan->keys;
    AttentionSum *sums = (AttentionSum *)plan->sums;
    int32_t key = 0, sum = 0, slot = 0;
    for (int alone = 0; alone < 2; alone++)
        for (int32_t s = 0; s < a->segment_count; s++) {
            const int32_t listed = work->listed[s], parts = parts_of(listed, part_tiles);
            if (listed == 0 || (parts == 1) != (alone == 1)) continue;
            for (int32_t block = 0; block < blocks_of(a->segments[s].length); block++) {
                const int32_t start = block * ATTENTION_KEYS;
                if (parts > 1) sums[sum++] = (AttentionSum){s, start, slot, parts};
                for (int32_t part = 0; part < parts; part++) {
                    const int32_t begin = part * part_tiles;
                    const int32_t end = begin + part_tiles < listed ? begin + part_tiles : listed;
                    keys[key++] = (AttentionKeys){s, start, first[s] + begin, first[s] + end, parts > 1 ? slot++ : -1};
                }
            }
        }
}

// --- entries ---

// memcmp and memcpy that take NULL for nothing.
static bool same_bytes(const void *a, const void *b, size_t bytes) {
    return bytes == 0 || memcmp(a, b, bytes) == 0;
}

static void copy_bytes(void *to, const void *from, size_t bytes) {
    if (bytes > 0) memcpy(to, from, bytes);
}

static bool same_shape(const Shape *a, const Shape *b) {
    const Attention *x = &a->attention, *y = &b->attention;
    return x->heads == y->heads && x->kv_heads == y->kv_heads && x->head_dim == y->head_dim && x->scale == y->scale &&
           x->segment_count == y->segment_count && x->query_count == y->query_count && a->key_rows == b->key_rows &&
           a->backward == b->backward &&
           same_bytes(x->segments, y->segments, (size_t)x->segment_count * sizeof *x->segments) &&
           same_bytes(x->queries, y->queries, (size_t)x->query_count * sizeof *x->queries);
}

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

static Status keep_shape(Entry *entry, const Shape *shape) {
    const Attention *a = &shape->attention;
    const size_t segments = (size_t)a->segment_count * sizeof *a->segments;
    const size_t queries = (size_t)a->query_count * sizeof *a->queries;
    if (segments + queries > entry->copies_room) {
        free(entry->copies);
        entry->copies_room = 0;
        TRY(MEMORY_ALLOC(entry->copies, 2 * (segments + queries), "an attention plan"));
        entry->copies_room = 2 * (segments + queries);
    }
    copy_bytes(entry->copies, a->segments, segments);
    copy_bytes(entry->copies + segments, a->queries, queries);
    entry->shape = *shape;
    entry->shape.attention.segments = (const Segment *)entry->copies;
    entry->shape.attention.queries = (const QueryRange *)(entry->copies + segments);
    return STATUS_OK;
}

static Status make_plan(Device *device, Entry *entry, int32_t *space) {
    const Shape *shape = &entry->shape;
    const Attention *a = &shape->attention;
    const int32_t n = a->segment_count;
    Work work = {.depth = space, .listed = space + n, .written = space + 2 * n};
    int32_t *first = space + 3 * n, part_tiles;
    Counts counts;
    count_tables(device->dtype, shape, &work, &counts, &part_tiles);
    AttentionPlan plan = {0};
    const size_t bytes = cut_tables(a, &counts, shape->backward, NULL, &plan);
    CUDA_TRY(device, cudaStreamSynchronize(device->stream)); // the plan that was here may still be read
    TRY(entry_room(device, entry, bytes));
    cut_tables(a, &counts, shape->backward, entry->host, &plan);
    copy_bytes((void *)plan.segments, a->segments, (size_t)n * sizeof *a->segments);
    for (int32_t s = 0, used = 0; s < n; used += work.listed[s++]) first[s] = used;
    fill_chains(a, &work, &plan);
    fill_tiles(a, tile_tokens(device->dtype, a), shape->backward, first, &work, &plan);
    if (shape->backward) fill_keys(a, first, &work, part_tiles, &plan);
    cut_tables(a, &counts, shape->backward, entry->device, &plan);
    plan.tile_count = counts.tiles;
    plan.key_count = counts.keys;
    plan.sum_count = counts.sums;
    plan.heads = a->heads;
    plan.kv_heads = a->kv_heads;
    plan.head_dim = a->head_dim;
    plan.scale = a->scale;
    entry->plan = plan;
    CUDA_TRY(device, cudaMemcpyAsync(entry->device, entry->host, bytes, cudaMemcpyHostToDevice, device->stream));
    return STATUS_OK;
}

static Status find_plan(Device *device, const Shape *shape, const AttentionPlan **out) {
    AttentionPlans *plans = device->attention;
    Entry *oldest = &plans->entry[0];
    for (int i = 0; i < PLANS; i++) {
        Entry *entry = &plans->entry[i];
        if (entry->last_use > 0 && same_shape(&entry->shape, shape)) {
            entry->last_use = ++plans->uses;
            *out = &entry->plan;
            return STATUS_OK;
        }
        if (entry->last_use < oldest->last_use) oldest = entry;
    }
    oldest->last_use = 0;
    TRY(keep_shape(oldest, shape));
    int32_t *space;
    TRY(MEMORY_ALLOC(space, 4 * (size_t)shape->attention.segment_count, "an attention plan"));
    const Status status = make_plan(device, oldest, space);
    free(space);
    TRY(status);
    oldest->last_use = ++plans->uses;
    *out = &oldest->plan;
    return STATUS_OK;
}

// --- open, reserve, close ---

Status attention_open(Device *device) {
    return MEMORY_ALLOC(device->attention, 1, "attention plans");
}

void attention_close(Device *device) {
    AttentionPlans *plans = device->attention;
    for (int i = 0; i < PLANS && plans != NULL; i++) {
        free(plans->entry[i].copies);
        cudaFreeHost(plans->entry[i].host);
        cudaFree(plans->entry[i].device);
    }
    free(plans);
    device->attention = NULL;
}

Status attention_reserve(Device *device, const DeviceShapes *shapes) {
    const size_t bytes = PLAN_BYTES + (size_t)shapes->tokens * PLAN_TOKEN_BYTES;
    for (int i = 0; i < PLANS; i++) {
        Entry *entry = &device->attention->entry[i];
        if (bytes <= entry->room) continue;
        entry->last_use = 0;
        TRY(entry_room(device, entry, bytes));
    }
    return STATUS_OK;
}

static size_t delta_bytes(int64_t rows, int32_t heads) {
    return ((size_t)rows * (size_t)heads * sizeof(float) + 255) / 256 * 256;
}

size_t attention_scratch_bytes(const DeviceShapes *shapes) {
    return delta_bytes(shapes->tokens, shapes->heads) +
           (size_t)slots_allowed(shapes->tokens) * slot_floats(shapes->kv_heads, shapes->head_dim) * sizeof(float);
}

// --- ops ---

static Status check_shape(const Attention *a) {
    if (a->head_dim <= ATTENTION_HEAD_DIM_MAX && a->heads / a->kv_heads <= ATTENTION_GROUP_MAX) return STATUS_OK;
    return error_set(STATUS_FAILED,
                     "attention with head_dim %d and %d query heads a key head is larger than the CUDA device takes "
                     "(%d and %d); use another model, or the CPU",
                     a->head_dim, a->heads / a->kv_heads, ATTENTION_HEAD_DIM_MAX, ATTENTION_GROUP_MAX);
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
    TRY(check_shape(shape));
    const AttentionPlan *plan;
    TRY(find_plan(device, &(Shape){.attention = *shape}, &plan));
    if (plan->tile_count == 0) return STATUS_OK;
    CUDA_TRY(device, attention_forward(device->dtype, plan, q, k, v, out, lse, device->stream));
    return STATUS_OK;
}

Status cuda_attention_backward(Device *device, const Attention *shape, const void *q, const void *k, const void *v,
                               const void *out, const float *lse, const void *dout, void *dq, void *dk, void *dv,
                               int32_t key_rows) {
    TRY(check_shape(shape));
    const size_t bytes =
        (size_t)key_rows * (size_t)shape->kv_heads * (size_t)shape->head_dim * dtype_size(device->dtype);
    if (bytes > 0) {
        CUDA_TRY(device, cudaMemsetAsync(dk, 0, bytes, device->stream)); // of keys that no query reaches
        CUDA_TRY(device, cudaMemsetAsync(dv, 0, bytes, device->stream));
    }
    const AttentionPlan *plan;
    TRY(find_plan(device, &(Shape){.attention = *shape, .key_rows = key_rows, .backward = true}, &plan));
    if (plan->tile_count == 0) return STATUS_OK;
    const int64_t rows = query_rows(shape);
    char *scratch;
    TRY(cuda_scratch(device,
                     delta_bytes(rows, shape->heads) + (size_t)slots_allowed(key_rows) *
                                                           slot_floats(shape->kv_heads, shape->head_dim) *
                                                           sizeof(float),
                     (void **)&scratch));
    float *delta = (float *)scratch, *partial = (float *)(scratch + delta_bytes(rows, shape->heads));
    const cudaStream_t stream = device->stream;
    const DType dtype = device->dtype;
    CUDA_TRY(device,
             attention_delta(dtype, dout, out, delta, (size_t)rows * (size_t)shape->heads, shape->head_dim, stream));
    CUDA_TRY(device, attention_query_gradient(dtype, plan, q, k, v, lse, delta, dout, dq, stream));
    CUDA_TRY(device, attention_key_gradient(dtype, plan, q, k, v, lse, delta, dout, partial, dk, dv, stream));
    return STATUS_OK;
}
