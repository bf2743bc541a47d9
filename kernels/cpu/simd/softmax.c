// Vector loops of the GEMM wrapper and the LM head: bf16 <-> fp32, and the softmax of a row of logits. Also this
// instruction set's MatrixOps table. Sums are taken in blocks of fp32 lanes and added up in fp64, so that 32,000 terms
// lose nothing visible.
#include "kernels/cpu/simd/lanes.h"
#include "kernels/cpu/simd/lora.h"
#include "kernels/cpu/simd/simd_matrix.h"
#include <math.h>

enum { SUM_BLOCK = 512 };

static void widen(const uint16_t *from, float *to, size_t count) {
#pragma omp simd
    for (size_t i = 0; i < count; i++) to[i] = from_bf16(from[i]);
}

static void narrow(const float *from, const uint16_t *bias, uint16_t *to, size_t count, bool accumulate) {
    if (bias) {
#pragma omp simd
        for (size_t i = 0; i < count; i++)
            to[i] = to_bf16(from[i] + from_bf16(bias[i]) + (accumulate ? from_bf16(to[i]) : 0.0f));
    } else if (accumulate) {
#pragma omp simd
        for (size_t i = 0; i < count; i++) to[i] = to_bf16(from[i] + from_bf16(to[i]));
    } else {
#pragma omp simd
        for (size_t i = 0; i < count; i++) to[i] = to_bf16(from[i]);
    }
}

static void add_bias(const float *bias, float *to, size_t count) {
#pragma omp simd
    for (size_t i = 0; i < count; i++) to[i] += bias[i];
}

// d logp_target / d z_j = onehot_j - softmax(z)_j; entropy = log sum e^(z-m) - sum e^(z-m) (z-m) / sum e^(z-m).
static HeadRow head_row(float *z, int32_t vocab, int32_t target, bool gradient, DType gradient_type) {
    float m = -INFINITY;
    double total = 0, sum = 0, moment = 0;
    for (int32_t begin = 0; begin < vocab; begin += SUM_BLOCK) {
        int32_t end = vocab - begin < SUM_BLOCK ? vocab : begin + SUM_BLOCK;
        float part = 0;
#pragma omp simd reduction(+ : part) reduction(max : m)
        for (int32_t j = begin; j < end; j++) {
            part += z[j];
            m = z[j] > m ? z[j] : m;
        }
        total += part;
    }
    float z_target = z[target] - m;
    for (int32_t begin = 0; begin < vocab; begin += SUM_BLOCK) {
        int32_t end = vocab - begin < SUM_BLOCK ? vocab : begin + SUM_BLOCK;
        float part = 0, part_moment = 0;
#pragma omp simd reduction(+ : part, part_moment)
        for (int32_t j = begin; j < end; j++) {
            float d = z[j] - m, e = exp_nonpositive(d);
            part += e;
            part_moment += e * d;
            z[j] = e;
        }
        sum += part;
        moment += part_moment;
    }
    double log_sum = log(sum);
    HeadRow row = {(float)(z_target - log_sum), (float)(log_sum - moment / sum), (float)(total / vocab)};
    if (!gradient) return row;

    float minus_inverse = (float)(-1.0 / sum);
    float at_target = (float)(1.0 - z[target] / sum);
    if (gradient_type == DTYPE_BF16) {
        uint16_t *d = (uint16_t *)z; // value j is written where no later value is read
        for (int32_t begin = 0; begin < vocab; begin += SUM_BLOCK) {
            int32_t count = vocab - begin < SUM_BLOCK ? vocab - begin : SUM_BLOCK;
            uint16_t block[SUM_BLOCK];
#pragma omp simd
            for (int32_t j = 0; j < count; j++) block[j] = to_bf16(z[begin + j] * minus_inverse);
            memcpy(d + begin, block, (size_t)count * sizeof *d);
        }
        d[target] = to_bf16(at_target);
    } else {
#pragma omp simd
        for (int32_t j = 0; j < vocab; j++) z[j] *= minus_inverse;
        z[target] = at_target;
    }
    return row;
}

const MatrixOps SIMD_NAME(matrix_ops) = {
    .widen = widen,
    .narrow = narrow,
    .add_bias = add_bias,
    .head_row = head_row,
    .lora_scratch = SIMD_NAME(lora_scratch),
    .lora = SIMD_NAME(lora),
    .lora_backward = SIMD_NAME(lora_backward),
    .lora_weight_backward = SIMD_NAME(lora_weight_backward),
};
