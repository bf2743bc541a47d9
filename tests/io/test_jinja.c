// io/jinja against what jinja2 gives in the environment of transformers (tests/golden/templates/features.json, made by
// tools/make_template_golden.py), what it refuses, and its limits.
#include "io/jinja.h"

#include <jansson.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FEATURES TEST_DATA "/templates/features.json"
#define NOW      1767323045 // 2 January 2026, 03:04:05 UTC

static JinjaVariable variables[64];
static int variable_count;

static Status render(const char *text, JinjaScratch *scratch, const char **out, size_t *bytes) {
    JinjaTemplate *template;
    error_clear();
    TRY(jinja_parse(&template, "t", text, strlen(text)));
    Status status = jinja_render(template, scratch, variables, variable_count, NOW, out, bytes);
    jinja_free(template);
    return status;
}

static void take_variables(JinjaScratch *scratch, const json_t *object) {
    const char *name;
    json_t *value;
    variable_count = 0;
    json_object_foreach((json_t *)object, name, value) {
        assert_in_range(variable_count, 0, 63);
        variables[variable_count].name = name;
        assert_int_equal(jinja_from_json(scratch, value, &variables[variable_count++].value), STATUS_OK);
    }
}

static void features_are_those_of_jinja2(void **state) {
    (void)state;
    json_error_t error;
    json_t *cases = json_load_file(FEATURES, 0, &error), *one;
    if (cases == NULL) fail_msg("%s:%d: %s", FEATURES, error.line, error.text);
    assert_true(json_array_size(cases) > 300);
    const json_t *given = json_object_get(json_array_get(cases, 0), "variables");
    JinjaScratch scratch = {0};
    size_t index;
    int wrong = 0;
    json_array_foreach(cases, index, one) {
        if (index == 0) continue;
        const char *text = json_string_value(json_object_get(one, "template")), *got = NULL;
        const json_t *want = json_object_get(one, "text"); // null: an error
        size_t bytes = 0;
        jinja_scratch_reset(&scratch);
        take_variables(&scratch, given);
        const Status status = render(text, &scratch, &got, &bytes);
        const bool right = json_is_null(want)
                               ? status == STATUS_DATA && strncmp(error_text(), "t:", 2) == 0
                               : status == STATUS_OK && bytes == json_string_length(want) &&
                                     memcmp(got, json_string_value(want), bytes) == 0 && got[bytes] == '\0';
        if (!right) {
            fprintf(stderr, "feature %zu: %s\n  got  %s\n  want %s\n", index, text,
                    status == STATUS_OK ? got : error_text(),
                    json_is_null(want) ? "an error" : json_string_value(want));
            wrong++;
        }
    }
    assert_int_equal(wrong, 0);
    jinja_scratch_free(&scratch);
    json_decref(cases);
}

static void expect_error(const char *text, JinjaScratch limits, const char *want) {
    const char *got;
    size_t bytes;
    variable_count = 0;
    assert_int_equal(render(text, &limits, &got, &bytes), STATUS_DATA);
    assert_string_equal(error_text(), want);
    jinja_scratch_free(&limits);
    error_clear();
}

// What jinja2 has and is not here names itself and its line.
static void what_is_not_supported_says_so(void **state) {
    (void)state;
    const JinjaScratch plain = {0};
    expect_error("a\n{{ 'x' | wordwrap }}", plain, "t:2: the filter 'wordwrap' is not supported");
    expect_error("{{ x is escaped }}", plain, "t:1: the test 'escaped' is not supported");
    expect_error("{% include 'x' %}", plain, "t:1: the tag 'include' is not supported here");
    expect_error("{{ 'x'.encode() }}", plain, "t:1: the method 'encode' of 'str' is not supported");
    expect_error("{{ (1).real }}", plain, "t:1: the method 'real' of 'int' is not supported");
    expect_error("{{ cycler(1) }}", plain, "t:1: 'cycler' is not supported");
    expect_error("{{ 9223372036854775807 + 1 }}", plain, "t:1: a whole number beyond 64 bits is not supported");
    expect_error("{{ [1] | map('string') }}", plain,
                 "t:1: a 'generator' cannot be written; put a filter like list or join behind it");
    expect_error("{{ '\\N{DASH}' }}", plain, "t:1: a string holds an escape that is not supported: \\N");
    expect_error("\xff", plain, "t:1: is not UTF-8 text");
    expect_error("{{ 1\n\n+ }}", plain, "t:3: expected an expression, found '}}'");
    expect_error("{% for x in y %}\n{% if x %}", plain, "t:2: the template ends where '{% endif %}' is missing");
}

static void nothing_goes_on_for_ever(void **state) {
    (void)state;
    const JinjaScratch few = {.steps_max = 100000, .bytes_max = (size_t)4 << 20};
    expect_error("{% for a in range(1000) %}{% for b in range(1000) %}{{ b }}{% endfor %}{% endfor %}", few,
                 "t:1: takes more than 100000 steps; it may never end");
    expect_error("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", few, "t:1: is nested more than 400 deep");
    expect_error("{{ 'x' * 10000000 }}", few, "t:1: takes more than 100000 steps; it may never end");
    const JinjaScratch small = {.bytes_max = (size_t)4 << 20};
    expect_error("{{ 'xxxxxxxxxxxxxxxx' * 1000000 }}", small,
                 "the chat template needs more than 4 MiB; it may never end");
    expect_error("{% set ns = namespace(t='x') %}{% for i in range(99) %}{% set ns.t = ns.t + ns.t %}{% endfor %}",
                 small, "the chat template needs more than 4 MiB; it may never end");
    expect_error("{% set ns = namespace(t=[]) %}{% for i in range(500) %}{% set ns.t = [ns.t] %}{% endfor %}{{ ns.t }}",
                 small, "t:1: is nested more than 400 deep");
    char deep[4096];
    snprintf(deep, sizeof deep, "{{ %0*d }}", 1000, 0);
    memset(deep + 3, '(', 1000);
    expect_error(deep, small, "t:1: brackets are nested more than 400 deep");
}

int main(void) {
    setenv("TZ", "UTC", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(features_are_those_of_jinja2),
        cmocka_unit_test(what_is_not_supported_says_so),
        cmocka_unit_test(nothing_goes_on_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
