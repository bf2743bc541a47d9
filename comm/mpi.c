// comm.h over MPI-3: nonblocking collectives that are polled under a time limit. A job of one rank copies instead of
// calling MPI, which is not even started where no launcher was. What a message means is the caller's affair; who is
// missing is witness.c's.
#include "comm/state.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/memory.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// A wait shorter than this keeps the core to itself; a longer one offers it to others (ranks may outnumber cores).
#define SPIN_SECONDS            50e-6
#define BROADCAST_PIECE         ((size_t)1 << 30) // MPI counts are int
#define DEFAULT_TIMEOUT_SECONDS 600.0

Status mpi_error(int code, const char *what) {
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) length = 0;
    return error_set(STATUS_FAILED, "%s: MPI says: %.*s", what, length, text);
}

// --- opening and closing ---------------------------------------------------------------------------------------------

// Whether mpirun, srun or another launcher started this process. One that was started by hand is a job of one rank and
// leaves MPI alone: MPI_Init takes 0.37 s then, most of it for a daemon that nobody needs.
static bool was_launched(void) {
    static const char *const marks[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK",     "PMI_RANK",      "PMI_FD",
                                        "PALS_RANKID",          "SLURM_STEP_ID", "FLUX_TASK_RANK"};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (getenv(marks[i]) != NULL) return true;
    return false;
}

static Status start_mpi(Comm *comm, int *argc, char ***argv) {
    int provided = 0;
    int code = MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
    if (code != MPI_SUCCESS || provided < MPI_THREAD_FUNNELED)
        return error_set(STATUS_FAILED, "MPI cannot be started with threads; check the MPI installation");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN); // the node's communicator inherits it
    MPI_Comm_rank(MPI_COMM_WORLD, &comm->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &comm->size);
    MPI_Comm *node = &comm->state->node;
    code = MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, node);
    if (code != MPI_SUCCESS) return mpi_error(code, "finding the ranks of this machine");
    MPI_Comm_rank(*node, &comm->node_rank);
    MPI_Comm_size(*node, &comm->node_size);
    return STATUS_OK;
}

// After the last call of MPI.
static void end_mpi(void) {
    int started = 0;
    MPI_Initialized(&started);
    if (started) MPI_Finalize();
}

Status comm_open(Comm *comm, int *argc, char ***argv) {
    *comm = (Comm){.size = 1, .node_size = 1, .timeout_seconds = DEFAULT_TIMEOUT_SECONDS};
    TRY(MEMORY_ALLOC(comm->state, 1, "communication"));
    struct CommState *state = comm->state;
    state->node = MPI_COMM_NULL;
    if (was_launched()) TRY(start_mpi(comm, argc, argv));
    TRY(MEMORY_ALLOC(state->ints, (size_t)comm->size * 2 * SLOTS, "communication"));
    for (int i = 0; i < SLOTS; i++) {
        state->slots[i].counts = state->ints + (size_t)comm->size * (size_t)(2 * i);
        state->slots[i].offsets = state->slots[i].counts + comm->size;
    }
    return witness_open(comm);
}

void comm_close(Comm *comm) {
    struct CommState *state = comm->state;
    if (comm_barrier(comm, "the end of the job") != STATUS_OK) {
        log_error(error_text());
        comm_abort(comm, STATUS_FAILED);
    }
    node_memory_close(comm);
    witness_close(comm);
    if (state->node != MPI_COMM_NULL) MPI_Comm_free(&state->node);
    free(state->ints);
    free(state);
    *comm = (Comm){0};
    end_mpi();
}

_Noreturn void comm_abort(Comm *comm, int exit_code) {
    fflush(stdout);
    fflush(stderr);
    if (comm->size > 1)
        MPI_Abort(MPI_COMM_WORLD, exit_code);
    else
        end_mpi(); // nobody else to end, and MPI_Abort prints a page
    _exit(exit_code);
}

// --- collectives -----------------------------------------------------------------------------------------------------

// Takes a free slot; *slot is NULL in a job of one rank, whose collectives end at once.
static Status take_slot(Comm *comm, const char *what, CommRequest *out, Slot **slot) {
    *out = (CommRequest){.what = what};
    *slot = NULL;
    if (comm->size == 1) return STATUS_OK;
    for (int i = 0; i < SLOTS && *slot == NULL; i++)
        if (!comm->state->slots[i].used) *slot = &comm->state->slots[i];
    if (*slot == NULL) return error_set(STATUS_FAILED, "%s: more than %d collectives under way", what, SLOTS);
    return STATUS_OK;
}

static Status started(int code, Slot *slot, CommRequest *out) {
    if (code != MPI_SUCCESS) return mpi_error(code, out->what);
    slot->used = true;
    out->handle = slot;
    return STATUS_OK;
}

Status comm_wait(Comm *comm, CommRequest *request) {
    Slot *slot = request->handle;
    if (slot == NULL) return STATUS_OK;
    const double start = clock_seconds(), patience = comm_patience(comm);
    double waited = 0;
    int done = 0, code = MPI_SUCCESS;
    while (code == MPI_SUCCESS && !done && waited < patience) {
        code = MPI_Test(&slot->request, &done, MPI_STATUS_IGNORE);
        waited = clock_seconds() - start;
        if (done || waited <= SPIN_SECONDS) continue;
        TRY(comm_answer(comm));
        sched_yield();
    }
    comm->wait_seconds += waited;
    if (code != MPI_SUCCESS) return mpi_error(code, request->what);
    if (!done) return comm_missing(comm, request->what); // the slot stays taken: MPI may still write to the buffers
    slot->used = false;
    request->handle = NULL;
    return STATUS_OK;
}

static Status finish(Comm *comm, Status begun, CommRequest *request) {
    return begun == STATUS_OK ? comm_wait(comm, request) : begun;
}

// Open MPI's nonblocking allreduce follows a fixed schedule for a rank count and a length, and hands every rank the
// same partial sums (tests/comm checks both), so bits differ between rank counts only.
Status comm_sum_start(Comm *comm, const char *what, float *values, size_t count, CommRequest *out) {
    Slot *slot;
    TRY(comm_arrive(comm));
    TRY(take_slot(comm, what, out, &slot));
    if (slot == NULL || count == 0) return STATUS_OK;
    if (count > INT_MAX) return error_set(STATUS_FAILED, "%s: %zu values are too many at once", what, count);
    int code = MPI_Iallreduce(MPI_IN_PLACE, values, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &slot->request);
    return started(code, slot, out);
}

Status comm_gather_start(Comm *comm, const char *what, const void *mine, const size_t *bytes, void *all,
                         CommRequest *out) {
    Slot *slot;
    TRY(comm_arrive(comm));
    TRY(take_slot(comm, what, out, &slot));
    if (slot == NULL) {
        if (bytes[0] > 0) memcpy(all, mine, bytes[0]);
        return STATUS_OK;
    }
    size_t total = 0;
    for (int r = 0; r < comm->size; r++) {
        slot->offsets[r] = (int)total;
        slot->counts[r] = (int)bytes[r];
        total += bytes[r];
        if (total > INT_MAX || bytes[r] > INT_MAX)
            return error_set(STATUS_FAILED, "%s: more than %d bytes at once", what, INT_MAX);
    }
    int code = MPI_Iallgatherv(mine, slot->counts[comm->rank], MPI_BYTE, all, slot->counts, slot->offsets, MPI_BYTE,
                               MPI_COMM_WORLD, &slot->request);
    return started(code, slot, out);
}

static Status broadcast_start(Comm *comm, const char *what, void *bytes, size_t size, int root, CommRequest *out) {
    Slot *slot;
    TRY(comm_arrive(comm));
    TRY(take_slot(comm, what, out, &slot));
    if (slot == NULL) return STATUS_OK;
    return started(MPI_Ibcast(bytes, (int)size, MPI_BYTE, root, MPI_COMM_WORLD, &slot->request), slot, out);
}

Status comm_broadcast(Comm *comm, const char *what, void *bytes, size_t size, int root) {
    for (size_t done = 0; done < size; done += BROADCAST_PIECE) {
        size_t piece = size - done < BROADCAST_PIECE ? size - done : BROADCAST_PIECE;
        CommRequest request;
        TRY(finish(comm, broadcast_start(comm, what, (char *)bytes + done, piece, root, &request), &request));
    }
    return STATUS_OK;
}

Status comm_gather(Comm *comm, const char *what, const void *mine, const size_t *bytes, void *all) {
    CommRequest request;
    return finish(comm, comm_gather_start(comm, what, mine, bytes, all, &request), &request);
}

static Status barrier(Comm *comm, MPI_Comm group, const char *what) {
    CommRequest request;
    Slot *slot;
    TRY(take_slot(comm, what, &request, &slot));
    if (slot == NULL) return STATUS_OK;
    return finish(comm, started(MPI_Ibarrier(group, &slot->request), slot, &request), &request);
}

Status comm_barrier(Comm *comm, const char *what) {
    TRY(comm_arrive(comm));
    return barrier(comm, MPI_COMM_WORLD, what);
}

Status comm_node_barrier(Comm *comm, const char *what) {
    return barrier(comm, comm->state->node, what);
}

static Status gather_int64(Comm *comm, MPI_Comm group, const char *what, const int64_t *mine, int count, int64_t *all) {
    CommRequest request;
    Slot *slot;
    TRY(take_slot(comm, what, &request, &slot));
    if (slot == NULL) {
        if (count > 0) memcpy(all, mine, (size_t)count * sizeof *mine);
        return STATUS_OK;
    }
    int code = MPI_Iallgather(mine, count, MPI_INT64_T, all, count, MPI_INT64_T, group, &slot->request);
    return finish(comm, started(code, slot, &request), &request);
}

Status comm_gather_int64(Comm *comm, const char *what, const int64_t *mine, int count, int64_t *all) {
    TRY(comm_arrive(comm));
    return gather_int64(comm, MPI_COMM_WORLD, what, mine, count, all);
}

Status comm_node_gather(Comm *comm, const char *what, const int64_t *mine, int count, int64_t *all) {
    return gather_int64(comm, comm->state->node, what, mine, count, all);
}

Status comm_max(Comm *comm, const char *what, int64_t *values, int count) {
    CommRequest request;
    Slot *slot;
    TRY(comm_arrive(comm));
    TRY(take_slot(comm, what, &request, &slot));
    if (slot == NULL) return STATUS_OK;
    int code = MPI_Iallreduce(MPI_IN_PLACE, values, count, MPI_INT64_T, MPI_MAX, MPI_COMM_WORLD, &slot->request);
    return finish(comm, started(code, slot, &request), &request);
}

// Being stopped on request is no error, and any error is worse.
static int severity(int64_t status) {
    return status == STATUS_OK ? 0 : status == STATUS_STOPPED ? 1 : 1 + (int)status;
}

Status comm_agree(Comm *comm, Status mine) {
    if (comm->size == 1) return error_share(mine);
    int64_t own = mine, *all = NULL;
    TRY(MEMORY_ALLOC(all, comm->size, "agreement"));
    const Status status = comm_gather_int64(comm, "the point where all ranks agree", &own, 1, all);
    int worst = 0;
    for (int i = 1; i < comm->size; i++)
        if (severity(all[i]) > severity(all[worst])) worst = i;
    Status agreed = (Status)all[worst];
    free(all);
    TRY(status);
    if (agreed == STATUS_OK || agreed == STATUS_STOPPED) return agreed;
    char text[ERROR_TEXT_MAX] = "";
    snprintf(text, sizeof text, "%s", error_text());
    TRY(comm_broadcast(comm, "the exchange of an error", text, sizeof text, worst));
    error_clear();
    return error_share(error_set(agreed, "%s", text[0] != '\0' ? text : "a rank failed without a message"));
}
