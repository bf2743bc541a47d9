// The stand-in refuses what the real thing would not forgive. Each case runs in a child process: it must end well, or
// be stopped with a message that names the fault.
#include "cublasLt.h"
#include "standin_tensor.h"

#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace {

enum { N = 64 };

void check(bool good, const char *what) {
    if (good) return;
    fprintf(stderr, "wrong: %s\n", what);
    exit(1);
}

float *device_floats(size_t count) {
    void *pointer = nullptr;
    check(cudaMalloc(&pointer, count * sizeof(float)) == cudaSuccess, "cudaMalloc");
    return static_cast<float *>(pointer);
}

std::vector<float> download(const float *from, size_t count) {
    std::vector<float> to(count);
    check(cudaMemcpy(to.data(), from, count * sizeof(float), cudaMemcpyDeviceToHost) == cudaSuccess, "cudaMemcpy");
    return to;
}

struct Exchange {
    float value[N];
};

// Reverses N numbers through shared memory.
KERNEL(N) reverse(float *x, int barrier) {
    SHARED(Exchange, s);
    s.value[threadIdx.x] = x[threadIdx.x];
    if (barrier) __syncthreads();
    x[threadIdx.x] = s.value[N - 1 - threadIdx.x];
}

KERNEL(N) misses_a_barrier(float *x) {
    if (threadIdx.x == 3) return;
    __syncthreads();
    x[threadIdx.x] = 0;
}

KERNEL(N) other_barriers(float *x) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    x[threadIdx.x] = 0;
}

KERNEL(N) one_lane_shuffles(float *x) {
    if (threadIdx.x == 0) x[0] = __shfl_xor_sync(0xffffffffu, x[0], 1);
}

KERNEL(N) overruns(float *x) {
    SHARED_BYTES(float, s);
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = s[threadIdx.x];
}

KERNEL(N) sums(float *x) {
    float sum = x[threadIdx.x];
    for (int other = 16; other > 0; other /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
    x[threadIdx.x] = sum + (float)__ballot_sync(0xffffffffu, threadIdx.x % 32 < 2);
}

// c[16, 8] = 1 + a[16, 16] b[8, 16]^T, one warp.
KERNEL(32) matrix_product(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c, int transposed, int early) {
    SHARED_BYTES(__nv_bfloat16, s); // a, then b twice
    for (int i = (int)threadIdx.x; i < 64; i += 32) copy_16(s + 8 * i, i < 32 ? a + 8 * i : b + 8 * (i % 16), true);
    copies_commit();
    if (early)
        copies_wait<1>();
    else
        copies_wait<0>();
    __syncwarp();
    const int lane = standin::lane(), row = lane % 8;
    uint32_t left[4], right[4];
    float sum[4] = {1, 1, 1, 1};
    load_matrices(left, s + (row + lane / 8 % 2 * 8) * 16 + lane / 16 * 8);
    if (transposed) // of b[16, 8], columns in rows
        load_matrices_transposed(right, s + 256 + (row + lane / 8 % 2 * 8) * 8);
    else
        load_matrices(right, s + 256 + row * 16 + lane / 8 % 2 * 8);
    multiply_add(sum, left, right[0], right[1]);
    for (int e = 0; e < 4; e++) c[(lane / 4 + e / 2 * 8) * 8 + lane % 4 * 2 + e % 2] = sum[e];
    copies_wait<0>(); // nothing is left where the wait above lets too much pass
}

KERNEL(32) copies_beyond(const float *x) {
    SHARED_BYTES(float, s);
    copy_16(s + 4 * threadIdx.x + 4, x, false);
    copies_commit();
    copies_wait<0>();
}

KERNEL(32) copies_unaligned(const float *x) {
    SHARED_BYTES(float, s);
    copy_16(s + 4 * threadIdx.x, x + 1, true);
    copies_commit();
    copies_wait<0>();
}

KERNEL(32) copies_left(const float *x) {
    SHARED_BYTES(float, s);
    copy_8(s + 2 * threadIdx.x, x + 2 * threadIdx.x, true);
    copies_commit();
}

void run_reverse(int barrier) {
    float numbers[N];
    for (int i = 0; i < N; i++) numbers[i] = (float)i;
    float *x = device_floats(N);
    cudaMemcpy(x, numbers, sizeof numbers, cudaMemcpyHostToDevice);
    LAUNCH_BLOCKS(reverse, 1, N, 0, nullptr, x, barrier);
    const std::vector<float> got = download(x, N);
    for (int i = 0; i < N; i++) check(got[(size_t)i] == (float)(N - 1 - i), "reversed numbers");
}

// --- cases ---

void good_kernel() {
    run_reverse(1);
}
void forgotten_barrier() {
    run_reverse(0);
}
void missed_barrier() {
    LAUNCH_BLOCKS(misses_a_barrier, 1, N, 0, nullptr, device_floats(N));
    cudaDeviceSynchronize();
}
void different_barriers() {
    LAUNCH_BLOCKS(other_barriers, 1, N, 0, nullptr, device_floats(N));
    cudaDeviceSynchronize();
}
void lone_shuffle() {
    LAUNCH_BLOCKS(one_lane_shuffles, 1, N, 0, nullptr, device_floats(N));
    cudaDeviceSynchronize();
}
void barrier_without_blocks() {
    LAUNCH(reverse, 1, N, nullptr, device_floats(N), 1);
    cudaDeviceSynchronize();
}
void shared_overrun() {
    LAUNCH_BLOCKS(overruns, 1, N, (N - 8) * sizeof(float), nullptr, device_floats(N));
    cudaDeviceSynchronize();
}
void too_much_shared() {
    LAUNCH_BLOCKS(overruns, 1, N, 50 << 10, nullptr, device_floats(N));
    check(cudaGetLastError() == cudaErrorInvalidValue, "50 KiB without opting in are refused");
    check(cudaFuncSetAttribute(reinterpret_cast<const void *>(&overruns), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               50 << 10) == cudaSuccess,
          "opting in");
    LAUNCH_BLOCKS(overruns, 1, N, 50 << 10, nullptr, device_floats(N));
    check(cudaGetLastError() == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess, "50 KiB after opting in");
}
void host_access() {
    *static_cast<volatile float *>(device_floats(N)) = 1;
}
void host_argument() {
    float x[N] = {0};
    LAUNCH_BLOCKS(reverse, 1, N, 0, nullptr, static_cast<float *>(x), 1);
}
void fresh_memory() {
    for (float x : download(device_floats(N), N)) check(std::isnan(x), "new memory is NaN");
}
void copy_overrun() {
    float numbers[2 * N] = {0};
    cudaMemcpy(device_floats(N), numbers, sizeof numbers, cudaMemcpyHostToDevice);
}
void forgotten_wait() {
    cudaStream_t stream;
    cudaStreamCreate(&stream);
    float *x = device_floats(N), numbers[N] = {0}, got = -1;
    cudaMemcpyAsync(x, numbers, sizeof numbers, cudaMemcpyHostToDevice, stream);
    cudaMemcpyAsync(&got, x, sizeof got, cudaMemcpyDeviceToHost, stream);
    check(got == -1, "nothing is there before the wait");
    cudaStreamSynchronize(stream);
    check(got == 0, "all is there after it");
}
void shuffles() {
    float numbers[N];
    for (int i = 0; i < N; i++) numbers[i] = (float)(i / 32 + 1);
    float *x = device_floats(N);
    cudaMemcpy(x, numbers, sizeof numbers, cudaMemcpyHostToDevice);
    LAUNCH_BLOCKS(sums, 1, N, 0, nullptr, x);
    const std::vector<float> got = download(x, N);
    for (int i = 0; i < N; i++)
        check(got[(size_t)i] == (float)(32 * (i / 32 + 1) + 3), "sums over warps, and a ballot");
}
void run_matrices(int transposed, int early) {
    std::vector<__nv_bfloat16> a(256), b(128);
    std::vector<float> want(128, 1.0f);
    for (int i = 0; i < 256; i++) a[(size_t)i] = __float2bfloat16_rn((float)(i * 7 % 13 - 6));
    for (int i = 0; i < 128; i++) b[(size_t)i] = __float2bfloat16_rn((float)(i * 5 % 11 - 5));
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++)
            for (int k = 0; k < 16; k++)
                want[(size_t)(i * 8 + j)] += __bfloat162float(a[(size_t)(i * 16 + k)]) *
                                             __bfloat162float(b[(size_t)(transposed ? k * 8 + j : j * 16 + k)]);
    void *left, *right;
    cudaMalloc(&left, 512);
    cudaMalloc(&right, 256);
    cudaMemcpy(left, a.data(), 512, cudaMemcpyHostToDevice);
    cudaMemcpy(right, b.data(), 256, cudaMemcpyHostToDevice);
    float *c = device_floats(128);
    LAUNCH_NAMED("matrix_product", matrix_product, 1, 32, 1024, nullptr, static_cast<const __nv_bfloat16 *>(left),
                 static_cast<const __nv_bfloat16 *>(right), c, transposed, early);
    check(download(c, 128) == want, "a product of matrices");
}
void matrices() {
    run_matrices(0, 0);
    run_matrices(1, 0);
}
void lax_wait() {
    run_matrices(0, 1);
}
void beyond() {
    LAUNCH_BLOCKS(copies_beyond, 1, 32, 512, nullptr, device_floats(N));
    cudaDeviceSynchronize();
}
void unaligned() {
    LAUNCH_BLOCKS(copies_unaligned, 1, 32, 512, nullptr, device_floats(N));
    cudaDeviceSynchronize();
}
void left_behind() {
    LAUNCH_BLOCKS(copies_left, 1, 32, 512, nullptr, device_floats(N));
    cudaDeviceSynchronize();
}
void lost_device() { // with KTO_STANDIN_FAIL=launch:1
    float *x = device_floats(N);
    LAUNCH_BLOCKS(reverse, 1, N, 0, nullptr, x, 1);
    check(cudaDeviceSynchronize() == cudaErrorLaunchFailure, "the wait tells of the failed kernel");
    check(cudaMemsetAsync(x, 0, 4, nullptr) == cudaErrorLaunchFailure, "and every call after it");
}
void product_refusals() {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, c, short_ld;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t result;
    int count = 0;
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatrixLayoutCreate(&a, CUDA_R_32F, 8, 4, 8);
    cublasLtMatrixLayoutCreate(&b, CUDA_R_32F, 4, 6, 4);
    cublasLtMatrixLayoutCreate(&c, CUDA_R_32F, 8, 6, 8);
    cublasLtMatrixLayoutCreate(&short_ld, CUDA_R_32F, 8, 6, 7);
    cublasLtMatmulPreferenceCreate(&preference);
    const uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &none, sizeof none);
    check(cublasLtMatmulAlgoGetHeuristic(handle, operation, a, b, short_ld, short_ld, preference, 1, &result, &count) ==
              CUBLAS_STATUS_INVALID_VALUE,
          "a leading dimension that is too short");
    check(cublasLtMatmulAlgoGetHeuristic(handle, operation, b, a, c, c, preference, 1, &result, &count) ==
              CUBLAS_STATUS_INVALID_VALUE,
          "shapes that do not meet");
    check(cublasLtMatmulAlgoGetHeuristic(handle, operation, a, b, c, c, preference, 1, &result, &count) ==
                  CUBLAS_STATUS_SUCCESS &&
              count == 1,
          "a good product");
    const float one = 1, zero = 0;
    float *x = device_floats(32), *y = device_floats(24), *z = device_floats(48);
    check(cublasLtMatmul(handle, operation, &one, x + 1, a, y, b, &zero, z, c, z, c, &result.algo, nullptr, 0,
                         nullptr) == CUBLAS_STATUS_INVALID_VALUE,
          "an alignment that was not promised");
}
// Of op(a) [8, 4] and b [4, columns], by an algorithm that was chosen for 6 columns, and checked for these where
// `checked`.
void product_of_columns(uint64_t columns, bool checked) {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t result, of_check;
    int count = 0;
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatrixLayoutCreate(&a, CUDA_R_32F, 8, 4, 8);
    cublasLtMatrixLayoutCreate(&b, CUDA_R_32F, 4, 6, 4);
    cublasLtMatrixLayoutCreate(&c, CUDA_R_32F, 8, 6, 8);
    cublasLtMatmulPreferenceCreate(&preference);
    const uint32_t none = CUBLASLT_REDUCTION_SCHEME_NONE;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &none, sizeof none);
    cublasLtMatmulAlgoGetHeuristic(handle, operation, a, b, c, c, preference, 1, &result, &count);
    for (cublasLtMatrixLayout_t layout : {b, c})
        cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_COLS, &columns, sizeof columns);
    if (checked)
        check(cublasLtMatmulAlgoCheck(handle, operation, a, b, c, c, &result.algo, &of_check) == CUBLAS_STATUS_SUCCESS,
              "the check of other columns");
    const float one = 1, zero = 0;
    float *x = device_floats(32), *y = device_floats(24), *z = device_floats(48);
    check(cublasLtMatmul(handle, operation, &one, x, a, y, b, &zero, z, c, z, c, &result.algo, nullptr, 0, nullptr) ==
              CUBLAS_STATUS_SUCCESS,
          "a product of other columns");
}
void unchecked_product() {
    product_of_columns(5, false);
}
void checked_product() {
    product_of_columns(5, true);
}
void product_that_may_vary() {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t result;
    int count;
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatrixLayoutCreate(&a, CUDA_R_32F, 4, 4, 4);
    cublasLtMatmulPreferenceCreate(&preference); // all reduction schemes
    cublasLtMatmulAlgoGetHeuristic(handle, operation, a, a, a, a, preference, 1, &result, &count);
}

struct Case {
    const char *name;
    void (*run)();
    const char *message;     // what it is stopped with; null: it ends well
    const char *environment; // NAME=VALUE
};

const Case cases[] = {
    {"a good kernel", good_kernel, nullptr, nullptr},
    {"a good kernel in another order", good_kernel, nullptr, "KTO_STANDIN_SEED=3"},
    {"a forgotten barrier", forgotten_barrier, "wrong: reversed numbers", nullptr},
    {"a forgotten barrier in another order", forgotten_barrier, "wrong: reversed numbers", "KTO_STANDIN_SEED=3"},
    {"a barrier that is taken away", good_kernel, "wrong: reversed numbers", "KTO_STANDIN_DROP=reverse:BARRIER"},
    {"a missed barrier", missed_barrier, "kernel misses_a_barrier, block (0, 0, 0), thread 0: waits for ever", nullptr},
    {"different barriers", different_barriers, "while others wait at line", nullptr},
    {"a shuffle of one lane", lone_shuffle, "waits for ever", nullptr},
    {"a barrier under LAUNCH", barrier_without_blocks, "use LAUNCH_BLOCKS", nullptr},
    {"shared memory overrun", shared_overrun, "a kernel touched memory that is not its own", nullptr},
    {"too much shared memory", too_much_shared, nullptr, nullptr},
    {"the host in device memory", host_access, "host code touched device memory", nullptr},
    {"the host's memory in a kernel", host_argument, "kernel reverse is given a pointer into the host's memory",
     nullptr},
    {"fresh memory", fresh_memory, nullptr, nullptr},
    {"a copy beyond its buffer", copy_overrun, "leave their device memory", nullptr},
    {"a forgotten wait", forgotten_wait, nullptr, nullptr},
    {"a wait that is taken away", forgotten_wait, "wrong: all is there after it",
     "KTO_STANDIN_DROP_WAIT=test_standin.cc:WAIT"},
    {"shuffles", shuffles, nullptr, nullptr},
    {"matrices", matrices, nullptr, nullptr},
    {"a wait for copies that is too lax", lax_wait, "wrong: a product of matrices", nullptr},
    {"a wait for copies that is taken away", matrices, "wrong: a product of matrices",
     "KTO_STANDIN_DROP=matrix_product:COPIES"},
    {"a copy beyond shared memory", beyond, "leaves the block's shared memory", nullptr},
    {"a copy from anywhere", unaligned, "needs addresses that are multiples", nullptr},
    {"a copy that nobody waits for", left_behind, "ends before 1 of its asynchronous copies have landed", nullptr},
    {"a lost device", lost_device, nullptr, "KTO_STANDIN_FAIL=launch:1"},
    {"no memory", good_kernel, "wrong: cudaMalloc", "KTO_STANDIN_FAIL=cudaMalloc:1"},
    {"refused products", product_refusals, nullptr, nullptr},
    {"a product of other columns", checked_product, nullptr, nullptr},
    {"a product of other columns, chosen only", checked_product, "wrong: the check of other columns",
     "KTO_STANDIN_CHOSEN_ONLY=1"},
    {"a product of other columns, not checked", unchecked_product, "neither chosen nor checked for its shape", nullptr},
    {"a product whose bits may vary", product_that_may_vary, "partial sums in the output's type", nullptr},
};

// With BARRIER, WAIT and COPIES replaced by the lines of this file where `reverse`, `forgotten_wait` and
// `matrix_product` have theirs.
std::string with_line(const char *environment) {
    const char *const places[][2] = {{"BARRIER", "    if (barrier) __syncthreads();"},
                                     {"WAIT", "    cudaStreamSynchronize(stream);"},
                                     {"COPIES", "        copies_wait<0>();"}};
    std::string text = environment;
    for (const auto &place : places) {
        const size_t at = text.find(place[0], text.find('='));
        if (at == std::string::npos) continue;
        FILE *source = fopen(__FILE__, "r");
        char line[256];
        for (int number = 1; source != nullptr && fgets(line, sizeof line, source) != nullptr; number++)
            if (strstr(line, place[1]) == line) text.replace(at, strlen(place[0]), std::to_string(number));
        if (source != nullptr) fclose(source);
    }
    return text;
}

bool run_case(const Case &c) {
    int ends[2];
    if (pipe(ends) != 0) return false;
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        if (c.environment != nullptr) putenv(strdup(with_line(c.environment).c_str()));
        c.run();
        _exit(0);
    }
    close(ends[1]);
    std::string said;
    char text[4096];
    for (ssize_t bytes; (bytes = read(ends[0], text, sizeof text)) > 0;) said.append(text, (size_t)bytes);
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    const bool ended_well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    const bool good = c.message == nullptr ? ended_well : !ended_well && said.find(c.message) != std::string::npos;
    printf("%s: %s\n", good ? "ok" : "FAILED", c.name);
    if (!good) printf("  it said: %s\n", said.c_str());
    return good;
}

} // namespace

int main() {
    setvbuf(stdout, nullptr, _IONBF, 0); // children must not print again what waits in a buffer
    int failures = 0;
    for (const Case &c : cases) failures += !run_case(c);
    return failures > 0;
}
