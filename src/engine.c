// See engine.h. One lock guards everything; the device computes without it.
#include "src/engine.h"

#include "src/base/clock.h"
#include "src/base/memory.h"
#include "src/text_stream.h"

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

struct Engine {
    const Tokenizer *tokenizer;
    EngineOptions options;
    int32_t positions;
    int64_t cache_tokens;
    Generator *generator;
    GenerateEvent *events; // [sequences]
    pthread_mutex_t lock;
    pthread_cond_t work; // something was submitted
    Job *first, **last;  // the queue
    Job *answering;      // those in the generator
    int32_t waiting;
    bool closed;
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
        pthread_cond_signal(&engine->work);
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

EngineState engine_state(Engine *engine) {
    pthread_mutex_lock(&engine->lock);
    EngineState state = {.waiting = engine->waiting,
                         .capacity = engine->options.size.sequences,
                         .answers = engine->answers,
                         .tokens = engine->tokens};
    for (const Job *job = engine->answering; job != NULL; job = job->next) state.answering++;
    pthread_mutex_unlock(&engine->lock);
    return state;
}

// --- the engine's thread, with the lock -----------------------------------------------------------------------------

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
static Status take_event(Engine *engine, const GenerateEvent *event) {
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
    if (event->end == GENERATE_GOES_ON) generator_cancel(engine->generator, job);
    unlink_job(&engine->answering, job, NULL);
    engine->answers++;
    end_job(job, event->end == GENERATE_LENGTH && !stopped ? JOB_LENGTH : JOB_STOP);
    return STATUS_OK;
}

// Jobs whose asker has gone make room.
static void drop_released(Engine *engine) {
    for (Job **at = &engine->answering; *at != NULL;) {
        Job *job = *at;
        if (!job->released) {
            at = &job->next;
            continue;
        }
        *at = job->next;
        generator_cancel(engine->generator, job);
        job_free(job);
    }
}

static Status take_waiting(Engine *engine) {
    while (engine->first != NULL) {
        Job *job = engine->first;
        bool taken;
        TRY(generator_add(engine->generator, &job->prompt, &job->options.generate, job, &taken));
        if (!taken) return STATUS_OK;
        unlink_job(&engine->first, job, &engine->last);
        engine->waiting--;
        job->next = engine->answering;
        engine->answering = job;
    }
    return STATUS_OK;
}

static void end_all(Engine *engine) {
    for (int list = 0; list < 2; list++) {
        Job **first = list == 0 ? &engine->first : &engine->answering;
        while (*first != NULL) {
            Job *job = *first;
            *first = job->next;
            if (list == 1) generator_cancel(engine->generator, job);
            end_job(job, JOB_CANCELLED);
        }
    }
    engine->last = &engine->first;
    engine->waiting = 0;
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
static Status step(Engine *engine) {
    int32_t count = 0;
    pthread_mutex_unlock(&engine->lock);
    const Status status = generator_step(engine->generator, engine->events, &count);
    pthread_mutex_lock(&engine->lock);
    TRY(status);
    for (int32_t i = 0; i < count; i++) TRY(take_event(engine, &engine->events[i]));
    return STATUS_OK;
}

Status engine_run(Engine *engine, bool (*stop)(void), void (*tick)(void *), void *argument) {
    Status status = STATUS_OK;
    double ticked = clock_seconds(), stop_at = 0;
    pthread_mutex_lock(&engine->lock);
    while (status == STATUS_OK) {
        if (!engine->closed && stop()) {
            engine->closed = true;
            stop_at = clock_seconds() + engine->options.stop_seconds;
        }
        if (engine->closed && (engine->answering == NULL || clock_seconds() > stop_at)) break;
        if (tick != NULL && clock_seconds() - ticked >= 1) {
            ticked = clock_seconds();
            pthread_mutex_unlock(&engine->lock);
            tick(argument);
            pthread_mutex_lock(&engine->lock);
        }
        drop_released(engine);
        if (!engine->closed) status = take_waiting(engine);
        if (status != STATUS_OK) break;
        if (generator_active(engine->generator) > 0)
            status = step(engine);
        else
            wait_for_work(engine);
    }
    engine->closed = true;
    end_all(engine);
    pthread_mutex_unlock(&engine->lock);
    return status;
}

Status engine_open(Engine **out, Model *model, const Tokenizer *tokenizer, const EngineOptions *options) {
    Engine *engine = NULL;
    TRY(MEMORY_ALLOC(engine, 1, "the server"));
    *out = engine;
    engine->tokenizer = tokenizer;
    engine->options = *options;
    engine->positions = model->options.max_positions;
    engine->cache_tokens = options->size.cache_tokens;
    engine->last = &engine->first;
    pthread_mutex_init(&engine->lock, NULL);
    pthread_cond_init(&engine->work, NULL);
    TRY(MEMORY_ALLOC(engine->events, options->size.sequences, "the server"));
    return generator_open(&engine->generator, model, &options->size);
}

void engine_close(Engine *engine) {
    if (engine == NULL) return;
    generator_close(engine->generator);
    pthread_cond_destroy(&engine->work);
    pthread_mutex_destroy(&engine->lock);
    free(engine->events);
    free(engine);
}
