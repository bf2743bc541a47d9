// What a Comm holds behind comm.h. For the files of this folder alone: mpi.c (collectives), witness.c (who has
// arrived), node_memory.c (what a node's ranks share).
#pragma once
#include "comm/comm.h"
#include <mpi.h>

// Collectives under way at once; a step has two at most (gradient sum, exchange of records).
#define SLOTS 4

// A collective under way. MPI reads counts and offsets until it ends, so they are kept here.
typedef struct Slot {
    MPI_Request request;
    int *counts, *offsets; // [size], bytes
    bool used;
} Slot;

typedef struct NodeBlock {
    void *memory;
    size_t mapped; // bytes; 0: from memory_alloc, on a node with one rank
} NodeBlock;

typedef struct Place {
    char host[64];
    int64_t process;
} Place;

// Who has arrived where, as this rank knows it (witness.c).
typedef struct Witness {
    MPI_Comm tokens;      // messages without content, to and from the witnesses
    int64_t entered;      // collectives of all ranks, by this one
    int64_t *arrived;     // [size] a witness: by the others, as far as it knows
    MPI_Request *arrival; // [size] a witness: a token to come from each other rank
    MPI_Request question; // whether this rank is alive, to come from a witness
    bool *silent;         // [size]
    int *indices;         // [size]
    Place *places;        // [size]
} Witness;

struct CommState {
    MPI_Comm node;
    Witness witness;
    Slot slots[SLOTS];
    int *ints; // the slots' counts and offsets
    NodeBlock *blocks;
    size_t block_count;
};

Status mpi_error(int code, const char *what);

Status witness_open(Comm *comm);
void witness_close(Comm *comm); // takes the tokens that are still on their way
void node_memory_close(Comm *comm);
