// The matrix ops of a backend (argv[1], default "cpu") against plain fp64 loops, in fp32 and bf16, and against central
// differences. Tolerances are rounding bounds: a sum of k products in fp32 errs by at most about (k + 1) u sum |a b|,
// and the result's rounding to T adds its unit. So each fp64 loop also returns the sum of magnitudes. A product that is
// added to what is there may be rounded to T before (kernels/backend.h): that adds the unit of the product.
#include "ops.h"

static const Backend *backend;

// A device with room for ops of these sizes.
static Ops matrix_open(DType dtype, int threads, DeviceShapes shapes) {
    Ops ops = ops_open(backend, dtype, threads);
    CHECK(backend->reserve(ops.device, &shapes));
    return ops;
}

// The roundings to T of before + product. (1.01: the terms' own errors are rounded along.)
static double added_error(const Ops *ops, double before, double product) {
    return 1.01 * ops_unit(ops) * (fabs(before + product) + (before != 0 ? fabs(product) : 0));
}

// --- linear ---

typedef struct Sizes {
    int32_t n, in, out;
} Sizes;

static const Sizes linear_sizes[] = {{0, 8, 8},     {1, 64, 32},    {5, 33, 7},
                                     {37, 64, 259}, {130, 259, 64}, {300, 128, 513}};

// y = x W^T + bias, then dx (+)= dy W, on one layer whose weight and bias start one element off any alignment.
static void check_linear(DType dtype, Sizes s, bool with_bias) {
    Ops ops = matrix_open(dtype, 0, (DeviceShapes){.tokens = s.n, .features = s.in > s.out ? s.in : s.out});
    size_t nx = (size_t)s.n * s.in, ny = (size_t)s.n * s.out, nw = (size_t)s.in * s.out;
    float *x = ops_random(&ops, nx, 1, 1), *w = ops_random(&ops, nw + 1, 1, 2),
          *biases = ops_random(&ops, (size_t)s.out + 1, 1, 3);
    float *dy = ops_random(&ops, ny, 1, 4), *dx = ops_random(&ops, nx, 8, 5);
    void *device_w = ops_array(&ops, w, nw + 1), *device_bias = ops_array(&ops, biases, (size_t)s.out + 1);
    void *device_x = ops_array(&ops, x, nx), *device_y = ops_array(&ops, NULL, ny);
    void *device_dy = ops_array(&ops, dy, ny), *device_dx = ops_array(&ops, dx, nx);
    Linear layer = {.weight = (char *)device_w + dtype_size(dtype),
                    .bias = with_bias ? (char *)device_bias + dtype_size(dtype) : NULL,
                    .in = s.in,
                    .out = s.out};
    const float *weight = w + 1, *bias = biases + 1;
    double *want = ops_host((nx + ny) * sizeof *want), *tolerance = ops_host((nx + ny) * sizeof *tolerance);

    CHECK(backend->linear(ops.device, &layer, 1, device_x, device_y, s.n));
    for (int32_t i = 0; i < s.n; i++)
        for (int32_t o = 0; o < s.out; o++) {
            double sum = with_bias ? bias[o] : 0, size = fabs(sum);
            for (int32_t f = 0; f < s.in; f++) {
                double term = (double)x[(size_t)i * s.in + f] * weight[(size_t)o * s.in + f];
                sum += term;
                size += fabs(term);
            }
            want[(size_t)i * s.out + o] = sum;
            tolerance[(size_t)i * s.out + o] = (s.in + 2) * UNIT_F32 * size + ops_unit(&ops) * fabs(sum) * 1.01 + TINY;
        }
    float *got = ops_values(&ops, device_y, ny);
    expect_close("linear y", got, want, tolerance, ny);
    free(got);

    for (int accumulate = 0; accumulate < 2; accumulate++) {
        ops_store(&ops, device_dx, dx, nx);
        CHECK(backend->linear_backward(ops.device, &layer, 1, device_dy, device_dx, s.n, accumulate));
        for (int32_t i = 0; i < s.n; i++)
            for (int32_t f = 0; f < s.in; f++) {
                double before = accumulate ? dx[(size_t)i * s.in + f] : 0, product = 0, size = fabs(before);
                for (int32_t o = 0; o < s.out; o++) {
                    double term = (double)dy[(size_t)i * s.out + o] * weight[(size_t)o * s.in + f];
                    product += term;
                    size += fabs(term);
                }
                want[(size_t)i * s.in + f] = before + product;
                tolerance[(size_t)i * s.in + f] =
                    (s.out + 2) * UNIT_F32 * size + added_error(&ops, before, product) + TINY;
            }
        got = ops_values(&ops, device_dx, nx);
        expect_close(accumulate ? "linear_backward, dx +=" : "linear_backward, dx =", got, want, tolerance, nx);
        free(got);
    }
    void *buffers[] = {device_w, device_bias, device_x, device_y, device_dy, device_dx};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) ops_free(&ops, buffers[i]);
    void *hosts[] = {x, w, biases, dy, dx, want, tolerance};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) free(hosts[i]);
    backend->close(ops.device);
}

static void linear(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof linear_sizes / sizeof *linear_sizes; i++)
        for (int bias = 0; bias < 2; bias++) {
            check_linear(DTYPE_F32, linear_sizes[i], bias);
            check_linear(DTYPE_BF16, linear_sizes[i], bias);
        }
}

// Layers of one input: their outputs side by side in a row of y; dx the sum over them, whether their
// weights lie one after the other, as a device may want them, or not.
static void check_layers(DType dtype, bool adjacent, bool with_bias) {
    enum { N = 70, IN = 40, COUNT = 3 };
    static const int32_t outs[COUNT] = {48, 16, 24};
    const int32_t gap = adjacent ? 0 : 8, width = 48 + 16 + 24;
    Ops ops = matrix_open(dtype, 0, (DeviceShapes){.tokens = N, .features = width});
    const size_t nw = (size_t)(width + COUNT * gap) * IN;
    float *x = ops_random(&ops, N * IN, 1, 71), *w = ops_random(&ops, nw, 1, 72);
    float *bias = ops_random(&ops, (size_t)(width + COUNT * gap), 1, 73), *dy = ops_random(&ops, N * width, 1, 74);
    void *device_x = ops_array(&ops, x, N * IN), *device_w = ops_array(&ops, w, nw), *device_dx;
    void *device_bias = ops_array(&ops, bias, (size_t)(width + COUNT * gap));
    void *device_y = ops_array(&ops, NULL, N * width), *device_dy = ops_array(&ops, dy, N * width);
    device_dx = ops_array(&ops, NULL, N * IN);
    Linear layers[COUNT];
    double want[N * IN] = {0}, size[N * IN] = {0}, partial[N * IN] = {0};
    int32_t row = 0;
    for (int i = 0, column = 0; i < COUNT; column += outs[i], row += outs[i++] + gap) {
        layers[i] = (Linear){.weight = (char *)device_w + (size_t)row * IN * dtype_size(dtype),
                             .bias = with_bias ? (char *)device_bias + (size_t)row * dtype_size(dtype) : NULL,
                             .in = IN,
                             .out = outs[i]};
        for (int at = 0; at < N * IN; at++) {
            double product = 0;
            for (int32_t o = 0; o < outs[i]; o++) {
                const double term = (double)dy[at / IN * width + column + o] * w[(size_t)(row + o) * IN + at % IN];
                product += term;
                size[at] += fabs(term);
            }
            want[at] += product;
            // Rounded once more for each layer: the sum, and before it a product that is added (backend.h).
            partial[at] += fabs(want[at]) + (i > 0 ? fabs(product) : 0);
        }
    }
    CHECK(backend->linear(ops.device, layers, COUNT, device_x, device_y, N));
    CHECK(backend->linear_backward(ops.device, layers, COUNT, device_dy, device_dx, N, false));
    float *y = ops_values(&ops, device_y, N * width), *dx = ops_values(&ops, device_dx, N * IN);
    double *want_y = ops_host(N * width * sizeof *want_y), *tolerance = ops_host(N * width * sizeof *tolerance);
    for (int i = 0, column = 0, first = 0; i < COUNT; column += outs[i], first += outs[i++] + gap)
        for (int32_t t = 0; t < N; t++)
            for (int32_t o = 0; o < outs[i]; o++) {
                double sum = with_bias ? bias[first + o] : 0, magnitude = fabs(sum);
                for (int32_t f = 0; f < IN; f++) {
                    const double term = (double)x[t * IN + f] * w[(size_t)(first + o) * IN + f];
                    sum += term;
                    magnitude += fabs(term);
                }
                want_y[t * width + column + o] = sum;
                tolerance[t * width + column + o] =
                    (IN + 2) * UNIT_F32 * magnitude + ops_unit(&ops) * fabs(sum) * 1.01 + TINY;
            }
    expect_close("linear of several layers", y, want_y, tolerance, N * width);
    for (int at = 0; at < N * IN; at++)
        tolerance[at] = (width + 2) * UNIT_F32 * size[at] + ops_unit(&ops) * partial[at] * 1.01 + TINY;
    expect_close("linear_backward of several layers", dx, want, tolerance, N * IN);
    void *buffers[] = {device_x, device_w, device_bias, device_y, device_dy, device_dx};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) ops_free(&ops, buffers[i]);
    void *hosts[] = {x, w, bias, dy, y, dx, want_y, tolerance};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) free(hosts[i]);
    backend->close(ops.device);
}

static void layers_of_one_input(void **state) {
    (void)state;
    for (int form = 0; form < 8; form++) check_layers((DType)(form & 1), form & 2, form & 4);
}

// --- LoRA ---

typedef struct LoraCase {
    int32_t count, n, in, r, out[LORA_GROUP_MAX];
    float p;
    bool zero_b;
} LoraCase;

static const LoraCase lora_cases[] = {
    {1, 0, 16, 8, {16}, 0, false},
    {1, 1, 16, 8, {24}, 0, false},
    {1, 7, 33, 3, {259}, 0, false},
    {2, 70, 64, 8, {64, 16}, 0, false},
    {3, 131, 100, 5, {100, 20, 20}, 0, false},
    {1, 7, 33, 3, {259}, 0.3f, false},
    {2, 70, 64, 8, {64, 16}, 0.05f, false},
    {3, 131, 100, 5, {100, 20, 20}, 0.5f, false},
    {3, 9, 64, 16, {64, 64, 7}, 0.1f, true},
    {2, 1200, 520, 1, {8, 4}, 0.1f, false},
    // Ranks and widths beyond what a GPU's block has at once.
    {3, 40, 64, 40, {264, 72, 8}, 0, false},
    {2, 50, 328, 70, {72, 530}, 0.2f, false},
    {1, 33, 600, 64, {136}, 0, false},
};

// Everything of a case, on the host (float, rounded to T) and on the device.
typedef struct LoraTest {
    Ops ops;
    LoraCase c;
    LoraGroup group;
    Dropout dropout;
    int32_t rank;
    float *x, *a, *b[LORA_GROUP_MAX], *y[LORA_GROUP_MAX], *dy[LORA_GROUP_MAX], *da, *db[LORA_GROUP_MAX], *dx;
    int32_t *owner, *position;
    void *device_x, *device_a, *device_b[LORA_GROUP_MAX], *device_h, *device_y[LORA_GROUP_MAX],
        *device_dy[LORA_GROUP_MAX];
    void *device_da, *device_db[LORA_GROUP_MAX], *device_dh, *device_dx, *device_owner, *device_position;
} LoraTest;

// rows T[n, out] to a module's y or dy, GAP between them.
#define GAP 7.0f
static void lora_store_rows(LoraTest *t, int m, void *to, const float *rows) {
    const size_t out = (size_t)t->c.out[m], ld = (size_t)t->group.module[m].ld, count = (size_t)t->c.n * ld;
    float *apart = ops_host(count * sizeof *apart);
    for (size_t i = 0; i < count; i++) apart[i] = i % ld < out ? rows[i / ld * out + i % ld] : GAP;
    ops_store(&t->ops, to, apart, count);
    free(apart);
}

// They back from there; nobody may have written between them.
static float *lora_rows(const LoraTest *t, int m, const void *from) {
    const size_t out = (size_t)t->c.out[m], ld = (size_t)t->group.module[m].ld, count = (size_t)t->c.n * ld;
    float *apart = ops_values(&t->ops, from, count), *rows = ops_host((size_t)t->c.n * out * sizeof *rows);
    for (size_t i = 0; i < count; i++)
        if (i % ld < out)
            rows[i / ld * out + i % ld] = apart[i];
        else
            assert_true(apart[i] == GAP);
    free(apart);
    return rows;
}

static LoraTest lora_make(DType dtype, LoraCase c, int threads) {
    DeviceShapes shapes = {.tokens = c.n, .features = c.in, .lora_rank = c.r};
    for (int m = 0; m < c.count; m++)
        if (c.out[m] > shapes.features) shapes.features = c.out[m];
    LoraTest t = {.ops = matrix_open(dtype, threads, shapes), .c = c, .rank = c.count * c.r};
    Ops *ops = &t.ops;
    size_t n = (size_t)c.n, in = (size_t)c.in, r = (size_t)c.r, rank = (size_t)t.rank;
    t.x = ops_random(ops, n * in, 1, 11);
    t.a = ops_random(ops, rank * in, 1, 12);
    t.dx = ops_random(ops, n * in, 1, 13);
    t.da = ops_random(ops, rank * in, 1, 14);
    t.device_x = ops_array(ops, t.x, n * in);
    t.device_a = ops_array(ops, t.a, rank * in);
    t.device_dx = ops_array(ops, t.dx, n * in);
    t.device_da = ops_upload(ops, t.da, rank * in * sizeof(float));
    t.device_h = ops_array(ops, NULL, n * rank);
    t.device_dh = ops_upload(ops, NULL, n * rank * LORA_DH_BYTES);
    t.owner = ops_host(n * sizeof *t.owner);
    t.position = ops_host(n * sizeof *t.position);
    for (int32_t i = 0; i < c.n; i++) {
        t.owner[i] = i % 5 == 4 ? -1 : i / 3;
        t.position[i] = i % 3 + 10;
    }
    t.device_owner = ops_upload(ops, t.owner, n * sizeof *t.owner);
    t.device_position = ops_upload(ops, t.position, n * sizeof *t.position);
    t.dropout = (Dropout){c.p, 0x1234567890ABCDEFu, t.device_owner, t.device_position};
    t.group = (LoraGroup){.count = c.count, .in = c.in, .r = c.r, .scale = 1.75f};
    for (int m = 0; m < c.count; m++) {
        size_t out = (size_t)c.out[m];
        t.b[m] = ops_random(ops, out * r, c.zero_b ? 0 : 1, 20 + (uint32_t)m);
        t.y[m] = ops_random(ops, n * out, 1, 30 + (uint32_t)m);
        t.dy[m] = ops_random(ops, n * out, 1, 40 + (uint32_t)m);
        t.db[m] = ops_random(ops, out * r, 1, 50 + (uint32_t)m);
        t.device_b[m] = ops_array(ops, t.b[m], out * r);
        const int32_t ld = c.out[m] + 8 * m;
        t.device_y[m] = ops_array(ops, NULL, n * (size_t)ld);
        t.device_dy[m] = ops_array(ops, NULL, n * (size_t)ld);
        t.device_db[m] = ops_upload(ops, t.db[m], out * r * sizeof(float));
        t.group.module[m] = (LoraModule){.a = (char *)t.device_a + (size_t)m * r * in * dtype_size(dtype),
                                         .b = t.device_b[m],
                                         .da = (float *)t.device_da + (size_t)m * r * in,
                                         .db = t.device_db[m],
                                         .out = c.out[m],
                                         .ld = ld,
                                         .id = 3 * m + 7};
        lora_store_rows(&t, m, t.device_y[m], t.y[m]);
        lora_store_rows(&t, m, t.device_dy[m], t.dy[m]);
    }
    return t;
}

static void lora_free(LoraTest *t) {
    void *hosts[] = {t->x, t->a, t->dx, t->da, t->owner, t->position};
    void *buffers[] = {t->device_x, t->device_a,  t->device_dx,    t->device_da,
                       t->device_h, t->device_dh, t->device_owner, t->device_position};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) free(hosts[i]);
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) ops_free(&t->ops, buffers[i]);
    for (int m = 0; m < t->c.count; m++) {
        float *of_module[] = {t->b[m], t->y[m], t->dy[m], t->db[m]};
        void *on_device[] = {t->device_b[m], t->device_y[m], t->device_dy[m], t->device_db[m]};
        for (int i = 0; i < 4; i++) {
            free(of_module[i]);
            ops_free(&t->ops, on_device[i]);
        }
    }
    backend->close(t->ops.device);
}

// 0, or 1/(1-p): the definition in backend.h, one number at a time.
static double lora_mask(const LoraTest *t, int32_t token, int m, int32_t f) {
    if (t->c.p == 0 || t->owner[token] < 0) return 1;
    Philox4 random = philox(t->dropout.key, (uint32_t)t->owner[token], (uint32_t)t->position[token], RNG_DROPOUT,
                            (uint32_t)t->group.module[m].id << 20 | (uint32_t)(f / 4));
    return random.v[f % 4] >= (double)t->c.p * 4294967296.0 ? 1 / (1 - (double)t->c.p) : 0;
}

static void lora_forward(LoraTest *t) {
    CHECK(backend->lora(t->ops.device, &t->group, &t->dropout, t->device_x, t->device_h, t->device_y, t->c.n));
}

static void lora_backward(LoraTest *t) {
    const void *const *dy = (const void *const *)t->device_dy;
    CHECK(backend->lora_backward(t->ops.device, &t->group, &t->dropout, dy, t->device_dh, t->device_dx, t->c.n));
    CHECK(backend->lora_weight_backward(t->ops.device, &t->group, &t->dropout, t->device_x, t->device_h, dy,
                                        t->device_dh, t->c.n));
}

static void check_lora(DType dtype, LoraCase c) {
    LoraTest t = lora_make(dtype, c, 0);
    double unit = ops_unit(&t.ops), scale = t.group.scale;
    size_t n = (size_t)c.n, in = (size_t)c.in, r = (size_t)c.r, rank = (size_t)t.rank;
    lora_forward(&t);
    float *h = ops_values(&t.ops, t.device_h, n * rank);

    // h, and y from the device's h.
    double *want = ops_host(n * rank * sizeof *want), *tolerance = ops_host(n * rank * sizeof *tolerance);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < rank; j++) {
            double sum = 0, size = 0;
            for (size_t f = 0; f < in; f++) {
                double term = lora_mask(&t, (int32_t)i, (int)(j / r), (int32_t)f) * t.x[i * in + f] * t.a[j * in + f];
                sum += term;
                size += fabs(term);
            }
            want[i * rank + j] = sum;
            tolerance[i * rank + j] = (c.in + 4) * UNIT_F32 * size + unit * fabs(sum) * 1.01 + TINY;
        }
    expect_close("lora h", h, want, tolerance, n * rank);
    free(want);
    free(tolerance);
    for (int m = 0; m < c.count; m++) {
        size_t out = (size_t)c.out[m];
        want = ops_host(n * out * sizeof *want);
        tolerance = ops_host(n * out * sizeof *tolerance);
        for (size_t i = 0; i < n; i++)
            for (size_t o = 0; o < out; o++) {
                double before = t.y[m][i * out + o], product = 0, size = fabs(before);
                for (size_t j = 0; j < r; j++) {
                    double term = scale * h[i * rank + (size_t)m * r + j] * t.b[m][o * r + j];
                    product += term;
                    size += fabs(term);
                }
                want[i * out + o] = before + product;
                tolerance[i * out + o] = (c.r + 3) * UNIT_F32 * size + added_error(&t.ops, before, product) + TINY;
            }
        float *y = lora_rows(&t, m, t.device_y[m]);
        expect_close("lora y", y, want, tolerance, n * out);
        if (c.zero_b) expect_same_bits("lora y with B = 0", y, t.y[m], n * out);
        free(y);
        free(want);
        free(tolerance);
    }

    // Backward: dh in fp64 with its magnitudes, then what follows from it.
    lora_backward(&t);
    double *dh = ops_host(n * rank * sizeof *dh), *dh_size = ops_host(n * rank * sizeof *dh_size);
    int32_t widest = 0;
    for (int m = 0; m < c.count; m++) {
        size_t out = (size_t)c.out[m];
        if (c.out[m] > widest) widest = c.out[m];
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < r; j++)
                for (size_t o = 0; o < out; o++) {
                    double term = scale * t.dy[m][i * out + o] * t.b[m][o * r + j];
                    dh[i * rank + (size_t)m * r + j] += term;
                    dh_size[i * rank + (size_t)m * r + j] += fabs(term);
                }
        want = ops_host(out * r * sizeof *want);
        tolerance = ops_host(out * r * sizeof *tolerance);
        for (size_t o = 0; o < out; o++)
            for (size_t j = 0; j < r; j++) {
                double sum = t.db[m][o * r + j], size = fabs(sum);
                for (size_t i = 0; i < n; i++) {
                    double term = scale * t.dy[m][i * out + o] * h[i * rank + (size_t)m * r + j];
                    sum += term;
                    size += fabs(term);
                }
                want[o * r + j] = sum;
                tolerance[o * r + j] = (c.n + 4) * UNIT_F32 * size + TINY;
            }
        float *db = ops_floats(&t.ops, t.device_db[m], out * r);
        expect_close("lora db", db, want, tolerance, out * r);
        free(db);
        free(want);
        free(tolerance);
    }
    want = ops_host(rank * in * sizeof *want);
    tolerance = ops_host(rank * in * sizeof *tolerance);
    for (size_t j = 0; j < rank; j++)
        for (size_t f = 0; f < in; f++) {
            double sum = t.da[j * in + f], size = fabs(sum);
            for (size_t i = 0; i < n; i++) {
                double u = lora_mask(&t, (int32_t)i, (int)(j / r), (int32_t)f) * t.x[i * in + f];
                sum += dh[i * rank + j] * u;
                size += dh_size[i * rank + j] * fabs(u);
            }
            want[j * in + f] = sum;
            tolerance[j * in + f] = (c.n + widest + 6) * UNIT_F32 * size + TINY;
        }
    float *da = ops_floats(&t.ops, t.device_da, rank * in);
    expect_close("lora da", da, want, tolerance, rank * in);
    free(da);
    free(want);
    free(tolerance);
    want = ops_host(n * in * sizeof *want);
    tolerance = ops_host(n * in * sizeof *tolerance);
    for (size_t i = 0; i < n; i++)
        for (size_t f = 0; f < in; f++) {
            double before = t.dx[i * in + f], product = 0, size = fabs(before);
            for (size_t j = 0; j < rank; j++) {
                double factor = lora_mask(&t, (int32_t)i, (int)(j / r), (int32_t)f) * t.a[j * in + f];
                product += factor * dh[i * rank + j];
                size += fabs(factor) * dh_size[i * rank + j];
            }
            want[i * in + f] = before + product;
            tolerance[i * in + f] =
                (t.rank + widest + 6) * UNIT_F32 * size + added_error(&t.ops, before, product) + TINY;
        }
    float *dx = ops_values(&t.ops, t.device_dx, n * in);
    expect_close("lora dx", dx, want, tolerance, n * in);
    free(dx);
    free(want);
    free(tolerance);
    free(dh);
    free(dh_size);
    free(h);
    lora_free(&t);
}

static void lora(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof lora_cases / sizeof *lora_cases; i++) {
        check_lora(DTYPE_F32, lora_cases[i]);
        check_lora(DTYPE_BF16, lora_cases[i]);
    }
}

// L = sum of g_m * y_m, with g the dy of backward: L is linear in each of x, A and B alone, so a central difference has
// no error but rounding, whatever the step.
static double lora_loss(void *context) {
    LoraTest *t = context;
    double loss = 0;
    ops_store(&t->ops, t->device_x, t->x, (size_t)t->c.n * t->c.in);
    ops_store(&t->ops, t->device_a, t->a, (size_t)t->rank * t->c.in);
    for (int m = 0; m < t->c.count; m++) {
        ops_store(&t->ops, t->device_b[m], t->b[m], (size_t)t->c.out[m] * t->c.r);
        lora_store_rows(t, m, t->device_y[m], t->y[m]);
    }
    lora_forward(t);
    for (int m = 0; m < t->c.count; m++) {
        size_t count = (size_t)t->c.n * t->c.out[m];
        float *y = lora_rows(t, m, t->device_y[m]);
        for (size_t i = 0; i < count; i++) loss += (double)y[i] * t->dy[m][i];
        free(y);
    }
    return loss;
}

// Sum of |g y|'s largest possible value: bounds the rounding of lora_loss with inputs up to 1 + step.
static void check_lora_difference(LoraTest *t, const char *what, float *x, const float *gradient, float added,
                                  double rounding) {
    const float step = 0.5f;
    double want = central_difference(lora_loss, t, x, step), tolerance = rounding / step;
    float got = *gradient - added;
    expect_close(what, &got, &want, &tolerance, 1);
}

static void lora_differences(void **state) {
    (void)state;
    for (int dropout = 0; dropout < 2; dropout++) {
        LoraCase c = {3, 6, 20, 3, {12, 8, 5}, dropout ? 0.25f : 0, false};
        LoraTest t = lora_make(DTYPE_F32, c, 0);
        lora_forward(&t);
        lora_backward(&t);
        float *dx = ops_values(&t.ops, t.device_dx, (size_t)c.n * c.in);
        float *da = ops_floats(&t.ops, t.device_da, (size_t)t.rank * c.in);
        // |x|, |A|, |B|, |g|, |y before| <= 1.5: |h| <= 1.34 * 2.25 in, |y| <= 1.5 + 1.75 * 1.5 r |h|, in (in + r + 8)
        // roundings.
        double y_size = 1.5 + t.group.scale * 1.5 * c.r * 1.34 * 2.25 * c.in;
        double rounding = (c.in + c.r + 8) * UNIT_F32 * y_size * c.n * (c.out[0] + c.out[1] + c.out[2]);
        for (int32_t i = 0; i < c.n * c.in; i += 7)
            check_lora_difference(&t, "dL/dx", &t.x[i], &dx[i], t.dx[i], rounding);
        for (int32_t i = 0; i < t.rank * c.in; i += 11)
            check_lora_difference(&t, "dL/dA", &t.a[i], &da[i], t.da[i], rounding);
        for (int m = 0; m < c.count; m++) {
            float *db = ops_floats(&t.ops, t.device_db[m], (size_t)c.out[m] * c.r);
            for (int32_t i = 0; i < c.out[m] * c.r; i += 2)
                check_lora_difference(&t, "dL/dB", &t.b[m][i], &db[i], t.db[m][i], rounding);
            free(db);
        }
        free(dx);
        free(da);
        lora_free(&t);
    }
}

// The first layer asks for no input gradient; da and db stay what they were with one.
static void lora_without_dx(void **state) {
    (void)state;
    LoraTest t = lora_make(DTYPE_BF16, (LoraCase){2, 70, 64, 8, {64, 16}, 0.05f, false}, 0);
    void *const device_dx = t.device_dx;
    float *da[2];
    for (int pass = 0; pass < 2; pass++) {
        lora_forward(&t);
        CHECK(backend->upload(t.ops.device, t.device_da, t.da, (size_t)t.rank * t.c.in * sizeof(float)));
        t.device_dx = pass ? NULL : device_dx;
        lora_backward(&t);
        da[pass] = ops_floats(&t.ops, t.device_da, (size_t)t.rank * t.c.in);
    }
    t.device_dx = device_dx;
    expect_same_bits("da without dx", da[1], da[0], (size_t)t.rank * t.c.in);
    free(da[0]);
    free(da[1]);
    lora_free(&t);
}

// E[dropout(x)] = x: over 2,000 keys the mean of h is within 6 standard deviations, p/(1-p) sum (x a)^2 / 2000 each.
static void dropout_mean(void **state) {
    (void)state;
    enum { MASKS = 2000 };
    LoraTest t = lora_make(DTYPE_F32, (LoraCase){2, 4, 64, 4, {8, 8}, 0.2f, false}, 0);
    size_t count = (size_t)t.c.n * t.rank;
    double *sum = ops_host(count * sizeof *sum), *want = ops_host(count * sizeof *want);
    double *tolerance = ops_host(count * sizeof *tolerance);
    for (uint64_t key = 1; key <= MASKS; key++) {
        t.dropout.key = key * 0x9E3779B97F4A7C15u;
        lora_forward(&t);
        float *h = ops_values(&t.ops, t.device_h, count);
        for (size_t i = 0; i < count; i++) sum[i] += h[i];
        free(h);
    }
    float *mean = ops_host(count * sizeof *mean);
    for (size_t i = 0; i < count; i++) {
        double variance = 0, size = 0;
        for (int32_t f = 0; f < t.c.in; f++) {
            double term = (double)t.x[i / t.rank * t.c.in + f] * t.a[i % t.rank * t.c.in + f];
            want[i] += term;
            size += fabs(term);
            variance += term * term * t.c.p / (1 - t.c.p) / MASKS;
        }
        mean[i] = (float)(sum[i] / MASKS);
        tolerance[i] = 6 * sqrt(variance) + (t.c.in + 4) * UNIT_F32 * size;
    }
    expect_close("mean of h over masks", mean, want, tolerance, count);
    free(sum);
    free(want);
    free(tolerance);
    free(mean);
    lora_free(&t);
}

// --- LM head ---

typedef struct HeadCase {
    int32_t n, n_grad, dim, vocab;
} HeadCase;

static const HeadCase head_cases[] = {
    {0, 0, 16, 32},      {1, 1, 16, 259},  {9, 0, 32, 259},     {9, 5, 33, 1000},
    {600, 300, 24, 131}, {3, 2, 16, 5000}, {530, 400, 4, 32000}}; // the last: two chunks on a GPU, three on the CPU

typedef struct HeadTest {
    Ops ops;
    HeadCase c;
    float *w, *x;
    int32_t *target;
    void *device_w, *device_x, *device_target, *device_logp, *device_entropy, *device_mean, *device_unit_dx;
    int32_t row; // whose logp head_logp() returns
} HeadTest;

static HeadTest head_make(DType dtype, HeadCase c) {
    const DeviceShapes shapes = {.tokens = c.n, .features = c.dim, .hidden = c.dim, .vocab = c.vocab};
    HeadTest t = {.ops = matrix_open(dtype, 0, shapes), .c = c};
    size_t n = (size_t)c.n, dim = (size_t)c.dim, vocab = (size_t)c.vocab;
    t.w = ops_random(&t.ops, vocab * dim, 0.5f, 61);
    t.x = ops_random(&t.ops, n * dim, 2, 62);
    t.target = ops_host(n * sizeof *t.target);
    for (int32_t i = 0; i < c.n; i++) t.target[i] = i == 0 ? c.vocab - 1 : (i * 37) % c.vocab;
    t.device_w = ops_array(&t.ops, t.w, vocab * dim);
    t.device_x = ops_array(&t.ops, t.x, n * dim);
    t.device_target = ops_upload(&t.ops, t.target, n * sizeof *t.target);
    t.device_logp = ops_upload(&t.ops, NULL, n * sizeof(float));
    t.device_entropy = ops_upload(&t.ops, NULL, n * sizeof(float));
    t.device_mean = ops_upload(&t.ops, NULL, n * sizeof(float));
    t.device_unit_dx = ops_array(&t.ops, NULL, (size_t)c.n_grad * dim);
    return t;
}

static void head_run(HeadTest *t) {
    CHECK(backend->head(t->ops.device, t->device_w, t->device_x, t->device_target, t->device_logp, t->device_entropy,
                        t->device_mean, t->device_unit_dx, t->c.n, t->c.n_grad, t->c.dim, t->c.vocab));
}

static void head_free(HeadTest *t) {
    void *buffers[] = {t->device_w,       t->device_x,    t->device_target, t->device_logp,
                       t->device_entropy, t->device_mean, t->device_unit_dx};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) ops_free(&t->ops, buffers[i]);
    free(t->w);
    free(t->x);
    free(t->target);
    backend->close(t->ops.device);
}

// z of row i in fp64; returns the largest error an fp32 sum may have in it.
static double head_logits_row(const HeadTest *t, int32_t i, double *z) {
    double error = 0;
    for (int32_t v = 0; v < t->c.vocab; v++) {
        double size = 0;
        z[v] = 0;
        for (int32_t f = 0; f < t->c.dim; f++) {
            double term = (double)t->x[(size_t)i * t->c.dim + f] * t->w[(size_t)v * t->c.dim + f];
            z[v] += term;
            size += fabs(term);
        }
        error = fmax(error, (t->c.dim + 1) * UNIT_F32 * size);
    }
    return error;
}

static void check_head(DType dtype, HeadCase c) {
    HeadTest t = head_make(dtype, c);
    head_run(&t);
    size_t n = (size_t)c.n, dim = (size_t)c.dim;
    double *want = ops_host(4 * n * sizeof *want), *tolerance = ops_host(4 * n * sizeof *tolerance);
    double *want_dx = ops_host(n * dim * sizeof *want_dx), *tolerance_dx = ops_host(n * dim * sizeof *tolerance_dx);
    double *z = ops_host((size_t)c.vocab * sizeof *z);
    // A softmax term carries e^d's relative error: d's rounding, exp's own (2e-7), the sum's.
    for (int32_t i = 0; i < c.n; i++) {
        double dz = head_logits_row(&t, i, z), max = -INFINITY, min = INFINITY, sum = 0, moment = 0, total = 0,
               size = 0;
        for (int32_t v = 0; v < c.vocab; v++) max = fmax(max, z[v]), min = fmin(min, z[v]);
        for (int32_t v = 0; v < c.vocab; v++) {
            double e = exp(z[v] - max);
            sum += e;
            moment += e * (z[v] - max);
            total += z[v];
            size += fabs(z[v]);
        }
        double range = max - min, relative = 2 * dz + (2 * range + 40) * UNIT_F32 + 2e-7;
        want[i] = z[t.target[i]] - max - log(sum);
        tolerance[i] = relative + UNIT_F32 * fabs(want[i]) + dz;
        want[n + i] = log(sum) - moment / sum;
        tolerance[n + i] = relative * (2 + 2 * range) + UNIT_F32 * want[n + i];
        want[2 * n + i] = total / c.vocab;
        tolerance[2 * n + i] = dz + 40 * UNIT_F32 * size / c.vocab;
        for (size_t f = 0; i < c.n_grad && f < dim; f++) {
            double gradient = 0, magnitude = 0;
            for (int32_t v = 0; v < c.vocab; v++) {
                double term = ((v == t.target[i]) - exp(z[v] - max) / sum) * t.w[(size_t)v * dim + f];
                gradient += term;
                magnitude += fabs(term);
            }
            want_dx[(size_t)i * dim + f] = gradient;
            // The gradient of the logits may be rounded to T before the product.
            tolerance_dx[(size_t)i * dim + f] =
                ((c.vocab + 2) * UNIT_F32 + 2 * relative + 1.01 * ops_unit(&t.ops)) * magnitude +
                1.01 * ops_unit(&t.ops) * fabs(gradient);
        }
    }
    float *logp = ops_floats(&t.ops, t.device_logp, n), *entropy = ops_floats(&t.ops, t.device_entropy, n);
    float *mean = ops_floats(&t.ops, t.device_mean, n),
          *dx = ops_values(&t.ops, t.device_unit_dx, (size_t)c.n_grad * dim);
    expect_close("head logp", logp, want, tolerance, n);
    expect_close("head entropy", entropy, want + n, tolerance + n, n);
    expect_close("head mean logit", mean, want + 2 * n, tolerance + 2 * n, n);
    expect_close("head unit_dx", dx, want_dx, tolerance_dx, (size_t)c.n_grad * dim);

    void *device_logits = ops_upload(&t.ops, NULL, n * (size_t)c.vocab * sizeof(float));
    CHECK(backend->head_logits(t.ops.device, t.device_w, t.device_x, device_logits, c.n, c.dim, c.vocab));
    float *logits = ops_floats(&t.ops, device_logits, n * (size_t)c.vocab);
    for (int32_t i = 0; i < c.n; i++) {
        double dz = head_logits_row(&t, i, z), *tolerance_z = ops_host((size_t)c.vocab * sizeof(double));
        for (int32_t v = 0; v < c.vocab; v++) tolerance_z[v] = dz + UNIT_F32 * fabs(z[v]) + TINY;
        expect_close("head_logits", logits + (size_t)i * c.vocab, z, tolerance_z, (size_t)c.vocab);
        free(tolerance_z);
    }
    ops_free(&t.ops, device_logits);
    void *hosts[] = {want, tolerance, want_dx, tolerance_dx, z, logp, entropy, mean, dx, logits};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) free(hosts[i]);
    head_free(&t);
}

static void head(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof head_cases / sizeof *head_cases; i++) {
        check_head(DTYPE_F32, head_cases[i]);
        check_head(DTYPE_BF16, head_cases[i]);
    }
}

static double head_logp(void *context) {
    HeadTest *t = context;
    ops_store(&t->ops, t->device_x, t->x, (size_t)t->c.n * t->c.dim);
    head_run(t);
    float *logp = ops_floats(&t->ops, t->device_logp, (size_t)t->c.n);
    double result = logp[t->row];
    free(logp);
    return result;
}

// d^3 logp / dx_f^3 is minus the third central moment of w_f under the softmax: at most (2 * 0.5)^3 / (6 sqrt 3) <
// 0.097 for |w| <= 0.5, so a central difference with step s errs by at most 0.097 s^2 / 6, besides rounding.
static void head_differences(void **state) {
    (void)state;
    const float step = 0.0625f;
    HeadTest t = head_make(DTYPE_F32, (HeadCase){3, 3, 16, 259});
    head_run(&t);
    float *dx = ops_values(&t.ops, t.device_unit_dx, (size_t)t.c.n * t.c.dim);
    double *z = ops_host((size_t)t.c.vocab * sizeof *z);
    for (t.row = 0; t.row < t.c.n; t.row++)
        for (int32_t f = 0; f < t.c.dim; f++) {
            double dz = head_logits_row(&t, t.row, z);
            double want = central_difference(head_logp, &t, &t.x[t.row * t.c.dim + f], step);
            double tolerance = 0.097 * step * step / 6 + (4 * dz + 120 * UNIT_F32 + 4e-7) / step;
            expect_close("d logp / d x", &dx[t.row * t.c.dim + f], &want, &tolerance, 1);
        }
    free(z);
    free(dx);
    head_free(&t);
}

// --- the same bits ---

// A second call gives the same bits, and so does another number of threads for the sums over tokens.
static void same_bits(void **state) {
    (void)state;
    for (int dtype = 0; dtype < 2; dtype++) {
        float *da[3], *db[3], *dx[3], *logp[3], *unit_dx[3];
        LoraCase c = {2, 333, 96, 8, {96, 40}, 0.1f, false};
        HeadCase hc = {40, 20, 32, 515};
        for (int pass = 0; pass < 3; pass++) {
            LoraTest t = lora_make((DType)dtype, c, pass == 2 ? 1 : 0);
            lora_forward(&t);
            lora_backward(&t);
            da[pass] = ops_floats(&t.ops, t.device_da, (size_t)t.rank * c.in);
            db[pass] = ops_floats(&t.ops, t.device_db[0], (size_t)c.out[0] * c.r);
            dx[pass] = ops_values(&t.ops, t.device_dx, (size_t)c.n * c.in);
            lora_free(&t);
            HeadTest head_test = head_make((DType)dtype, hc);
            head_run(&head_test);
            logp[pass] = ops_floats(&head_test.ops, head_test.device_logp, (size_t)hc.n);
            unit_dx[pass] = ops_values(&head_test.ops, head_test.device_unit_dx, (size_t)hc.n_grad * hc.dim);
            head_free(&head_test);
        }
        for (int pass = 1; pass < 3; pass++) {
            expect_same_bits("da", da[pass], da[0], (size_t)c.count * c.r * c.in);
            expect_same_bits("db", db[pass], db[0], (size_t)c.out[0] * c.r);
            expect_same_bits("dx", dx[pass], dx[0], (size_t)c.n * c.in);
        }
        expect_same_bits("logp", logp[1], logp[0], (size_t)hc.n);
        expect_same_bits("unit_dx", unit_dx[1], unit_dx[0], (size_t)hc.n_grad * hc.dim);
        for (int pass = 0; pass < 3; pass++) {
            free(da[pass]);
            free(db[pass]);
            free(dx[pass]);
            free(logp[pass]);
            free(unit_dx[pass]);
        }
    }
}

// --- counts of tokens that change ---

typedef struct Values {
    float *values;
    size_t count;
} Values;

static void append(Values *to, float *values, size_t count) { // and frees `values`
    memcpy(to->values + to->count, values, count * sizeof *values);
    to->count += count;
    free(values);
}

// What LoRA and the layer, forward and backward, make of the first n tokens. The caller frees .values.
static Values products(LoraTest *t, const Linear *layer, int32_t n) {
    const Ops *ops = &t->ops;
    Device *device = ops->device;
    const size_t nx = (size_t)(n * t->c.in), ny = (size_t)(n * layer->out);
    const size_t na = (size_t)(t->rank * t->c.in), nb = (size_t)(layer->out * t->c.r);
    void *y = t->device_y[0], *dy = t->device_dy[0], *dx = t->device_dx;
    Values out = {ops_host((2 * ny + 3 * nx + na + nb) * sizeof(float)), 0};
    ops_store(ops, y, t->y[0], ny);
    ops_store(ops, dx, t->dx, nx);
    CHECK(backend->upload(device, t->device_da, t->da, na * sizeof(float)));
    CHECK(backend->upload(device, t->device_db[0], t->db[0], nb * sizeof(float)));
    CHECK(backend->lora(device, &t->group, &t->dropout, t->device_x, t->device_h, t->device_y, n));
    const void *const *dys = (const void *const *)t->device_dy;
    CHECK(backend->lora_backward(device, &t->group, &t->dropout, dys, t->device_dh, dx, n));
    CHECK(
        backend->lora_weight_backward(device, &t->group, &t->dropout, t->device_x, t->device_h, dys, t->device_dh, n));
    append(&out, ops_values(ops, y, ny), ny);
    append(&out, ops_values(ops, dx, nx), nx);
    append(&out, ops_floats(ops, t->device_da, na), na);
    append(&out, ops_floats(ops, t->device_db[0], nb), nb);
    CHECK(backend->linear(device, layer, 1, t->device_x, y, n));
    append(&out, ops_values(ops, y, ny), ny);
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        CHECK(backend->linear_backward(device, layer, 1, dy, dx, n, accumulate));
        append(&out, ops_values(ops, dx, nx), nx);
    }
    return out;
}

enum { MOST_TOKENS = 384 };

// A device with a LoRA module and a layer of the same shape.
static LoraTest products_open(DType dtype, Linear *layer) {
    const LoraCase c = {1, MOST_TOKENS, 72, 4, {100}, 0, false};
    LoraTest t = lora_make(dtype, c, 0);
    float *w = ops_random(&t.ops, 7200, 1, 71), *bias = ops_random(&t.ops, 100, 1, 72);
    *layer = (Linear){.weight = ops_array(&t.ops, w, 7200), .bias = ops_array(&t.ops, bias, 100), .in = 72, .out = 100};
    free(w);
    free(bias);
    return t;
}

static void products_close(LoraTest *t, const Linear *layer) {
    ops_free(&t->ops, (void *)layer->weight);
    ops_free(&t->ops, (void *)layer->bias);
    lora_free(t);
}

// A product's bits do not depend on what its device computed before, nor on whether it was warmed up: a resumed run
// starts with another batch. The counts lie on and around the ends of ranges that share an algorithm on a GPU.
static void any_order(void **state) {
    (void)state;
    static const int32_t counts[] = {300, 1, 3, 64, 65, 128, 129, 2, 257, MOST_TOKENS, 33, 300, 5};
    for (int dtype = 0; dtype < 2; dtype++)
        for (int warm = 0; warm < 2; warm++) {
            Linear layer, again;
            LoraTest used = products_open((DType)dtype, &layer);
            if (warm && backend->warm != NULL) {
                backend->warm(used.ops.device, MOST_TOKENS);
                free(products(&used, &layer, MOST_TOKENS).values);
                backend->warm(used.ops.device, 0);
            }
            for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
                LoraTest fresh = products_open((DType)dtype, &again);
                Values got = products(&used, &layer, counts[i]), want = products(&fresh, &again, counts[i]);
                expect_same_bits("after other counts", got.values, want.values, want.count);
                products_close(&fresh, &again);
                free(got.values);
                free(want.values);
            }
            products_close(&used, &layer);
        }
}

// --- few rows, as decoding has them ---

enum { FEW = 64, MORE = FEW + 2 }; // the CPU promises: up to FEW rows a row's bits do not depend on the others

static const Sizes few_sizes[] = {{MORE, 1, 1},    {MORE, 7, 3},     {MORE, 16, 4},   {MORE, 31, 5},  {MORE, 64, 1},
                                  {MORE, 129, 18}, {MORE, 259, 130}, {MORE, 320, 33}, {MORE, 77, 515}};

// y of the first n rows, for every n: within the bounds of check_linear, nothing written behind row n, and the bits of
// the same row in FEW rows, on all threads and on one.
static void check_few_rows(DType dtype, Sizes s, bool with_bias, int threads) {
    Ops ops = matrix_open(dtype, threads, (DeviceShapes){.tokens = s.n, .features = s.in > s.out ? s.in : s.out});
    const bool promised = strcmp(backend->name, "cpu") == 0;
    size_t nx = (size_t)s.n * s.in, ny = (size_t)s.n * s.out, nw = (size_t)s.in * s.out;
    float *x = ops_random(&ops, nx, 1, 61), *w = ops_random(&ops, nw + 1, 1, 62);
    float *biases = ops_random(&ops, (size_t)s.out, 1, 63), *before = ops_random(&ops, ny + s.out, 1, 64);
    void *device_w = ops_array(&ops, w, nw + 1), *device_bias = ops_array(&ops, biases, (size_t)s.out);
    void *device_x = ops_array(&ops, x, nx), *device_y = ops_array(&ops, NULL, ny + s.out);
    float *device_logits = ops_upload(&ops, NULL, ny * sizeof *device_logits);
    const char *weight = (char *)device_w + dtype_size(dtype); // off any alignment
    Linear layer = {.weight = weight, .bias = with_bias ? device_bias : NULL, .in = s.in, .out = s.out};
    double *want = ops_host(ny * sizeof *want), *tolerance = ops_host(ny * sizeof *tolerance);
    for (int32_t i = 0; i < s.n; i++)
        for (int32_t o = 0; o < s.out; o++) {
            double sum = with_bias ? biases[o] : 0, size = fabs(sum);
            for (int32_t f = 0; f < s.in; f++) {
                double term = (double)x[(size_t)i * s.in + f] * w[1 + (size_t)o * s.in + f];
                sum += term;
                size += fabs(term);
            }
            want[(size_t)i * s.out + o] = sum;
            tolerance[(size_t)i * s.out + o] = (s.in + 2) * UNIT_F32 * size + ops_unit(&ops) * fabs(sum) * 1.01 + TINY;
        }
    float *y_few = NULL, *logits_few = NULL;
    for (int32_t step = 0; step <= s.n; step++) {
        const int32_t n = step == 0 ? FEW : step; // FEW rows first: what the others are compared with
        const size_t count = (size_t)n * s.out;
        ops_store(&ops, device_y, before, ny + s.out);
        CHECK(backend->linear(ops.device, &layer, 1, device_x, device_y, n));
        CHECK(backend->head_logits(ops.device, weight, device_x, device_logits, n, s.in, s.out));
        float *y = ops_values(&ops, device_y, ny + s.out), *logits = ops_floats(&ops, device_logits, count);
        expect_close("few rows", y, want, tolerance, count);
        expect_same_bits("behind the rows", y + count, before + count, ny + s.out - count);
        if (step == 0) {
            y_few = y;
            logits_few = logits;
            continue;
        }
        if (n <= FEW && promised) {
            expect_same_bits("y in other company", y, y_few, count);
            expect_same_bits("logits in other company", logits, logits_few, count);
        }
        free(y);
        free(logits);
    }
    void *buffers[] = {device_w, device_bias, device_x, device_y, device_logits};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) ops_free(&ops, buffers[i]);
    void *hosts[] = {x, w, biases, before, want, tolerance, y_few, logits_few};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) free(hosts[i]);
    backend->close(ops.device);
}

static void few_rows(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof few_sizes / sizeof *few_sizes; i++)
        for (int dtype = 0; dtype < 2; dtype++) {
            check_few_rows((DType)dtype, few_sizes[i], true, 1);
            check_few_rows((DType)dtype, few_sizes[i], false, 0);
        }
}

// LoRA of a row: the same bits alone, among few and among many.
static void few_lora_rows(void **state) {
    (void)state;
    if (strcmp(backend->name, "cpu") != 0) skip();
    static const int32_t counts[] = {1, 2, 3, 4, 5, 15, 16, 17, 40};
    for (int dtype = 0; dtype < 2; dtype++) {
        LoraCase c = {3, 70, 210, 8, {210, 70, 513}, 0, false};
        LoraTest t = lora_make((DType)dtype, c, 0);
        lora_forward(&t);
        float *y_many[LORA_GROUP_MAX], *h_many = ops_values(&t.ops, t.device_h, (size_t)c.n * t.rank);
        for (int m = 0; m < c.count; m++) y_many[m] = lora_rows(&t, m, t.device_y[m]);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            t.c.n = counts[i];
            for (int m = 0; m < c.count; m++) lora_store_rows(&t, m, t.device_y[m], t.y[m]);
            lora_forward(&t);
            float *h = ops_values(&t.ops, t.device_h, (size_t)counts[i] * t.rank);
            expect_same_bits("h in other company", h, h_many, (size_t)counts[i] * t.rank);
            free(h);
            for (int m = 0; m < c.count; m++) {
                float *y = lora_rows(&t, m, t.device_y[m]);
                expect_same_bits("lora y in other company", y, y_many[m], (size_t)counts[i] * c.out[m]);
                free(y);
            }
        }
        for (int m = 0; m < c.count; m++) free(y_many[m]);
        free(h_many);
        lora_free(&t);
    }
}

int main(int argc, char **argv) {
    backend = ops_backend(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear),
        cmocka_unit_test(layers_of_one_input),
        cmocka_unit_test(lora),
        cmocka_unit_test(lora_differences),
        cmocka_unit_test(lora_without_dx),
        cmocka_unit_test(dropout_mean),
        cmocka_unit_test(head),
        cmocka_unit_test(head_differences),
        cmocka_unit_test(same_bits),
        cmocka_unit_test(any_order),
        cmocka_unit_test(few_rows),
        cmocka_unit_test(few_lora_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
