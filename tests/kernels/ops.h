// What the op tests share: a backend by name (argv[1], default "cpu"), arrays in and out of its memory, random values,
// one comparator that a NaN cannot pass, and central differences. Arrays on the host are float; a device array of type
// T holds them rounded to T.
#pragma once
#include "kernels/backend.h"
#include "src/base/rng.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>

#define UNIT_F32  0x1p-24 // rounding to nearest: relative error at most this
#define UNIT_BF16 0x1p-8
#define TINY      0x1p-120 // absolute slack for what underflows

typedef struct Ops {
    const Backend *backend;
    Device *device;
    DType dtype;
} Ops;

// The backend that main() was asked for.
static inline const Backend *ops_backend(int argc, char **argv) {
    const char *why = "";
    const Backend *backend = backend_find(argc > 1 ? argv[1] : "cpu", &why);
    if (!backend) {
        fprintf(stderr, "%s\n", why);
        exit(2);
    }
    return backend;
}

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        if ((call) != STATUS_OK) fail_msg("%s: %s", #call, error_text());                                              \
    } while (0)

static inline Ops ops_open(const Backend *backend, DType dtype, int threads) {
    Ops ops = {.backend = backend, .dtype = dtype};
    CHECK(backend->open(&(DeviceOptions){.dtype = dtype, .threads = threads}, &ops.device));
    return ops;
}

// --- bf16 and random values
// ---------------------------------------------------------------------------------------------
static inline uint16_t bf16_bits(float x) { // to nearest even; x is finite
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
}
static inline float bf16_value(uint16_t bits) {
    uint32_t u = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}
// x as a device of this type holds it, and the relative error of that rounding.
static inline float ops_round(const Ops *ops, float x) {
    return ops->dtype == DTYPE_BF16 ? bf16_value(bf16_bits(x)) : x;
}
static inline double ops_unit(const Ops *ops) {
    return ops->dtype == DTYPE_BF16 ? UNIT_BF16 : UNIT_F32;
}

static inline void *ops_host(size_t bytes) { // at least one byte
    void *p = calloc(bytes ? bytes : 1, 1);
    assert_non_null(p);
    return p;
}
// count values in [-size, size), rounded to T. Free with free().
static inline float *ops_random(const Ops *ops, size_t count, float size, uint32_t seed) {
    Rng rng = rng_make(seed, 0, 0);
    float *x = ops_host(count * sizeof *x);
    for (size_t i = 0; i < count; i++) x[i] = ops_round(ops, (float)((2 * rng_uniform(&rng) - 1) * size));
    return x;
}

// --- device arrays
// ------------------------------------------------------------------------------------------------------ A copy of
// `bytes` bytes; a null `host` gives zeros. Release with ops_free().
static inline void *ops_upload(const Ops *ops, const void *host, size_t bytes) {
    void *buffer;
    CHECK(ops->backend->alloc(ops->device, bytes, "test", &buffer));
    if (host) CHECK(ops->backend->upload(ops->device, buffer, host, bytes));
    return buffer;
}
static inline void ops_store(const Ops *ops, void *buffer, const float *x, size_t count) {
    if (ops->dtype == DTYPE_F32) {
        CHECK(ops->backend->upload(ops->device, buffer, x, count * sizeof *x));
        return;
    }
    uint16_t *bits = ops_host(count * sizeof *bits);
    for (size_t i = 0; i < count; i++) bits[i] = bf16_bits(x[i]);
    CHECK(ops->backend->upload(ops->device, buffer, bits, count * sizeof *bits));
    free(bits);
}
// T[count].
static inline void *ops_array(const Ops *ops, const float *x, size_t count) {
    void *buffer = ops_upload(ops, NULL, count * dtype_size(ops->dtype));
    if (x) ops_store(ops, buffer, x, count);
    return buffer;
}
static inline void ops_free(const Ops *ops, void *buffer) {
    ops->backend->release(ops->device, buffer);
}
// The values of T[count] on the host. Free with free().
static inline float *ops_values(const Ops *ops, const void *buffer, size_t count) {
    float *x = ops_host(count * sizeof *x);
    if (ops->dtype == DTYPE_F32) {
        CHECK(ops->backend->download(ops->device, x, buffer, count * sizeof *x));
        return x;
    }
    uint16_t *bits = ops_host(count * sizeof *bits);
    CHECK(ops->backend->download(ops->device, bits, buffer, count * sizeof *bits));
    for (size_t i = 0; i < count; i++) x[i] = bf16_value(bits[i]);
    free(bits);
    return x;
}
static inline float *ops_floats(const Ops *ops, const void *buffer, size_t count) { // of fp32[count]
    float *x = ops_host(count * sizeof *x);
    CHECK(ops->backend->download(ops->device, x, buffer, count * sizeof *x));
    return x;
}

// --- comparing
// ---------------------------------------------------------------------------------------------------------- Fails
// unless |got - want| <= tolerance for every element; prints the worst one. A NaN anywhere fails.
static inline void expect_close(const char *what, const float *got, const double *want, const double *tolerance,
                                size_t count) {
    size_t worst = 0;
    double worst_share = -1;
    bool bad = false;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs(got[i] - want[i]), share = difference / tolerance[i];
        bool fails = !(difference <= tolerance[i]);
        if ((fails && !bad) || (fails == bad && !(share <= worst_share))) {
            worst = i;
            worst_share = share;
        }
        bad = bad || fails;
    }
    if (bad)
        fail_msg("%s[%zu of %zu]: got %.9g, want %.9g, difference %.3g, tolerance %.3g", what, worst, count, got[worst],
                 want[worst], fabs(got[worst] - want[worst]), tolerance[worst]);
}
static inline void expect_same_bits(const char *what, const float *got, const float *want, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (memcmp(&got[i], &want[i], sizeof *got) != 0) fail_msg("%s[%zu]: got %a, want %a", what, i, got[i], want[i]);
}

// (f(x + step) - f(x - step)) / (2 step) for host value *x, which f reads; f returns fp64.
static inline double central_difference(double (*f)(void *context), void *context, float *x, float step) {
    float saved = *x;
    float above = saved + step, below = saved - step;
    *x = above;
    double high = f(context);
    *x = below;
    double low = f(context);
    *x = saved;
    return (high - low) / ((double)above - below);
}
