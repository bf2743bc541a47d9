// The stand-in's cuBLASLt: column-major products as plain loops with fp32 sums in the order of k. It refuses what the
// real one refuses, and beyond that what kto must not ask for: TF32, and partial sums in the output's type.
//
// The environment: KTO_STANDIN_SWAP=N flips a transpose flag of the N-th kind of product in the order of their first
// use; KTO_STANDIN_LIST=FILE appends the kinds that were met, as lines "product:N".
#include "cublasLt.h"
#include "standin.h"

#include <array>
#include <vector>

struct cublasLtContext {};
struct cublasLtMatmulDescOpaque {
    cublasComputeType_t compute;
    int32_t transpose_a, transpose_b, epilogue;
    const void *bias;
    int32_t bias_type; // -1: that of d
};
struct cublasLtMatrixLayoutOpaque {
    cudaDataType_t type;
    uint64_t rows, cols;
    int64_t ld;
};
struct cublasLtMatmulPreferenceOpaque {
    uint64_t workspace;
    uint32_t reductions, alignment[4]; // of a, b, c, d
};

namespace {

constexpr uint64_t ALGORITHM = 0x6b746f; // marks an algorithm that the heuristic gave

size_t size_of(cudaDataType_t type) {
    return type == CUDA_R_32F ? 4 : 2;
}

float load(const void *from, cudaDataType_t type, size_t at) {
    return type == CUDA_R_32F ? static_cast<const float *>(from)[at]
                              : __bfloat162float(static_cast<const __nv_bfloat16 *>(from)[at]);
}

void store(void *to, cudaDataType_t type, size_t at, float value) {
    if (type == CUDA_R_32F)
        static_cast<float *>(to)[at] = value;
    else
        static_cast<__nv_bfloat16 *>(to)[at] = __float2bfloat16_rn(value);
}

size_t span(const cublasLtMatrixLayoutOpaque *layout) {
    return layout->rows == 0 || layout->cols == 0
               ? 0
               : ((layout->cols - 1) * (size_t)layout->ld + layout->rows) * size_of(layout->type);
}

// What a real call would refuse whatever the pointers.
cublasStatus_t check(const cublasLtMatmulDescOpaque *op, const cublasLtMatrixLayoutOpaque *a,
                     const cublasLtMatrixLayoutOpaque *b, const cublasLtMatrixLayoutOpaque *c,
                     const cublasLtMatrixLayoutOpaque *d) {
    for (const cublasLtMatrixLayoutOpaque *layout : {a, b, c, d})
        if (layout->rows == 0 || layout->cols == 0 || layout->ld < (int64_t)layout->rows)
            return CUBLAS_STATUS_INVALID_VALUE;
    const uint64_t m = op->transpose_a ? a->cols : a->rows, k = op->transpose_a ? a->rows : a->cols;
    const uint64_t n = op->transpose_b ? b->rows : b->cols, k_of_b = op->transpose_b ? b->cols : b->rows;
    if (k != k_of_b || m != d->rows || n != d->cols || c->rows != d->rows || c->cols != d->cols || c->type != d->type)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (op->compute != CUBLAS_COMPUTE_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    const bool types = a->type == b->type && (a->type == CUDA_R_32F    ? d->type == CUDA_R_32F
                                              : a->type == CUDA_R_16BF ? d->type == CUDA_R_32F || d->type == CUDA_R_16BF
                                                                       : false);
    if (!types) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (op->epilogue == CUBLASLT_EPILOGUE_BIAS) {
        const int32_t type = op->bias_type < 0 ? d->type : op->bias_type;
        if (op->bias == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
        if (type != d->type) return CUBLAS_STATUS_NOT_SUPPORTED;
    } else if (op->epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    return CUBLAS_STATUS_SUCCESS;
}

__attribute__((target_clones("avx512f", "arch=haswell", "default"))) void add_scaled(float *to, const float *from,
                                                                                     float by, size_t count) {
    for (size_t i = 0; i < count; i++) to[i] += by * from[i];
}

// op(layout) as floats, its rows one after the other in memory: [cols of op][rows of op] when by_column.
std::vector<float> unpack(const void *from, const cublasLtMatrixLayoutOpaque &layout, bool transposed) {
    const size_t rows = transposed ? layout.cols : layout.rows, cols = transposed ? layout.rows : layout.cols;
    std::vector<float> to(rows * cols);
    for (size_t j = 0; j < cols; j++)
        for (size_t i = 0; i < rows; i++)
            to[j * rows + i] =
                load(from, layout.type, transposed ? i * (size_t)layout.ld + j : j * (size_t)layout.ld + i);
    return to;
}

struct Product {
    cublasLtMatmulDescOpaque op;
    cublasLtMatrixLayoutOpaque a_layout, b_layout, c_layout, d_layout;
    const void *a, *b, *c;
    void *d;
    float alpha, beta;
};

void run(const Product &p) {
    const std::vector<float> a = unpack(p.a, p.a_layout, p.op.transpose_a != 0);
    const std::vector<float> b = unpack(p.b, p.b_layout, p.op.transpose_b != 0);
    const size_t m = p.d_layout.rows, n = p.d_layout.cols, k = a.size() / m;
    std::vector<float> sum(m);
    for (size_t j = 0; j < n; j++) {
        std::fill(sum.begin(), sum.end(), 0.0f);
        for (size_t l = 0; l < k; l++) add_scaled(sum.data(), &a[l * m], b[j * k + l], m);
        for (size_t i = 0; i < m; i++) {
            float value = p.alpha * sum[i];
            if (p.beta != 0) value += p.beta * load(p.c, p.c_layout.type, j * (size_t)p.c_layout.ld + i);
            if (p.op.epilogue == CUBLASLT_EPILOGUE_BIAS) value += load(p.op.bias, p.d_layout.type, i);
            store(p.d, p.d_layout.type, j * (size_t)p.d_layout.ld + i, value);
        }
    }
}

uint64_t alignment(const void *pointer) {
    return reinterpret_cast<uintptr_t>(pointer) & -reinterpret_cast<uintptr_t>(pointer);
}

// Kinds of products so far: flags, epilogue, types, whether c is added to. (Never freed: read when the program ends.)
std::vector<std::array<int, 6>> &kinds = *new std::vector<std::array<int, 6>>;

__attribute__((destructor)) void list_kinds() {
    const char *path = getenv("KTO_STANDIN_LIST");
    FILE *file = path != nullptr ? fopen(path, "a") : nullptr;
    if (file == nullptr) return;
    for (size_t i = 0; i < kinds.size(); i++) fprintf(file, "product:%zu\n", i + 1);
    fclose(file);
}

// The operation, with a flag flipped where the environment asks for it.
cublasLtMatmulDescOpaque mutated(const cublasLtMatmulDescOpaque &op, const cublasLtMatrixLayoutOpaque &a,
                                 const cublasLtMatrixLayoutOpaque &d, float beta) {
    static const char *const which = getenv("KTO_STANDIN_SWAP");
    cublasLtMatmulDescOpaque copy = op;
    const std::array<int, 6> kind = {op.transpose_a, op.transpose_b, op.epilogue, a.type, d.type, beta != 0};
    size_t index = 0;
    while (index < kinds.size() && kinds[index] != kind) index++;
    if (index == kinds.size()) kinds.push_back(kind);
    if (which != nullptr && (int)index + 1 == atoi(which)) copy.transpose_a = !copy.transpose_a;
    return copy;
}

template <typename T> cublasStatus_t take(T *to, const void *value, size_t bytes) {
    if (value == nullptr || bytes != sizeof *to) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

} // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out) {
    *out = new cublasLtContext;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion(void) {
    return 130000;
}
const char *cublasLtGetStatusName(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
        return "CUBLAS_STATUS_INTERNAL_ERROR";
    }
}
const char *cublasLtGetStatusString(cublasStatus_t status) {
    return cublasLtGetStatusName(status);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute, cudaDataType_t scale) {
    if (scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    *out = new cublasLtMatmulDescOpaque{compute, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr, -1};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
    delete operation;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t name,
                                              const void *value, size_t bytes) {
    switch (name) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return take(&operation->transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return take(&operation->transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return take(&operation->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return take(&operation->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return take(&operation->bias_type, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType_t type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
    *out = new cublasLtMatrixLayoutOpaque{type, rows, cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out) {
    *out = new cublasLtMatmulPreferenceOpaque{0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t name, const void *value,
                                                    size_t bytes) {
    switch (name) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return take(&preference->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return take(&preference->reductions, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        return take(&preference->alignment[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        return take(&preference->alignment[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        return take(&preference->alignment[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return take(&preference->alignment[3], value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

// One algorithm. It remembers the alignment that it was promised and the workspace that it wants.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t *results, int *count) {
    *count = 0;
    if (handle == nullptr || wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
    const cublasStatus_t status = check(operation, a, b, c, d);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (preference->reductions & ~(uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)
        standin::refuse("cuBLASLt: partial sums in the output's type are allowed (reduction scheme mask %u)",
                        preference->reductions);
    *results = cublasLtMatmulHeuristicResult_t();
    results->algo.data[0] = ALGORITHM;
    for (int i = 0; i < 4; i++) results->algo.data[1 + i] = preference->alignment[i];
    results->algo.data[5] = results->workspaceSize = preference->workspace < 4096 ? preference->workspace : 4096;
    results->state = CUBLAS_STATUS_SUCCESS;
    *count = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
                              const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
    if (cudaPeekAtLastError() != cudaSuccess) return CUBLAS_STATUS_EXECUTION_FAILED;
    if (handle == nullptr || alpha == nullptr || beta == nullptr || a == nullptr || b == nullptr || c == nullptr ||
        d == nullptr)
        return CUBLAS_STATUS_INVALID_VALUE;
    const cublasLtMatmulDescOpaque op = mutated(*operation, *a_layout, *d_layout, *static_cast<const float *>(beta));
    const cublasStatus_t status = check(&op, a_layout, b_layout, c_layout, d_layout);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (algo == nullptr || algo->data[0] != ALGORITHM)
        standin::refuse("cuBLASLt: a product without an algorithm that was chosen before may change from call to call");
    if (workspace_bytes < algo->data[5] || (algo->data[5] > 0 && workspace == nullptr) ||
        reinterpret_cast<uintptr_t>(workspace) % 16 != 0)
        return CUBLAS_STATUS_INVALID_VALUE;
    const void *pointers[] = {a, b, c, d};
    const cublasLtMatrixLayoutOpaque *layouts[] = {a_layout, b_layout, c_layout, d_layout};
    for (int i = 0; i < 4; i++) {
        if (alignment(pointers[i]) < algo->data[1 + i]) return CUBLAS_STATUS_INVALID_VALUE;
        if (!standin::is_device(pointers[i])) standin::refuse("cuBLASLt: %p is not device memory", pointers[i]);
        standin::check_span(pointers[i], span(layouts[i]), "cuBLASLt");
    }
    const Product product = {*operation,
                             *a_layout,
                             *b_layout,
                             *c_layout,
                             *d_layout,
                             a,
                             b,
                             c,
                             d,
                             *static_cast<const float *>(alpha),
                             *static_cast<const float *>(beta)};
    standin::count("product");
    standin::enqueue(stream, [product]() { run(product); });
    return CUBLAS_STATUS_SUCCESS;
}

} // extern "C"
