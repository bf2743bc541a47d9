// What a kernel may use of CUDA, in a form that two compilers understand: nvcc, and the host's C++ compiler with the
// stand-in of tests/cuda_on_cpu, which runs the same kernels on a CPU to check them. Kernels use threadIdx, blockIdx,
// blockDim, gridDim, __syncthreads, __syncwarp, __shfl_*_sync, __ballot_sync, __nv_bfloat16 and math functions as in
// CUDA, tensor.cuh, and for the rest:
//
//     KERNEL(256) name(const float *x, int n)    a kernel of at most 256 threads a block
//     KERNEL_BLOCKS(256, 2) name(...)            the same, of which a multiprocessor can hold two blocks
//     SHARED(Type, s);                           a struct in shared memory, of at most 48 KiB
//     SHARED_BYTES(Type, s);                     Type *s: the shared memory whose size the launch names
//     LAUNCH(name, grid, block, stream, ...)     starts a kernel without barriers or shuffles
//     LAUNCH_BLOCKS(name, grid, block, bytes, stream, ...)   starts one that has them
//     LAUNCH_NAMED(text, pointer, grid, block, bytes, stream, ...)   the same by a pointer to it; text: its name
#pragma once

#ifdef KTO_STANDIN
#include <standin.h> // tests/cuda_on_cpu
#else
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#define KERNEL_BLOCKS(threads, blocks) static __global__ void __launch_bounds__(threads, blocks)
#define KERNEL(threads)                KERNEL_BLOCKS(threads, 1) // 1: spill nothing
#define SHARED(Type, s)                __shared__ Type s
#define SHARED_BYTES(Type, s)                                                                                          \
    extern __shared__ __align__(128) unsigned char shared_bytes_[];                                                    \
    Type *s = reinterpret_cast<Type *>(shared_bytes_)
#define LAUNCH(kernel, grid, block, stream, ...)               (kernel)<<<grid, block, 0, stream>>>(__VA_ARGS__)
#define LAUNCH_BLOCKS(kernel, grid, block, bytes, stream, ...) (kernel)<<<grid, block, bytes, stream>>>(__VA_ARGS__)
#define LAUNCH_NAMED(text, pointer, grid, block, bytes, stream, ...)                                                   \
    LAUNCH_BLOCKS(pointer, grid, block, bytes, stream, __VA_ARGS__)
#endif

#define WARP      32
#define ALL_LANES 0xffffffffu

// Values of the device's working type as fp32, and back, rounded to nearest even.
static __device__ inline float to_float(float x) {
    return x;
}
static __device__ inline float to_float(__nv_bfloat16 x) {
    return __bfloat162float(x);
}
static __device__ inline void from_float(float x, float *to) {
    *to = x;
}
static __device__ inline void from_float(float x, __nv_bfloat16 *to) {
    *to = __float2bfloat16_rn(x);
}

// Sum and maximum over a warp, the same on every lane; the order of additions is fixed.
static __device__ inline float warp_sum(float x) {
    for (int other = WARP / 2; other > 0; other /= 2) x += __shfl_xor_sync(ALL_LANES, x, other);
    return x;
}
static __device__ inline float warp_max(float x) {
    for (int other = WARP / 2; other > 0; other /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, other));
    return x;
}

// N elements that are moved at once.
template <typename T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack { T v[N]; };

// Runs `body` with T the type that `dtype` names.
#define BY_DTYPE(dtype, body)                                                                                          \
    do {                                                                                                               \
        if ((dtype) == DTYPE_BF16) {                                                                                   \
            typedef __nv_bfloat16 T;                                                                                   \
            body;                                                                                                      \
        } else {                                                                                                       \
            typedef float T;                                                                                           \
            body;                                                                                                      \
        }                                                                                                              \
    } while (0)
