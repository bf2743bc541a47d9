// Curves in characters: what a chart of few cells looks like, to the letter, and that nothing breaks it.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "src/base/chart.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) ((int64_t)(sizeof(array) / sizeof *(array)))

static const double STEPS[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
static const double FALLS[] = {9, 8, 7, 6, 5, 4, 3, 2, 1, 0};
static const double RISES[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};

static char *draw(const Chart *charts, int count, const ChartStyle *style) {
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    assert_non_null(to);
    assert_int_equal(chart_draw(charts, count, style, to), STATUS_OK);
    assert_int_equal(fclose(to), 0);
    return text;
}

static void assert_drawn(const Chart *charts, int count, const ChartStyle *style, const char *wanted) {
    char *got = draw(charts, count, style);
    if (strcmp(got, wanted) != 0) fprintf(stderr, "%s", got);
    assert_string_equal(got, wanted);
    free(got);
}

static void test_ascii(void **state) {
    (void)state;
    const ChartStyle style = {.width = 40, .height = 4, .ascii = true};
    const ChartSeries series = {.x = STEPS, .y = FALLS, .count = 10};
    assert_drawn(&(Chart){"loss", &series, 1}, 1, &style,
                 "           loss                         \n"
                 "          |.....                        \n"
                 "        5 |     .........               \n"
                 "          |              ..........     \n"
                 "        0 |                        .....\n"
                 "          +------------+----------------\n"
                 "                       5            step\n");
}

static void test_braille(void **state) {
    (void)state;
    const ChartStyle style = {.width = 40, .height = 3};
    const ChartSeries series = {.x = STEPS, .y = RISES, .count = 10, .form = CHART_LINE_POINTS};
    assert_drawn(&(Chart){"margin", &series, 1}, 1, &style,
                 "           margin                       \n"
                 "          │                   ⢀⣀⣀●⠤⠤●⠒⠊●\n"
                 "        5 ┤         ●⣀⣀●⠤⠔⠒●⠉⠉●         \n"
                 "        0 ┤●⡠⠤●⠒⠒●⠉⠉⠁                   \n"
                 "          └────────────┬────────────────\n"
                 "                       5            step\n");
}

// Two lines without colours are letters; with colours both are dots.
static void test_several(void **state) {
    (void)state;
    const ChartSeries series[] = {{.x = STEPS, .y = FALLS, .count = 10}, {.x = STEPS, .y = RISES, .count = 10}};
    const Chart chart = {"both", series, 2};
    ChartStyle style = {.width = 40, .height = 4};
    char *text = draw(&chart, 1, &style), key[CHART_KEY_MAX];
    assert_non_null(strstr(text, "aaaa"));
    assert_non_null(strstr(text, "bbbb"));
    assert_null(strchr(text, '\033'));
    assert_string_equal(chart_key(&style, 1, 2, key), "b");
    free(text);
    style.colour = true;
    text = draw(&chart, 1, &style);
    assert_null(strstr(text, "aa"));
    assert_non_null(strstr(text, "\033[36m"));
    assert_non_null(strstr(text, "\033[33m"));
    free(text);
}

// Steps that share a column are averaged: 0 and 2 in turn are a line at 1.
static void test_mean(void **state) {
    (void)state;
    enum { MANY = 58000 };
    static double x[MANY], y[MANY];
    for (int i = 0; i < MANY; i++) {
        x[i] = i + 1;
        y[i] = i % 2 == 0 ? 0 : 2;
    }
    const double ends[] = {1, MANY}, corners[] = {0, 2};
    const ChartSeries series[] = {{.x = x, .y = y, .count = MANY},
                                  {.x = ends, .y = corners, .count = 2, .form = CHART_POINTS}};
    const ChartStyle style = {.width = 40, .height = 3, .ascii = true};
    char *text = draw(&(Chart){"mean", series, 2}, 1, &style);
    assert_non_null(strstr(text, "          |............................."));
    free(text);
}

static void test_odd_values(void **state) {
    (void)state;
    const double holes[] = {NAN, 1, INFINITY, NAN, 2, -INFINITY, 3, NAN, NAN, 4}, none[] = {NAN, NAN};
    const double huge[] = {-1e308, 1e308}, tiny[] = {1e-300, 2e-300}, same[] = {5, 5}, one[] = {3};
    const double *all[] = {holes, none, huge, tiny, same, one};
    const int64_t counts[] = {COUNT(holes), COUNT(none), COUNT(huge), COUNT(tiny), COUNT(same), COUNT(one)};
    for (int form = CHART_LINE; form <= CHART_LINE_POINTS; form++)
        for (int ascii = 0; ascii <= 1; ascii++)
            for (int i = 0; i < 6; i++) {
                const ChartSeries series = {.x = STEPS, .y = all[i], .count = counts[i], .form = (ChartForm)form};
                const ChartStyle style = {.width = 40, .height = 5, .ascii = ascii == 1};
                char *text = draw(&(Chart){"odd", &series, 1}, 1, &style);
                int lines = 0;
                for (const char *c = text; *c != '\0'; c++) lines += *c == '\n';
                assert_int_equal(lines, 1 + 5 + 2);
                assert_int_equal(strstr(text, "(no number)") != NULL, i == 1);
                free(text);
            }
    const ChartSeries empty = {.x = STEPS, .y = FALLS};
    const ChartStyle style = {.width = 40, .height = 5};
    char *text = draw(&(Chart){"none", &empty, 1}, 1, &style);
    assert_non_null(strstr(text, "(no number)"));
    free(text);
}

// Beside each other where there is room; no line is longer than the style's width.
static void test_beside(void **state) {
    (void)state;
    const ChartSeries series = {.x = STEPS, .y = FALLS, .count = 10};
    const Chart charts[] = {{"first", &series, 1}, {"second", &series, 1}, {"third", &series, 1}};
    for (int width = 40; width <= 200; width += 7) {
        const ChartStyle style = {.width = width, .height = 4, .ascii = true};
        char *text = draw(charts, 3, &style), *rest = text;
        const char *second = strstr(text, "second"), *first_end = strchr(text, '\n');
        assert_int_equal(second < first_end, width >= 120);
        for (char *line; (line = strsep(&rest, "\n")) != NULL;) assert_true((int)strlen(line) <= width);
        free(text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ascii), cmocka_unit_test(test_braille),    cmocka_unit_test(test_several),
        cmocka_unit_test(test_mean),  cmocka_unit_test(test_odd_values), cmocka_unit_test(test_beside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
