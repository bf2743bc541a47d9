// The error message: the first one wins, it is one line whatever it quotes, and a place can be put in front.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "src/base/status.h"

#include <string.h>

static void test_first_wins(void **state) {
    (void)state;
    assert_int_equal(error_set(STATUS_DATA, "a %d", 1), STATUS_DATA);
    assert_int_equal(error_set(STATUS_FAILED, "b"), STATUS_FAILED);
    assert_string_equal(error_text(), "a 1");
    error_at(STATUS_DATA, "file", 7);
    assert_string_equal(error_text(), "file:7: a 1");
    assert_int_equal(error_advise(STATUS_FAILED, "do b"), STATUS_FAILED);
    assert_string_equal(error_text(), "file:7: a 1; do b");
    error_clear();
    assert_string_equal(error_text(), "");
}

// A name out of a file can hold an escape sequence or a line that looks like another message.
static void test_one_line(void **state) {
    (void)state;
    error_set(STATUS_DATA, "tensor %s", "a\nkto: done\r\t\x1b[2J\x7f \xC3\xA9");
    assert_string_equal(error_text(), "tensor a?kto: done???[2J? \xC3\xA9");
    error_clear();
    char longest[2 * ERROR_TEXT_MAX];
    memset(longest, '\n', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    error_set(STATUS_DATA, "%s", longest);
    assert_int_equal(strlen(error_text()), ERROR_TEXT_MAX - 1);
    assert_null(strchr(error_text(), '\n'));
    error_advise(STATUS_DATA, "no room is left");
    assert_int_equal(strlen(error_text()), ERROR_TEXT_MAX - 1);
    error_clear();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_first_wins), cmocka_unit_test(test_one_line)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
