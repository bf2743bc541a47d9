// Which device a rank computes on, and how the ranks' gradients are summed: what is chosen where the configuration says
// "auto", and what all ranks must have alike.
#pragma once
#include "comm/device_comm.h"
#include "io/config.h"
#include "src/model/model.h"

// A rank's device as the node's ranks share it.
typedef struct DeviceShare {
    int ranks;                    // of this node that have the same device and its memory
    const DeviceCommLibrary *sum; // sums gradients on the devices; NULL: over MPI
} DeviceShare;

// Threads of this rank's CPU device; 0: all that the process may run on. Unless the user says (OMP_NUM_THREADS) or
// mpirun binds ranks apart, the ranks of a node divide its cores.
int device_threads(const Comm *comm);

bool device_is_gpu(const DeviceInfo *info);

// Opens the configured device: options->backend and options->opened, which is closed again after a failure. `sums`:
// gradients will be summed, so out->sum is chosen too. Collective; STATUS_USAGE when the ranks' devices differ.
Status device_choose(const Config *config, Comm *comm, bool sums, ModelOptions *options, DeviceShare *out);

// Fails on all ranks alike when one has another `text` than rank 0, and says which, and `advice`.
Status device_same_on_all_ranks(Comm *comm, const char *text, const char *advice);
