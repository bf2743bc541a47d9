// Sums over the ranks of values that lie in device memory, on the device's own queue and without a copy on the host.
// The library that does it (NCCL) is a module (src/base/module.h); it starts and polls, and this side of the program
// waits, under Comm's time limit as every other collective.
#pragma once
#include "comm/comm.h"

typedef struct DeviceComm DeviceComm;               // this rank's end
typedef struct DeviceCommLibrary DeviceCommLibrary; // what a module offers, below

// The module's library; STATUS_FAILED when it is not here, saying what is missing.
Status device_comm_find(const DeviceCommLibrary **out);
// Joins all ranks; collective. GPU `device_index` is this rank's, and no other's; sums run on its `stream`.
Status device_comm_open(Comm *comm, const DeviceCommLibrary *library, int device_index, void *stream, DeviceComm **out);
void device_comm_close(DeviceComm *device_comm); // NULL is allowed; ends at once after an error

// values[count] (device memory) summed over the ranks, in place, on all of them. Same bits on every rank and, with the
// same GPUs, from run to run. The sum is in the stream when device_comm_wait has returned.
Status device_comm_sum_start(DeviceComm *device_comm, float *values, size_t count);
Status device_comm_wait(DeviceComm *device_comm);

// --- a module's side ---

#define DEVICE_COMM_ID_BYTES 128
#define DEVICE_COMM_ID_ALIGN 8

typedef struct DeviceCommId { // names a group of ranks; made by one and known to all
    _Alignas(DEVICE_COMM_ID_ALIGN) char bytes[DEVICE_COMM_ID_BYTES];
} DeviceCommId;

typedef struct DeviceCommGroup DeviceCommGroup; // the library's communicator

struct DeviceCommLibrary {
    const char *name; // "NCCL 2.28.9"
    Status (*make_id)(DeviceCommId *out);
    // Starts joining; done when poll says so. *out is set even on failure, for abort, unless there is nothing to abort.
    Status (*join)(const Comm *comm, const DeviceCommId *id, int device_index, void *stream, DeviceCommGroup **out);
    Status (*sum)(DeviceCommGroup *group, float *values, size_t count);
    // Whether what was started last, and all before it in the stream, is done.
    Status (*poll)(DeviceCommGroup *group, bool *done);
    void (*leave)(DeviceCommGroup *group); // after success
    void (*abort)(DeviceCommGroup *group); // after an error; may itself hang
};
