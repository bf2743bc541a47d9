// The signal handlers, and the ranks' agreement. What is saved before stopping is the caller's business.
#include "src/stop.h"

#include "src/base/memory.h"

#include <signal.h>
#include <stdlib.h>

static volatile sig_atomic_t requested;

static void request(int number) {
    requested = 1;
    if (number == SIGINT) signal(SIGINT, SIG_DFL);
}

void stop_install(void) {
    struct sigaction action = {.sa_handler = request, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    const int numbers[] = {SIGUSR1, SIGTERM, SIGINT};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) sigaction(numbers[i], &action, NULL);
}

bool stop_requested(void) {
    return requested != 0;
}

Status stop_agree(Comm *comm, unsigned mine, unsigned *all) {
    const double said = mine | (requested ? SAY_STOP : 0);
    double *heard = NULL;
    int *counts = NULL;
    TRY(MEMORY_ALLOC(heard, comm->size, "the ranks' flags"));
    Status status = MEMORY_ALLOC(counts, comm->size, "the ranks' flags");
    for (int r = 0; r < comm->size && status == STATUS_OK; r++) counts[r] = 1;
    if (status == STATUS_OK) status = comm_gather(comm, &said, heard, counts);
    *all = 0;
    for (int r = 0; r < comm->size && status == STATUS_OK; r++) *all |= (unsigned)heard[r];
    free(heard);
    free(counts);
    return status;
}
