// Hashes of prompts, lines taken apart, and the choice of a split.
#include "src/data.h"
#include "tests/io/temporary_folder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t hash_line(const char *line) {
    FILE *file = fopen("row.jsonl", "w");
    assert_non_null(file);
    fputs(line, file);
    fclose(file);
    JsonlFile rows;
    JsonlRow row;
    assert_int_equal(jsonl_open(&rows, "row.jsonl"), STATUS_OK);
    assert_int_equal(jsonl_row(&rows, 0, &row), STATUS_OK);
    const uint64_t hash = data_hash(0, &row.prompt);
    jsonl_row_free(&row);
    jsonl_close(&rows);
    remove("row.jsonl");
    return hash;
}

#define TEXT(prompt) "{\"prompt\": " prompt ", \"completion\": \"c\", \"label\": 1}"
#define MESSAGES(prompt)                                                                                               \
    "{\"completion\": [{\"role\": \"a\", \"content\": \"c\"}], \"label\": 0, \"prompt\": " prompt "}"

static void hashes(void **state) {
    (void)state;
    assert_int_equal(hash_line(TEXT("\"caf\\u00e9\"")), hash_line(TEXT("  \"caf\xC3\xA9\"")));
    assert_int_not_equal(hash_line(TEXT("\"cafe\"")), hash_line(TEXT("\"cafe \"")));
    const uint64_t one = hash_line(MESSAGES("[{\"role\": \"user\", \"content\": \"x\"}]"));
    assert_int_equal(one, hash_line(MESSAGES("[{\"content\":\"x\",\"id\":3,\"role\":\"user\"}]")));
    assert_int_not_equal(one, hash_line(TEXT("\"x\"")));
    assert_int_not_equal(one, hash_line(MESSAGES("[{\"role\": \"userx\", \"content\": \"\"}]")));
    assert_int_not_equal(
        one, hash_line(MESSAGES("[{\"role\": \"user\", \"content\": \"x\"}, {\"role\": \"\", \"content\": \"\"}]")));
}

static void unpairs(void **state) {
    (void)state;
    static const struct {
        const char *line;
        int which;
        const char *want;
    } cases[] = {
        {"{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\", \"id\": 7, \"large\": 123456789012345678901, "
         "\"score\": "
         "NaN}",
         0,
         "{\"prompt\": \"p\", \"completion\": \"c\", \"label\": true, \"id\": 7, \"large\": 123456789012345678901, "
         "\"score\": NaN}"},
        {"{\"rejected\": \"r\", \"id\": 7, \"weight\": 0.1, \"prompt\": \"p\", \"chosen\": \"c\"}", 0,
         "{\"prompt\": \"p\", \"completion\": \"c\", \"label\": true, \"id\": 7, \"weight\": 0.1}"},
        {"{\"rejected\": \"r\", \"id\": 7, \"weight\": 0.1, \"prompt\": \"p\", \"chosen\": \"c\"}\r", 1,
         "{\"prompt\": \"p\", \"completion\": \"r\", \"label\": false, \"id\": 7, \"weight\": 0.1}"},
        {"{\"prompt\": [{\"role\": \"user\", \"content\": \"\xC3\xA9\", \"x\": null}], \"chosen\": [], \"rejected\": "
         "[], "
         "\"label\": null, \"completion\": null, \"n\": {\"a\": [1, 0.30000000000000004]}}",
         0,
         "{\"prompt\": [{\"role\": \"user\", \"content\": \"\xC3\xA9\", \"x\": null}], \"completion\": [], \"label\": "
         "true, "
         "\"n\": {\"a\": [1, 0.30000000000000004]}}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *out;
        assert_int_equal(data_unpair_line(cases[i].line, strlen(cases[i].line), cases[i].which, &out), STATUS_OK);
        assert_string_equal(out, cases[i].want);
        free(out);
    }
}

enum { LINES = 300 };

static int64_t choose(const uint64_t *prompt, int64_t count, int64_t wanted, uint64_t seed, bool *eval) {
    int64_t chosen, counted = 0;
    assert_int_equal(data_split_choose(prompt, count, wanted, seed, eval, &chosen), STATUS_OK);
    for (int64_t i = 0; i < count; i++) counted += eval[i];
    assert_int_equal(chosen, counted);
    return chosen;
}

static void splits(void **state) {
    (void)state;
    uint64_t prompt[LINES];
    bool eval[LINES], again[LINES], other[LINES];
    int64_t times[LINES] = {0};
    for (int i = 0; i < LINES; i++) prompt[i] = (uint64_t)(i * 7 % 100) << 40; // 100 prompts of 3 lines, apart
    for (uint64_t seed = 0; seed < 200; seed++) {
        assert_int_equal(choose(prompt, LINES, 31, seed, eval), 30);
        for (int i = 0; i < LINES; i++) {
            times[i] += eval[i];
            assert_int_equal(eval[i], eval[i % 100]);
        }
    }
    // Every prompt is as likely as another: 200 draws with probability 0.1 give 20 on average with a deviation of 4.2.
    for (int i = 0; i < 100; i++) assert_in_range(times[i], 1, 45);
    choose(prompt, LINES, 31, 5, eval);
    choose(prompt, LINES, 31, 5, again);
    assert_memory_equal(eval, again, sizeof eval);
    choose(prompt, LINES, 31, 6, other);
    assert_memory_not_equal(eval, other, sizeof eval);
    // The draw goes by the prompts' places and not by their hashes.
    for (int i = 0; i < LINES; i++) prompt[i] = ~prompt[i] * 0x9E3779B97F4A7C15u;
    choose(prompt, LINES, 31, 5, again);
    assert_memory_equal(eval, again, sizeof eval);
}

static void uneven(void **state) {
    (void)state;
    bool eval[6];
    const uint64_t large[] = {1, 1, 1, 1, 1, 2}, same[] = {3, 3, 3};
    for (uint64_t seed = 0; seed < 20; seed++) {
        assert_int_equal(choose(large, 6, 2, seed, eval), 1); // the large prompt does not fit
        assert_true(eval[5]);
        assert_in_range(choose((uint64_t[]){1, 1, 1, 2, 2, 2}, 6, 1, seed, eval), 3, 3); // none fits: one all the same
        assert_int_equal(choose(large, 6, 6, seed, eval), 6);
    }
    assert_int_equal(choose(same, 3, 1, 0, eval), 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(hashes), cmocka_unit_test(unpairs), cmocka_unit_test(splits),
                                       cmocka_unit_test(uneven)};
    return cmocka_run_group_tests(tests, enter_temporary_folder, remove_temporary_folder);
}
