// All matrix products of the CUDA device: cuBLASLt's matmul, one plan a shape, kept in a table. cuBLASLt thinks in
// columns: a row-major matrix is its transpose there, so c^T = b^T a^T is what it is asked for.
//
// A plan's algorithm is the first that the heuristic offers for the shape, the strides and the pointers' alignment, in
// a workspace of fixed size, and its partial sums stay fp32 (reduction in the compute type, never in the output's): the
// same product gives the same bits whenever it is asked for.
#include "kernels/cuda/cuda.h"
#include "src/base/hash.h"
#include "src/base/memory.h"
#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

enum {
    SETS = 256, // plans kept: SETS * WAYS, the least recently used of a set makes room
    WAYS = 4,
    CANDIDATES = 8,
    ALIGNMENT_MAX = 16,  // bytes, the widest load: buffers that are aligned better share a plan
    WORKSPACE = 4 << 20, // bytes: cuBLAS's own defaults (cublasSetWorkspace)
    WORKSPACE_HOPPER = 32 << 20,
    BIAS_BYTES = 1 << 20, // room for a bias that is moved to be aligned
};

// All of these have one size, so that a key has no padding.
typedef struct Key {
    int64_t m, n, k, lda, ldb, ldc;
    int64_t ab_type, c_type, a_transposed, b_transposed, accumulate, bias;
    int64_t a_alignment, b_alignment, c_alignment;
} Key;

typedef struct Plan {
    Key key;
    cublasLtMatmulDesc_t operation;     // NULL: an empty place
    cublasLtMatrixLayout_t left, right; // b^T, a^T
    cublasLtMatrixLayout_t out;         // c^T
    cublasLtMatmulAlgo_t algorithm;
    uint64_t last_use;
} Plan;

struct Gemm {
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    void *workspace, *bias; // of workspace_bytes and BIAS_BYTES
    size_t workspace_bytes;
    uint64_t uses;
    Plan plans[SETS][WAYS];
};

static Status check(const Device *device, cublasStatus_t result, const char *what, const GemmCall *call) {
    if (result == CUBLAS_STATUS_SUCCESS) return STATUS_OK;
    if (!call)
        return error_set(STATUS_FAILED, "%s: cuBLASLt, %s: %s", device->name, what, cublasLtGetStatusString(result));
    return error_set(STATUS_FAILED, "%s: cuBLASLt, %s: %s, for a product of %lld x %lld by %lld x %lld", device->name,
                     what, cublasLtGetStatusString(result), (long long)call->m, (long long)call->k, (long long)call->k,
                     (long long)call->n);
}

// --- plans ---

static int64_t alignment(const void *pointer) {
    const uintptr_t address = (uintptr_t)pointer | ALIGNMENT_MAX;
    return (int64_t)(address & -address);
}

static cudaDataType_t cuda_type(DType dtype) {
    return dtype == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static void plan_free(Plan *plan) {
    if (plan->left) cublasLtMatrixLayoutDestroy(plan->left);
    if (plan->right) cublasLtMatrixLayoutDestroy(plan->right);
    if (plan->out) cublasLtMatrixLayoutDestroy(plan->out);
    if (plan->operation) cublasLtMatmulDescDestroy(plan->operation);
    *plan = (Plan){0};
}

static cublasStatus_t set_attribute(Plan *plan, cublasLtMatmulDescAttributes_t name, int32_t value) {
    return cublasLtMatmulDescSetAttribute(plan->operation, name, &value, sizeof value);
}

static cublasStatus_t prefer(Gemm *gemm, cublasLtMatmulPreferenceAttributes_t name, int64_t bytes) {
    const uint32_t value = (uint32_t)bytes;
    return cublasLtMatmulPreferenceSetAttribute(gemm->preference, name, &value, sizeof value);
}

static cublasStatus_t name_bias(Plan *plan, const void *bias) {
    return cublasLtMatmulDescSetAttribute(plan->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
}

// A stored matrix [rows, columns], row-major, as cuBLASLt's [columns, rows].
static cublasStatus_t layout(cublasLtMatrixLayout_t *out, int64_t type, int64_t rows, int64_t columns, int64_t ld) {
    return cublasLtMatrixLayoutCreate(out, cuda_type((DType)type), (uint64_t)columns, (uint64_t)rows, ld);
}

static Status plan_make(Device *device, const GemmCall *call, Plan *plan) {
#define CUBLAS_TRY(call_, what) TRY(check(device, (call_), (what), call))
    Gemm *gemm = device->gemm;
    const Key *key = &plan->key;
    const bool at = call->a_transposed, bt = call->b_transposed;
    CUBLAS_TRY(cublasLtMatmulDescCreate(&plan->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
    CUBLAS_TRY(set_attribute(plan, CUBLASLT_MATMUL_DESC_TRANSA, bt ? CUBLAS_OP_T : CUBLAS_OP_N), "transposing b");
    CUBLAS_TRY(set_attribute(plan, CUBLASLT_MATMUL_DESC_TRANSB, at ? CUBLAS_OP_T : CUBLAS_OP_N), "transposing a");
    if (call->bias) {
        CUBLAS_TRY(set_attribute(plan, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS), "asking for a bias");
        CUBLAS_TRY(name_bias(plan, gemm->bias), "naming the bias");
    }
    CUBLAS_TRY(layout(&plan->left, key->ab_type, bt ? key->n : key->k, bt ? key->k : key->n, key->ldb), "laying out b");
    CUBLAS_TRY(layout(&plan->right, key->ab_type, at ? key->k : key->m, at ? key->m : key->k, key->lda),
               "laying out a");
    CUBLAS_TRY(layout(&plan->out, key->c_type, key->m, key->n, key->ldc), "laying out c");

    CUBLAS_TRY(prefer(gemm, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key->b_alignment), "aligning b");
    CUBLAS_TRY(prefer(gemm, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key->a_alignment), "aligning a");
    CUBLAS_TRY(prefer(gemm, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key->c_alignment), "aligning c");
    CUBLAS_TRY(prefer(gemm, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key->c_alignment), "aligning c");
    cublasLtMatmulHeuristicResult_t candidates[CANDIDATES];
    int count = 0;
    CUBLAS_TRY(cublasLtMatmulAlgoGetHeuristic(gemm->handle, plan->operation, plan->left, plan->right, plan->out,
                                              plan->out, gemm->preference, CANDIDATES, candidates, &count),
               "choosing an algorithm");
    for (int i = 0; i < count; i++)
        if (candidates[i].state == CUBLAS_STATUS_SUCCESS && candidates[i].workspaceSize <= gemm->workspace_bytes) {
            plan->algorithm = candidates[i].algo;
            return STATUS_OK;
        }
    return check(device, CUBLAS_STATUS_NOT_SUPPORTED, "choosing an algorithm", call);
#undef CUBLAS_TRY
}

static Status plan_find(Device *device, const GemmCall *call, Plan **out) {
    Gemm *gemm = device->gemm;
    const Key key = {.m = call->m,
                     .n = call->n,
                     .k = call->k,
                     .lda = call->lda,
                     .ldb = call->ldb,
                     .ldc = call->ldc,
                     .ab_type = call->ab_type,
                     .c_type = call->c_type,
                     .a_transposed = call->a_transposed,
                     .b_transposed = call->b_transposed,
                     .accumulate = call->accumulate,
                     .bias = call->bias != NULL,
                     .a_alignment = alignment(call->a),
                     .b_alignment = alignment(call->b),
                     .c_alignment = alignment(call->c)};
    Plan *set = gemm->plans[hash_bytes(0, &key, sizeof key) % SETS], *oldest = set;
    for (Plan *plan = set; plan < set + WAYS; plan++) {
        if (plan->operation && memcmp(&plan->key, &key, sizeof key) == 0) {
            *out = plan;
            return STATUS_OK;
        }
        if (plan->last_use < oldest->last_use) oldest = plan;
    }
    plan_free(oldest);
    oldest->key = key;
    const Status status = plan_make(device, call, oldest);
    if (status != STATUS_OK) plan_free(oldest);
    *out = oldest;
    return status;
}

// The heuristic takes a bias to be aligned (pytorch/pytorch#194497) and cannot be told that it is not.
static Status bias_aligned(Device *device, const GemmCall *call, const void **out) {
    const size_t bytes = (size_t)call->n * dtype_size(call->c_type);
    *out = call->bias;
    if (alignment(call->bias) == ALIGNMENT_MAX) return STATUS_OK;
    if (bytes > BIAS_BYTES) return check(device, CUBLAS_STATUS_NOT_SUPPORTED, "an unaligned bias", call);
    CUDA_TRY(device, cudaMemcpyAsync(device->gemm->bias, call->bias, bytes, cudaMemcpyDeviceToDevice, device->stream));
    *out = device->gemm->bias;
    return STATUS_OK;
}

Status gemm_run(Device *device, const GemmCall *call) {
    if (call->m == 0 || call->n == 0) return STATUS_OK;
    Gemm *gemm = device->gemm;
    Plan *plan;
    TRY(plan_find(device, call, &plan));
    plan->last_use = ++gemm->uses;
    if (call->bias) {
        const void *bias;
        TRY(bias_aligned(device, call, &bias));
        TRY(check(device, name_bias(plan, bias), "naming the bias", call));
    }
    const float alpha = call->alpha != 0 ? call->alpha : 1.0f, beta = call->accumulate ? 1.0f : 0.0f;
    return check(device,
                 cublasLtMatmul(gemm->handle, plan->operation, &alpha, call->b, plan->left, call->a, plan->right, &beta,
                                call->c, plan->out, call->c, plan->out, &plan->algorithm, gemm->workspace,
                                gemm->workspace_bytes, device->stream),
                 "a product", call);
}

// --- open and close ---

static Status gemm_prepare(Device *device, Gemm *gemm) {
    gemm->workspace_bytes = device->capability == 90 ? WORKSPACE_HOPPER : WORKSPACE;
    const uint64_t workspace = gemm->workspace_bytes;
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    TRY(check(device, cublasLtCreate(&gemm->handle), "opening it", NULL));
    TRY(check(device, cublasLtMatmulPreferenceCreate(&gemm->preference), "making preferences", NULL));
    TRY(check(device,
              cublasLtMatmulPreferenceSetAttribute(gemm->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                   &workspace, sizeof workspace),
              "limiting its workspace", NULL));
    TRY(check(device,
              cublasLtMatmulPreferenceSetAttribute(gemm->preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                   &reductions, sizeof reductions),
              "limiting its reductions", NULL));
    CUDA_TRY(device, cudaMalloc(&gemm->workspace, gemm->workspace_bytes));
    CUDA_TRY(device, cudaMalloc(&gemm->bias, BIAS_BYTES));
    return STATUS_OK;
}

Status gemm_open(Device *device, Gemm **out) {
    Gemm *gemm;
    TRY(MEMORY_ALLOC(gemm, 1, "the table of matrix products"));
    const Status status = gemm_prepare(device, gemm);
    if (status != STATUS_OK) {
        gemm_close(gemm);
        return status;
    }
    *out = gemm;
    return STATUS_OK;
}

void gemm_close(Gemm *gemm) {
    if (!gemm) return;
    for (int set = 0; set < SETS; set++)
        for (int way = 0; way < WAYS; way++) plan_free(&gemm->plans[set][way]);
    cudaFree(gemm->workspace);
    cudaFree(gemm->bias);
    if (gemm->preference) cublasLtMatmulPreferenceDestroy(gemm->preference);
    if (gemm->handle) cublasLtDestroy(gemm->handle);
    free(gemm);
}
