// Sampling: which tokens run when.
//
// A sequence's keys and values lie in pages (src/decode/kv_cache.h), each a segment whose parent is the page before it.
// All of a prompt but its last token is computed first, in parts; its last token is the first that is decoded.
#include "src/decode/generate.h"

#include "src/base/memory.h"
#include "src/base/rng.h"
#include "src/decode/draw.h"
#include "src/decode/kv_cache.h"
#include "src/model/decode.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define PREFILL_MULTIPLE 64

#define DRAWS_APART 8 // as many draws are worth the threads

typedef enum State { FREE, PREFILL, ANSWER } State;

typedef struct Sequence {
    State state;
    void *owner; // NULL: nobody wants it any more
    GenerateOptions options;
    int32_t *tokens; // [room] prompt, then answer
    int32_t room, length, prompt_length;
    int32_t computed; // leading tokens whose keys and values are in the cache
    int32_t *page;    // [page_count]
    int32_t page_count;
    uint32_t id;
    uint64_t order; // of arrival
} Sequence;

struct Generator {
    Model *model;
    GeneratorSize size;
    KvCache cache;
    Sequence *sequences; // [size.sequences]
    int32_t active;
    uint64_t arrivals;
    // One call of model_decode:
    int32_t *token, *position, *place; // [rows_max]
    int32_t rows, rows_max;
    Segment *segment;      // [pages of the cache]
    QueryRange *query;     // [pages of the cache + sequences]
    int32_t *segment_page; // [pages] the page of each segment
    int32_t *page_segment; // [pages] -1: none in this call
    int32_t segments, queries;
    Sequence **running; // [size.sequences] those of this call
    float *logits;      // [sequences, vocab]
    int32_t *drawn;     // [sequences]
    int threads;        // that draw
    char *scratch;      // [threads, draw_scratch]
};

// --- one call of model_decode ---------------------------------------------------------------------------------------

static void call_clear(Generator *g) {
    for (int32_t s = 0; s < g->segments; s++) g->page_segment[g->segment_page[s]] = -1;
    g->rows = g->segments = g->queries = 0;
}

// The segment of the sequence's i-th page; its parents stand before it.
static int32_t segment_of(Generator *g, const Sequence *sequence, int32_t i) {
    const int32_t rows = g->cache.page_rows;
    int32_t parent = -1;
    for (int32_t p = 0; p <= i; p++) {
        int32_t *segment = &g->page_segment[sequence->page[p]];
        if (*segment < 0) {
            *segment = g->segments++;
            g->segment_page[*segment] = sequence->page[p];
            g->segment[*segment] = (Segment){sequence->page[p] * rows, 0, p * rows, parent};
        }
        parent = *segment;
    }
    return parent;
}

// Puts the sequence's next `count` tokens into the call.
static void call_add(Generator *g, Sequence *sequence, int32_t count) {
    const int32_t rows = g->cache.page_rows;
    while (count > 0) {
        const int32_t first = sequence->computed, i = first / rows, offset = first % rows;
        const int32_t part = count < rows - offset ? count : rows - offset;
        g->query[g->queries++] = (QueryRange){segment_of(g, sequence, i), offset, part, g->rows};
        for (int32_t t = 0; t < part; t++, g->rows++) {
            g->token[g->rows] = sequence->tokens[first + t];
            g->position[g->rows] = first + t;
            g->place[g->rows] = sequence->page[i] * rows + offset + t;
        }
        g->cache.page[sequence->page[i]].rows = offset + part;
        sequence->computed += part;
        count -= part;
    }
}

static Status call_run(Generator *g, bool adapters, float *logits) {
    for (int32_t s = 0; s < g->segments; s++) g->segment[s].length = g->cache.page[g->segment_page[s]].rows;
    return model_decode(g->model, g->token, g->position, g->place, g->rows, g->segment, g->segments, g->query,
                        g->queries, adapters, logits);
}

// --- steps ----------------------------------------------------------------------------------------------------------

static void leave(Generator *g, Sequence *sequence) {
    kv_cache_release(&g->cache, sequence->page, sequence->page_count);
    free(sequence->tokens);
    free(sequence->page);
    *sequence = (Sequence){.state = FREE};
    g->active--;
}

// The longest waiting sequence of those whose prompt is not complete, later than `after`; NULL: none.
static Sequence *next_waiting(Generator *g, uint64_t after) {
    Sequence *next = NULL;
    for (int32_t i = 0; i < g->size.sequences; i++) {
        Sequence *sequence = &g->sequences[i];
        if (sequence->state == PREFILL && sequence->order > after && (next == NULL || sequence->order < next->order))
            next = sequence;
    }
    return next;
}

// Whether all that the sequence shares has been written, by this call at the latest. What is not is the work of a
// sequence that came before.
static bool shared_written(const Generator *g, const Sequence *sequence) {
    for (int32_t i = 0; i < sequence->computed / g->cache.page_rows; i++)
        if (g->cache.page[sequence->page[i]].rows < g->cache.page_rows) return false;
    return true;
}

// How many tokens of prompts to compute now: what waits, up to what a step may. More than PREFILL_MULTIPLE in multiples
// of it, so that the device's products have few shapes.
static int32_t prefill_room(const Generator *g, bool adapters) {
    int64_t waiting = 0;
    for (int32_t i = 0; i < g->size.sequences; i++) {
        const Sequence *sequence = &g->sequences[i];
        if (sequence->state == PREFILL && sequence->options.adapters == adapters)
            waiting += sequence->prompt_length - 1 - sequence->computed;
    }
    if (waiting > g->size.prefill_tokens) waiting = g->size.prefill_tokens;
    return (int32_t)(waiting > PREFILL_MULTIPLE ? waiting / PREFILL_MULTIPLE * PREFILL_MULTIPLE : waiting);
}

// Computes prompts in the order of their arrival.
static Status prefill(Generator *g) {
    Sequence *sequence = next_waiting(g, 0);
    if (sequence == NULL) return STATUS_OK;
    const bool adapters = sequence->options.adapters;
    const int32_t most = prefill_room(g, adapters);
    call_clear(g);
    for (; sequence != NULL; sequence = next_waiting(g, sequence->order)) {
        if (sequence->options.adapters != adapters || !shared_written(g, sequence)) continue;
        const int32_t left = sequence->prompt_length - 1 - sequence->computed;
        const int32_t room = most - g->rows;
        call_add(g, sequence, left < room ? left : room);
        if (left > room) break;
        sequence->state = ANSWER;
        if (sequence->owner == NULL) leave(g, sequence); // its pages may be of use to others
    }
    return g->rows > 0 ? call_run(g, adapters, NULL) : STATUS_OK;
}

// The next token of each sequence of the call.
static void draw_all(Generator *g, int32_t rows) {
    const int32_t vocab = g->model->config.vocab;
#pragma omp parallel for schedule(dynamic) num_threads(g->threads) if (rows >= DRAWS_APART)
    for (int32_t i = 0; i < rows; i++) {
        const Sequence *sequence = g->running[i];
        const GenerateOptions *from = &sequence->options;
        const DrawOptions options = {from->greedy, from->temperature, from->top_p, from->top_k};
        Rng rng = rng_make(from->seed, RNG_SAMPLE, sequence->id);
        rng.block = (uint64_t)(sequence->length - sequence->prompt_length); // a block of its own for every token
        g->drawn[i] = draw_token(g->logits + (size_t)i * (size_t)vocab, vocab, &options, rng_uniform(&rng),
                                 g->scratch + (size_t)omp_get_thread_num() * draw_scratch(vocab));
    }
}

// One token of each sequence that answers with (or without) adapters.
static Status decode(Generator *g, bool adapters, GenerateEvent *events, int32_t *count) {
    call_clear(g);
    for (int32_t i = 0; i < g->size.sequences; i++) {
        Sequence *sequence = &g->sequences[i];
        if (sequence->state != ANSWER || sequence->options.adapters != adapters) continue;
        g->running[g->rows] = sequence;
        call_add(g, sequence, 1);
    }
    const int32_t rows = g->rows;
    if (rows == 0) return STATUS_OK;
    TRY(call_run(g, adapters, g->logits));
    draw_all(g, rows);
    for (int32_t i = 0; i < rows; i++) {
        Sequence *sequence = g->running[i];
        const int32_t token = g->drawn[i];
        GenerateEvent *event = &events[(*count)++];
        *event = (GenerateEvent){sequence->owner, token, GENERATE_GOES_ON};
        if (end_tokens_has(&sequence->options.ends, token)) {
            event->token = -1;
            event->end = GENERATE_EOS;
        } else {
            sequence->tokens[sequence->length++] = token;
            // No position is left to run it at, or it was the last that was asked for.
            if (sequence->length == sequence->room) event->end = GENERATE_LENGTH;
        }
        if (event->end != GENERATE_GOES_ON) leave(g, sequence);
    }
    return STATUS_OK;
}

Status generator_step(Generator *g, GenerateEvent *events, int32_t *count) {
    *count = 0;
    TRY(prefill(g));
    TRY(decode(g, true, events, count));
    return decode(g, false, events, count);
}

// What stands in the cache of the sequence's prompt, after the copy.
static Status copy_shared(Generator *g, Sequence *sequence, const KvShare *share) {
    const int32_t rows = g->cache.page_rows;
    sequence->computed = share->pages * rows + share->copy_rows;
    if (share->copy_rows == 0) return STATUS_OK;
    const int32_t to = sequence->page[share->pages];
    const Status status = model_decode_copy(g->model, share->copy_page * rows, to * rows, share->copy_rows);
    g->cache.page[to].rows = share->copy_rows;
    kv_cache_release(&g->cache, &share->copy_page, 1);
    return status;
}

Status generator_add(Generator *g, const GeneratePrompt *prompt, const GenerateOptions *options, void *owner,
                     bool *taken) {
    *taken = false;
    const int32_t positions = g->model->options.max_positions;
    if (prompt->length > positions)
        return error_set(STATUS_USAGE, "a prompt of %d tokens does not fit the model's %d positions", prompt->length,
                         positions);
    // The answer's last token is not run, so it may lie behind the last position.
    const int64_t wanted = (int64_t)prompt->length + options->max_tokens;
    const int32_t room = wanted < (int64_t)positions + 1 ? (int32_t)wanted : positions + 1;
    const int32_t pages = kv_pages(room - 1, g->cache.page_rows);
    if (pages > g->cache.count)
        return error_set(STATUS_USAGE, "a prompt of %d tokens and its answer do not fit a cache of %d tokens",
                         prompt->length, g->cache.count * g->cache.page_rows);
    if (g->active == g->size.sequences) return STATUS_OK;
    Sequence *sequence = g->sequences;
    while (sequence->state != FREE) sequence++;
    *sequence = (Sequence){.owner = owner,
                           .options = *options,
                           .room = room,
                           .length = prompt->length,
                           .prompt_length = prompt->length,
                           .page_count = pages,
                           .id = prompt->id,
                           .order = ++g->arrivals};
    KvShare share = {0};
    Status status = MEMORY_ALLOC(sequence->tokens, room, "a sequence");
    if (status == STATUS_OK) status = MEMORY_ALLOC(sequence->page, pages, "a sequence");
    if (status == STATUS_OK) {
        memcpy(sequence->tokens, prompt->tokens, (size_t)prompt->length * sizeof *prompt->tokens);
        *taken = kv_cache_take(&g->cache, prompt->tokens, prompt->length - 1, room - 1, options->adapters,
                               sequence->page, &share);
    }
    if (*taken) status = copy_shared(g, sequence, &share);
    if (!*taken) {
        free(sequence->tokens);
        free(sequence->page);
        *sequence = (Sequence){.state = FREE};
        return status;
    }
    sequence->state = PREFILL;
    g->active++;
    return status;
}

void generator_cancel(Generator *g, const void *owner) {
    for (int32_t i = 0; i < g->size.sequences; i++) {
        Sequence *sequence = &g->sequences[i];
        if (sequence->state == FREE || sequence->owner != owner) continue;
        // Others may wait for the pages of a prompt that is being computed: it is completed first.
        if (sequence->state == ANSWER)
            leave(g, sequence);
        else
            sequence->owner = NULL;
        return;
    }
}

int32_t generator_active(const Generator *g) {
    return g->active;
}

static int32_t page_rows(const Model *model) {
    DeviceInfo info;
    model->options.backend->info(model->device, &info);
    return kv_page_rows(info.key_block);
}

Status generator_open(Generator **out, Model *model, const GeneratorSize *size) {
    Generator *g = NULL;
    TRY(MEMORY_ALLOC(g, 1, "decoding"));
    *out = g;
    g->model = model;
    g->size = *size;
    const int32_t rows = page_rows(model), pages = kv_pages(size->cache_tokens, rows);
    g->rows_max = size->prefill_tokens > size->sequences ? size->prefill_tokens : size->sequences;
    TRY(kv_cache_open(&g->cache, pages, rows));
    TRY(MEMORY_ALLOC(g->sequences, size->sequences, "decoding"));
    TRY(MEMORY_ALLOC(g->running, size->sequences, "decoding"));
    TRY(MEMORY_ALLOC(g->token, g->rows_max, "decoding"));
    TRY(MEMORY_ALLOC(g->position, g->rows_max, "decoding"));
    TRY(MEMORY_ALLOC(g->place, g->rows_max, "decoding"));
    TRY(MEMORY_ALLOC(g->segment, pages, "decoding"));
    TRY(MEMORY_ALLOC(g->query, pages + size->sequences, "decoding"));
    TRY(MEMORY_ALLOC(g->segment_page, pages, "decoding"));
    TRY(MEMORY_ALLOC(g->page_segment, pages, "decoding"));
    memset(g->page_segment, -1, (size_t)pages * sizeof *g->page_segment);
    TRY(MEMORY_ALLOC(g->logits, (size_t)size->sequences * (size_t)model->config.vocab, "logits"));
    TRY(MEMORY_ALLOC(g->drawn, size->sequences, "decoding"));
    g->threads = omp_get_max_threads();
    TRY(MEMORY_ALLOC(g->scratch, (size_t)g->threads * draw_scratch(model->config.vocab), "decoding"));
    TRY(model_reserve(model, 0, g->rows_max));
    return model_decode_open(model, pages * rows, size->sequences);
}

void generator_close(Generator *g) {
    if (g == NULL) return;
    for (int32_t i = 0; g->sequences != NULL && i < g->size.sequences; i++)
        if (g->sequences[i].state != FREE) leave(g, &g->sequences[i]);
    model_decode_close(g->model);
    kv_cache_close(&g->cache);
    void *owned[] = {g->sequences, g->running,      g->token,        g->position, g->place, g->segment,
                     g->query,     g->segment_page, g->page_segment, g->logits,   g->drawn, g->scratch};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) free(owned[i]);
    free(g);
}

// --- all at once ----------------------------------------------------------------------------------------------------

enum { TOGETHER_MAX = 64, PREFILL_TOKENS = 1024 };

// A cache in which the largest TOGETHER_MAX prompts fit.
static GeneratorSize size_for(const Model *model, const GeneratePrompt *prompts, int32_t count,
                              const GenerateOptions *options) {
    const int32_t positions = model->options.max_positions;
    int64_t longest = 0;
    for (int32_t i = 0; i < count; i++)
        if (prompts[i].length > longest) longest = prompts[i].length;
    longest += options->max_tokens;
    const int32_t tokens = longest < positions ? (int32_t)longest : positions;
    const int32_t rows = page_rows(model);
    const int32_t together = count < TOGETHER_MAX ? count : TOGETHER_MAX;
    return (GeneratorSize){.sequences = together,
                           .cache_tokens = (int64_t)together * kv_pages(tokens, rows) * rows,
                           .prefill_tokens = PREFILL_TOKENS};
}

Status generate(Model *model, const GeneratePrompt *prompts, int32_t count, const GenerateOptions *options,
                GenerateAnswer *answers) {
    if (count == 0) return STATUS_OK;
    memset(answers, 0, (size_t)count * sizeof *answers);
    Status status = STATUS_OK;
    for (int32_t i = 0; i < count && status == STATUS_OK; i++)
        status = MEMORY_ALLOC(answers[i].tokens, options->max_tokens, "an answer");
    const GeneratorSize size = size_for(model, prompts, count, options);
    GenerateEvent events[TOGETHER_MAX];
    Generator *generator = NULL;
    if (status == STATUS_OK) status = generator_open(&generator, model, &size);
    int32_t next = 0;
    while (status == STATUS_OK && (next < count || generator_active(generator) > 0)) {
        bool taken = true;
        while (next < count && taken && status == STATUS_OK) {
            status = generator_add(generator, &prompts[next], options, &answers[next], &taken);
            next += taken;
        }
        int32_t done = 0;
        if (status == STATUS_OK) status = generator_step(generator, events, &done);
        for (int32_t i = 0; i < done; i++) {
            GenerateAnswer *answer = events[i].owner;
            if (events[i].token >= 0) answer->tokens[answer->length++] = events[i].token;
        }
    }
    generator_close(generator);
    for (int32_t i = 0; i < count && status != STATUS_OK; i++) {
        free(answers[i].tokens);
        answers[i] = (GenerateAnswer){0};
    }
    return status;
}
