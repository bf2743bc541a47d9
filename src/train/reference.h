// Log-probs of the reference model (the base model with adapters off), which every row needs once: in memory, and in a
// cache file that later epochs and runs read. step.c computes them.
#pragma once
#include "comm/comm.h"
#include "src/data/dataset.h"
#include "src/model/model.h"

// Log-probs of the reference model by dataset row (a pair has two: src/data/dataset.h); NaN: not computed yet. The same
// on every rank.
typedef struct Reference {
    double *logp, *logp_kl; // [count]
    int32_t count, missing;
    char key[512];   // what the values depend on
    char path[2048]; // of the cache file
    bool changed;    // since it was read or written
} Reference;

// Allocates, and reads the cache file in `folder` that fits (rank 0 reads, all get it). `plan` is the run's: the values
// are those of training's own micro-batches, and so of its ranks and budget.
Status reference_open(Reference *reference, const Dataset *dataset, const Model *model, const BatchOptions *plan,
                      Comm *comm, const char *folder);
// Writes the cache file when it changed (rank 0). After a failure the next call tries again.
Status reference_save(Reference *reference, Comm *comm);
void reference_close(Reference *reference);
// Whether the batch's rows have their values.
bool reference_has(const Reference *reference, const Dataset *dataset, int32_t batch);
