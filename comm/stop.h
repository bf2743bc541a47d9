// Asking a run to stop: SIGUSR1, SIGTERM or SIGINT, sent to mpirun, srun or any one rank. It only sets a flag; the
// ranks agree on it where all of them stand at the same point, and stop there together.
#pragma once
#include "comm/comm.h"

// From here on the signals are requests; before MPI or any thread starts. A second SIGINT ends the process at once. A
// command that computes must not install handlers of its own, but on a stack of their own (stop.c says why).
void stop_install(void);

// Whether this process was asked; for commands of one process.
bool stop_requested(void);

#define BATCHES_PER_AGREEMENT 4 // evaluation and the reference notice a request after so many

// What a rank has to say when the ranks meet.
enum { SAY_STOP = 1, SAY_SAVE = 2, SAY_FLAGS = 2 }; // two bits

// *all gets the flags of all ranks, or-ed: `mine` of each, and SAY_STOP of one that was asked to stop. A collective.
Status stop_agree(Comm *comm, unsigned mine, unsigned *all);
