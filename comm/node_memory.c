// The memory that the ranks of a node share (comm.h): a POSIX memory object a block, without a name once all have it.
#include "comm/state.h"
#include "src/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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
    Status status = comm_node_gather(comm, what, own, 2, all);
    if (status == STATUS_OK && all[0] == 0) {
        snprintf(name, sizeof name, "/kto.%lld.%zu", (long long)all[1], state->block_count);
        if (!first) own[0] = map_shared(name, bytes, false, out);
        status = comm_node_gather(comm, what, own, 2, all);
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

void node_memory_close(Comm *comm) {
    struct CommState *state = comm->state;
    for (size_t i = 0; i < state->block_count; i++) {
        if (state->blocks[i].mapped > 0)
            munmap(state->blocks[i].memory, state->blocks[i].mapped);
        else
            free(state->blocks[i].memory);
    }
    free(state->blocks);
}
