// All matrix products of the CUDA device: cuBLASLt's matmul. cuBLASLt thinks in columns: a row-major matrix is its
// transpose there, so c^T = b^T a^T is what it is asked for.
//
// Batches have another count of tokens every step, and the heuristic takes as long as many a product. So what is kept
// is a kind of product, all of a shape but its tokens, with one algorithm for a range of counts: that of the range's
// end, which runs on the counts below where cublasLtMatmulAlgoCheck accepts it. The choice depends on the shape, the
// strides and the pointers' alignment, in a workspace of fixed size, and never on what was asked before: the same
// product gives the same bits in any run. docs/gpu.md tells what was measured.
#include "kernels/cuda/cuda.h"
#include "src/base/hash.h"
#include "src/base/memory.h"
#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

enum {
    SETS = 256, // kinds kept: SETS * WAYS, the least recently used of a set makes room
    WAYS = 4,
    COUNTS = 8, // of tokens, whose algorithm a kind remembers: a step has about four
    CANDIDATES = 8,
    ALIGNMENT_MAX = 16,  // bytes, the widest load: buffers that are aligned better share a kind
    WORKSPACE = 4 << 20, // bytes: cuBLAS's own defaults (cublasSetWorkspace)
    WORKSPACE_HOPPER = 32 << 20,
    BIAS_BYTES = 1 << 20, // room for a bias that is moved to be aligned
};

// All of these have one size, so that a key has no padding. The tokens among m, n and k are 0.
typedef struct Key {
    int64_t m, n, k, lda, ldb, ldc;
    int64_t ab_type, c_type, a_transposed, b_transposed, accumulate, bias;
    int64_t a_alignment, b_alignment, c_alignment;
} Key;

typedef struct Choice {
    bool asked, found; // found: cuBLASLt has an algorithm that we take
    bool loaded;       // while warming up: its kernel was launched, or is another range's
    cublasLtMatmulAlgo_t algorithm;
} Choice;

typedef struct Count {
    int64_t tokens; // 0: an empty place
    cublasLtMatmulAlgo_t algorithm;
} Count;

typedef struct Kind {
    Key key;
    cublasLtMatmulDesc_t operation;          // NULL: an empty place
    cublasLtMatrixLayout_t left, right, out; // b^T, a^T, c^T
    cublasLtMatrixLayout_t token_columns[2]; // the two of them whose columns are the tokens,
    int64_t tokens;                          // and how many both have now
    Choice *ranges;                          // [range_count]
    int32_t range_count;
    Count counts[COUNTS];
    int32_t oldest_count;
    uint64_t last_use;
} Kind;

struct Gemm {
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    void *workspace, *bias; // of workspace_bytes and BIAS_BYTES
    size_t workspace_bytes;
    int32_t warm_tokens; // 0: not warming up
    uint64_t uses;
    Kind kinds[SETS][WAYS];
};

static Status check(const Device *device, cublasStatus_t result, const char *what, const GemmCall *call) {
    if (result == CUBLAS_STATUS_SUCCESS) return STATUS_OK;
    if (!call)
        return error_set(STATUS_FAILED, "%s: cuBLASLt, %s: %s", device->name, what, cublasLtGetStatusString(result));
    return error_set(STATUS_FAILED, "%s: cuBLASLt, %s: %s, for a product of %lld x %lld by %lld x %lld", device->name,
                     what, cublasLtGetStatusString(result), (long long)call->m, (long long)call->k, (long long)call->k,
                     (long long)call->n);
}
#define CUBLAS_TRY(call_, what) TRY(check(device, (call_), (what), call))

// --- counts of tokens ---

// The rows of a as it is stored: m of the layers' products, k of the sums over tokens that gradients of weights are.
static int64_t tokens_of(const GemmCall *call) {
    return call->a_transposed ? call->k : call->m;
}

// Ranges end at the powers of two up to 64, at multiples of 128 up to 2,048 and of 512 from there on.
enum { DOUBLED = 64, DOUBLED_RANGES = 6, FINE = 128, FINE_END = 2048, FINE_RANGES = FINE_END / FINE, COARSE = 512 };

static int32_t range_of(int64_t tokens) {
    int32_t range = 0;
    if (tokens > FINE_END) return (int32_t)(DOUBLED_RANGES + FINE_RANGES + (tokens - FINE_END + COARSE - 1) / COARSE);
    if (tokens > DOUBLED) return (int32_t)(DOUBLED_RANGES + (tokens + FINE - 1) / FINE);
    while (1 << range < tokens) range++;
    return range;
}

static int64_t range_end(int32_t range) {
    if (range <= DOUBLED_RANGES) return 1 << range;
    if (range <= DOUBLED_RANGES + FINE_RANGES) return (int64_t)(range - DOUBLED_RANGES) * FINE;
    return FINE_END + (int64_t)(range - DOUBLED_RANGES - FINE_RANGES) * COARSE;
}

// --- kinds ---

static int64_t alignment(const void *pointer) {
    const uintptr_t address = (uintptr_t)pointer | ALIGNMENT_MAX;
    return (int64_t)(address & -address);
}

static cudaDataType_t cuda_type(DType dtype) {
    return dtype == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static void kind_free(Kind *kind) {
    if (kind->left) cublasLtMatrixLayoutDestroy(kind->left);
    if (kind->right) cublasLtMatrixLayoutDestroy(kind->right);
    if (kind->out) cublasLtMatrixLayoutDestroy(kind->out);
    if (kind->operation) cublasLtMatmulDescDestroy(kind->operation);
    free(kind->ranges);
    *kind = (Kind){0};
}

static cublasStatus_t set_attribute(Kind *kind, cublasLtMatmulDescAttributes_t name, int32_t value) {
    return cublasLtMatmulDescSetAttribute(kind->operation, name, &value, sizeof value);
}

static cublasStatus_t name_bias(Kind *kind, const void *bias) {
    return cublasLtMatmulDescSetAttribute(kind->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
}

static cublasStatus_t set_tokens(Kind *kind, int64_t tokens) {
    if (kind->tokens == tokens) return CUBLAS_STATUS_SUCCESS;
    const uint64_t columns = (uint64_t)tokens;
    for (int i = 0; i < 2; i++) {
        const cublasStatus_t result = cublasLtMatrixLayoutSetAttribute(
            kind->token_columns[i], CUBLASLT_MATRIX_LAYOUT_COLS, &columns, sizeof columns);
        if (result != CUBLAS_STATUS_SUCCESS) return result;
    }
    kind->tokens = tokens;
    return CUBLAS_STATUS_SUCCESS;
}

// A stored matrix [rows, columns], row-major, as cuBLASLt's [columns, rows].
static cublasStatus_t layout(cublasLtMatrixLayout_t *out, DType type, int64_t rows, int64_t columns, int64_t ld) {
    return cublasLtMatrixLayoutCreate(out, cuda_type(type), (uint64_t)columns, (uint64_t)rows, ld);
}

static Status kind_make(Device *device, const GemmCall *call, Kind *kind) {
    const bool at = call->a_transposed, bt = call->b_transposed;
    const int64_t m = call->m, n = call->n, k = call->k;
    CUBLAS_TRY(cublasLtMatmulDescCreate(&kind->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
    CUBLAS_TRY(set_attribute(kind, CUBLASLT_MATMUL_DESC_TRANSA, bt ? CUBLAS_OP_T : CUBLAS_OP_N), "transposing b");
    CUBLAS_TRY(set_attribute(kind, CUBLASLT_MATMUL_DESC_TRANSB, at ? CUBLAS_OP_T : CUBLAS_OP_N), "transposing a");
    if (call->bias) {
        CUBLAS_TRY(set_attribute(kind, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS), "asking for a bias");
        CUBLAS_TRY(name_bias(kind, device->gemm->bias), "naming the bias");
    }
    CUBLAS_TRY(layout(&kind->left, call->ab_type, bt ? n : k, bt ? k : n, call->ldb), "laying out b");
    CUBLAS_TRY(layout(&kind->right, call->ab_type, at ? k : m, at ? m : k, call->lda), "laying out a");
    CUBLAS_TRY(layout(&kind->out, call->c_type, m, n, call->ldc), "laying out c");
    kind->token_columns[0] = kind->right;
    kind->token_columns[1] = at ? kind->left : kind->out;
    kind->tokens = tokens_of(call);
    return STATUS_OK;
}

static Key key_of(const GemmCall *call) {
    return (Key){.m = call->a_transposed ? call->m : 0,
                 .n = call->n,
                 .k = call->a_transposed ? 0 : call->k,
                 .lda = call->lda,
                 .ldb = call->ldb,
                 .ldc = call->ldc,
                 .ab_type = call->ab_type,
                 .c_type = call->c_type,
                 .a_transposed = call->a_transposed,
                 .b_transposed = call->b_transposed,
                 .accumulate = call->accumulate, // no heuristic asks for it, but kernels differ by it
                 .bias = call->bias != NULL,
                 .a_alignment = alignment(call->a),
                 .b_alignment = alignment(call->b),
                 .c_alignment = alignment(call->c)};
}

static Status kind_find(Device *device, const GemmCall *call, Kind **out) {
    Gemm *gemm = device->gemm;
    const Key key = key_of(call);
    Kind *set = gemm->kinds[hash_bytes(0, &key, sizeof key) % SETS], *oldest = set;
    for (Kind *kind = set; kind < set + WAYS; kind++) {
        if (kind->operation && memcmp(&kind->key, &key, sizeof key) == 0) {
            *out = kind;
            return STATUS_OK;
        }
        if (kind->last_use < oldest->last_use) oldest = kind;
    }
    kind_free(oldest);
    oldest->key = key;
    const Status status = kind_make(device, call, oldest);
    if (status != STATUS_OK) kind_free(oldest);
    *out = oldest;
    return status;
}

// --- algorithms ---

static cublasStatus_t prefer(Gemm *gemm, cublasLtMatmulPreferenceAttributes_t name, int64_t value_) {
    const uint32_t value = (uint32_t)value_;
    return cublasLtMatmulPreferenceSetAttribute(gemm->preference, name, &value, sizeof value);
}

// Partial sums, where k is split, stay fp32: in the output's type they would be rounded to it. With a bias none are
// allowed, as their sum is rounded before the bias is added (docs/gpu.md).
static uint32_t reductions_for(const GemmCall *call) {
    return call->bias ? CUBLASLT_REDUCTION_SCHEME_NONE : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
}

// Whether the algorithm keeps to what was asked for.
static Status acceptable(Device *device, const GemmCall *call, const cublasLtMatmulHeuristicResult_t *candidate,
                         bool *out) {
    int32_t splits = 1;
    size_t written;
    CUBLAS_TRY(cublasLtMatmulAlgoConfigGetAttribute(&candidate->algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &splits,
                                                    sizeof splits, &written),
               "reading an algorithm's splits");
    *out = candidate->state == CUBLAS_STATUS_SUCCESS && candidate->workspaceSize <= device->gemm->workspace_bytes &&
           !(call->bias && splits > 1);
    return STATUS_OK;
}

// The first acceptable algorithm that the heuristic offers for this count of tokens.
static Status ask(Device *device, const GemmCall *call, Kind *kind, int64_t tokens, bool *found,
                  cublasLtMatmulAlgo_t *out) {
    Gemm *gemm = device->gemm;
    const Key *key = &kind->key;
    *found = false;
    CUBLAS_TRY(set_tokens(kind, tokens), "laying out tokens");
    CUBLAS_TRY(prefer(gemm, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions_for(call)), "limiting reductions");
    CUBLAS_TRY(prefer(gemm, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key->b_alignment), "aligning b");
    CUBLAS_TRY(prefer(gemm, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key->a_alignment), "aligning a");
    CUBLAS_TRY(prefer(gemm, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key->c_alignment), "aligning c");
    CUBLAS_TRY(prefer(gemm, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key->c_alignment), "aligning c");
    cublasLtMatmulHeuristicResult_t candidates[CANDIDATES];
    int count = 0;
    const cublasStatus_t result =
        cublasLtMatmulAlgoGetHeuristic(gemm->handle, kind->operation, kind->left, kind->right, kind->out, kind->out,
                                       gemm->preference, CANDIDATES, candidates, &count);
    if (result == CUBLAS_STATUS_NOT_SUPPORTED) return STATUS_OK;
    CUBLAS_TRY(result, "choosing an algorithm");
    for (int i = 0; i < count && !*found; i++) {
        TRY(acceptable(device, call, &candidates[i], found));
        *out = candidates[i].algo;
    }
    return STATUS_OK;
}

// Whether an algorithm that was chosen for another count runs on this one.
static Status accepts(Device *device, const GemmCall *call, Kind *kind, int64_t tokens,
                      const cublasLtMatmulAlgo_t *algorithm, bool *out) {
    Gemm *gemm = device->gemm;
    cublasLtMatmulHeuristicResult_t result = {0};
    CUBLAS_TRY(set_tokens(kind, tokens), "laying out tokens");
    *out = cublasLtMatmulAlgoCheck(gemm->handle, kind->operation, kind->left, kind->right, kind->out, kind->out,
                                   algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= gemm->workspace_bytes;
    return STATUS_OK;
}

// The choice for a range, asked for when it is new.
static Status range_find(Device *device, const GemmCall *call, Kind *kind, int32_t range, Choice **out) {
    if (range >= kind->range_count) {
        Choice *grown = realloc(kind->ranges, (size_t)(range + 1) * sizeof *grown);
        if (!grown) return error_set(STATUS_FAILED, "out of memory for the algorithms of matrix products");
        memset(grown + kind->range_count, 0, (size_t)(range + 1 - kind->range_count) * sizeof *grown);
        kind->ranges = grown;
        kind->range_count = range + 1;
    }
    Choice *choice = *out = &kind->ranges[range];
    if (choice->asked) return STATUS_OK;
    TRY(ask(device, call, kind, range_end(range), &choice->found, &choice->algorithm));
    choice->asked = true;
    return STATUS_OK;
}

// The algorithm for exactly this count: its range's, or where that does not run on it the count's own.
static Status choose(Device *device, const GemmCall *call, Kind *kind, int64_t tokens,
                     const cublasLtMatmulAlgo_t **out) {
    for (int i = 0; i < COUNTS; i++)
        if (kind->counts[i].tokens == tokens) {
            *out = &kind->counts[i].algorithm;
            return STATUS_OK;
        }
    const int32_t range = range_of(tokens);
    Choice *choice;
    TRY(range_find(device, call, kind, range, &choice));
    bool found = choice->found;
    if (found && tokens != range_end(range)) TRY(accepts(device, call, kind, tokens, &choice->algorithm, &found));
    Count count = {.tokens = tokens, .algorithm = choice->algorithm};
    if (!found) TRY(ask(device, call, kind, tokens, &found, &count.algorithm));
    if (!found) return check(device, CUBLAS_STATUS_NOT_SUPPORTED, "choosing an algorithm", call);
    Count *place = &kind->counts[kind->oldest_count];
    kind->oldest_count = (kind->oldest_count + 1) % COUNTS;
    *place = count;
    *out = &place->algorithm;
    return STATUS_OK;
}

// --- products ---

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

static Status multiply(Device *device, const GemmCall *call, Kind *kind, int64_t tokens,
                       const cublasLtMatmulAlgo_t *algorithm) {
    Gemm *gemm = device->gemm;
    const float alpha = call->alpha != 0 ? call->alpha : 1.0f, beta = call->accumulate ? 1.0f : 0.0f;
    CUBLAS_TRY(set_tokens(kind, tokens), "laying out tokens");
    CUBLAS_TRY(cublasLtMatmul(gemm->handle, kind->operation, &alpha, call->b, kind->left, call->a, kind->right, &beta,
                              call->c, kind->out, call->c, kind->out, algorithm, gemm->workspace, gemm->workspace_bytes,
                              device->stream),
               "a product");
    return STATUS_OK;
}

// Whether another range's algorithm is the same, and loaded.
static bool is_loaded(const Kind *kind, const Choice *choice) {
    for (const Choice *other = kind->ranges; other < kind->ranges + kind->range_count; other++)
        if (other->loaded && other->found &&
            memcmp(&other->algorithm, &choice->algorithm, sizeof choice->algorithm) == 0)
            return true;
    return false;
}

// Chooses for all ranges up to the warm-up's, and launches each algorithm once: on as many of the call's tokens as the
// range has, so that the operands serve and what is loaded is what will be used.
static Status load(Device *device, const GemmCall *call, Kind *kind) {
    for (int32_t range = 0; range <= range_of(device->gemm->warm_tokens); range++) {
        Choice *choice;
        TRY(range_find(device, call, kind, range, &choice));
        if (choice->loaded) continue;
        const int64_t tokens = tokens_of(call) < range_end(range) ? tokens_of(call) : range_end(range);
        bool runs = choice->found && !is_loaded(kind, choice);
        if (runs && tokens != range_end(range)) TRY(accepts(device, call, kind, tokens, &choice->algorithm, &runs));
        if (runs) TRY(multiply(device, call, kind, tokens, &choice->algorithm));
        choice->loaded = true;
    }
    return STATUS_OK;
}

Status gemm_run(Device *device, const GemmCall *call) {
    if (call->m == 0 || call->n == 0) return STATUS_OK;
    Gemm *gemm = device->gemm;
    Kind *kind;
    TRY(kind_find(device, call, &kind));
    kind->last_use = ++gemm->uses;
    if (call->bias) {
        const void *bias;
        TRY(bias_aligned(device, call, &bias));
        CUBLAS_TRY(name_bias(kind, bias), "naming the bias");
    }
    if (gemm->warm_tokens > 0) TRY(load(device, call, kind));
    const cublasLtMatmulAlgo_t *algorithm = NULL;
    TRY(choose(device, call, kind, tokens_of(call), &algorithm));
    return multiply(device, call, kind, tokens_of(call), algorithm);
}

void gemm_warm(Gemm *gemm, int32_t tokens) {
    gemm->warm_tokens = tokens;
}

// --- open and close ---

static Status gemm_prepare(Device *device, Gemm *gemm) {
    gemm->workspace_bytes = device->capability == 90 ? WORKSPACE_HOPPER : WORKSPACE;
    const uint64_t workspace = gemm->workspace_bytes;
    TRY(check(device, cublasLtCreate(&gemm->handle), "opening it", NULL));
    TRY(check(device, cublasLtMatmulPreferenceCreate(&gemm->preference), "making preferences", NULL));
    TRY(check(device,
              cublasLtMatmulPreferenceSetAttribute(gemm->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                   &workspace, sizeof workspace),
              "limiting its workspace", NULL));
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
        for (int way = 0; way < WAYS; way++) kind_free(&gemm->kinds[set][way]);
    cudaFree(gemm->workspace);
    cudaFree(gemm->bias);
    if (gemm->preference) cublasLtMatmulPreferenceDestroy(gemm->preference);
    if (gemm->handle) cublasLtDestroy(gemm->handle);
    free(gemm);
}
