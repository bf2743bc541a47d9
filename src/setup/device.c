#include "src/setup/device.h"

#include "src/base/hash.h"
#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/base/module.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int cores_allowed(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

int device_threads(const Comm *comm) {
    if (getenv("OMP_NUM_THREADS") != NULL) return 0;
    int allowed = cores_allowed(), online = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (allowed < online) return allowed;
    return allowed / comm->node_size > 1 ? allowed / comm->node_size : 1;
}

bool device_is_gpu(const DeviceInfo *info) {
    return info->id[0] != '\0';
}

static Status open_backend(const char *name, ModelOptions *options) {
    const char *why = "";
    options->backend = backend_find(name, &why);
    if (options->backend == NULL) return error_set(STATUS_USAGE, "%s", why);
    return options->backend->open(&options->device, &options->opened);
}

// "auto" is a GPU where one opens. Where the module was built but gives none, that is said; a build without it is a CPU
// build, and says nothing.
static Status open_device(const Config *config, ModelOptions *options) {
    if (config->device.backend == BACKEND_CUDA) {
        const Status status = open_backend("cuda", options);
        return status == STATUS_OK ? status : error_advise(status, "device.backend = \"cpu\" computes on the CPU");
    }
    if (config->device.backend == BACKEND_AUTO && module_exists("cuda")) {
        if (open_backend("cuda", options) == STATUS_OK) return STATUS_OK;
        log_info("%-8s the CPU, because: %s", "device", error_text());
        error_clear();
    }
    return open_backend("cpu", options);
}

Status device_same_on_all_ranks(Comm *comm, const char *text, const char *advice) {
    const int64_t mine = (int64_t)hash_bytes(0, text, strlen(text));
    int64_t *all = NULL;
    TRY(MEMORY_ALLOC(all, comm->size, "the ranks' devices"));
    const Status status =
        comm_gather_int64(comm, "the comparison of configurations, rows, devices and weights", &mine, 1, all);
    int other = 0, others = 0;
    for (int r = comm->size - 1; r > 0 && status == STATUS_OK; r--)
        if (all[r] != all[0]) {
            other = r;
            others++;
        }
    free(all);
    TRY(status);
    if (others == 0) return STATUS_OK;
    char first[300] = "", second[300] = "";
    snprintf(first, sizeof first, "%s", text);
    snprintf(second, sizeof second, "%s", text);
    TRY(comm_broadcast(comm, "the naming of a device", first, sizeof first, 0));
    TRY(comm_broadcast(comm, "the naming of a device", second, sizeof second, other));
    return comm_agree(comm, error_set(STATUS_USAGE, "rank 0 has %s, but rank %d%s has %s; %s", first, other,
                                      others > 1 ? " (not alone)" : "", second, advice));
}

// Counts the ranks of this node that have this rank's device; *other is the lowest that is not this rank.
static Status count_device_ranks(Comm *comm, const DeviceInfo *info, DeviceShare *share, int *other) {
    const int64_t mine[2] = {(int64_t)hash_bytes(0, info->id, strlen(info->id)), comm->rank};
    int64_t *all = NULL;
    TRY(MEMORY_ALLOC(all, 2 * comm->node_size, "the ranks' devices"));
    Status status = comm_node_gather(comm, "the sharing of devices", mine, 2, all);
    share->ranks = 0;
    *other = comm->rank;
    for (int i = 0; i < comm->node_size && status == STATUS_OK; i++) {
        if (all[2 * i] != mine[0]) continue;
        share->ranks++;
        if (*other == comm->rank) *other = (int)all[2 * i + 1];
    }
    free(all);
    return status;
}

// How gradients are summed, the same on all ranks: by NCCL on the GPUs, which takes one GPU a rank, or over MPI.
static Status choose_device_sum(int asked, Comm *comm, const DeviceInfo *info, int other, DeviceShare *share) {
    share->sum = NULL;
    if (comm->size == 1 || asked == COMM_MPI || (asked == COMM_AUTO && !device_is_gpu(info))) return STATUS_OK;
    Status status = STATUS_OK;
    if (!device_is_gpu(info)) {
        status =
            error_set(STATUS_USAGE, "device.comm = \"nccl\" sums on GPUs, and this run is on the CPU; use \"auto\"");
    } else if (share->ranks > 1) {
        char host[256] = "this machine";
        gethostname(host, sizeof host - 1);
        status =
            error_set(STATUS_USAGE,
                      "ranks %d and %d on %s share one GPU (%s), which NCCL does not allow: give the job more GPUs "
                      "(--gpus), start fewer ranks, or set device.comm = \"mpi\"",
                      comm->rank < other ? comm->rank : other, comm->rank < other ? other : comm->rank, host, info->id);
    } else if (device_comm_find(&share->sum) != STATUS_OK) {
        char why[ERROR_TEXT_MAX];
        snprintf(why, sizeof why, "%s", error_text());
        error_clear();
        status =
            error_set(STATUS_USAGE, "NCCL: %.600s; build with NCCL (libnccl-dev), or set device.comm = \"mpi\"", why);
    }
    status = comm_agree(comm, status);
    if (status != STATUS_USAGE || asked != COMM_AUTO) return status;
    log_info("%-8s gradients are summed over MPI, through the host, because: %s", "device", error_text());
    error_clear();
    share->sum = NULL;
    return STATUS_OK;
}

static Status check_devices(const Config *config, Comm *comm, bool sums, const ModelOptions *options,
                            DeviceShare *share) {
    DeviceInfo info;
    options->backend->info(options->opened, &info);
    char text[300]; // CPUs may differ: ranks are bound to cores, and their threads are part of the name
    snprintf(text, sizeof text, "%s in %s", device_is_gpu(&info) ? info.name : "the CPU",
             options->device.dtype == DTYPE_BF16 ? "bfloat16" : "float32");
    TRY(device_same_on_all_ranks(comm, text,
                                 "start all ranks on machines of one kind, or set device.backend = \"cpu\""));
    int other = 0;
    TRY(comm_agree(comm, count_device_ranks(comm, &info, share, &other)));
    return sums ? choose_device_sum(config->device.comm, comm, &info, other, share) : STATUS_OK;
}

Status device_choose(const Config *config, Comm *comm, bool sums, ModelOptions *options, DeviceShare *out) {
    *out = (DeviceShare){0};
    Status status = comm_agree(comm, open_device(config, options));
    if (status == STATUS_OK) status = check_devices(config, comm, sums, options, out);
    if (status != STATUS_OK && options->opened != NULL) {
        options->backend->close(options->opened);
        options->opened = NULL;
    }
    return status;
}
