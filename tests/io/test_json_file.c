// JSON as Python writes it: what jansson refuses is read, stays what it is when written again, and is no number to
// anybody.
#include "io/json_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static json_t *load(const char *text) {
    json_error_t error;
    json_t *root = json_foreign_load(text, strlen(text), 0, &error);
    if (root == NULL) fail_msg("%s: %s", text, error.text);
    return root;
}

static void what_python_writes_is_kept(void **state) {
    (void)state;
    static const char *const texts[] = {
        "{\"model_max_length\": 1000000000000000019884624838656, \"a\": -170141183460469231731687303715884105728}",
        "[NaN, Infinity, -Infinity, {\"x\": [NaN]}, \"NaN\", \"[NaN, \\\\\\\" Infinity\"]",
        "[1e999, -1.5E+400, 9223372036854775807, -9223372036854775808, 9223372036854775808, 1]",
        "{\"a\\\"b\": \"\\u0000\", \"c\": NaN, \"d\": \"\xC3\xA9\\\\\", \"e\": 0.5}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        for (int ascii = 0; ascii < 2; ascii++) {
            json_t *root = load(texts[i]);
            char *back = json_foreign_dump(root, ascii ? JSON_ENSURE_ASCII : 0);
            if (!ascii || strstr(texts[i], "\xC3") == NULL) assert_string_equal(back, texts[i]);
            json_t *again = load(back);
            assert_true(json_equal(root, again));
            free(back);
            json_decref(again);
            json_decref(root);
        }
}

static void they_are_no_numbers(void **state) {
    (void)state;
    json_t *root = load("[NaN, -Infinity, 9223372036854775808, 1e999, 8, 1152921504606846975, 0.5]");
    for (size_t i = 0; i < json_array_size(root); i++)
        assert_int_equal(json_is_number(json_array_get(root, i)), i >= 4);
    assert_int_equal(json_integer_value(json_array_get(root, 4)), 8);
    assert_true(json_real_value(json_array_get(root, 6)) == 0.5);
    json_decref(root);
}

static void texts_with_nul_are_not_used(void **state) {
    (void)state;
    json_t *root = load("[\"a\\u0000b\", \"ab\", \"\", 1]");
    assert_null(json_text(json_array_get(root, 0)));
    assert_string_equal(json_text(json_array_get(root, 1)), "ab");
    assert_string_equal(json_text(json_array_get(root, 2)), "");
    assert_null(json_text(json_array_get(root, 3)));
    assert_null(json_text(NULL));
    json_decref(root);
}

// What is wrong is still wrong, and said of the line where it is.
static void broken_stays_broken(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
        int line;
    } cases[] = {
        {"[nan]", "invalid token near 'nan'", 1},
        {"[NaNs]", "invalid token near 'NaNs'", 1},
        {"[NaN, 12x]", "']' expected near 'x'", 1},
        {"{\"a\": NaN,\n\"b\": tru}", "invalid token near 'tru'", 2},
        {"[1e999, \"", "premature end of input near '\"'", 1},
        {"[NaN \"\\", "invalid escape near '\"\\'", 1},
        {"[\"\\ud800\", NaN]", "invalid Unicode '\\uD800' near '\"\\ud800\"'", 1},
        {"[NaN, -]", "invalid token near '-'", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_error_t error;
        json_t *root = json_foreign_load(cases[i].text, strlen(cases[i].text), 0, &error);
        assert_null(root);
        assert_string_equal(error.text, cases[i].message);
        assert_int_equal(error.line, cases[i].line);
    }
    char deep[5000];
    memset(deep, '[', sizeof deep);
    json_error_t error;
    assert_null(json_foreign_load(deep, sizeof deep, 0, &error));
    assert_string_equal(error.text, "maximum parsing depth reached near '['");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_python_writes_is_kept),
        cmocka_unit_test(they_are_no_numbers),
        cmocka_unit_test(texts_with_nul_are_not_used),
        cmocka_unit_test(broken_stays_broken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
