// Characters: what is well-formed, and what a terminal would take for an order.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "src/base/text.h"

#include <math.h>
#include <string.h>

static void test_utf8(void **state) {
    (void)state;
    static const char *const good[] = {
        "", "plain\n", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x99\x82", "\xF4\x8F\xBF\xBF"};
    static const char *const bad[] = {"\xC3", "a\xFF",   "\xC0\xAF", "\xE0\x80\xAF", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                                      "\x80", "\xE2\x82"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) assert_true(utf8_valid(good[i], strlen(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(utf8_valid(bad[i], strlen(bad[i])));
    assert_false(utf8_valid("a\0b", 3));
}

static void test_printable(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"", ""},
        {"a\tb\nc", "a\tb\nc"},
        {"\x1b[2J\a\r\b\x7f", "?[2J????"},
        {"\xC2\x9B"
         "31m \xC2\x80\xC2\x9F",
         "?31m ??"},                                                      // C1 controls
        {"\xC2\xA0\xC3\x9B\xE2\x82\x9B", "\xC2\xA0\xC3\x9B\xE2\x82\x9B"}, // bytes of whole characters stay
        {"\xC2", "\xC2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[32];
        strcpy(text, cases[i][0]);
        text_make_printable(text);
        assert_string_equal(text, cases[i][1]);
    }
}

static void test_figures(void **state) {
    (void)state;
    char out[32];
    assert_string_equal(figure_text(0.12345, 3, false, out), "0.123");
    assert_string_equal(figure_text(0.5, 3, true, out), "+0.500");
    assert_string_equal(figure_text(-0.5, 1, true, out), "-0.5");
    assert_string_equal(figure_text(NAN, 3, true, out), "-");
    assert_string_equal(figure_text(-NAN, 3, false, out), "-");
    static const struct {
        double seconds;
        const char *text;
    } cases[] = {
        {0, "0 ms"},     {12.9e-3, "12.9 ms"},  {0.774, "774 ms"},    {0.9996, "1.0 s"},
        {4.51, "4.5 s"}, {187.9, "3 min 07 s"}, {7500, "2 h 05 min"}, {360000, "100 h 00 min"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(duration_text(cases[i].seconds, out), cases[i].text);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_utf8), cmocka_unit_test(test_printable),
                                       cmocka_unit_test(test_figures)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
