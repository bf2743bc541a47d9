// Attention over segment forests: forward and backward against an fp64 definition that scores every visible key,
// central differences, and equal bits whatever is packed beside a row, however many threads run and where a range
// starts.
#include "tests/kernels/ops.h"

static const Backend *backend;

static bool on_gpu(void) {
    return strcmp(backend->name, "cuda") == 0;
}

enum { SEGMENTS_MAX = 16, ROWS_MAX = 1200 };

// A forest with its query rows, and the arrays of one call.
typedef struct Case {
    Attention shape;
    Segment segment[SEGMENTS_MAX];
    QueryRange query[SEGMENTS_MAX];
    int32_t key_rows, query_rows;
    float *q, *k, *v, *dout;
} Case;

typedef struct Result {
    float *out, *lse, *dq, *dk, *dv;
} Result;

static size_t query_count(const Case *c) {
    return (size_t)c->query_rows * c->shape.heads * c->shape.head_dim;
}
static size_t key_count(const Case *c) {
    return (size_t)c->key_rows * c->shape.kv_heads * c->shape.head_dim;
}
static size_t lse_count(const Case *c) {
    return (size_t)c->query_rows * c->shape.heads;
}

static void point_shape(Case *c) {
    c->shape.segments = c->segment;
    c->shape.queries = c->query;
    c->shape.scale = 1.0f / sqrtf((float)c->shape.head_dim);
}

static void fill_values(const Ops *ops, Case *c, uint32_t seed) {
    c->q = ops_random(ops, query_count(c), 3, seed);
    c->k = ops_random(ops, key_count(c), 1, seed + 1);
    c->v = ops_random(ops, key_count(c), 1, seed + 2);
    c->dout = ops_random(ops, query_count(c), 1, seed + 3);
}

// A random forest up to four levels deep. When subset, only some tokens have queries, and some ranges start late; a few
// key rows belong to nobody.
static Case random_case(const Ops *ops, int heads, int kv_heads, int head_dim, int segments, int length, bool subset,
                        uint32_t seed) {
    Case c = {.shape = {.heads = heads, .kv_heads = kv_heads, .head_dim = head_dim, .segment_count = segments}};
    Rng rng = rng_make(seed, 0, 0);
    int level[SEGMENTS_MAX];
    for (int i = 0; i < segments; i++) {
        Segment *s = &c.segment[i];
        int parent = (int)rng_below(&rng, (uint32_t)i + 1) - 1;
        if (parent >= 0 && level[parent] == 3) parent = -1;
        level[i] = parent < 0 ? 0 : level[parent] + 1;
        *s = (Segment){.first = c.key_rows, .length = 1 + (int32_t)rng_below(&rng, (uint32_t)length), .parent = parent};
        if (parent >= 0) s->position = c.segment[parent].position + c.segment[parent].length;
        c.key_rows += s->length + (subset && i % 3 == 1 ? 2 : 0);
        if (subset && rng_below(&rng, 3) == 0) continue;
        QueryRange range = {.segment = i, .length = s->length, .row = c.query_rows};
        if (subset) {
            range.offset = (int32_t)rng_below(&rng, (uint32_t)s->length);
            range.length = 1 + (int32_t)rng_below(&rng, (uint32_t)(s->length - range.offset));
        }
        c.query[c.shape.query_count++] = range;
        c.query_rows += range.length;
    }
    assert_true(c.key_rows <= ROWS_MAX);
    fill_values(ops, &c, seed * 10);
    return c;
}

static void free_case(Case *c) {
    free(c->q), free(c->k), free(c->v), free(c->dout);
}
static void free_result(Result *r) {
    free(r->out), free(r->lse), free(r->dq), free(r->dk), free(r->dv);
}

// What is not written must show: outputs start as NaN.
static void *array_of_nan(const Ops *ops, size_t count) {
    float *nan = ops_host(count * sizeof *nan);
    for (size_t i = 0; i < count; i++) nan[i] = NAN;
    void *buffer = ops_upload(ops, NULL, count * dtype_size(ops->dtype));
    uint16_t *bits = ops_host(count * sizeof *bits);
    memset(bits, 0xFF, count * sizeof *bits);
    CHECK(backend->upload(ops->device, buffer, ops->dtype == DTYPE_F32 ? (void *)nan : (void *)bits,
                          count * dtype_size(ops->dtype)));
    free(nan), free(bits);
    return buffer;
}

static Result run(const Ops *ops, Case *c) {
    point_shape(c);
    void *q = ops_array(ops, c->q, query_count(c)), *k = ops_array(ops, c->k, key_count(c));
    void *v = ops_array(ops, c->v, key_count(c)), *dout = ops_array(ops, c->dout, query_count(c));
    void *out = array_of_nan(ops, query_count(c)), *dq = array_of_nan(ops, query_count(c));
    void *dk = array_of_nan(ops, key_count(c)), *dv = array_of_nan(ops, key_count(c));
    float *lse = ops_upload(ops, NULL, lse_count(c) * sizeof(float));
    CHECK(backend->attention(ops->device, &c->shape, q, k, v, out, lse));
    CHECK(backend->attention_backward(ops->device, &c->shape, q, k, v, out, lse, dout, dq, dk, dv, c->key_rows));
    Result r = {.out = ops_values(ops, out, query_count(c)),
                .lse = ops_floats(ops, lse, lse_count(c)),
                .dq = ops_values(ops, dq, query_count(c)),
                .dk = ops_values(ops, dk, key_count(c)),
                .dv = ops_values(ops, dv, key_count(c))};
    ops_free(ops, q), ops_free(ops, k), ops_free(ops, v), ops_free(ops, dout), ops_free(ops, out), ops_free(ops, dq);
    ops_free(ops, dk), ops_free(ops, dv), ops_free(ops, lse);
    return r;
}

// --- the definition
// -----------------------------------------------------------------------------------------------------
typedef struct Wanted {
    double *out, *lse, *dq, *dk, *dv;                     // exact
    double *tol_out, *tol_lse, *tol_dq, *tol_dk, *tol_dv; // what fp32 and one rounding to T may leave
} Wanted;

// Key rows that a token sees, the root's first.
static int visible_keys(const Case *c, int32_t segment, int32_t offset, int32_t *key) {
    int32_t chain[SEGMENTS_MAX];
    int levels = 0, count = 0;
    for (int32_t s = segment; s >= 0; s = c->segment[s].parent) chain[levels++] = s;
    while (levels-- > 0) {
        int32_t s = chain[levels], end = s == segment ? offset + 1 : c->segment[s].length;
        for (int32_t j = 0; j < end; j++) key[count++] = c->segment[s].first + j;
    }
    return count;
}

// Errors to first order, with u = 2^-24. A score of head_dim products: e_s = (head_dim + 4) u sum |q k| scale, which is
// the relative error of e^score; exp and the rescaling add 16 u. The sum over `keys` terms adds keys u, so that a
// probability is wrong by e_p = 2 (max e_s + (keys + 16) u) relatively. Backward reads out rounded to T, which makes d
// wrong by e_d = unit sum |dout out|. A device whose tensor cores take bf16 rounds p and ds before their second
// products, which adds `rounded` of every term. A sum of gradients over a column of N terms adds N u of their absolute
// sum.
static Wanted want(const Ops *ops, const Case *c) {
    const Attention *a = &c->shape;
    const double u = UNIT_F32, unit = ops_unit(ops);
    const double rounded = ops->dtype == DTYPE_BF16 && on_gpu() ? unit : 0;
    size_t nq = query_count(c), nk = key_count(c), nl = lse_count(c);
    Wanted w = {ops_host(nq * 8), ops_host(nl * 8), ops_host(nq * 8), ops_host(nk * 8), ops_host(nk * 8),
                ops_host(nq * 8), ops_host(nl * 8), ops_host(nq * 8), ops_host(nk * 8), ops_host(nk * 8)};
    int32_t *key = ops_host(ROWS_MAX * sizeof *key);
    double *p = ops_host(ROWS_MAX * 8), *dp = ops_host(ROWS_MAX * 8), *dp_size = ops_host(ROWS_MAX * 8);
    int group = a->heads / a->kv_heads, dim = a->head_dim;
    double column_terms = (double)c->query_rows * group;
    for (int32_t r = 0; r < a->query_count; r++)
        for (int32_t t = 0; t < c->query[r].length; t++)
            for (int h = 0; h < a->heads; h++) {
                size_t row = (size_t)(c->query[r].row + t) * a->heads + h, at = row * dim;
                int keys = visible_keys(c, c->query[r].segment, c->query[r].offset + t, key);
                double max = -INFINITY, sum = 0, worst = 0;
                for (int j = 0; j < keys; j++) {
                    size_t kat = ((size_t)key[j] * a->kv_heads + h / group) * dim;
                    double s = 0, size = 0;
                    for (int d = 0; d < dim; d++) {
                        s += (double)c->q[at + d] * c->k[kat + d];
                        size += fabs((double)c->q[at + d] * c->k[kat + d]);
                    }
                    p[j] = s * a->scale;
                    max = fmax(max, p[j]);
                    worst = fmax(worst, (dim + 4) * u * size * a->scale);
                }
                for (int j = 0; j < keys; j++) sum += p[j] = exp(p[j] - max);
                double e_p = 2 * (worst + (keys + 16) * u);
                w.lse[row] = max + log(sum);
                w.tol_lse[row] = e_p + 4 * u * (fabs(w.lse[row]) + fabs(max));
                e_p += w.tol_lse[row]; // backward takes e^(score - lse)
                double d_exact = 0, d_size = 0;
                for (int j = 0; j < keys; j++) {
                    size_t kat = ((size_t)key[j] * a->kv_heads + h / group) * dim;
                    p[j] /= sum;
                    dp[j] = dp_size[j] = 0;
                    for (int d = 0; d < dim; d++) {
                        w.out[at + d] += p[j] * c->v[kat + d];
                        w.tol_out[at + d] += p[j] * fabs(c->v[kat + d]) * (e_p + rounded + (keys + 4) * u);
                        dp[j] += (double)c->dout[at + d] * c->v[kat + d];
                        dp_size[j] += fabs((double)c->dout[at + d] * c->v[kat + d]);
                    }
                }
                for (int d = 0; d < dim; d++) {
                    w.tol_out[at + d] += unit * fabs(w.out[at + d]) * 1.01 + TINY;
                    d_exact += c->dout[at + d] * w.out[at + d];
                    d_size += fabs(c->dout[at + d]) * (w.tol_out[at + d] + (dim + 2) * u * fabs(w.out[at + d]));
                }
                for (int j = 0; j < keys; j++) {
                    size_t kat = ((size_t)key[j] * a->kv_heads + h / group) * dim;
                    double ds = p[j] * (dp[j] - d_exact);
                    double e_ds = e_p * fabs(ds) + p[j] * ((dim + 4) * u * dp_size[j] + d_size);
                    for (int d = 0; d < dim; d++) {
                        double q = c->q[at + d], k = c->k[kat + d], dout = c->dout[at + d];
                        w.dq[at + d] += a->scale * ds * k;
                        w.tol_dq[at + d] += a->scale * fabs(k) * (e_ds + (rounded + (keys + 4) * u) * fabs(ds));
                        w.dk[kat + d] += a->scale * ds * q;
                        w.tol_dk[kat + d] +=
                            a->scale * fabs(q) * (e_ds + (rounded + (column_terms + 4) * u) * fabs(ds));
                        w.dv[kat + d] += p[j] * dout;
                        w.tol_dv[kat + d] += p[j] * fabs(dout) * (e_p + rounded + (column_terms + 4) * u);
                    }
                }
            }
    for (size_t i = 0; i < nq; i++) w.tol_dq[i] += unit * fabs(w.dq[i]) * 1.01 + TINY;
    for (size_t i = 0; i < nk; i++) w.tol_dk[i] += unit * fabs(w.dk[i]) * 1.01 + TINY;
    for (size_t i = 0; i < nk; i++) w.tol_dv[i] += unit * fabs(w.dv[i]) * 1.01 + TINY;
    free(key), free(p), free(dp), free(dp_size);
    return w;
}
static void free_wanted(Wanted *w) {
    free(w->out), free(w->lse), free(w->dq), free(w->dk), free(w->dv);
    free(w->tol_out), free(w->tol_lse), free(w->tol_dq), free(w->tol_dk), free(w->tol_dv);
}

static void check_case(const Ops *ops, Case *c) {
    Result r = run(ops, c);
    Wanted w = want(ops, c);
    expect_close("out", r.out, w.out, w.tol_out, query_count(c));
    expect_close("lse", r.lse, w.lse, w.tol_lse, lse_count(c));
    expect_close("dq", r.dq, w.dq, w.tol_dq, query_count(c));
    expect_close("dk", r.dk, w.dk, w.tol_dk, key_count(c));
    expect_close("dv", r.dv, w.dv, w.tol_dv, key_count(c));
    free_result(&r);
    free_wanted(&w);
}

// Groups of 1 to 8 and 16, widths that a GPU's tensor cores take (multiples of 8) and others.
static const int SHAPES[][3] = {{4, 2, 16},  {6, 2, 24},  {3, 3, 40},  {8, 1, 64},  {5, 1, 128},
                                {2, 2, 256}, {1, 1, 2},   {128, 1, 8}, {8, 2, 80},  {14, 2, 64},
                                {16, 1, 64}, {2, 2, 128}, {6, 2, 26},  {16, 1, 96}, {4, 2, 32}};
enum { SHAPE_COUNT = sizeof SHAPES / sizeof *SHAPES };

// A GPU's shared memory bounds head_dim and the group: what is larger is refused, see test_refused.
static bool taken(const int shape[3]) {
    return !on_gpu() || (shape[2] <= 128 && shape[0] / shape[1] <= 16);
}

static void test_refused(void **state) {
    (void)state;
    Ops ops = ops_open(backend, DTYPE_F32, 1);
    for (int s = 0; s < SHAPE_COUNT; s++) {
        if (taken(SHAPES[s])) continue;
        const Attention shape = {.heads = SHAPES[s][0], .kv_heads = SHAPES[s][1], .head_dim = SHAPES[s][2]};
        assert_int_equal(backend->attention(ops.device, &shape, NULL, NULL, NULL, NULL, NULL), STATUS_FAILED);
        assert_non_null(strstr(error_text(), "is larger than the CUDA device takes"));
        error_clear();
    }
    backend->close(ops.device);
}

static void test_values(void **state) {
    (void)state;
    for (int dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        Ops ops = ops_open(backend, (DType)dtype, 2);
        for (int s = 0; s < SHAPE_COUNT; s++)
            for (uint32_t seed = 1; seed <= (on_gpu() ? 2 : 3) && taken(SHAPES[s]); seed++) { // the stand-in is slow
                Case c = random_case(&ops, SHAPES[s][0], SHAPES[s][1], SHAPES[s][2], 3 + 2 * (int)seed,
                                     SHAPES[s][0] == 128 ? 15 : 70, seed > 1, seed * 100 + (uint32_t)s);
                check_case(&ops, &c);
                free_case(&c);
            }
        backend->close(ops.device);
    }
}

// One sequence over many key blocks, a few tokens of it asked.
static void test_long(void **state) {
    (void)state;
    for (int dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        Ops ops = ops_open(backend, (DType)dtype, 2);
        Case c = {.shape = {.heads = 4, .kv_heads = 2, .head_dim = 32, .segment_count = 2, .query_count = 2},
                  .segment = {{0, 700, 0, -1}, {700, 300, 700, 0}},
                  .query = {{0, 630, 41, 0}, {1, 255, 45, 41}},
                  .key_rows = 1000,
                  .query_rows = 86};
        fill_values(&ops, &c, 77);
        check_case(&ops, &c);
        free_case(&c);
        backend->close(ops.device);
    }
}

// A chain of many short segments: one block of keys lies in several of them.
static void test_chain(void **state) {
    (void)state;
    for (int dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        Ops ops = ops_open(backend, (DType)dtype, 2);
        Case c = {.shape = {.heads = 6, .kv_heads = 2, .head_dim = 64, .segment_count = SEGMENTS_MAX}};
        for (int s = 0; s < SEGMENTS_MAX; s++) {
            const int32_t length = 1 + s * 7 % 19, first = c.key_rows + s % 3; // and rows that belong to nobody
            c.segment[s] =
                (Segment){first, length, s > 0 ? c.segment[s - 1].position + c.segment[s - 1].length : 0, s - 1};
            c.key_rows = first + length;
            if (s % 4 == 1) continue;
            c.query[c.shape.query_count++] = (QueryRange){s, 0, length, c.query_rows};
            c.query_rows += length;
        }
        fill_values(&ops, &c, 78);
        check_case(&ops, &c);
        free_case(&c);
        backend->close(ops.device);
    }
}

// A first token that all rows share, whose gradients are sums over the whole batch.
static void test_fan(void **state) {
    (void)state;
    for (int dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        Ops ops = ops_open(backend, (DType)dtype, 2);
        Case c = {.shape = {.heads = 8, .kv_heads = 1, .head_dim = 64, .segment_count = SEGMENTS_MAX}};
        for (int s = 0; s < SEGMENTS_MAX; s++) {
            const int32_t length = s == 0 ? 1 : 60;
            c.segment[s] = (Segment){c.key_rows, length, s > 0, s > 0 ? 0 : -1};
            c.query[c.shape.query_count++] = (QueryRange){s, 0, length, c.query_rows};
            c.key_rows = c.query_rows += length;
        }
        fill_values(&ops, &c, 79);
        check_case(&ops, &c);
        free_case(&c);
        backend->close(ops.device);
    }
}

// Scores that e^x alone could not hold, and a row that one key takes all of.
static void test_large_scores(void **state) {
    (void)state;
    Ops ops = ops_open(backend, DTYPE_F32, 1);
    Case c = random_case(&ops, 4, 2, 16, 4, 70, false, 5);
    for (size_t i = 0; i < query_count(&c); i++) c.q[i] *= 200;
    check_case(&ops, &c);
    free_case(&c);
    backend->close(ops.device);
}

// --- central differences
typedef struct Probe {
    const Ops *ops;
    Case *c;
} Probe;

static double probe_value(void *context) {
    const Probe *probe = context;
    const Ops *ops = probe->ops;
    Case *c = probe->c;
    point_shape(c);
    void *q = ops_array(ops, c->q, query_count(c)), *k = ops_array(ops, c->k, key_count(c));
    void *v = ops_array(ops, c->v, key_count(c)), *out = ops_array(ops, NULL, query_count(c));
    float *lse = ops_upload(ops, NULL, lse_count(c) * sizeof(float));
    CHECK(backend->attention(ops->device, &c->shape, q, k, v, out, lse));
    float *value = ops_values(ops, out, query_count(c));
    double sum = 0;
    for (size_t i = 0; i < query_count(c); i++) sum += (double)value[i] * c->dout[i];
    ops_free(ops, q), ops_free(ops, k), ops_free(ops, v), ops_free(ops, out), ops_free(ops, lse), free(value);
    return sum;
}

static void test_central_differences(void **state) {
    (void)state;
    Ops ops = ops_open(backend, DTYPE_F32, 1);
    // One case of each kind on a device, whose stand-in takes a minute for two.
    const bool host = strcmp(backend->name, "cpu") == 0;
    for (uint32_t seed = host ? 1 : 2; seed <= (host ? 4 : 3); seed++) {
        Case c = random_case(&ops, 4, 2, 6, 7, 4, seed > 2, seed);
        // Only each range's last token counts, which keeps sums short and tolerances tight.
        size_t row = (size_t)c.shape.heads * c.shape.head_dim;
        for (int i = 0; i < c.shape.query_count; i++)
            memset(c.dout + (size_t)c.query[i].row * row, 0, ((size_t)c.query[i].length - 1) * row * sizeof *c.dout);
        Result r = run(&ops, &c);
        Probe probe = {&ops, &c};
        // f = sum dout * out. Its third derivative per unit of |dout|: one k moves one probability, a sigmoid of its
        // score, so at most 2 max |v| / 8 (scale |q|)^3 < 0.5; one q tilts all scores by at most scale each: 12 scale^3
        // < 1. The parts of f that move are wrong by (head_dim + keys + 20) u; the others keep their bits.
        const double h = 0x1p-5;
        double unit_tolerance = h * h / 6 + (6 + 16 + 20) * UNIT_F32 / h;
        struct {
            const char *name;
            float *x, *got;
            size_t count;
        } array[] = {{"dq by differences", c.q, r.dq, query_count(&c)},
                     {"dk by differences", c.k, r.dk, key_count(&c)},
                     {"dv by differences", c.v, r.dv, key_count(&c)}};
        for (int i = 0; i < 3; i++) {
            double *difference = ops_host(array[i].count * 8), *limit = ops_host(array[i].count * 8);
            for (size_t j = 0; j < array[i].count; j++) {
                difference[j] = central_difference(probe_value, &probe, &array[i].x[j], (float)h);
                limit[j] = 8 * UNIT_F32 * fabs(array[i].got[j]) + TINY;
                for (size_t d = 0; d < query_count(&c); d++) {
                    size_t head = d / 6 % 4, kv_head = j / 6 % 2;
                    if (i == 0 ? d / 6 == j / 6 : head / 2 == kv_head) limit[j] += fabs(c.dout[d]) * unit_tolerance;
                }
            }
            expect_close(array[i].name, array[i].got, difference, limit, array[i].count);
            free(difference), free(limit);
        }
        free_result(&r);
        free_case(&c);
    }
    backend->close(ops.device);
}

// --- bits

// b behind a, in one call; both stay the caller's.
static Case packed(const Ops *ops, const Case *a, const Case *b) {
    Case both = *a;
    for (int s = 0; s < b->shape.segment_count; s++) {
        Segment segment = b->segment[s];
        segment.first += a->key_rows;
        if (segment.parent >= 0) segment.parent += a->shape.segment_count;
        both.segment[both.shape.segment_count++] = segment;
    }
    for (int s = 0; s < b->shape.query_count; s++) {
        QueryRange range = b->query[s];
        range.row += a->query_rows;
        range.segment += a->shape.segment_count;
        both.query[both.shape.query_count++] = range;
    }
    both.key_rows += b->key_rows;
    both.query_rows += b->query_rows;
    fill_values(ops, &both, 33);
    const Case *part[2] = {a, b};
    for (size_t i = 0, q = 0, k = 0; i < 2; i++) {
        memcpy(both.q + q, part[i]->q, query_count(part[i]) * sizeof(float));
        memcpy(both.dout + q, part[i]->dout, query_count(part[i]) * sizeof(float));
        memcpy(both.k + k, part[i]->k, key_count(part[i]) * sizeof(float));
        memcpy(both.v + k, part[i]->v, key_count(part[i]) * sizeof(float));
        q += query_count(part[i]), k += key_count(part[i]);
    }
    return both;
}

static void check_packed(const Ops *ops, Case *a, Case *b) {
    Case both = packed(ops, a, b), *part[2] = {a, b};
    Result together = run(ops, &both);
    size_t q_at = 0, k_at = 0, lse_at = 0;
    for (int i = 0; i < 2; i++) {
        Result alone = run(ops, part[i]);
        expect_same_bits("out packed", together.out + q_at, alone.out, query_count(part[i]));
        expect_same_bits("lse packed", together.lse + lse_at, alone.lse, lse_count(part[i]));
        expect_same_bits("dq packed", together.dq + q_at, alone.dq, query_count(part[i]));
        expect_same_bits("dk packed", together.dk + k_at, alone.dk, key_count(part[i]));
        expect_same_bits("dv packed", together.dv + k_at, alone.dv, key_count(part[i]));
        q_at += query_count(part[i]), k_at += key_count(part[i]), lse_at += lse_count(part[i]);
        free_result(&alone);
        free_case(part[i]);
    }
    free_result(&together);
    free_case(&both);
}

static void test_same_bits_packed(void **state) {
    (void)state;
    for (int dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        Ops ops = ops_open(backend, (DType)dtype, 2);
        for (int head_dim = 32; head_dim <= (dtype == DTYPE_F32 ? 32 : 128); head_dim *= 2) {
            Case a = random_case(&ops, 14, 2, head_dim, 5, 60, true, 31);
            Case b = random_case(&ops, 14, 2, head_dim, 6, 60, true, 32);
            check_packed(&ops, &a, &b);
        }
        backend->close(ops.device);
    }
}

// A few rows alone and beside many: a GPU cuts the call into other tiles and blocks of keys (on the stand-in of
// tests/cuda_on_cpu from some 32 tiles on), which changes no bits.
static void test_same_bits_beside_many(void **state) {
    (void)state;
    Ops ops = ops_open(backend, DTYPE_BF16, 2);
    for (int head_dim = 64; head_dim <= 128; head_dim *= 2) {
        const Attention shape = {
            .heads = 16, .kv_heads = 2, .head_dim = head_dim, .segment_count = 3, .query_count = 3};
        Case few = {.shape = shape,
                    .segment = {{0, 100, 0, -1}, {100, 30, 100, 0}, {130, 45, 100, 0}},
                    .query = {{0, 10, 90, 0}, {1, 0, 30, 90}, {2, 0, 40, 120}},
                    .key_rows = 175,
                    .query_rows = 160};
        Case many = {.shape = shape,
                     .segment = {{0, 256, 0, -1}, {256, 128, 256, 0}, {384, 128, 256, 0}},
                     .query = {{0, 0, 256, 0}, {1, 0, 128, 256}, {2, 0, 128, 384}},
                     .key_rows = 512,
                     .query_rows = 512};
        fill_values(&ops, &few, 34);
        fill_values(&ops, &many, 35);
        check_packed(&ops, &few, &many);
    }
    backend->close(ops.device);
}

enum { COMPLETION = 45, PAGES = 3 };

// A prefix of so many pages, each a segment of its own, and two completions of it.
static Case cut_case(const Ops *ops, int32_t pages, int32_t page) {
    Case c = {
        .shape = {.heads = 8, .kv_heads = 2, .head_dim = 64, .segment_count = pages + 2, .query_count = pages + 2}};
    for (int32_t s = 0; s < pages + 2; s++) {
        const bool completes = s >= pages;
        const int32_t length = completes ? COMPLETION : page, parent = completes ? pages - 1 : s - 1;
        c.segment[s] = (Segment){c.key_rows, length, (completes ? pages : s) * page, parent};
        c.query[s] = (QueryRange){s, 0, length, c.key_rows};
        c.query_rows = c.key_rows += length;
    }
    fill_values(ops, &c, 36);
    return c;
}

// One segment: the prefix of `c`, and its completion i.
static Case uncut_case(const Ops *ops, const Case *c, int32_t prefix, int32_t i) {
    const int32_t length = prefix + COMPLETION, from = prefix + i * COMPLETION;
    Case own = {.shape = c->shape, .key_rows = length, .query_rows = length};
    own.shape.segment_count = own.shape.query_count = 1;
    own.segment[0] = (Segment){0, length, 0, -1};
    own.query[0] = (QueryRange){0, 0, length, 0};
    fill_values(ops, &own, 37);
    float *to[] = {own.q, own.dout, own.k, own.v}, *of[] = {c->q, c->dout, c->k, c->v};
    for (int j = 0; j < 4; j++) {
        const size_t row = (size_t)(j < 2 ? c->shape.heads : c->shape.kv_heads) * c->shape.head_dim;
        memcpy(to[j], of[j], prefix * row * sizeof(float));
        memcpy(to[j] + prefix * row, of[j] + from * row, COMPLETION * row * sizeof(float));
    }
    return own;
}

// out, lse and dq of a row do not depend on how its sequence is cut into segments, as long as it is cut at multiples of
// the device's key block: two completions of one prefix, of a copy each, and of a prefix in pages.
static void test_same_bits_cut(void **state) {
    (void)state;
    for (int dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        Ops ops = ops_open(backend, (DType)dtype, 2);
        DeviceInfo info;
        backend->info(ops.device, &info);
        assert_true(info.key_block > 0);
        const int32_t prefix = PAGES * info.key_block;
        Case shared = cut_case(&ops, 1, prefix), paged = cut_case(&ops, PAGES, info.key_block);
        Result want = run(&ops, &shared), got = run(&ops, &paged);
        expect_same_bits("out of pages", got.out, want.out, query_count(&shared));
        expect_same_bits("lse of pages", got.lse, want.lse, lse_count(&shared));
        expect_same_bits("dq of pages", got.dq, want.dq, query_count(&shared));
        free_result(&got);
        free_case(&paged);
        const size_t heads = (size_t)shared.shape.heads, row = heads * shared.shape.head_dim;
        for (int32_t i = 0; i < 2; i++) {
            Case own = uncut_case(&ops, &shared, prefix, i);
            got = run(&ops, &own);
            const size_t at = (size_t)prefix, in = (size_t)(prefix + i * COMPLETION);
            expect_same_bits("out of its own", got.out + at * row, want.out + in * row, COMPLETION * row);
            expect_same_bits("dq of its own", got.dq + at * row, want.dq + in * row, COMPLETION * row);
            expect_same_bits("lse of its own", got.lse + at * heads, want.lse + in * heads, COMPLETION * heads);
            free_result(&got);
            free_case(&own);
        }
        free_result(&want);
        free_case(&shared);
        backend->close(ops.device);
    }
}

static void test_same_bits_threads(void **state) {
    (void)state;
    Result first = {0};
    for (int threads = 1; threads <= 4; threads++) {
        Ops ops = ops_open(backend, DTYPE_BF16, threads);
        Case c = random_case(&ops, 8, 2, 64, 9, 100, true, 41);
        Result r = run(&ops, &c);
        if (threads == 1) {
            first = r;
        } else {
            expect_same_bits("out on more threads", r.out, first.out, query_count(&c));
            expect_same_bits("dq on more threads", r.dq, first.dq, query_count(&c));
            expect_same_bits("dk on more threads", r.dk, first.dk, key_count(&c));
            expect_same_bits("dv on more threads", r.dv, first.dv, key_count(&c));
            free_result(&r);
        }
        free_case(&c);
        backend->close(ops.device);
    }
    free_result(&first);
}

// Decoding: each token asked alone gets the bits that it has in the whole sequence.
static void test_same_bits_decoded(void **state) {
    (void)state;
    enum { LENGTH = 150, HEADS = 4, DIM = 16, ROW = HEADS * DIM };
    for (int dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        Ops ops = ops_open(backend, (DType)dtype, 1);
        Case c = {.shape = {.heads = HEADS, .kv_heads = 2, .head_dim = DIM, .segment_count = 2, .query_count = 2},
                  .segment = {{0, 20, 0, -1}, {20, LENGTH, 20, 0}},
                  .query = {{0, 0, 20, 0}, {1, 0, LENGTH, 20}},
                  .key_rows = 20 + LENGTH,
                  .query_rows = 20 + LENGTH};
        fill_values(&ops, &c, 50);
        Result whole = run(&ops, &c);
        for (int t = 0; t < LENGTH; t += 7) {
            Case one = c;
            one.shape.query_count = 1;
            one.query[0] = (QueryRange){1, t, 1, 0};
            one.segment[1].length = t + 1; // later keys are not there yet
            one.query_rows = 1;
            one.q = c.q + (20 + t) * ROW;
            Result r = run(&ops, &one);
            expect_same_bits("decoded out", r.out, whole.out + (20 + t) * ROW, ROW);
            expect_same_bits("decoded lse", r.lse, whole.lse + (20 + t) * HEADS, HEADS);
            free_result(&r);
        }
        free_result(&whole);
        free_case(&c);
        backend->close(ops.device);
    }
}

// Many shapes asked for before any answer is looked at: what an op reads of its shape is its own, however late it runs.
static void test_queued(void **state) {
    (void)state;
    enum { SHAPES_ASKED = 20, HEADS = 2, DIM = 8, ROW = HEADS * DIM, LENGTH_MAX = 3 + SHAPES_ASKED };
    Ops ops = ops_open(backend, DTYPE_F32, 1);
    Case c = {.shape = {.heads = HEADS, .kv_heads = HEADS, .head_dim = DIM, .segment_count = 1, .query_count = 1},
              .key_rows = LENGTH_MAX,
              .query_rows = LENGTH_MAX};
    fill_values(&ops, &c, 70);
    void *q = ops_array(&ops, c.q, LENGTH_MAX * ROW), *k = ops_array(&ops, c.k, LENGTH_MAX * ROW);
    void *v = ops_array(&ops, c.v, LENGTH_MAX * ROW), *out[SHAPES_ASKED];
    float *lse = ops_upload(&ops, NULL, LENGTH_MAX * HEADS * sizeof *lse);
    for (int i = 0; i < SHAPES_ASKED; i++) out[i] = ops_array(&ops, NULL, LENGTH_MAX * ROW);
    point_shape(&c);
    for (int i = 0; i < SHAPES_ASKED; i++) {
        c.segment[0] = (Segment){0, 3 + i, 0, -1};
        c.query[0] = (QueryRange){0, 0, 3 + i, 0};
        CHECK(backend->attention(ops.device, &c.shape, q, k, v, out[i], lse));
    }
    c.segment[0].length = c.query[0].length = LENGTH_MAX;
    Result whole = run(&ops, &c);
    for (int i = 0; i < SHAPES_ASKED; i++) {
        float *got = ops_values(&ops, out[i], LENGTH_MAX * ROW);
        expect_same_bits("queued out", got, whole.out, (size_t)(3 + i) * ROW);
        for (int j = (3 + i) * ROW; j < LENGTH_MAX * ROW; j++) assert_true(got[j] == 0); // no rows beyond its own
        free(got);
        ops_free(&ops, out[i]);
    }
    ops_free(&ops, q), ops_free(&ops, k), ops_free(&ops, v), ops_free(&ops, lse);
    free_result(&whole);
    free_case(&c);
    backend->close(ops.device);
}

static void test_nothing(void **state) {
    (void)state;
    Ops ops = ops_open(backend, DTYPE_F32, 2);
    Case c = {.shape = {.heads = 2, .kv_heads = 1, .head_dim = 4}, .key_rows = 3};
    fill_values(&ops, &c, 60);
    Result r = run(&ops, &c);
    for (size_t i = 0; i < key_count(&c); i++) assert_true(r.dk[i] == 0 && r.dv[i] == 0);
    free_result(&r);
    free_case(&c);
    backend->close(ops.device);
}

int main(int argc, char **argv) {
    backend = ops_backend(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chain), // the fastest that reach most of the kernels, for tests/cuda_on_cpu/mutate
        cmocka_unit_test(test_fan),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_long),
        cmocka_unit_test(test_large_scores),
        cmocka_unit_test(test_central_differences),
        cmocka_unit_test(test_same_bits_packed),
        cmocka_unit_test(test_same_bits_beside_many),
        cmocka_unit_test(test_same_bits_cut),
        cmocka_unit_test(test_same_bits_threads),
        cmocka_unit_test(test_same_bits_decoded),
        cmocka_unit_test(test_queued),
        cmocka_unit_test(test_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
