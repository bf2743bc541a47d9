// Measures decoding on the CPU device: tokens a second for 1 to 64 sequences at a time, and how much of the memory's
// bandwidth reading the weights once a step comes to (docs/speed.md). It goes through model_decode as sampling does,
// greedily and without an end, from a cache that holds CONTEXT tokens already.
//
//     bench_decode MODEL_DIR [TOKENS 32] [CONTEXT 128] [LORA_R 8] [bfloat16 | float32] [SEQUENCES, 0: several]
#include "comm/comm.h"
#include "src/base/clock.h"
#include "src/base/memory.h"
#include "src/model.h"

#include <errno.h>
#include <limits.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 5, SEQUENCES_MAX = 64, WARM = 2 };
#define READ_BYTES ((size_t)1 << 30) // far more than any cache

static const int32_t sequence_counts[] = {1, 2, 4, 8, 16, 32, 64};

typedef struct Bench {
    Model model;
    int32_t tokens, context;
    Segment segments[SEQUENCES_MAX];
    QueryRange queries[SEQUENCES_MAX];
    float *logits;   // [SEQUENCES_MAX, vocab]
    double *seconds; // [tokens]
} Bench;

typedef struct StepTime {
    double median, best; // seconds
} StepTime;

static _Noreturn void stop(Comm *comm, Status status) {
    fprintf(stderr, "bench_decode: %s\n", error_text());
    comm_abort(comm, (int)status);
}

// The best of several passes in which every thread reads its part of a buffer, in bytes a second.
static Status read_bandwidth(double *out) {
    uint64_t *buffer, kept = 0;
    const size_t count = READ_BYTES / sizeof *buffer;
    TRY(MEMORY_ALLOC(buffer, count, "the buffer that is read"));
    *out = 0;
    for (int round = 0; round <= ROUNDS; round++) {
        const double start = clock_seconds();
#pragma omp parallel reduction(+ : kept)
        {
            const size_t threads = (size_t)omp_get_num_threads(), thread = (size_t)omp_get_thread_num();
            const size_t begin = count * thread / threads, end = count * (thread + 1) / threads;
            uint64_t sum = 0;
            if (round == 0) { // gives every page memory of its own
                for (size_t i = begin; i < end; i++) buffer[i] = i;
            } else {
                for (size_t i = begin; i < end; i++) sum += buffer[i];
            }
            kept += sum;
        }
        const double rate = (double)READ_BYTES / (clock_seconds() - start);
        if (round > 0 && rate > *out) *out = rate;
    }
    if (kept == 0) fprintf(stderr, "bench_decode: nothing was read\n"); // keeps the sums alive
    free(buffer);
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

// A step of `count` sequences, of the bench's tokens after the first two.
static Status step_seconds(Bench *bench, int32_t count, StepTime *out) {
    Model *model = &bench->model;
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
    }
    const size_t counted = (size_t)bench->tokens - WARM;
    qsort(bench->seconds + WARM, counted, sizeof *bench->seconds, by_value);
    *out = (StepTime){bench->seconds[WARM + counted / 2], bench->seconds[WARM]};
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
                            .lora_target = {[0] = true, [2] = true}, // q_proj and v_proj
                            .max_positions = bench.context + bench.tokens};
    Comm comm;
    Status status = comm_open(&comm, &argc, &argv);
    if (status != STATUS_OK) stop(&comm, status);
    if ((status = model_open(model, argv[1], &options, &comm)) != STATUS_OK) stop(&comm, status);
    if (options.lora_r > 0 && (status = model_init_adapter(model, 1)) != STATUS_OK) stop(&comm, status);
    if (options.lora_r > 0 && (status = model_adapter_changed(model)) != STATUS_OK) stop(&comm, status);
    status = MEMORY_ALLOC(bench.logits, SEQUENCES_MAX * (size_t)model->config.vocab, "logits");
    if (status == STATUS_OK) status = MEMORY_ALLOC(bench.seconds, bench.tokens, "times");
    if (status != STATUS_OK) stop(&comm, status);

    DeviceInfo info;
    backend_cpu.info(model->device, &info);
    double bandwidth, again;
    if ((status = read_bandwidth(&bandwidth)) != STATUS_OK) stop(&comm, status);
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
    if ((status = read_bandwidth(&again)) != STATUS_OK) stop(&comm, status);
    if (again > bandwidth) bandwidth = again; // what is beside this process on the machine comes and goes
    printf("memory is read at %.1f GB/s\n", bandwidth * 1e-9);
    printf("%9s %10s %10s %10s %13s %9s %14s\n", "sequences", "ms a step", "best", "tokens/s", "weights GB/s", "share",
           "share of best");
    for (size_t i = 0; i < cases; i++) {
        const double rate = bytes / times[i].median, best_rate = bytes / times[i].best;
        printf("%9d %10.3f %10.3f %10.1f %13.2f %8.1f%% %13.1f%%\n", counts[i], times[i].median * 1e3,
               times[i].best * 1e3, counts[i] / times[i].median, rate * 1e-9, 100 * rate / bandwidth,
               100 * best_rate / bandwidth);
    }
    free(bench.seconds);
    free(bench.logits);
    model_close(model);
    comm_close(&comm);
    return 0;
}
