// The instructions of sm_80 and later that kernels use beyond CUDA C++, each as one function. The stand-in of
// tests/cuda_on_cpu has its own of the same names and meaning.
//
// Fragments, as the hardware spreads a matrix over the lanes of a warp (PTX ISA, mma.m16n8k16): lane = 4 g + t holds of
//     a 16 x 16 left operand    a[0] row g, a[1] row g + 8, columns 2t, 2t + 1; a[2], a[3] the same rows, columns + 8
//     a 16 x 8 right operand    b[0] rows 2t, 2t + 1 of column g; b[1] rows + 8
//     a 16 x 8 sum, fp32        c[0], c[1] row g, columns 2t, 2t + 1; c[2], c[3] row g + 8
// so that two neighbouring sums, rounded to bf16 pairs, are the left operand of the next product.
#pragma once

#ifdef KTO_STANDIN
#include <standin_tensor.h> // tests/cuda_on_cpu
#else
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

static __device__ inline uint32_t shared_address(const void *pointer) {
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

// Four 8 x 8 matrices of bf16 from shared memory. Lane 8 i + r gives the address of row r (16 bytes) of matrix i; to[i]
// holds of matrix i: row g, columns 2t, 2t + 1.
static __device__ inline void load_matrices(uint32_t (&to)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row)));
}
// The same of the transposed matrices: to[i] holds rows 2t, 2t + 1 of column g.
static __device__ inline void load_matrices_transposed(uint32_t (&to)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row)));
}

// c += a b
static __device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Copies 16 (8) bytes from global to shared memory, zeros when !valid; done after copies_wait and a barrier.
static __device__ inline void copy_16(void *to, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
static __device__ inline void copy_8(void *to, const void *from, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 8 : 0)
                 : "memory");
}
static __device__ inline void copies_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most PENDING of this thread's groups are under way.
template <int PENDING> static __device__ inline void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// 2^x, relative error 2^-22; 0 for -infinity and where the result would be subnormal.
static __device__ inline float power_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// x, of which the compiler knows nothing: what follows from it is computed again rather than kept in registers.
static __device__ inline uint32_t fresh(uint32_t x) {
    asm volatile("" : "+r"(x));
    return x;
}

// Two floats, rounded to nearest even; the first in the lower half.
static __device__ inline uint32_t pack(float low, float high) {
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
#endif
