// The stand-in's NCCL: sums over MPI, in the non-blocking mode only. A call starts its work and answers ncclInProgress;
// the work goes on while ncclCommGetAsyncError is asked, and reaches the stream (where the sum is copied back to device
// memory) when it says ncclSuccess. A rank that does not come leaves the others at ncclInProgress, for the caller's
// time limit to end. As the real one it refuses two ranks on one GPU, and ranks with different ids.
//
// The environment: KTO_STANDIN_FAIL=NAME:N fails the N-th call of NAME; of ncclCommGetAsyncError, as if a peer were
// lost. KTO_STANDIN_ABORT_HANGS: ncclCommAbort does not return.
#define OMPI_SKIP_MPICXX 1 // MPI as C knows it
#include "nccl.h"
#include "standin.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mpi.h>
#include <random>
#include <string>
#include <unistd.h>
#include <vector>

using namespace standin;

enum Stage { JOINING, COMPARING, IDLE, QUEUED, SUMMING, BROKEN };

struct Member { // what a rank tells the others when it joins
    char id[NCCL_UNIQUE_ID_BYTES], gpu[NCCL_UNIQUE_ID_BYTES];
};

struct ncclComm {
    MPI_Comm group = MPI_COMM_NULL;
    MPI_Request request = MPI_REQUEST_NULL;
    Stage stage = JOINING;
    int rank = 0;
    Member mine = {};
    std::vector<Member> members;
    std::vector<float> values;
    float *to = nullptr;
    cudaStream_t stream = nullptr;
};

static std::string last_error;

static ncclResult_t fail(ncclComm_t comm, ncclResult_t result, const std::string &text) {
    last_error = text;
    if (comm != nullptr) comm->stage = BROKEN;
    return result;
}

// Whether the environment asks this call to fail.
static bool injected(const char *name) {
    static std::map<std::string, int> calls;
    static const char *const which = getenv("KTO_STANDIN_FAIL");
    return which != nullptr && std::string(name) + ":" + std::to_string(++calls[name]) == which;
}

static bool finished(MPI_Request *request) {
    int done = 0;
    MPI_Test(request, &done, MPI_STATUS_IGNORE);
    return done != 0;
}

static ncclResult_t compare(ncclComm_t comm) {
    for (size_t i = 0; i < comm->members.size(); i++) {
        if (memcmp(comm->members[i].id, comm->mine.id, sizeof comm->mine.id) != 0)
            return fail(comm, ncclInvalidArgument, "rank " + std::to_string(i) + " joins with another id");
        if ((int)i != comm->rank && memcmp(comm->members[i].gpu, comm->mine.gpu, sizeof comm->mine.gpu) == 0)
            return fail(comm, ncclInvalidUsage,
                        "Duplicate GPU detected : rank " + std::to_string(comm->rank) + " and rank " +
                            std::to_string(i) + " both on CUDA device " + comm->mine.gpu);
    }
    comm->stage = IDLE;
    return ncclSuccess;
}

// Takes the work one step further.
static ncclResult_t advance(ncclComm_t comm) {
    const int bytes = (int)sizeof(Member);
    switch (comm->stage) {
    case JOINING:
        if (!finished(&comm->request)) return ncclInProgress;
        MPI_Iallgather(&comm->mine, bytes, MPI_BYTE, comm->members.data(), bytes, MPI_BYTE, comm->group,
                       &comm->request);
        comm->stage = COMPARING;
        return ncclInProgress;
    case COMPARING:
        return finished(&comm->request) ? compare(comm) : ncclInProgress;
    case QUEUED: {
        const cudaError_t error = cudaStreamQuery(comm->stream);
        if (error == cudaErrorNotReady) return ncclInProgress;
        if (error != cudaSuccess) return fail(comm, ncclUnhandledCudaError, "the stream failed");
        MPI_Iallreduce(MPI_IN_PLACE, comm->values.data(), (int)comm->values.size(), MPI_FLOAT, MPI_SUM, comm->group,
                       &comm->request);
        comm->stage = SUMMING;
        return ncclInProgress;
    }
    case SUMMING:
        if (!finished(&comm->request)) return ncclInProgress;
        enqueue(comm->stream,
                [to = comm->to, values = comm->values]() { memcpy(to, values.data(), values.size() * sizeof(float)); });
        comm->stage = IDLE;
        return ncclSuccess;
    case IDLE:
        return ncclSuccess;
    case BROKEN:
        break;
    }
    return ncclInternalError;
}

extern "C" {

ncclResult_t ncclGetUniqueId(ncclUniqueId *out) {
    if (injected("ncclGetUniqueId")) return fail(nullptr, ncclSystemError, "Bootstrap : no socket interface found");
    std::random_device random;
    for (char &byte : out->internal) byte = (char)random();
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config) {
    *out = nullptr;
    if (config->magic != 0xcafebeef || config->blocking != 0) refuse("NCCL: a blocking communicator has no time limit");
    if (getenv("NCCL_ALGO") == nullptr) refuse("NCCL: NCCL_ALGO is unset, so that sums may differ from run to run");
    if (injected("ncclCommInitRankConfig"))
        return fail(nullptr, ncclSystemError, "Error while creating shared memory segment");
    int world = 0, world_rank = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    if (ranks != world || rank != world_rank) return fail(nullptr, ncclInvalidArgument, "ranks are not the job's");
    ncclComm_t comm = new ncclComm;
    comm->rank = rank;
    comm->members.resize((size_t)ranks);
    memcpy(comm->mine.id, id.internal, sizeof id.internal);
    char pci[32] = "", host[64] = "";
    int device = 0;
    cudaGetDevice(&device);
    cudaDeviceGetPCIBusId(pci, sizeof pci, device);
    gethostname(host, sizeof host - 1);
    snprintf(comm->mine.gpu, sizeof comm->mine.gpu, "%s of %s", pci, host);
    *out = comm;
    MPI_Comm_idup(MPI_COMM_WORLD, &comm->group, &comm->request);
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state) {
    *state =
        injected("ncclCommGetAsyncError") ? fail(comm, ncclRemoteError, "socket closed by remote peer") : advance(comm);
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
    if (injected("ncclAllReduce"))
        return fail(comm, ncclUnhandledCudaError, "Cuda failure 'unspecified launch failure'");
    if (comm->stage != IDLE) return fail(comm, ncclInvalidUsage, "the communicator still works on the call before");
    if (type != ncclFloat || op != ncclSum || count > INT_MAX) refuse("NCCL: only sums of floats");
    if (!is_device(from) || !is_device(to)) refuse("NCCL: %p or %p is not device memory", from, to);
    check_span(from, count * sizeof(float), "ncclAllReduce from");
    check_span(to, count * sizeof(float), "ncclAllReduce to");
    comm->values.resize(count);
    comm->to = (float *)to;
    comm->stream = stream;
    comm->stage = QUEUED;
    enqueue(stream, [=]() { memcpy(comm->values.data(), from, count * sizeof(float)); });
    return ncclInProgress;
}

// A request under way stays with MPI, and so does what it writes to.
ncclResult_t ncclCommAbort(ncclComm_t comm) {
    while (getenv("KTO_STANDIN_ABORT_HANGS") != nullptr) pause();
    if (comm->request == MPI_REQUEST_NULL) delete comm;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) {
    static const char *const texts[] = {"no error",
                                        "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
                                        "unhandled system error (run with NCCL_DEBUG=INFO for details)",
                                        "internal error - please report this issue to the NCCL developers",
                                        "invalid argument (run with NCCL_DEBUG=WARN for details)",
                                        "invalid usage (run with NCCL_DEBUG=WARN for details)",
                                        "remote process exited or there was a network error",
                                        "NCCL operation in progress"};
    return texts[result];
}

const char *ncclGetLastError(ncclComm_t) {
    return last_error.c_str();
}

} // extern "C"
