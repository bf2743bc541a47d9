// See engine.h. One lock guards everything; the devices compute without it.
#include "src/decode/engine.h"

#include "src/base/clock.h"
#include "src/base/memory.h"
#include "src/decode/text_stream.h"

#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define IDLE_SECONDS 0.1 // a request to stop is noticed after so long

struct Job {
    Job *next; // in the queue, or among those that answer
    GeneratePrompt prompt;
    JobOptions options;
    TextStream stream;
    char *text; // [size] of the answer; what may still become a stop text lies behind `visible`
    size_t size, visible, capacity;
    int32_t tokens;
    JobEnd end;
    bool wants_text, wants_end; // whom to notify of what
    bool released;              // by its asker, while it answers
};

// One model and the thread that computes with it.
typedef struct Worker {
    Engine *engine;
    Generator *generator;
    GenerateEvent *events; // [sequences]
    Job *answering;        // those in the generator
    int32_t count;         // of them
    int threads;           // of the model's device; 0: none of OpenMP's
    pthread_t thread;
} Worker;

struct Engine {
    const Tokenizer *tokenizer;
    EngineOptions options;
    int32_t positions;
    int64_t cache_tokens; // of one worker
    Worker *worker;       // [workers]
    int workers;
    pthread_mutex_t lock;
    pthread_cond_t work; // something was submitted, or a worker has ended
    Job *first, **last;  // the queue
    int32_t waiting;
    bool closed;
    double stop_at; // once it is closed
    Status status;  // the first failure's
    int64_t answers, tokens;
};

static void job_free(Job *job) {
    free((int32_t *)job->prompt.tokens);
    for (int i = 0; i < job->options.stop_count; i++) free(job->options.stop[i]);
    text_stream_free(&job->stream);
    free(job->text);
    free(job);
}

// --- the askers' side -----------------------------------------------------------------------------------------------

static Job *job_make(Engine *engine, const int32_t *ids, int32_t count, const JobOptions *options) {
    Job *job = calloc(1, sizeof *job);
    if (job == NULL) return NULL;
    job->options = *options;
    job->stream = (TextStream){.tokenizer = engine->tokenizer, .skip_newline = options->skip_newline};
    int32_t *copy = malloc((size_t)count * sizeof *copy);
    bool whole = copy != NULL;
    if (whole) memcpy(copy, ids, (size_t)count * sizeof *copy);
    job->prompt = (GeneratePrompt){copy, count, options->id};
    for (int i = 0; i < options->stop_count; i++) {
        job->options.stop[i] = strdup(options->stop[i]);
        whole &= job->options.stop[i] != NULL;
    }
    if (whole) return job;
    job_free(job);
    return NULL;
}

Submitted engine_submit(Engine *engine, const int32_t *ids, int32_t count, const JobOptions *options, Job **out) {
    *out = NULL;
    if (count > engine->positions || count > engine->cache_tokens) return SUBMIT_TOO_LONG;
    Job *job = job_make(engine, ids, count, options);
    if (job == NULL) return SUBMIT_NO_MEMORY;
    const int64_t room = engine->cache_tokens - count + 1;
    if (job->options.generate.max_tokens > room) job->options.generate.max_tokens = (int32_t)room;
    pthread_mutex_lock(&engine->lock);
    const Submitted result = engine->closed                             ? SUBMIT_CLOSED
                             : engine->waiting >= engine->options.queue ? SUBMIT_FULL
                                                                        : SUBMIT_TAKEN;
    if (result == SUBMIT_TAKEN) {
        *engine->last = job;
        engine->last = &job->next;
        engine->waiting++;
        pthread_cond_broadcast(&engine->work); // only some may take it: has_turn()
    }
    pthread_mutex_unlock(&engine->lock);
    if (result == SUBMIT_TAKEN)
        *out = job;
    else
        job_free(job);
    return result;
}

JobEnd job_read(Engine *engine, Job *job, size_t from, bool whole, char **text) {
    pthread_mutex_lock(&engine->lock);
    const JobEnd end = job->end;
    const size_t length = job->visible > from ? job->visible - from : 0;
    job->wants_text = !whole && length == 0 && end == JOB_GOES_ON;
    job->wants_end = whole && end == JOB_GOES_ON;
    *text = malloc(length + 1);
    if (*text != NULL) {
        if (length > 0) memcpy(*text, job->text + from, length);
        (*text)[length] = '\0';
    }
    pthread_mutex_unlock(&engine->lock);
    return end;
}

int32_t job_tokens(const Job *job) {
    return job->tokens;
}

static bool unlink_job(Job **list, Job *job, Job ***last) {
    for (; *list != NULL; list = &(*list)->next) {
        if (*list != job) continue;
        *list = job->next;
        if (last != NULL && *last == &job->next) *last = list;
        return true;
    }
    return false;
}

void job_release(Engine *engine, Job *job) {
    pthread_mutex_lock(&engine->lock);
    bool ended = job->end != JOB_GOES_ON;
    if (!ended && unlink_job(&engine->first, job, &engine->last)) {
        engine->waiting--;
        ended = true;
    }
    job->released = true; // the engine's thread frees it when it answers
    pthread_mutex_unlock(&engine->lock);
    if (ended) job_free(job);
}

static int32_t count_answering(const Engine *engine) {
    int32_t count = 0;
    for (int i = 0; i < engine->workers; i++) count += engine->worker[i].count;
    return count;
}

EngineState engine_state(Engine *engine) {
    pthread_mutex_lock(&engine->lock);
    EngineState state = {.waiting = engine->waiting,
                         .capacity = engine->options.size.sequences,
                         .answers = engine->answers,
                         .tokens = engine->tokens};
    state.answering = count_answering(engine);
    pthread_mutex_unlock(&engine->lock);
    return state;
}

// --- a worker's thread, with the lock -------------------------------------------------------------------------------

static void tell(Job *job) {
    if (job->released || !(job->wants_text || (job->wants_end && job->end != JOB_GOES_ON))) return;
    job->wants_text = job->wants_end = false;
    job->options.notify(job->options.argument);
}

// The job has ended and is its asker's alone from here on.
static void end_job(Job *job, JobEnd end) {
    job->end = end;
    job->visible = job->size;
    const bool released = job->released;
    tell(job);
    if (released) job_free(job);
}

// Shows what cannot be the beginning of a stop text; true when one is there, where the answer then ends.
static bool find_stop(Job *job, size_t before) {
    size_t hold = 0;
    for (int i = 0; i < job->options.stop_count; i++) {
        const char *stop = job->options.stop[i];
        const size_t length = strlen(stop);
        const size_t from = before >= length ? before - length + 1 : 0;
        const char *found = job->size >= length ? memmem(job->text + from, job->size - from, stop, length) : NULL;
        if (found != NULL) {
            job->size = (size_t)(found - job->text);
            if (job->visible > job->size) job->visible = job->size;
            return true;
        }
        for (size_t n = length - 1; n > hold; n--)
            if (job->size >= n && memcmp(job->text + job->size - n, stop, n) == 0) hold = n;
    }
    job->visible = job->size - hold;
    return false;
}

static Status append(Job *job, const char *piece, bool *stopped) {
    const size_t length = strlen(piece), before = job->size;
    if (job->size + length > job->capacity) {
        const size_t capacity = 2 * (job->size + length) + 256;
        char *text = realloc(job->text, capacity);
        if (text == NULL) return error_set(STATUS_FAILED, "out of memory for an answer");
        job->text = text;
        job->capacity = capacity;
    }
    if (length > 0) memcpy(job->text + job->size, piece, length);
    job->size += length;
    *stopped = length > 0 && find_stop(job, before);
    return STATUS_OK;
}

// One token of a job, or its end.
static Status take_event(Worker *worker, const GenerateEvent *event) {
    Engine *engine = worker->engine;
    Job *job = event->owner;
    const size_t shown = job->visible;
    bool stopped = false;
    if (event->token >= 0) {
        char *piece = NULL;
        TRY(text_stream_add(&job->stream, event->token, &piece));
        job->tokens++;
        engine->tokens++;
        const Status status = append(job, piece, &stopped);
        free(piece);
        TRY(status);
    }
    if (event->end != GENERATE_GOES_ON && !stopped) {
        char *piece = NULL;
        TRY(text_stream_end(&job->stream, &piece));
        const Status status = append(job, piece, &stopped);
        free(piece);
        TRY(status);
    }
    if (event->end == GENERATE_GOES_ON && !stopped) {
        if (job->visible > shown) tell(job);
        return STATUS_OK;
    }
    if (event->end == GENERATE_GOES_ON) generator_cancel(worker->generator, job);
    unlink_job(&worker->answering, job, NULL);
    worker->count--;
    engine->answers++;
    end_job(job, event->end == GENERATE_LENGTH && !stopped ? JOB_LENGTH : JOB_STOP);
    return STATUS_OK;
}

// Jobs whose asker has gone make room.
static void drop_released(Worker *worker) {
    for (Job **at = &worker->answering; *at != NULL;) {
        Job *job = *at;
        if (!job->released) {
            at = &job->next;
            continue;
        }
        *at = job->next;
        worker->count--;
        generator_cancel(worker->generator, job);
        job_free(job);
    }
}

// The next job goes to a worker that has fewest.
static bool has_turn(const Worker *worker) {
    const Engine *engine = worker->engine;
    for (int i = 0; i < engine->workers; i++)
        if (engine->worker[i].count < worker->count) return false;
    return count_answering(engine) < engine->options.size.sequences;
}

static Status take_waiting(Worker *worker) {
    Engine *engine = worker->engine;
    while (engine->first != NULL && has_turn(worker)) {
        Job *job = engine->first;
        bool taken;
        TRY(generator_add(worker->generator, &job->prompt, &job->options.generate, job, &taken));
        if (!taken) return STATUS_OK;
        unlink_job(&engine->first, job, &engine->last);
        engine->waiting--;
        job->next = worker->answering;
        worker->answering = job;
        worker->count++;
    }
    return STATUS_OK;
}

static void wait_for_work(Engine *engine) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)(IDLE_SECONDS * 1e9);
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&engine->work, &engine->lock, &until);
}

// One step of all that answer; without the lock while the device computes.
static Status step(Worker *worker) {
    Engine *engine = worker->engine;
    int32_t count = 0;
    pthread_mutex_unlock(&engine->lock);
    const Status status = generator_step(worker->generator, worker->events, &count);
    pthread_mutex_lock(&engine->lock);
    TRY(status);
    for (int32_t i = 0; i < count; i++) TRY(take_event(worker, &worker->events[i]));
    return STATUS_OK;
}

static void close_queue(Engine *engine) {
    if (engine->closed) return;
    engine->closed = true;
    engine->stop_at = clock_seconds() + engine->options.stop_seconds;
    pthread_cond_broadcast(&engine->work);
}

// Takes jobs up and computes them, or waits for some.
static void work_once(Worker *worker) {
    Engine *engine = worker->engine;
    Status status = STATUS_OK;
    drop_released(worker);
    if (!engine->closed) status = take_waiting(worker);
    if (status == STATUS_OK && generator_active(worker->generator) > 0)
        status = step(worker);
    else if (status == STATUS_OK)
        wait_for_work(engine);
    if (status == STATUS_OK || engine->status != STATUS_OK) return;
    engine->status = status;
    close_queue(engine);
}

// Whether these many jobs are to be gone on with.
static bool goes_on(const Engine *engine, int32_t answering) {
    if (engine->status != STATUS_OK) return false;
    return !engine->closed || (answering > 0 && clock_seconds() <= engine->stop_at);
}

static void *run_worker(void *argument) {
    Worker *worker = argument;
    Engine *engine = worker->engine;
    if (worker->threads > 0) omp_set_num_threads(worker->threads); // a number of each thread's own
    pthread_mutex_lock(&engine->lock);
    while (goes_on(engine, worker->count)) work_once(worker);
    pthread_cond_broadcast(&engine->work);
    pthread_mutex_unlock(&engine->lock);
    return NULL;
}

// --- the thread that runs the engine, which is the first worker's ---------------------------------------------------

static void end_jobs(Job **first, Generator *generator) {
    while (*first != NULL) {
        Job *job = *first;
        *first = job->next;
        if (generator != NULL) generator_cancel(generator, job);
        end_job(job, JOB_CANCELLED);
    }
}

static void end_all(Engine *engine) {
    end_jobs(&engine->first, NULL);
    engine->last = &engine->first;
    engine->waiting = 0;
    for (int i = 0; i < engine->workers; i++) {
        end_jobs(&engine->worker[i].answering, engine->worker[i].generator);
        engine->worker[i].count = 0;
    }
}

Status engine_run(Engine *engine, bool (*stop)(void), void (*tick)(void *), void *argument) {
    double ticked = clock_seconds();
    int started = 1;
    pthread_mutex_lock(&engine->lock);
    for (int error = 0; started < engine->workers && error == 0; started += error == 0) {
        error = pthread_create(&engine->worker[started].thread, NULL, run_worker, &engine->worker[started]);
        if (error != 0) engine->status = error_set(STATUS_FAILED, "a thread to compute with: %s", strerror(error));
    }
    while (goes_on(engine, count_answering(engine))) {
        if (!engine->closed && stop()) {
            close_queue(engine);
            continue;
        }
        if (tick != NULL && clock_seconds() - ticked >= 1) {
            ticked = clock_seconds();
            pthread_mutex_unlock(&engine->lock);
            tick(argument);
            pthread_mutex_lock(&engine->lock);
        }
        work_once(&engine->worker[0]);
    }
    close_queue(engine);
    pthread_mutex_unlock(&engine->lock);
    for (int i = 1; i < started; i++) pthread_join(engine->worker[i].thread, NULL);
    pthread_mutex_lock(&engine->lock);
    end_all(engine);
    pthread_mutex_unlock(&engine->lock);
    return engine->status;
}

Status engine_open(Engine **out, Model *const *models, int count, const Tokenizer *tokenizer,
                   const EngineOptions *options) {
    Engine *engine = NULL;
    TRY(MEMORY_ALLOC(engine, 1, "the server"));
    *out = engine;
    engine->tokenizer = tokenizer;
    engine->options = *options;
    engine->positions = models[0]->options.max_positions;
    engine->last = &engine->first;
    pthread_mutex_init(&engine->lock, NULL);
    pthread_cond_init(&engine->work, NULL);
    GeneratorSize size = options->size;
    size.sequences = (size.sequences + count - 1) / count;
    size.cache_tokens /= count;
    engine->cache_tokens = size.cache_tokens;
    TRY(MEMORY_ALLOC(engine->worker, count, "the server"));
    engine->workers = count;
    for (int i = 0; i < count; i++) {
        Worker *worker = &engine->worker[i];
        DeviceInfo info;
        models[i]->options.backend->info(models[i]->device, &info);
        *worker = (Worker){.engine = engine, .threads = info.threads};
        TRY(MEMORY_ALLOC(worker->events, size.sequences, "the server"));
        TRY(generator_open(&worker->generator, models[i], &size));
    }
    return STATUS_OK;
}

void engine_close(Engine *engine) {
    if (engine == NULL) return;
    for (int i = 0; i < engine->workers; i++) {
        generator_close(engine->worker[i].generator);
        free(engine->worker[i].events);
    }
    pthread_cond_destroy(&engine->work);
    pthread_mutex_destroy(&engine->lock);
    free(engine->worker);
    free(engine);
}
