// Attention over segment forests: the plan that the kernels work from, and the table of kernels. attention_plan.c makes
// plans, attention_tensor.cu (bf16) and attention_plain.cu (fp32, and widths that tensor cores do not take) hold the
// kernels, attention.c keeps plans and has the ops.
//
// A tile is some query tokens times all query heads of one key/value head: row m is token m / group, head m % group, so
// that keys and values are read once for the whole group. Forward and dq walk a tile's keys by their position in the
// sequence, from 0 on; links say in which row of k and v a position lies. dk and dv go by blocks of keys of one
// segment, each with the list of tiles ("visits") that see it.
#pragma once
#include "kernels/backend.h"
#include <cuda_runtime_api.h>

#define ATTENTION_HEAD_DIM_MAX 128
#define ATTENTION_GROUP_MAX    16 // query heads of one key/value head

// --- the plan of a shape ---

// Positions [end of the link before, end) of a sequence lie in rows position + shift of k and v.
typedef struct __attribute__((aligned(8))) AttentionLink {
    int32_t end, shift;
} AttentionLink;

// `tokens` tokens at rows row, row + 1, ... of q and at `position`, ... of their sequence, whose links begin at `link`.
typedef struct __attribute__((aligned(16))) AttentionTile {
    int32_t row, tokens, position, link;
    AttentionLink first_link; // a copy: one load less before the first keys can be asked for
    int32_t unused[2];
} AttentionTile;

// A tile as a segment's keys see it: token t sees those of the segment's first offset + t + 1 keys that exist.
typedef struct __attribute__((aligned(16))) AttentionVisit {
    int32_t row, tokens, offset, unused;
} AttentionVisit;

// Keys [start, start + count) of a segment, in rows row, ... of k and v, and their visits [begin, end), of which there
// is one at least. slot: where the partial sums go; -1: to dk and dv themselves.
typedef struct __attribute__((aligned(16))) AttentionKeys {
    int32_t row, start, count, begin, end, slot, unused[2];
} AttentionKeys;

// Partial sums of `count` keys in rows row, ...: `parts` slots from `slot` on; no parts: no query reaches them, and dk
// and dv are zero.
typedef struct __attribute__((aligned(16))) AttentionSum {
    int32_t row, count, slot, parts;
} AttentionSum;

// Device pointers, each to 16-byte aligned memory.
typedef struct AttentionPlan {
    const AttentionLink *links;
    const AttentionTile *tiles;   // longest first
    const AttentionVisit *visits; // in order: a segment's own tiles, then its descendants'
    const AttentionKeys *keys;    // longest first
    const AttentionSum *sums;
    // In this order nvcc's registers just suffice: it reads neighbours together.
    int32_t tile_count, key_count, sum_count, group_inverse; // token of row m: m * group_inverse >> 16
    int32_t heads, kv_heads, head_dim, group;
    float scale, scale_base_2; // the second: times log2(e), so that e^(scale x) is 2^(scale_base_2 x)
} AttentionPlan;

// --- the kernels ---

// One instance of a kernel: how it is cut. No bits depend on which instance of a row of the table is taken.
typedef struct AttentionInstance {
    const char *name; // as a profiler shows it
    const void *kernel;
    int32_t head_dim; // largest that it takes
    int32_t rows;     // of a tile: of forward and dq, or of a visit
    int32_t keys;     // at a time: of a step of forward's or dq's loop, or of a block of dk and dv
    int32_t threads;
    size_t shared_bytes; // a block
} AttentionInstance;

// The instances of one kernel, [count]: rising in head_dim, and of one head_dim the largest first.
typedef struct AttentionInstances {
    const AttentionInstance *instance;
    int32_t count;
} AttentionInstances;

// A row of the table of kernels (attention.c): what it needs, how it is cut, and its launchers, which start nothing
// where the plan has nothing to do. q, out, dout, dq: T[rows, heads, head_dim]; k, v, dk, dv: T[rows, kv_heads,
// head_dim]; all 16-byte aligned.
typedef struct AttentionKernels {
    const char *name;
    DType dtype;
    int32_t capability;    // least compute capability, 10 * major + minor
    int32_t head_dim_step; // head_dim is a multiple of it
    int32_t key_block;     // keys of a step of forward's softmax, from position 0 on: all that its bits depend on
    int32_t visit_rows;    // rows of a visit, the same of all instances
    AttentionInstances forward, query_gradient, key_gradient;
    cudaError_t (*start_forward)(const AttentionInstance *instance, const AttentionPlan *plan, const void *q,
                                 const void *k, const void *v, void *out, float *lse, cudaStream_t stream);
    // terms: float2[rows, heads], written for start_key_gradient: lse, to the base that the kernels like, and
    // sum(dout * out).
    cudaError_t (*start_query_gradient)(const AttentionInstance *instance, const AttentionPlan *plan, const void *q,
                                        const void *k, const void *v, const void *out, const float *lse,
                                        const void *dout, void *dq, void *terms, cudaStream_t stream);
    // partial: fp32[slots, 2 (dk, dv), kv_heads, instance->keys, head_dim].
    cudaError_t (*start_key_gradient)(const AttentionInstance *instance, const AttentionPlan *plan, const void *q,
                                      const void *k, const void *v, const void *dout, const void *terms, float *partial,
                                      void *dk, void *dv, cudaStream_t stream);
} AttentionKernels;

#ifdef __cplusplus
extern "C" {
#endif
extern const AttentionKernels attention_tensor, attention_plain_bf16, attention_plain_fp32;
#ifdef __cplusplus
}
#endif

// --- making plans (attention_plan.c); host only ---

// What a plan is made from.
typedef struct AttentionShape {
    Attention attention;
    int32_t key_rows; // of dk and dv; backward only
    bool backward;
} AttentionShape;

// How long a plan's tables are at most, and which instances it is for.
typedef struct AttentionDraft {
    const AttentionKernels *kernels;
    const AttentionInstance *forward, *query_gradient, *key_gradient; // NULL: the plan is not for it
    int64_t links, tiles, visits, keys, sums;                         // elements; of keys and sums at most so many
    int32_t longest_tile, longest_keys;                               // in blocks of keys, in visits
    size_t bytes;
} AttentionDraft;

// Bytes of work space that a shape's plan needs.
size_t attention_plan_space(int64_t segments, int64_t key_rows);
// Of a plan that has its tables: at most so many bytes for so many tokens in segments of at least one, whose chains
// hold three segments.
size_t attention_plan_room(int64_t tokens);
// Slots of partial sums times their keys: at most so many for so many query tokens.
int64_t attention_plan_slot_keys(int64_t tokens);

// Chooses the instances for a device of so many multiprocessors and counts the tables. `space` is left for
// attention_plan_fill.
void attention_plan_draft(const AttentionShape *shape, const AttentionKernels *kernels, int32_t multiprocessors,
                          void *space, AttentionDraft *draft);
// Fills the tables in `host` and describes them as they will lie in `device`, where the caller copies draft->bytes.
void attention_plan_fill(const AttentionShape *shape, const AttentionDraft *draft, void *space, char *host,
                         char *device, AttentionPlan *plan);
