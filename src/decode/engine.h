// Answers for many askers at once: a bounded queue of jobs in front of one Generator or several, each with a model and
// a thread of its own. Any thread submits jobs and reads their text; the thread that opened the models runs engine_run.
#pragma once
#include "io/tokenizer.h"
#include "src/decode/generate.h"

#define ENGINE_STOPS_MAX 4 // texts that end an answer

typedef struct EngineOptions {
    GeneratorSize size;  // of all generators together, but for prefill_tokens
    int32_t queue;       // jobs that may wait for a place
    double stop_seconds; // for answers under way, once the engine was asked to stop
} EngineOptions;

typedef struct Engine Engine;
typedef struct Job Job;

typedef struct JobOptions {
    GenerateOptions generate; // max_tokens is cut to what the model and the cache have room for
    uint32_t id;              // names the random numbers (GeneratePrompt.id)
    bool skip_newline;        // at the answer's start (src/decode/text_stream.h)
    char *stop[ENGINE_STOPS_MAX];
    int stop_count;                 // texts that end the answer and are no part of it; copied
    void (*notify)(void *argument); // called by a thread of the engine when there is something that job_read waited for
    void *argument;
} JobOptions;

typedef enum JobEnd { JOB_GOES_ON, JOB_STOP, JOB_LENGTH, JOB_CANCELLED } JobEnd; // STOP: eos, or one of `stop`

// models[count] are the same model, each on a device of its own; they and `tokenizer` stay the caller's. A sequence
// can take a count-th part of the cache. engine_close also after a failure.
Status engine_open(Engine **out, Model *const *models, int count, const Tokenizer *tokenizer,
                   const EngineOptions *options);
void engine_close(Engine *engine); // every job must have been released

// Computes until `stop` says so; then takes no more jobs, gives those that answer stop_seconds, and ends the rest.
// `tick`, where not NULL, is called about once a second. STATUS_FAILED when the device failed: all jobs have ended
// then.
Status engine_run(Engine *engine, bool (*stop)(void), void (*tick)(void *), void *argument);

typedef enum Submitted { SUBMIT_TAKEN, SUBMIT_FULL, SUBMIT_CLOSED, SUBMIT_TOO_LONG, SUBMIT_NO_MEMORY } Submitted;
// Puts a prompt (ids copied) into the queue. SUBMIT_FULL: the queue is full, try later; SUBMIT_TOO_LONG: it can never
// fit.
Submitted engine_submit(Engine *engine, const int32_t *ids, int32_t count, const JobOptions *options, Job **out);
// *text gets what came since byte `from` of the answer ("" if nothing; freed by the caller; NULL when out of memory).
// Where nothing new is there, or with `whole` the answer has not ended, notify will be called once.
JobEnd job_read(Engine *engine, Job *job, size_t from, bool whole, char **text);
int32_t job_tokens(const Job *job); // of the answer, once it has ended
// Ends the job if it has not ended. No notify comes after this.
void job_release(Engine *engine, Job *job);

typedef struct EngineState {
    int32_t answering, waiting, capacity; // sequences; jobs in the queue; sequences at most
    int64_t answers, tokens;              // since the start
} EngineState;
EngineState engine_state(Engine *engine);
