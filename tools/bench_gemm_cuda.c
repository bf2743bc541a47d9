// Measures the rate of cuBLASLt's matrix products on a GPU, in bf16 on the shapes of one training step: the yardstick
// of tools/gpu_check. It calls cuBLASLt itself and not kernels/, because the yardstick must not share the code it
// judges.
//
//     bench_gemm MODEL_DIR PREFIX SCORED KL shapes | bench_gemm_cuda      prints one line "KEY VALUE" a figure
//
// A line on standard input is one product: ROWS IN OUT USES BACKWARD F32_RESULT NAME, as tools/bench_gemm.c defines
// them: y[rows, out] = x[rows, in] W^T, backward dx[rows, in] = dy[rows, out] W, both from row-major W[out, in].
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define POOL_BYTES      ((size_t)1 << 30) // weights are taken from here in turn, so that they come from memory
#define WORKSPACE_BYTES ((size_t)32 << 20)
enum {
    SHAPES_MAX = 64,
    WARM_UP = 3,
    PRODUCTS = 20, // of one timing
    TIMINGS = 5,   // the median counts
};

typedef struct Shape {
    char name[32];
    long rows, in, out;
    double uses;
    int backward, f32_result;
} Shape;

typedef struct Bench {
    cublasLtHandle_t handle;
    cudaStream_t stream;
    cudaEvent_t begin, end;
    char *pool, *x, *y, *workspace;
} Bench;

static void require(bool good, const char *what) {
    if (good) return;
    fprintf(stderr, "bench_gemm_cuda: %s failed\n", what);
    exit(1);
}
#define CUDA(call) require((call) == cudaSuccess, #call)
#define LT(call)   require((call) == CUBLAS_STATUS_SUCCESS, #call)

// cuBLASLt is column-major: a row-major [rows, columns] is its transpose there.
static cublasLtMatrixLayout_t row_major(long rows, long columns, cudaDataType_t type) {
    cublasLtMatrixLayout_t layout;
    LT(cublasLtMatrixLayoutCreate(&layout, type, (uint64_t)columns, (uint64_t)rows, columns));
    return layout;
}

// Random values of about 1: equal ones draw less power, and run faster on a GPU that is held back by it.
static void fill(char *device, size_t bytes) {
    enum { CHUNK = 1 << 22 };
    uint16_t *host = malloc(CHUNK * sizeof *host);
    require(host != NULL, "malloc");
    uint32_t state = 1;
    for (int i = 0; i < CHUNK; i++) {
        state = state * 1664525u + 1013904223u;                  // Numerical Recipes, ranqd1
        host[i] = (uint16_t)(0x3f00u | (state >> 16 & 0x80ffu)); // sign and mantissa drawn, 0.5 to 2
    }
    for (size_t at = 0; at < bytes; at += CHUNK * sizeof *host) {
        const size_t left = bytes - at, now = left < CHUNK * sizeof *host ? left : CHUNK * sizeof *host;
        CUDA(cudaMemcpy(device + at, host, now, cudaMemcpyHostToDevice));
    }
    free(host);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Seconds of one product; 0: cuBLASLt has no algorithm for it.
static double measure(Bench *bench, const Shape *shape) {
    const cudaDataType_t type = CUDA_R_16BF;
    const size_t element = sizeof(uint16_t);
    const long in = shape->backward ? shape->out : shape->in, out = shape->backward ? shape->in : shape->out;
    const cudaDataType_t result = shape->f32_result ? CUDA_R_32F : type;
    const cublasOperation_t transpose = CUBLAS_OP_T;
    cublasLtMatmulDesc_t product;
    LT(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    // In column-major terms y' = W'^T x' forward and dx' = W' dy' backward.
    if (!shape->backward)
        LT(cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose));
    cublasLtMatrixLayout_t w = row_major(shape->out, shape->in, type), x = row_major(shape->rows, in, type),
                           y = row_major(shape->rows, out, result);
    cublasLtMatmulPreference_t preference;
    LT(cublasLtMatmulPreferenceCreate(&preference));
    const size_t workspace = WORKSPACE_BYTES;
    LT(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                            sizeof workspace));
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    LT(cublasLtMatmulAlgoGetHeuristic(bench->handle, product, w, x, y, y, preference, 1, &found, &count));
    const size_t weight_bytes = ((size_t)shape->out * (size_t)shape->in * element + 255) / 256 * 256;
    const size_t slots = POOL_BYTES / weight_bytes;
    const float one = 1, zero = 0;
    double seconds[TIMINGS] = {0};
    for (int timing = -1; timing < TIMINGS && count > 0 && slots > 0; timing++) {
        const int products = timing < 0 ? WARM_UP : PRODUCTS;
        CUDA(cudaEventRecord(bench->begin, bench->stream));
        for (int i = 0; i < products; i++)
            LT(cublasLtMatmul(bench->handle, product, &one, bench->pool + (size_t)i % slots * weight_bytes, w, bench->x,
                              x, &zero, bench->y, y, bench->y, y, &found.algo, bench->workspace, WORKSPACE_BYTES,
                              bench->stream));
        CUDA(cudaEventRecord(bench->end, bench->stream));
        CUDA(cudaEventSynchronize(bench->end));
        float milliseconds;
        CUDA(cudaEventElapsedTime(&milliseconds, bench->begin, bench->end));
        if (timing >= 0) seconds[timing] = milliseconds * 1e-3 / products;
    }
    qsort(seconds, TIMINGS, sizeof *seconds, by_value);
    cublasLtMatmulPreferenceDestroy(preference);
    cublasLtMatrixLayoutDestroy(w);
    cublasLtMatrixLayoutDestroy(x);
    cublasLtMatrixLayoutDestroy(y);
    cublasLtMatmulDescDestroy(product);
    return seconds[TIMINGS / 2];
}

// Operations of a step over the seconds that its products take.
static double step_rate(Bench *bench, const Shape *shapes, int count) {
    double work = 0, time = 0;
    for (int i = 0; i < count; i++) {
        const Shape *s = &shapes[i];
        const double flops = 2.0 * (double)s->rows * (double)s->in * (double)s->out;
        const double seconds = measure(bench, s);
        require(seconds > 0, "a product of this shape");
        fprintf(stderr, "%-8s %-8s [%5ld, %5ld] x W[%5ld, %5ld]  x%-4.0f %9.0f GFLOP/s\n",
                s->backward ? "backward" : "forward", s->name, s->rows, s->backward ? s->out : s->in, s->out, s->in,
                s->uses, flops / seconds * 1e-9);
        work += s->uses * flops;
        time += s->uses * seconds;
    }
    return work / time;
}

int main(void) {
    Shape shapes[SHAPES_MAX];
    int count = 0;
    size_t widest = 0;
    double work = 0;
    Shape *s = shapes;
    while (count < SHAPES_MAX && scanf("%ld %ld %ld %lf %d %d %31[^\n]", &s->rows, &s->in, &s->out, &s->uses,
                                       &s->backward, &s->f32_result, s->name) == 7) {
        require(s->rows > 0 && s->in > 0 && s->out > 0, "reading a shape");
        const size_t elements = (size_t)s->rows * (size_t)(s->in > s->out ? s->in : s->out);
        widest = elements > widest ? elements : widest;
        work += s->uses * 2.0 * (double)s->rows * (double)s->in * (double)s->out;
        s = &shapes[++count < SHAPES_MAX ? count : SHAPES_MAX - 1];
    }
    require(count > 0, "reading shapes from standard input");
    Bench bench;
    CUDA(cudaSetDevice(0));
    LT(cublasLtCreate(&bench.handle));
    CUDA(cudaStreamCreate(&bench.stream));
    CUDA(cudaEventCreate(&bench.begin));
    CUDA(cudaEventCreate(&bench.end));
    CUDA(cudaMalloc((void **)&bench.pool, POOL_BYTES));
    CUDA(cudaMalloc((void **)&bench.x, widest * sizeof(float)));
    CUDA(cudaMalloc((void **)&bench.y, widest * sizeof(float)));
    CUDA(cudaMalloc((void **)&bench.workspace, WORKSPACE_BYTES));
    fill(bench.pool, POOL_BYTES);
    fill(bench.x, widest * sizeof(float));
    printf("useful_gflop %.3f\n", work * 1e-9);
    printf("bf16_gflops %.1f\n", step_rate(&bench, shapes, count) * 1e-9);
    return 0;
}
