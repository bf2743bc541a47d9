// Attention over segment forests in plain fp32, the slow general path: for fp32, which must agree with the CPU, and for
// widths of bf16 that attention_tensor.cu does not take. A tile of rows meets one block of keys at a time in shared
// memory and the softmax is kept online (FlashAttention, arXiv 2205.14135); T only matters where values are loaded and
// stored.
//
// A row's sums run over its sequence from position 0, block by block; masked keys add exact zeros. So its bits depend
// on neither the rows that share its tile nor packing. No atomics: dk and dv are summed per block of keys, over visits
// in order, in one or more parts that sum_parts adds in order.
#include "kernels/cuda/attention.cuh"

enum { ROWS = 16, KEYS = 32, WARPS = 4, THREADS = WARPS * WARP };
static_assert(KEYS == WARP, "a lane has a key of the softmax");
static_assert(ROWS >= ATTENTION_GROUP_MAX, "a tile has a token at least");

// --- products in shared memory ---
// Matrices lie row-major, their rows one more apart than they hold, which keeps rows out of each other's banks.

template <int COLUMNS> struct Pitch { static constexpr int value = COLUMNS + 1; };

// c[m, n] (+)= a[m, depth] b: TA: a is stored as [depth, m]; TB: b is stored as [n, depth]. Thread t has elements t, t
// + THREADS, ... in row-major order, as what reads sums later: no barrier stands between.
template <bool TA, bool TB, bool ADD>
static __device__ inline void product(int m, int n, int depth, const float *a, int lda, const float *b, int ldb,
                                      float *c, int ldc) {
    for (int e = (int)threadIdx.x; e < m * n; e += THREADS) {
        const int i = e / n, j = e % n;
        float sum = ADD ? c[i * ldc + j] : 0.0f;
        for (int k = 0; k < depth; k++)
            sum += (TA ? a[k * lda + i] : a[i * lda + k]) * (TB ? b[j * ldb + k] : b[k * ldb + j]);
        c[i * ldc + j] = sum;
    }
}

static __device__ inline void clear(float *x, int count) {
    for (int e = (int)threadIdx.x; e < count; e += THREADS) x[e] = 0;
}

// --- rows and keys ---

// to[ROWS, head_dim] = a tile's rows of `from`; what is no row is zero.
template <typename T, int HD>
static __device__ inline void load_rows(const AttentionPlan &plan, const Rows &rows, const T *from, float *to) {
    from += rows.base(plan) * plan.head_dim;
    for (int e = (int)threadIdx.x; e < ROWS * plan.head_dim; e += THREADS) {
        const int m = e / plan.head_dim, d = e % plan.head_dim;
        to[m * Pitch<HD>::value + d] =
            m < rows.count(plan) ? to_float(from[(int64_t)rows.offset(plan, m) * plan.head_dim + d]) : 0.0f;
    }
}

template <typename T, int HD>
static __device__ inline void store_rows(const AttentionPlan &plan, const Rows &rows, const float *from, T *to) {
    to += rows.base(plan) * plan.head_dim;
    for (int e = (int)threadIdx.x; e < rows.count(plan) * plan.head_dim; e += THREADS) {
        const int m = e / plan.head_dim, d = e % plan.head_dim;
        from_float(from[m * Pitch<HD>::value + d], &to[(int64_t)rows.offset(plan, m) * plan.head_dim + d]);
    }
}

// to[KEYS, head_dim] = the rows row[KEYS] of k or v; -1: zero.
template <typename T, int HD>
static __device__ inline void load_keys(const AttentionPlan &plan, const int32_t *row, int32_t kv_head, const T *from,
                                        float *to) {
    for (int e = (int)threadIdx.x; e < KEYS * plan.head_dim; e += THREADS) {
        const int j = e / plan.head_dim, d = e % plan.head_dim;
        to[j * Pitch<HD>::value + d] =
            row[j] >= 0 ? to_float(from[((int64_t)row[j] * plan.kv_heads + kv_head) * plan.head_dim + d]) : 0.0f;
    }
}

// row[KEYS] = where the positions start, ... before `end` lie; -1 behind it.
static __device__ inline void find_keys(KeyReader &reader, int32_t start, int32_t end, int32_t *row) {
    reader.start_block(start);
    for (int j = (int)threadIdx.x; j < KEYS; j += THREADS) row[j] = start + j < end ? reader.row(start + j) : -1;
}

// --- forward ---

template <int HD> struct ForwardShared {
    float q[ROWS * Pitch<HD>::value], kv[KEYS * Pitch<HD>::value], sum[ROWS * Pitch<HD>::value];
    float p[ROWS * Pitch<KEYS>::value]; // scores at first
    float top[ROWS], total[ROWS];
    int32_t row[KEYS];
};

// The softmax of one block of keys: p from scores, and what came before scaled to the new maximum. A lane has a key.
template <int HD, typename Seen>
static __device__ inline void softmax_step(ForwardShared<HD> *s, const AttentionPlan &plan, Seen seen) {
    const int lane = (int)(threadIdx.x % WARP);
    for (int m = (int)(threadIdx.x / WARP); m < ROWS; m += WARPS) {
        const bool counts = seen(m, lane);
        const float score = counts ? s->p[m * Pitch<KEYS>::value + lane] * plan.scale : -INFINITY;
        const float before = s->top[m], top = fmaxf(before, warp_max(score));
        const float p = counts ? expf(score - top) : 0.0f;
        const float shrink = before == top ? 1.0f : expf(before - top); // -inf at first: 0
        const float sum = warp_sum(p);
        s->p[m * Pitch<KEYS>::value + lane] = p;
        for (int d = lane; d < plan.head_dim; d += WARP) s->sum[m * Pitch<HD>::value + d] *= shrink;
        if (lane == 0) {
            s->top[m] = top;
            s->total[m] = s->total[m] * shrink + sum;
        }
    }
}

template <typename T, int HD>
KERNEL(THREADS)
plain_forward(AttentionPlan plan, const T *q, const T *k, const T *v, T *out, float *lse) {
    SHARED_BYTES(ForwardShared<HD>, s);
    constexpr int LD = Pitch<HD>::value, LD_P = Pitch<KEYS>::value;
    const AttentionTile tile = tile_of_block(plan);
    const Rows rows = rows_of_block(plan);
    const int32_t end = tile.position + tile.tokens;
    KeyReader reader(plan, tile);
    load_rows<T, HD>(plan, rows, q, s->q);
    clear(s->sum, ROWS * LD);
    for (int m = (int)threadIdx.x; m < ROWS; m += THREADS) {
        s->top[m] = -INFINITY;
        s->total[m] = 0;
    }
    for (int32_t start = 0; start < end; start += KEYS) {
        find_keys(reader, start, end, s->row);
        __syncthreads(); // and the block before is done with keys, values and sums
        load_keys<T, HD>(plan, s->row, rows.kv_head, k, s->kv);
        __syncthreads();
        product<false, true, false>(ROWS, KEYS, plan.head_dim, s->q, LD, s->kv, LD, s->p, LD_P);
        __syncthreads();
        load_keys<T, HD>(plan, s->row, rows.kv_head, v, s->kv);
        softmax_step<HD>(
            s, plan, [&](int m, int j) { return m < rows.count(plan) && start + j <= tile.position + m / plan.group; });
        __syncthreads();
        product<false, false, true>(ROWS, plan.head_dim, KEYS, s->p, LD_P, s->kv, LD, s->sum, LD);
    }
    for (int e = (int)threadIdx.x; e < ROWS * plan.head_dim; e += THREADS)
        s->sum[e / plan.head_dim * LD + e % plan.head_dim] /= s->total[e / plan.head_dim];
    store_rows<T, HD>(plan, rows, s->sum, out);
    for (int m = (int)threadIdx.x; m < rows.count(plan); m += THREADS)
        lse[rows.base(plan) + rows.offset(plan, m)] = s->top[m] + logf(s->total[m]);
}

// --- backward ---

// What backward needs of a row: {lse, sum(dout * out)}.
typedef float2 Terms;

// What both backward kernels have of a tile against a block of keys.
template <int HD> struct BackwardShared {
    float q[ROWS * Pitch<HD>::value], dout[ROWS * Pitch<HD>::value];
    float k[KEYS * Pitch<HD>::value], v[KEYS * Pitch<HD>::value];
    float p[ROWS * Pitch<KEYS>::value], ds[ROWS * Pitch<KEYS>::value]; // q k^T and dout v^T at first
    Terms terms[ROWS];
    int32_t row[KEYS];
};

// p = exp(score - lse) and ds = scale p (dp - delta).
template <int HD, typename Seen>
static __device__ inline void softmax_backward(BackwardShared<HD> *s, const AttentionPlan &plan, Seen seen) {
    constexpr int LD = Pitch<HD>::value, LD_P = Pitch<KEYS>::value;
    product<false, true, false>(ROWS, KEYS, plan.head_dim, s->q, LD, s->k, LD, s->p, LD_P);
    product<false, true, false>(ROWS, KEYS, plan.head_dim, s->dout, LD, s->v, LD, s->ds, LD_P);
    for (int e = (int)threadIdx.x; e < ROWS * KEYS; e += THREADS) { // the same thread's elements as above
        const int m = e / KEYS, j = e % KEYS;
        float p = 0, ds = 0;
        if (seen(m, j)) {
            p = expf(s->p[m * LD_P + j] * plan.scale - s->terms[m].x);
            ds = plan.scale * p * (s->ds[m * LD_P + j] - s->terms[m].y);
        }
        s->p[m * LD_P + j] = p;
        s->ds[m * LD_P + j] = ds;
    }
    __syncthreads();
}

// Fills the terms of a tile's rows, in shared memory and for key_gradient; dout is there. A warp has a row.
template <typename T, int HD>
static __device__ inline void make_terms(BackwardShared<HD> *s, const AttentionPlan &plan, const Rows &rows,
                                         const T *out, const float *lse, Terms *terms) {
    const int lane = (int)(threadIdx.x % WARP);
    for (int m = (int)(threadIdx.x / WARP); m < rows.count(plan); m += WARPS) {
        const int64_t row = rows.base(plan) + rows.offset(plan, m);
        float delta = 0;
        for (int d = lane; d < plan.head_dim; d += WARP)
            delta += s->dout[m * Pitch<HD>::value + d] * to_float(out[row * plan.head_dim + d]);
        delta = warp_sum(delta);
        if (lane == 0) s->terms[m] = terms[row] = make_float2(lse[row], delta);
    }
}

template <int HD> struct QueryShared {
    BackwardShared<HD> part;
    float dq[ROWS * Pitch<HD>::value];
};

template <typename T, int HD>
KERNEL(THREADS)
plain_query_gradient(AttentionPlan plan, const T *q, const T *k, const T *v, const T *out, const float *lse,
                     const T *dout, T *dq, Terms *terms) {
    SHARED_BYTES(QueryShared<HD>, s);
    constexpr int LD = Pitch<HD>::value, LD_P = Pitch<KEYS>::value;
    const AttentionTile tile = tile_of_block(plan);
    const Rows rows = rows_of_block(plan);
    const int32_t end = tile.position + tile.tokens;
    KeyReader reader(plan, tile);
    load_rows<T, HD>(plan, rows, q, s->part.q);
    load_rows<T, HD>(plan, rows, dout, s->part.dout);
    clear(s->dq, ROWS * LD);
    __syncthreads();
    make_terms<T, HD>(&s->part, plan, rows, out, lse, terms);
    for (int32_t start = 0; start < end; start += KEYS) {
        find_keys(reader, start, end, s->part.row);
        __syncthreads(); // and the block before is done with keys and gradients of scores
        load_keys<T, HD>(plan, s->part.row, rows.kv_head, k, s->part.k);
        load_keys<T, HD>(plan, s->part.row, rows.kv_head, v, s->part.v);
        __syncthreads();
        softmax_backward<HD>(&s->part, plan, [&](int m, int j) {
            return m < rows.count(plan) && start + j <= tile.position + m / plan.group;
        });
        product<false, false, true>(ROWS, plan.head_dim, KEYS, s->part.ds, LD_P, s->part.k, LD, s->dq, LD);
    }
    store_rows<T, HD>(plan, rows, s->dq, dq);
}

template <int HD> struct KeyShared {
    BackwardShared<HD> part;
    float dk[KEYS * Pitch<HD>::value], dv[KEYS * Pitch<HD>::value];
};

template <typename T, int HD>
KERNEL(THREADS)
plain_key_gradient(AttentionPlan plan, const T *q, const T *k, const T *v, const T *dout, const Terms *terms,
                   float *partial, T *dk, T *dv) {
    SHARED_BYTES(KeyShared<HD>, s);
    constexpr int LD = Pitch<HD>::value, LD_P = Pitch<KEYS>::value;
    const AttentionKeys keys = keys_of_block(plan);
    const int32_t kv_head = kv_head_of_block(plan);
    for (int j = (int)threadIdx.x; j < KEYS; j += THREADS) s->part.row[j] = j < keys.count ? keys.row + j : -1;
    __syncthreads();
    load_keys<T, HD>(plan, s->part.row, kv_head, k, s->part.k);
    load_keys<T, HD>(plan, s->part.row, kv_head, v, s->part.v);
    clear(s->dk, KEYS * LD);
    clear(s->dv, KEYS * LD);
    for (int32_t i = keys.begin; i < keys.end; i++) {
        const AttentionVisit visit = plan.visits[i];
        const Rows rows = {visit.row, visit.tokens, kv_head};
        __syncthreads(); // the visit before is done with
        load_rows<T, HD>(plan, rows, q, s->part.q);
        load_rows<T, HD>(plan, rows, dout, s->part.dout);
        for (int m = (int)threadIdx.x; m < rows.count(plan); m += THREADS)
            s->part.terms[m] = terms[rows.base(plan) + rows.offset(plan, m)];
        __syncthreads();
        softmax_backward<HD>(&s->part, plan, [&](int m, int j) {
            return m < rows.count(plan) && j < keys.count && keys.start + j <= visit.offset + m / plan.group;
        });
        product<true, false, true>(KEYS, plan.head_dim, ROWS, s->part.p, LD_P, s->part.dout, LD, s->dv, LD);
        product<true, false, true>(KEYS, plan.head_dim, ROWS, s->part.ds, LD_P, s->part.q, LD, s->dk, LD);
    }
    const int64_t block = (int64_t)KEYS * plan.head_dim, half_slot = plan.kv_heads * block;
    for (int e = (int)threadIdx.x; e < keys.count * plan.head_dim; e += THREADS) {
        const int j = e / plan.head_dim, d = e % plan.head_dim;
        const float of_k = s->dk[j * LD + d], of_v = s->dv[j * LD + d];
        if (keys.slot >= 0) {
            float *to = partial + 2 * keys.slot * half_slot + kv_head * block + e;
            to[0] = of_k;
            to[half_slot] = of_v;
        } else {
            const int64_t to = ((int64_t)(keys.row + j) * plan.kv_heads + kv_head) * plan.head_dim + d;
            from_float(of_k, &dk[to]);
            from_float(of_v, &dv[to]);
        }
    }
}

// --- launchers ---

template <typename T> struct Kernels {
    typedef void (*Forward)(AttentionPlan, const T *, const T *, const T *, T *, float *);
    typedef void (*Query)(AttentionPlan, const T *, const T *, const T *, const T *, const float *, const T *, T *,
                          Terms *);
    typedef void (*Key)(AttentionPlan, const T *, const T *, const T *, const T *, const Terms *, float *, T *, T *);
};

template <typename T>
static cudaError_t start_forward(const AttentionInstance *instance, const AttentionPlan *plan, const void *q,
                                 const void *k, const void *v, void *out, float *lse, cudaStream_t stream) {
    if (plan->tile_count == 0) return cudaSuccess;
    const auto kernel = reinterpret_cast<typename Kernels<T>::Forward>(const_cast<void *>(instance->kernel));
    LAUNCH_INSTANCE(kernel, instance, blocks_for(plan, plan->tile_count), stream, *plan, (const T *)q, (const T *)k,
                    (const T *)v, (T *)out, lse);
    return cudaGetLastError();
}

template <typename T>
static cudaError_t start_query_gradient(const AttentionInstance *instance, const AttentionPlan *plan, const void *q,
                                        const void *k, const void *v, const void *out, const float *lse,
                                        const void *dout, void *dq, void *terms, cudaStream_t stream) {
    if (plan->tile_count == 0) return cudaSuccess;
    const auto kernel = reinterpret_cast<typename Kernels<T>::Query>(const_cast<void *>(instance->kernel));
    LAUNCH_INSTANCE(kernel, instance, blocks_for(plan, plan->tile_count), stream, *plan, (const T *)q, (const T *)k,
                    (const T *)v, (const T *)out, lse, (const T *)dout, (T *)dq, (Terms *)terms);
    return cudaGetLastError();
}

template <typename T>
static cudaError_t start_key_gradient(const AttentionInstance *instance, const AttentionPlan *plan, const void *q,
                                      const void *k, const void *v, const void *dout, const void *terms, float *partial,
                                      void *dk, void *dv, cudaStream_t stream) {
    if (plan->key_count > 0) {
        const auto kernel = reinterpret_cast<typename Kernels<T>::Key>(const_cast<void *>(instance->kernel));
        LAUNCH_INSTANCE(kernel, instance, blocks_for(plan, plan->key_count), stream, *plan, (const T *)q, (const T *)k,
                        (const T *)v, (const T *)dout, (const Terms *)terms, partial, (T *)dk, (T *)dv);
        const cudaError_t error = cudaGetLastError();
        if (error != cudaSuccess) return error;
    }
    return start_sums<T>(instance, plan, partial, dk, dv, stream);
}

// --- the table's rows ---

#define INSTANCE(T, Type, kernel, hd, Shared)                                                                          \
    {                                                                                                                  \
#kernel "<" #T ", " #hd ">",                                                                                   \
            reinterpret_cast < const void *>(static_cast <Kernels <T>::Type>(kernel <T, hd>)), hd, ROWS, KEYS,         \
            THREADS, sizeof(Shared <hd>)                                                                               \
    }
#define INSTANCES(T, array, Type, kernel, Shared)                                                                      \
    static const AttentionInstance array[] = {INSTANCE(T, Type, kernel, 64, Shared),                                   \
                                              INSTANCE(T, Type, kernel, ATTENTION_HEAD_DIM_MAX, Shared)}
INSTANCES(float, FORWARDS, Forward, plain_forward, ForwardShared);
INSTANCES(float, QUERY_GRADIENTS, Query, plain_query_gradient, QueryShared);
INSTANCES(float, KEY_GRADIENTS, Key, plain_key_gradient, KeyShared);
INSTANCES(__nv_bfloat16, FORWARDS_BF16, Forward, plain_forward, ForwardShared);
INSTANCES(__nv_bfloat16, QUERY_GRADIENTS_BF16, Query, plain_query_gradient, QueryShared);
INSTANCES(__nv_bfloat16, KEY_GRADIENTS_BF16, Key, plain_key_gradient, KeyShared);

const AttentionKernels attention_plain_fp32 = {
    "plain fp32",
    DTYPE_F32,
    0,
    1,
    KEYS,
    ROWS,
    ATTENTION_INSTANCES(FORWARDS),
    ATTENTION_INSTANCES(QUERY_GRADIENTS),
    ATTENTION_INSTANCES(KEY_GRADIENTS),
    start_forward<float>,
    start_query_gradient<float>,
    start_key_gradient<float>,
};

const AttentionKernels attention_plain_bf16 = {
    "plain bf16",
    DTYPE_BF16,
    0,
    1,
    KEYS,
    ROWS,
    ATTENTION_INSTANCES(FORWARDS_BF16),
    ATTENTION_INSTANCES(QUERY_GRADIENTS_BF16),
    ATTENTION_INSTANCES(KEY_GRADIENTS_BF16),
    start_forward<__nv_bfloat16>,
    start_query_gradient<__nv_bfloat16>,
    start_key_gradient<__nv_bfloat16>,
};
