// Measures decoding on the CPU device: tokens a second for 1 to 64 sequences at a time, and how much of the memory's
// bandwidth reading the weights once a step comes to (docs/speed.md). It goes through model_decode as sampling does,
// greedily and without an end, from a cache that holds CONTEXT tokens already.
//
//     bench_decode MODEL_DIR [TOKENS 32] [CONTEXT 128] [LORA_R 8] [bfloat16 | float32] [SEQUENCES, 0: several]
#include "comm/comm.h"
#include "src/base/clock.h"
#include "src/base/memory.h"
#include "src/model/decode.h"

#include <errno.h>
#include <limits.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEQUENCES_MAX = 64, WARM = 2 };
#define READ_BYTES ((size_t)1 << 30) // far more than any cache

static const int32_t sequence_counts[] = {1, 2, 4, 8, 16, 32, 64};

typedef struct Bench {
    Model model;
    int32_t tokens, context;
    Segment segments[SEQUENCES_MAX];
    QueryRange queries[SEQUENCES_MAX];
    float *logits;    // [SEQUENCES_MAX, vocab]
    uint64_t *buffer; // [READ_BYTES]
    uint64_t kept;    // of what was read, or the compiler reads nothing
    double *seconds;  // [tokens]
    double *read;     // [tokens] seconds of a pass over the buffer, right after the step
    double *share;    // [tokens] of that pass's rate, which the step's had
} Bench;

typedef struct StepTime {
    double median, best;           // seconds
    double read_median, read_best; // seconds
    double share;                  // the median
} StepTime;

static _Noreturn void stop(Comm *comm, Status status) {
    fprintf(stderr, "bench_decode: %s\n", error_text());
    comm_abort(comm, (int)status);
}

// A pass in which every thread reads its part of the buffer.
static double read_seconds(Bench *bench) {
    const size_t count = READ_BYTES / sizeof *bench->buffer;
    const uint64_t *buffer = bench->buffer;
    uint64_t kept = 0;
    const double start = clock_seconds();
#pragma omp parallel for schedule(static) reduction(+ : kept)
    for (size_t i = 0; i < count; i++) kept += buffer[i];
    const double seconds = clock_seconds() - start;
    bench->kept += kept;
    return seconds;
}

static Status open_buffer(Bench *bench) {
    const size_t count = READ_BYTES / sizeof *bench->buffer;
    TRY(MEMORY_ALLOC(bench->buffer, count, "the buffer that is read"));
    uint64_t *buffer = bench->buffer;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < count; i++) buffer[i] = i; // gives every page memory of its own
    return STATUS_OK;
}

// Bytes of weights that a step reads, whatever the number of its sequences: all but the embedding.
static double step_bytes(const ModelConfig *c, DType dtype) {
    return (double)model_weight_bytes(c, dtype) -
           (c->tied_head ? 0 : (double)c->vocab * c->hidden * (double)dtype_size(dtype));
}

static int32_t best_token(const float *logits, int32_t vocab) {
    int32_t best = 0;
    for (int32_t i = 1; i < vocab; i++) best = logits[i] > logits[best] ? i : best;
    return best;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count) {
    qsort(values, count, sizeof *values, by_value);
    return values[count / 2];
}

// A step of `count` sequences, of the bench's tokens after the first two. What the memory gives comes and goes with
// what is beside this process on the machine: so each step is compared with a pass over the buffer at its side.
static Status step_seconds(Bench *bench, int32_t count, StepTime *out) {
    Model *model = &bench->model;
    const double bytes = step_bytes(&model->config, model->options.device.dtype);
    const int32_t vocab = model->config.vocab, rows = bench->context + bench->tokens;
    int32_t token[SEQUENCES_MAX], position[SEQUENCES_MAX], place[SEQUENCES_MAX];
    TRY(model_decode_open(model, rows * count, count));
    for (int32_t i = 0; i < count; i++) token[i] = i % vocab;
    for (int32_t step = 0; step < bench->tokens; step++) {
        const double start = clock_seconds();
        for (int32_t i = 0; i < count; i++) {
            position[i] = bench->context + step;
            place[i] = i * rows + position[i];
            bench->segments[i] = (Segment){i * rows, position[i] + 1, 0, -1};
            bench->queries[i] = (QueryRange){i, position[i], 1, i};
        }
        TRY(model_decode(model, token, position, place, count, bench->segments, count, bench->queries, count,
                         model->options.lora_r > 0, bench->logits));
        for (int32_t i = 0; i < count; i++) token[i] = best_token(bench->logits + (size_t)i * (size_t)vocab, vocab);
        bench->seconds[step] = clock_seconds() - start;
        bench->read[step] = read_seconds(bench);
        bench->share[step] = bytes / bench->seconds[step] / ((double)READ_BYTES / bench->read[step]);
    }
    const size_t counted = (size_t)bench->tokens - WARM;
    out->median = median(bench->seconds + WARM, counted);
    out->read_median = median(bench->read + WARM, counted);
    out->share = median(bench->share + WARM, counted);
    out->best = bench->seconds[WARM]; // they are in order now
    out->read_best = bench->read[WARM];
    model_decode_close(model);
    return STATUS_OK;
}

// argv[at], or `other` when it is not given.
static int32_t number(int argc, char **argv, int at, int32_t low, int32_t high, int32_t other) {
    if (at >= argc) return other;
    char *end;
    errno = 0;
    const long value = strtol(argv[at], &end, 10);
    if (errno == 0 && end != argv[at] && *end == '\0' && value >= low && value <= high) return (int32_t)value;
    fprintf(stderr, "bench_decode: \"%s\" must be a number from %d to %d\n", argv[at], low, high);
    exit(STATUS_USAGE);
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 7) {
        fprintf(stderr, "usage: bench_decode MODEL_DIR [TOKENS [CONTEXT [LORA_R [bfloat16 | float32 [SEQUENCES]]]]]\n");
        return STATUS_USAGE;
    }
    Bench bench = {.tokens = number(argc, argv, 2, 4, 1 << 16, 32), .context = number(argc, argv, 3, 0, 1 << 16, 128)};
    Model *model = &bench.model;
    ModelOptions options = {.backend = &backend_cpu,
                            .device.dtype = argc > 5 && strcmp(argv[5], "float32") == 0 ? DTYPE_F32 : DTYPE_BF16,
                            .lora_r = number(argc, argv, 4, 0, 256, 8),
                            .lora_alpha = 16,
                            .lora_target = {[ARCH_Q] = true, [ARCH_V] = true},
                            .max_positions = bench.context + bench.tokens};
    Comm comm;
    Status status = comm_open(&comm, &argc, &argv);
    if (status != STATUS_OK) stop(&comm, status);
    if ((status = model_open(model, argv[1], &options, &comm)) != STATUS_OK) stop(&comm, status);
    if (options.lora_r > 0 && (status = model_init_adapter(model, 1)) != STATUS_OK) stop(&comm, status);
    if (options.lora_r > 0 && (status = model_adapter_changed(model)) != STATUS_OK) stop(&comm, status);
    status = MEMORY_ALLOC(bench.logits, SEQUENCES_MAX * (size_t)model->config.vocab, "logits");
    if (status == STATUS_OK) status = MEMORY_ALLOC(bench.seconds, bench.tokens, "times");
    if (status == STATUS_OK) status = MEMORY_ALLOC(bench.read, bench.tokens, "times");
    if (status == STATUS_OK) status = MEMORY_ALLOC(bench.share, bench.tokens, "times");
    if (status == STATUS_OK) status = open_buffer(&bench);
    if (status != STATUS_OK) stop(&comm, status);

    DeviceInfo info;
    backend_cpu.info(model->device, &info);
    const double bytes = step_bytes(&model->config, options.device.dtype);
    printf("%s\n", info.name);
    printf("weights read a step: %.3f GB; tokens: %d after %d; lora r: %d\n", bytes * 1e-9, bench.tokens, bench.context,
           options.lora_r);
    StepTime times[sizeof sequence_counts / sizeof *sequence_counts];
    const int32_t only = number(argc, argv, 6, 0, SEQUENCES_MAX, 0);
    const int32_t *counts = only > 0 ? &only : sequence_counts;
    const size_t cases = only > 0 ? 1 : sizeof sequence_counts / sizeof *sequence_counts;
    for (size_t i = 0; i < cases; i++)
        if ((status = step_seconds(&bench, counts[i], &times[i])) != STATUS_OK) stop(&comm, status);
    printf("%9s %10s %10s %13s %12s %9s %13s\n", "sequences", "ms a step", "tokens/s", "weights GB/s", "memory GB/s",
           "share", "best of both");
    for (size_t i = 0; i < cases; i++) {
        const StepTime *t = &times[i];
        printf("%9d %10.3f %10.1f %13.2f %12.2f %8.1f%% %12.1f%%\n", counts[i], t->median * 1e3, counts[i] / t->median,
               bytes / t->median * 1e-9, (double)READ_BYTES / t->read_median * 1e-9, 100 * t->share,
               100 * bytes / t->best / ((double)READ_BYTES / t->read_best));
    }
    if (bench.kept == 0) return 1;
    free(bench.buffer);
    free(bench.read);
    free(bench.share);
    free(bench.seconds);
    free(bench.logits);
    model_close(model);
    comm_close(&comm);
    return 0;
}
