// The waiting side of device_comm.h: time limits, the account of waits, and an end that cannot hang.
#include "comm/device_comm.h"

#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/base/module.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#define SPIN_SECONDS  50e-6 // as in mpi.c: a longer wait offers the core to others
#define ABORT_SECONDS 5.0   // NCCL's own abort may wait for ranks that are gone (NVIDIA/nccl issues 863, 1013)

struct DeviceComm {
    Comm *comm;
    const DeviceCommLibrary *library;
    DeviceCommGroup *group;
    atomic_bool aborted;
    bool failed;
};

Status device_comm_find(const DeviceCommLibrary **out) {
    void *symbol;
    TRY(module_symbol("nccl", "device_comm_nccl", &symbol));
    *out = symbol;
    return STATUS_OK;
}

static void *abort_group(void *argument) {
    DeviceComm *device_comm = argument;
    device_comm->library->abort(device_comm->group);
    atomic_store(&device_comm->aborted, true);
    return NULL;
}

// After an error the stream may hold a sum that never ends, and closing the device would wait for it. So the group is
// aborted first; where even that does not return, the process says its error and ends the job.
static void give_up(DeviceComm *device_comm) {
    if (device_comm->failed) return;
    device_comm->failed = true;
    if (device_comm->group == NULL) return;
    pthread_t thread;
    if (pthread_create(&thread, NULL, abort_group, device_comm) == 0) {
        pthread_detach(thread);
        const double start = clock_seconds();
        while (!atomic_load(&device_comm->aborted) && clock_seconds() - start < ABORT_SECONDS) usleep(1000);
        if (atomic_load(&device_comm->aborted)) return;
    }
    log_init(true);
    log_error(error_text());
    comm_abort(device_comm->comm, STATUS_FAILED);
}

static Status wait_for(DeviceComm *device_comm, const char *what) {
    Comm *comm = device_comm->comm;
    const double start = clock_seconds(), patience = comm_patience(comm);
    double waited = 0;
    bool done = false;
    Status status = STATUS_OK;
    while (status == STATUS_OK && !done && waited < patience) {
        status = device_comm->library->poll(device_comm->group, &done);
        waited = clock_seconds() - start;
        if (status != STATUS_OK || done || waited <= SPIN_SECONDS) continue;
        status = comm_answer(comm);
        sched_yield();
    }
    comm->wait_seconds += waited;
    if (status == STATUS_OK && !done) status = comm_missing(comm, what);
    if (status != STATUS_OK) give_up(device_comm);
    return status;
}

Status device_comm_open(Comm *comm, const DeviceCommLibrary *library, int device_index, void *stream,
                        DeviceComm **out) {
    *out = NULL;
    DeviceCommId id = {.bytes = {0}};
    TRY(comm_agree(comm, comm->rank == 0 ? library->make_id(&id) : STATUS_OK));
    TRY(comm_broadcast(comm, "the name of the GPUs' communicator", &id, sizeof id, 0));
    DeviceComm *device_comm;
    TRY(MEMORY_ALLOC(device_comm, 1, "communication"));
    device_comm->comm = comm;
    device_comm->library = library;
    Status status = comm_arrive(comm);
    if (status == STATUS_OK) status = library->join(comm, &id, device_index, stream, &device_comm->group);
    if (status == STATUS_OK)
        status = wait_for(device_comm, "the start of the GPUs' communication");
    else
        give_up(device_comm);
    if (status == STATUS_OK)
        *out = device_comm;
    else
        free(device_comm);
    return status;
}

void device_comm_close(DeviceComm *device_comm) {
    if (device_comm == NULL) return;
    if (!device_comm->failed) device_comm->library->leave(device_comm->group);
    free(device_comm);
}

Status device_comm_sum_start(DeviceComm *device_comm, float *values, size_t count) {
    TRY(comm_arrive(device_comm->comm));
    const Status status = device_comm->library->sum(device_comm->group, values, count);
    if (status != STATUS_OK) give_up(device_comm);
    return status;
}

Status device_comm_wait(DeviceComm *device_comm) {
    return wait_for(device_comm, "the sum of gradients");
}
