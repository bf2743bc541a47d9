// Choices out of a list of names: to text and back, whatever the text's order, and what does not fit.
#include "src/base/names.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
// cmocka needs the three above first
#include <cmocka.h>
#include <string.h>

static const char *const names[] = {"a", "ab", "c", NULL};

static void to_text_and_back(void **state) {
    (void)state;
    for (int set = 0; set < 8; set++) {
        const bool chosen[] = {set & 1, (set & 2) != 0, (set & 4) != 0};
        bool back[3];
        char text[16];
        assert_true(names_write(names, chosen, text, sizeof text));
        names_read(names, text, back);
        assert_memory_equal(back, chosen, sizeof chosen);
    }
    bool back[3];
    names_read(names, "c,x,ab", back);
    assert_true(!back[0] && back[1] && back[2]);
}

static void limits(void **state) {
    (void)state;
    const bool all[] = {true, true, true};
    char text[8];
    assert_true(names_write(names, all, text, sizeof "a,ab,c"));
    assert_string_equal(text, "a,ab,c");
    assert_false(names_write(names, all, text, sizeof "a,ab,c" - 1));
    assert_int_equal(names_find(names, "abc", 2), 1);
    assert_int_equal(names_find(names, "abc", 3), -1);
    assert_int_equal(names_find(names, "", 0), -1);
}

static void as_a_sentence(void **state) {
    (void)state;
    char text[32], cut[6];
    names_list(names, " and ", text, sizeof text);
    assert_string_equal(text, "a, ab and c");
    names_list(names, ", ", cut, sizeof cut);
    assert_string_equal(cut, "a, ab");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(to_text_and_back), cmocka_unit_test(limits),
                                       cmocka_unit_test(as_a_sentence)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
