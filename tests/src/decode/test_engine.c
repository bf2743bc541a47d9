// Jobs of many askers: their texts are those of generate, whoever asks beside them; stop texts, a full queue, askers
// that go, and the end.
#include "src/decode/engine.h"
#include "src/decode/text_stream.h"
#include "tests/src/model_fixture.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { JOBS = 24, TOKENS = 20 };

static Model model, copy;
static Tokenizer *tokenizer;
static Engine *engine;
static pthread_t thread;
static atomic_bool stop_asked;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t woken = PTHREAD_COND_INITIALIZER;
static int wakes;

static void notify(void *argument) {
    (void)argument;
    pthread_mutex_lock(&lock);
    wakes++;
    pthread_cond_broadcast(&woken);
    pthread_mutex_unlock(&lock);
}

static bool stops(void) {
    return stop_asked;
}

static void *run_engine(void *argument) {
    Status *status = argument;
    *status = engine_run(engine, stops, NULL, NULL);
    return NULL;
}

static Status engine_status;
static void start(int models, int32_t sequences, int32_t queue) {
    Model *const both[] = {&model, &copy};
    const EngineOptions options = {.size = {.sequences = sequences, .cache_tokens = 64 * 40, .prefill_tokens = 16},
                                   .queue = queue,
                                   .stop_seconds = 0.2};
    stop_asked = false;
    CHECK(engine_open(&engine, both, models, tokenizer, &options));
}
static void go(void) {
    assert_int_equal(pthread_create(&thread, NULL, run_engine, &engine_status), 0);
}
static void finish(void) {
    stop_asked = true;
    pthread_join(thread, NULL);
    assert_int_equal(engine_status, STATUS_OK);
}

static JobOptions job_options(uint32_t id) {
    return (JobOptions){
        .generate =
            {.adapters = id % 2, .temperature = 1, .top_p = 1, .max_tokens = TOKENS, .seed = 6, .ends = {{2}, 1}},
        .id = id,
        .notify = notify};
}

static int32_t prompt[JOBS][30];
static int32_t make_prompt(int32_t i) {
    Rng rng = rng_make(12, 0, (uint32_t)i);
    const int32_t length = 1 + (int32_t)rng_below(&rng, 30);
    for (int32_t t = 0; t < length; t++) prompt[i][t] = 3 + (int32_t)rng_below(&rng, 500);
    return length;
}

// What the answer to prompt i is, by generate. Caller frees.
static char *expected(int32_t i, JobEnd *end) {
    const JobOptions options = job_options((uint32_t)i);
    const GeneratePrompt from = {prompt[i], make_prompt(i), options.id};
    GenerateAnswer answer;
    CHECK(generate(&model, &from, 1, &options.generate, &answer));
    *end = answer.length == TOKENS ? JOB_LENGTH : JOB_STOP;
    TextStream stream = {.tokenizer = tokenizer};
    char *all = NULL, *piece = NULL;
    size_t size;
    FILE *to = open_memstream(&all, &size);
    for (int32_t t = 0; t <= answer.length; t++) {
        CHECK(t < answer.length ? text_stream_add(&stream, answer.tokens[t], &piece)
                                : text_stream_end(&stream, &piece));
        fputs(piece, to);
        free(piece);
    }
    fclose(to);
    text_stream_free(&stream);
    free(answer.tokens);
    return all;
}

// Reads a job to its end as a stream does, waiting for notify only.
static JobEnd read_all(Job *job, char **text) {
    size_t size = 0;
    FILE *to = open_memstream(text, &size);
    for (size_t at = 0;;) {
        pthread_mutex_lock(&lock);
        const int before = wakes;
        pthread_mutex_unlock(&lock);
        char *news = NULL;
        const JobEnd end = job_read(engine, job, at, false, &news);
        const bool nothing = news[0] == '\0';
        at += strlen(news);
        fputs(news, to);
        free(news);
        if (end != JOB_GOES_ON) {
            fclose(to);
            return end;
        }
        pthread_mutex_lock(&lock);
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 30;
        while (nothing && wakes == before) assert_int_equal(pthread_cond_timedwait(&woken, &lock, &until), 0);
        pthread_mutex_unlock(&lock);
    }
}

static void many_from(int models) {
    char *want[JOBS];
    JobEnd want_end[JOBS];
    for (int32_t i = 0; i < JOBS; i++) want[i] = expected(i, &want_end[i]);
    start(models, 4, JOBS);
    go();
    Job *jobs[JOBS];
    for (int32_t i = 0; i < JOBS; i++) {
        const JobOptions options = job_options((uint32_t)i);
        assert_int_equal(engine_submit(engine, prompt[i], make_prompt(i), &options, &jobs[i]), SUBMIT_TAKEN);
    }
    for (int32_t i = 0; i < JOBS; i++) {
        if (i % 5 == 4) { // an asker that goes
            job_release(engine, jobs[i]);
            continue;
        }
        char *got;
        assert_int_equal(read_all(jobs[i], &got), want_end[i]);
        assert_string_equal(got, want[i]);
        free(got);
        job_release(engine, jobs[i]);
    }
    for (int i = 0; i < 1000 && engine_state(engine).answering + engine_state(engine).waiting > 0; i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    assert_int_equal(engine_state(engine).answering + engine_state(engine).waiting, 0);
    finish();
    engine_close(engine);
    for (int32_t i = 0; i < JOBS; i++) free(want[i]);
}

static void many(void **state) {
    (void)state;
    many_from(1);
}

// An answer does not depend on the model that gives it.
static void two_models(void **state) {
    (void)state;
    many_from(2);
}

// Every text within the answer, as a stop text: the answer ends before its first place, and no part of it was ever
// shown.
static void stop_texts(void **state) {
    (void)state;
    JobEnd end;
    char *whole = expected(3, &end);
    const size_t length = strlen(whole);
    assert_true(length > 12);
    start(1, 2, 4);
    go();
    for (size_t from = 1; from + 5 < length; from += 3) {
        char text[6] = "";
        memcpy(text, whole + from, 5);
        char *other = "no such text", *got;
        JobOptions options = job_options(3);
        options.stop[0] = other;
        options.stop[1] = text;
        options.stop_count = 2;
        Job *job;
        assert_int_equal(engine_submit(engine, prompt[3], make_prompt(3), &options, &job), SUBMIT_TAKEN);
        assert_int_equal(read_all(job, &got), JOB_STOP);
        assert_int_equal(strlen(got), strstr(whole, text) - whole);
        assert_memory_equal(got, whole, strlen(got));
        free(got);
        job_release(engine, job);
    }
    finish();
    engine_close(engine);
    free(whole);
}

static void limits(void **state) {
    (void)state;
    start(1, 1, 2);
    Job *jobs[3];
    JobOptions options = job_options(0);
    for (int i = 0; i < 2; i++) assert_int_equal(engine_submit(engine, prompt[0], 5, &options, &jobs[i]), SUBMIT_TAKEN);
    assert_int_equal(engine_submit(engine, prompt[0], 5, &options, &jobs[2]), SUBMIT_FULL);
    job_release(engine, jobs[0]);
    assert_int_equal(engine_state(engine).waiting, 1);
    assert_int_equal(engine_submit(engine, prompt[0], 5, &options, &jobs[0]), SUBMIT_TAKEN);
    static int32_t longest[4096];
    assert_int_equal(engine_submit(engine, longest, 4096, &options, &jobs[2]), SUBMIT_TOO_LONG);
    // Stopped before anything ran: all end, and nobody is taken any more.
    stop_asked = true;
    go();
    finish();
    for (int i = 0; i < 2; i++) {
        char *text;
        assert_int_equal(job_read(engine, jobs[i], 0, true, &text), JOB_CANCELLED);
        assert_string_equal(text, "");
        free(text);
        job_release(engine, jobs[i]);
    }
    assert_int_equal(engine_submit(engine, prompt[0], 5, &options, &jobs[2]), SUBMIT_CLOSED);
    engine_close(engine);
}

int main(int argc, char **argv) {
    fixture_main(argc, argv);
    fixture_open(&model, "tiny-model", "b/adapter_start", &(FixtureOptions){0});
    fixture_open(&copy, "tiny-model", "b/adapter_start", &(FixtureOptions){0});
    CHECK(tokenizer_open(&tokenizer, TEST_DATA "/tiny-model"));
    const struct CMUnitTest tests[] = {cmocka_unit_test(many), cmocka_unit_test(two_models),
                                       cmocka_unit_test(stop_texts), cmocka_unit_test(limits)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_close(tokenizer);
    model_close(&copy);
    model_close(&model);
    comm_close(&comm);
    return failed;
}
