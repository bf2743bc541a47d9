// Sampling: which tokens run when, and how the next one is drawn. Prompts are laid out by src/batch as in training.
#include "src/generate.h"

#include "src/base/memory.h"
#include "src/base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SEQUENCES_MAX 64 // decoded together

typedef struct Candidate {
    float logit;
    int32_t token;
    double weight; // e^((logit - the best logit) / temperature)
} Candidate;

// The likelier first; of equals the smaller token.
static bool comes_before(const Candidate *x, const Candidate *y) {
    return x->logit != y->logit ? x->logit > y->logit : x->token < y->token;
}

// Restores the heap (a parent comes before its children) below element i.
static void heap_sink(Candidate *heap, int32_t count, int32_t i) {
    const Candidate moved = heap[i];
    for (int32_t child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && comes_before(&heap[child + 1], &heap[child])) child++;
        if (!comes_before(&heap[child], &moved)) break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

// Moves the first of a heap of `count` behind the others, which are a heap again, and returns its place.
static Candidate *heap_take(Candidate *heap, int32_t count) {
    const Candidate first = heap[0];
    heap[0] = heap[count - 1];
    heap_sink(heap, count - 1, 0);
    heap[count - 1] = first;
    return &heap[count - 1];
}

static int32_t draw(const float *logits, int32_t vocab, const GenerateOptions *options, uint32_t id, int32_t index,
                    Candidate *candidates) {
    int32_t best = 0;
    for (int32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best]) best = i;
    if (options->greedy) return best;
    const bool top_k = options->top_k > 0, top_p = options->top_p < 1;
    int32_t kept = top_k && options->top_k < vocab ? options->top_k : vocab;
    for (int32_t i = 0; i < vocab; i++) candidates[i] = (Candidate){.logit = logits[i], .token = i};
    // Sorting the vocabulary would cost more than a small model's step: a heap gives the likeliest, as many as are
    // kept, in order from the array's end.
    if (top_k || top_p)
        for (int32_t i = vocab / 2 - 1; i >= 0; i--) heap_sink(candidates, vocab, i);
    if (top_k)
        for (int32_t i = 0; i < kept; i++) heap_take(candidates, vocab - i);
    double total = 0;
    for (int32_t i = 0; i < kept; i++) {
        Candidate *c = top_k ? &candidates[vocab - 1 - i] : &candidates[i];
        c->weight = exp((c->logit - logits[best]) / options->temperature);
        total += c->weight;
    }
    if (top_p) {
        double sum = 0;
        int32_t i = 0;
        while (i < kept && sum < options->top_p * total) {
            const Candidate *c = top_k ? &candidates[vocab - 1 - i] : heap_take(candidates, vocab - i);
            sum += c->weight;
            i++;
        }
        kept = i > 0 ? i : 1;
        total = sum;
    }
    Rng rng = rng_make(options->seed, RNG_SAMPLE, id);
    rng.block = (uint64_t)index; // a block of its own for every token
    double target = rng_uniform(&rng) * total, sum = 0;
    const Candidate *c = candidates;
    for (int32_t i = 0; i < kept; i++) {
        c = top_k || top_p ? &candidates[vocab - 1 - i] : &candidates[i];
        sum += c->weight;
        if (sum > target) break;
    }
    return c->token;
}

typedef struct Sequence {
    int32_t answer, segment, start, place; // start: position of its first input token; place: its first cache row
    int32_t next;                          // token to run
} Sequence;

typedef struct Decoder {
    Model *model;
    const GeneratePrompt *prompts;
    const GenerateOptions *options;
    GenerateAnswer *answers;
    MicroBatch layout;
    int32_t *place;      // cache rows of the tokens that run: [max(prefix tokens, sequences)]
    QueryRange *queries; // [segments + sequences]
    Sequence sequences[SEQUENCES_MAX];
    float *logits; // [SEQUENCES_MAX, vocab]
    Candidate *candidates;
} Decoder;

// Lays the prompts out, fills the cache with their prefixes, and gives every sequence its place behind them.
static Status prefill(Decoder *d, int32_t first, int32_t count) {
    const GenerateOptions *options = d->options;
    BatchRow rows[SEQUENCES_MAX];
    static const int32_t opening = 0; // stands for the answer's first token, which is not known yet
    for (int32_t i = 0; i < count; i++) {
        const GeneratePrompt *prompt = &d->prompts[first + i];
        rows[i] =
            (BatchRow){.row = i, .prompt = prompt->tokens, .prompt_length = prompt->length, .completion_count = 1};
        rows[i].completion[0] = (Completion){&opening, 1, ROLE_POLICY};
    }
    BatchPlan plan = {0};
    const BatchOptions batch_options = {.ranks = 1, .share = true};
    Status status = batch_plan(rows, count, &batch_options, &plan);
    if (status == STATUS_OK) status = batch_layout(rows, plan.slot, count, ROLES_POLICY, true, &d->layout);
    batch_plan_free(&plan);
    TRY(status);
    MicroBatch *layout = &d->layout;
    const int32_t n = layout->n_prefix, capacity = n + count * options->max_tokens;
    const int32_t most = n > SEQUENCES_MAX ? n : SEQUENCES_MAX;
    TRY(model_decode_open(d->model, capacity, SEQUENCES_MAX));
    free(d->place);
    free(d->queries);
    d->place = NULL;
    d->queries = NULL;
    TRY(MEMORY_ALLOC(d->place, most, "decoding"));
    TRY(MEMORY_ALLOC(d->queries, layout->segment_count + SEQUENCES_MAX, "decoding"));
    for (int32_t i = 0; i < n; i++) d->place[i] = i;
    for (int32_t i = 0; i < layout->prefix_segments; i++)
        d->queries[i] = (QueryRange){i, 0, layout->segment[i].length, layout->segment[i].first};
    if (n > 0)
        TRY(model_decode(d->model, layout->token, layout->position, d->place, n, layout->segment,
                         layout->prefix_segments, d->queries, layout->prefix_segments, options->adapters, NULL));
    for (int32_t i = 0; i < count; i++) {
        const Scored *scored = &layout->scored[i];
        const GeneratePrompt *prompt = &d->prompts[first + scored->slot];
        d->sequences[i] = (Sequence){.answer = first + scored->slot,
                                     .segment = layout->prefix_segments + i,
                                     .start = prompt->length - 1,
                                     .place = n + i * options->max_tokens,
                                     .next = prompt->tokens[prompt->length - 1]};
    }
    return STATUS_OK;
}

// Runs the sequences token by token until each has ended.
static Status decode(Decoder *d, int32_t active) {
    const GenerateOptions *options = d->options;
    const int32_t vocab = d->model->config.vocab;
    int32_t token[SEQUENCES_MAX], position[SEQUENCES_MAX];
    for (int32_t step = 0; step < options->max_tokens && active > 0; step++) {
        for (int32_t i = 0; i < active; i++) {
            const Sequence *sequence = &d->sequences[i];
            Segment *segment = &d->layout.segment[sequence->segment];
            segment->first = sequence->place;
            segment->length = step + 1;
            token[i] = sequence->next;
            position[i] = sequence->start + step;
            d->place[i] = sequence->place + step;
            d->queries[i] = (QueryRange){sequence->segment, step, 1, i};
        }
        TRY(model_decode(d->model, token, position, d->place, active, d->layout.segment, d->layout.segment_count,
                         d->queries, active, options->adapters, d->logits));
        int32_t left = 0;
        for (int32_t i = 0; i < active; i++) {
            Sequence sequence = d->sequences[i];
            sequence.next = draw(d->logits + (size_t)i * (size_t)vocab, vocab, options, d->prompts[sequence.answer].id,
                                 step, d->candidates);
            if (sequence.next == options->eos) continue;
            GenerateAnswer *answer = &d->answers[sequence.answer];
            answer->tokens[answer->length++] = sequence.next;
            if (sequence.start + step + 1 == d->model->options.max_positions)
                continue; // no position is left to run it at
            d->sequences[left++] = sequence;
        }
        active = left;
    }
    return STATUS_OK;
}

Status generate(Model *model, const GeneratePrompt *prompts, int32_t count, const GenerateOptions *options,
                GenerateAnswer *answers) {
    for (int32_t i = 0; i < count; i++) {
        if (prompts[i].length > model->options.max_positions)
            return error_set(STATUS_USAGE, "a prompt of %d tokens does not fit the model's %d positions",
                             prompts[i].length, model->options.max_positions);
        answers[i] = (GenerateAnswer){0};
        TRY(MEMORY_ALLOC(answers[i].tokens, options->max_tokens, "an answer"));
    }
    Decoder d = {.model = model, .prompts = prompts, .options = options, .answers = answers};
    const size_t vocab = (size_t)model->config.vocab;
    Status status = MEMORY_ALLOC(d.logits, SEQUENCES_MAX * vocab, "logits");
    if (status == STATUS_OK) status = MEMORY_ALLOC(d.candidates, vocab, "logits");
    for (int32_t first = 0; first < count && status == STATUS_OK; first += SEQUENCES_MAX) {
        const int32_t part = count - first < SEQUENCES_MAX ? count - first : SEQUENCES_MAX;
        status = prefill(&d, first, part);
        if (status == STATUS_OK) status = decode(&d, part);
    }
    model_decode_close(model);
    micro_batch_free(&d.layout);
    free(d.place);
    free(d.queries);
    free(d.logits);
    free(d.candidates);
    return status;
}
