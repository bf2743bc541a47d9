// A run: what a command has open while it works. src/setup opens it, train/ and the commands work on it.
#pragma once
#include "comm/device_comm.h"
#include "io/config.h"
#include "src/data/dataset.h"
#include "src/decode/answers.h"
#include "src/train/reference.h"
#include "src/train/step.h"

typedef struct Run {
    Config config;
    Comm *comm;
    Tokenizer *tokenizer;
    ChatTemplate *chat; // NULL: none
    EndTokens ends; // of an answer: the tokenizer's, which training appends, and those that the model's folder names
    Dataset train, eval; // eval.count 0: none
    Model model;
    StepContext step;
    Reference train_reference, eval_reference;
    bool apart;       // set before run_open: threads work apart if the model is small, and run.model is of one thread
    int copies;       // then: models that there are threads for, run.model being one; else 1
    int device_ranks; // ranks of this node that share this rank's device and its memory
    const DeviceCommLibrary *device_sum; // sums gradients on the devices; NULL: over MPI
    bool has_model, has_step;
    // With steps: the most tokens of a micro-batch of this rank, and the training batch that has the most.
    int64_t tokens_max;
    int32_t largest_batch;
} Run;

// The run's model as one that answers.
static inline Answering run_answering(Run *run) {
    return (Answering){run->comm, &run->model, run->tokenizer, run->chat, &run->ends};
}
