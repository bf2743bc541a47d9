// LoRA on a group of modules. The products are GEMMs, but for dx under masks; that and what stands between them is in
// lora.cu.
//
// With u = dropout(x), h = u A^T, y += s h B^T:  dB += s dy^T h,  dh = s dy B,  dA += dh^T u,  dx += mask/(1-p) dh A.
// A mask only zeroes, so that u is exact in T; the factor 1/(1-p) is applied to fp32 sums. dh stays fp32 by value: as a
// factor of bf16 products it is taken apart into three bf16 addends (LORA_PARTS), which stand side by side as more
// columns of one product. The modules' u take turns in chunks of tokens.
#include "kernels/cuda/lora.h"
#include "kernels/cuda/cuda.h"

enum {
    CHUNK_BYTES = 16 << 20, // of a chunk's masked inputs, which an L2 cache still holds, where
    CHUNK_ROWS = 64,        // rows, or a multiple of them, do not need more
};

// The scratch, cut by lora_layout().
typedef struct Layout {
    float *sums;   // [n, rank]: of h, or dh
    void *parts;   // dh's addends: T[n, count, LORA_PARTS, r]; dh itself in fp32
    void *stacked; // A repeated for each addend: T[count, LORA_PARTS, r, in]; unused in fp32
    float *da;     // [count, LORA_PARTS, r, in]; unused in fp32
    void *u;       // T[chunk_rows, in]
    int32_t chunk_rows;
} Layout;

// Sets the layout for a scratch at `base` and returns its bytes, which grow with every argument.
static size_t lora_layout(int32_t count, int32_t in, int32_t r, int32_t n, DType dtype, char *base, Layout *out) {
    const size_t rank = (size_t)count * (size_t)r, rows = (size_t)n, wide = (size_t)in, parts = LORA_PARTS(dtype);
    const size_t row_bytes = wide * dtype_size(dtype);
    size_t chunk_bytes = CHUNK_ROWS * row_bytes > CHUNK_BYTES ? CHUNK_ROWS * row_bytes : CHUNK_BYTES;
    if (chunk_bytes > rows * row_bytes) chunk_bytes = rows * row_bytes;
    size_t at = 0;
#define CUT(field, bytes)                                                                                              \
    do {                                                                                                               \
        if (base) out->field = (void *)(base + at);                                                                    \
        at += ((bytes) + 255) / 256 * 256;                                                                             \
    } while (0)
    CUT(sums, rows * rank * sizeof(float));
    if (dtype == DTYPE_BF16) {
        CUT(parts, rows * rank * parts * 2);
        CUT(stacked, rank * wide * parts * 2);
        CUT(da, rank * wide * parts * sizeof(float));
    }
    CUT(u, chunk_bytes);
#undef CUT
    if (!base) return at;
    if (dtype == DTYPE_F32) out->parts = out->sums;
    out->chunk_rows =
        chunk_bytes == rows * row_bytes ? n : (int32_t)(chunk_bytes / row_bytes) / CHUNK_ROWS * CHUNK_ROWS;
    return at;
}

size_t lora_scratch_bytes(const DeviceShapes *shapes, DType dtype) {
    if (shapes->lora_rank == 0) return 0;
    return lora_layout(LORA_GROUP_MAX, shapes->features, shapes->lora_rank, shapes->tokens, dtype, NULL, NULL);
}

static Status lora_scratch(Device *device, const LoraGroup *group, int32_t n, Layout *out) {
    void *scratch;
    const size_t bytes = lora_layout(group->count, group->in, group->r, n, device->dtype, NULL, NULL);
    TRY(cuda_scratch(device, bytes, &scratch));
    lora_layout(group->count, group->in, group->r, n, device->dtype, scratch, out);
    return STATUS_OK;
}

static LoraMask lora_mask(const Dropout *dropout) {
    const double scaled = (double)dropout->p * 4294967296.0;
    uint64_t threshold = (uint64_t)scaled;
    threshold += (double)threshold < scaled; // v >= p 2^32 for integers v
    return (LoraMask){.key = dropout->key,
                      .threshold = threshold,
                      .owner = dropout->owner,
                      .position = dropout->position,
                      .keep_scale = 1.0f / (1.0f - dropout->p)};
}

static const void *plus(const void *base, size_t elements, DType dtype) {
    return (const char *)base + elements * dtype_size(dtype);
}

// u = module m's masked inputs of tokens [first, first + rows).
static Status lora_masked(Device *device, const LoraGroup *group, const LoraMask *mask, int m, const void *x, void *u,
                          int32_t first, int32_t rows) {
    const void *from = plus(x, (size_t)first * (size_t)group->in, device->dtype);
    LoraMask of_rows = *mask;
    of_rows.owner += first;
    of_rows.position += first;
    CUDA_TRY(device,
             lora_mask_rows(device->dtype, from, &of_rows, group->module[m].id, u, rows, group->in, device->stream));
    return STATUS_OK;
}

static int32_t rows_from(int32_t n, int32_t first, int32_t chunk) {
    return n - first < chunk ? n - first : chunk;
}

// to[n, rank] (at module m's columns) = u A_m^T, for `modules` modules from m on.
static Status lora_in(Device *device, const LoraGroup *group, int m, int modules, const void *u, void *to,
                      DType to_type, int32_t n) {
    const int64_t rank = (int64_t)group->count * group->r;
    return gemm_run(device, &(GemmCall){.m = n,
                                        .n = (int64_t)modules * group->r,
                                        .k = group->in,
                                        .a = u,
                                        .b = group->module[m].a,
                                        .c = (void *)plus(to, (size_t)(m * group->r), to_type),
                                        .lda = group->in,
                                        .ldb = group->in,
                                        .ldc = rank,
                                        .ab_type = device->dtype,
                                        .c_type = to_type,
                                        .b_transposed = true});
}

// h with dropout: the sums in fp32, then scaled and rounded once.
static Status lora_in_masked(Device *device, const LoraGroup *group, const Dropout *dropout, const void *x, void *h,
                             int32_t n) {
    const int32_t rank = group->count * group->r;
    const LoraMask mask = lora_mask(dropout);
    Layout l;
    TRY(lora_scratch(device, group, n, &l));
    for (int32_t first = 0; first < n; first += l.chunk_rows) {
        const int32_t rows = rows_from(n, first, l.chunk_rows);
        for (int m = 0; m < group->count; m++) {
            TRY(lora_masked(device, group, &mask, m, x, l.u, first, rows));
            TRY(lora_in(device, group, m, 1, l.u, l.sums + (size_t)first * (size_t)rank, DTYPE_F32, rows));
        }
    }
    CUDA_TRY(device, lora_scale_rows(device->dtype, l.sums, &mask, h, n, rank, device->stream));
    return STATUS_OK;
}

Status cuda_lora(Device *device, const LoraGroup *group, const Dropout *dropout, const void *x, void *h, void *const *y,
                 int32_t n) {
    const DType dtype = device->dtype;
    if (n == 0) return STATUS_OK;
    if (dropout && dropout->p > 0)
        TRY(lora_in_masked(device, group, dropout, x, h, n));
    else
        TRY(lora_in(device, group, 0, group->count, x, h, dtype, n));
    for (int m = 0; m < group->count; m++) {
        const LoraModule *module = &group->module[m];
        TRY(gemm_run(device, &(GemmCall){.m = n,
                                         .n = module->out,
                                         .k = group->r,
                                         .a = plus(h, (size_t)(m * group->r), dtype),
                                         .b = module->b,
                                         .c = y[m],
                                         .lda = (int64_t)group->count * group->r,
                                         .ldb = group->r,
                                         .ldc = module->out,
                                         .ab_type = dtype,
                                         .c_type = dtype,
                                         .b_transposed = true,
                                         .accumulate = true,
                                         .alpha = group->scale}));
    }
    return STATUS_OK;
}

// --- backward ---

// dB_m += s dy_m^T h_m, and dh_m = s dy_m B_m.
static Status lora_out_backward(Device *device, const LoraGroup *group, int m, const void *h, const void *dy, float *dh,
                                int32_t n) {
    const LoraModule *module = &group->module[m];
    const int64_t r = group->r, rank = group->count * r;
    TRY(gemm_run(device, &(GemmCall){.m = module->out,
                                     .n = r,
                                     .k = n,
                                     .a = dy,
                                     .b = plus(h, (size_t)(m * r), device->dtype),
                                     .c = module->db,
                                     .lda = module->out,
                                     .ldb = rank,
                                     .ldc = r,
                                     .ab_type = device->dtype,
                                     .c_type = DTYPE_F32,
                                     .a_transposed = true,
                                     .accumulate = true,
                                     .alpha = group->scale}));
    return gemm_run(device, &(GemmCall){.m = n,
                                        .n = r,
                                        .k = module->out,
                                        .a = dy,
                                        .b = module->b,
                                        .c = dh + m * r,
                                        .lda = module->out,
                                        .ldb = r,
                                        .ldc = rank,
                                        .ab_type = device->dtype,
                                        .c_type = DTYPE_F32,
                                        .alpha = group->scale});
}

// sums (+)= dh^T u, for tokens [first, first + rows) of `modules` modules from m on; u T[rows, in]. The sums are da, or
// what the addends of dh give each: fp32[count, LORA_PARTS, r, in].
static Status lora_in_backward(Device *device, const LoraGroup *group, const Layout *l, int m, int modules,
                               int32_t first, int32_t rows, const void *u, float *sums, bool accumulate) {
    const int64_t r = LORA_PARTS(device->dtype) * group->r, rank = group->count * r;
    return gemm_run(device, &(GemmCall){.m = modules * r,
                                        .n = group->in,
                                        .k = rows,
                                        .a = plus(l->parts, (size_t)(first * rank + m * r), device->dtype),
                                        .b = u,
                                        .c = sums + m * r * group->in,
                                        .lda = rank,
                                        .ldb = group->in,
                                        .ldc = group->in,
                                        .ab_type = device->dtype,
                                        .c_type = DTYPE_F32,
                                        .a_transposed = true,
                                        .accumulate = accumulate});
}

// dx += dh A over all modules: one product whose inner dimension is all addends of all modules.
static Status lora_dx(Device *device, const LoraGroup *group, const Layout *l, void *dx, int32_t n) {
    const int64_t rank = LORA_PARTS(device->dtype) * group->count * group->r;
    const void *a = group->module[0].a;
    if (device->dtype == DTYPE_BF16) {
        CUDA_TRY(device, lora_stack(a, l->stacked, group->count, group->r, group->in, device->stream));
        a = l->stacked;
    }
    return gemm_run(device, &(GemmCall){.m = n,
                                        .n = group->in,
                                        .k = rank,
                                        .a = l->parts,
                                        .b = a,
                                        .c = dx,
                                        .lda = rank,
                                        .ldb = group->in,
                                        .ldc = group->in,
                                        .ab_type = device->dtype,
                                        .c_type = device->dtype,
                                        .accumulate = true});
}

static Status lora_dx_masked(Device *device, const LoraGroup *group, const LoraMask *mask, const float *dh, void *dx,
                             int32_t n) {
    int32_t ids[LORA_GROUP_MAX];
    for (int m = 0; m < group->count; m++) ids[m] = group->module[m].id;
    CUDA_TRY(device, lora_add_masked(device->dtype, dh, group->module[0].a, mask, ids, group->count, group->r, dx, n,
                                     group->in, device->stream));
    return STATUS_OK;
}

Status cuda_lora_backward(Device *device, const LoraGroup *group, const Dropout *dropout, const void *x, const void *h,
                          const void *const *dy, void *dx, int32_t n) {
    const DType dtype = device->dtype;
    const bool masked = dropout && dropout->p > 0, split = dtype == DTYPE_BF16;
    if (n == 0) return STATUS_OK;
    Layout l;
    LoraMask mask;
    TRY(lora_scratch(device, group, n, &l));
    for (int m = 0; m < group->count; m++) TRY(lora_out_backward(device, group, m, h, dy[m], l.sums, n));
    if (masked) {
        mask = lora_mask(dropout);
        CUDA_TRY(device, lora_scale_rows(DTYPE_F32, l.sums, &mask, l.sums, n, group->count * group->r, device->stream));
    }
    if (split) CUDA_TRY(device, lora_split(l.sums, l.parts, n, group->count, group->r, device->stream));

    float *da = split ? l.da : group->module[0].da;
    if (!masked) {
        TRY(lora_in_backward(device, group, &l, 0, group->count, 0, n, x, da, !split));
        if (dx) TRY(lora_dx(device, group, &l, dx, n));
    } else {
        for (int32_t first = 0; first < n; first += l.chunk_rows) {
            const int32_t rows = rows_from(n, first, l.chunk_rows);
            for (int m = 0; m < group->count; m++) {
                TRY(lora_masked(device, group, &mask, m, x, l.u, first, rows));
                TRY(lora_in_backward(device, group, &l, m, 1, first, rows, l.u, da, !split || first > 0));
            }
        }
        if (dx) TRY(lora_dx_masked(device, group, &mask, l.sums, dx, n));
    }
    if (split)
        CUDA_TRY(device, lora_add_parts(da, group->module[0].da, group->count, group->r, group->in, device->stream));
    return STATUS_OK;
}
