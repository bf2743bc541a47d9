// Paragraphs, lines of a width, sentences.
#include "src/base/wrap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void blocks(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool verbatim, gap;
    } expected[] = {
        {"one\ntwo", false, false}, {"three", false, true}, {"  four", true, false},
        {"  five", true, false},    {"six", false, false},  {" seven", true, true},
    };
    const char *rest = "one\ntwo\n\nthree\n  four\n  five\nsix\n\n\n seven\n";
    TextBlock block;
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        assert_true(text_block(&rest, &block));
        assert_int_equal(block.length, strlen(expected[i].text));
        assert_memory_equal(block.start, expected[i].text, strlen(expected[i].text));
        assert_int_equal(block.verbatim, expected[i].verbatim);
        assert_int_equal(block.gap, expected[i].gap);
    }
    assert_false(text_block(&rest, &block));
    rest = "";
    assert_false(text_block(&rest, &block));
}

static void check_wrap(const char *text, int length, int column, int indent, int width, const char *expected) {
    char *got = NULL;
    size_t size;
    FILE *to = open_memstream(&got, &size);
    assert_non_null(to);
    text_wrap(to, text, length, column, indent, width);
    fclose(to);
    assert_string_equal(got, expected);
    free(got);
}

static void wrapping(void **state) {
    (void)state;
    check_wrap("aa bb cc dd", -1, 0, 0, 5, "aa bb\ncc dd\n");
    check_wrap("aa  bb\ncc", -1, 0, 0, 80, "aa bb cc\n");
    check_wrap("aa bb cc", -1, 6, 2, 9, "aa\n  bb cc\n");
    check_wrap("aa muchtoolong b", -1, 0, 1, 4, "aa\n muchtoolong\n b\n");
    check_wrap("aa bbXX", 5, 0, 0, 80, "aa bb\n");
    check_wrap("\xc3\xa4\xc3\xa4 \xc3\xa4\xc3\xa4 b", -1, 0, 0, 5, "\xc3\xa4\xc3\xa4 \xc3\xa4\xc3\xa4\nb\n");
    check_wrap("", -1, 0, 0, 5, "\n");
}

static void sentences(void **state) {
    (void)state;
    static const char *const pairs[][2] = {{"train a model", "Train a model."},
                                           {"greedy", "Greedy."},
                                           {"layer: compute twice", "layer: compute twice."},
                                           {"metrics.h5 is read", "metrics.h5 is read."},
                                           {"{\"prompt\"} a line", "{\"prompt\"} a line."}};
    char sentence[64];
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        text_sentence(pairs[i][0], sentence, sizeof sentence);
        assert_string_equal(sentence, pairs[i][1]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(blocks), cmocka_unit_test(wrapping),
                                       cmocka_unit_test(sentences)};
    return cmocka_run_group_tests_name("wrap", tests, NULL, NULL);
}
