// See draw.h. Small models are drawn from as often as they are computed, so no sorting and no exp of the library here.
#include "src/decode/draw.h"

#include "src/base/exp.h"

typedef struct Choice {
    float logit, weight;
    int32_t token;
} Choice;

size_t draw_scratch(int32_t vocab) {
    const size_t bytes = (size_t)vocab * (sizeof(Choice) + sizeof(float));
    return (bytes + 63) / 64 * 64;
}

// Of equals the first.
static int32_t find_best(const float *logits, int32_t vocab) {
    float most = logits[0];
#pragma omp simd reduction(max : most)
    for (int32_t i = 1; i < vocab; i++) most = logits[i] > most ? logits[i] : most;
    for (int32_t i = 0; i < vocab; i++)
        if (logits[i] == most) return i;
    return 0; // not a number
}

// weight[i] = e^((logits[i] - most) * factor), 0 where that is no float any more. With -fno-trapping-math
// (CMakeLists.txt) the loop becomes vector instructions.
static void weigh(const float *logits, int32_t vocab, float most, float factor, float *weight) {
#pragma omp simd
    for (int32_t i = 0; i < vocab; i++) weight[i] = exp_nonpositive((logits[i] - most) * factor);
}

// The likelier first; of equals the smaller token.
static bool comes_before(const Choice *x, const Choice *y) {
    return x->logit != y->logit ? x->logit > y->logit : x->token < y->token;
}

// Restores the heap (a parent comes before its children) below element i.
static void heap_sink(Choice *heap, int32_t count, int32_t i) {
    const Choice moved = heap[i];
    for (int32_t child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && comes_before(&heap[child + 1], &heap[child])) child++;
        if (!comes_before(&heap[child], &moved)) break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

// Moves the first of a heap of `count` behind the others, which are a heap again, and returns its place.
static Choice *heap_take(Choice *heap, int32_t count) {
    const Choice first = heap[0];
    heap[0] = heap[count - 1];
    heap_sink(heap, count - 1, 0);
    heap[count - 1] = first;
    return &heap[count - 1];
}

// Of the likeliest alone: a heap gives them, as many as are kept, in order from the array's end.
static int32_t draw_from_top(const float *logits, const float *weight, int32_t vocab, const DrawOptions *options,
                             double uniform, Choice *choices) {
    const bool top_k = options->top_k > 0;
    int32_t kept = top_k && options->top_k < vocab ? options->top_k : vocab;
    for (int32_t i = 0; i < vocab; i++) choices[i] = (Choice){logits[i], weight[i], i};
    for (int32_t i = vocab / 2 - 1; i >= 0; i--) heap_sink(choices, vocab, i);
    double total = 0, held = 0;
    if (top_k)
        for (int32_t i = 0; i < kept; i++) total += heap_take(choices, vocab - i)->weight;
    else
        for (int32_t i = 0; i < vocab; i++) total += weight[i];
    if (options->top_p < 1) {
        int32_t i = 0;
        while (i < kept && held < options->top_p * total) {
            const Choice *c = top_k ? &choices[vocab - 1 - i] : heap_take(choices, vocab - i);
            held += c->weight;
            i++;
        }
        kept = i > 0 ? i : 1;
        total = held;
    }
    const double target = uniform * total;
    double sum = 0;
    for (int32_t i = 0; i < kept; i++) {
        sum += choices[vocab - 1 - i].weight;
        if (sum > target) return choices[vocab - 1 - i].token;
    }
    return choices[vocab - kept].token;
}

static double sum_of(const float *weight, int32_t count) {
    double part[4] = {0};
    int32_t i = 0;
    for (; i + 4 <= count; i += 4)
        for (int k = 0; k < 4; k++) part[k] += weight[i + k];
    for (; i < count; i++) part[0] += weight[i];
    return part[0] + part[1] + (part[2] + part[3]);
}

int32_t draw_token(const float *logits, int32_t vocab, const DrawOptions *options, double uniform, void *scratch) {
    const int32_t best = find_best(logits, vocab);
    if (options->greedy) return best;
    float *weight = scratch;
    weigh(logits, vocab, logits[best], (float)(1 / options->temperature), weight);
    if (options->top_k > 0 || options->top_p < 1)
        return draw_from_top(logits, weight, vocab, options, uniform, (Choice *)(weight + vocab));
    // In blocks, so that most of the vocabulary is passed over by one sum a block.
    enum { BLOCK = 64 };
    double total = 0, sum = 0;
    for (int32_t i = 0; i < vocab; i += BLOCK) total += sum_of(weight + i, vocab - i < BLOCK ? vocab - i : BLOCK);
    const double target = uniform * total;
    for (int32_t i = 0; i < vocab; i += BLOCK) {
        const int32_t count = vocab - i < BLOCK ? vocab - i : BLOCK;
        const double block = sum_of(weight + i, count);
        if (sum + block <= target) {
            sum += block;
            continue;
        }
        for (int32_t k = i; k < i + count; k++) {
            sum += weight[k];
            if (sum > target) return k;
        }
    }
    return best; // by rounding
}
