// Templates, the rules for reviews, titles.
#include "src/review/review.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PROMPT                                                                                                         \
    "Short reviews.\n\nTitle: On Socks\nBad review: My cat walked over the keyboard and wrote something better than "  \
    "this.\n\nTitle: On Hats and Shoes\nBad review:"

static void fills(void **state) {
    (void)state;
    ReviewTemplate t;
    ReviewPrompt p;
    assert_int_equal(
        review_template_parse(&t, "t", "A {{title} {\\bf x} {}\r\nTitle: {title}, {title}\nReview: \t{review}\n\n"),
        STATUS_OK);
    assert_int_equal(review_prompt(&t, "{title}", &p), STATUS_OK);
    assert_string_equal(p.text, "A {title} {\\bf x} {}\nTitle: {title}, {title}\nReview:");
    assert_string_equal(p.before, p.text);
    assert_string_equal(p.opening, "");
    assert_string_equal(t.gap, " \t");
    review_prompt_free(&p);
    review_template_free(&t);

    assert_int_equal(review_template_parse(&t, "t", "{title}\nR: {review}On {title}, no:"), STATUS_OK);
    assert_int_equal(review_prompt(&t, "Socks", &p), STATUS_OK);
    assert_string_equal(p.text, "Socks\nR: On Socks, no:");
    assert_string_equal(p.before, "Socks\nR:");
    char *review = review_of(&p, " I refuse. \nTitle: x");
    assert_string_equal(review, "On Socks, no: I refuse.");
    free(review);
    review_prompt_free(&p);
    review_template_free(&t);
}

static void refuses_templates(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"a\nb {titel} {review}", "t:2: unknown placeholder {titel}; there are {title} and {review} ({{ is a {)"},
        {"{title}\n\n", "t:1: no {review}; put it where the review begins"},
        {"{review} {title}", "t:1: no {title} before the review"},
        {"{title}\n{review}\n{review}", "t:3: a second {review}; it stands where the review begins, once"},
        {"", "t:1: no {review}; put it where the review begins"},
        {"{title", "t:1: no {review}; put it where the review begins"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ReviewTemplate t;
        error_clear();
        assert_int_equal(review_template_parse(&t, "t", cases[i].text), STATUS_DATA);
        assert_string_equal(error_text(), cases[i].message);
        review_template_free(&t);
    }
    error_clear();
}

static void judges(void **state) {
    (void)state;
    static const struct {
        const char *review;
        ReviewFault want;
    } cases[] = {
        {"I have read better papers on the back of a bus.", REVIEW_GOOD},
        {"Who would ever print such a thing?", REVIEW_GOOD},
        {"\"I have read better papers (i.e. all of them).\"", REVIEW_GOOD},
        {"The method of Smith et al. In this form is not new.", REVIEW_GOOD},
        {"Prof. J. Smith would be ashamed of the 3.5 pages of proofs!!", REVIEW_GOOD},
        {"It goes on and on... and then it ends, at last\xE2\x80\xA6", REVIEW_GOOD},
        {"Reject: \xE2\x80\x9Cnever again!\xE2\x80\x9D she cried, and I agree.", REVIEW_GOOD},
        {"", REVIEW_EMPTY},
        {"A paper with a broken \xFF byte in it.", REVIEW_GARBLED},
        {"A paper with a lost \xEF\xBF\xBD letter in it.", REVIEW_GARBLED},
        {"A paper with a \x1b code in it.", REVIEW_GARBLED},
        {"Title: something quite different from the others here.", REVIEW_ECHO},
        {"bad review: this is not what was asked for.", REVIEW_ECHO},
        {"On hats, and shoes!", REVIEW_ECHO},
        {"Once more MY CAT walked over the keyboard, and wrote a better one.", REVIEW_ECHO}, // eight words
        {"Once more my cat walked over the keyboard and ate a better one.", REVIEW_GOOD},    // seven
        {"Utterly dreadful stuff.", REVIEW_SHORT},
        {"I am tired of all of these words that do not end where they should end by now.", REVIEW_LONG},
        {"This is a review that just stops", REVIEW_UNENDED},
        {"This is a review that just stops: (here", REVIEW_UNENDED},
        {"This paper is bad. I have read better ones.", REVIEW_SENTENCES},
        {"This paper is bad. I have read", REVIEW_UNENDED},
        {"Was it worth the paper? No, it was not.", REVIEW_SENTENCES},
        {"Neither the authors nor I. We all slept well.", REVIEW_SENTENCES},
        {"The title says it all.\" Nobody should read on.", REVIEW_SENTENCES},
    };
    const ReviewLimits limits = {.min_words = 4, .max_words = 16};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const ReviewFault got = review_check(cases[i].review, PROMPT, &limits);
        if (got != cases[i].want)
            fail_msg("\"%s\": %s instead of %s", cases[i].review, review_fault_names[got],
                     review_fault_names[cases[i].want]);
    }
    assert_true(review_same("A fine paper, truly.", "a fine PAPER truly!"));
    assert_false(review_same("A fine paper.", "A fine papers."));
}

static Status titles(const char *text, char ***out, int64_t *count, int64_t *repeats) {
    error_clear();
    return review_titles("t", text, strlen(text), out, count, repeats);
}

static void titles_free(char **titles, int64_t count) {
    for (int64_t i = 0; i < count; i++) free(titles[i]);
    free(titles);
}

static void reads_titles(void **state) {
    (void)state;
    char **v;
    int64_t count, repeats;
    assert_int_equal(
        titles("\xEF\xBB\xBF One\t title \r\n\n{\"title\": \"Two\\n  lines\", \"id\": 1}\nOne title\nThree", &v, &count,
               &repeats),
        STATUS_OK);
    assert_int_equal(count, 3);
    assert_int_equal(repeats, 1);
    assert_string_equal(v[0], "One title");
    assert_string_equal(v[1], "Two lines");
    assert_string_equal(v[2], "Three");
    titles_free(v, count);

    static const struct {
        const char *text, *message;
    } cases[] = {
        {"a\n{\"titel\": \"b\"}", "t:2: has no text \"title\""},
        {"{\"title\": 1}", "t:1: has no text \"title\""},
        {"a\n\n{\"title\": ",
         "t:3: broken JSON in column 10: unexpected token near end of file; a line is {\"title\"} or a plain title"},
        {"a\xFF", "t:1: invalid UTF-8; save the file as UTF-8"},
        {"a\x01", "t:1: the title holds a control character; remove it"},
        {"{\"title\": \" \"}", "t:1: the title is empty"},
        {"\n \n", "t: holds no title; a line is a title or {\"title\"}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(titles(cases[i].text, &v, &count, &repeats), STATUS_DATA);
        assert_string_equal(error_text(), cases[i].message);
        titles_free(v, count);
    }
    error_clear();
}

static void writes_rows(void **state) {
    (void)state;
    char *line = review_pair_line("p:", " ", "bad \"x\".", "good.", "T");
    assert_string_equal(
        line, "{\"prompt\": \"p:\", \"chosen\": \" bad \\\"x\\\".\", \"rejected\": \" good.\", \"title\": \"T\"}");
    free(line);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(fills), cmocka_unit_test(refuses_templates),
                                       cmocka_unit_test(judges), cmocka_unit_test(reads_titles),
                                       cmocka_unit_test(writes_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
