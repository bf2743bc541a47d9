// The ops on token rows, attention and the adapter vectors: spreads rows, elements or tasks over the device's threads
// and calls the loops of the device's instruction set (simd/). Results do not depend on the number of threads.
#include "kernels/cpu/cpu.h"
#include <omp.h>
#include <string.h>

enum {
    ELEMENTS_PER_THREAD = 16384, // below, waking a thread costs more than it does
    SPAN_STEP = 64,              // element spans begin at multiples of it: a cache line of bf16 is never shared
    SUM_PARTS = 256,
};

static int threads_for(const Device *device, size_t elements) {
    return elements < 2 * ELEMENTS_PER_THREAD ? 1 : device->threads;
}

typedef struct Span {
    int64_t begin, end;
} Span;

// This thread's share of [0, count) within its team, in multiples of `step`.
static Span span_of_thread(size_t count, size_t step) {
    size_t steps = (count + step - 1) / step, threads = (size_t)omp_get_num_threads(),
           thread = (size_t)omp_get_thread_num();
    size_t begin = steps * thread / threads * step, end = steps * (thread + 1) / threads * step;
    return (Span){(int64_t)(begin < count ? begin : count), (int64_t)(end < count ? end : count)};
}

Status cpu_embed(Device *device, const int32_t *tokens, const void *table, void *x, int32_t n, int32_t dim) {
    size_t row = (size_t)dim * dtype_size(device->dtype);
#pragma omp parallel for num_threads(threads_for(device, (size_t)n *dim))
    for (int32_t i = 0; i < n; i++) memcpy((char *)x + i * row, (const char *)table + (size_t)tokens[i] * row, row);
    return STATUS_OK;
}

Status cpu_rmsnorm(Device *device, const void *x, const void *delta, const void *w, float eps, void *sum, void *y,
                   float *rstd, int32_t n, int32_t dim) {
#pragma omp parallel num_threads(threads_for(device, (size_t)n *dim))
    {
        Span s = span_of_thread((size_t)n, 1);
        device->simd->rmsnorm(device->dtype, x, delta, w, eps, sum, y, rstd, s.begin, s.end, dim);
    }
    return STATUS_OK;
}

Status cpu_rmsnorm_backward(Device *device, const void *dy, const void *x, const void *w, const float *rstd, void *dx,
                            void *y, int32_t n, int32_t dim) {
#pragma omp parallel num_threads(threads_for(device, (size_t)n *dim))
    {
        Span s = span_of_thread((size_t)n, 1);
        device->simd->rmsnorm_backward(device->dtype, dy, x, w, rstd, dx, y, s.begin, s.end, dim);
    }
    return STATUS_OK;
}

Status cpu_rope(Device *device, void *q, void *k, const int32_t *position, const float *cos, const float *sin,
                int32_t first, int32_t n, int32_t heads, int32_t kv_heads, int32_t head_dim, int sign) {
#pragma omp parallel num_threads(threads_for(device, (size_t)n *(heads + kv_heads) * head_dim))
    {
        Span of_q = span_of_thread((size_t)(n - first), 1), of_k = span_of_thread((size_t)n, 1);
        device->simd->rope(device->dtype, q, position + first, cos, sin, of_q.begin, of_q.end, heads, head_dim, sign);
        device->simd->rope(device->dtype, k, position, cos, sin, of_k.begin, of_k.end, kv_heads, head_dim, sign);
    }
    return STATUS_OK;
}

Status cpu_swiglu(Device *device, const void *gate_up, void *act, int32_t n, int32_t width) {
#pragma omp parallel num_threads(threads_for(device, (size_t)n *width))
    {
        Span s = span_of_thread((size_t)n, 1);
        device->simd->swiglu(device->dtype, gate_up, act, s.begin, s.end, width);
    }
    return STATUS_OK;
}

Status cpu_swiglu_backward(Device *device, const void *gate_up, const void *dact, void *dgate_up, void *act, int32_t n,
                           int32_t width) {
#pragma omp parallel num_threads(threads_for(device, (size_t)n *width))
    {
        Span s = span_of_thread((size_t)n, 1);
        device->simd->swiglu_backward(device->dtype, gate_up, dact, dgate_up, act, s.begin, s.end, width);
    }
    return STATUS_OK;
}

Status cpu_scale_rows(Device *device, const void *x, const float *factor, void *y, int32_t n, int32_t dim) {
#pragma omp parallel num_threads(threads_for(device, (size_t)n *dim))
    {
        Span s = span_of_thread((size_t)n, 1);
        device->simd->scale_rows(device->dtype, x, factor, y, s.begin, s.end, dim);
    }
    return STATUS_OK;
}

Status cpu_scale_add(Device *device, const void *x, float factor, const void *base, void *y, size_t count) {
#pragma omp parallel num_threads(threads_for(device, count))
    {
        Span s = span_of_thread(count, SPAN_STEP);
        device->simd->scale_add(device->dtype, x, factor, base, y, s.begin, s.end);
    }
    return STATUS_OK;
}

Status cpu_scatter_rows(Device *device, const void *from, const int32_t *index, void *to, int32_t n, int32_t dim) {
    size_t row = (size_t)dim * dtype_size(device->dtype);
#pragma omp parallel for num_threads(threads_for(device, (size_t)n *dim))
    for (int32_t i = 0; i < n; i++) memcpy((char *)to + (size_t)index[i] * row, (const char *)from + i * row, row);
    return STATUS_OK;
}

Status cpu_cast(Device *device, const float *from, void *to, size_t count) {
#pragma omp parallel num_threads(threads_for(device, count))
    {
        Span s = span_of_thread(count, SPAN_STEP);
        device->simd->cast(device->dtype, from, to, s.begin, s.end);
    }
    return STATUS_OK;
}

// SUM_PARTS parts of equal length, added up in order.
Status cpu_sum_squares(Device *device, const float *x, size_t count, double *host_out) {
    double part[SUM_PARTS] = {0};
    size_t length = (count + SUM_PARTS - 1) / SUM_PARTS;
#pragma omp parallel for num_threads(threads_for(device, count))
    for (size_t p = 0; p < SUM_PARTS; p++) {
        size_t begin = p * length, end = begin + length < count ? begin + length : count;
        if (begin < end) part[p] = device->simd->sum_squares(x, (int64_t)begin, (int64_t)end);
    }
    double sum = 0;
    for (int p = 0; p < SUM_PARTS; p++) sum += part[p];
    *host_out = sum;
    return STATUS_OK;
}

Status cpu_adamw(Device *device, const AdamW *options, float *x, float *m, float *v, const float *dx, size_t count) {
#pragma omp parallel num_threads(threads_for(device, count))
    {
        Span s = span_of_thread(count, SPAN_STEP);
        device->simd->adamw(options, x, m, v, dx, s.begin, s.end);
    }
    return STATUS_OK;
}

// Runs one of the table's attention functions on a team; each thread has its part of the device's scratch.
static Status attention_run(Device *device, void (*run)(AttentionCall *, void *), AttentionCall *call) {
    const Attention *shape = call->shape;
    if (shape->head_dim > ATTENTION_HEAD_DIM_MAX || shape->heads / shape->kv_heads > ATTENTION_GROUP_MAX)
        return error_set(STATUS_FAILED,
                         "attention with head_dim %d and %d query heads a key head is larger than the CPU device takes "
                         "(%d and %d); use another model",
                         shape->head_dim, shape->heads / shape->kv_heads, ATTENTION_HEAD_DIM_MAX, ATTENTION_GROUP_MAX);
    size_t rows = 0, keys = 0;
    for (int32_t i = 0; i < shape->query_count; i++) rows += (size_t)shape->queries[i].length;
    for (int32_t i = 0; i < shape->segment_count; i++) keys += (size_t)shape->segments[i].length;
    if (rows == 0) return STATUS_OK;
    // Work in elements, very roughly: a decoded token reads its keys and values, and a tile of rows multiplies them.
    int threads = threads_for(device, (rows * shape->heads + keys * shape->kv_heads) * (size_t)shape->head_dim);
    size_t bytes = device->simd->attention_scratch;
    void *scratch;
    TRY(cpu_scratch(device, bytes * (size_t)threads, &scratch));
    call->next_task = 0;
#pragma omp parallel num_threads(threads)
    run(call, (char *)scratch + (size_t)omp_get_thread_num() * bytes);
    return STATUS_OK;
}

Status cpu_attention(Device *device, const Attention *shape, const void *q, const void *k, const void *v, void *out,
                     float *lse) {
    AttentionCall call = {.dtype = device->dtype, .shape = shape, .q = q, .k = k, .v = v, .out = out, .lse = lse};
    return attention_run(device, device->simd->attention, &call);
}

Status cpu_attention_backward(Device *device, const Attention *shape, const void *q, const void *k, const void *v,
                              const void *out, const float *lse, const void *dout, void *dq, void *dk, void *dv,
                              int32_t key_rows) {
    AttentionCall call = {.dtype = device->dtype,
                          .shape = shape,
                          .q = q,
                          .k = k,
                          .v = v,
                          .dout = dout,
                          .out = (void *)out,
                          .lse = (float *)lse,
                          .dq = dq,
                          .dk = dk,
                          .dv = dv};
    size_t bytes = (size_t)key_rows * shape->kv_heads * shape->head_dim * dtype_size(device->dtype);
    memset(dk, 0, bytes);
    memset(dv, 0, bytes);
    TRY(attention_run(device, device->simd->attention_query_gradient, &call));
    return attention_run(device, device->simd->attention_key_gradient, &call);
}
