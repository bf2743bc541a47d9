// Attention over segments with parent chains, forward and backward, in tiles (FlashAttention, arXiv 2205.14135 and
// 2307.08691): a tile of rows meets one block of keys at a time, the softmax is kept online, scores never leave shared
// memory. bf16 products run on tensor cores; probabilities and their gradients are rounded to bf16 for the second
// product, as FlashAttention does. fp32 products are plain fp32.
//
// A row's sums run over its chain from the root, block by block; masked keys add exact zeros. So its bits depend
// neither on the rows that share its tile nor on packing. No atomics: dk and dv are summed per block of keys, over
// tiles in order, in one or more parts that sum_keys adds in order.
#include "kernels/cuda/attention.h"
#include "kernels/cuda/launch.cuh"

enum { KEYS = ATTENTION_KEYS, WARPS = 4, THREADS = WARPS * WARP, TILE = 16 };

// --- products in shared memory ---
// Matrices lie row-major, their rows Pitch apart: 16 bytes more than they hold, which keeps rows out of each other's
// banks and the corners of 16 x 16 tiles 32-byte aligned.

template <typename T, int COLUMNS> struct Pitch { static constexpr int value = COLUMNS + 16 / (int)sizeof(T); };

// c[M, N] (+)= a[M, K] b: TA: a is stored as [K, M]; TB: b is stored as [N, K].
template <int M, int N, int K, bool TA, bool TB, bool ADD>
static __device__ inline void product(const float *a, int lda, const float *b, int ldb, float *c, int ldc) {
    for (int e = (int)threadIdx.x; e < M * N; e += THREADS) {
        const int i = e / N, j = e % N;
        float sum = ADD ? c[i * ldc + j] : 0.0f;
        for (int k = 0; k < K; k++)
            sum += (TA ? a[k * lda + i] : a[i * lda + k]) * (TB ? b[j * ldb + k] : b[k * ldb + j]);
        c[i * ldc + j] = sum;
    }
}

template <bool TRANSPOSED> struct Order { typedef nvcuda::wmma::row_major type; };
template <> struct Order<true> { typedef nvcuda::wmma::col_major type; };

template <int M, int N, int K, bool TA, bool TB, bool ADD>
static __device__ inline void product(const __nv_bfloat16 *a, int lda, const __nv_bfloat16 *b, int ldb, float *c,
                                      int ldc) {
    using namespace nvcuda;
    for (int tile = (int)threadIdx.x / WARP; tile < M / TILE * (N / TILE); tile += WARPS) {
        const int i = tile / (N / TILE) * TILE, j = tile % (N / TILE) * TILE;
        wmma::fragment<wmma::accumulator, TILE, TILE, TILE, float> sum;
        if (ADD)
            wmma::load_matrix_sync(sum, c + i * ldc + j, ldc, wmma::mem_row_major);
        else
            wmma::fill_fragment(sum, 0.0f);
        for (int k = 0; k < K; k += TILE) {
            wmma::fragment<wmma::matrix_a, TILE, TILE, TILE, __nv_bfloat16, typename Order<TA>::type> left;
            wmma::fragment<wmma::matrix_b, TILE, TILE, TILE, __nv_bfloat16, typename Order<TB>::type> right;
            wmma::load_matrix_sync(left, TA ? a + k * lda + i : a + i * lda + k, lda);
            wmma::load_matrix_sync(right, TB ? b + j * ldb + k : b + k * ldb + j, ldb);
            wmma::mma_sync(sum, left, right, sum);
        }
        wmma::store_matrix_sync(c + i * ldc + j, sum, ldc, wmma::mem_row_major);
    }
}

// --- tiles and blocks of keys ---

// ROWS rows of a tile, of one key/value head.
struct Rows {
    AttentionTile tile;
    int32_t group, kv_head;
    __device__ int count() const {
        return tile.tokens * group;
    }
    // Of row m: index into q's [rows, heads].
    __device__ size_t head_row(const AttentionPlan &plan, int m) const {
        return (size_t)(tile.row + m / group) * plan.heads + (size_t)(kv_head * group + m % group);
    }
    __device__ int offset(int m) const {
        return tile.offset + m / group;
    }
};

static __device__ inline Rows rows_of(const AttentionPlan &plan, int32_t tile, int32_t kv_head) {
    return {plan.tiles[tile], plan.heads / plan.kv_heads, kv_head};
}

// to[rows, HD] = the tile's rows of `from`; what is no row or beyond head_dim is zero.
template <typename T, int HD, int ROWS>
static __device__ inline void load_rows(const AttentionPlan &plan, const Rows &rows, const T *from, T *to) {
    for (int e = (int)threadIdx.x; e < ROWS * HD; e += THREADS) {
        const int m = e / HD, d = e % HD;
        T value;
        from_float(0.0f, &value);
        if (m < rows.count() && d < plan.head_dim) value = from[rows.head_row(plan, m) * plan.head_dim + d];
        to[m * Pitch<T, HD>::value + d] = value;
    }
}

// to[KEYS, HD] = keys start, start + 1, ... of a segment.
template <typename T, int HD>
static __device__ inline void load_keys(const AttentionPlan &plan, const Segment &segment, int start, int32_t kv_head,
                                        const T *from, T *to) {
    for (int e = (int)threadIdx.x; e < KEYS * HD; e += THREADS) {
        const int j = e / HD, d = e % HD;
        T value;
        from_float(0.0f, &value);
        if (start + j < segment.length && d < plan.head_dim)
            value = from[((size_t)(segment.first + start + j) * plan.kv_heads + kv_head) * plan.head_dim + d];
        to[j * Pitch<T, HD>::value + d] = value;
    }
}

// Whether row m, at `offset` of its segment `own`, attends to key `start + j` of segment `s`.
static __device__ inline bool sees(int32_t s, int key, const Segment &segment, int32_t own, int offset) {
    return key < segment.length && (s != own || key <= offset);
}

// --- forward ---

template <typename T, int HD, int ROWS> struct ForwardShared {
    alignas(32) T q[ROWS * Pitch<T, HD>::value];
    alignas(32) T kv[KEYS * Pitch<T, HD>::value];
    alignas(32) T p[ROWS * Pitch<T, KEYS>::value];
    alignas(32) float score[ROWS * Pitch<float, KEYS>::value];
    alignas(32) float sum[ROWS * Pitch<float, HD>::value];
    float top[ROWS], total[ROWS];
};

template <typename T, int HD, int ROWS>
KERNEL(THREADS)
forward(AttentionPlan plan, const T *q, const T *k, const T *v, T *out, float *lse) {
    typedef ForwardShared<T, HD, ROWS> Shared;
    SHARED_BYTES(Shared, s);
    constexpr int LD = Pitch<T, HD>::value, LD_P = Pitch<T, KEYS>::value, LD_SCORE = Pitch<float, KEYS>::value;
    constexpr int LD_SUM = Pitch<float, HD>::value;
    const Rows rows = rows_of(plan, (int32_t)blockIdx.x, (int32_t)blockIdx.y);
    const int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, own = rows.tile.segment;
    load_rows<T, HD, ROWS>(plan, rows, q, s->q);
    for (int e = (int)threadIdx.x; e < ROWS * HD; e += THREADS) s->sum[e / HD * LD_SUM + e % HD] = 0;
    for (int m = (int)threadIdx.x; m < ROWS; m += THREADS) {
        s->top[m] = -INFINITY;
        s->total[m] = 0;
    }
    for (int link = plan.chain_begin[own]; link < plan.chain_begin[own + 1]; link++) {
        const int32_t at = plan.chain[link];
        const Segment segment = plan.segments[at];
        const int end = at == own ? rows.tile.offset + rows.tile.tokens : segment.length;
        for (int start = 0; start < end; start += KEYS) {
            __syncthreads(); // the block before is done with keys, values and sums
            load_keys<T, HD>(plan, segment, start, rows.kv_head, k, s->kv);
            __syncthreads();
            product<ROWS, KEYS, HD, false, true, false>(s->q, LD, s->kv, LD, s->score, LD_SCORE);
            __syncthreads();
            load_keys<T, HD>(plan, segment, start, rows.kv_head, v, s->kv);
            for (int m = warp; m < ROWS; m += WARPS) { // a lane has a key
                const bool seen = sees(at, start + lane, segment, own, rows.offset(m)) && m < rows.count();
                const float score = seen ? s->score[m * LD_SCORE + lane] * plan.scale : -INFINITY;
                const float before = s->top[m], top = fmaxf(before, warp_max(score));
                const float p = seen ? expf(score - top) : 0.0f;
                const float shrink = before == top ? 1.0f : expf(before - top); // -inf at first: 0
                const float sum = warp_sum(p);
                from_float(p, &s->p[m * LD_P + lane]);
                for (int d = lane; d < HD; d += WARP) s->sum[m * LD_SUM + d] *= shrink;
                if (lane == 0) {
                    s->top[m] = top;
                    s->total[m] = s->total[m] * shrink + sum;
                }
            }
            __syncthreads();
            product<ROWS, HD, KEYS, false, false, true>(s->p, LD_P, s->kv, LD, s->sum, LD_SUM);
        }
    }
    __syncthreads();
    for (int e = (int)threadIdx.x; e < rows.count() * HD; e += THREADS) {
        const int m = e / HD, d = e % HD;
        if (d < plan.head_dim)
            from_float(s->sum[m * LD_SUM + d] / s->total[m], &out[rows.head_row(plan, m) * plan.head_dim + d]);
    }
    for (int m = (int)threadIdx.x; m < rows.count(); m += THREADS)
        lse[rows.head_row(plan, m)] = s->top[m] + logf(s->total[m]);
}

// --- backward ---

template <typename T>
KERNEL(THREADS)
row_delta(const T *dout, const T *out, float *delta, size_t rows, int32_t head_dim) {
    const size_t row = (size_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    if (row >= rows) return; // whole warps
    float sum = 0;
    for (int d = (int)(threadIdx.x % WARP); d < head_dim; d += WARP)
        sum += to_float(dout[row * head_dim + d]) * to_float(out[row * head_dim + d]);
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) delta[row] = sum;
}

// What both backward kernels have of a tile against a block of keys.
template <typename T, int HD, int ROWS> struct BackwardShared {
    alignas(32) T q[ROWS * Pitch<T, HD>::value];
    alignas(32) T dout[ROWS * Pitch<T, HD>::value];
    alignas(32) T k[KEYS * Pitch<T, HD>::value];
    alignas(32) T v[KEYS * Pitch<T, HD>::value];
    alignas(32) T p[ROWS * Pitch<T, KEYS>::value];
    alignas(32) T ds[ROWS * Pitch<T, KEYS>::value];
    alignas(32) float score[ROWS * Pitch<float, KEYS>::value];
    alignas(32) float dp[ROWS * Pitch<float, KEYS>::value];
};

// p = exp(score - lse) and ds = scale p (dp - delta), both rounded to T, from scores and dp = dout v^T.
template <typename T, int HD, int ROWS>
static __device__ inline void softmax_backward(BackwardShared<T, HD, ROWS> *s, const AttentionPlan &plan,
                                               const Rows &rows, int32_t at, const Segment &segment, int start,
                                               const float *lse, const float *delta) {
    constexpr int LD = Pitch<T, HD>::value, LD_P = Pitch<T, KEYS>::value, LD_SCORE = Pitch<float, KEYS>::value;
    product<ROWS, KEYS, HD, false, true, false>(s->q, LD, s->k, LD, s->score, LD_SCORE);
    product<ROWS, KEYS, HD, false, true, false>(s->dout, LD, s->v, LD, s->dp, LD_SCORE);
    __syncthreads();
    for (int e = (int)threadIdx.x; e < ROWS * KEYS; e += THREADS) {
        const int m = e / KEYS, j = e % KEYS;
        float p = 0, ds = 0;
        if (m < rows.count() && sees(at, start + j, segment, rows.tile.segment, rows.offset(m))) {
            const size_t row = rows.head_row(plan, m);
            p = expf(s->score[m * LD_SCORE + j] * plan.scale - lse[row]);
            ds = plan.scale * p * (s->dp[m * LD_SCORE + j] - delta[row]);
        }
        from_float(p, &s->p[m * LD_P + j]);
        from_float(ds, &s->ds[m * LD_P + j]);
    }
    __syncthreads();
}

template <typename T, int HD, int ROWS> struct QueryShared {
    BackwardShared<T, HD, ROWS> part;
    alignas(32) float dq[ROWS * Pitch<float, HD>::value];
};

template <typename T, int HD, int ROWS>
KERNEL(THREADS)
query_gradient(AttentionPlan plan, const T *q, const T *k, const T *v, const float *lse, const float *delta,
               const T *dout, T *dq) {
    typedef QueryShared<T, HD, ROWS> Shared;
    SHARED_BYTES(Shared, s);
    constexpr int LD = Pitch<T, HD>::value, LD_P = Pitch<T, KEYS>::value, LD_SUM = Pitch<float, HD>::value;
    const Rows rows = rows_of(plan, (int32_t)blockIdx.x, (int32_t)blockIdx.y);
    const int own = rows.tile.segment;
    load_rows<T, HD, ROWS>(plan, rows, q, s->part.q);
    load_rows<T, HD, ROWS>(plan, rows, dout, s->part.dout);
    for (int e = (int)threadIdx.x; e < ROWS * HD; e += THREADS) s->dq[e / HD * LD_SUM + e % HD] = 0;
    for (int link = plan.chain_begin[own]; link < plan.chain_begin[own + 1]; link++) {
        const int32_t at = plan.chain[link];
        const Segment segment = plan.segments[at];
        const int end = at == own ? rows.tile.offset + rows.tile.tokens : segment.length;
        for (int start = 0; start < end; start += KEYS) {
            __syncthreads(); // the block before is done with keys and gradients of scores
            load_keys<T, HD>(plan, segment, start, rows.kv_head, k, s->part.k);
            load_keys<T, HD>(plan, segment, start, rows.kv_head, v, s->part.v);
            __syncthreads();
            softmax_backward<T, HD, ROWS>(&s->part, plan, rows, at, segment, start, lse, delta);
            product<ROWS, HD, KEYS, false, false, true>(s->part.ds, LD_P, s->part.k, LD, s->dq, LD_SUM);
        }
    }
    __syncthreads();
    for (int e = (int)threadIdx.x; e < rows.count() * HD; e += THREADS) {
        const int m = e / HD, d = e % HD;
        if (d < plan.head_dim) from_float(s->dq[m * LD_SUM + d], &dq[rows.head_row(plan, m) * plan.head_dim + d]);
    }
}

template <typename T, int HD, int ROWS> struct KeyShared {
    BackwardShared<T, HD, ROWS> part;
    alignas(32) float dk[KEYS * Pitch<float, HD>::value];
    alignas(32) float dv[KEYS * Pitch<float, HD>::value];
};

template <typename T, int HD, int ROWS>
KERNEL(THREADS)
key_gradient(AttentionPlan plan, const T *q, const T *k, const T *v, const float *lse, const float *delta,
             const T *dout, float *partial, T *dk, T *dv) {
    typedef KeyShared<T, HD, ROWS> Shared;
    SHARED_BYTES(Shared, s);
    constexpr int LD = Pitch<T, HD>::value, LD_P = Pitch<T, KEYS>::value, LD_SUM = Pitch<float, HD>::value;
    const AttentionKeys keys = plan.keys[blockIdx.x];
    const Segment segment = plan.segments[keys.segment];
    const int32_t kv_head = (int32_t)blockIdx.y;
    load_keys<T, HD>(plan, segment, keys.start, kv_head, k, s->part.k);
    load_keys<T, HD>(plan, segment, keys.start, kv_head, v, s->part.v);
    for (int e = (int)threadIdx.x; e < KEYS * HD; e += THREADS)
        s->dk[e / HD * LD_SUM + e % HD] = s->dv[e / HD * LD_SUM + e % HD] = 0;
    for (int32_t place = keys.begin; place < keys.end; place++) {
        const Rows rows = rows_of(plan, plan.list[place], kv_head);
        if (rows.tile.segment == keys.segment && rows.tile.offset + rows.tile.tokens <= keys.start)
            continue;    // all before
        __syncthreads(); // the tile before is done with
        load_rows<T, HD, ROWS>(plan, rows, q, s->part.q);
        load_rows<T, HD, ROWS>(plan, rows, dout, s->part.dout);
        __syncthreads();
        softmax_backward<T, HD, ROWS>(&s->part, plan, rows, keys.segment, segment, keys.start, lse, delta);
        product<KEYS, HD, ROWS, true, false, true>(s->part.p, LD_P, s->part.dout, LD, s->dv, LD_SUM);
        product<KEYS, HD, ROWS, true, false, true>(s->part.ds, LD_P, s->part.q, LD, s->dk, LD_SUM);
    }
    __syncthreads();
    for (int e = (int)threadIdx.x; e < KEYS * HD; e += THREADS) {
        const int j = e / HD, d = e % HD;
        if (d >= plan.head_dim) continue;
        const float of_k = s->dk[j * LD_SUM + d], of_v = s->dv[j * LD_SUM + d];
        if (keys.slot >= 0) {
            float *to = partial + (((size_t)keys.slot * 2 * plan.kv_heads + kv_head) * KEYS + j) * plan.head_dim + d;
            to[0] = of_k;
            to[(size_t)plan.kv_heads * KEYS * plan.head_dim] = of_v;
        } else if (keys.start + j < segment.length) {
            const size_t to = ((size_t)(segment.first + keys.start + j) * plan.kv_heads + kv_head) * plan.head_dim + d;
            from_float(of_k, &dk[to]);
            from_float(of_v, &dv[to]);
        }
    }
}

// The parts of one block of keys, in order.
template <typename T> KERNEL(THREADS) sum_keys(AttentionPlan plan, const float *partial, T *dk, T *dv) {
    const AttentionSum sum = plan.sums[blockIdx.x];
    const Segment segment = plan.segments[sum.segment];
    const size_t half = (size_t)plan.kv_heads * KEYS * plan.head_dim;
    for (size_t e = threadIdx.x; e < half; e += THREADS) {
        const int d = (int)(e % plan.head_dim), j = (int)(e / plan.head_dim % KEYS);
        const int kv_head = (int)(e / plan.head_dim / KEYS);
        if (sum.start + j >= segment.length) continue;
        float of_k = 0, of_v = 0;
        for (int32_t slot = sum.slot; slot < sum.slot + sum.count; slot++) {
            of_k += partial[(size_t)slot * 2 * half + e];
            of_v += partial[((size_t)slot * 2 + 1) * half + e];
        }
        const size_t to = ((size_t)(segment.first + sum.start + j) * plan.kv_heads + kv_head) * plan.head_dim + d;
        from_float(of_k, &dk[to]);
        from_float(of_v, &dv[to]);
    }
}

// --- launchers ---

// Sets up a kernel's shared memory, once a kernel, and starts it on (x, kv_heads) blocks.
#define START(Shared, kernel, x, plan, stream, ...)                                                                    \
    do {                                                                                                               \
        static cudaError_t allowed =                                                                                   \
            cudaFuncSetAttribute(reinterpret_cast<const void *>(&kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, \
                                 (int)sizeof(Shared));                                                                 \
        if (allowed != cudaSuccess) return allowed;                                                                    \
        LAUNCH_BLOCKS((kernel), dim3((unsigned)(x), (unsigned)(plan)->kv_heads), THREADS, sizeof(Shared), stream,      \
                      *(plan), __VA_ARGS__);                                                                           \
    } while (0)

template <typename T, int HD, int ROWS>
static cudaError_t start_forward(const AttentionPlan *plan, const void *q, const void *k, const void *v, void *out,
                                 float *lse, cudaStream_t stream) {
    typedef ForwardShared<T, HD, ROWS> Shared;
    START(Shared, (forward<T, HD, ROWS>), plan->tile_count, plan, stream, (const T *)q, (const T *)k, (const T *)v,
          (T *)out, lse);
    return cudaGetLastError();
}

template <typename T, int HD, int ROWS>
static cudaError_t start_query(const AttentionPlan *plan, const void *q, const void *k, const void *v, const float *lse,
                               const float *delta, const void *dout, void *dq, cudaStream_t stream) {
    typedef QueryShared<T, HD, ROWS> Shared;
    START(Shared, (query_gradient<T, HD, ROWS>), plan->tile_count, plan, stream, (const T *)q, (const T *)k,
          (const T *)v, lse, delta, (const T *)dout, (T *)dq);
    return cudaGetLastError();
}

template <typename T, int HD, int ROWS>
static cudaError_t start_keys(const AttentionPlan *plan, const void *q, const void *k, const void *v, const float *lse,
                              const float *delta, const void *dout, float *partial, void *dk, void *dv,
                              cudaStream_t stream) {
    typedef KeyShared<T, HD, ROWS> Shared;
    START(Shared, (key_gradient<T, HD, ROWS>), plan->key_count, plan, stream, (const T *)q, (const T *)k, (const T *)v,
          lse, delta, (const T *)dout, partial, (T *)dk, (T *)dv);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess || plan->sum_count == 0) return error;
    LAUNCH(sum_keys<T>, (unsigned)plan->sum_count, THREADS, stream, *plan, partial, (T *)dk, (T *)dv);
    return cudaGetLastError();
}

// The instance for a dtype and the next width that holds head_dim.
#define BY_SHAPE(start, dtype, head_dim, ...)                                                                          \
    do {                                                                                                               \
        if ((dtype) == DTYPE_BF16) {                                                                                   \
            if ((head_dim) <= 16) return start<__nv_bfloat16, 16, 32>(__VA_ARGS__);                                    \
            if ((head_dim) <= 32) return start<__nv_bfloat16, 32, 32>(__VA_ARGS__);                                    \
            if ((head_dim) <= 64) return start<__nv_bfloat16, 64, 32>(__VA_ARGS__);                                    \
            return start<__nv_bfloat16, 128, 32>(__VA_ARGS__);                                                         \
        }                                                                                                              \
        if ((head_dim) <= 16) return start<float, 16, 32>(__VA_ARGS__);                                                \
        if ((head_dim) <= 32) return start<float, 32, 32>(__VA_ARGS__);                                                \
        if ((head_dim) <= 64) return start<float, 64, 32>(__VA_ARGS__);                                                \
        return start<float, 128, 16>(__VA_ARGS__);                                                                     \
    } while (0)

cudaError_t attention_forward(DType dtype, const AttentionPlan *plan, const void *q, const void *k, const void *v,
                              void *out, float *lse, cudaStream_t stream) {
    BY_SHAPE(start_forward, dtype, plan->head_dim, plan, q, k, v, out, lse, stream);
}

cudaError_t attention_delta(DType dtype, const void *dout, const void *out, float *delta, size_t rows, int32_t head_dim,
                            cudaStream_t stream) {
    const unsigned grid = (unsigned)((rows + WARPS - 1) / WARPS);
    if (dtype == DTYPE_BF16)
        LAUNCH_BLOCKS(row_delta<__nv_bfloat16>, grid, THREADS, 0, stream, (const __nv_bfloat16 *)dout,
                      (const __nv_bfloat16 *)out, delta, rows, head_dim);
    else
        LAUNCH_BLOCKS(row_delta<float>, grid, THREADS, 0, stream, (const float *)dout, (const float *)out, delta, rows,
                      head_dim);
    return cudaGetLastError();
}

cudaError_t attention_query_gradient(DType dtype, const AttentionPlan *plan, const void *q, const void *k,
                                     const void *v, const float *lse, const float *delta, const void *dout, void *dq,
                                     cudaStream_t stream) {
    BY_SHAPE(start_query, dtype, plan->head_dim, plan, q, k, v, lse, delta, dout, dq, stream);
}

cudaError_t attention_key_gradient(DType dtype, const AttentionPlan *plan, const void *q, const void *k, const void *v,
                                   const float *lse, const float *delta, const void *dout, float *partial, void *dk,
                                   void *dv, cudaStream_t stream) {
    BY_SHAPE(start_keys, dtype, plan->head_dim, plan, q, k, v, lse, delta, dout, partial, dk, dv, stream);
}
