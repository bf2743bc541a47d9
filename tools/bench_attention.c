// Checks and times a backend's attention on the shapes of training steps: values of sampled rows and keys against fp64,
// the same bits twice and for one row of the batch alone, and the rates. Written against kernels/backend.h alone, so
// that what is measured is what the trainer runs.
//
//     bench_attention [BACKEND [SHAPE...]]        BACKEND: cuda (default) or cpu; SHAPE: see SHAPES, without: all but
//     small
//
// Exit code 0: all right; 1: a value or a bit is wrong; 77: no such device here. TFLOP/s count what is seen: 4
// operations for each (query head, key, column) forward, 10 backward.
#include "kernels/backend.h"
#include "src/base/clock.h"
#include "src/base/rng.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SKIPPED = 77,
    SETS_MAX = 8,      // arrays in turn, so that nothing comes from a cache that a step would not find it in
    SET_BYTES = 256,   // MiB of all sets
    TIMINGS = 9,       // the median counts
    SAMPLED_ROWS = 24, // (row, head)
    SAMPLED_KEYS = 4,  // (key, head)
    POOL = 1 << 20,    // random values
};

// Rows of the trainer: a token that all share, a prefix, y, and y' without gradient (src/data/batch.h).
typedef struct Shape {
    const char *name;
    int32_t heads, kv_heads, head_dim, rows, shared, prefix, completion, kl;
    int calls; // of one timing
} Shape;

static const Shape SHAPES[] = {
    {"plain", 32, 4, 64, 16, 1, 80, 25, 25, 16},     // short rows
    {"long", 32, 4, 64, 8, 0, 1023, 1024, 1024, 16}, // rows of 2,047 tokens
    {"dense64", 32, 4, 64, 8, 0, 0, 2048, 0, 16},    // plain causal sequences, as other libraries time them
    {"dense128", 32, 8, 128, 8, 0, 0, 2048, 0, 16},
    {"small", 16, 2, 64, 4, 1, 30, 20, 10, 1}, // for a device that is emulated
};

typedef struct Forest {
    Attention shape, gradient; // of all queries, and of those with a gradient
    Segment *segment;
    QueryRange *query;
    int32_t rows, gradient_rows; // key rows are query rows
} Forest;

typedef struct Set { // T[rows, heads or kv_heads, head_dim]
    void *q, *k, *v, *dout, *out, *dq, *dk, *dv;
    float *lse;
} Set;

typedef struct Host { // of one set, and what came out
    uint16_t *q, *k, *v, *dout, *out, *dq, *dk, *dv;
    float *lse;
} Host;

typedef struct Bench {
    const Backend *backend;
    Device *device;
    int wrong;
} Bench;

static void require(Status status) {
    if (status == STATUS_OK) return;
    fprintf(stderr, "bench_attention: %s\n", error_text());
    exit(1);
}

static void *memory(size_t bytes) {
    void *p = calloc(bytes > 0 ? bytes : 1, 1);
    if (p == NULL) {
        fprintf(stderr, "bench_attention: no memory\n");
        exit(1);
    }
    return p;
}

// --- shapes ---

static int32_t add(Forest *f, int32_t length, int32_t parent) {
    const int32_t s = f->shape.segment_count++;
    const Segment *of = parent >= 0 ? &f->segment[parent] : NULL;
    f->segment[s] = (Segment){f->rows, length, of != NULL ? of->position + of->length : 0, parent};
    f->query[f->shape.query_count++] = (QueryRange){s, 0, length, f->rows};
    f->rows += length;
    return s;
}

static Forest make_forest(const Shape *s, int32_t rows) {
    Forest f = {.shape = {.heads = s->heads,
                          .kv_heads = s->kv_heads,
                          .head_dim = s->head_dim,
                          .scale = 1 / sqrtf((float)s->head_dim)}};
    f.segment = memory((size_t)(3 * rows + 1) * sizeof *f.segment);
    f.query = memory((size_t)(3 * rows + 1) * sizeof *f.query);
    int32_t *prefix = memory((size_t)rows * sizeof *prefix);
    const int32_t root = s->shared > 0 ? add(&f, s->shared, -1) : -1;
    for (int32_t i = 0; i < rows; i++) prefix[i] = s->prefix > 0 ? add(&f, s->prefix, root) : root;
    for (int32_t i = 0; i < rows; i++) add(&f, s->completion, prefix[i]);
    f.gradient_rows = f.rows;
    const int32_t gradient_queries = f.shape.query_count;
    for (int32_t i = 0; i < rows && s->kl > 0; i++) add(&f, s->kl, prefix[i]);
    f.shape.segments = f.segment;
    f.shape.queries = f.query;
    f.gradient = f.shape;
    f.gradient.query_count = gradient_queries;
    free(prefix);
    return f;
}

static void free_forest(Forest *f) {
    free(f->segment);
    free(f->query);
}

// (query token, key) pairs that see each other.
static double pairs(const Attention *a) {
    double n = 0;
    for (int32_t i = 0; i < a->query_count; i++) {
        const QueryRange *r = &a->queries[i];
        const double before = a->segments[r->segment].position + r->offset, count = r->length;
        n += count * before + count * (count + 1) / 2;
    }
    return n;
}

static size_t q_count(const Forest *f) {
    return (size_t)f->rows * (size_t)f->shape.heads * (size_t)f->shape.head_dim;
}
static size_t k_count(const Forest *f) {
    return (size_t)f->rows * (size_t)f->shape.kv_heads * (size_t)f->shape.head_dim;
}
static size_t lse_count(const Forest *f) {
    return (size_t)f->rows * (size_t)f->shape.heads;
}

// --- values ---

static uint16_t to_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)((u + 0x7FFFu + (u >> 16 & 1u)) >> 16);
}
static double of_bf16(uint16_t x) {
    const uint32_t u = (uint32_t)x << 16;
    float y;
    memcpy(&y, &u, sizeof y);
    return y;
}

static uint16_t *random_values(size_t count, float size, uint32_t seed) {
    static float pool[POOL];
    if (pool[0] == 0) {
        Rng rng = rng_make(1, 0, 0);
        for (size_t i = 0; i < POOL; i++) pool[i] = (float)(2 * rng_uniform(&rng) - 1);
    }
    uint16_t *x = memory(count * sizeof *x);
    for (size_t i = 0; i < count; i++) x[i] = to_bf16(size * pool[(i + (size_t)seed * 7919 + i / POOL * 13) % POOL]);
    return x;
}

static Host make_host(const Forest *f, uint32_t seed) {
    const size_t nq = q_count(f), nk = k_count(f);
    return (Host){.q = random_values(nq, 3, seed),
                  .k = random_values(nk, 1, seed + 1),
                  .v = random_values(nk, 1, seed + 2),
                  .dout = random_values(nq, 1, seed + 3),
                  .out = memory(nq * 2),
                  .dq = memory(nq * 2),
                  .dk = memory(nk * 2),
                  .dv = memory(nk * 2),
                  .lse = memory(lse_count(f) * sizeof(float))};
}

static void free_host(Host *h) {
    void *owned[] = {h->q, h->k, h->v, h->dout, h->out, h->dq, h->dk, h->dv, h->lse};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
}

static void *device_array(const Bench *b, const void *host, size_t bytes) {
    void *p;
    require(b->backend->alloc(b->device, bytes, "a benchmark", &p));
    if (host != NULL) require(b->backend->upload(b->device, p, host, bytes));
    return p;
}

static Set make_set(const Bench *b, const Forest *f, const Host *h) {
    const size_t nq = q_count(f) * 2, nk = k_count(f) * 2;
    return (Set){.q = device_array(b, h->q, nq),
                 .k = device_array(b, h->k, nk),
                 .v = device_array(b, h->v, nk),
                 .dout = device_array(b, h->dout, nq),
                 .out = device_array(b, NULL, nq),
                 .dq = device_array(b, NULL, nq),
                 .dk = device_array(b, NULL, nk),
                 .dv = device_array(b, NULL, nk),
                 .lse = device_array(b, NULL, lse_count(f) * sizeof(float))};
}

static void free_set(const Bench *b, Set *s) {
    void *owned[] = {s->q, s->k, s->v, s->dout, s->out, s->dq, s->dk, s->dv, s->lse};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) b->backend->release(b->device, owned[i]);
}

static void forward(const Bench *b, const Forest *f, const Set *s) {
    require(b->backend->attention(b->device, &f->shape, s->q, s->k, s->v, s->out, s->lse));
}
static void backward(const Bench *b, const Forest *f, const Set *s) {
    require(b->backend->attention_backward(b->device, &f->gradient, s->q, s->k, s->v, s->out, s->lse, s->dout, s->dq,
                                           s->dk, s->dv, f->gradient_rows));
}

// One call of each, and what came out.
static void compute(const Bench *b, const Forest *f, const Set *s, Host *h) {
    forward(b, f, s);
    backward(b, f, s);
    const size_t nq = q_count(f) * 2, nk = k_count(f) * 2;
    require(b->backend->download(b->device, h->out, s->out, nq));
    require(b->backend->download(b->device, h->dq, s->dq, nq));
    require(b->backend->download(b->device, h->dk, s->dk, nk));
    require(b->backend->download(b->device, h->dv, s->dv, nk));
    require(b->backend->download(b->device, h->lse, s->lse, lse_count(f) * sizeof(float)));
}

// --- against fp64 ---

// A query row and head, and the keys it sees.
typedef struct Row {
    size_t at;      // of the row and head in q
    int32_t *key;   // [keys]
    double *p, *dp; // [keys] probabilities, and dout . v
    int32_t keys;
    double lse, delta;
    double e_p; // relative error of a probability that fp32 may leave (derived in tests/kernels/test_attention.c)
} Row;

#define UNIT_F32  0x1p-24
#define UNIT_BF16 0x1p-8

static double product_of(const uint16_t *a, size_t a_at, const uint16_t *b, size_t b_at, int32_t dim, double *size) {
    double sum = 0;
    *size = 0;
    for (int32_t d = 0; d < dim; d++) {
        const double z = of_bf16(a[a_at + (size_t)d]) * of_bf16(b[b_at + (size_t)d]);
        sum += z;
        *size += fabs(z);
    }
    return sum;
}

static size_t key_at(const Attention *a, int32_t key, int32_t head) {
    return ((size_t)key * (size_t)a->kv_heads + (size_t)(head / (a->heads / a->kv_heads))) * (size_t)a->head_dim;
}

static void fill_row(const Forest *f, const Host *h, const QueryRange *range, int32_t t, int32_t head, Row *r) {
    const Attention *a = &f->shape;
    const int32_t dim = a->head_dim, offset = range->offset + t;
    r->at = ((size_t)(range->row + t) * (size_t)a->heads + (size_t)head) * (size_t)dim;
    r->keys = a->segments[range->segment].position + offset + 1;
    int32_t end = r->keys;
    for (int32_t s = range->segment; s >= 0; end = a->segments[s].position, s = a->segments[s].parent)
        for (int32_t j = a->segments[s].position; j < end; j++)
            r->key[j] = a->segments[s].first + j - a->segments[s].position;
    double most = -INFINITY, worst = 0, total = 0, size;
    for (int32_t j = 0; j < r->keys; j++) {
        r->p[j] = a->scale * product_of(h->q, r->at, h->k, key_at(a, r->key[j], head), dim, &size);
        most = fmax(most, r->p[j]);
        worst = fmax(worst, (dim + 4) * UNIT_F32 * size * a->scale);
    }
    for (int32_t j = 0; j < r->keys; j++) total += r->p[j] = exp(r->p[j] - most);
    r->lse = most + log(total);
    r->e_p = 2 * (worst + (r->keys + 16) * UNIT_F32);
    r->e_p += r->e_p + 4 * UNIT_F32 * (fabs(r->lse) + fabs(most)); // backward takes e^(score - lse)
    r->delta = 0;
    for (int32_t j = 0; j < r->keys; j++) {
        r->p[j] /= total;
        r->dp[j] = product_of(h->dout, r->at, h->v, key_at(a, r->key[j], head), dim, &size);
        r->delta += r->p[j] * r->dp[j];
    }
}

static void compare(Bench *b, const char *what, double got, double want, double tolerance, double *worst) {
    const double share = fabs(got - want) / tolerance;
    *worst = !(share <= *worst) ? share : *worst;
    if (share <= 1) return;
    if (b->wrong++ < 5) printf("  %s is %.9g, not %.9g (+- %.3g)\n", what, got, want, tolerance);
}

// out, lse and dq of a sampled row. p and ds are rounded to bf16 before their second products, as results are.
static void check_row(Bench *b, const Forest *f, const Host *h, const Row *r, int32_t head, double worst[3]) {
    const Attention *a = &f->shape;
    compare(b, "lse", h->lse[r->at / (size_t)a->head_dim], r->lse, r->e_p, &worst[1]);
    for (int32_t d = 0; d < a->head_dim; d++) {
        double out = 0, out_size = 0, dq = 0, dq_size = 0;
        for (int32_t j = 0; j < r->keys; j++) {
            const size_t at = key_at(a, r->key[j], head) + (size_t)d;
            const double ds = a->scale * r->p[j] * (r->dp[j] - r->delta);
            out += r->p[j] * of_bf16(h->v[at]);
            out_size += r->p[j] * fabs(of_bf16(h->v[at]));
            dq += ds * of_bf16(h->k[at]);
            // delta = dout . out errs by what out does, of which |dout| <= 1 takes at most 2.1 `part` a column.
            dq_size += fabs(of_bf16(h->k[at])) * (fabs(ds) + a->scale * r->p[j] * 2.1 * a->head_dim);
        }
        const double part = r->e_p + UNIT_BF16 + (r->keys + 4) * UNIT_F32;
        compare(b, "out", of_bf16(h->out[r->at + (size_t)d]), out, part * out_size + 1.01 * UNIT_BF16 * fabs(out),
                &worst[0]);
        if (r->at / ((size_t)a->heads * (size_t)a->head_dim) < (size_t)f->gradient_rows)
            compare(b, "dq", of_bf16(h->dq[r->at + (size_t)d]), dq, part * dq_size + 1.01 * UNIT_BF16 * fabs(dq),
                    &worst[2]);
    }
}

// Samples rows, and then the keys' gradients from the device's own lse and out.
static void check_rows(Bench *b, const Forest *f, const Host *h, Rng *rng) {
    const Attention *a = &f->shape;
    Row r = {.key = memory((size_t)f->rows * sizeof *r.key),
             .p = memory((size_t)f->rows * sizeof *r.p),
             .dp = memory((size_t)f->rows * sizeof *r.dp)};
    double worst[3] = {0};
    for (int i = 0; i < SAMPLED_ROWS; i++) {
        const QueryRange *range = &a->queries[rng_below(rng, (uint32_t)a->query_count)];
        const int32_t head = (int32_t)rng_below(rng, (uint32_t)a->heads);
        fill_row(f, h, range, (int32_t)rng_below(rng, (uint32_t)range->length), head, &r);
        check_row(b, f, h, &r, head, worst);
    }
    printf("  share of the tolerance: out %.2f, lse %.2f, dq %.2f", worst[0], worst[1], worst[2]);
    free(r.key);
    free(r.p);
    free(r.dp);
}

// Whether token `offset` of segment s sees token `key` of segment of.
static bool sees(const Attention *a, int32_t s, int32_t offset, int32_t of, int32_t key) {
    if (s == of) return key <= offset;
    for (s = a->segments[s].parent; s >= 0; s = a->segments[s].parent)
        if (s == of) return true;
    return false;
}

// dk and dv of one key and key/value head: sums over the rows that see it, wrong by their roundings to bf16, a relative
// error `e` of p that fp32 may leave (|q| <= 3, |k| <= 1), and the roundings of the sum.
static void check_key(Bench *b, const Forest *f, const Host *h, int32_t segment, int32_t key, int32_t kv_head,
                      double worst[2]) {
    const Attention *a = &f->gradient;
    const int32_t dim = a->head_dim, group = a->heads / a->kv_heads;
    const size_t at = key_at(a, a->segments[segment].first + key, kv_head * group);
    double *sum = memory(4 * (size_t)dim * sizeof *sum), *dk = sum, *dv = sum + dim, *dk_size = dv + dim,
           *dv_size = dk_size + dim, size;
    const double e = 4 * ((dim + 4) * UNIT_F32 * 3 * dim * a->scale + (f->rows + 16) * UNIT_F32);
    const double part = e + UNIT_BF16 + ((double)f->rows * group + 4) * UNIT_F32;
    for (int32_t i = 0; i < a->query_count; i++)
        for (int32_t t = 0; t < a->queries[i].length; t++) {
            const QueryRange *range = &a->queries[i];
            if (!sees(a, range->segment, range->offset + t, segment, key)) continue;
            for (int32_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
                const size_t row = (size_t)(range->row + t) * (size_t)a->heads + (size_t)head, q = row * (size_t)dim;
                const double p = exp(a->scale * product_of(h->q, q, h->k, at, dim, &size) - h->lse[row]);
                const double delta = product_of(h->dout, q, h->out, q, dim, &size);
                const double ds = a->scale * p * (product_of(h->dout, q, h->v, at, dim, &size) - delta);
                const double e_ds = a->scale * p * 2 * (dim + 4) * UNIT_F32 * dim;
                for (int32_t d = 0; d < dim; d++) {
                    const double of_q = of_bf16(h->q[q + (size_t)d]), of_dout = of_bf16(h->dout[q + (size_t)d]);
                    dk[d] += ds * of_q;
                    dk_size[d] += fabs(of_q) * (part * fabs(ds) + e_ds);
                    dv[d] += p * of_dout;
                    dv_size[d] += part * p * fabs(of_dout);
                }
            }
        }
    for (int32_t d = 0; d < dim; d++) {
        compare(b, "dk", of_bf16(h->dk[at + (size_t)d]), dk[d], dk_size[d] + 1.01 * UNIT_BF16 * fabs(dk[d]) + 0x1p-120,
                &worst[0]);
        compare(b, "dv", of_bf16(h->dv[at + (size_t)d]), dv[d], dv_size[d] + 1.01 * UNIT_BF16 * fabs(dv[d]) + 0x1p-120,
                &worst[1]);
    }
    free(sum);
}

static void check_keys(Bench *b, const Forest *f, const Host *h, Rng *rng) {
    const Attention *a = &f->gradient;
    double worst[2] = {0};
    for (int i = 0; i < SAMPLED_KEYS; i++) {
        const int32_t s = a->queries[rng_below(rng, (uint32_t)a->query_count)].segment;
        check_key(b, f, h, s, (int32_t)rng_below(rng, (uint32_t)a->segments[s].length),
                  (int32_t)rng_below(rng, (uint32_t)a->kv_heads), worst);
    }
    printf(", dk %.2f, dv %.2f\n", worst[0], worst[1]);
}

// --- bits ---

static void same(Bench *b, const char *what, const void *got, const void *want, size_t bytes) {
    if (bytes == 0 || memcmp(got, want, bytes) == 0) return;
    printf("  %s: other bits\n", what);
    b->wrong++;
}

static void check_again(Bench *b, const Forest *f, const Set *set, const Host *h) {
    Host again = make_host(f, 1);
    compute(b, f, set, &again);
    same(b, "out again", again.out, h->out, q_count(f) * 2);
    same(b, "lse again", again.lse, h->lse, lse_count(f) * sizeof(float));
    same(b, "dq again", again.dq, h->dq, (size_t)f->gradient_rows * (size_t)(f->shape.heads * f->shape.head_dim) * 2);
    const size_t keys = (size_t)f->gradient_rows * (size_t)(f->shape.kv_heads * f->shape.head_dim) * 2;
    same(b, "dk again", again.dk, h->dk, keys);
    same(b, "dv again", again.dv, h->dv, keys);
    free_host(&again);
}

// The batch's segment that segment s of one row's forest is: its first of the same kind.
static int32_t in_batch(const Shape *shape, int32_t s) {
    const int32_t kind = s + (shape->shared == 0) + (s + (shape->shared == 0) > 0 && shape->prefix == 0);
    return kind == 0 ? 0 : (shape->shared > 0) + (kind - 1 - (shape->prefix == 0)) * shape->rows;
}

// The batch's first row in a call of its own: all bits are the same but those of what it shares with other rows.
static void check_alone(Bench *b, const Shape *shape, const Forest *batch, const Host *h) {
    Forest one = make_forest(shape, 1);
    Host mine = make_host(&one, 1);
    const size_t q_row = (size_t)(shape->heads * shape->head_dim), k_row = (size_t)(shape->kv_heads * shape->head_dim);
    for (int32_t s = 0; s < one.shape.segment_count; s++) {
        const size_t to = (size_t)one.segment[s].first, from = (size_t)batch->segment[in_batch(shape, s)].first;
        const size_t length = (size_t)one.segment[s].length;
        memcpy(mine.q + to * q_row, h->q + from * q_row, length * q_row * 2);
        memcpy(mine.dout + to * q_row, h->dout + from * q_row, length * q_row * 2);
        memcpy(mine.k + to * k_row, h->k + from * k_row, length * k_row * 2);
        memcpy(mine.v + to * k_row, h->v + from * k_row, length * k_row * 2);
    }
    Set set = make_set(b, &one, &mine);
    compute(b, &one, &set, &mine);
    for (int32_t s = 0; s < one.shape.segment_count; s++) {
        const size_t at = (size_t)one.segment[s].first, in = (size_t)batch->segment[in_batch(shape, s)].first;
        const size_t length = (size_t)one.segment[s].length;
        same(b, "out alone", mine.out + at * q_row, h->out + in * q_row, length * q_row * 2);
        if ((int32_t)at >= one.gradient_rows) continue;
        same(b, "dq alone", mine.dq + at * q_row, h->dq + in * q_row, length * q_row * 2);
        if (s == 0 && shape->shared > 0) continue;
        same(b, "dk alone", mine.dk + at * k_row, h->dk + in * k_row, length * k_row * 2);
        same(b, "dv alone", mine.dv + at * k_row, h->dv + in * k_row, length * k_row * 2);
    }
    free_set(b, &set);
    free_host(&mine);
    free_forest(&one);
}

// --- rates ---

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Seconds of one call: `calls` are queued, then waited for.
static double measure(const Bench *b, const Forest *f, const Set *sets, int count, int calls,
                      void (*call)(const Bench *, const Forest *, const Set *)) {
    double seconds[TIMINGS];
    for (int timing = -1; timing < TIMINGS; timing++) {
        require(b->backend->sync(b->device));
        const double start = clock_seconds();
        for (int i = 0; i < calls; i++) call(b, f, &sets[i % count]);
        require(b->backend->sync(b->device));
        if (timing >= 0) seconds[timing] = (clock_seconds() - start) / calls;
    }
    qsort(seconds, TIMINGS, sizeof *seconds, by_value);
    return seconds[TIMINGS / 2];
}

static void time_calls(const Bench *b, const Forest *f, const Set *set, int sets, int calls) {
    const double columns = (double)f->shape.heads * f->shape.head_dim;
    const double there = measure(b, f, set, sets, calls, forward);
    for (int i = 0; i < sets; i++) forward(b, f, &set[i]); // backward reads lse
    const double back = measure(b, f, set, sets, calls, backward);
    printf("  forward %.1f us, %.1f TFLOP/s; backward %.1f us, %.1f TFLOP/s\n", there * 1e6,
           4 * columns * pairs(&f->shape) / there * 1e-12, back * 1e6,
           10 * columns * pairs(&f->gradient) / back * 1e-12);
}

static void run(Bench *b, const Shape *shape) {
    Forest f = make_forest(shape, shape->rows);
    printf("%s: heads %d/%d of %d, %d tokens, %d with a gradient, in %d segments\n", shape->name, shape->heads,
           shape->kv_heads, shape->head_dim, f.rows, f.gradient_rows, f.shape.segment_count);
    require(b->backend->reserve(b->device, &(DeviceShapes){.tokens = f.rows,
                                                           .heads = shape->heads,
                                                           .kv_heads = shape->kv_heads,
                                                           .head_dim = shape->head_dim}));
    const size_t set_bytes = 8 * (q_count(&f) + k_count(&f)), sets_wanted = ((size_t)SET_BYTES << 20) / set_bytes + 2;
    const int sets = sets_wanted < SETS_MAX ? (int)sets_wanted : SETS_MAX;
    Set set[SETS_MAX];
    Host host = make_host(&f, 2);
    for (int i = 0; i < sets; i++) set[i] = make_set(b, &f, &host);
    Rng rng = rng_make(3, 0, 0);
    compute(b, &f, &set[0], &host);
    check_rows(b, &f, &host, &rng);
    check_keys(b, &f, &host, &rng);
    check_again(b, &f, &set[0], &host);
    check_alone(b, shape, &f, &host);
    time_calls(b, &f, set, sets, shape->calls);
    fflush(stdout);
    for (int i = 0; i < sets; i++) free_set(b, &set[i]);
    free_host(&host);
    free_forest(&f);
}

int main(int argc, char **argv) {
    const char *why = "";
    Bench bench = {.backend = backend_find(argc > 1 ? argv[1] : "cuda", &why)};
    if (bench.backend == NULL ||
        bench.backend->open(&(DeviceOptions){.dtype = DTYPE_BF16}, &bench.device) != STATUS_OK) {
        fprintf(stderr, "bench_attention: %s\n", bench.backend == NULL ? why : error_text());
        return SKIPPED;
    }
    DeviceInfo info;
    bench.backend->info(bench.device, &info);
    printf("%s\n", info.name);
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++) {
        bool wanted = argc < 3 && strcmp(SHAPES[i].name, "small") != 0;
        for (int j = 2; j < argc; j++) wanted = wanted || strcmp(argv[j], SHAPES[i].name) == 0;
        if (wanted) run(&bench, &SHAPES[i]);
    }
    bench.backend->close(bench.device);
    printf(bench.wrong == 0 ? "right\n" : "%d WRONG\n", bench.wrong);
    return bench.wrong == 0 ? 0 : 1;
}
