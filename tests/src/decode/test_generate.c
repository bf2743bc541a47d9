// Sampling against full forward passes: greedy answers are the argmax of every step, sampled ones follow the softmax
// cut by top_k and top_p, and nobody's answer depends on who else is decoded.
#include "src/decode/generate.h"
#include "tests/base/chi_square.h"
#include "tests/src/model_fixture.h"

enum { VOCAB_MAX = 512, LENGTH_MAX = 40, PROMPTS = 70, TOKENS = 12 };

// Log-probs of every next token after `tokens`, by model_forward: one row a vocabulary entry, its completion that one
// token; the prefix is shared.
static void next_logps(Model *model, const int32_t *tokens, int32_t length, bool adapters, double *logp) {
    static BatchRow rows[VOCAB_MAX];
    static int32_t slot[VOCAB_MAX], token[VOCAB_MAX];
    const int32_t vocab = model->config.vocab;
    assert_in_range(vocab, 1, VOCAB_MAX);
    for (int32_t v = 0; v < vocab; v++) {
        slot[v] = token[v] = v;
        rows[v] = (BatchRow){.row = v,
                             .prompt = tokens,
                             .prompt_length = length,
                             .completion_count = 1,
                             .completion = {{&token[v], 1, ROLE_POLICY}}};
    }
    MicroBatch m = {0};
    CHECK(batch_layout(rows, slot, vocab, ROLES_POLICY, true, &m));
    float *buffer = ops_host((size_t)vocab * 3 * sizeof *buffer);
    const Pass pass = {.adapters = adapters};
    CHECK(model_forward(model, &m, &pass, &(TokenScores){buffer, buffer + vocab, buffer + 2 * vocab}));
    for (int32_t v = 0; v < vocab; v++) logp[m.scored[v].slot] = buffer[m.scored[v].first];
    free(buffer);
    micro_batch_free(&m);
}

// Prompts of 1 to 24 tokens, many with a common header, some equal, ids 1000, 1001, ...
static int32_t prompt_tokens[PROMPTS][LENGTH_MAX];
static GeneratePrompt prompts[PROMPTS];
static void make_prompts(int32_t vocab) {
    Rng rng = rng_make(21, 0, 0);
    for (int32_t i = 0; i < PROMPTS; i++) {
        const int32_t length = i % 9 == 0 ? 1 : 1 + (int32_t)rng_below(&rng, 24);
        const int32_t header = i % 3 == 0 ? 0 : 10;
        for (int32_t t = 0; t < length; t++)
            prompt_tokens[i][t] = t < header ? 3 + t : 3 + (int32_t)rng_below(&rng, (uint32_t)vocab - 3);
        if (i % 11 == 10) memcpy(prompt_tokens[i], prompt_tokens[i - 1], sizeof prompt_tokens[i]);
        prompts[i] =
            (GeneratePrompt){prompt_tokens[i], i % 11 == 10 ? prompts[i - 1].length : length, 1000 + (uint32_t)i};
    }
}

static void answers_free(GenerateAnswer *answers, int32_t count) {
    for (int32_t i = 0; i < count; i++) free(answers[i].tokens);
}

static void expect_same_answer(const char *what, int32_t index, const GenerateAnswer *got, const GenerateAnswer *want) {
    if (got->length != want->length || memcmp(got->tokens, want->tokens, sizeof(int32_t) * (size_t)want->length) != 0)
        fail_msg("%s: the answer to prompt %d differs", what, index);
}

typedef struct Case {
    const char *folder, *adapter;
} Case;
static const Case cases[] = {{"tiny-model", "b/adapter_start"},
                             {"model/llama3", "model/llama3/adapter_start"},
                             {"model/bias", "model/bias/adapter_start"},
                             {"model/qwen3", "model/qwen3/adapter_start"},
                             {"model/granite", "model/granite/adapter_start"},
                             {"model/smollm3", "model/smollm3/adapter_start"},
                             {"model/olmo2", "model/olmo2/adapter_start"}};
enum { CASES = sizeof cases / sizeof *cases };

static void test_greedy(void **state) {
    (void)state;
    for (int k = 0; k < CASES; k++) {
        Model model;
        fixture_open(&model, cases[k].folder, cases[k].adapter, &(FixtureOptions){0});
        make_prompts(model.config.vocab);
        for (int adapters = 0; adapters < 2; adapters++) {
            GenerateOptions options = {
                .adapters = adapters, .greedy = true, .temperature = 1, .top_p = 1, .max_tokens = TOKENS};
            GenerateAnswer answers[PROMPTS];
            CHECK(generate(&model, prompts, PROMPTS, &options, answers));
            for (int32_t i = 0; i < PROMPTS; i += 9) {
                const int32_t at = i + (i / 9) % 3; // prompts of one token and longer ones, from both groups of 64
                int32_t tokens[LENGTH_MAX + TOKENS], length = prompts[at].length;
                memcpy(tokens, prompts[at].tokens, sizeof(int32_t) * (size_t)length);
                assert_int_equal(answers[at].length, TOKENS);
                for (int32_t t = 0; t < TOKENS; t++) {
                    double logp[VOCAB_MAX], best = -INFINITY;
                    next_logps(&model, tokens, length, adapters, logp);
                    for (int32_t v = 0; v < model.config.vocab; v++)
                        if (logp[v] > best) best = logp[v];
                    const int32_t chosen = answers[at].tokens[t];
                    assert_in_range(chosen, 0, model.config.vocab - 1);
                    // A tie within float32 parity may fall either way.
                    assert_true(logp[chosen] >= best - (2e-5 + 2e-5 * fabs(best)));
                    tokens[length++] = chosen;
                }
            }
            // With ends that come up in answers, these end before them and the others stay as they are.
            options.ends = (EndTokens){{answers[3].tokens[4], answers[5].tokens[2]}, 2};
            GenerateAnswer cut[PROMPTS];
            CHECK(generate(&model, prompts, PROMPTS, &options, cut));
            for (int32_t i = 0; i < PROMPTS; i++) {
                GenerateAnswer want = answers[i];
                want.length = 0;
                while (want.length < TOKENS && !end_tokens_has(&options.ends, want.tokens[want.length])) want.length++;
                expect_same_answer("eos", i, &cut[i], &want);
            }
            assert_true(cut[3].length <= 4 && cut[5].length <= 2);
            answers_free(answers, PROMPTS);
            answers_free(cut, PROMPTS);
        }
        model_close(&model);
    }
}

// A prompt alone, in a small company, in another order and among all gives the same sampled text; another id or seed
// gives another.
static void test_company(void **state) {
    (void)state;
    Model model;
    fixture_open(&model, cases[0].folder, cases[0].adapter, &(FixtureOptions){0});
    make_prompts(model.config.vocab);
    GenerateOptions options = {.adapters = true,
                               .temperature = 0.9,
                               .top_k = 100,
                               .top_p = 0.95,
                               .max_tokens = TOKENS,
                               .seed = 4,
                               .ends = {{2}, 1}};
    GenerateAnswer all[PROMPTS], again[PROMPTS], other[PROMPTS], one;
    CHECK(generate(&model, prompts, PROMPTS, &options, all));
    CHECK(generate(&model, prompts, PROMPTS, &options, again));
    GeneratePrompt reversed[PROMPTS];
    for (int32_t i = 0; i < PROMPTS; i++) {
        expect_same_answer("the same call", i, &again[i], &all[i]);
        reversed[i] = prompts[PROMPTS - 1 - i];
    }
    answers_free(again, PROMPTS);
    CHECK(generate(&model, reversed, PROMPTS, &options, again));
    for (int32_t i = 0; i < PROMPTS; i++) expect_same_answer("reversed", i, &again[PROMPTS - 1 - i], &all[i]);
    for (int32_t i = 0; i < PROMPTS; i += 7) {
        CHECK(generate(&model, &prompts[i], 1, &options, &one));
        expect_same_answer("alone", i, &one, &all[i]);
        answers_free(&one, 1);
    }
    options.seed = 5;
    CHECK(generate(&model, prompts, PROMPTS, &options, other));
    int32_t same = 0;
    for (int32_t i = 0; i < PROMPTS; i++)
        same += other[i].length == all[i].length &&
                memcmp(other[i].tokens, all[i].tokens, sizeof(int32_t) * (size_t)all[i].length) == 0;
    assert_true(same <= 3); // twelve tokens of about a hundred
    // Prompts 9 and 10 are equal; their ids draw different numbers.
    assert_int_equal(prompts[9].length, prompts[10].length);
    assert_true(all[9].length != all[10].length ||
                memcmp(all[9].tokens, all[10].tokens, sizeof(int32_t) * (size_t)all[9].length) != 0);
    answers_free(all, PROMPTS);
    answers_free(again, PROMPTS);
    answers_free(other, PROMPTS);
    model_close(&model);
}

typedef struct Choice {
    double probability;
    int32_t token;
} Choice;
static int by_probability(const void *a, const void *b) {
    const Choice *x = a, *y = b;
    return x->probability < y->probability ? 1 : x->probability > y->probability ? -1 : x->token - y->token;
}

// The definition: softmax at the temperature, the top_k likeliest, then the smallest set of those that holds top_p of
// what is left, renormalised.
static void definition(const double *logp, int32_t vocab, const GenerateOptions *options, double *probability) {
    Choice choices[VOCAB_MAX];
    double total = 0, held = 0;
    for (int32_t v = 0; v < vocab; v++) choices[v] = (Choice){exp(logp[v] / options->temperature), v};
    qsort(choices, (size_t)vocab, sizeof *choices, by_probability);
    int32_t kept = options->top_k > 0 && options->top_k < vocab ? options->top_k : vocab, n = 0;
    for (int32_t v = 0; v < kept; v++) total += choices[v].probability;
    while (n < kept && held < options->top_p * total) held += choices[n++].probability;
    for (int32_t v = 0; v < vocab; v++) probability[choices[v].token] = v < n ? choices[v].probability / held : 0;
}

// Counts of `draws` independent draws against their probabilities; what has none must not come up. Tokens too rare for
// a bin of their own share one.
static void expect_frequencies(const char *what, const int *count, const double *probability, int32_t vocab,
                               int draws) {
    enum { BIN_MIN = 8 };
    double chi = 0, rare = 0, rare_count = 0;
    int bins = 0;
    for (int32_t v = 0; v < vocab; v++) {
        const double expected = probability[v] * draws;
        if (expected == 0) assert_int_equal(count[v], 0);
        if (expected < BIN_MIN) {
            rare += expected;
            rare_count += count[v];
            continue;
        }
        chi += pow(count[v] - expected, 2) / expected;
        bins++;
    }
    if (rare >= BIN_MIN) {
        chi += pow(rare_count - rare, 2) / rare;
        bins++;
    }
    if (!(chi <= chi_square_bound(bins - 1)))
        fail_msg("%s: chi-square %g over %d bins, bound %g", what, chi, bins, chi_square_bound(bins - 1));
}

static void test_frequencies(void **state) {
    (void)state;
    enum { DRAWS = 6000, TOKENS_MAX = 2 };
    static const struct {
        double temperature, top_p;
        int32_t top_k;
    } settings[] = {{1, 1, 0},   {0.5, 1, 0},    {1.5, 1, 0},  {1, 1, 5},
                    {1, 0.6, 0}, {0.7, 0.8, 20}, {1, 1e-9, 0}, {1, 1, 1}};
    Model model;
    fixture_open(&model, "model/llama3", "model/llama3/adapter_start", &(FixtureOptions){0});
    const int32_t vocab = model.config.vocab;
    static const int32_t tokens[] = {5, 17, 60, 9, 33};
    double logp[VOCAB_MAX], probability[VOCAB_MAX];
    next_logps(&model, tokens, 5, true, logp);
    GeneratePrompt *same = ops_host(DRAWS * sizeof *same);
    GenerateAnswer *answers = ops_host(DRAWS * sizeof *answers);
    for (uint32_t i = 0; i < DRAWS; i++) same[i] = (GeneratePrompt){tokens, 5, i};
    for (size_t k = 0; k < sizeof settings / sizeof *settings; k++) {
        const GenerateOptions options = {.adapters = true,
                                         .temperature = settings[k].temperature,
                                         .top_p = settings[k].top_p,
                                         .top_k = settings[k].top_k,
                                         .max_tokens = TOKENS_MAX,
                                         .seed = 77 + k};
        CHECK(generate(&model, same, DRAWS, &options, answers));
        definition(logp, vocab, &options, probability);
        int count[VOCAB_MAX] = {0}, most = 0;
        for (int i = 0; i < DRAWS; i++) {
            assert_int_equal(answers[i].length, TOKENS_MAX);
            assert_in_range(answers[i].tokens[0], 0, vocab - 1);
            assert_in_range(answers[i].tokens[1], 0, vocab - 1);
            count[answers[i].tokens[0]]++;
        }
        char what[64];
        snprintf(what, sizeof what, "setting %zu", k);
        expect_frequencies(what, count, probability, vocab, DRAWS);
        // After the commonest first token, the second follows its own distribution: draws of one answer are
        // independent.
        for (int32_t v = 0; v < vocab; v++)
            if (count[v] > count[most]) most = v;
        int second[VOCAB_MAX] = {0};
        for (int i = 0; i < DRAWS; i++)
            if (answers[i].tokens[0] == most) second[answers[i].tokens[1]]++;
        int32_t longer[] = {5, 17, 60, 9, 33, most};
        double after[VOCAB_MAX];
        next_logps(&model, longer, 6, true, after);
        definition(after, vocab, &options, probability);
        snprintf(what, sizeof what, "setting %zu, second token", k);
        expect_frequencies(what, second, probability, vocab, count[most]);
        answers_free(answers, DRAWS);
    }
    free(same);
    free(answers);
    model_close(&model);
}

// An answer ends where the model's positions do, and up to there is what it would have been. A prompt that does not fit
// is refused.
static void test_positions(void **state) {
    (void)state;
    enum { POSITIONS = 20, N = 4, LONG = 30 };
    Model model, roomy;
    fixture_open(&roomy, "model/bias", "model/bias/adapter_start", &(FixtureOptions){0});
    fixture_open(&model, "model/bias", "model/bias/adapter_start", &(FixtureOptions){.max_positions = POSITIONS});
    int32_t tokens[POSITIONS + 1];
    for (int32_t t = 0; t <= POSITIONS; t++) tokens[t] = 5 + t;
    const GeneratePrompt several[N] = {
        {tokens, 1, 0}, {tokens, 12, 1}, {tokens, POSITIONS - 1, 2}, {tokens, POSITIONS, 3}};
    const GenerateOptions options = {.adapters = true, .temperature = 1, .top_p = 1, .max_tokens = LONG, .seed = 8};
    GenerateAnswer answers[N], free_of_limit[N];
    CHECK(generate(&model, several, N, &options, answers));
    CHECK(generate(&roomy, several, N, &options, free_of_limit));
    for (int32_t i = 0; i < N; i++) {
        assert_int_equal(free_of_limit[i].length, LONG);
        free_of_limit[i].length = POSITIONS - several[i].length + 1;
        expect_same_answer("few positions", i, &answers[i], &free_of_limit[i]);
    }
    answers_free(answers, N);
    answers_free(free_of_limit, N);
    const GeneratePrompt too_long = {tokens, POSITIONS + 1, 0};
    GenerateAnswer answer = {0};
    assert_int_equal(generate(&model, &too_long, 1, &options, &answer), STATUS_USAGE);
    assert_non_null(strstr(error_text(), "does not fit"));
    error_clear();
    model_close(&model);
    model_close(&roomy);
}

static bool few; // sequences, on a slow device

// Sequences with options of their own that come at any time, some of which are cancelled, in places and a cache too
// small for all of them: each gets the answer that it gets alone.
static void test_coming_and_going(void **state) {
    (void)state;
    enum { SEQUENCES = 5, LONG_PROMPT = 200, ALL = 60 };
    const int32_t N = few ? 8 : ALL;
    Model model;
    fixture_open(&model, cases[0].folder, cases[0].adapter, &(FixtureOptions){0});
    const int32_t vocab = model.config.vocab;
    static int32_t tokens[ALL][LONG_PROMPT];
    static struct {
        GeneratePrompt prompt;
        GenerateOptions options;
        GenerateAnswer want, got;
        int32_t cancel_at; // tokens; -1: never
        bool ended;
        GenerateEnd end;
    } asked[ALL];
    Rng rng = rng_make(33, 0, 0);
    for (int32_t i = 0; i < N; i++) {
        // Three headers of different lengths, up to three pages.
        const int32_t header = (int32_t)rng_below(&rng, 3), length = 1 + (int32_t)rng_below(&rng, LONG_PROMPT);
        for (int32_t t = 0; t < length; t++)
            tokens[i][t] = t < 70 * header ? 3 + (t + header) % 50 : 3 + (int32_t)rng_below(&rng, (uint32_t)vocab - 3);
        asked[i].prompt = (GeneratePrompt){tokens[i], length, 50 + (uint32_t)i};
        asked[i].options = (GenerateOptions){.adapters = rng_below(&rng, 2),
                                             .greedy = rng_below(&rng, 4) == 0,
                                             .temperature = 0.5 + rng_uniform(&rng),
                                             .top_p = rng_below(&rng, 2) ? 1 : 0.9,
                                             .top_k = rng_below(&rng, 2) ? 0 : 50,
                                             .max_tokens = 1 + (int32_t)rng_below(&rng, few ? 12 : 80),
                                             .seed = rng_below(&rng, 9),
                                             .ends = {{2}, 1}};
        CHECK(generate(&model, &asked[i].prompt, 1, &asked[i].options, &asked[i].want));
        asked[i].got.tokens = ops_host(sizeof(int32_t) * 80);
        asked[i].cancel_at = rng_below(&rng, 4) == 0 ? (int32_t)rng_below(&rng, 12) : -1;
    }
    Generator *generator = NULL;
    const GeneratorSize size = {.sequences = SEQUENCES, .cache_tokens = 12 * 64, .prefill_tokens = 40};
    CHECK(generator_open(&generator, &model, &size));
    GenerateEvent events[SEQUENCES];
    int32_t next = 0, refused = 0, count;
    while (next < N || generator_active(generator) > 0) {
        if (next < N && rng_below(&rng, 3) > 0) {
            bool taken;
            CHECK(generator_add(generator, &asked[next].prompt, &asked[next].options, &asked[next], &taken));
            refused += !taken;
            if (taken && asked[next].cancel_at == 0) {
                generator_cancel(generator, &asked[next]);
                asked[next].ended = true;
            }
            next += taken;
        }
        CHECK(generator_step(generator, events, &count));
        assert_in_range(count, 0, SEQUENCES);
        for (int32_t e = 0; e < count; e++) {
            const ptrdiff_t i = ((char *)events[e].owner - (char *)asked) / (ptrdiff_t)sizeof *asked;
            assert_false(asked[i].ended);
            if (events[e].token >= 0) asked[i].got.tokens[asked[i].got.length++] = events[e].token;
            asked[i].end = events[e].end;
            asked[i].ended = events[e].end != GENERATE_GOES_ON;
            if (!asked[i].ended && asked[i].got.length == asked[i].cancel_at) {
                generator_cancel(generator, &asked[i]);
                asked[i].ended = true;
            }
        }
    }
    assert_true(few || refused > 5);
    for (int32_t i = 0; i < N; i++) {
        assert_true(asked[i].ended);
        if (asked[i].cancel_at >= 0 && asked[i].cancel_at < asked[i].want.length)
            asked[i].want.length = asked[i].cancel_at;
        else
            assert_int_equal(asked[i].end,
                             asked[i].got.length < asked[i].options.max_tokens ? GENERATE_EOS : GENERATE_LENGTH);
        expect_same_answer("coming and going", i, &asked[i].got, &asked[i].want);
        free(asked[i].got.tokens);
        free(asked[i].want.tokens);
    }
    bool taken;
    const GeneratePrompt large = {tokens[0], LONG_PROMPT, 0};
    GenerateOptions options = asked[0].options;
    options.max_tokens = 13 * 64;
    assert_int_equal(generator_add(generator, &large, &options, &model, &taken), STATUS_USAGE);
    assert_non_null(strstr(error_text(), "cache of 768 tokens"));
    error_clear();
    generator_close(generator);
    model_close(&model);
}

int main(int argc, char **argv) {
    fixture_main(argc, argv);
    few = argc > 2; // one test alone, by its name: the stand-in is slow
    if (few) cmocka_set_test_filter(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy),    cmocka_unit_test(test_company),          cmocka_unit_test(test_frequencies),
        cmocka_unit_test(test_positions), cmocka_unit_test(test_coming_and_going),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_close(&comm);
    return failed;
}
