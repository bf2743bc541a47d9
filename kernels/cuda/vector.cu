// Token rows (embedding, RMSNorm, RoPE, SwiGLU, scaling, sums) and adapter vectors (cast, sum of squares, AdamW):
// everything that a pass over memory bounds. Elements are read and written in packs of 16 bytes where rows and pointers
// allow it.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vector.h"

enum {
    THREADS = 256,
    ROW_WARPS = 8,
    ROW_THREADS = ROW_WARPS * WARP,
    // Packs of a row that a lane keeps in registers, a warp 2,048 (1,536) elements of bf16; the rest is read again.
    HELD = 8,
    HELD_BACKWARD = 6,
};

template <typename T> constexpr int wide() {
    return 16 / (int)sizeof(T);
}

static bool aligned(const void *a, const void *b = nullptr, const void *c = nullptr, const void *d = nullptr) {
    return (((size_t)a | (size_t)b | (size_t)c | (size_t)d) & 15) == 0;
}

static unsigned blocks_of(size_t threads) {
    return (unsigned)((threads + THREADS - 1) / THREADS);
}

static __device__ inline size_t thread_index() {
    return (size_t)blockIdx.x * THREADS + threadIdx.x;
}

// Starts KERNEL_NAME<T, N> with N elements a thread: 16 bytes where `can`, else one.
#define LAUNCH_PACKS(kernel, T, can, packs, stream, ...)                                                               \
    do {                                                                                                               \
        if (can)                                                                                                       \
            LAUNCH((kernel<T, wide<T>()>), blocks_of((packs) / wide<T>()), THREADS, stream, __VA_ARGS__);              \
        else                                                                                                           \
            LAUNCH((kernel<T, 1>), blocks_of(packs), THREADS, stream, __VA_ARGS__);                                    \
    } while (0)

// --- rows that are copied ---

// packs: of a row.
template <typename T, int N>
KERNEL(THREADS)
gather_rows(const T *table, const int32_t *index, T *x, size_t count, int32_t packs) {
    const size_t i = thread_index();
    if (i >= count) return;
    const size_t row = i / packs, at = i % packs;
    reinterpret_cast<Pack<T, N> *>(x)[i] = reinterpret_cast<const Pack<T, N> *>(table)[(size_t)index[row] * packs + at];
}

template <typename T, int N>
KERNEL(THREADS)
spread_rows(const T *from, const int32_t *index, T *to, size_t count, int32_t packs) {
    const size_t i = thread_index();
    if (i >= count) return;
    const size_t row = i / packs, at = i % packs;
    reinterpret_cast<Pack<T, N> *>(to)[(size_t)index[row] * packs + at] = reinterpret_cast<const Pack<T, N> *>(from)[i];
}

template <typename T, int N>
KERNEL(THREADS)
scale_rows(const T *x, const float *factor, T *y, size_t count, int32_t packs) {
    const size_t i = thread_index();
    if (i >= count) return;
    Pack<T, N> value = reinterpret_cast<const Pack<T, N> *>(x)[i];
    const float by = factor[i / packs];
    for (int k = 0; k < N; k++) from_float(to_float(value.v[k]) * by, &value.v[k]);
    reinterpret_cast<Pack<T, N> *>(y)[i] = value;
}

// --- RMSNorm: a warp has a row ---

// x + delta, rounded; x where there is no delta.
template <typename T, int N>
static __device__ inline Pack<T, N> sum_of(const Pack<T, N> *x, const Pack<T, N> *delta, int32_t i) {
    Pack<T, N> value = x[i];
    if (delta == nullptr) return value;
    const Pack<T, N> more = delta[i];
    for (int k = 0; k < N; k++) from_float(to_float(value.v[k]) + to_float(more.v[k]), &value.v[k]);
    return value;
}

template <typename T, int N> static __device__ inline float squares_of(const Pack<T, N> &value) {
    float squares = 0;
    for (int k = 0; k < N; k++) squares += to_float(value.v[k]) * to_float(value.v[k]);
    return squares;
}

template <typename T, int N>
static __device__ inline Pack<T, N> normalised(Pack<T, N> value, float rstd, const Pack<T, N> &weight) {
    for (int k = 0; k < N; k++) {
        from_float(to_float(value.v[k]) * rstd, &value.v[k]);
        from_float(to_float(value.v[k]) * to_float(weight.v[k]), &value.v[k]);
    }
    return value;
}

template <typename T, int N>
KERNEL_BLOCKS(ROW_THREADS, 2)
rmsnorm(const T *x, const T *delta, const T *w, float eps, T *sum, T *y, float *rstd, int32_t n, int32_t packs) {
    const int32_t row = (int32_t)(blockIdx.x * ROW_WARPS + threadIdx.x / WARP), lane = (int32_t)(threadIdx.x % WARP);
    if (row >= n) return; // whole warps
    typedef Pack<T, N> P;
    const size_t at = (size_t)row * packs;
    const P *x_row = reinterpret_cast<const P *>(x) + at, *w_row = reinterpret_cast<const P *>(w);
    const P *delta_row = delta != nullptr ? reinterpret_cast<const P *>(delta) + at : nullptr;
    P *sum_row = reinterpret_cast<P *>(sum) + at, *y_row = reinterpret_cast<P *>(y) + at, held[HELD];
    float squares = 0;
#pragma unroll
    for (int k = 0; k < HELD; k++)
        if (lane + k * WARP < packs) held[k] = sum_of(x_row, delta_row, lane + k * WARP);
#pragma unroll
    for (int k = 0; k < HELD; k++)
        if (lane + k * WARP < packs) squares += squares_of(held[k]);
    for (int32_t i = lane + HELD * WARP; i < packs; i += WARP) squares += squares_of(sum_of(x_row, delta_row, i));
    const float r = 1.0f / sqrtf(warp_sum(squares) / (float)(packs * N) + eps);
    if (lane == 0) rstd[row] = r;
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        const int32_t i = lane + k * WARP;
        if (i >= packs) continue;
        if (delta != nullptr) sum_row[i] = held[k];
        y_row[i] = normalised(held[k], r, w_row[i]);
    }
    for (int32_t i = lane + HELD * WARP; i < packs; i += WARP) {
        const P value = sum_of(x_row, delta_row, i);
        if (delta != nullptr) sum_row[i] = value;
        y_row[i] = normalised(value, r, w_row[i]);
    }
}

template <typename T, int N>
static __device__ inline float dot_of(const Pack<T, N> &dy, const Pack<T, N> &weight, const Pack<T, N> &x) {
    float dot = 0;
    for (int k = 0; k < N; k++) dot += to_float(dy.v[k]) * to_float(weight.v[k]) * to_float(x.v[k]);
    return dot;
}

// dx + rstd (w dy - along x).
template <typename T, int N>
static __device__ inline Pack<T, N> with_gradient(Pack<T, N> dx, const Pack<T, N> &dy, const Pack<T, N> &weight,
                                                  const Pack<T, N> &x, float rstd, float along) {
    for (int k = 0; k < N; k++)
        from_float(to_float(dx.v[k]) + rstd * (to_float(dy.v[k]) * to_float(weight.v[k]) - along * to_float(x.v[k])),
                   &dx.v[k]);
    return dx;
}

// With xhat = x rstd: dx += rstd (w dy - xhat mean(w dy xhat)).
template <typename T, int N>
KERNEL_BLOCKS(ROW_THREADS, 2)
rmsnorm_backward(const T *dy, const T *x, const T *w, const float *rstd, T *dx, T *y, int32_t n, int32_t packs) {
    const int32_t row = (int32_t)(blockIdx.x * ROW_WARPS + threadIdx.x / WARP), lane = (int32_t)(threadIdx.x % WARP);
    if (row >= n) return;
    typedef Pack<T, N> P;
    const size_t at = (size_t)row * packs;
    const P *x_row = reinterpret_cast<const P *>(x) + at, *w_row = reinterpret_cast<const P *>(w);
    const P *dy_row = reinterpret_cast<const P *>(dy) + at;
    P *dx_row = reinterpret_cast<P *>(dx) + at, held_dy[HELD_BACKWARD], held_x[HELD_BACKWARD];
    P *y_row = y != nullptr ? reinterpret_cast<P *>(y) + at : nullptr;
    float dot = 0;
#pragma unroll
    for (int k = 0; k < HELD_BACKWARD; k++)
        if (lane + k * WARP < packs) {
            held_dy[k] = dy_row[lane + k * WARP];
            held_x[k] = x_row[lane + k * WARP];
        }
#pragma unroll
    for (int k = 0; k < HELD_BACKWARD; k++)
        if (lane + k * WARP < packs) dot += dot_of(held_dy[k], w_row[lane + k * WARP], held_x[k]);
    for (int32_t i = lane + HELD_BACKWARD * WARP; i < packs; i += WARP) dot += dot_of(dy_row[i], w_row[i], x_row[i]);
    const float r = rstd[row], along = warp_sum(dot) * r * r / (float)(packs * N);
#pragma unroll
    for (int k = 0; k < HELD_BACKWARD; k++) {
        const int32_t i = lane + k * WARP;
        if (i >= packs) continue;
        dx_row[i] = with_gradient(dx_row[i], held_dy[k], w_row[i], held_x[k], r, along);
        if (y_row != nullptr) y_row[i] = normalised(held_x[k], r, w_row[i]);
    }
    for (int32_t i = lane + HELD_BACKWARD * WARP; i < packs; i += WARP) {
        dx_row[i] = with_gradient(dx_row[i], dy_row[i], w_row[i], x_row[i], r, along);
        if (y_row != nullptr) y_row[i] = normalised(x_row[i], r, w_row[i]);
    }
}

// --- elements ---

// A thread rotates N pairs (i, i + head_dim / 2) of a head; q's heads come first.
template <typename T, int N>
KERNEL(THREADS)
rope(T *q, T *k, const int32_t *position, const float *cos, const float *sin, int32_t first, size_t q_packs,
     size_t packs, int32_t heads, int32_t kv_heads, int32_t half, float sign) {
    size_t i = thread_index();
    if (i >= packs) return;
    const bool of_q = i < q_packs;
    if (!of_q) i -= q_packs;
    const size_t head = i / (half / N), pair = i % (half / N) * N;
    const int32_t token = of_q ? first + (int32_t)(head / heads) : (int32_t)(head / kv_heads);
    T *const low_at = (of_q ? q : k) + head * 2 * half + pair, *const high_at = low_at + half;
    const size_t angle = (size_t)position[token] * half + pair;
    Pack<T, N> low = *reinterpret_cast<Pack<T, N> *>(low_at), high = *reinterpret_cast<Pack<T, N> *>(high_at);
    const Pack<float, N> c = *reinterpret_cast<const Pack<float, N> *>(cos + angle);
    const Pack<float, N> s = *reinterpret_cast<const Pack<float, N> *>(sin + angle);
    for (int e = 0; e < N; e++) {
        const float a = to_float(low.v[e]), b = to_float(high.v[e]), turn = sign * s.v[e];
        from_float(a * c.v[e] - b * turn, &low.v[e]);
        from_float(b * c.v[e] + a * turn, &high.v[e]);
    }
    *reinterpret_cast<Pack<T, N> *>(low_at) = low;
    *reinterpret_cast<Pack<T, N> *>(high_at) = high;
}

static __device__ inline float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

// packs: of width.
template <typename T, int N> KERNEL(THREADS) swiglu(const T *gate_up, T *act, size_t count, int32_t packs) {
    const size_t i = thread_index();
    if (i >= count) return;
    const Pack<T, N> *const row = reinterpret_cast<const Pack<T, N> *>(gate_up) + i / packs * 2 * packs;
    const Pack<T, N> g = row[i % packs];
    Pack<T, N> u = row[packs + i % packs];
    for (int k = 0; k < N; k++) {
        const float x = to_float(g.v[k]);
        from_float(x * sigmoid(x) * to_float(u.v[k]), &u.v[k]);
    }
    reinterpret_cast<Pack<T, N> *>(act)[i] = u;
}

// With s = sigmoid(g): d (g s) / dg = s (1 + g (1 - s)). All is read before anything is written: dgate_up may be
// gate_up.
template <typename T, int N>
KERNEL(THREADS)
swiglu_backward(const T *gate_up, const T *dact, T *dgate_up, T *act, size_t count, int32_t packs) {
    typedef Pack<T, N> P;
    const size_t i = thread_index();
    if (i >= count) return;
    const size_t of_gate = i / packs * 2 * packs + i % packs, of_up = of_gate + packs;
    P g = reinterpret_cast<const P *>(gate_up)[of_gate], u = reinterpret_cast<const P *>(gate_up)[of_up], a;
    const P d = reinterpret_cast<const P *>(dact)[i];
    for (int k = 0; k < N; k++) {
        const float x = to_float(g.v[k]), up = to_float(u.v[k]), da = to_float(d.v[k]), s = sigmoid(x);
        from_float(x * s * up, &a.v[k]);
        from_float(da * up * (s * (1.0f + x * (1.0f - s))), &g.v[k]);
        from_float(da * (x * s), &u.v[k]);
    }
    if (act != nullptr) reinterpret_cast<P *>(act)[i] = a;
    reinterpret_cast<P *>(dgate_up)[of_gate] = g;
    reinterpret_cast<P *>(dgate_up)[of_up] = u;
}

template <typename T, int N> KERNEL(THREADS) scale_add(const T *x, float factor, const T *base, T *y, size_t packs) {
    const size_t i = thread_index();
    if (i >= packs) return;
    Pack<T, N> value = reinterpret_cast<const Pack<T, N> *>(x)[i];
    for (int k = 0; k < N; k++) from_float(to_float(value.v[k]) * factor, &value.v[k]);
    if (base != nullptr) {
        const Pack<T, N> more = reinterpret_cast<const Pack<T, N> *>(base)[i];
        for (int k = 0; k < N; k++) from_float(to_float(more.v[k]) + to_float(value.v[k]), &value.v[k]);
    }
    reinterpret_cast<Pack<T, N> *>(y)[i] = value;
}

template <typename T, int N> KERNEL(THREADS) cast(const float *from, T *to, size_t packs) {
    const size_t i = thread_index();
    if (i >= packs) return;
    const Pack<float, N> value = reinterpret_cast<const Pack<float, N> *>(from)[i];
    Pack<T, N> rounded;
    for (int k = 0; k < N; k++) from_float(value.v[k], &rounded.v[k]);
    reinterpret_cast<Pack<T, N> *>(to)[i] = rounded;
}

struct SumShared {
    double warp[THREADS / WARP];
};

// Block b sums elements [b length, (b + 1) length): thread by thread, then in thread order.
KERNEL(THREADS) sum_squares(const float *x, size_t count, size_t length, double *parts) {
    SHARED(SumShared, s);
    const size_t begin = blockIdx.x * length, end = begin + length < count ? begin + length : count;
    double sum = 0;
    for (size_t i = begin + threadIdx.x; i < end; i += THREADS) sum += (double)x[i] * x[i];
    for (int other = WARP / 2; other > 0; other /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, other);
    if (threadIdx.x % WARP == 0) s.warp[threadIdx.x / WARP] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    sum = 0;
    for (int w = 0; w < THREADS / WARP; w++) sum += s.warp[w];
    parts[blockIdx.x] = sum;
}

// torch.optim.adamw's _single_tensor_adamw, line by line: decay, lerp, addcmul, denom, addcdiv.
typedef struct AdamWFactors {
    float gradient_scale, decay, step_size, root_correction2, beta2, one_less_beta1, one_less_beta2, epsilon;
} AdamWFactors;

KERNEL(THREADS) adamw(AdamWFactors f, float *x, float *m, float *v, const float *dx, size_t count) {
    const size_t i = thread_index();
    if (i >= count) return;
    const float g = dx[i] * f.gradient_scale;
    const float m_i = fmaf(f.one_less_beta1, g - m[i], m[i]);
    const float v_i = fmaf(f.one_less_beta2 * g, g, f.beta2 * v[i]);
    const float denom = sqrtf(v_i) / f.root_correction2 + f.epsilon;
    m[i] = m_i;
    v[i] = v_i;
    x[i] = x[i] * f.decay - f.step_size * (m_i / denom);
}

// --- launchers ---

cudaError_t vector_embed(DType dtype, const int32_t *tokens, const void *table, void *x, int32_t n, int32_t dim,
                         cudaStream_t stream) {
    const size_t count = (size_t)n * dim;
    BY_DTYPE(dtype, {
        const bool can = dim % wide<T>() == 0 && aligned(table, x);
        const int32_t packs = can ? dim / wide<T>() : dim;
        LAUNCH_PACKS(gather_rows, T, can, count, stream, (const T *)table, tokens, (T *)x, (size_t)n * packs, packs);
    });
    return cudaGetLastError();
}

cudaError_t vector_scatter_rows(DType dtype, const void *from, const int32_t *index, void *to, int32_t n, int32_t dim,
                                cudaStream_t stream) {
    const size_t count = (size_t)n * dim;
    BY_DTYPE(dtype, {
        const bool can = dim % wide<T>() == 0 && aligned(from, to);
        const int32_t packs = can ? dim / wide<T>() : dim;
        LAUNCH_PACKS(spread_rows, T, can, count, stream, (const T *)from, index, (T *)to, (size_t)n * packs, packs);
    });
    return cudaGetLastError();
}

cudaError_t vector_scale_rows(DType dtype, const void *x, const float *factor, void *y, int32_t n, int32_t dim,
                              cudaStream_t stream) {
    const size_t count = (size_t)n * dim;
    BY_DTYPE(dtype, {
        const bool can = dim % wide<T>() == 0 && aligned(x, y);
        const int32_t packs = can ? dim / wide<T>() : dim;
        LAUNCH_PACKS(scale_rows, T, can, count, stream, (const T *)x, factor, (T *)y, (size_t)n * packs, packs);
    });
    return cudaGetLastError();
}

static unsigned row_blocks(int32_t n) {
    return (unsigned)((n + ROW_WARPS - 1) / ROW_WARPS);
}

cudaError_t vector_rmsnorm(DType dtype, const void *x, const void *delta, const void *w, float eps, void *sum, void *y,
                           float *rstd, int32_t n, int32_t dim, cudaStream_t stream) {
    BY_DTYPE(dtype, {
        enum { N = wide<T>() };
        if (dim % N == 0 && aligned(x, delta, w, y) && aligned(sum))
            LAUNCH_BLOCKS((rmsnorm<T, N>), row_blocks(n), ROW_THREADS, 0, stream, (const T *)x, (const T *)delta,
                          (const T *)w, eps, (T *)sum, (T *)y, rstd, n, dim / N);
        else
            LAUNCH_BLOCKS((rmsnorm<T, 1>), row_blocks(n), ROW_THREADS, 0, stream, (const T *)x, (const T *)delta,
                          (const T *)w, eps, (T *)sum, (T *)y, rstd, n, dim);
    });
    return cudaGetLastError();
}

cudaError_t vector_rmsnorm_backward(DType dtype, const void *dy, const void *x, const void *w, const float *rstd,
                                    void *dx, void *y, int32_t n, int32_t dim, cudaStream_t stream) {
    BY_DTYPE(dtype, {
        enum { N = wide<T>() };
        if (dim % N == 0 && aligned(dy, x, w, dx) && aligned(y))
            LAUNCH_BLOCKS((rmsnorm_backward<T, N>), row_blocks(n), ROW_THREADS, 0, stream, (const T *)dy, (const T *)x,
                          (const T *)w, rstd, (T *)dx, (T *)y, n, dim / N);
        else
            LAUNCH_BLOCKS((rmsnorm_backward<T, 1>), row_blocks(n), ROW_THREADS, 0, stream, (const T *)dy, (const T *)x,
                          (const T *)w, rstd, (T *)dx, (T *)y, n, dim);
    });
    return cudaGetLastError();
}

cudaError_t vector_rope(DType dtype, void *q, void *k, const int32_t *position, const float *cos, const float *sin,
                        int32_t first, int32_t n, int32_t heads, int32_t kv_heads, int32_t head_dim, int sign,
                        cudaStream_t stream) {
    const int32_t half = head_dim / 2;
    const size_t q_pairs = (size_t)(n - first) * heads * half, pairs = q_pairs + (size_t)n * kv_heads * half;
    BY_DTYPE(dtype, {
        const bool can = half % wide<T>() == 0 && aligned(q, k, cos, sin);
        const size_t by = can ? wide<T>() : 1;
        LAUNCH_PACKS(rope, T, can, pairs, stream, (T *)q, (T *)k, position, cos, sin, first, q_pairs / by, pairs / by,
                     heads, kv_heads, half, (float)sign);
    });
    return cudaGetLastError();
}

cudaError_t vector_swiglu(DType dtype, const void *gate_up, void *act, int32_t n, int32_t width, cudaStream_t stream) {
    const size_t count = (size_t)n * width;
    BY_DTYPE(dtype, {
        const bool can = width % wide<T>() == 0 && aligned(gate_up, act);
        const int32_t packs = can ? width / wide<T>() : width;
        LAUNCH_PACKS(swiglu, T, can, count, stream, (const T *)gate_up, (T *)act, (size_t)n * packs, packs);
    });
    return cudaGetLastError();
}

cudaError_t vector_swiglu_backward(DType dtype, const void *gate_up, const void *dact, void *dgate_up, void *act,
                                   int32_t n, int32_t width, cudaStream_t stream) {
    const size_t count = (size_t)n * width;
    BY_DTYPE(dtype, {
        const bool can = width % wide<T>() == 0 && aligned(gate_up, dact, dgate_up, act);
        const int32_t packs = can ? width / wide<T>() : width;
        LAUNCH_PACKS(swiglu_backward, T, can, count, stream, (const T *)gate_up, (const T *)dact, (T *)dgate_up,
                     (T *)act, (size_t)n * packs, packs);
    });
    return cudaGetLastError();
}

cudaError_t vector_scale_add(DType dtype, const void *x, float factor, const void *base, void *y, size_t count,
                             cudaStream_t stream) {
    BY_DTYPE(dtype, {
        const bool can = count % wide<T>() == 0 && aligned(x, base, y);
        LAUNCH_PACKS(scale_add, T, can, count, stream, (const T *)x, factor, (const T *)base, (T *)y,
                     can ? count / wide<T>() : count);
    });
    return cudaGetLastError();
}

cudaError_t vector_cast(DType dtype, const float *from, void *to, size_t count, cudaStream_t stream) {
    BY_DTYPE(dtype, {
        const bool can = count % wide<T>() == 0 && aligned(from, to);
        LAUNCH_PACKS(cast, T, can, count, stream, from, (T *)to, can ? count / wide<T>() : count);
    });
    return cudaGetLastError();
}

cudaError_t vector_sum_squares(const float *x, size_t count, double *parts, cudaStream_t stream) {
    const size_t length = (count + VECTOR_SUM_PARTS - 1) / VECTOR_SUM_PARTS;
    LAUNCH_BLOCKS(sum_squares, VECTOR_SUM_PARTS, THREADS, 0, stream, x, count, length, parts);
    return cudaGetLastError();
}

cudaError_t vector_adamw(const AdamW *o, float *x, float *m, float *v, const float *dx, size_t count,
                         cudaStream_t stream) {
    const double correction1 = 1.0 - pow((double)o->beta1, (double)o->step);
    const double correction2 = 1.0 - pow((double)o->beta2, (double)o->step);
    const AdamWFactors factors = {o->gradient_scale,
                                  (float)(1.0 - (double)o->learning_rate * o->weight_decay),
                                  (float)(o->learning_rate / correction1),
                                  (float)sqrt(correction2),
                                  o->beta2,
                                  (float)(1.0 - (double)o->beta1),
                                  (float)(1.0 - (double)o->beta2),
                                  o->epsilon};
    LAUNCH(adamw, blocks_of(count), THREADS, stream, factors, x, m, v, dx, count);
    return cudaGetLastError();
}
