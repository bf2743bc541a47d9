// Measures the rate of oneDNN's matrix products on the shapes of one training step, and counts the step's useful FLOPs
// (docs/speed.md). It calls oneDNN itself and not kernels/, because the yardstick must not share the code it judges.
//
//     bench_gemm MODEL_DIR PREFIX_TOKENS SCORED_TOKENS KL_TOKENS      prints one line "KEY VALUE" a figure
//     bench_gemm MODEL_DIR PREFIX_TOKENS SCORED_TOKENS KL_TOKENS shapes      only counts, and prints the products as
//                                                                     lines that bench_gemm_cuda reads
#include "io/model_config.h"
#include "src/base/clock.h"
#include "src/base/memory.h"

#include <dnnl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SHAPES_MAX = 32,
    HEAD_ROWS = 256, // a head that never holds [tokens, vocab] works in chunks
    REPEATS_MIN = 5, // of a product; the median counts
    REPEATS_MAX = 1000,
};
#define POOL_BYTES_MIN   ((size_t)512 << 20) // weights are taken from here in turn, so that they come from memory
#define SECONDS_PER_CASE 0.25

// uses x (y[rows, out] = x[rows, in] W^T, or with `backward` dx[rows, in] = dy[rows, out] W); W[out, in].
typedef struct Shape {
    const char *name;
    int64_t rows, in, out;
    double uses;
    bool backward, f32_result;
} Shape;

typedef struct Shapes {
    Shape list[SHAPES_MAX];
    int count;
} Shapes;

static void add(Shapes *shapes, const char *name, int64_t rows, int64_t in, int64_t out, double uses, bool backward) {
    if (rows > 0 && uses > 0)
        shapes->list[shapes->count++] =
            (Shape){.name = name, .rows = rows, .in = in, .out = out, .uses = uses, .backward = backward};
}

static void add_head(Shapes *shapes, const ModelConfig *c, int64_t rows, bool backward) {
    int64_t chunks = (rows + HEAD_ROWS - 1) / HEAD_ROWS; // of even size
    int first = shapes->count;
    if (chunks > 0) add(shapes, "head", (rows + chunks - 1) / chunks, c->hidden, c->vocab, (double)chunks, backward);
    for (int i = first; i < shapes->count; i++) shapes->list[i].f32_result = !backward; // logits
}

// A layer's q and o over `rows`, as `uses` layers need them; then gate, up and down.
static void add_wide(Shapes *shapes, const ModelConfig *c, int64_t rows, double q_uses, double uses, bool backward) {
    int64_t q = (int64_t)c->heads * c->head_dim;
    add(shapes, "q", rows, c->hidden, q, q_uses, backward);
    add(shapes, "o", rows, q, c->hidden, uses, backward);
    add(shapes, "gate, up", rows, c->hidden, c->intermediate, 2 * uses, backward);
    add(shapes, "down", rows, c->intermediate, c->hidden, uses, backward);
}

static void add_kv(Shapes *shapes, const ModelConfig *c, int64_t rows, double uses, bool backward) {
    add(shapes, "k, v", rows, c->hidden, (int64_t)c->kv_heads * c->head_dim, 2 * uses, backward);
}

// The regions of a batch: [prefixes | scored | kl]. In the last layer only scored tokens go beyond k and v; the first
// layer's q, k and v need no input gradient; kl tokens have no backward pass.
static Shapes step_shapes(const ModelConfig *c, int64_t prefix, int64_t scored, int64_t kl) {
    Shapes shapes = {.count = 0};
    int64_t all = prefix + scored + kl, kept = prefix + scored;
    double inner = c->layers - 1, later = c->layers > 1 ? c->layers - 2 : 0; // without the last; without first and last
    add_wide(&shapes, c, all, inner, inner, false);
    add_kv(&shapes, c, all, c->layers, false);
    add_wide(&shapes, c, scored + kl, 1, 1, false);
    add_head(&shapes, c, scored + kl, false);
    add_head(&shapes, c, scored, true);
    add_wide(&shapes, c, scored, c->layers > 1 ? 1 : 0, 1, true);
    add_wide(&shapes, c, kept, later, inner, true);
    add_kv(&shapes, c, kept, inner, true);
    return shapes;
}

static double flops(const Shape *shape) {
    return 2.0 * (double)shape->rows * (double)shape->in * (double)shape->out;
}

static void require(dnnl_status_t status, const char *what) {
    if (status == dnnl_success) return;
    fprintf(stderr, "bench_gemm: oneDNN: %s failed (status %d)\n", what, (int)status);
    exit(STATUS_FAILED);
}

static void *allocate(size_t bytes, const char *what) {
    void *out = NULL;
    if (memory_alloc(&out, 1, bytes, what) == STATUS_OK) return out;
    fprintf(stderr, "bench_gemm: %s\n", error_text());
    exit(STATUS_FAILED);
}

static dnnl_memory_desc_t matrix(int64_t rows, int64_t columns, dnnl_data_type_t type, bool transposed) {
    dnnl_memory_desc_t desc;
    const dnnl_dims_t dims = {rows, columns}, strides = {transposed ? 1 : columns, transposed ? rows : 1};
#if DNNL_VERSION_MAJOR >= 3
    require(dnnl_memory_desc_create_with_strides(&desc, 2, dims, type, strides), "a description");
#else
    require(dnnl_memory_desc_init_by_strides(&desc, 2, dims, type, strides), "a description");
#endif
    return desc;
}

static dnnl_memory_t memory_of(dnnl_engine_t engine, const dnnl_memory_desc_t *desc, void *data) {
    dnnl_memory_t memory;
#if DNNL_VERSION_MAJOR >= 3
    require(dnnl_memory_create(&memory, *desc, engine, data), "memory");
#else
    require(dnnl_memory_create(&memory, desc, engine, data), "memory");
#endif
    return memory;
}

static dnnl_primitive_t product(dnnl_engine_t engine, const dnnl_memory_desc_t *a, const dnnl_memory_desc_t *b,
                                const dnnl_memory_desc_t *c) {
    dnnl_primitive_desc_t description;
    dnnl_primitive_t primitive;
#if DNNL_VERSION_MAJOR >= 3
    require(dnnl_matmul_primitive_desc_create(&description, engine, *a, *b, NULL, *c, NULL), "a matmul");
#else
    dnnl_matmul_desc_t matmul;
    require(dnnl_matmul_desc_init(&matmul, a, b, NULL, c), "a matmul");
    require(dnnl_primitive_desc_create(&description, &matmul, NULL, engine, NULL), "a matmul");
#endif
    require(dnnl_primitive_create(&primitive, description), "a matmul");
    dnnl_primitive_desc_destroy(description);
    return primitive;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The median seconds of one product.
static double measure(dnnl_engine_t engine, dnnl_stream_t stream, const Shape *shape, dnnl_data_type_t type, char *pool,
                      size_t pool_bytes) {
    size_t element = type == dnnl_bf16 ? 2 : 4, weight_bytes = (size_t)(shape->in * shape->out) * element;
    int64_t inner = shape->backward ? shape->out : shape->in, columns = shape->backward ? shape->in : shape->out;
    dnnl_data_type_t result = shape->f32_result ? dnnl_f32 : type;
    dnnl_memory_desc_t a_desc = matrix(shape->rows, inner, type, false);
    dnnl_memory_desc_t b_desc = matrix(inner, columns, type, !shape->backward);
    dnnl_memory_desc_t c_desc = matrix(shape->rows, columns, result, false);
    void *x = allocate((size_t)(shape->rows * inner) * element, "input");
    void *y = allocate((size_t)(shape->rows * columns) * sizeof(float), "output");
    dnnl_memory_t a = memory_of(engine, &a_desc, x), b = memory_of(engine, &b_desc, pool),
                  c = memory_of(engine, &c_desc, y);
    dnnl_primitive_t primitive = product(engine, &a_desc, &b_desc, &c_desc);
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}};

    double seconds[REPEATS_MAX], total = 0;
    size_t at = 0;
    int repeats = 0;
    for (int run = -1; run < REPEATS_MAX && (run < REPEATS_MIN || total < SECONDS_PER_CASE); run++) { // run -1 warms up
        at = at + 2 * weight_bytes <= pool_bytes ? at + weight_bytes : 0;
        require(dnnl_memory_set_data_handle(b, pool + at), "memory");
        double start = clock_seconds();
        require(dnnl_primitive_execute(primitive, stream, 3, arguments), "a product");
        require(dnnl_stream_wait(stream), "a product");
        double took = clock_seconds() - start;
        if (run < 0) continue;
        seconds[repeats++] = took;
        total += took;
    }
    dnnl_primitive_destroy(primitive);
    dnnl_memory_destroy(a);
    dnnl_memory_destroy(b);
    dnnl_memory_destroy(c);
#if DNNL_VERSION_MAJOR >= 3
    dnnl_memory_desc_destroy(a_desc);
    dnnl_memory_desc_destroy(b_desc);
    dnnl_memory_desc_destroy(c_desc);
#endif
    free(x);
    free(y);
    qsort(seconds, (size_t)repeats, sizeof *seconds, by_value);
    return seconds[repeats / 2];
}

// The rate on all shapes, each weighted by its use: FLOPs of a step over the seconds its products take.
static double step_rate(const Shapes *shapes, dnnl_data_type_t type) {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    require(dnnl_engine_create(&engine, dnnl_cpu, 0), "an engine");
    require(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags), "a stream");
    size_t pool_bytes = POOL_BYTES_MIN;
    for (int i = 0; i < shapes->count; i++) {
        size_t weight_bytes = (size_t)(shapes->list[i].in * shapes->list[i].out) * sizeof(float);
        if (weight_bytes > pool_bytes) pool_bytes = weight_bytes;
    }
    char *pool = allocate(pool_bytes, "weights");
    float *values = (float *)pool; // small ones of every bit pattern; as bf16 pairs they are small as well
    for (size_t i = 0; i < pool_bytes / sizeof *values; i++) values[i] = 0.01f + 1e-9f * (float)(i % 65536);
    double work = 0, time = 0;
    for (int i = 0; i < shapes->count; i++) {
        const Shape *shape = &shapes->list[i];
        double seconds = measure(engine, stream, shape, type, pool, pool_bytes);
        fprintf(stderr, "%-5s %-8s %-8s [%5ld, %5ld] x W[%5ld, %5ld]  x%-4.0f %8.1f GFLOP/s\n",
                type == dnnl_bf16 ? "bf16" : "fp32", shape->backward ? "backward" : "forward", shape->name,
                (long)shape->rows, (long)(shape->backward ? shape->out : shape->in), (long)shape->out, (long)shape->in,
                shape->uses, flops(shape) / seconds * 1e-9);
        work += shape->uses * flops(shape);
        time += shape->uses * seconds;
    }
    free(pool);
    dnnl_stream_destroy(stream);
    dnnl_engine_destroy(engine);
    return work / time;
}

static int64_t tokens(const char *word) {
    char *end;
    errno = 0;
    long value = strtol(word, &end, 10);
    if (errno == 0 && *end == '\0' && end != word && value >= 0 && value <= 1 << 20) return value;
    fprintf(stderr, "bench_gemm: \"%s\" must be a number of tokens from 0 to %d\n", word, 1 << 20);
    exit(STATUS_USAGE);
}

int main(int argc, char **argv) {
    const bool print_shapes = argc == 6 && strcmp(argv[5], "shapes") == 0;
    if (argc != 5 && !print_shapes) {
        fprintf(stderr, "usage: bench_gemm MODEL_DIR PREFIX_TOKENS SCORED_TOKENS KL_TOKENS [shapes]\n");
        return STATUS_USAGE;
    }
    ModelConfig config;
    Status status = model_config_read(&config, argv[1]);
    if (status != STATUS_OK) {
        fprintf(stderr, "bench_gemm: %s\n", error_text());
        return (int)status;
    }
    Shapes shapes = step_shapes(&config, tokens(argv[2]), tokens(argv[3]), tokens(argv[4]));
    if (print_shapes) {
        for (int i = 0; i < shapes.count; i++) {
            const Shape *s = &shapes.list[i];
            printf("%ld %ld %ld %g %d %d %s\n", (long)s->rows, (long)s->in, (long)s->out, s->uses, s->backward,
                   s->f32_result, s->name);
        }
        return 0;
    }
    double work = 0;
    for (int i = 0; i < shapes.count; i++) work += shapes.list[i].uses * flops(&shapes.list[i]);
    printf("useful_gflop %.3f\n", work * 1e-9);
    printf("bf16_gflops %.1f\n", step_rate(&shapes, dnnl_bf16) * 1e-9);
    printf("fp32_gflops %.1f\n", step_rate(&shapes, dnnl_f32) * 1e-9);
    return 0;
}
