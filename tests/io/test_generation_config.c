// The tokens that end an answer: which file they come from, a number or a list, and what is refused.
#include "io/generation_config.h"
#include "tests/io/temporary_folder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void put(const char *name, const char *text) {
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void files(void **state) {
    (void)state;
    EndTokens ends = {.id = {2}, .count = 1}; // the tokenizer's
    put("config.json", "{\"eos_token_id\": 7}");
    assert_int_equal(generation_config_ends(".", &ends), STATUS_OK);
    assert_int_equal(ends.count, 2);
    assert_true(end_tokens_has(&ends, 2) && end_tokens_has(&ends, 7) && !end_tokens_has(&ends, 0));

    put("generation_config.json", "{\"eos_token_id\": [128001, 2, 128009]}");
    ends = (EndTokens){.id = {2}, .count = 1};
    assert_int_equal(generation_config_ends(".", &ends), STATUS_OK);
    assert_int_equal(ends.count, 3);
    assert_true(end_tokens_has(&ends, 128001) && end_tokens_has(&ends, 128009) && !end_tokens_has(&ends, 7));

    static const char *const none[] = {"{}", "{\"eos_token_id\": null}", "{\"eos_token_id\": []}"};
    for (int i = 0; i < 3; i++) {
        put("generation_config.json", none[i]);
        ends.count = 0;
        assert_int_equal(generation_config_ends(".", &ends), STATUS_OK);
        assert_int_equal(ends.count, 0);
    }
}

static void refusals(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{\"eos_token_id\": \"</s>\"}",
         "./generation_config.json: eos_token_id must be a token's number or a list of them"},
        {"{\"eos_token_id\": [2, -1]}",
         "./generation_config.json: eos_token_id must be a token's number or a list of them"},
        {"{\"eos_token_id\": 4294967298}",
         "./generation_config.json: eos_token_id must be a token's number or a list of them"},
        {"{\"eos_token_id\": [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}",
         "./generation_config.json: eos_token_id lists more than 16 tokens"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        EndTokens ends = {0};
        put("generation_config.json", cases[i].text);
        error_clear();
        assert_int_equal(generation_config_ends(".", &ends), STATUS_DATA);
        assert_string_equal(error_text(), cases[i].message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(files), cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, enter_temporary_folder, remove_temporary_folder);
}
