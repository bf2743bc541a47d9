// The ops on token rows and adapter vectors: values against fp64, gradients against fp64 and central differences, equal
// bits on one thread and two. Tolerances count roundings: `steps` fp32 operations on terms whose absolute values add up
// to `magnitude`, and one rounding to T for each store.
#include "tests/kernels/ops.h"

static const Backend *backend;

static double bound(const Ops *ops, double value, double magnitude, int steps, int stores) {
    double unit = ops->dtype == DTYPE_BF16 ? 0x1p-8 : 0x1p-24;
    return steps * UNIT_F32 * magnitude + stores * unit * fabs(value) * 1.01 + TINY;
}

typedef void (*OpTest)(const Ops *ops);
// On both types, and with one thread and three.
static void on_devices(OpTest test) {
    for (int dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++)
        for (int threads = 1; threads <= 3; threads += 2) {
            Ops ops = ops_open(backend, (DType)dtype, threads);
            test(&ops);
            backend->close(ops.device);
        }
}

static const int32_t ROWS[] = {0, 1, 7, 150}; // 150 rows of 515 are shared among threads
// 16, 528 and 2,600: whole vectors; 528 several a lane of a warp, 2,600 more than a lane holds
static const int32_t DIMS[] = {1, 16, 37, 515, 528, 2600};
#define EACH_SHAPE(n, dim)                                                                                             \
    for (int n##_i = 0, n = 0; n##_i < 4 && (n = ROWS[n##_i], true); n##_i++)                                          \
        for (int dim##_i = 0, dim = 0; dim##_i < 6 && (dim = DIMS[dim##_i], true); dim##_i++)

// --- rows that are moved or scaled
static void check_moves(const Ops *ops) {
    enum { VOCAB = 300 };
    EACH_SHAPE(n, dim) {
        size_t count = (size_t)n * dim;
        float *table = ops_random(ops, (size_t)VOCAB * dim, 2, 1), *factor = ops_random(ops, (size_t)n, 3, 2);
        int32_t *token = ops_host((size_t)n * sizeof *token);
        for (int32_t i = 0; i < n; i++) token[i] = (i * 7 + 3) % VOCAB; // distinct: 7 and 300 share no factor
        float *picked = ops_host(count * sizeof *picked),
              *scattered = ops_host((size_t)VOCAB * dim * sizeof *scattered);
        double *scaled = ops_host(count * sizeof *scaled), *tolerance = ops_host(count * sizeof *tolerance);
        for (int32_t i = 0; i < n; i++)
            for (int32_t j = 0; j < dim; j++) {
                size_t at = (size_t)i * dim + j;
                picked[at] = table[(size_t)token[i] * dim + j];
                scattered[(size_t)token[i] * dim + j] = picked[at];
                scaled[at] = (double)picked[at] * factor[i];
                tolerance[at] = bound(ops, scaled[at], fabs(scaled[at]), 1, 1);
            }
        void *d_table = ops_array(ops, table, (size_t)VOCAB * dim), *d_x = ops_array(ops, NULL, count);
        void *d_y = ops_array(ops, NULL, count), *d_to = ops_array(ops, NULL, (size_t)VOCAB * dim);
        int32_t *d_token = ops_upload(ops, token, (size_t)n * sizeof *token);
        float *d_factor = ops_upload(ops, factor, (size_t)n * sizeof *factor);
        CHECK(backend->embed(ops->device, d_token, d_table, d_x, n, dim));
        CHECK(backend->scale_rows(ops->device, d_x, d_factor, d_y, n, dim));
        CHECK(backend->scatter_rows(ops->device, d_x, d_token, d_to, n, dim));
        float *x = ops_values(ops, d_x, count), *y = ops_values(ops, d_y, count);
        float *to = ops_values(ops, d_to, (size_t)VOCAB * dim);
        expect_same_bits("embed", x, picked, count);
        expect_same_bits("scatter_rows", to, scattered, (size_t)VOCAB * dim);
        expect_close("scale_rows", y, scaled, tolerance, count);
        ops_free(ops, d_table), ops_free(ops, d_x), ops_free(ops, d_y), ops_free(ops, d_to);
        ops_free(ops, d_token), ops_free(ops, d_factor);
        free(table), free(factor), free(token), free(picked), free(scattered), free(scaled), free(tolerance);
        free(x), free(y), free(to);
    }
}
static void test_moves(void **state) {
    (void)state;
    on_devices(check_moves);
}

// --- RMSNorm
static void check_rmsnorm(const Ops *ops) {
    const float eps = 1e-5f;
    EACH_SHAPE(n, dim) {
        for (int with_delta = 0; with_delta <= 1; with_delta++) {
            size_t count = (size_t)n * dim;
            float *x = ops_random(ops, count, 2, 3), *delta = ops_random(ops, count, 2, 4);
            float *w = ops_random(ops, (size_t)dim, 1.5f, 5), *dy = ops_random(ops, count, 1, 6);
            float *dx0 = ops_random(ops, count, 1, 7);
            void *d_x = ops_array(ops, x, count), *d_delta = ops_array(ops, delta, count),
                 *d_sum = ops_array(ops, x, count);
            void *d_w = ops_array(ops, w, (size_t)dim), *d_y = ops_array(ops, NULL, count),
                 *d_dy = ops_array(ops, dy, count);
            void *d_dx = ops_array(ops, dx0, count);
            float *d_rstd = ops_upload(ops, NULL, (size_t)n * sizeof(float));
            CHECK(backend->rmsnorm(ops->device, d_x, with_delta ? d_delta : NULL, d_w, eps, with_delta ? d_sum : NULL,
                                   d_y, d_rstd, n, dim));
            void *d_again = ops_array(ops, NULL, count), *d_dx_alone = ops_array(ops, dx0, count);
            CHECK(backend->rmsnorm_backward(ops->device, d_dy, d_sum, d_w, d_rstd, d_dx, d_again, n, dim));
            CHECK(backend->rmsnorm_backward(ops->device, d_dy, d_sum, d_w, d_rstd, d_dx_alone, NULL, n, dim));
            float *again = ops_values(ops, d_again, count), *dx_alone = ops_values(ops, d_dx_alone, count);
            float *sum = ops_values(ops, d_sum, count), *y = ops_values(ops, d_y, count),
                  *dx = ops_values(ops, d_dx, count);
            expect_same_bits("y once more", again, y, count);
            expect_same_bits("dx without y", dx_alone, dx, count);
            ops_free(ops, d_again), ops_free(ops, d_dx_alone), free(again), free(dx_alone);
            float *rstd = ops_floats(ops, d_rstd, (size_t)n);
            double *want_sum = ops_host(count * 8), *want_y = ops_host(count * 8), *want_dx = ops_host(count * 8);
            double *tol_sum = ops_host(count * 8), *tol_y = ops_host(count * 8), *tol_dx = ops_host(count * 8);
            double *want_rstd = ops_host((size_t)n * 8), *tol_rstd = ops_host((size_t)n * 8);
            for (int32_t i = 0; i < n; i++) {
                size_t row = (size_t)i * dim;
                double squares = 0, dot = 0, dot_magnitude = 0;
                for (int32_t j = 0; j < dim; j++) squares += (double)sum[row + j] * sum[row + j];
                double r = 1 / sqrt(squares / dim + eps);
                want_rstd[i] = r;
                tol_rstd[i] = (dim + 8) * UNIT_F32 * r;
                for (int32_t j = 0; j < dim; j++) {
                    double term = (double)dy[row + j] * w[j] * sum[row + j] * r / dim;
                    dot += term;
                    dot_magnitude += fabs(term);
                }
                for (int32_t j = 0; j < dim; j++) {
                    size_t at = row + j;
                    want_sum[at] = (double)x[at] + (with_delta ? delta[at] : 0);
                    tol_sum[at] = bound(ops, want_sum[at], 0, 0, with_delta);
                    want_y[at] = sum[at] * r * w[j];
                    tol_y[at] = bound(ops, want_y[at], fabs(want_y[at]), dim + 10, 2);
                    double wdy = (double)dy[at] * w[j], xhat = sum[at] * r;
                    want_dx[at] = dx0[at] + r * (wdy - xhat * dot);
                    double magnitude = fabs(dx0[at]) + r * (fabs(wdy) + fabs(xhat) * dot_magnitude);
                    tol_dx[at] = bound(ops, want_dx[at], magnitude, 4 * dim + 20, 1);
                }
            }
            expect_close("rmsnorm sum", sum, want_sum, tol_sum, count);
            expect_close("rmsnorm rstd", rstd, want_rstd, tol_rstd, (size_t)n);
            expect_close("rmsnorm y", y, want_y, tol_y, count);
            expect_close("rmsnorm_backward", dx, want_dx, tol_dx, count);
            ops_free(ops, d_x), ops_free(ops, d_delta), ops_free(ops, d_sum), ops_free(ops, d_w), ops_free(ops, d_y);
            ops_free(ops, d_dy), ops_free(ops, d_dx), ops_free(ops, d_rstd);
            free(x), free(delta), free(w), free(dy), free(dx0), free(sum), free(y), free(dx), free(rstd),
                free(want_sum);
            free(want_y), free(want_dx), free(tol_sum), free(tol_y), free(tol_dx), free(want_rstd), free(tol_rstd);
        }
    }
}
static void test_rmsnorm(void **state) {
    (void)state;
    on_devices(check_rmsnorm);
}

// --- SwiGLU

// T[n, 2 * width]: a row of a, then one of b.
static void *side_by_side(const Ops *ops, const float *a, const float *b, int32_t n, int32_t width) {
    float *both = ops_host(2 * (size_t)n * width * sizeof *both);
    for (int32_t row = 0; row < n; row++) {
        memcpy(both + 2 * (size_t)row * width, a + (size_t)row * width, (size_t)width * sizeof *both);
        memcpy(both + (2 * (size_t)row + 1) * width, b + (size_t)row * width, (size_t)width * sizeof *both);
    }
    void *buffer = ops_array(ops, both, 2 * (size_t)n * width);
    free(both);
    return buffer;
}

static void check_swiglu(const Ops *ops) {
    static const struct { int32_t n, width; } SHAPES[] = {{0, 8}, {1, 1}, {1, 63}, {125, 8}, {130, 528}, {7, 1001}};
    for (size_t c = 0; c < sizeof SHAPES / sizeof *SHAPES; c++) {
        const int32_t n = SHAPES[c].n, width = SHAPES[c].width;
        size_t count = (size_t)n * width;
        float *gate = ops_random(ops, count, 12, 8), *up = ops_random(ops, count, 2, 9),
              *dact = ops_random(ops, count, 1, 10);
        if (count > 100) { // e^-gate overflows, or vanishes
            gate[3] = ops_round(ops, -95.0f);
            gate[4] = ops_round(ops, 200.0f);
            gate[5] = ops_round(ops, -3e38f);
        }
        void *d_both = side_by_side(ops, gate, up, n, width), *d_dact = ops_array(ops, dact, count);
        void *d_act = ops_array(ops, NULL, count), *d_again = ops_array(ops, NULL, count);
        void *d_other = ops_array(ops, NULL, 2 * count);
        CHECK(backend->swiglu(ops->device, d_both, d_act, n, width));
        CHECK(backend->swiglu_backward(ops->device, d_both, d_dact, d_other, NULL, n, width));
        CHECK(backend->swiglu_backward(ops->device, d_both, d_dact, d_both, d_again, n, width)); // in place
        float *act = ops_values(ops, d_act, count), *again = ops_values(ops, d_again, count);
        float *gradients = ops_values(ops, d_both, 2 * count), *other = ops_values(ops, d_other, 2 * count);
        expect_same_bits("act once more", again, act, count);
        expect_same_bits("swiglu_backward elsewhere", other, gradients, 2 * count);
        float *dgate = ops_host(count * 4), *dup = ops_host(count * 4);
        for (size_t i = 0; i < count; i++) {
            dgate[i] = gradients[i + i / width * width];
            dup[i] = gradients[i + (i / width + 1) * width];
        }
        double *want[3], *tolerance[3];
        for (int i = 0; i < 3; i++) want[i] = ops_host(count * 8), tolerance[i] = ops_host(count * 8);
        for (size_t i = 0; i < count; i++) {
            double g = gate[i], s = 1 / (1 + exp(-g)), u = up[i], d = dact[i];
            want[0][i] = g * s * u;
            want[1][i] = d * u * s * (1 + g * (1 - s));
            want[2][i] = d * g * s;
            // The reduction of the exponent leaves up to |g| / 16 units in e^-g, and 1 - s loses what s carries. A
            // sigmoid below e^-88.4 is 0.
            const double least = 4e-37;
            double steps = 12 + fabs(g) / 16;
            tolerance[0][i] = bound(ops, want[0][i], steps * fabs(want[0][i]), 1, 1) + least;
            tolerance[1][i] = bound(ops, want[1][i], steps * fabs(d * u * s) * (1 + fabs(g)), 1, 1) + least;
            tolerance[2][i] = bound(ops, want[2][i], steps * fabs(want[2][i]), 1, 1) + least;
        }
        expect_close("swiglu", act, want[0], tolerance[0], count);
        expect_close("swiglu_backward dgate", dgate, want[1], tolerance[1], count);
        expect_close("swiglu_backward dup", dup, want[2], tolerance[2], count);
        for (int i = 0; i < 3; i++) free(want[i]), free(tolerance[i]);
        ops_free(ops, d_both), ops_free(ops, d_dact), ops_free(ops, d_act), ops_free(ops, d_again);
        ops_free(ops, d_other), free(again), free(gradients), free(other);
        free(gate), free(up), free(dact), free(act), free(dgate), free(dup);
    }
}
static void test_swiglu(void **state) {
    (void)state;
    on_devices(check_swiglu);
}

// --- scaled sums
static void check_scale_add(const Ops *ops) {
    static const size_t COUNTS[] = {0, 1, 63, 1000, 70001};
    const float factor = 0.22f;
    for (int c = 0; c < 5; c++)
        for (int alias = 0; alias < 4; alias++) { // apart; y is x; y is base; no base
            const size_t count = COUNTS[c];
            float *x = ops_random(ops, count, 2, 41), *base = ops_random(ops, count, 2, 42);
            void *d_x = ops_array(ops, x, count), *d_base = ops_array(ops, base, count);
            void *d_y = alias == 1 ? d_x : alias == 2 ? d_base : ops_array(ops, NULL, count);
            CHECK(backend->scale_add(ops->device, d_x, factor, alias == 3 ? NULL : d_base, d_y, count));
            float *y = ops_values(ops, d_y, count);
            double *want = ops_host(count * sizeof *want), *tolerance = ops_host(count * sizeof *tolerance);
            for (size_t i = 0; i < count; i++) {
                // In bf16 the product's rounding decides the sum's; in fp32 the two may be one.
                const double product = ops_round(ops, x[i] * factor);
                want[i] = alias == 3 ? product : product + base[i];
                tolerance[i] = bound(ops, want[i], fabs(product) + fabs(want[i]), 1, 1);
            }
            expect_close("scale_add", y, want, tolerance, count);
            if (alias == 0 || alias == 3) ops_free(ops, d_y);
            ops_free(ops, d_x), ops_free(ops, d_base);
            free(x), free(base), free(y), free(want), free(tolerance);
        }
}
static void test_scale_add(void **state) {
    (void)state;
    on_devices(check_scale_add);
}

// --- RoPE
// Queries of the tokens from `first` on, and keys of all.
static void check_rope(const Ops *ops) {
    enum { POSITIONS = 50, HEADS = 5, KV_HEADS = 2 };
    static const int32_t HEAD_DIM[] = {2, 16, 24, 64, 80, 128};
    for (int c = 0; c < 6; c++)
        for (int32_t n = 0; n <= 200; n += 100) {
            const int32_t head_dim = HEAD_DIM[c], half = head_dim / 2, first = c % 2 * n / 4;
            float *cosine = ops_host((size_t)POSITIONS * half * 4), *sine = ops_host((size_t)POSITIONS * half * 4);
            for (int p = 0; p < POSITIONS; p++)
                for (int32_t j = 0; j < half; j++) {
                    double angle = p * pow(10000.0, -2.0 * j / head_dim);
                    cosine[p * half + j] = (float)cos(angle);
                    sine[p * half + j] = (float)sin(angle);
                }
            int32_t *position = ops_host((size_t)n * 4);
            for (int32_t i = 0; i < n; i++) position[i] = (i * 13) % POSITIONS;
            float *d_cos = ops_upload(ops, cosine, (size_t)POSITIONS * half * 4);
            float *d_sin = ops_upload(ops, sine, (size_t)POSITIONS * half * 4);
            int32_t *d_position = ops_upload(ops, position, (size_t)n * 4);
            const size_t counts[2] = {(size_t)(n - first) * HEADS * head_dim, (size_t)n * KV_HEADS * head_dim};
            float *x[2] = {ops_random(ops, counts[0], 2, 11), ops_random(ops, counts[1], 2, 12)};
            for (int sign = -1; sign <= 1; sign += 2) {
                void *d_x[2] = {ops_array(ops, x[0], counts[0]), ops_array(ops, x[1], counts[1])};
                CHECK(backend->rope(ops->device, d_x[0], d_x[1], d_position, d_cos, d_sin, first, n, HEADS, KV_HEADS,
                                    head_dim, sign));
                for (int which = 0; which < 2; which++) {
                    const int32_t heads = which ? KV_HEADS : HEADS, from = which ? 0 : first;
                    double *want = ops_host(counts[which] * 8), *tolerance = ops_host(counts[which] * 8);
                    for (int32_t row = 0; row < (n - from) * heads; row++)
                        for (int32_t j = 0; j < half; j++) {
                            size_t low = (size_t)row * head_dim + j, high = low + half;
                            int32_t angle = position[from + row / heads] * half + j;
                            double a = x[which][low], b = x[which][high], co = cosine[angle];
                            double si = sign * (double)sine[angle];
                            want[low] = a * co - b * si;
                            want[high] = b * co + a * si;
                            tolerance[low] = bound(ops, want[low], fabs(a * co) + fabs(b * si), 2, 1);
                            tolerance[high] = bound(ops, want[high], fabs(b * co) + fabs(a * si), 2, 1);
                        }
                    float *y = ops_values(ops, d_x[which], counts[which]);
                    expect_close(which ? "rope of k" : "rope of q", y, want, tolerance, counts[which]);
                    ops_free(ops, d_x[which]), free(y), free(want), free(tolerance);
                }
            }
            ops_free(ops, d_cos), ops_free(ops, d_sin), ops_free(ops, d_position);
            free(x[0]), free(x[1]), free(cosine), free(sine), free(position);
        }
}
static void test_rope(void **state) {
    (void)state;
    on_devices(check_rope);
}

// --- central differences: f = sum over outputs of direction * op(x), fp32
typedef struct Probe {
    Ops ops;
    int op; // 0 rmsnorm, 1 swiglu, 2 rope
    int32_t n, dim;
    float *x, *other, *direction; // other: w, or up
    int32_t *position;            // of the device, as cos and sin
    float *cos, *sin;
} Probe;

static double probe_value(void *context) {
    const Probe *p = context;
    const Ops *ops = &p->ops;
    size_t count = (size_t)p->n * p->dim;
    void *x = ops_array(ops, p->x, count), *y = ops_array(ops, NULL, count), *other = ops_array(ops, p->other, count);
    float *rstd = ops_upload(ops, NULL, (size_t)p->n * 4);
    if (p->op == 0) CHECK(backend->rmsnorm(ops->device, x, NULL, other, 1e-5f, NULL, y, rstd, p->n, p->dim));
    if (p->op == 1) {
        void *both = side_by_side(ops, p->x, p->other, p->n, p->dim);
        CHECK(backend->swiglu(ops->device, both, y, p->n, p->dim));
        ops_free(ops, both);
    }
    if (p->op == 2) CHECK(backend->rope(ops->device, x, NULL, p->position, p->cos, p->sin, 0, p->n, 1, 0, p->dim, 1));
    float *value = ops_values(ops, p->op == 2 ? x : y, count);
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += (double)value[i] * p->direction[i];
    ops_free(ops, x), ops_free(ops, y), ops_free(ops, other), ops_free(ops, rstd), free(value);
    return sum;
}

static void test_central_differences(void **state) {
    (void)state;
    enum { N = 3, DIM = 20, COUNT = N * DIM };
    const int32_t position[N] = {1, 0, 2};
    Probe p = {.ops = ops_open(backend, DTYPE_F32, 1), .n = N, .dim = DIM};
    const Ops *ops = &p.ops;
    p.position = ops_upload(ops, position, sizeof position);
    p.x = ops_random(ops, COUNT, 1, 12);
    p.other = ops_random(ops, COUNT, 1, 13);
    p.direction = ops_random(ops, COUNT, 1, 14);
    float *cosine = ops_random(ops, N * DIM / 2, 1, 15), *sine = ops_random(ops, N * DIM / 2, 1, 16);
    p.cos = ops_array(ops, cosine, N * DIM / 2);
    p.sin = ops_array(ops, sine, N * DIM / 2);
    for (p.op = 0; p.op < 3; p.op++) {
        void *x = ops_array(ops, p.x, COUNT), *other = ops_array(ops, p.other, COUNT), *y = ops_array(ops, NULL, COUNT);
        void *dy = ops_array(ops, p.direction, COUNT), *dx = ops_array(ops, NULL, COUNT);
        float *rstd = ops_upload(ops, NULL, N * 4);
        if (p.op == 0) {
            CHECK(backend->rmsnorm(ops->device, x, NULL, other, 1e-5f, NULL, y, rstd, N, DIM));
            CHECK(backend->rmsnorm_backward(ops->device, dy, x, other, rstd, dx, NULL, N, DIM));
        }
        if (p.op == 2) CHECK(backend->rope(ops->device, dy, NULL, p.position, p.cos, p.sin, 0, N, 1, 0, DIM, -1));
        float *got = ops_values(ops, p.op == 2 ? dy : dx, COUNT);
        if (p.op == 1) { // a row is dgate, then dup: of x, and of other
            void *both = side_by_side(ops, p.x, p.other, N, DIM);
            CHECK(backend->swiglu_backward(ops->device, both, dy, both, NULL, N, DIM));
            float *gradients = ops_values(ops, both, 2 * COUNT);
            for (int row = 0; row < N; row++) memcpy(got + row * DIM, gradients + 2 * row * DIM, DIM * sizeof *got);
            ops_free(ops, both), free(gradients);
        }
        double want[COUNT], tolerance[COUNT];
        // Step h: the third derivative leaves h^2/6 |f'''|, at most about 40 |direction| sum for RMSNorm of rows whose
        // rstd is below 2.5; the roundings of f, 10 units on values that add up to at most DIM / 2 a row, leave their
        // quotient by h.
        const double h = 0x1p-8;
        for (int i = 0; i < COUNT; i++) {
            want[i] = central_difference(probe_value, &p, &p.x[i], (float)h);
            tolerance[i] = h * h / 6 * 40 + 10 * UNIT_F32 * (DIM / 2) / h;
        }
        expect_close(p.op == 0 ? "d rmsnorm" : p.op == 1 ? "d swiglu" : "d rope", got, want, tolerance, COUNT);
        ops_free(ops, x), ops_free(ops, other), ops_free(ops, y), ops_free(ops, dy), ops_free(ops, dx);
        ops_free(ops, rstd), free(got);
    }
    ops_free(ops, p.position), ops_free(ops, p.cos), ops_free(ops, p.sin);
    free(p.x), free(p.other), free(p.direction), free(cosine), free(sine);
    backend->close(p.ops.device);
}

// --- adapter vectors
static void check_cast(const Ops *ops) {
    static const size_t COUNTS[] = {0, 5, 70003};
    for (int c = 0; c < 3; c++) {
        size_t count = COUNTS[c];
        float *x = ops_host(count * 4), *want = ops_host(count * 4);
        Rng rng = rng_make(17, 0, 0);
        for (size_t i = 0; i < count; i++) {
            uint32_t bits = rng_u32(&rng);
            if (i % 3 == 0) bits = (bits & 0xFFFF0000u) | 0x8000u;        // halfway
            if ((bits & 0x7F800000u) == 0x7F800000u) bits &= 0xBFFFFFFFu; // finite
            memcpy(&x[i], &bits, 4);
            want[i] = ops_round(ops, x[i]);
        }
        float *d_x = ops_upload(ops, x, count * 4);
        void *d_to = ops_array(ops, NULL, count);
        CHECK(backend->cast(ops->device, d_x, d_to, count));
        float *got = ops_values(ops, d_to, count);
        expect_same_bits("cast", got, want, count);
        ops_free(ops, d_x), ops_free(ops, d_to), free(x), free(want), free(got);
    }
    float special[20] = {INFINITY, -INFINITY, NAN, -NAN, 0.0f, -0.0f};
    uint32_t low_payload = 0x7FFFFFFFu; // rounding its bits would give -0
    memcpy(&special[6], &low_payload, 4);
    float *d_x = ops_upload(ops, special, sizeof special);
    void *d_to = ops_array(ops, NULL, 20);
    CHECK(backend->cast(ops->device, d_x, d_to, 20));
    float *got = ops_values(ops, d_to, 20);
    assert_true(got[0] == INFINITY && got[1] == -INFINITY && isnan(got[2]) && isnan(got[3]) && isnan(got[6]));
    assert_true(got[4] == 0 && !signbit(got[4]) && got[5] == 0 && signbit(got[5]));
    ops_free(ops, d_x), ops_free(ops, d_to), free(got);
}
static void test_cast(void **state) {
    (void)state;
    on_devices(check_cast);
}

static void test_sum_squares(void **state) {
    (void)state;
    static const size_t COUNTS[] = {0, 1, 255, 257, 100001};
    double of_one_thread[5];
    for (int threads = 1; threads <= 3; threads++) {
        Ops ops = ops_open(backend, DTYPE_F32, threads);
        for (int c = 0; c < 5; c++) {
            float *x = ops_random(&ops, COUNTS[c], 3, 18);
            float *d_x = ops_upload(&ops, x, COUNTS[c] * 4);
            long double want = 0;
            for (size_t i = 0; i < COUNTS[c]; i++) want += (long double)x[i] * x[i];
            double got = NAN;
            CHECK(backend->sum_squares(ops.device, d_x, COUNTS[c], &got));
            double tolerance = (double)(COUNTS[c] + 1) * 0x1p-53 * (double)want; // a rounding an addend
            if (!(fabs((double)(got - want)) <= tolerance)) fail_msg("sum_squares of %zu: %.17g", COUNTS[c], got);
            if (threads == 1) of_one_thread[c] = got;
            assert_memory_equal(&got, &of_one_thread[c], sizeof got);
            ops_free(&ops, d_x), free(x);
        }
        backend->close(ops.device);
    }
}

static void test_adamw(void **state) {
    (void)state;
    enum { COUNT = 40011, STEPS = 10 };
    Ops ops = ops_open(backend, DTYPE_F32, 2);
    AdamW options = {.learning_rate = 1e-2f,
                     .beta1 = 0.9f,
                     .beta2 = 0.999f,
                     .epsilon = 1e-8f,
                     .weight_decay = 0.1f,
                     .gradient_scale = 0.37f};
    float *x0 = ops_random(&ops, COUNT, 1, 19);
    float *d_x = ops_upload(&ops, x0, COUNT * 4), *d_m = ops_upload(&ops, NULL, COUNT * 4);
    float *d_v = ops_upload(&ops, NULL, COUNT * 4);
    double *x = ops_host(COUNT * 8), *m = ops_host(COUNT * 8), *v = ops_host(COUNT * 8), *tol_x = ops_host(COUNT * 8);
    double *tol_m = ops_host(COUNT * 8), *tol_v = ops_host(COUNT * 8), *size_m = ops_host(COUNT * 8);
    for (int i = 0; i < COUNT; i++) x[i] = x0[i];
    for (int step = 1; step <= STEPS; step++) {
        float *g = ops_random(&ops, COUNT, step == 4 ? 1e-6f : 1.0f, 100 + (uint32_t)step);
        if (step == 1) g[0] = 0; // 0 / (0 + epsilon)
        float *d_g = ops_upload(&ops, g, COUNT * 4);
        options.step = step;
        CHECK(backend->adamw(ops.device, &options, d_x, d_m, d_v, d_g, COUNT));
        double b1 = options.beta1, b2 = options.beta2, lr = options.learning_rate;
        for (int i = 0; i < COUNT; i++) {
            double gi = (double)g[i] * options.gradient_scale;
            x[i] *= 1 - lr * options.weight_decay;
            m[i] = b1 * m[i] + (1 - b1) * gi;
            v[i] = b2 * v[i] + (1 - b2) * gi * gi;
            double denom = sqrt(v[i]) / sqrt(1 - pow(b2, step)) + options.epsilon;
            x[i] -= lr / (1 - pow(b1, step)) * m[i] / denom;
            // m can cancel, so its error is measured against what was added up; each step rounds about 4 times.
            size_m[i] = b1 * size_m[i] + (1 - b1) * fabs(gi);
            tol_m[i] = b1 * tol_m[i] + 6 * UNIT_F32 * (size_m[i] + fabs(gi)) + TINY;
            tol_v[i] = (4 * step + 4) * UNIT_F32 * v[i] + TINY;
            tol_x[i] += 3 * UNIT_F32 * fabs(x[i]) +
                        lr / (1 - pow(b1, step)) * (tol_m[i] + (2 * step + 8) * UNIT_F32 * size_m[i]) / denom + TINY;
        }
        ops_free(&ops, d_g), free(g);
    }
    float *got_x = ops_floats(&ops, d_x, COUNT), *got_m = ops_floats(&ops, d_m, COUNT),
          *got_v = ops_floats(&ops, d_v, COUNT);
    expect_close("adamw m", got_m, m, tol_m, COUNT);
    expect_close("adamw v", got_v, v, tol_v, COUNT);
    expect_close("adamw x", got_x, x, tol_x, COUNT);
    CHECK(backend->adamw(ops.device, &options, d_x, d_m, d_v, d_m, 0));
    ops_free(&ops, d_x), ops_free(&ops, d_m), ops_free(&ops, d_v);
    free(x0), free(x), free(m), free(v), free(tol_x), free(tol_m), free(tol_v), free(size_m), free(got_x), free(got_m),
        free(got_v);
    backend->close(ops.device);
}

// One row's bits alone, among others, and on more threads.
static void test_rows_keep_bits(void **state) {
    (void)state;
    enum { N = 300, DIM = 331 };
    for (int dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        float *first = NULL;
        for (int threads = 1; threads <= 3; threads++) {
            Ops ops = ops_open(backend, (DType)dtype, threads);
            float *x = ops_random(&ops, N * DIM, 2, 20), *w = ops_random(&ops, DIM, 1, 21);
            void *d_x = ops_array(&ops, x, N * DIM), *d_w = ops_array(&ops, w, DIM),
                 *d_y = ops_array(&ops, NULL, N * DIM);
            void *d_row = ops_array(&ops, x + 77 * DIM, DIM), *d_one = ops_array(&ops, NULL, DIM);
            float *d_rstd = ops_upload(&ops, NULL, N * 4);
            CHECK(backend->rmsnorm(ops.device, d_x, NULL, d_w, 1e-5f, NULL, d_y, d_rstd, N, DIM));
            CHECK(backend->rmsnorm(ops.device, d_row, NULL, d_w, 1e-5f, NULL, d_one, d_rstd, 1, DIM));
            float *y = ops_values(&ops, d_y, N * DIM), *one = ops_values(&ops, d_one, DIM);
            expect_same_bits("row alone", one, y + 77 * DIM, DIM);
            void *d_both = side_by_side(&ops, y, x, N, DIM),
                 *d_both_of_row = side_by_side(&ops, one, x + 77 * DIM, 1, DIM);
            free(y), free(one);
            CHECK(backend->swiglu(ops.device, d_both, d_y, N, DIM));
            CHECK(backend->swiglu(ops.device, d_both_of_row, d_one, 1, DIM));
            y = ops_values(&ops, d_y, N * DIM), one = ops_values(&ops, d_one, DIM);
            expect_same_bits("row alone", one, y + 77 * DIM, DIM);
            ops_free(&ops, d_both), ops_free(&ops, d_both_of_row);
            if (first)
                expect_same_bits("threads", y, first, N * DIM), free(y);
            else
                first = y;
            ops_free(&ops, d_x), ops_free(&ops, d_w), ops_free(&ops, d_y), ops_free(&ops, d_row), ops_free(&ops, d_one);
            ops_free(&ops, d_rstd), free(x), free(w), free(one);
            backend->close(ops.device);
        }
        free(first);
    }
}

// Weights of many parts, each unlike the others, that are copied while the ones before them may still be on their way;
// pieces that are mapped together lie one after the other where they are copied.
static void test_map(void **state) {
    (void)state;
    enum { COUNT = 9 << 20, FIRST = 1001 };
    Ops ops = ops_open(backend, DTYPE_F32, 1);
    float *weights = ops_host(COUNT * sizeof *weights), *got = ops_host(COUNT * sizeof *got);
    for (int i = 0; i < COUNT; i++) weights[i] = (float)i;
    const void *mapped[2];
    const HostPiece pieces[2] = {{weights, FIRST * sizeof *weights, &mapped[0]},
                                 {weights + FIRST, (COUNT - FIRST) * sizeof *weights, &mapped[1]}};
    CHECK(backend->map(ops.device, pieces, 2));
    assert_ptr_equal(mapped[1], (const float *)mapped[0] + FIRST);
    CHECK(backend->download(ops.device, got, mapped[0], COUNT * sizeof *got));
    expect_same_bits("mapped", got, weights, COUNT);
    backend->close(ops.device);
    free(weights), free(got);
}

int main(int argc, char **argv) {
    backend = ops_backend(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_moves),
        cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_swiglu),
        cmocka_unit_test(test_scale_add),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_central_differences),
        cmocka_unit_test(test_cast),
        cmocka_unit_test(test_sum_squares),
        cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_rows_keep_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
