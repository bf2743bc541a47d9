// What a kernel sees of CUDA when the host's C++ compiler builds it: built-in variables, barriers, shuffles, bf16 and
// the macros of kernels/cuda/launch.cuh; standin_tensor.h has the rest. runtime.cc runs the blocks.
#pragma once
#include "cuda_runtime_api.h"
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n)    alignas(n)
#define __restrict__ __restrict
#define __launch_bounds__(...)

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {
    }
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(16) double2 {
    double x, y;
};
static inline float2 make_float2(float x, float y) {
    return {x, y};
}
static inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}
static inline uint2 make_uint2(unsigned x, unsigned y) {
    return {x, y};
}
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}
static inline int4 make_int4(int x, int y, int z, int w) {
    return {x, y, z, w};
}

namespace standin {

// Where the running thread is. One block runs at a time.
extern uint3 thread_index, block_index;
extern dim3 block_size, grid_size;

enum Collective { SHUFFLE, VOTE, WARP_BARRIER, MATRIX };

void block_barrier(int line); // __syncthreads
bool dropped(int line); // whether the environment takes this kernel's barrier, or wait for copies, of this line away
uint64_t block_vote(int line, uint64_t value, bool any); // __syncthreads_or, _and
// The lanes of the warp each give a word and get all 32 (of lanes that do not exist: 0), valid until the lane's next
// collective.
const uint64_t *exchange(Collective what, int line, unsigned mask, uint64_t word);
int lane();
// Asynchronous copies of the running thread to shared memory: what a copy overwrites is NaN from its issue on, and it
// lands at the wait that covers its group, so that a wait that is forgotten or too lax shows.
void copy_begin(void *to, const void *from, size_t bytes, bool valid);
void copies_commit();
void copies_wait(size_t pending);
// For the stand-in's libraries: work in stream order, with device memory open to it; and checks of their pointers.
void enqueue(cudaStream_t stream, std::function<void()> work);
void count(const char *name); // for KTO_STANDIN_COUNT
bool is_device(const void *pointer);
bool kernels_may_use(const void *pointer); // device, managed and pinned memory
void check_span(const void *pointer, size_t bytes, const char *what);
void *shared_memory(const void *site, size_t bytes, size_t alignment); // static, by where it is declared
void *dynamic_shared_memory();
[[noreturn]] void refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

struct Launch {
    const char *kernel;
    const void *function;
    dim3 grid, block;
    size_t dynamic_bytes;
    bool barriers;
};
void launch(const Launch &what, cudaStream_t stream, std::function<void()> thread);

// A kernel cannot follow a pointer to memory of the host.
template <typename T> void check_argument(const char *, T) {
}
template <typename T> void check_argument(const char *kernel, T *pointer) {
    if (pointer != nullptr && !kernels_may_use(pointer))
        refuse("kernel %s is given a pointer into the host's memory", kernel);
}

template <typename... P, typename... A>
void start(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t bytes, bool barriers,
           cudaStream_t stream, A... arguments) {
    (check_argument(name, arguments), ...);
    launch({name, reinterpret_cast<const void *>(kernel), grid, block, bytes, barriers}, stream,
           [=]() { kernel(static_cast<P>(arguments)...); });
}

template <typename T> uint64_t word_of(T value) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    return word;
}
template <typename T> T value_of(uint64_t word) {
    T value;
    memcpy(&value, &word, sizeof value);
    return value;
}

} // namespace standin

#define threadIdx (standin::thread_index)
#define blockIdx  (standin::block_index)
#define blockDim  (standin::block_size)
#define gridDim   (standin::grid_size)
static const int warpSize = 32;

#define KERNEL(threads)                static void
#define KERNEL_BLOCKS(threads, blocks) static void
#define SHARED(Type, s)                                                                                                \
    static const char s##_site_ = 0;                                                                                   \
    Type &s = *static_cast<Type *>(standin::shared_memory(&s##_site_, sizeof(Type), alignof(Type)))
#define SHARED_BYTES(Type, s) Type *s = static_cast<Type *>(standin::dynamic_shared_memory())
#define LAUNCH(kernel, grid, block, stream, ...)                                                                       \
    standin::start(#kernel, kernel, dim3(grid), dim3(block), 0, false, stream, __VA_ARGS__)
#define LAUNCH_BLOCKS(kernel, grid, block, bytes, stream, ...)                                                         \
    standin::start(#kernel, kernel, dim3(grid), dim3(block), bytes, true, stream, __VA_ARGS__)
#define LAUNCH_NAMED(text, pointer, grid, block, bytes, stream, ...)                                                   \
    standin::start(text, pointer, dim3(grid), dim3(block), bytes, true, stream, __VA_ARGS__)

// The line of the call, so that a message (and a mutation) can name the barrier.
static inline void __syncthreads(int line = __builtin_LINE()) {
    standin::block_barrier(line);
}
static inline int __syncthreads_or(int value, int line = __builtin_LINE()) {
    return standin::block_vote(line, value != 0, true) != 0;
}
static inline int __syncthreads_and(int value, int line = __builtin_LINE()) {
    return standin::block_vote(line, value != 0, false) != 0;
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
    if (!standin::dropped(line)) standin::exchange(standin::WARP_BARRIER, line, mask, 0);
}
template <typename T> T __shfl_sync(unsigned mask, T value, int from, int width = 32, int line = __builtin_LINE()) {
    const uint64_t *all = standin::exchange(standin::SHUFFLE, line, mask, standin::word_of(value));
    const int base = standin::lane() / width * width;
    return standin::value_of<T>(all[base + from % width]);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int other, int width = 32, int line = __builtin_LINE()) {
    const uint64_t *all = standin::exchange(standin::SHUFFLE, line, mask, standin::word_of(value));
    const int lane = standin::lane(), from = lane ^ other;
    return standin::value_of<T>(all[from / width == lane / width ? from : lane]);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, int below, int width = 32, int line = __builtin_LINE()) {
    const uint64_t *all = standin::exchange(standin::SHUFFLE, line, mask, standin::word_of(value));
    const int lane = standin::lane(), from = lane + below;
    return standin::value_of<T>(all[from / width == lane / width ? from : lane]);
}
template <typename T> T __shfl_up_sync(unsigned mask, T value, int above, int width = 32, int line = __builtin_LINE()) {
    const uint64_t *all = standin::exchange(standin::SHUFFLE, line, mask, standin::word_of(value));
    const int lane = standin::lane(), from = lane - above;
    return standin::value_of<T>(all[from >= lane / width * width ? from : lane]);
}
static inline unsigned __ballot_sync(unsigned mask, int value, int line = __builtin_LINE()) {
    const uint64_t *all = standin::exchange(standin::VOTE, line, mask, value != 0);
    unsigned bits = 0;
    for (int i = 0; i < 32; i++) bits |= all[i] != 0 ? 1u << i : 0u;
    return bits;
}
static inline int __any_sync(unsigned mask, int value, int line = __builtin_LINE()) {
    return __ballot_sync(mask, value, line) != 0;
}
static inline int __all_sync(unsigned mask, int value, int line = __builtin_LINE()) {
    return (__ballot_sync(mask, value, line) & mask) == mask;
}

static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline int __ffs(int x) {
    return __builtin_ffs(x);
}
static inline int __clz(int x) {
    return x == 0 ? 32 : __builtin_clz((unsigned)x);
}
// Macros, as the host's <cmath> declares functions of these names.
#define __expf(x) expf(x)
#define __logf(x) logf(x)
static inline float __fdividef(float x, float y) {
    return x / y;
}
static inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}
static inline float __frcp_rn(float x) {
    return 1.0f / x;
}
static inline float __fsqrt_rn(float x) {
    return sqrtf(x);
}
static inline float __fdiv_rn(float x, float y) {
    return x / y;
}
// volatile: these promise that nothing is fused.
static inline float __fmul_rn(float x, float y) {
    volatile float product = x * y;
    return product;
}
static inline float __fadd_rn(float x, float y) {
    volatile float sum = x + y;
    return sum;
}
static inline float __fsub_rn(float x, float y) {
    volatile float difference = x - y;
    return difference;
}
static inline float __fmaf_rn(float x, float y, float z) {
    return fmaf(x, y, z);
}
static inline unsigned __umulhi(unsigned x, unsigned y) {
    return (unsigned)((uint64_t)x * y >> 32);
}
static inline unsigned __float_as_uint(float x) {
    return (unsigned)standin::word_of(x);
}
static inline float __uint_as_float(unsigned x) {
    return standin::value_of<float>(x);
}
template <typename T> static inline T __ldg(const T *from) {
    return *from;
}
static inline int min(int a, int b) {
    return a < b ? a : b;
}
static inline int max(int a, int b) {
    return a > b ? a : b;
}

// --- bf16 ---

struct __nv_bfloat16 {
    uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
static inline float __bfloat162float(__nv_bfloat16 x) {
    return standin::value_of<float>((uint64_t)x.bits << 16);
}
static inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    uint32_t u = (uint32_t)standin::word_of(x);
    if (std::isnan(x)) return {0x7FFF};
    return {(uint16_t)((u + 0x7FFFu + (u >> 16 & 1u)) >> 16)};
}
static inline __nv_bfloat16 __float2bfloat16(float x) {
    return __float2bfloat16_rn(x);
}
static inline float2 __bfloat1622float2(__nv_bfloat162 x) {
    return {__bfloat162float(x.x), __bfloat162float(x.y)};
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
    return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
static inline __nv_bfloat162 __float22bfloat162_rn(float2 x) {
    return __floats2bfloat162_rn(x.x, x.y);
}
