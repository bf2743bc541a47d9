// The instructions of sm_80 and later that kernels use beyond CUDA C++, each as one function. A build for the CPU
// stand-in takes standin_tensor.h in their place: same names, same meaning, no PTX.
//
// Fragments, as the hardware spreads a matrix over the lanes of a warp (PTX ISA, mma.m16n8k16): lane = 4 g + t holds of
//     a 16 x 16 left operand    a[0] row g, a[1] row g + 8, columns 2t, 2t + 1; a[2], a[3] the same rows, columns + 8
//     a 16 x 8 right operand    b0 rows 2t, 2t + 1 of column g; b1 rows + 8
//     a 16 x 8 sum, fp32        c[0], c[1] row g, columns 2t, 2t + 1; c[2], c[3] row g + 8
#pragma once

#ifdef KTO_STANDIN
#include <standin_tensor.h> // tests/cuda_on_cpu
#else
#include <stdint.h>

// c += a b
static __device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif
