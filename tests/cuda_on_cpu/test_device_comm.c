// comm/device_comm.h with the NCCL of comm/nccl over the stand-in's: run as `mpirun -n N test_device_comm [what]` with
// a "GPU" a rank (KTO_STANDIN_DEVICES) and KTO_MODULE_DIR naming the stand-in's modules. Without `what`, sums of
// exactly representable values, and bits of those that are not. The others are failures: "missing" (a rank that never
// comes to the sum), "injected" (as the environment asks), "shared" (two ranks on one GPU).
#include "comm/device_comm.h"
#include "src/base/clock.h"
#include "src/base/hash.h"
#include "src/base/rng.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIMIT_SECONDS 1.0

static Comm comm;

static void check(bool good, int line, const char *what) {
    if (good) return;
    fprintf(stderr, "rank %d: tests/cuda_on_cpu/test_device_comm.c:%d: %s (%s)\n", comm.rank, line, what, error_text());
    comm_abort(&comm, 1);
}
#define CHECK(condition) check(condition, __LINE__, #condition)
#define OK(call)         CHECK((call) == STATUS_OK)
#define CUDA(call)       CHECK((call) == cudaSuccess)

static DeviceComm *device_comm;
static cudaStream_t stream;

static Status join(int device) {
    const DeviceCommLibrary *library;
    OK(device_comm_find(&library));
    CUDA(cudaSetDevice(device));
    CUDA(cudaStreamCreate(&stream));
    return device_comm_open(&comm, library, device, stream, &device_comm);
}

static void sum(float *host, size_t count) {
    void *values;
    CUDA(cudaMalloc(&values, (count + 1) * sizeof *host));
    CUDA(cudaMemcpyAsync(values, host, count * sizeof *host, cudaMemcpyHostToDevice, stream));
    OK(device_comm_sum_start(device_comm, values, count));
    OK(device_comm_wait(device_comm));
    CUDA(cudaMemcpyAsync(host, values, count * sizeof *host, cudaMemcpyDeviceToHost, stream));
    CUDA(cudaStreamSynchronize(stream));
    CUDA(cudaFree(values));
}

static void test_exact_sum(void) {
    const size_t counts[] = {0, 1, 5, 1000, 300001};
    const size_t factor = (size_t)comm.size * (size_t)(comm.size + 1) / 2;
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        float *values = malloc((counts[c] + 1) * sizeof *values);
        CHECK(values != NULL);
        for (size_t i = 0; i < counts[c]; i++) values[i] = (float)((i % 1000) * (size_t)(comm.rank + 1));
        sum(values, counts[c]);
        for (size_t i = 0; i < counts[c]; i++) CHECK(values[i] == (float)((i % 1000) * factor));
        free(values);
    }
}

// Ranks arrive in another order each time; the sum's bits may not follow.
static void test_sum_bits(void) {
    enum { COUNT = 65537 };
    float *values = malloc(COUNT * sizeof *values);
    int64_t *all = malloc((size_t)comm.node_size * sizeof *all), first = 0;
    CHECK(values != NULL && all != NULL);
    for (int repeat = 0; repeat < 4; repeat++) {
        Rng rng = rng_make(7, RNG_SAMPLE, (uint32_t)comm.rank);
        for (size_t i = 0; i < COUNT; i++) values[i] = (float)(rng_uniform(&rng) - 0.5);
        usleep((useconds_t)((comm.rank + repeat) % comm.size) * 2000);
        sum(values, COUNT);
        const int64_t hash = (int64_t)hash_bytes(0, values, COUNT * sizeof *values);
        if (repeat == 0) first = hash;
        CHECK(hash == first);
        OK(comm_node_gather(&comm, "hashes", &hash, 1, all));
        for (int i = 0; i < comm.node_size; i++) CHECK(all[i] == hash);
    }
    free(all);
    free(values);
}

// The end of a test of failures, which all ranks must have passed. MPI still holds sums that never end, so not by
// comm_close.
static void end_failed(void) {
    OK(comm_barrier(&comm, "a meeting"));
    comm_abort(&comm, 0);
}

// The last rank does not sum: the others end within the limit, saying so, and waits are accounted for.
static void test_missing(void) {
    OK(join(comm.rank));
    void *values;
    CUDA(cudaMalloc(&values, 64 * sizeof(float)));
    CUDA(cudaMemset(values, 0, 64 * sizeof(float)));
    if (comm.rank < comm.size - 1) {
        comm.timeout_seconds = LIMIT_SECONDS;
        comm.wait_seconds = 0;
        const double start = clock_seconds();
        OK(device_comm_sum_start(device_comm, values, 64));
        CHECK(device_comm_wait(device_comm) == STATUS_FAILED);
        const double took = clock_seconds() - start;
        CHECK(took >= LIMIT_SECONDS && took < LIMIT_SECONDS + 10);
        CHECK(comm.wait_seconds >= LIMIT_SECONDS);
        char name[32];
        snprintf(name, sizeof name, "rank %d (host ", comm.size - 1);
        CHECK(strncmp(error_text(), name, strlen(name)) == 0); // and no other
        CHECK(strstr(error_text(), ") did not reach the sum of gradients within 1 s; the job ends") != NULL);
        comm.timeout_seconds = 60;
    } else {
        usleep((useconds_t)(4e6 * LIMIT_SECONDS)); // later than the most patient
    }
    device_comm_close(device_comm); // ends at once after an error
    end_failed();
}

// KTO_STANDIN_FAIL fails a call on every rank: an error with NCCL's words, and nobody waits.
static void test_injected(const char *words) {
    comm.timeout_seconds = 5;
    Status status = join(comm.rank);
    void *values;
    CUDA(cudaMalloc(&values, 64 * sizeof(float)));
    CUDA(cudaMemset(values, 0, 64 * sizeof(float)));
    for (int i = 0; i < 3 && status == STATUS_OK; i++) {
        status = device_comm_sum_start(device_comm, values, 64);
        if (status == STATUS_OK) status = device_comm_wait(device_comm);
    }
    CHECK(status == STATUS_FAILED);
    CHECK(strstr(error_text(), words) != NULL);
    end_failed();
}

int main(int argc, char **argv) {
    if (comm_open(&comm, &argc, &argv) != STATUS_OK) {
        fprintf(stderr, "%s\n", error_text());
        return 1;
    }
    comm.timeout_seconds = 60;
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "missing") == 0) test_missing();
    if (strcmp(what, "injected") == 0) test_injected(argc > 2 ? argv[2] : "");
    if (strcmp(what, "shared") == 0) {
        CHECK(join(0) == STATUS_FAILED);
        CHECK(strstr(error_text(), "Duplicate GPU") != NULL);
        end_failed();
    }
    OK(join(comm.rank));
    test_exact_sum();
    test_sum_bits();
    OK(comm_barrier(&comm, "a meeting"));
    device_comm_close(device_comm);
    comm_close(&comm);
    return 0;
}
