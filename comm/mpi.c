// comm.h over MPI-3: nonblocking collectives that are polled under a time limit, and the memory that the ranks of a
// node share. A job of one rank copies instead of calling MPI, which is not even started where no launcher was. What a
// message means is the caller's affair.
#include "comm/comm.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// Each rank tells these ranks of every collective that it enters, so that one of them can say who is missing. Two,
// since one may be missing itself.
#define WITNESSES 2
// How much longer than the time limit a rank waits: who can name the missing one speaks first, because the first to
// give up ends the job.
#define SECOND_WITNESS_SECONDS 1.5
#define OTHERS_SECONDS         4.0
#define LAST_TOKENS_SECONDS    0.2 // for tokens on their way when the time is up
#define ANSWER_SECONDS         1.0 // for a rank that waits to say that it does
#define NAMED_RANKS            8
// Collectives under way at once; a step has two at most (gradient sum, exchange of records).
#define SLOTS 4
// A wait shorter than this keeps the core to itself; a longer one offers it to others (ranks may outnumber cores).
#define SPIN_SECONDS            50e-6
#define BROADCAST_PIECE         ((size_t)1 << 30) // MPI counts are int
#define DEFAULT_TIMEOUT_SECONDS 600.0

enum { TAG_ARRIVED, TAG_QUESTION, TAG_ANSWER }; // of messages without content

// A collective under way. MPI reads counts and offsets until it ends, so they are kept here.
typedef struct Slot {
    MPI_Request request;
    int *counts, *offsets; // [size]
    bool used;
} Slot;

typedef struct NodeBlock {
    void *memory;
    size_t mapped; // bytes; 0: from memory_alloc, on a node with one rank
} NodeBlock;

typedef struct Place {
    char host[64];
    int64_t process;
} Place;

struct CommState {
    MPI_Comm node;
    MPI_Comm tokens;      // messages without content, to and from the witnesses
    int64_t entered;      // collectives of all ranks, by this one
    int64_t *arrived;     // [size] a witness: by the others, as far as it knows
    MPI_Request *arrival; // [size] a witness: a token to come from each other rank
    MPI_Request question; // whether this rank is alive, to come from a witness
    bool *silent;         // [size]
    int *indices;         // [size]
    Place *places;        // [size]
    Slot slots[SLOTS];
    int *ints; // the slots' counts and offsets
    NodeBlock *blocks;
    size_t block_count;
};

static Status mpi_error(int code, const char *what) {
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) length = 0;
    return error_set(STATUS_FAILED, "%s: MPI says: %.*s", what, length, text);
}

// --- who has arrived -------------------------------------------------------------------------------------------------

static bool is_witness(const Comm *comm) {
    return comm->rank < WITNESSES;
}

static Status expect_token(Comm *comm, int from) {
    struct CommState *state = comm->state;
    const int code = MPI_Irecv(NULL, 0, MPI_BYTE, from, TAG_ARRIVED, state->tokens, &state->arrival[from]);
    return code == MPI_SUCCESS ? STATUS_OK : mpi_error(code, "a token of arrival");
}

static Status send_token(Comm *comm, int to, int tag) {
    MPI_Request sent;
    const int code = MPI_Isend(NULL, 0, MPI_BYTE, to, tag, comm->state->tokens, &sent);
    if (code != MPI_SUCCESS) return mpi_error(code, "a token between ranks");
    MPI_Request_free(&sent);
    return STATUS_OK;
}

static Status expect_any(Comm *comm, int tag, MPI_Request *out) {
    const int code = MPI_Irecv(NULL, 0, MPI_BYTE, MPI_ANY_SOURCE, tag, comm->state->tokens, out);
    return code == MPI_SUCCESS ? STATUS_OK : mpi_error(code, "a token between ranks");
}

static Status open_tokens(Comm *comm) {
    struct CommState *state = comm->state;
    state->tokens = MPI_COMM_NULL;
    if (comm->size == 1) return STATUS_OK;
    TRY(MEMORY_ALLOC(state->arrived, comm->size, "communication"));
    TRY(MEMORY_ALLOC(state->arrival, comm->size, "communication"));
    TRY(MEMORY_ALLOC(state->indices, comm->size, "communication"));
    TRY(MEMORY_ALLOC(state->silent, comm->size, "communication"));
    TRY(MEMORY_ALLOC(state->places, comm->size, "communication"));
    Place own = {.process = (int64_t)getpid()};
    gethostname(own.host, sizeof own.host - 1);
    int code = MPI_Comm_dup(MPI_COMM_WORLD, &state->tokens);
    if (code == MPI_SUCCESS)
        code = MPI_Allgather(&own, sizeof own, MPI_BYTE, state->places, sizeof own, MPI_BYTE, MPI_COMM_WORLD);
    if (code != MPI_SUCCESS) return mpi_error(code, "finding the other ranks");
    for (int r = 0; r < comm->size; r++) {
        state->arrival[r] = MPI_REQUEST_NULL;
        if (is_witness(comm) && r != comm->rank) TRY(expect_token(comm, r));
    }
    return expect_any(comm, TAG_QUESTION, &state->question);
}

static Status take_tokens(Comm *comm) {
    struct CommState *state = comm->state;
    for (;;) {
        int count = 0;
        const int code = MPI_Testsome(comm->size, state->arrival, &count, state->indices, MPI_STATUSES_IGNORE);
        if (code != MPI_SUCCESS) return mpi_error(code, "a token of arrival");
        if (count == MPI_UNDEFINED || count == 0) return STATUS_OK;
        for (int i = 0; i < count; i++) {
            state->arrived[state->indices[i]]++;
            TRY(expect_token(comm, state->indices[i]));
        }
    }
}

static int missing_count(const Comm *comm) {
    int missing = 0;
    for (int r = 0; r < comm->size; r++) missing += r != comm->rank && comm->state->arrived[r] < comm->state->entered;
    return missing;
}

// A witness takes what is on its way, for `seconds` at most.
static Status take_last_tokens(Comm *comm, double seconds) {
    const double start = clock_seconds();
    do {
        TRY(take_tokens(comm));
        if (missing_count(comm) > 0) usleep(1000);
    } while (missing_count(comm) > 0 && clock_seconds() - start < seconds);
    return STATUS_OK;
}

Status comm_answer(Comm *comm) {
    struct CommState *state = comm->state;
    for (int asked = comm->size > 1; asked;) {
        MPI_Status from;
        const int code = MPI_Test(&state->question, &asked, &from);
        if (code != MPI_SUCCESS) return mpi_error(code, "a token between ranks");
        if (!asked) break;
        TRY(send_token(comm, from.MPI_SOURCE, TAG_ANSWER));
        TRY(expect_any(comm, TAG_QUESTION, &state->question));
    }
    return STATUS_OK;
}

static void cancel(MPI_Request *request) {
    if (*request == MPI_REQUEST_NULL) return;
    MPI_Cancel(request);
    MPI_Wait(request, MPI_STATUS_IGNORE);
}

// Asks the others, which all wait in a collective, whether they are alive; silent[] are those that do not answer.
static Status ask_others(Comm *comm) {
    struct CommState *state = comm->state;
    int silent = comm->size - 1;
    MPI_Request answer;
    TRY(expect_any(comm, TAG_ANSWER, &answer));
    for (int r = 0; r < comm->size; r++) {
        state->silent[r] = r != comm->rank;
        if (r != comm->rank) TRY(send_token(comm, r, TAG_QUESTION));
    }
    for (const double start = clock_seconds(); silent > 0 && clock_seconds() - start < ANSWER_SECONDS;) {
        int answered = 0;
        MPI_Status from;
        TRY(comm_answer(comm)); // the other witness may ask too
        const int code = MPI_Test(&answer, &answered, &from);
        if (code != MPI_SUCCESS) return mpi_error(code, "a token between ranks");
        if (!answered) {
            usleep(1000);
            continue;
        }
        silent -= state->silent[from.MPI_SOURCE];
        state->silent[from.MPI_SOURCE] = false;
        TRY(expect_any(comm, TAG_ANSWER, &answer));
    }
    cancel(&answer);
    return STATUS_OK;
}

static void close_tokens(Comm *comm) {
    struct CommState *state = comm->state;
    if (state->tokens == MPI_COMM_NULL) return;
    if (is_witness(comm) && take_last_tokens(comm, comm->timeout_seconds) != STATUS_OK) error_clear();
    for (int r = 0; r < comm->size; r++) cancel(&state->arrival[r]);
    cancel(&state->question);
    MPI_Comm_free(&state->tokens);
    free(state->arrived);
    free(state->arrival);
    free(state->indices);
    free(state->silent);
    free(state->places);
}

Status comm_arrive(Comm *comm) {
    if (comm->size == 1) return STATUS_OK;
    struct CommState *state = comm->state;
    state->entered++;
    for (int witness = 0; witness < WITNESSES && witness < comm->size; witness++) {
        if (witness != comm->rank) TRY(send_token(comm, witness, TAG_ARRIVED));
    }
    return is_witness(comm) ? take_tokens(comm) : STATUS_OK;
}

double comm_patience(const Comm *comm) {
    return comm->timeout_seconds + (comm->rank == 0          ? 0
                                    : comm->rank < WITNESSES ? SECOND_WITNESS_SECONDS
                                                             : OTHERS_SECONDS);
}

// The ranks of silent[] with host and process, the first few by name.
static void name_silent(const Comm *comm, char *text, size_t room) {
    const struct CommState *state = comm->state;
    int named = 0, more = 0;
    size_t used = 0;
    for (int r = 0; r < comm->size; r++) {
        if (!state->silent[r]) continue;
        if (named == NAMED_RANKS) {
            more++;
            continue;
        }
        used += (size_t)snprintf(text + used, room - used, "%srank %d (host %s, process %lld)", named++ > 0 ? ", " : "",
                                 r, state->places[r].host, (long long)state->places[r].process);
    }
    if (more > 0) snprintf(text + used, room - used, " and %d more", more);
}

Status comm_missing(Comm *comm, const char *what) {
    struct CommState *state = comm->state;
    if (!is_witness(comm))
        return error_set(STATUS_FAILED, "a rank did not reach %s within %g s; rank 0 or 1 says which", what,
                         comm->timeout_seconds);
    TRY(take_last_tokens(comm, LAST_TOKENS_SECONDS));
    char names[(NAMED_RANKS + 1) * 128] = "";
    if (missing_count(comm) > 0) {
        for (int r = 0; r < comm->size; r++) state->silent[r] = r != comm->rank && state->arrived[r] < state->entered;
        name_silent(comm, names, sizeof names);
        return error_set(STATUS_FAILED, "%s did not reach %s within %g s; the job ends", names, what,
                         comm->timeout_seconds);
    }
    TRY(ask_others(comm));
    name_silent(comm, names, sizeof names);
    if (names[0] == '\0')
        return error_set(STATUS_FAILED,
                         "%s did not end within %g s though all ranks reached it and answer: the network between them "
                         "loses messages; the job ends",
                         what, comm->timeout_seconds);
    return error_set(STATUS_FAILED, "%s reached %s but answered nothing for %g s; the job ends", names, what,
                     comm->timeout_seconds);
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
    return open_tokens(comm);
}

void comm_close(Comm *comm) {
    struct CommState *state = comm->state;
    if (comm_barrier(comm) != STATUS_OK) {
        log_error(error_text());
        comm_abort(comm, STATUS_FAILED);
    }
    for (size_t i = 0; i < state->block_count; i++) {
        if (state->blocks[i].mapped > 0)
            munmap(state->blocks[i].memory, state->blocks[i].mapped);
        else
            free(state->blocks[i].memory);
    }
    close_tokens(comm);
    if (state->node != MPI_COMM_NULL) MPI_Comm_free(&state->node);
    free(state->blocks);
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
Status comm_sum_start(Comm *comm, float *values, size_t count, CommRequest *out) {
    Slot *slot;
    TRY(comm_arrive(comm));
    TRY(take_slot(comm, "the sum of gradients", out, &slot));
    if (slot == NULL || count == 0) return STATUS_OK;
    if (count > INT_MAX) return error_set(STATUS_FAILED, "%s: %zu values are too many at once", out->what, count);
    int code = MPI_Iallreduce(MPI_IN_PLACE, values, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &slot->request);
    return started(code, slot, out);
}

Status comm_gather_start(Comm *comm, const double *mine, double *all, const int *counts, CommRequest *out) {
    Slot *slot;
    TRY(comm_arrive(comm));
    TRY(take_slot(comm, "the exchange of records", out, &slot));
    if (slot == NULL) {
        if (counts[0] > 0) memcpy(all, mine, (size_t)counts[0] * sizeof *mine);
        return STATUS_OK;
    }
    int64_t total = 0;
    for (int i = 0; i < comm->size; i++) {
        slot->counts[i] = counts[i];
        slot->offsets[i] = (int)total;
        total += counts[i];
        if (total > INT_MAX) return error_set(STATUS_FAILED, "%s: too many values at once", out->what);
    }
    int code = MPI_Iallgatherv(mine, counts[comm->rank], MPI_DOUBLE, all, slot->counts, slot->offsets, MPI_DOUBLE,
                               MPI_COMM_WORLD, &slot->request);
    return started(code, slot, out);
}

Status comm_broadcast_start(Comm *comm, void *bytes, size_t size, int root, CommRequest *out) {
    Slot *slot;
    TRY(comm_arrive(comm));
    TRY(take_slot(comm, "a broadcast", out, &slot));
    if (slot == NULL || size == 0) return STATUS_OK;
    if (size > INT_MAX) return error_set(STATUS_FAILED, "%s: %zu bytes are too many at once", out->what, size);
    return started(MPI_Ibcast(bytes, (int)size, MPI_BYTE, root, MPI_COMM_WORLD, &slot->request), slot, out);
}

Status comm_broadcast(Comm *comm, void *bytes, size_t size, int root) {
    for (size_t done = 0; done < size; done += BROADCAST_PIECE) {
        size_t piece = size - done < BROADCAST_PIECE ? size - done : BROADCAST_PIECE;
        CommRequest request;
        TRY(finish(comm, comm_broadcast_start(comm, (char *)bytes + done, piece, root, &request), &request));
    }
    return STATUS_OK;
}

Status comm_gather(Comm *comm, const double *mine, double *all, const int *counts) {
    CommRequest request;
    return finish(comm, comm_gather_start(comm, mine, all, counts, &request), &request);
}

static Status barrier(Comm *comm, MPI_Comm group, const char *what) {
    CommRequest request;
    Slot *slot;
    TRY(take_slot(comm, what, &request, &slot));
    if (slot == NULL) return STATUS_OK;
    return finish(comm, started(MPI_Ibarrier(group, &slot->request), slot, &request), &request);
}

Status comm_barrier(Comm *comm) {
    TRY(comm_arrive(comm));
    return barrier(comm, MPI_COMM_WORLD, "a meeting of all ranks");
}

Status comm_node_barrier(Comm *comm) {
    return barrier(comm, comm->state->node, "a meeting of this machine's ranks");
}

static Status gather_int64(Comm *comm, MPI_Comm group, const char *what, const int64_t *values, int count,
                           int64_t *all) {
    CommRequest request;
    Slot *slot;
    TRY(take_slot(comm, what, &request, &slot));
    if (slot == NULL) {
        if (count > 0) memcpy(all, values, (size_t)count * sizeof *values);
        return STATUS_OK;
    }
    int code = MPI_Iallgather(values, count, MPI_INT64_T, all, count, MPI_INT64_T, group, &slot->request);
    return finish(comm, started(code, slot, &request), &request);
}

Status comm_node_gather(Comm *comm, const int64_t *values, int count, int64_t *all) {
    return gather_int64(comm, comm->state->node, "an exchange between this machine's ranks", values, count, all);
}

// Being stopped on request is no error, and any error is worse.
static int severity(int64_t status) {
    return status == STATUS_OK ? 0 : status == STATUS_STOPPED ? 1 : 1 + (int)status;
}

Status comm_agree(Comm *comm, Status mine) {
    comm->agreed_failure = mine != STATUS_OK && comm->size == 1;
    if (comm->size == 1) return mine;
    int64_t own = mine, *all = NULL;
    TRY(MEMORY_ALLOC(all, comm->size, "agreement"));
    Status status = comm_arrive(comm);
    if (status == STATUS_OK)
        status = gather_int64(comm, MPI_COMM_WORLD, "the point where all ranks agree", &own, 1, all);
    int worst = 0;
    for (int i = 1; i < comm->size; i++)
        if (severity(all[i]) > severity(all[worst])) worst = i;
    Status agreed = (Status)all[worst];
    free(all);
    TRY(status);
    if (agreed == STATUS_OK || agreed == STATUS_STOPPED) return agreed;
    char text[ERROR_TEXT_MAX] = "";
    snprintf(text, sizeof text, "%s", error_text());
    TRY(comm_broadcast(comm, text, sizeof text, worst));
    error_clear();
    comm->agreed_failure = true;
    return error_set(agreed, "%s", text[0] != '\0' ? text : "a rank failed without a message");
}

// Creates (first rank of the node) or opens the memory object `name`; 0 or errno. Space is reserved at once, so that a
// full /dev/shm is an error here and not SIGBUS at the first touch.
static int map_shared(const char *name, size_t bytes, bool create, void **out) {
    int fd = shm_open(name, O_RDWR | (create ? O_CREAT | O_EXCL : 0), 0600);
    if (fd < 0) return errno;
    int error = create ? posix_fallocate(fd, 0, (off_t)bytes) : 0;
    void *mapped = error != 0 ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (error == 0 && mapped == MAP_FAILED) error = errno;
    close(fd);
    if (error == 0) *out = mapped;
    return error;
}

// Not MPI_Win_allocate_shared: where /dev/shm is too small, Open MPI 4.1 returns an error to the first rank only and
// leaves the others waiting inside it, beyond any time limit.
Status comm_node_alloc(Comm *comm, size_t bytes, const char *what, void **out) {
    *out = NULL;
    struct CommState *state = comm->state;
    NodeBlock *blocks = realloc(state->blocks, (state->block_count + 1) * sizeof *blocks);
    if (blocks == NULL) return error_set(STATUS_FAILED, "%s: out of memory", what);
    state->blocks = blocks;
    if (bytes == 0) bytes = 1;
    if (comm->node_size == 1) {
        TRY(memory_alloc(out, bytes, 1, what));
        blocks[state->block_count++] = (NodeBlock){*out, 0};
        return STATUS_OK;
    }
    int64_t *all = NULL;
    TRY(MEMORY_ALLOC(all, comm->node_size * 2, what));
    bool first = comm->node_rank == 0;
    char name[64];
    int64_t own[2] = {0, (int64_t)getpid()}; // errno, part of the name
    if (first) {
        snprintf(name, sizeof name, "/kto.%lld.%zu", (long long)own[1], state->block_count);
        shm_unlink(name); // of a killed process that had this number
        own[0] = map_shared(name, bytes, true, out);
    }
    Status status = comm_node_gather(comm, own, 2, all);
    if (status == STATUS_OK && all[0] == 0) {
        snprintf(name, sizeof name, "/kto.%lld.%zu", (long long)all[1], state->block_count);
        if (!first) own[0] = map_shared(name, bytes, false, out);
        status = comm_node_gather(comm, own, 2, all);
    }
    if (first) shm_unlink(name);
    int64_t error = 0;
    for (int i = 0; i < comm->node_size && error == 0; i++) error = all[2 * i];
    free(all);
    TRY(status);
    if (error != 0) {
        if (*out != NULL) munmap(*out, bytes);
        *out = NULL;
        return error_set(STATUS_FAILED,
                         "/dev/shm: cannot hold %.1f MiB for %s: %s; give it more space or start one rank",
                         (double)bytes / 0x1p20, what, strerror((int)error));
    }
    blocks[state->block_count++] = (NodeBlock){*out, bytes};
    return STATUS_OK;
}
