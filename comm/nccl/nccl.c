// device_comm.h by NCCL: one communicator on the device's own stream, without blocking calls. Time limits, and what
// happens after an error, are the program's (comm/device_comm.c); which GPU is whose is src/setup/run.c's.
#include "comm/device_comm.h"
#include "src/base/memory.h"

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdlib.h>
#include <string.h>

struct DeviceCommGroup {
    ncclComm_t comm;
    cudaStream_t stream;
};

_Static_assert(sizeof(ncclUniqueId) == sizeof(DeviceCommId), "NCCL's id fits the program's");

// In non-blocking mode a call that goes on in the background is no error; poll sees how it ends.
static Status check(ncclResult_t result, ncclComm_t comm, const char *what) {
    if (result == ncclSuccess || result == ncclInProgress) return STATUS_OK;
    const char *detail = ncclGetLastError(comm);
    return error_set(STATUS_FAILED, "NCCL: %s: %s%s%.300s; NCCL_DEBUG=WARN says more", what, ncclGetErrorString(result),
                     detail != NULL && detail[0] != '\0' ? ": " : "", detail != NULL ? detail : "");
}

static Status check_cuda(cudaError_t error, const char *what) {
    if (error == cudaSuccess) return STATUS_OK;
    return error_set(STATUS_FAILED, "NCCL: %s: %s: %s", what, cudaGetErrorName(error), cudaGetErrorString(error));
}

// NVLink's in-switch sums differ from call to call (NVIDIA/nccl issues 1497, 2360); rings and trees do not. Read by
// NCCL when it first starts.
static void want_repeatable_sums(void) {
    setenv("NCCL_ALGO", "^NVLS,NVLSTree", 0);
}

static Status nccl_make_id(DeviceCommId *out) {
    want_repeatable_sums();
    ncclUniqueId id;
    TRY(check(ncclGetUniqueId(&id), NULL, "ncclGetUniqueId"));
    memcpy(out, &id, sizeof id);
    return STATUS_OK;
}

static Status nccl_join(const Comm *comm, const DeviceCommId *id, int device_index, void *stream,
                        DeviceCommGroup **out) {
    want_repeatable_sums();
    *out = NULL;
    TRY(check_cuda(cudaSetDevice(device_index), "cudaSetDevice"));
    DeviceCommGroup *group;
    TRY(MEMORY_ALLOC(group, 1, "communication"));
    *out = group;
    group->stream = stream;
    ncclUniqueId unique;
    memcpy(&unique, id, sizeof unique);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    return check(ncclCommInitRankConfig(&group->comm, comm->size, unique, comm->rank, &config), group->comm,
                 "ncclCommInitRankConfig");
}

static Status nccl_sum(DeviceCommGroup *group, float *values, size_t count) {
    if (count == 0) return STATUS_OK;
    return check(ncclAllReduce(values, values, count, ncclFloat, ncclSum, group->comm, group->stream), group->comm,
                 "ncclAllReduce");
}

static Status nccl_poll(DeviceCommGroup *group, bool *done) {
    *done = false;
    ncclResult_t state = ncclSuccess;
    TRY(check(ncclCommGetAsyncError(group->comm, &state), group->comm, "ncclCommGetAsyncError"));
    TRY(check(state, group->comm, "a collective"));
    if (state == ncclInProgress) return STATUS_OK; // the stream does not hold it yet
    const cudaError_t error = cudaStreamQuery(group->stream);
    if (error == cudaErrorNotReady) return STATUS_OK;
    TRY(check_cuda(error, "cudaStreamQuery"));
    *done = true;
    return STATUS_OK;
}

// Also the orderly end: by then all ranks have met after their last sum, and ncclCommDestroy could wait for them again.
static void nccl_abort(DeviceCommGroup *group) {
    if (group->comm != NULL) ncclCommAbort(group->comm);
    free(group);
}

// What the program looks for in the module.
extern const DeviceCommLibrary device_comm_nccl __attribute__((visibility("default")));

const DeviceCommLibrary device_comm_nccl = {
    .name = "NCCL",
    .make_id = nccl_make_id,
    .join = nccl_join,
    .sum = nccl_sum,
    .poll = nccl_poll,
    .leave = nccl_abort,
    .abort = nccl_abort,
};
