// What every command opens before it works: configuration, ranks, tokenizer, rows, model. And what all of them say of
// it.
#pragma once
#include "comm/comm.h"
#include "io/config.h"
#include "io/peft.h"
#include "src/command.h"
#include "src/generate.h"
#include "src/step.h"

typedef struct Run {
    Config config;
    Comm *comm;
    Tokenizer *tokenizer;
    ChatTemplate *chat;  // NULL: none
    Dataset train, eval; // eval.count 0: none
    Model model;
    StepContext step;
    Reference train_reference, eval_reference;
    bool apart;       // set before run_open: threads work apart if the model is small, and run.model is of one thread
    int copies;       // then: models that there are threads for, run.model being one; else 1
    int device_ranks; // ranks of this node that share this rank's device and its memory
    const DeviceCommLibrary *device_sum; // sums gradients on the devices; NULL: over MPI
    bool has_model, has_step;
} Run;

typedef enum RunParts { RUN_ROWS = 1, RUN_MODEL = 2, RUN_STEP = 4 } RunParts; // bits; RUN_STEP needs both others

// Opens the parts asked for. Collective over all ranks; a failure is agreed on. `run` is zeroed but for config and
// comm.
Status run_open(Run *run, unsigned parts);
void run_close(Run *run);
// Sets data.today, where it is not set and the chat template tells the day, to the day on which the run in
// train.output_dir began: a run that goes on another day keeps its rows. Collective; before run_open.
Status run_fix_today(Run *run);

// Steps of the whole run: train.max_steps, or train.num_train_epochs (rounded up).
int64_t run_total_steps(const Run *run);
// What some ranks will lay out of all of a data set's batches.
typedef struct LayoutSize {
    int64_t keep, all; // most tokens of a micro-batch: in the first two regions, in all three
    TokenCount total;  // tokens of all batches (prefixes of a two-pass plan once)
} LayoutSize;

// Adds what ranks [first_rank, end_rank) lay out of `dataset` to *size.
Status run_measure_layout(const Run *run, const Dataset *dataset, int first_rank, int end_rank, LayoutSize *size);
// Sets the model's adapters to lora.init, or to a fresh adapter.
Status run_first_adapter(Run *run);
// The model's adapter tensors under PEFT's names, over a host vector of model->adapter_count. Caller frees *out.
Status run_peft_tensors(const Model *model, float *host, PeftTensor **out);
// Fills the model's adapter vector from a PEFT folder written for the same layers.
Status run_read_adapter(Run *run, const char *folder);

// Opens the model of a finished or going run (a run directory) or of a configuration, with the run's final adapter or
// its newest checkpoint; !adapters: the base model alone. Collective like run_open; run_close after a failure too.
// `from` (NULL: not wanted; PATH_MAX bytes) gets the adapter folder or checkpoint that was read, "" for the base model.
Status run_open_tuned(Run *run, const char *source, bool adapters, char *from);

// Another model like run->model, with the same adapter, on a device of its own.
Status run_copy_model(Run *run, Model *out);

#define RUN_MEMORY_SHARE 0.8 // of a device's memory, which a run takes at most
// Bytes of activations and scratch; where the backend is NULL (a device that is not built here), of an assumed scratch.
double run_working_bytes(const ModelConfig *model, const ModelOptions *options, int64_t keep, int64_t all);
// The largest train.micro_batch_tokens that needs at most `room` working bytes; 0: none does.
int64_t run_largest_micro_batch(const ModelConfig *model, const ModelOptions *options, double room);

// The start-up summary and warnings, on rank 0.
void run_describe(const Run *run);
// Rows of the data section: counts, labels, weights, what sharing saves. Used by run_describe and `kto check`.
void run_describe_rows(const Run *run);

extern const Command command_train, command_check, command_reference, command_sample, command_chat, command_serve,
    command_log, command_export;

// Mean metrics over the evaluation rows, by the current adapters (TRL's way: loss over rows, others over batches).
// STATUS_STOPPED, on all ranks alike, when the run was asked to stop in the middle of it.
Status evaluate(Run *run, MetricsRow *out);
// Answers to the prompts file `path` by all ranks together; on rank 0 *lines gets `samples` answers a prompt, one
// JSON object a line ({"step"} when step >= 0), NULL elsewhere. Caller frees.
typedef struct SampleOptions {
    bool adapters, greedy;
    double temperature, top_p;
    int64_t top_k, seed, max_tokens, samples;
} SampleOptions;
Status sample_file(Run *run, const char *path, const SampleOptions *options, int64_t step, char **lines);
extern const SampleOptions sample_defaults;
// Answers to prompts[count], which all ranks give alike, by all ranks together: answer i is rank i % size's. Every rank
// gets lengths[count] and ids[count * max_tokens].
Status run_answer(Run *run, const GeneratePrompt *prompts, int32_t count, const SampleOptions *options, int32_t eos,
                  int32_t *lengths, int32_t *ids);
// The flags of commands that sample: `member` is the SampleOptions of their struct of options.
#define SAMPLING_FLAGS(type, member)                                                                                   \
    {.name = "--greedy",                                                                                               \
     .kind = FLAG_SWITCH,                                                                                              \
     .offset = offsetof(type, member.greedy),                                                                          \
     .help = "always the likeliest token"},                                                                            \
        {.name = "--temperature",                                                                                      \
         .value = "T",                                                                                                 \
         .kind = FLAG_REAL,                                                                                            \
         .offset = offsetof(type, member.temperature),                                                                 \
         .high = 100,                                                                                                  \
         .help = "divides the logits (1)"},                                                                            \
        {.name = "--top-k",                                                                                            \
         .value = "K",                                                                                                 \
         .kind = FLAG_WHOLE,                                                                                           \
         .offset = offsetof(type, member.top_k),                                                                       \
         .high = INT32_MAX,                                                                                            \
         .help = "only the K likeliest tokens (0: all)"},                                                              \
        {.name = "--top-p",                                                                                            \
         .value = "P",                                                                                                 \
         .kind = FLAG_REAL,                                                                                            \
         .offset = offsetof(type, member.top_p),                                                                       \
         .high = 1,                                                                                                    \
         .help = "only the likeliest tokens that hold P of the probability (1: all)"},                                 \
        {.name = "--seed",                                                                                             \
         .value = "S",                                                                                                 \
         .kind = FLAG_WHOLE,                                                                                           \
         .offset = offsetof(type, member.seed),                                                                        \
         .high = 9007199254740992.0,                                                                                   \
         .help = "of the random numbers (0)"},                                                                         \
    {                                                                                                                  \
        .name = "--max-tokens", .value = "N", .kind = FLAG_WHOLE, .offset = offsetof(type, member.max_tokens),         \
        .low = 1, .high = 1 << 20, .help = "longest answer (256)"                                                      \
    }
