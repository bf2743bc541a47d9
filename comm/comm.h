// Between ranks. Every collective is start + wait; the wait has a time limit, so that a missing rank is an error with a
// message and never a silent hang. All buffers are host memory. Collectives are entered by all ranks in the same order.
#pragma once
#include "src/base/status.h"
#include <stddef.h>
#include <stdint.h>

typedef struct Comm {
    int rank, size;
    int node_rank, node_size; // ranks that share this machine's memory
    double timeout_seconds;   // of every wait
    double wait_seconds;      // spent in waits since the caller last zeroed it
    struct CommState *state;
} Comm;

typedef struct CommRequest {
    void *handle; // NULL: nothing under way
    const char *what;
} CommRequest;

// Starts MPI, except in a program that no launcher (mpirun, srun) started: that is a job of one rank. Messages before
// this come from every rank.
Status comm_open(Comm *comm, int *argc, char ***argv);
// Meets the other ranks and ends MPI. After an error use comm_abort.
void comm_close(Comm *comm);
// Ends the whole job with this exit code, from any rank, at once.
_Noreturn void comm_abort(Comm *comm, int exit_code);

Status comm_wait(Comm *comm, CommRequest *request); // STATUS_FAILED after timeout_seconds, as comm_missing says it

// Every collective takes `what` the ranks are to reach by it, as a message names it ("the exchange of records"); the
// text must live until the wait.

// values[count] summed over the ranks, in place, on all of them. Same bits on every rank and from run to run.
Status comm_sum_start(Comm *comm, const char *what, float *values, size_t count, CommRequest *out);
// Every rank gives bytes[rank] bytes at mine (bytes[size] is the same on all); `all` gets them in rank order.
Status comm_gather_start(Comm *comm, const char *what, const void *mine, const size_t *bytes, void *all,
                         CommRequest *out);
// Those below start and wait.
Status comm_gather(Comm *comm, const char *what, const void *mine, const size_t *bytes, void *all);
// values[count] of every rank, in rank order, into all[size * count].
Status comm_gather_int64(Comm *comm, const char *what, const int64_t *mine, int count, int64_t *all);
// Each of values[count] becomes the largest of all ranks.
Status comm_max(Comm *comm, const char *what, int64_t *values, int count);
Status comm_broadcast(Comm *comm, const char *what, void *bytes, size_t size, int root);
Status comm_barrier(Comm *comm, const char *what);

// All ranks give the status of what they just did; all get the worst, and the error text of the lowest rank that had
// it, so that rank 0 can print it: a failure is then shared (src/base/status.h). The meeting point after work that can
// fail on one rank alone.
Status comm_agree(Comm *comm, Status mine);

// For collectives that another library makes (device_comm.h). Every rank arrives before each one, in the same order,
// and calls comm_answer while it waits; who has waited longer than comm_patience gives up with comm_missing:
// STATUS_FAILED with the ranks, hosts and processes that did not arrive or, where all did, do not answer, as ranks 0
// and 1 know them.
Status comm_arrive(Comm *comm);
Status comm_answer(Comm *comm);
double comm_patience(const Comm *comm); // seconds: timeout_seconds, and more for a rank that cannot name the missing
Status comm_missing(Comm *comm, const char *what);

// `bytes` of zeroed memory that the ranks of this node share, at *out on each (addresses may differ). The node's ranks
// call it together with the same size. Lives until comm_close.
Status comm_node_alloc(Comm *comm, size_t bytes, const char *what, void **out);
Status comm_node_barrier(Comm *comm, const char *what);
// comm_gather_int64 among the ranks of the node, in node-rank order, into all[node_size * count].
Status comm_node_gather(Comm *comm, const char *what, const int64_t *mine, int count, int64_t *all);
