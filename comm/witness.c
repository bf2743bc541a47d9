// Who is missing: the part of comm.h that turns a collective that does not end into the names of the ranks, hosts and
// processes that did not reach it. Each rank tells the witnesses of every collective that it enters, by messages
// without content; where all have arrived, a witness asks who is still alive.
#include "comm/state.h"
#include "src/base/clock.h"
#include "src/base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

// Two, since one may be missing itself.
#define WITNESSES 2
// How much longer than the time limit a rank waits: who can name the missing one speaks first, because the first to
// give up ends the job.
#define SECOND_WITNESS_SECONDS 1.5
#define OTHERS_SECONDS         4.0
#define LAST_TOKENS_SECONDS    0.2 // for tokens on their way when the time is up
#define ANSWER_SECONDS         1.0 // for a rank that waits to say that it does
#define NAMED_RANKS            8

enum { TAG_ARRIVED, TAG_QUESTION, TAG_ANSWER }; // of messages without content

static bool is_witness(const Comm *comm) {
    return comm->rank < WITNESSES;
}

static Status expect_token(Comm *comm, int from) {
    Witness *witness = &comm->state->witness;
    const int code = MPI_Irecv(NULL, 0, MPI_BYTE, from, TAG_ARRIVED, witness->tokens, &witness->arrival[from]);
    return code == MPI_SUCCESS ? STATUS_OK : mpi_error(code, "a token of arrival");
}

static Status send_token(Comm *comm, int to, int tag) {
    MPI_Request sent;
    const int code = MPI_Isend(NULL, 0, MPI_BYTE, to, tag, comm->state->witness.tokens, &sent);
    if (code != MPI_SUCCESS) return mpi_error(code, "a token between ranks");
    MPI_Request_free(&sent);
    return STATUS_OK;
}

static Status expect_any(Comm *comm, int tag, MPI_Request *out) {
    const int code = MPI_Irecv(NULL, 0, MPI_BYTE, MPI_ANY_SOURCE, tag, comm->state->witness.tokens, out);
    return code == MPI_SUCCESS ? STATUS_OK : mpi_error(code, "a token between ranks");
}

Status witness_open(Comm *comm) {
    Witness *witness = &comm->state->witness;
    witness->tokens = MPI_COMM_NULL;
    if (comm->size == 1) return STATUS_OK;
    TRY(MEMORY_ALLOC(witness->arrived, comm->size, "communication"));
    TRY(MEMORY_ALLOC(witness->arrival, comm->size, "communication"));
    TRY(MEMORY_ALLOC(witness->indices, comm->size, "communication"));
    TRY(MEMORY_ALLOC(witness->silent, comm->size, "communication"));
    TRY(MEMORY_ALLOC(witness->places, comm->size, "communication"));
    Place own = {.process = (int64_t)getpid()};
    gethostname(own.host, sizeof own.host - 1);
    int code = MPI_Comm_dup(MPI_COMM_WORLD, &witness->tokens);
    if (code == MPI_SUCCESS)
        code = MPI_Allgather(&own, sizeof own, MPI_BYTE, witness->places, sizeof own, MPI_BYTE, MPI_COMM_WORLD);
    if (code != MPI_SUCCESS) return mpi_error(code, "finding the other ranks");
    for (int r = 0; r < comm->size; r++) {
        witness->arrival[r] = MPI_REQUEST_NULL;
        if (is_witness(comm) && r != comm->rank) TRY(expect_token(comm, r));
    }
    return expect_any(comm, TAG_QUESTION, &witness->question);
}

static Status take_tokens(Comm *comm) {
    Witness *witness = &comm->state->witness;
    for (;;) {
        int count = 0;
        const int code = MPI_Testsome(comm->size, witness->arrival, &count, witness->indices, MPI_STATUSES_IGNORE);
        if (code != MPI_SUCCESS) return mpi_error(code, "a token of arrival");
        if (count == MPI_UNDEFINED || count == 0) return STATUS_OK;
        for (int i = 0; i < count; i++) {
            witness->arrived[witness->indices[i]]++;
            TRY(expect_token(comm, witness->indices[i]));
        }
    }
}

static int missing_count(const Comm *comm) {
    int missing = 0;
    for (int r = 0; r < comm->size; r++)
        missing += r != comm->rank && comm->state->witness.arrived[r] < comm->state->witness.entered;
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
    Witness *witness = &comm->state->witness;
    for (int asked = comm->size > 1; asked;) {
        MPI_Status from;
        const int code = MPI_Test(&witness->question, &asked, &from);
        if (code != MPI_SUCCESS) return mpi_error(code, "a token between ranks");
        if (!asked) break;
        TRY(send_token(comm, from.MPI_SOURCE, TAG_ANSWER));
        TRY(expect_any(comm, TAG_QUESTION, &witness->question));
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
    Witness *witness = &comm->state->witness;
    int silent = comm->size - 1;
    MPI_Request answer;
    TRY(expect_any(comm, TAG_ANSWER, &answer));
    for (int r = 0; r < comm->size; r++) {
        witness->silent[r] = r != comm->rank;
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
        silent -= witness->silent[from.MPI_SOURCE];
        witness->silent[from.MPI_SOURCE] = false;
        TRY(expect_any(comm, TAG_ANSWER, &answer));
    }
    cancel(&answer);
    return STATUS_OK;
}

void witness_close(Comm *comm) {
    Witness *witness = &comm->state->witness;
    if (witness->tokens == MPI_COMM_NULL) return;
    if (is_witness(comm) && take_last_tokens(comm, comm->timeout_seconds) != STATUS_OK) error_clear();
    for (int r = 0; r < comm->size; r++) cancel(&witness->arrival[r]);
    cancel(&witness->question);
    MPI_Comm_free(&witness->tokens);
    free(witness->arrived);
    free(witness->arrival);
    free(witness->indices);
    free(witness->silent);
    free(witness->places);
}

Status comm_arrive(Comm *comm) {
    if (comm->size == 1) return STATUS_OK;
    Witness *witness = &comm->state->witness;
    witness->entered++;
    for (int to = 0; to < WITNESSES && to < comm->size; to++)
        if (to != comm->rank) TRY(send_token(comm, to, TAG_ARRIVED));
    return is_witness(comm) ? take_tokens(comm) : STATUS_OK;
}

double comm_patience(const Comm *comm) {
    return comm->timeout_seconds + (comm->rank == 0          ? 0
                                    : comm->rank < WITNESSES ? SECOND_WITNESS_SECONDS
                                                             : OTHERS_SECONDS);
}

// The ranks of silent[] with host and process, the first few by name.
static void name_silent(const Comm *comm, char *text, size_t room) {
    const Witness *witness = &comm->state->witness;
    int named = 0, more = 0;
    size_t used = 0;
    for (int r = 0; r < comm->size; r++) {
        if (!witness->silent[r]) continue;
        if (named == NAMED_RANKS) {
            more++;
            continue;
        }
        used += (size_t)snprintf(text + used, room - used, "%srank %d (host %s, process %lld)", named++ > 0 ? ", " : "",
                                 r, witness->places[r].host, (long long)witness->places[r].process);
    }
    if (more > 0) snprintf(text + used, room - used, " and %d more", more);
}

Status comm_missing(Comm *comm, const char *what) {
    Witness *witness = &comm->state->witness;
    if (!is_witness(comm))
        return error_set(STATUS_FAILED, "a rank did not reach %s within %g s; rank 0 or 1 says which", what,
                         comm->timeout_seconds);
    TRY(take_last_tokens(comm, LAST_TOKENS_SECONDS));
    char names[(NAMED_RANKS + 1) * 128] = "";
    if (missing_count(comm) > 0) {
        for (int r = 0; r < comm->size; r++)
            witness->silent[r] = r != comm->rank && witness->arrived[r] < witness->entered;
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
