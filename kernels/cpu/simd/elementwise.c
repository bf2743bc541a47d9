// Token rows (RMSNorm, RoPE, SwiGLU, scaling, sums) and adapter vectors (cast, sum of squares, AdamW), and this
// instruction set's SimdOps table. Leaves threads to vector.c.
#include "kernels/cpu/simd/attention.h"
#include "kernels/cpu/simd/simd.h"
#include "kernels/cpu/simd/vec.h"
#include <math.h>

// Each op is written once for a dtype that is a constant where it is inlined.
#define BY_DTYPE(call_with_t)                                                                                          \
    do {                                                                                                               \
        if (dtype == DTYPE_BF16) {                                                                                     \
            const DType t = DTYPE_BF16;                                                                                \
            call_with_t;                                                                                               \
        } else {                                                                                                       \
            const DType t = DTYPE_F32;                                                                                 \
            call_with_t;                                                                                               \
        }                                                                                                              \
    } while (0)

// y = x rstd, rounded, w.
ALWAYS_INLINE void store_normalised(DType t, void *y, int32_t i, int32_t dim, int64_t at, vf x, float rstd,
                                    const void *w) {
    float rounded[VL];
    store(t, rounded, 0, x * vset(rstd));
    store_to(t, y, i, dim, at, load(t, rounded, 0) * load_to(t, w, i, dim, 0));
}

ALWAYS_INLINE void rmsnorm_rows(DType t, const void *x, const void *delta, const void *w, float eps, void *sum, void *y,
                                float *rstd, int64_t begin, int64_t end, int32_t dim) {
    for (int64_t row = begin; row < end; row++) {
        int64_t at = row * dim;
        const void *input = delta ? sum : x;
        vf squares = vzero();
        for (int32_t i = 0; i < dim; i += VL) {
            vf value = load_to(t, x, i, dim, at);
            if (delta) {
                store_to(t, sum, i, dim, at, value + load_to(t, delta, i, dim, at));
                value = load_to(t, sum, i, dim, at); // as rounded
            }
            squares = vfma(value, value, squares);
        }
        float r = 1.0f / sqrtf(hsum(squares) / (float)dim + eps);
        rstd[row] = r;
        for (int32_t i = 0; i < dim; i += VL) store_normalised(t, y, i, dim, at, load_to(t, input, i, dim, at), r, w);
    }
}
static void rmsnorm(DType dtype, const void *x, const void *delta, const void *w, float eps, void *sum, void *y,
                    float *rstd, int64_t begin, int64_t end, int32_t dim) {
    BY_DTYPE(rmsnorm_rows(t, x, delta, w, eps, sum, y, rstd, begin, end, dim));
}

// With xhat = x rstd: dx = rstd (w dy - xhat mean(w dy xhat)).
ALWAYS_INLINE void rmsnorm_backward_rows(DType t, const void *dy, const void *x, const void *w, const float *rstd,
                                         void *dx, void *y, int64_t begin, int64_t end, int32_t dim) {
    for (int64_t row = begin; row < end; row++) {
        int64_t at = row * dim;
        vf dot = vzero();
        for (int32_t i = 0; i < dim; i += VL)
            dot = vfma(load_to(t, dy, i, dim, at) * load_to(t, w, i, dim, 0), load_to(t, x, i, dim, at), dot);
        float r = rstd[row];
        float along = hsum(dot) * r * r / (float)dim; // mean(w dy xhat) rstd
        for (int32_t i = 0; i < dim; i += VL) {
            vf wdy = load_to(t, dy, i, dim, at) * load_to(t, w, i, dim, 0), value = load_to(t, x, i, dim, at);
            vf g = vfma(value, vset(-along), wdy);
            store_to(t, dx, i, dim, at, vfma(g, vset(r), load_to(t, dx, i, dim, at)));
            if (y) store_normalised(t, y, i, dim, at, value, r, w);
        }
    }
}
static void rmsnorm_backward(DType dtype, const void *dy, const void *x, const void *w, const float *rstd, void *dx,
                             void *y, int64_t begin, int64_t end, int32_t dim) {
    BY_DTYPE(rmsnorm_backward_rows(t, dy, x, w, rstd, dx, y, begin, end, dim));
}

ALWAYS_INLINE void rope_rows(DType t, void *x, const int32_t *position, const float *cos, const float *sin,
                             int64_t begin, int64_t end, int32_t heads, int32_t head_dim, int sign) {
    int32_t half = head_dim / 2;
    vf s = vset((float)sign);
    for (int64_t row = begin; row < end; row++) {
        int64_t angle = (int64_t)position[row] * half;
        for (int32_t h = 0; h < heads; h++) {
            int64_t low = (row * heads + h) * head_dim, high = low + half;
            for (int32_t i = 0; i < half; i += VL) {
                vf c = load_to(DTYPE_F32, cos, i, half, angle), sn = s * load_to(DTYPE_F32, sin, i, half, angle);
                vf a = load_to(t, x, i, half, low), b = load_to(t, x, i, half, high);
                store_to(t, x, i, half, low, vfma(a, c, vzero() - b * sn));
                store_to(t, x, i, half, high, vfma(b, c, a * sn));
            }
        }
    }
}
static void rope(DType dtype, void *x, const int32_t *position, const float *cos, const float *sin, int64_t begin,
                 int64_t end, int32_t heads, int32_t head_dim, int sign) {
    BY_DTYPE(rope_rows(t, x, position, cos, sin, begin, end, heads, head_dim, sign));
}

ALWAYS_INLINE void swiglu_rows(DType t, const void *gate_up, void *act, int64_t begin, int64_t end, int32_t width) {
    for (int64_t row = begin; row < end; row++)
        for (int32_t i = 0; i < width; i += VL) {
            const int64_t gate = row * 2 * width, up = gate + width;
            vf g = load_to(t, gate_up, i, width, gate);
            store_to(t, act, i, width, row * width, g * vsigmoid(g) * load_to(t, gate_up, i, width, up));
        }
}
static void swiglu(DType dtype, const void *gate_up, void *act, int64_t begin, int64_t end, int32_t width) {
    BY_DTYPE(swiglu_rows(t, gate_up, act, begin, end, width));
}

// With s = sigmoid(g): d (g s) / dg = s (1 + g (1 - s)).
ALWAYS_INLINE void swiglu_backward_rows(DType t, const void *gate_up, const void *dact, void *dgate_up, void *act,
                                        int64_t begin, int64_t end, int32_t width) {
    for (int64_t row = begin; row < end; row++)
        for (int32_t i = 0; i < width; i += VL) {
            const int64_t gate = row * 2 * width, up = gate + width, of_act = row * width;
            vf g = load_to(t, gate_up, i, width, gate), u = load_to(t, gate_up, i, width, up);
            vf d = load_to(t, dact, i, width, of_act), s = vsigmoid(g);
            if (act) store_to(t, act, i, width, of_act, g * s * u);
            store_to(t, dgate_up, i, width, gate, d * u * (s * vfma(g, vset(1.0f) - s, vset(1.0f))));
            store_to(t, dgate_up, i, width, up, d * (g * s));
        }
}
static void swiglu_backward(DType dtype, const void *gate_up, const void *dact, void *dgate_up, void *act,
                            int64_t begin, int64_t end, int32_t width) {
    BY_DTYPE(swiglu_backward_rows(t, gate_up, dact, dgate_up, act, begin, end, width));
}

ALWAYS_INLINE void scale_span(DType t, const void *x, const float *factor, void *y, int64_t begin, int64_t end,
                              int32_t dim) {
    for (int64_t row = begin; row < end; row++)
        for (int32_t i = 0; i < dim; i += VL)
            store_to(t, y, i, dim, row * dim, load_to(t, x, i, dim, row * dim) * vset(factor[row]));
}
static void scale_rows(DType dtype, const void *x, const float *factor, void *y, int64_t begin, int64_t end,
                       int32_t dim) {
    BY_DTYPE(scale_span(t, x, factor, y, begin, end, dim));
}

ALWAYS_INLINE void scale_add_span(DType t, const void *x, float factor, const void *base, void *y, int64_t begin,
                                  int64_t end) {
    for (int64_t i = begin; i < end; i += VL) {
        float rounded[VL];
        store(t, rounded, 0, load_to(t, x, i, end, 0) * vset(factor));
        vf value = load(t, rounded, 0);
        if (base) value = load_to(t, base, i, end, 0) + value;
        store_to(t, y, i, end, 0, value);
    }
}
static void scale_add(DType dtype, const void *x, float factor, const void *base, void *y, int64_t begin, int64_t end) {
    BY_DTYPE(scale_add_span(t, x, factor, base, y, begin, end));
}

ALWAYS_INLINE void cast_span(DType t, const float *from, void *to, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += VL) store_to(t, to, i, end, 0, load_to(DTYPE_F32, from, i, end, 0));
}
static void cast(DType dtype, const float *from, void *to, int64_t begin, int64_t end) {
    BY_DTYPE(cast_span(t, from, to, begin, end));
}

static double sum_squares(const float *x, int64_t begin, int64_t end) {
    double sum[8] = {0};
    int64_t i = begin;
    for (; i + 8 <= end; i += 8)
        for (int lane = 0; lane < 8; lane++) sum[lane] += (double)x[i + lane] * x[i + lane];
    for (; i < end; i++) sum[0] += (double)x[i] * x[i];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

// torch.optim.adamw's _single_tensor_adamw, line by line: decay, lerp, addcmul, denom, addcdiv.
static void adamw(const AdamW *o, float *x, float *m, float *v, const float *dx, int64_t begin, int64_t end) {
    double correction1 = 1.0 - pow(o->beta1, (double)o->step), correction2 = 1.0 - pow(o->beta2, (double)o->step);
    vf decay = vset((float)(1.0 - (double)o->learning_rate * o->weight_decay));
    vf step_size = vset((float)(o->learning_rate / correction1));
    vf root_correction2 = vset((float)sqrt(correction2));
    vf one_less_beta1 = vset((float)(1.0 - (double)o->beta1)), one_less_beta2 = vset((float)(1.0 - (double)o->beta2));
    for (int64_t i = begin; i < end; i += VL) {
        vf g = load_to(DTYPE_F32, dx, i, end, 0) * vset(o->gradient_scale);
        vf m_i = load_to(DTYPE_F32, m, i, end, 0), v_i = load_to(DTYPE_F32, v, i, end, 0);
        m_i = vfma(one_less_beta1, g - m_i, m_i);
        v_i = vfma(one_less_beta2 * g, g, vset(o->beta2) * v_i);
        vf denom = vsqrt(v_i) / root_correction2 + vset(o->epsilon);
        vf x_i = load_to(DTYPE_F32, x, i, end, 0) * decay - step_size * (m_i / denom);
        store_to(DTYPE_F32, m, i, end, 0, m_i);
        store_to(DTYPE_F32, v, i, end, 0, v_i);
        store_to(DTYPE_F32, x, i, end, 0, x_i);
    }
}

const SimdOps SIMD_NAME(simd_ops) = {
    .rmsnorm = rmsnorm,
    .rmsnorm_backward = rmsnorm_backward,
    .rope = rope,
    .swiglu = swiglu,
    .swiglu_backward = swiglu_backward,
    .scale_rows = scale_rows,
    .scale_add = scale_add,
    .cast = cast,
    .sum_squares = sum_squares,
    .adamw = adamw,
    .attention_scratch = ATTENTION_SCRATCH,
    .attention_key_block = KEY_BLOCK,
    .attention = SIMD_NAME(attention),
    .attention_query_gradient = SIMD_NAME(attention_query_gradient),
    .attention_key_gradient = SIMD_NAME(attention_key_gradient),
};
