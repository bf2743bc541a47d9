// The whole model against transformers (tests/golden/model), its gradient against central differences, and what must
// not change a result: recomputation, packing, sharing, dropout's packing, the other rows of the batch.
#include "io/json_file.h"
#include "io/safetensors.h"
#include "tests/src/model_fixture.h"
#include "tests/src/random_rows.h"

// float32 parity of values, as everywhere against transformers: 2e-5 absolute + 2e-5 relative.
static double parity(double value) {
    return 2e-5 + 2e-5 * fabs(value);
}
// Two ways of summing a tensor's gradient in fp32 (tokens, layers and chunks in another order) agree to this share of
// its largest element: some hundred roundings of 2^-24.
#define GRADIENT_PARITY 2e-5

static float *host_vector(Model *model, const float *which) {
    float *host = ops_host((size_t)model->table.count * sizeof *host);
    CHECK(model_get(model, which, host));
    return host;
}

static void expect_gradients(const char *what, const Model *model, const float *got, const float *want) {
    for (int32_t i = 0; i < model->table.tensor_count; i++) {
        const AdapterTensor *tensor = &model->table.tensors[i];
        const size_t count = (size_t)tensor->rows * (size_t)tensor->cols;
        double *values = ops_host(count * sizeof *values), *tolerance = ops_host(count * sizeof *tolerance),
               largest = 0;
        for (size_t j = 0; j < count; j++) {
            values[j] = want[tensor->offset + (int64_t)j];
            if (fabs(values[j]) > largest) largest = fabs(values[j]);
        }
        assert_true(largest > 1e-6); // a gradient of zero compares with nothing
        for (size_t j = 0; j < count; j++) tolerance[j] = GRADIENT_PARITY * largest;
        char name[256];
        snprintf(name, sizeof name, "%s: %s", what, tensor->name);
        expect_close(name, got + tensor->offset, values, tolerance, count);
        free(values);
        free(tolerance);
    }
}

// --- rows through the model -----------------------------------------------------------------------------------------

// What a set of rows gives: sums by row and completion in fp64, all token scores, and the adapter gradient of
// sum_i c_i logp_i(y_i).
typedef struct Result {
    double logp[ROWS_MAX][BATCH_COMPLETIONS_MAX], objective;
    float token_logp[ROWS_MAX][BATCH_COMPLETIONS_MAX][PROMPT_MAX], entropy[ROWS_MAX][BATCH_COMPLETIONS_MAX][PROMPT_MAX],
        mean_logit[ROWS_MAX][BATCH_COMPLETIONS_MAX][PROMPT_MAX];
    float *gradient; // NULL without keep
} Result;

static void result_free(Result *result) {
    if (result == NULL) return;
    free(result->gradient);
    free(result);
}

// In prompt order, `group` rows a micro-batch (0: all in one).
static Result *run_rows(Model *model, const BatchRow *rows, int32_t count, const double *coefficient, unsigned roles,
                        bool share, int32_t group, const Pass *pass) {
    Result *result = ops_host(sizeof *result);
    MicroBatch m = {0};
    BatchPlan plan = {0};
    const BatchOptions options = {.ranks = 1, .share = share};
    CHECK(batch_plan(rows, count, &options, &plan));
    CHECK(model_zero_gradient(model));
    if (group == 0) group = count;
    for (int32_t from = 0; from < count; from += group) {
        const int32_t n = count - from < group ? count - from : group;
        CHECK(batch_layout(rows, plan.slot + from, n, roles, share, &m));
        const int32_t scored = m.n_total - m.n_prefix, n_y = m.n_grad - m.n_prefix;
        float *buffer = ops_host((size_t)scored * 4 * sizeof *buffer), *dlogp = buffer + 3 * scored;
        const TokenScores scores = {buffer, buffer + scored, buffer + 2 * scored};
        CHECK(model_forward(model, &m, pass, &scores));
        for (int32_t s = 0; s < m.scored_count; s++) {
            const Scored *at = &m.scored[s];
            for (int32_t t = 0; t < at->length; t++) {
                const int32_t i = at->first + t;
                result->logp[at->slot][at->completion] += scores.logp[i];
                result->token_logp[at->slot][at->completion][t] = scores.logp[i];
                result->entropy[at->slot][at->completion][t] = scores.entropy[i];
                result->mean_logit[at->slot][at->completion][t] = scores.mean_logit[i];
                if (i >= n_y) continue;
                dlogp[i] = (float)coefficient[at->slot];
                result->objective += coefficient[at->slot] * scores.logp[i];
            }
        }
        if (pass->keep) CHECK(model_backward(model, &m, pass, dlogp));
        free(buffer);
    }
    if (pass->keep) result->gradient = host_vector(model, model->gradient);
    batch_plan_free(&plan);
    micro_batch_free(&m);
    return result;
}

static void expect_scores(const char *what, const Result *got, const Result *want, const BatchRow *rows, int32_t count,
                          unsigned roles) {
    for (int32_t i = 0; i < count; i++)
        for (int32_t c = 0; c < rows[i].completion_count; c++) {
            if (!(roles & 1u << rows[i].completion[c].role)) continue;
            for (int32_t t = 0; t < rows[i].completion[c].length; t++) {
                const double a = got->token_logp[i][c][t], b = want->token_logp[i][c][t];
                if (!(fabs(a - b) <= parity(b)))
                    fail_msg("%s: row %d completion %d token %d: logp %.9g, want %.9g", what, i, c, t, a, b);
            }
        }
}

// --- against transformers -------------------------------------------------------------------------------------------

static const char *const golden_names[] = {"base", "llama3", "bias", "qwen2", "qwen3", "granite", "smollm3", "olmo2"};
enum { GOLDEN_MODELS = sizeof golden_names / sizeof *golden_names };

typedef struct Golden {
    json_t *root;
    int32_t count, tokens[8][PROMPT_MAX];
    BatchRow rows[8];
    double coefficient[8];
    const char *model, *adapter;
} Golden;

static void golden_open(Golden *golden, const char *name) {
    char path[1024];
    snprintf(path, sizeof path, TEST_DATA "/model/%s.json", name);
    *golden = (Golden){0};
    CHECK(json_file_object(path, 1 << 20, &golden->root));
    golden->model = json_string_value(json_object_get(golden->root, "model"));
    golden->adapter = json_string_value(json_object_get(golden->root, "adapter"));
    const json_t *sequences = json_object_get(golden->root, "sequences");
    golden->count = (int32_t)json_array_size(sequences);
    assert_in_range(golden->count, 1, 8);
    for (int32_t i = 0; i < golden->count; i++) {
        const json_t *sequence = json_array_get(sequences, (size_t)i), *ids = json_object_get(sequence, "ids");
        const int32_t n = (int32_t)json_array_size(ids);
        const int32_t p = (int32_t)json_integer_value(json_object_get(sequence, "prompt_tokens"));
        assert_in_range(n, 2, PROMPT_MAX);
        assert_in_range(p, 1, n - 1);
        for (int32_t t = 0; t < n; t++)
            golden->tokens[i][t] = (int32_t)json_integer_value(json_array_get(ids, (size_t)t));
        golden->coefficient[i] = json_number_value(json_object_get(sequence, "coefficient"));
        golden->rows[i] = (BatchRow){.row = i, .prompt = golden->tokens[i], .prompt_length = p, .completion_count = 2};
        // The same completion once as y and once as y': both regions must give its values.
        golden->rows[i].completion[0] = (Completion){golden->tokens[i] + p, n - p, ROLE_POLICY};
        golden->rows[i].completion[1] = (Completion){golden->tokens[i] + p, n - p, ROLE_KL};
    }
}

static void expect_golden_scores(const Golden *golden, const Result *got, const char *state) {
    for (int32_t i = 0; i < golden->count; i++) {
        const json_t *want = json_array_get(json_object_get(golden->root, state), (size_t)i);
        for (int c = 0; c < 2; c++) {
            const float *values[] = {got->token_logp[i][c], got->entropy[i][c], got->mean_logit[i][c]};
            static const char *const keys[] = {"logp", "entropy", "mean_logit"};
            for (int k = 0; k < 3; k++) {
                const json_t *list = json_object_get(want, keys[k]);
                assert_int_equal(json_array_size(list), golden->rows[i].completion[c].length);
                for (size_t t = 0; t < json_array_size(list); t++) {
                    const double value = json_real_value(json_array_get(list, t));
                    if (!(fabs(values[k][t] - value) <= parity(value)))
                        fail_msg("%s %s, adapters %s, row %d, completion %d, token %zu: %.9g, want %.9g", golden->model,
                                 keys[k], state, i, c, t, values[k][t], value);
                }
            }
        }
    }
}

static float *golden_gradient(const Model *model, const char *name) {
    char path[1024];
    TensorFiles *files;
    snprintf(path, sizeof path, TEST_DATA "/model/%s.safetensors", name);
    CHECK(tensor_files_open(&files, path));
    float *gradient = ops_host((size_t)model->table.count * sizeof *gradient);
    for (int32_t i = 0; i < model->table.tensor_count; i++) {
        const AdapterTensor *tensor = &model->table.tensors[i];
        const Tensor *from;
        snprintf(path, sizeof path, "grad.base_model.model.%s", tensor->name);
        CHECK(tensor_files_get(files, path, 2, (int64_t[]){tensor->rows, tensor->cols}, &from));
        tensor_to_f32(from->data, from->type, (size_t)tensor->rows * (size_t)tensor->cols, gradient + tensor->offset);
    }
    tensor_files_close(files);
    return gradient;
}

static void test_transformers(void **state) {
    (void)state;
    for (int g = 0; g < GOLDEN_MODELS; g++) {
        Golden golden;
        Model model;
        golden_open(&golden, golden_names[g]);
        for (int recompute = 0; recompute < 2; recompute++) {
            fixture_open(&model, golden.model, golden.adapter, &(FixtureOptions){.recompute = recompute});
            float *want = golden_gradient(&model, golden_names[g]);
            for (int share = 0; share < 2; share++)
                for (int32_t group = 0; group < 2; group++) {
                    const Pass on = {.adapters = true, .keep = true}, off = {.adapters = false};
                    Result *result =
                        run_rows(&model, golden.rows, golden.count, golden.coefficient, ROLES_ALL, share, group, &on);
                    expect_golden_scores(&golden, result, "on");
                    expect_gradients(golden_names[g], &model, result->gradient, want);
                    result_free(result);
                    result =
                        run_rows(&model, golden.rows, golden.count, golden.coefficient, ROLES_ALL, share, group, &off);
                    expect_golden_scores(&golden, result, "off");
                    result_free(result);
                }
            free(want);
            model_close(&model);
        }
        json_decref(golden.root);
    }
}

// --- finite differences ---------------------------------------------------------------------------------------------

typedef struct Differences {
    Model *model;
    const BatchRow *rows;
    int32_t count;
    const double *coefficient;
    const Pass *pass;
    const float *adapter; // the point
} Differences;

// The objective at adapter + step * direction; `noise` gets what its fp32 log-probs may be off by.
static double objective_at(const Differences *d, const float *direction, double step, double *noise) {
    float *moved = ops_host((size_t)d->model->table.count * sizeof *moved);
    for (int64_t j = 0; j < d->model->table.count; j++) moved[j] = (float)(d->adapter[j] + step * direction[j]);
    CHECK(model_set(d->model, d->model->adapter, moved));
    CHECK(model_adapter_changed(d->model));
    free(moved);
    const Pass pass = {.adapters = true, .dropout = d->pass->dropout, .dropout_key = d->pass->dropout_key};
    Result *result = run_rows(d->model, d->rows, d->count, d->coefficient, ROLES_POLICY, true, 0, &pass);
    double objective = result->objective, squares = 0;
    // Each log-prob carries some roundings of its own size; they are independent from token to token.
    for (int32_t i = 0; i < d->count; i++)
        for (int32_t t = 0; t < d->rows[i].completion[0].length; t++)
            squares += pow(8 * UNIT_F32 * d->coefficient[i] * (1 + fabs(result->token_logp[i][0][t])), 2);
    *noise = 3 * sqrt(squares);
    result_free(result);
    return objective;
}

// The derivative along `direction` must be `want`. Tolerance: rounding over the step, and the h^2 term as the
// difference of two steps shows it. It has to be small against the derivative, or nothing would be tested.
static void expect_derivative(const Differences *d, const char *what, const float *direction, double want) {
    const double h = 0x1p-5;
    double noise, slope[2];
    for (int i = 0; i < 2; i++) {
        const double step = h * (1 + i);
        slope[i] = (objective_at(d, direction, step, &noise) - objective_at(d, direction, -step, &noise)) / (2 * step);
    }
    const double richardson = (4 * slope[0] - slope[1]) / 3;
    const double tolerance = 2 * noise / h + fabs(slope[1] - slope[0]) / 3;
    if (!(tolerance <= 0.1 * fabs(want)) || !(fabs(richardson - want) <= tolerance))
        fail_msg("%s: central difference %.7g, gradient %.7g, tolerance %.2g", what, richardson, want, tolerance);
}

// Per tensor along its gradient, which asks every coordinate at once, and along its largest coordinate.
static void check_differences(Differences *d) {
    Model *model = d->model;
    const Pass pass = {
        .adapters = true, .keep = true, .dropout = d->pass->dropout, .dropout_key = d->pass->dropout_key};
    float *adapter = host_vector(model, model->adapter);
    float *direction = ops_host((size_t)model->table.count * sizeof *direction);
    d->adapter = adapter;
    Result *result = run_rows(model, d->rows, d->count, d->coefficient, ROLES_ALL, true, 0, &pass);
    const float *gradient = result->gradient;
    for (int32_t i = 0; i < model->table.tensor_count; i++) {
        const AdapterTensor *tensor = &model->table.tensors[i];
        const int64_t end = tensor->offset + (int64_t)tensor->rows * tensor->cols;
        double norm = 0;
        int64_t largest = tensor->offset;
        for (int64_t j = tensor->offset; j < end; j++) {
            norm += (double)gradient[j] * gradient[j];
            if (fabsf(gradient[j]) > fabsf(gradient[largest])) largest = j;
        }
        norm = sqrt(norm);
        memset(direction, 0, (size_t)model->table.count * sizeof *direction);
        for (int64_t j = tensor->offset; j < end; j++) direction[j] = (float)(gradient[j] / norm);
        expect_derivative(d, tensor->name, direction, norm);
        memset(direction, 0, (size_t)model->table.count * sizeof *direction);
        direction[largest] = 1;
        expect_derivative(d, tensor->name, direction, gradient[largest]);
    }
    CHECK(model_set(model, model->adapter, adapter));
    CHECK(model_adapter_changed(model));
    result_free(result);
    free(direction);
    free(adapter);
}

static void test_differences(void **state) {
    (void)state;
    for (int g = 0; g < GOLDEN_MODELS; g++) {
        Golden golden;
        Model model;
        golden_open(&golden, golden_names[g]);
        for (int dropout = 0; dropout < 2; dropout++) {
            fixture_open(&model, golden.model, golden.adapter, &(FixtureOptions){.dropout = dropout * 0.25});
            // Owners as a dataset would give them: the first row with the prefix.
            int32_t owner[8][PROMPT_MAX];
            for (int32_t i = 0; i < golden.count; i++) {
                for (int32_t t = 0; t < golden.rows[i].prompt_length; t++) {
                    int32_t first = 0;
                    while (common_start(&golden.rows[first], &golden.rows[i], golden.rows[first].prompt_length,
                                        t + 1) <= t)
                        first++;
                    owner[i][t] = first;
                }
                golden.rows[i].owner = owner[i];
            }
            const Pass pass = {.dropout = dropout, .dropout_key = 0x1234567890abcdefu};
            Differences d = {&model, golden.rows, golden.count, golden.coefficient, &pass, NULL};
            check_differences(&d);
            model_close(&model);
        }
        json_decref(golden.root);
    }
}

// --- what must not change a result ----------------------------------------------------------------------------------

enum { BATCH = 9, SYMBOLS = 90 };
static RowSet set;
static double coefficient[ROWS_MAX];

static void make_rows(uint32_t seed, int32_t prompt_max) {
    Rng rng = rng_make(seed, 0, 0);
    random_rows(&set, &rng, BATCH, SYMBOLS, prompt_max, true);
    for (int i = 0; i < BATCH; i++) coefficient[i] = 2 * rng_uniform(&rng) - 1;
}

static double distance(const Model *model, const float *a, const float *b) {
    double squares = 0, norm = 0;
    for (int64_t j = 0; j < model->table.count; j++) {
        squares += pow((double)a[j] - b[j], 2);
        norm += (double)b[j] * b[j];
    }
    return sqrt(squares / norm);
}

// Sharing, packing and recomputation give the same scores and the same summed gradient, with and without dropout.
static void test_packing(void **state) {
    (void)state;
    for (int dropout = 0; dropout < 2; dropout++)
        for (uint32_t seed = 1; seed <= 4; seed++) {
            make_rows(seed, seed == 4 ? 1 : 30); // at last prompts of one token: no prefix at all
            Result *want = NULL;
            for (int recompute = 0; recompute < 2; recompute++) {
                Model model;
                fixture_open(&model, "tiny-model", "b/adapter_start",
                             &(FixtureOptions){.dropout = 0.25, .recompute = recompute});
                const Pass pass = {.adapters = true, .keep = true, .dropout = dropout, .dropout_key = seed};
                for (int share = 0; share < 2; share++)
                    for (int32_t group = 0; group < 4; group++) {
                        Result *got = run_rows(&model, set.rows, BATCH, coefficient, ROLES_ALL, share, group, &pass);
                        if (want == NULL) {
                            want = got;
                            continue;
                        }
                        char what[100];
                        snprintf(what, sizeof what, "dropout %d, recompute %d, sharing %d, %d rows a micro-batch",
                                 dropout, recompute, share, group);
                        expect_scores(what, got, want, set.rows, BATCH, ROLES_ALL);
                        expect_gradients(what, &model, got->gradient, want->gradient);
                        result_free(got);
                    }
                // The first of two passes: prefixes and y' alone, nothing kept. Prefixes have their dropout there too.
                const Pass first = {.adapters = true, .dropout = dropout, .dropout_key = seed};
                Result *alone = run_rows(&model, set.rows, BATCH, coefficient, ROLES_KL_ONLY, true, 2, &first);
                expect_scores("y' alone", alone, want, set.rows, BATCH, ROLES_KL_ONLY);
                result_free(alone);
                alone = run_rows(&model, set.rows, BATCH, coefficient, ROLES_POLICY, true, 3, &pass);
                expect_scores("y alone", alone, want, set.rows, BATCH, ROLES_POLICY);
                expect_gradients("y alone", &model, alone->gradient, want->gradient);
                result_free(alone);
                model_close(&model);
            }
            result_free(want);
        }
}

// The key decides the masks; without pass.dropout there are none.
static void test_dropout_key(void **state) {
    (void)state;
    Model model;
    fixture_open(&model, "tiny-model", "b/adapter_start", &(FixtureOptions){.dropout = 0.25});
    make_rows(7, 30);
    Pass pass = {.adapters = true, .keep = true, .dropout = true, .dropout_key = 1};
    Result *a = run_rows(&model, set.rows, BATCH, coefficient, ROLES_ALL, true, 0, &pass);
    Result *again = run_rows(&model, set.rows, BATCH, coefficient, ROLES_ALL, true, 0, &pass);
    expect_same_bits("the same key again", again->gradient, a->gradient, (size_t)model.table.count);
    pass.dropout_key = 2;
    Result *b = run_rows(&model, set.rows, BATCH, coefficient, ROLES_ALL, true, 0, &pass);
    pass.dropout = false;
    Result *none = run_rows(&model, set.rows, BATCH, coefficient, ROLES_ALL, true, 0, &pass);
    // A quarter of the inputs gone moves a gradient by tens of percent; rounding moves it by 1e-6.
    assert_true(distance(&model, a->gradient, b->gradient) > 0.01);
    assert_true(distance(&model, a->gradient, none->gradient) > 0.01);
    result_free(a), result_free(again), result_free(b), result_free(none);
    model_close(&model);
}

// The largest difference of a token's log-prob, in units of float32 parity.
static double token_distance(const Result *a, int32_t row_a, const Result *b, int32_t row_b, int completion,
                             int32_t length) {
    double largest = 0;
    for (int32_t t = 0; t < length; t++) {
        const double x = a->token_logp[row_a][completion][t], y = b->token_logp[row_b][completion][t];
        const double share = fabs(x - y) / parity(y);
        if (!(share <= largest)) largest = share;
    }
    return largest;
}

// y tokens drop by their row, so equal rows differ; y' tokens have no dropout of their own but see their prefix's.
static void test_dropout_owners(void **state) {
    (void)state;
    Model model;
    fixture_open(&model, "tiny-model", "b/adapter_start", &(FixtureOptions){.dropout = 0.25});
    enum { N = 6, Y = 0, KL = 1, FAR = 50 }; // dropout moves a log-prob by far more than rounding does
    static const int32_t prompt[] = {1, 40, 41, 42, 43, 44, 45, 46, 47, 48}, answer[N] = {50, 51, 52, 53, 54, 55};
    static const int32_t owner[10] = {0}, no_owner[10] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    const double ones[2] = {1, 1};
    for (int32_t length = 1; length <= 10; length += 9) {
        BatchRow rows[2];
        for (int32_t i = 0; i < 2; i++)
            rows[i] = (BatchRow){.row = i,
                                 .prompt = prompt,
                                 .owner = owner,
                                 .prompt_length = length,
                                 .completion_count = 2,
                                 .completion = {{answer, N, ROLE_POLICY}, {answer, N, ROLE_KL}}};
        const Pass pass = {.adapters = true, .dropout = true, .dropout_key = 9}, without = {.adapters = true};
        Result *with = run_rows(&model, rows, 2, ones, ROLES_ALL, true, 0, &pass);
        Result *none = run_rows(&model, rows, 2, ones, ROLES_ALL, true, 0, &without);
        assert_true(token_distance(with, 0, with, 1, Y, N) > FAR);
        assert_true(token_distance(with, 0, none, 0, Y, N) > FAR);
        assert_true(token_distance(with, 0, with, 1, KL, N) <= 1);
        if (length == 1) // no prefix, no dropout
            assert_true(token_distance(with, 0, none, 0, KL, N) <= 1);
        else
            assert_true(token_distance(with, 0, none, 0, KL, N) > FAR);
        rows[0].owner = rows[1].owner = no_owner;
        Result *bare = run_rows(&model, rows, 2, ones, ROLES_ALL, true, 0, &pass);
        assert_true(token_distance(bare, 0, none, 0, KL, N) <= 1);
        result_free(with), result_free(none), result_free(bare);
    }
    model_close(&model);
}

// B = 0: the policy is the reference, bit for bit, whatever else the pass does (rewards are then exactly 0).
static void test_zero_adapter(void **state) {
    (void)state;
    for (DType dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        Model model;
        fixture_open(&model, "tiny-model", "b/adapter_start", &(FixtureOptions){.dtype = dtype, .dropout = 0.1});
        CHECK(model_init_adapter(&model, 5));
        for (uint32_t seed = 1; seed <= 5; seed++) {
            make_rows(seed, 30);
            for (int32_t group = 0; group < 3; group++) {
                const Pass on = {.adapters = true, .keep = true, .dropout = true, .dropout_key = 3};
                const Pass off = {.adapters = false};
                Result *policy = run_rows(&model, set.rows, BATCH, coefficient, ROLES_ALL, true, group, &on);
                Result *reference = run_rows(&model, set.rows, BATCH, coefficient, ROLES_ALL, true, group, &off);
                assert_memory_equal(policy->token_logp, reference->token_logp, sizeof policy->token_logp);
                for (int32_t i = 0; i < BATCH; i++) assert_true(policy->logp[i][0] < 0);
                result_free(policy), result_free(reference);
            }
        }
        model_close(&model);
    }
}

// The same call twice gives the same bits, also after a larger batch has grown the buffers in between.
static void test_repeat(void **state) {
    (void)state;
    for (DType dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        Model model;
        fixture_open(&model, "tiny-model", "b/adapter_start", &(FixtureOptions){.dtype = dtype});
        const Pass pass = {.adapters = true, .keep = true};
        make_rows(11, 30);
        Result *a = run_rows(&model, set.rows, 3, coefficient, ROLES_ALL, true, 0, &pass);
        result_free(run_rows(&model, set.rows, BATCH, coefficient, ROLES_ALL, false, 0, &pass));
        Result *b = run_rows(&model, set.rows, 3, coefficient, ROLES_ALL, true, 0, &pass);
        assert_memory_equal(a->token_logp, b->token_logp, sizeof a->token_logp);
        expect_same_bits("gradient", b->gradient, a->gradient, (size_t)model.table.count);
        result_free(a), result_free(b);
        model_close(&model);
    }
}

// The first adapter: B zero, A within +-1/sqrt(in) and filling that range; another seed, another A.
static void test_init(void **state) {
    (void)state;
    Model model;
    fixture_open(&model, "tiny-model", "b/adapter_start", &(FixtureOptions){0});
    CHECK(model_init_adapter(&model, 1));
    float *first = host_vector(&model, model.adapter);
    CHECK(model_init_adapter(&model, 2));
    float *second = host_vector(&model, model.adapter);
    for (int32_t i = 0; i < model.table.tensor_count; i++) {
        const AdapterTensor *tensor = &model.table.tensors[i];
        const bool is_a = strstr(tensor->name, ".lora_A.") != NULL;
        const int64_t count = (int64_t)tensor->rows * tensor->cols;
        double largest = 0, same = 0;
        for (int64_t j = tensor->offset; j < tensor->offset + count; j++) {
            if (fabs(first[j]) > largest) largest = fabs(first[j]);
            same += first[j] == second[j];
        }
        if (!is_a) {
            assert_true(largest == 0);
            continue;
        }
        const double bound = 1 / sqrt(tensor->cols);
        // All of `count` >= 128 draws below 0.85 of the bound: 0.85^128 = 1e-9.
        assert_true(count >= 128 && largest <= bound * (1 + UNIT_F32) && largest > 0.85 * bound);
        assert_true(same <= 1);
    }
    free(first);
    free(second);
    model_close(&model);
}

int main(int argc, char **argv) {
    fixture_main(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transformers), cmocka_unit_test(test_differences),    cmocka_unit_test(test_packing),
        cmocka_unit_test(test_dropout_key),  cmocka_unit_test(test_dropout_owners), cmocka_unit_test(test_repeat),
        cmocka_unit_test(test_zero_adapter), cmocka_unit_test(test_init),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_close(&comm);
    return failed;
}
