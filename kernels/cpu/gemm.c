// All matrix products of the CPU device: oneDNN's matmul, one primitive a shape, kept in a table. Hides the differences
// between oneDNN 2.x and 3.x.
//
// bf16 operands are multiplied as bf16 only where the CPU gains from it: with AMX, or with AVX512_BF16 on a CPU other
// than Intel's. Intel's cores without AMX do VDPBF16PS at half the rate of fp32 FMA (measured on an Emerald Rapids
// with AMX hidden: oneDNN's bf16 matmul does 168 GFLOP/s on 2 cores, its fp32 matmul 280 to 350), and older CPUs lack
// it. There the operands are widened to fp32, the weight tile by tile, so that the widened copy stays small.
#include "kernels/cpu/cpu.h"
#include "src/base/hash.h"
#include "src/base/memory.h"
#include <dnnl.h>
#include <stdlib.h>
#include <string.h>

enum {
    SETS = 128, // shapes kept: SETS * WAYS, the least recently used of a set makes room
    WAYS = 4,
    TILE_ROWS = 4096,      // rows of a widened at a time
    TILE_COLUMNS_MIN = 64, // columns of a tile of b
    TILE_BYTES = 16 << 20, // of a widened tile of b
};

typedef struct Key {
    int64_t m, n, k, lda, ldb, ldc;
    int32_t a_type, b_type, c_type, b_transposed, accumulate, bias;
} Key;

typedef struct Entry {
    Key key;
    dnnl_primitive_t primitive; // NULL: empty
    dnnl_memory_t a, b, c, bias;
    uint64_t last_use;
} Entry;

struct Gemm {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    const MatrixOps *matrix;
    bool bf16;
    uint64_t uses;
    void *scratch;
    size_t scratch_bytes;
    Entry entries[SETS][WAYS];
};

static Status check(dnnl_status_t result, const char *what, const GemmCall *call) {
    if (result == dnnl_success) return STATUS_OK;
    if (!call) return error_set(STATUS_FAILED, "oneDNN: %s failed (status %d)", what, (int)result);
    return error_set(STATUS_FAILED, "oneDNN: %s failed (status %d) for a product of %lld x %lld by %lld x %lld", what,
                     (int)result, (long long)call->m, (long long)call->k, (long long)call->k, (long long)call->n);
}

bool gemm_multiplies_bf16(void) {
    int isa = (int)dnnl_get_effective_cpu_isa(); // a set of bits: a newer instruction set contains the older ones'
    int bf16 = dnnl_cpu_isa_avx512_core_bf16, amx = dnnl_cpu_isa_avx512_core_amx;
    return (isa & amx) == amx || ((isa & bf16) == bf16 && !__builtin_cpu_is("intel"));
}

// --- oneDNN 2.x and 3.x ---
#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t Descriptor;
static dnnl_status_t descriptor_make(Descriptor *out, int64_t rows, int64_t columns, dnnl_data_type_t type,
                                     int64_t row_stride, int64_t column_stride) {
    return dnnl_memory_desc_create_with_strides(out, 2, (dnnl_dims_t){rows, columns}, type,
                                                (dnnl_dims_t){row_stride, column_stride});
}
static void descriptor_free(Descriptor *descriptor) {
    dnnl_memory_desc_destroy(*descriptor);
}
static dnnl_status_t memory_make(dnnl_memory_t *out, const Descriptor *descriptor, dnnl_engine_t engine) {
    return dnnl_memory_create(out, *descriptor, engine, DNNL_MEMORY_NONE);
}
static dnnl_status_t append_sum(dnnl_post_ops_t post_ops) {
    return dnnl_post_ops_append_sum(post_ops, 1.0f, 0, dnnl_data_type_undef);
}
static dnnl_status_t matmul_describe(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const Descriptor *a,
                                     const Descriptor *b, const Descriptor *bias, const Descriptor *c,
                                     dnnl_primitive_attr_t attributes) {
    return dnnl_matmul_primitive_desc_create(out, engine, *a, *b, bias ? *bias : NULL, *c, attributes);
}
#else
typedef dnnl_memory_desc_t Descriptor;
static dnnl_status_t descriptor_make(Descriptor *out, int64_t rows, int64_t columns, dnnl_data_type_t type,
                                     int64_t row_stride, int64_t column_stride) {
    return dnnl_memory_desc_init_by_strides(out, 2, (dnnl_dims_t){rows, columns}, type,
                                            (dnnl_dims_t){row_stride, column_stride});
}
static void descriptor_free(Descriptor *descriptor) {
    (void)descriptor;
}
static dnnl_status_t memory_make(dnnl_memory_t *out, const Descriptor *descriptor, dnnl_engine_t engine) {
    return dnnl_memory_create(out, descriptor, engine, DNNL_MEMORY_NONE);
}
static dnnl_status_t append_sum(dnnl_post_ops_t post_ops) {
    return dnnl_post_ops_append_sum(post_ops, 1.0f);
}
static dnnl_status_t matmul_describe(dnnl_primitive_desc_t *out, dnnl_engine_t engine, const Descriptor *a,
                                     const Descriptor *b, const Descriptor *bias, const Descriptor *c,
                                     dnnl_primitive_attr_t attributes) {
    dnnl_matmul_desc_t description;
    dnnl_status_t result = dnnl_matmul_desc_init(&description, a, b, bias, c);
    return result == dnnl_success ? dnnl_primitive_desc_create(out, &description, attributes, engine, NULL) : result;
}
#endif

// --- primitives by shape ---
static void entry_free(Entry *entry) {
    dnnl_primitive_destroy(entry->primitive);
    dnnl_memory_destroy(entry->a);
    dnnl_memory_destroy(entry->b);
    dnnl_memory_destroy(entry->c);
    dnnl_memory_destroy(entry->bias);
    *entry = (Entry){0};
}

static dnnl_data_type_t dnnl_type(DType type) {
    return type == DTYPE_BF16 ? dnnl_bf16 : dnnl_f32;
}

// Makes the primitive of entry->key; what was made before a failure is freed by the caller's entry_free.
static dnnl_status_t entry_make(Gemm *gemm, Entry *entry) {
    const Key *key = &entry->key;
    dnnl_data_type_t c_type = dnnl_type(key->c_type);
    Descriptor a, b, c, bias;
    dnnl_primitive_attr_t attributes = NULL;
    dnnl_post_ops_t post_ops = NULL;
    dnnl_primitive_desc_t description = NULL;
    dnnl_status_t result;
#define STEP(call)                                                                                                     \
    if (result == dnnl_success) result = (call)
    result = descriptor_make(&a, key->m, key->k, dnnl_type(key->a_type), key->lda, 1);
    if (result != dnnl_success) return result;
    result = descriptor_make(&b, key->k, key->n, dnnl_type(key->b_type), key->b_transposed ? 1 : key->ldb,
                             key->b_transposed ? key->ldb : 1);
    if (result != dnnl_success) goto free_a;
    result = descriptor_make(&c, key->m, key->n, c_type, key->ldc, 1);
    if (result != dnnl_success) goto free_b;
    result = descriptor_make(&bias, 1, key->n, c_type, key->n, 1);
    if (result != dnnl_success) goto free_c;

    STEP(dnnl_primitive_attr_create(&attributes));
    // fp32 means fp32, whatever ONEDNN_DEFAULT_FPMATH_MODE says.
    STEP(dnnl_primitive_attr_set_fpmath_mode(attributes, dnnl_fpmath_mode_strict));
    if (key->accumulate) {
        STEP(dnnl_post_ops_create(&post_ops));
        STEP(append_sum(post_ops));
        STEP(dnnl_primitive_attr_set_post_ops(attributes, post_ops));
    }
    STEP(matmul_describe(&description, gemm->engine, &a, &b, key->bias ? &bias : NULL, &c, attributes));
    STEP(dnnl_primitive_create(&entry->primitive, description));
    STEP(memory_make(&entry->a, &a, gemm->engine));
    STEP(memory_make(&entry->b, &b, gemm->engine));
    STEP(memory_make(&entry->c, &c, gemm->engine));
    if (key->bias) STEP(memory_make(&entry->bias, &bias, gemm->engine));
#undef STEP
    if (description) dnnl_primitive_desc_destroy(description);
    if (post_ops) dnnl_post_ops_destroy(post_ops);
    if (attributes) dnnl_primitive_attr_destroy(attributes);
    descriptor_free(&bias);
free_c:
    descriptor_free(&c);
free_b:
    descriptor_free(&b);
free_a:
    descriptor_free(&a);
    return result;
}

static Status entry_find(Gemm *gemm, const GemmCall *call, Entry **out) {
    Key key;
    memset(&key, 0, sizeof key); // keys are compared as bytes
    key = (Key){call->m,      call->n,      call->k,      call->lda,          call->ldb,        call->ldc,
                call->a_type, call->b_type, call->c_type, call->b_transposed, call->accumulate, call->bias != NULL};
    Entry *set = gemm->entries[hash_bytes(0, &key, sizeof key) % SETS], *oldest = set;
    for (int i = 0; i < WAYS; i++) {
        if (set[i].primitive && memcmp(&set[i].key, &key, sizeof key) == 0) {
            *out = &set[i];
            return STATUS_OK;
        }
        if (set[i].last_use < oldest->last_use) oldest = &set[i];
    }
    entry_free(oldest);
    oldest->key = key;
    dnnl_status_t result = entry_make(gemm, oldest);
    if (result != dnnl_success) entry_free(oldest);
    *out = oldest;
    return check(result, "making a matmul", call);
}

// A product whose types oneDNN takes as they are.
static Status run_primitive(Gemm *gemm, const GemmCall *call) {
    Entry *entry;
    TRY(entry_find(gemm, call, &entry));
    entry->last_use = ++gemm->uses;
    TRY(check(dnnl_memory_set_data_handle(entry->a, (void *)call->a), "setting a", call));
    TRY(check(dnnl_memory_set_data_handle(entry->b, (void *)call->b), "setting b", call));
    TRY(check(dnnl_memory_set_data_handle(entry->c, call->c), "setting c", call));
    dnnl_exec_arg_t arguments[4] = {{DNNL_ARG_SRC, entry->a}, {DNNL_ARG_WEIGHTS, entry->b}, {DNNL_ARG_DST, entry->c}};
    if (call->bias) {
        TRY(check(dnnl_memory_set_data_handle(entry->bias, (void *)call->bias), "setting the bias", call));
        arguments[3] = (dnnl_exec_arg_t){DNNL_ARG_BIAS, entry->bias};
    }
    TRY(check(dnnl_primitive_execute(entry->primitive, gemm->stream, call->bias ? 4 : 3, arguments), "a matmul", call));
    return check(dnnl_stream_wait(gemm->stream), "waiting for a matmul", call);
}

// --- widened products ---
static Status scratch_grow(Gemm *gemm, size_t bytes) {
    if (bytes <= gemm->scratch_bytes) return STATUS_OK;
    free(gemm->scratch);
    gemm->scratch = NULL;
    gemm->scratch_bytes = 0;
    TRY(memory_alloc(&gemm->scratch, 1, bytes, "scratch for widened matrices"));
    gemm->scratch_bytes = bytes;
    return STATUS_OK;
}

static void widen_rows(const Gemm *gemm, const uint16_t *from, int64_t from_ld, float *to, int64_t rows,
                       int64_t columns) {
    void (*widen)(const uint16_t *, float *, size_t) = gemm->matrix->widen;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) widen(from + i * from_ld, to + i * columns, (size_t)columns);
}

static size_t align64(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

// Rows [row, row + rows) of the product, with `a` already fp32.
static Status run_tiles(Gemm *gemm, const GemmCall *call, int64_t row, int64_t rows, const float *a, int64_t lda,
                        int64_t tile, float *b_tile, float *c_tile) {
    bool widen_b = call->b_type == DTYPE_BF16, narrow_c = call->c_type == DTYPE_BF16;
    for (int64_t column = 0; column < call->n; column += tile) {
        int64_t columns = call->n - column < tile ? call->n - column : tile;
        size_t b_first = (size_t)(call->b_transposed ? column * call->ldb : column);
        GemmCall part = {.m = rows,
                         .n = columns,
                         .k = call->k,
                         .a = a,
                         .lda = lda,
                         .b = b_tile,
                         .ldb = call->b_transposed ? call->k : columns,
                         .b_transposed = call->b_transposed,
                         .c = c_tile,
                         .ldc = columns};
        if (!widen_b) {
            part.b = (const float *)call->b + b_first;
            part.ldb = call->ldb;
        } else if (call->b_transposed) {
            widen_rows(gemm, (const uint16_t *)call->b + b_first, call->ldb, b_tile, columns, call->k);
        } else {
            widen_rows(gemm, (const uint16_t *)call->b + b_first, call->ldb, b_tile, call->k, columns);
        }
        if (!narrow_c) {
            part.c = (float *)call->c + row * call->ldc + column;
            part.ldc = call->ldc;
            part.accumulate = call->accumulate;
            part.bias = call->bias ? (const float *)call->bias + column : NULL;
        }
        TRY(run_primitive(gemm, &part));
        if (!narrow_c) continue;
        const uint16_t *bias = call->bias ? (const uint16_t *)call->bias + column : NULL;
        uint16_t *c = (uint16_t *)call->c + row * call->ldc + column;
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < rows; i++)
            gemm->matrix->narrow(c_tile + i * columns, bias, c + i * call->ldc, (size_t)columns, call->accumulate);
    }
    return STATUS_OK;
}

static Status run_widened(Gemm *gemm, const GemmCall *call) {
    int64_t rows = call->m < TILE_ROWS ? call->m : TILE_ROWS;
    int64_t tile = TILE_BYTES / (4 * call->k) / TILE_COLUMNS_MIN * TILE_COLUMNS_MIN;
    if (tile < TILE_COLUMNS_MIN) tile = TILE_COLUMNS_MIN;
    if (tile > call->n) tile = call->n;
    bool widen_a = call->a_type == DTYPE_BF16;
    size_t a_bytes = widen_a ? align64((size_t)(rows * call->k) * 4) : 0;
    size_t b_bytes = call->b_type == DTYPE_BF16 ? align64((size_t)(tile * call->k) * 4) : 0;
    size_t c_bytes = call->c_type == DTYPE_BF16 ? align64((size_t)(rows * tile) * 4) : 0;
    TRY(scratch_grow(gemm, a_bytes + b_bytes + c_bytes));
    float *a_rows = gemm->scratch, *b_tile = (float *)((char *)gemm->scratch + a_bytes);
    float *c_tile = (float *)((char *)b_tile + b_bytes);
    for (int64_t row = 0; row < call->m; row += rows) {
        int64_t count = call->m - row < rows ? call->m - row : rows;
        if (widen_a) {
            widen_rows(gemm, (const uint16_t *)call->a + row * call->lda, call->lda, a_rows, count, call->k);
            TRY(run_tiles(gemm, call, row, count, a_rows, call->k, tile, b_tile, c_tile));
        } else {
            TRY(run_tiles(gemm, call, row, count, (const float *)call->a + row * call->lda, call->lda, tile, b_tile,
                          c_tile));
        }
    }
    return STATUS_OK;
}

Status gemm_run(Gemm *gemm, const GemmCall *call) {
    if (call->m == 0 || call->n == 0) return STATUS_OK;
    bool fp32 = call->a_type == DTYPE_F32 && call->b_type == DTYPE_F32 && call->c_type == DTYPE_F32;
    bool bf16 = gemm->bf16 && call->a_type == DTYPE_BF16 && call->b_type == DTYPE_BF16;
    return fp32 || bf16 ? run_primitive(gemm, call) : run_widened(gemm, call);
}

// --- open and close ---
Status gemm_open(const MatrixOps *matrix, Gemm **out) {
    Gemm *gemm;
    TRY(MEMORY_ALLOC(gemm, 1, "the table of matrix products"));
    gemm->matrix = matrix;
    gemm->bf16 = gemm_multiplies_bf16();
    Status status;
    TRY_GOTO(check(dnnl_engine_create(&gemm->engine, dnnl_cpu, 0), "making an engine", NULL), fail);
    TRY_GOTO(check(dnnl_stream_create(&gemm->stream, gemm->engine, dnnl_stream_default_flags), "making a stream", NULL),
             fail);
    *out = gemm;
    return STATUS_OK;
fail:
    gemm_close(gemm);
    return status;
}

void gemm_close(Gemm *gemm) {
    if (!gemm) return;
    for (int set = 0; set < SETS; set++)
        for (int way = 0; way < WAYS; way++) entry_free(&gemm->entries[set][way]);
    dnnl_stream_destroy(gemm->stream);
    dnnl_engine_destroy(gemm->engine);
    free(gemm->scratch);
    free(gemm);
}
