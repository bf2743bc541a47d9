// Attention over segments with parent chains, forward and backward, in tiles (FlashAttention, arXiv 2205.14135 and
// 2307.08691). A tile is a block of rows - several query tokens times all query heads of one key/value head, so that
// converted keys and values are reused - against a block of keys of one segment. All arithmetic is fp32 in the thread's
// scratch; matrix products go through one register-tiled kernel.
//
// A row's products and sums run over its chain from the root, key block by key block, one fused multiply-add after the
// other; masked keys add exact zeros. So its bits depend neither on the rows that share its tile nor on packing. A
// query range of one token goes another way (single_block), with other bits: which way depends on its own range only.
#include "kernels/cpu/simd/attention.h"
#include "kernels/cpu/simd/vec.h"
#include <math.h>

// --- products ---

// One register tile: c[rows][columns * VL] = (add: c +) sum over k of a[i * a_row + k * a_k] * b[k * b_ld + j].
ALWAYS_INLINE void product_tile(int rows, int columns, int depth, const float *a, int a_row, int a_k, const float *b,
                                int b_ld, float *c, int c_ld, bool add) {
    vf sum[8][2];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < columns; j++) sum[i][j] = add ? vload(c + i * c_ld + j * VL) : vzero();
    for (int k = 0; k < depth; k++) {
        vf bk[2];
#pragma GCC unroll 2
        for (int j = 0; j < columns; j++) bk[j] = vload(b + k * b_ld + j * VL);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            vf aik = vset(a[i * a_row + k * a_k]);
#pragma GCC unroll 2
            for (int j = 0; j < columns; j++) sum[i][j] = vfma(aik, bk[j], sum[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < columns; j++) vstore(c + i * c_ld + j * VL, sum[i][j]);
}

ALWAYS_INLINE void product_columns(int columns, int m, int depth, const float *a, int a_row, int a_k, const float *b,
                                   int b_ld, float *c, int c_ld, bool add) {
    int i = 0;
#ifdef __AVX512F__ // 16 accumulators of 32 registers; with AVX2 8 of 16
    for (; i + 8 <= m; i += 8)
        product_tile(8, columns, depth, a + i * a_row, a_row, a_k, b, b_ld, c + i * c_ld, c_ld, add);
#endif
    for (; i + 4 <= m; i += 4)
        product_tile(4, columns, depth, a + i * a_row, a_row, a_k, b, b_ld, c + i * c_ld, c_ld, add);
    for (; i + 2 <= m; i += 2)
        product_tile(2, columns, depth, a + i * a_row, a_row, a_k, b, b_ld, c + i * c_ld, c_ld, add);
    if (i < m) product_tile(1, columns, depth, a + i * a_row, a_row, a_k, b, b_ld, c + i * c_ld, c_ld, add);
}

// c[m][n] = (add: c +) a b with a[i][k] at a[i * a_row + k * a_k]; n is a multiple of VL.
static __attribute__((noinline)) void product(int m, int n, int depth, const float *a, int a_row, int a_k,
                                              const float *b, int b_ld, float *c, int c_ld, bool add) {
    int j = 0;
    for (; j + 2 * VL <= n; j += 2 * VL) {
        if (add)
            product_columns(2, m, depth, a, a_row, a_k, b + j, b_ld, c + j, c_ld, true);
        else
            product_columns(2, m, depth, a, a_row, a_k, b + j, b_ld, c + j, c_ld, false);
    }
    if (j < n) product_columns(1, m, depth, a, a_row, a_k, b + j, b_ld, c + j, c_ld, add);
}

static int round_up(int n) {
    return (n + VL - 1) / VL * VL;
}

// --- rows and keys ---

// `count` rows of head_dim that stand `from_ld` apart, times factor, to rows `stride` apart.
ALWAYS_INLINE void load_rows_of(DType t, const void *from, int64_t first, int64_t from_ld, int count, int head_dim,
                                float factor, float *to, int stride) {
    for (int i = 0; i < count; i++)
        for (int j = 0; j < head_dim; j += VL)
            vstore(to + i * stride + j, load_to(t, from, j, head_dim, first + i * from_ld) * vset(factor));
}
static void load_rows(DType t, const void *from, int64_t first, int64_t from_ld, int count, int head_dim, float factor,
                      float *to, int stride) {
    if (t == DTYPE_BF16)
        load_rows_of(DTYPE_BF16, from, first, from_ld, count, head_dim, factor, to, stride);
    else
        load_rows_of(DTYPE_F32, from, first, from_ld, count, head_dim, factor, to, stride);
}

static void store_rows(DType t, void *to, int64_t first, int64_t to_ld, int count, int head_dim, float factor,
                       const float *from, int stride) {
    for (int i = 0; i < count; i++)
        for (int j = 0; j < head_dim; j += VL)
            store_to(t, to, j, head_dim, first + i * to_ld, vload(from + i * stride + j) * vset(factor));
}

// to[d][j] = from[j][d] for `keys` rows of head_dim that stand from_ld apart, columns up to the next vector zero; rows
// KEY_BLOCK apart.
ALWAYS_INLINE void transpose_keys(DType t, const void *from, int64_t first, int64_t from_ld, int keys, int head_dim,
                                  float *to) {
    for (int j = 0; j < keys; j += VL)
        for (int d = 0; d < head_dim; d += VL) {
            vf r[VL];
            for (int i = 0; i < VL; i++)
                r[i] = j + i < keys ? load_to(t, from, d, head_dim, first + (j + i) * from_ld) : vzero();
            transpose(r);
            for (int i = 0; i < VL; i++) vstore(to + (d + i) * KEY_BLOCK + j, r[i]);
        }
}

static void transpose_converted(const float *from, int keys, int stride, float *to) {
    transpose_keys(DTYPE_F32, from, 0, stride, keys, stride, to);
}

// A block of query tokens with the query heads of one key/value head: row m is token m / group, head m % group.
typedef struct RowBlock {
    int32_t segment, offset; // of the first token in its segment
    int tokens, rows;
    int64_t first, lse_first; // element of the first row in q, out, dq and in lse
    int32_t kv_head;
} RowBlock;

static int group_size(const Attention *shape) {
    return shape->heads / shape->kv_heads;
}
static int block_tokens(const Attention *shape) {
    return ROW_BLOCK / group_size(shape) < KEY_BLOCK ? ROW_BLOCK / group_size(shape) : KEY_BLOCK;
}

static RowBlock row_block(const Attention *shape, const QueryRange *range, int begin, int32_t kv_head) {
    int tokens = range->length - begin < block_tokens(shape) ? range->length - begin : block_tokens(shape);
    int64_t first = (int64_t)(range->row + begin) * shape->heads + kv_head * group_size(shape);
    return (RowBlock){.segment = range->segment,
                      .offset = range->offset + begin,
                      .tokens = tokens,
                      .rows = tokens * group_size(shape),
                      .first = first * shape->head_dim,
                      .lse_first = first,
                      .kv_head = kv_head};
}

static void load_row_block(const AttentionCall *call, const RowBlock *b, const void *from, float factor, float *to,
                           int stride) {
    const Attention *shape = call->shape;
    int group = group_size(shape);
    for (int token = 0; token < b->tokens; token++)
        load_rows(call->dtype, from, b->first + (int64_t)token * shape->heads * shape->head_dim, shape->head_dim, group,
                  shape->head_dim, factor, to + token * group * stride, stride);
}

// q, dout, lse and d = dout . out of a block, for backward.
static void load_gradient_rows(const AttentionCall *call, const RowBlock *b, AttentionScratch *w, int stride) {
    const Attention *shape = call->shape;
    int group = group_size(shape);
    load_row_block(call, b, call->out, 1.0f, w->q, stride);
    load_row_block(call, b, call->dout, 1.0f, w->dout, stride);
    for (int m = 0; m < b->rows; m++) {
        vf d = vzero();
        for (int j = 0; j < stride; j += VL) d = vfma(vload(w->q + m * stride + j), vload(w->dout + m * stride + j), d);
        w->d[m] = hsum(d);
        w->lse[m] = call->lse[b->lse_first + (int64_t)(m / group) * shape->heads + m % group];
    }
    load_row_block(call, b, call->q, shape->scale, w->q, stride);
}

// Which segment holds level `level` of the chain of `segment`, its root being level 0; -1 past its end.
static int32_t chain_segment(const Attention *shape, int32_t segment, int level) {
    int depth = 0;
    for (int32_t s = segment; s >= 0; s = shape->segments[s].parent) depth++;
    if (level >= depth) return -1;
    for (int up = depth - 1 - level; up > 0; up--) segment = shape->segments[segment].parent;
    return segment;
}

static bool is_within(const Attention *shape, int32_t segment, int32_t ancestor) {
    while (segment > ancestor) segment = shape->segments[segment].parent; // parents come before their children
    return segment == ancestor;
}

// Keys [begin, begin + KEY_BLOCK) of a segment that some row of the block sees; at most 0: none.
static int keys_in_block(const Attention *shape, const RowBlock *b, int32_t segment, int begin) {
    int end = shape->segments[segment].length;
    if (segment == b->segment && b->offset + b->tokens < end) end = b->offset + b->tokens;
    return end - begin < KEY_BLOCK ? end - begin : KEY_BLOCK;
}

// How many of `keys` keys from `begin` on row m sees.
static int visible_keys(const RowBlock *b, int group, int m, int32_t segment, int begin, int keys) {
    if (segment != b->segment) return keys;
    int own = b->offset + m / group + 1 - begin;
    return own < 0 ? 0 : own < keys ? own : keys;
}

static int64_t key_element(const Attention *shape, int32_t segment, int begin, int32_t kv_head) {
    return ((int64_t)(shape->segments[segment].first + begin) * shape->kv_heads + kv_head) * shape->head_dim;
}

// --- tasks ---

// Position in the list of all (item, block of the item, kv head), which is walked forwards and never stored: the items
// are query ranges cut into blocks of tokens, or segments cut into blocks of keys.
typedef struct TaskCursor {
    int64_t first; // number of the item's first task
    int32_t item;
} TaskCursor;

static int32_t blocks_of(int32_t length, int block) {
    return length > 0 ? (length - 1) / block + 1 : 0;
}

// Takes the next task from those shared by the threads: its item, first token or key, and kv head; false when none is
// left.
static bool next_task(AttentionCall *call, TaskCursor *cursor, bool over_keys, int *begin, int32_t *kv_head) {
    const Attention *shape = call->shape;
    int32_t items = over_keys ? shape->segment_count : shape->query_count;
    int block = over_keys ? KEY_BLOCK : block_tokens(shape);
    int64_t task = __atomic_fetch_add(&call->next_task, 1, __ATOMIC_RELAXED);
    for (; cursor->item < items; cursor->item++) {
        int32_t length = over_keys ? shape->segments[cursor->item].length : shape->queries[cursor->item].length;
        int64_t tasks = (int64_t)blocks_of(length, block) * shape->kv_heads;
        if (task < cursor->first + tasks) {
            *begin = (int)((task - cursor->first) / shape->kv_heads) * block;
            *kv_head = (int32_t)((task - cursor->first) % shape->kv_heads);
            return true;
        }
        cursor->first += tasks;
    }
    return false;
}

// --- softmax ---

// Online softmax of one tile: s becomes e^(s - max), earlier sums are rescaled to the new maximum.
static void softmax_tile(AttentionScratch *w, const RowBlock *b, int group, int32_t segment, int begin, int keys,
                         int stride) {
    int width = round_up(keys);
    for (int m = 0; m < b->rows; m++) {
        float *s = w->s + m * KEY_BLOCK;
        int visible = visible_keys(b, group, m, segment, begin, keys);
        vf max = vset(w->row_max[m]);
        for (int j = 0; j < width; j += VL) {
            if (visible < j + VL) vstore(s + j, keep_first(vload(s + j), visible > j ? visible - j : 0, -INFINITY));
            max = vmax(max, vload(s + j));
        }
        float new_max = hmax(max);
        vf sum = vzero();
        for (int j = 0; j < width; j += VL) {
            vf p = vexp(vload(s + j) - vset(new_max));
            vstore(s + j, p);
            sum += p;
        }
        if (new_max != w->row_max[m]) {
            float *row = w->sum + m * stride, shrink = hmax(vexp(vset(w->row_max[m] - new_max)));
            for (int j = 0; j < stride; j += VL) vstore(row + j, vload(row + j) * vset(shrink));
            w->row_sum[m] *= shrink;
            w->row_max[m] = new_max;
        }
        w->row_sum[m] += hsum(sum);
    }
}

// --- forward ---

enum {
    FEW_ROWS = 16, // as decoding has them: not worth converting the values first
    HEADS = 4,     // rows in a tile of the sums over values
    COLUMNS = 4,   // vectors of head_dim in it
};

// sum[m] += sum over j of s[m][j] v_j for `rows` rows, at `columns` vectors of head_dim from element d on.
ALWAYS_INLINE void value_tile(DType t, int rows, int columns, const float *s, const void *v, int64_t first,
                              int64_t key_ld, int keys, int head_dim, int d, float *sum, int stride) {
    vf part[HEADS][COLUMNS];
#pragma GCC unroll 4
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) part[m][c] = vload(sum + m * stride + d + c * VL);
    for (int j = 0; j < keys; j++)
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) {
            vf value = load_to(t, v, d + c * VL, head_dim, first + j * key_ld);
#pragma GCC unroll 4
            for (int m = 0; m < rows; m++) part[m][c] = vfma(vset(s[m * KEY_BLOCK + j]), value, part[m][c]);
        }
#pragma GCC unroll 4
    for (int m = 0; m < rows; m++)
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) vstore(sum + m * stride + d + c * VL, part[m][c]);
}

ALWAYS_INLINE void value_columns(DType t, int rows, const float *s, const void *v, int64_t first, int64_t key_ld,
                                 int keys, int head_dim, float *sum, int stride) {
    int d = 0;
#ifdef __AVX512F__
    for (; d + 4 * VL <= stride; d += 4 * VL)
        value_tile(t, rows, 4, s, v, first, key_ld, keys, head_dim, d, sum, stride);
#endif
    for (; d + 2 * VL <= stride; d += 2 * VL)
        value_tile(t, rows, 2, s, v, first, key_ld, keys, head_dim, d, sum, stride);
    if (d < stride) value_tile(t, rows, 1, s, v, first, key_ld, keys, head_dim, d, sum, stride);
}

// The same for all `m` rows, from the values as they lie.
ALWAYS_INLINE void values_of(DType t, int m, const float *s, const void *v, int64_t first, int64_t key_ld, int keys,
                             int head_dim, float *sum, int stride) {
    int i = 0;
    for (; i + 4 <= m; i += 4)
        value_columns(t, 4, s + i * KEY_BLOCK, v, first, key_ld, keys, head_dim, sum + i * stride, stride);
    for (; i + 2 <= m; i += 2)
        value_columns(t, 2, s + i * KEY_BLOCK, v, first, key_ld, keys, head_dim, sum + i * stride, stride);
    if (i < m) value_columns(t, 1, s + i * KEY_BLOCK, v, first, key_ld, keys, head_dim, sum + i * stride, stride);
}

// One tile: the scores of a block of keys, their softmax, and the sums over the values. Converted values give the bits
// that values as they lie give.
static void forward_tile(const AttentionCall *call, AttentionScratch *w, const RowBlock *b, int32_t segment, int begin,
                         int keys, int stride) {
    const Attention *shape = call->shape;
    int head_dim = shape->head_dim;
    int64_t first = key_element(shape, segment, begin, b->kv_head), key_ld = (int64_t)shape->kv_heads * head_dim;
    if (call->dtype == DTYPE_BF16)
        transpose_keys(DTYPE_BF16, call->k, first, key_ld, keys, head_dim, w->kt);
    else
        transpose_keys(DTYPE_F32, call->k, first, key_ld, keys, head_dim, w->kt);
    product(b->rows, round_up(keys), head_dim, w->q, stride, 1, w->kt, KEY_BLOCK, w->s, KEY_BLOCK, false);
    softmax_tile(w, b, group_size(shape), segment, begin, keys, stride);
    if (b->rows > FEW_ROWS) {
        load_rows(call->dtype, call->v, first, key_ld, keys, head_dim, 1.0f, w->v, stride);
        product(b->rows, stride, keys, w->s, KEY_BLOCK, 1, w->v, stride, w->sum, stride, true);
    } else if (call->dtype == DTYPE_BF16) {
        values_of(DTYPE_BF16, b->rows, w->s, call->v, first, key_ld, keys, head_dim, w->sum, stride);
    } else {
        values_of(DTYPE_F32, b->rows, w->s, call->v, first, key_ld, keys, head_dim, w->sum, stride);
    }
}

void SIMD_NAME(attention)(AttentionCall *call, void *scratch) {
    AttentionScratch *w = scratch;
    const Attention *shape = call->shape;
    int head_dim = shape->head_dim, stride = round_up(head_dim), group = group_size(shape), token;
    int32_t kv_head;
    TaskCursor cursor = {0};
    while (next_task(call, &cursor, false, &token, &kv_head)) {
        RowBlock b = row_block(shape, &shape->queries[cursor.item], token, kv_head);
        load_row_block(call, &b, call->q, shape->scale, w->q, stride);
        memset(w->sum, 0, (size_t)b.rows * stride * sizeof *w->sum);
        for (int m = 0; m < b.rows; m++) {
            w->row_max[m] = -INFINITY;
            w->row_sum[m] = 0;
        }
        int32_t segment;
        for (int level = 0; (segment = chain_segment(shape, b.segment, level)) >= 0; level++) {
            int keys;
            for (int begin = 0; (keys = keys_in_block(shape, &b, segment, begin)) > 0; begin += KEY_BLOCK)
                forward_tile(call, w, &b, segment, begin, keys, stride);
        }
        for (int m = 0; m < b.rows; m++) {
            int64_t row = (int64_t)(m / group) * shape->heads + m % group;
            store_rows(call->dtype, call->out, b.first + row * head_dim, head_dim, 1, head_dim, 1.0f / w->row_sum[m],
                       w->sum + m * stride, stride);
            call->lse[b.lse_first + row] = w->row_max[m] + logf(w->row_sum[m]);
        }
    }
}

// --- backward ---

// One tile, from q, dout, lse, d, kt and vt: s = P = e^(score - lse) and ds = P (dout V^T - d), masked keys 0.
static void gradient_tile(AttentionScratch *w, const RowBlock *b, int group, int head_dim, int stride, int32_t segment,
                          int begin, int keys) {
    int width = round_up(keys);
    product(b->rows, width, head_dim, w->q, stride, 1, w->kt, KEY_BLOCK, w->s, KEY_BLOCK, false);
    product(b->rows, width, head_dim, w->dout, stride, 1, w->vt, KEY_BLOCK, w->ds, KEY_BLOCK, false);
    for (int m = 0; m < b->rows; m++) {
        float *s = w->s + m * KEY_BLOCK, *ds = w->ds + m * KEY_BLOCK;
        int visible = visible_keys(b, group, m, segment, begin, keys);
        for (int j = 0; j < width; j += VL) {
            vf p = vexp(vload(s + j) - vset(w->lse[m])), g = p * (vload(ds + j) - vset(w->d[m]));
            if (visible < j + VL) {
                p = keep_first(p, visible > j ? visible - j : 0, 0.0f);
                g = keep_first(g, visible > j ? visible - j : 0, 0.0f);
            }
            vstore(s + j, p);
            vstore(ds + j, g);
        }
    }
}

void SIMD_NAME(attention_query_gradient)(AttentionCall *call, void *scratch) {
    AttentionScratch *w = scratch;
    const Attention *shape = call->shape;
    int head_dim = shape->head_dim, stride = round_up(head_dim), group = group_size(shape), token;
    int64_t key_ld = (int64_t)shape->kv_heads * head_dim;
    int32_t kv_head;
    TaskCursor cursor = {0};
    while (next_task(call, &cursor, false, &token, &kv_head)) {
        RowBlock b = row_block(shape, &shape->queries[cursor.item], token, kv_head);
        load_gradient_rows(call, &b, w, stride);
        memset(w->sum, 0, (size_t)b.rows * stride * sizeof *w->sum);
        int32_t segment;
        for (int level = 0; (segment = chain_segment(shape, b.segment, level)) >= 0; level++) {
            int keys;
            for (int begin = 0; (keys = keys_in_block(shape, &b, segment, begin)) > 0; begin += KEY_BLOCK) {
                int64_t first = key_element(shape, segment, begin, kv_head);
                load_rows(call->dtype, call->k, first, key_ld, keys, head_dim, 1.0f, w->k, stride);
                load_rows(call->dtype, call->v, first, key_ld, keys, head_dim, 1.0f, w->v, stride);
                transpose_converted(w->k, keys, stride, w->kt);
                transpose_converted(w->v, keys, stride, w->vt);
                gradient_tile(w, &b, group, head_dim, stride, segment, begin, keys);
                product(b.rows, stride, keys, w->ds, KEY_BLOCK, 1, w->k, stride, w->sum, stride, true);
            }
        }
        for (int t = 0; t < b.tokens; t++)
            store_rows(call->dtype, call->dq, b.first + (int64_t)t * shape->heads * head_dim, head_dim, group, head_dim,
                       shape->scale, w->sum + t * group * stride, stride);
    }
}

void SIMD_NAME(attention_key_gradient)(AttentionCall *call, void *scratch) {
    AttentionScratch *w = scratch;
    const Attention *shape = call->shape;
    int head_dim = shape->head_dim, stride = round_up(head_dim), group = group_size(shape), begin;
    int64_t key_ld = (int64_t)shape->kv_heads * head_dim;
    int32_t kv_head;
    TaskCursor cursor = {0};
    while (next_task(call, &cursor, true, &begin, &kv_head)) {
        int32_t segment = cursor.item, length = shape->segments[segment].length;
        int block = length - begin < KEY_BLOCK ? length - begin : KEY_BLOCK;
        int64_t first = key_element(shape, segment, begin, kv_head);
        bool reached = false;
        for (int32_t i = 0; i < shape->query_count; i++) {
            const QueryRange *range = &shape->queries[i];
            if (!is_within(shape, range->segment, segment)) continue;
            for (int token = 0; token < range->length; token += block_tokens(shape)) {
                RowBlock b = row_block(shape, range, token, kv_head);
                int keys = keys_in_block(shape, &b, segment, begin);
                if (keys <= 0) continue;
                if (!reached) {
                    reached = true;
                    load_rows(call->dtype, call->k, first, key_ld, block, head_dim, 1.0f, w->k, stride);
                    load_rows(call->dtype, call->v, first, key_ld, block, head_dim, 1.0f, w->v, stride);
                    transpose_converted(w->k, block, stride, w->kt);
                    transpose_converted(w->v, block, stride, w->vt);
                    memset(w->dk, 0, (size_t)block * stride * sizeof *w->dk);
                    memset(w->dv, 0, (size_t)block * stride * sizeof *w->dv);
                }
                load_gradient_rows(call, &b, w, stride);
                gradient_tile(w, &b, group, head_dim, stride, segment, begin, keys);
                product(keys, stride, b.rows, w->s, 1, KEY_BLOCK, w->dout, stride, w->dv, stride, true);
                product(keys, stride, b.rows, w->ds, 1, KEY_BLOCK, w->q, stride, w->dk, stride, true);
            }
        }
        if (!reached) continue;
        store_rows(call->dtype, call->dk, first, key_ld, block, head_dim, 1.0f, w->dk, stride);
        store_rows(call->dtype, call->dv, first, key_ld, block, head_dim, 1.0f, w->dv, stride);
    }
}
