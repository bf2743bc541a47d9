// Draws against the definition in double precision: the token drawn for u is the one in whose part of [0, 1) u lies, to
// the rounding of the weights.
#include "src/decode/draw.h"
#include "src/base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { VOCAB_MAX = 2000 };
// A weight is an exp to 2e-7 of itself, at a point rounded by up to 100 * 2^-24; a part of [0, 1) is moved by no more.
#define TOLERANCE 1.3e-5

typedef struct Choice {
    double weight;
    float logit;
    int32_t token;
} Choice;

static int by_logit(const void *a, const void *b) {
    const Choice *x = a, *y = b;
    return x->logit < y->logit ? 1 : x->logit > y->logit ? -1 : x->token - y->token;
}
static int by_token(const void *a, const void *b) {
    return ((const Choice *)a)->token - ((const Choice *)b)->token;
}

// Whether u lies in the part of [0, 1) that is `token`'s; top_p stands for the options'.
static bool is_part(const float *logits, int32_t vocab, const DrawOptions *options, double top_p, int32_t token,
                    double u) {
    static Choice choice[VOCAB_MAX];
    for (int32_t i = 0; i < vocab; i++) choice[i] = (Choice){0, logits[i], i};
    qsort(choice, (size_t)vocab, sizeof *choice, by_logit);
    int32_t kept = options->top_k > 0 && options->top_k < vocab ? options->top_k : vocab, n = 0;
    double total = 0, held = 0, sum = 0;
    for (int32_t i = 0; i < kept; i++) {
        choice[i].weight = exp(((double)choice[i].logit - choice[0].logit) / options->temperature);
        total += choice[i].weight;
    }
    while (n < kept && (n == 0 || options->top_p == 1 || held < top_p * total)) held += choice[n++].weight;
    if (options->top_k == 0 && options->top_p == 1) qsort(choice, (size_t)n, sizeof *choice, by_token);
    for (int32_t i = 0; i < n; i++) {
        if (choice[i].token == token)
            return u >= sum / held - TOLERANCE && u <= (sum + choice[i].weight) / held + TOLERANCE;
        sum += choice[i].weight;
    }
    return false;
}

static void by_definition(void **state) {
    (void)state;
    static float logits[VOCAB_MAX];
    Rng rng = rng_make(9, 0, 0);
    for (int round = 0; round < 4000; round++) {
        const int32_t vocab = 1 + (int32_t)rng_below(&rng, round % 10 == 0 ? VOCAB_MAX : 50);
        const double spread = round % 3 == 0 ? 0.1 : round % 3 == 1 ? 4 : 30;
        for (int32_t i = 0; i < vocab; i++) logits[i] = (float)(spread * (rng_uniform(&rng) - 0.5));
        if (round % 7 == 0)
            for (int32_t i = 0; i < vocab; i++) logits[i] = roundf(logits[i]); // ties
        const DrawOptions options = {.temperature = 0.3 + rng_uniform(&rng),
                                     .top_p = rng_below(&rng, 2) ? 1 : 0.05 + 0.9 * rng_uniform(&rng),
                                     .top_k = rng_below(&rng, 2) ? 0 : 1 + (int32_t)rng_below(&rng, 60)};
        char *scratch = malloc(draw_scratch(vocab));
        for (int k = 0; k < 8; k++) {
            const double u = k == 0 ? 0 : k == 1 ? 1 - 0x1p-32 : rng_uniform(&rng);
            const int32_t token = draw_token(logits, vocab, &options, u, scratch);
            assert_in_range(token, 0, vocab - 1);
            // A set that ends within the tolerance of top_p may have one more or one less.
            bool fits = false;
            for (int side = -1; side <= 1; side++)
                fits |= is_part(logits, vocab, &options, options.top_p + side * TOLERANCE, token, u);
            if (!fits) fail_msg("round %d: token %d for %.9f", round, token, u);
        }
        free(scratch);
    }
}

static void greedy(void **state) {
    (void)state;
    const float logits[] = {1, 5, 3, 5, -INFINITY, 5};
    assert_int_equal(draw_token(logits, 6, &(DrawOptions){.greedy = true}, 0.5, NULL), 1); // the first of equals
    // Far apart: nothing else has a weight; and minus infinity has none ever.
    const float apart[] = {-1e30f, 100, -INFINITY, -500};
    char scratch[4096];
    for (int i = 0; i < 100; i++)
        assert_int_equal(draw_token(apart, 4, &(DrawOptions){.temperature = 1, .top_p = 1}, i / 100.0, scratch), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(by_definition), cmocka_unit_test(greedy)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
