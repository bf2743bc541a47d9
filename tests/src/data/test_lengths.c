// Quantiles by nearest rank and the histogram's bins, against values counted by hand.
#include "src/data/lengths.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void quantiles(void **state) {
    (void)state;
    int32_t values[200];
    for (int i = 0; i < 200; i++) values[i] = 200 - i; // 1 to 200
    Lengths l = lengths_of(values, 200);
    const int64_t want[QUANTILES] = {1, 20, 100, 180, 198, 200};
    for (int q = 0; q < QUANTILES; q++) assert_int_equal(l.quantile[q], want[q]);
    assert_true(l.mean == 100.5);
    assert_int_equal(values[0], 1);
    int32_t one[] = {7};
    l = lengths_of(one, 1);
    for (int q = 0; q < QUANTILES; q++) assert_int_equal(l.quantile[q], 7);
    l = lengths_of(one, 0);
    assert_int_equal(l.quantile[Q_MOST], 0);
}

static char *histogram(int32_t *values, int64_t count) {
    char *text = NULL;
    size_t size;
    FILE *to = open_memstream(&text, &size);
    lengths_of(values, count);
    lengths_histogram(values, count, "", to);
    fclose(to);
    return text;
}

static void bins(void **state) {
    (void)state;
    int32_t few[] = {3, 5, 3, 3};
    char *text = histogram(few, 4);
    assert_string_equal(text, "               3 |######################################## 3\n"
                              "               4 |                                         0\n"
                              "               5 |#############                            1\n");
    free(text);
    // 10 to 109, two of each, and two large ones: 99 of a hundred are up to 109, so that width 10 begins at 10.
    int32_t many[202];
    for (int i = 0; i < 200; i++) many[i] = 10 + i / 2;
    many[200] = many[201] = 1000000;
    text = histogram(many, 202);
    assert_non_null(strstr(text, "        10 to 19 |"));
    assert_non_null(strstr(text, "     100 or more |"));
    assert_null(strstr(text, "110"));
    int64_t sum = 0, lines = 0;
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"), lines++)
        sum += atoll(strrchr(line, ' '));
    assert_int_equal(sum, 202);
    assert_int_equal(lines, 10);
    free(text);
}

// Whatever the range, there are at most a dozen bins and every value is in one (the sanitizers watch the writes).
static void any_range(void **state) {
    (void)state;
    for (int32_t range = 0; range < 3000; range += range / 50 + 1)
        for (int32_t least = 0; least < 100; least += 7) {
            int32_t values[] = {least, least + range, least + range / 2, least + range};
            char *text = histogram(values, 4);
            int64_t sum = 0, lines = 0;
            for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"), lines++)
                sum += atoll(strrchr(line, ' '));
            assert_int_equal(sum, 4);
            assert_in_range(lines, 1, 12);
            free(text);
        }
    int32_t far[] = {0, INT32_MAX};
    free(histogram(far, 2));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(quantiles), cmocka_unit_test(bins),
                                       cmocka_unit_test(any_range)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
