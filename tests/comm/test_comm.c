// comm.h among the ranks of one job: run as `mpirun -n N test_comm`. Sums use exactly representable values, so that
// every rank knows the answer, and values that are not, whose bits must agree between ranks and repetitions.
#include "comm/comm.h"
#include "src/base/clock.h"
#include "src/base/hash.h"
#include "src/base/rng.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static Comm comm;

// One failing rank ends the job, as the program would.
static void check(bool good, int line, const char *what) {
    if (good) return;
    fprintf(stderr, "rank %d: tests/comm/test_comm.c:%d: %s (%s)\n", comm.rank, line, what, error_text());
    comm_abort(&comm, 1);
}
#define CHECK(condition) check(condition, __LINE__, #condition)
#define OK(call)         CHECK((call) == STATUS_OK)

static float *random_values(size_t count, uint32_t stream) {
    float *values = malloc((count + 1) * sizeof *values);
    CHECK(values != NULL);
    Rng rng = rng_make(7, RNG_SAMPLE, stream);
    for (size_t i = 0; i < count; i++) values[i] = (float)(rng_uniform(&rng) - 0.5);
    return values;
}

static void test_exact_sum(void) {
    const size_t counts[] = {0, 1, 5, 1000, 300001};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        float *values = malloc((counts[c] + 1) * sizeof *values);
        CHECK(values != NULL);
        for (size_t i = 0; i < counts[c]; i++) values[i] = (float)((i % 1000) * (size_t)(comm.rank + 1));
        CommRequest request;
        OK(comm_sum_start(&comm, "a sum", values, counts[c], &request));
        OK(comm_wait(&comm, &request));
        CHECK(request.handle == NULL);
        size_t factor = (size_t)comm.size * (size_t)(comm.size + 1) / 2;
        for (size_t i = 0; i < counts[c]; i++) CHECK(values[i] == (float)((i % 1000) * factor));
        free(values);
    }
}

// Ranks arrive in another order each time; the sum's bits may not follow.
static void test_sum_bits(void) {
    const size_t counts[] = {3, 777, 65536, 1126400};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        uint64_t first = 0;
        for (int repeat = 0; repeat < 6; repeat++) {
            float *values = random_values(counts[c], (uint32_t)comm.rank);
            usleep((useconds_t)((comm.rank + repeat) % comm.size) * 2000);
            CommRequest request;
            OK(comm_sum_start(&comm, "a sum", values, counts[c], &request));
            OK(comm_wait(&comm, &request));
            int64_t hash = (int64_t)hash_bytes(0, values, counts[c] * sizeof *values);
            if (repeat == 0) first = (uint64_t)hash;
            CHECK((uint64_t)hash == first);
            int64_t *all = malloc((size_t)comm.node_size * sizeof *all);
            CHECK(all != NULL);
            OK(comm_node_gather(&comm, "hashes", &hash, 1, all));
            for (int i = 0; i < comm.node_size; i++) CHECK(all[i] == hash);
            free(all);
            free(values);
        }
    }
}

static void test_gather(void) {
    size_t *bytes = calloc((size_t)comm.size, sizeof *bytes), total = 0;
    CHECK(bytes != NULL);
    for (int i = 0; i < comm.size; i++) total += bytes[i] = i == 1 ? 0 : 3 * (size_t)(i + 1); // an idle rank: nothing
    unsigned char mine[64], all[256];
    for (size_t i = 0; i < bytes[comm.rank]; i++) mine[i] = (unsigned char)(100 * comm.rank + (int)i);
    CHECK(total <= sizeof all && bytes[comm.rank] <= sizeof mine);
    OK(comm_gather(&comm, "bytes", mine, bytes, all));
    size_t at = 0;
    for (int rank = 0; rank < comm.size; rank++)
        for (size_t i = 0; i < bytes[rank]; i++) CHECK(all[at++] == (unsigned char)(100 * rank + (int)i));
    free(bytes);
}

// Values that a double cannot hold.
static void test_int64(void) {
    const int64_t big = ((int64_t)1 << 62) + 1, mine[2] = {big + comm.rank, -comm.rank};
    int64_t *all = malloc(2 * (size_t)comm.size * sizeof *all);
    CHECK(all != NULL);
    OK(comm_gather_int64(&comm, "numbers", mine, 2, all));
    for (int r = 0; r < comm.size; r++) CHECK(all[2 * r] == big + r && all[2 * r + 1] == -r);
    free(all);
    int64_t most[3] = {big + comm.rank, -big - comm.rank, comm.rank == comm.size - 1};
    OK(comm_max(&comm, "numbers", most, 3));
    CHECK(most[0] == big + comm.size - 1 && most[1] == -big && most[2] == 1);
}

static void test_two_at_once(void) {
    size_t *bytes = calloc((size_t)comm.size, sizeof *bytes);
    double *all = malloc((size_t)comm.size * sizeof *all), mine = comm.rank;
    CHECK(bytes != NULL && all != NULL);
    for (int i = 0; i < comm.size; i++) bytes[i] = sizeof mine;
    float *values = random_values(50000, 1);
    float first = values[0];
    CommRequest sum, gather;
    OK(comm_sum_start(&comm, "a sum", values, 50000, &sum));
    OK(comm_gather_start(&comm, "numbers", &mine, bytes, all, &gather));
    memset(bytes, 0x7f, (size_t)comm.size * sizeof *bytes); // the caller's array may go once started
    OK(comm_wait(&comm, &gather));
    OK(comm_wait(&comm, &sum));
    for (int i = 0; i < comm.size; i++) CHECK(all[i] == i);
    if (comm.size <= 2) CHECK(values[0] == first * (float)comm.size); // rounds once with three
    free(bytes);
    free(all);
    free(values);
}

static void test_broadcast(void) {
    char text[1000];
    for (int root = 0; root < comm.size; root++) {
        memset(text, comm.rank == root ? 'a' + root : '?', sizeof text);
        OK(comm_broadcast(&comm, "a text", text, sizeof text, root));
        for (size_t i = 0; i < sizeof text; i++) CHECK(text[i] == 'a' + root);
    }
    OK(comm_broadcast(&comm, "a text", text, 0, 0));
}

static void test_agree(void) {
    CHECK(comm_agree(&comm, STATUS_OK) == STATUS_OK);
    CHECK(error_text()[0] == '\0');
    CHECK(comm_agree(&comm, comm.rank == comm.size - 1 ? STATUS_STOPPED : STATUS_OK) == STATUS_STOPPED);

    int bad = comm.size - 1;
    Status mine = comm.rank == bad ? error_set(STATUS_DATA, "rows.jsonl:%d: broken", 7 + bad) : STATUS_OK;
    CHECK(comm_agree(&comm, mine) == STATUS_DATA);
    CHECK(error_is_shared());
    char expected[64];
    snprintf(expected, sizeof expected, "rows.jsonl:%d: broken", 7 + bad);
    CHECK(strcmp(error_text(), expected) == 0);
    error_clear();
    CHECK(!error_is_shared());

    // All fail: the lowest rank's text everywhere.
    mine = error_set(STATUS_FAILED, "rank %d failed", comm.rank);
    CHECK(comm_agree(&comm, mine) == STATUS_FAILED);
    CHECK(strcmp(error_text(), "rank 0 failed") == 0);
    error_clear();

    // An error is worse than being asked to stop.
    mine = comm.rank == 0 ? error_set(STATUS_FAILED, "disk full") : STATUS_STOPPED;
    CHECK(comm_agree(&comm, mine) == STATUS_FAILED);
    CHECK(strcmp(error_text(), "disk full") == 0);
    error_clear();
}

static void test_node_memory(void) {
    for (size_t count = 1; count <= 1000000; count *= 1000) {
        void *memory = NULL;
        OK(comm_node_alloc(&comm, count * sizeof(int64_t), "test values", &memory));
        int64_t *values = memory;
        CHECK((uintptr_t)memory % 64 == 0);
        for (size_t i = 0; i < count; i++) CHECK(values[i] == 0);
        OK(comm_node_barrier(&comm, "a meeting"));
        for (size_t i = (size_t)comm.node_rank; i < count; i += (size_t)comm.node_size) values[i] = (int64_t)i + 1;
        OK(comm_node_barrier(&comm, "a meeting"));
        for (size_t i = 0; i < count; i++) CHECK(values[i] == (int64_t)i + 1);
    }
    if (comm.node_size == 1) return;
    // More than any machine has: an error on every rank, in time, that names the size.
    void *memory = NULL;
    CHECK(comm_node_alloc(&comm, (size_t)1 << 50, "test values", &memory) == STATUS_FAILED);
    CHECK(memory == NULL && strstr(error_text(), "test values") != NULL && strstr(error_text(), "MiB") != NULL);
    error_clear();
}

static void test_timeout(void) {
    if (comm.size == 1) return;
    double limit = comm.timeout_seconds;
    comm.wait_seconds = 0;
    if (comm.rank == 0) {
        comm.timeout_seconds = 0.2;
        double mine = 0, *all = calloc((size_t)comm.size, sizeof *all), start = clock_seconds();
        size_t *bytes = calloc((size_t)comm.size, sizeof *bytes);
        CHECK(all != NULL && bytes != NULL);
        for (int i = 0; i < comm.size; i++) bytes[i] = sizeof mine;
        CommRequest request;
        OK(comm_gather_start(&comm, "the exchange of records", &mine, bytes, all, &request));
        CHECK(comm_wait(&comm, &request) == STATUS_FAILED);
        CHECK(clock_seconds() - start >= 0.2 && comm.wait_seconds >= 0.2);
        for (int r = 1; r < comm.size; r++) { // each is named, with its place
            char name[32];
            snprintf(name, sizeof name, "rank %d (host ", r);
            CHECK(strstr(error_text(), name) != NULL);
        }
        CHECK(strstr(error_text(), ") did not reach the exchange of records within 0.2 s; the job ends") != NULL);
        error_clear();
        comm.timeout_seconds = limit;
        OK(comm_wait(&comm, &request)); // the late ranks come after all
        free(all);
        free(bytes);
    } else {
        sleep(3); // later than rank 0 waits, however busy the machine is
        double mine = comm.rank, *all = calloc((size_t)comm.size, sizeof *all);
        size_t *bytes = calloc((size_t)comm.size, sizeof *bytes);
        CHECK(all != NULL && bytes != NULL);
        for (int i = 0; i < comm.size; i++) bytes[i] = sizeof mine;
        OK(comm_gather(&comm, "the exchange of records", &mine, bytes, all));
        free(all);
        free(bytes);
    }
}

// A rank that has reached a collective and then hangs: the others answer the witness, it does not.
static void test_hang(void) {
    if (comm.size < 3) return;
    const double limit = comm.timeout_seconds;
    const int last = comm.size - 1;
    const size_t count = 1 << 20; // too many to be sent ahead
    float *values = calloc(count, sizeof *values);
    CHECK(values != NULL);
    for (size_t i = 0; i < count; i++) values[i] = 1;
    CommRequest request;
    OK(comm_barrier(&comm, "a meeting"));
    OK(comm_sum_start(&comm, "the sum of gradients", values, count, &request));
    if (comm.rank == last) sleep(5); // longer than rank 0 waits and asks, however busy the machine is
    if (comm.rank == 0) {
        comm.timeout_seconds = 0.2;
        CHECK(comm_wait(&comm, &request) == STATUS_FAILED);
        char name[32];
        for (int r = 1; r < last; r++) {
            snprintf(name, sizeof name, "rank %d (host ", r);
            CHECK(strstr(error_text(), name) == NULL);
        }
        snprintf(name, sizeof name, "rank %d (host ", last);
        CHECK(strncmp(error_text(), name, strlen(name)) == 0);
        CHECK(strstr(error_text(), ") reached the sum of gradients but answered nothing for 0.2 s; the job ends") !=
              NULL);
        error_clear();
        comm.timeout_seconds = limit;
    }
    OK(comm_wait(&comm, &request));
    CHECK(values[0] == (float)comm.size && values[count - 1] == (float)comm.size);
    free(values);
}

int main(int argc, char **argv) {
    if (comm_open(&comm, &argc, &argv) != STATUS_OK) {
        fprintf(stderr, "%s\n", error_text());
        return 1;
    }
    comm.timeout_seconds = 60;
    if (argc > 2 && strcmp(argv[1], "--abort") == 0) { // the last rank ends the job while the others wait
        if (comm.rank == comm.size - 1) comm_abort(&comm, atoi(argv[2]));
        OK(comm_barrier(&comm, "a meeting"));
    }
    if (argc > 1 && strcmp(argv[1], "--size") == 0) CHECK(argc > 2 && comm.size == atoi(argv[2]));
    test_exact_sum();
    test_sum_bits();
    test_gather();
    test_int64();
    test_two_at_once();
    test_broadcast();
    test_agree();
    test_node_memory();
    test_timeout();
    test_hang();
    OK(comm_barrier(&comm, "a meeting"));
    comm_close(&comm);
    return 0;
}
