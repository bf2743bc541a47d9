// compare_golden RUN_DIR GOLDEN_JSON [TOLERANCE]
//
// Compares a finished run with what TRL computed (tools/make_golden.py): every metric of every step and evaluation, and
// the final adapter. Prints the worst metric as a share of its tolerance; exit code 1 when anything is out of
// tolerance. Tolerance: TOLERANCE (2e-5) absolute plus as much relative; 1e-4 relative for grad_norm and learning_rate;
// counts and epoch exact. Adapter: the Euclidean distance to TRL's is at most 1e-4 of TRL's way from the start. TRL's
// own fp32 runs, attention summed in two orders, end up to 9e-6 of that way apart, so this leaves a factor of ten, and
// a wrong update rule (decay, moments, clipping) is far outside.
#include "io/metrics.h"
#include "io/safetensors.h"
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ADAPTER_TOLERANCE 1e-4
#define GOLDEN_COLUMNS    17 // with step; fewer would mean a golden file that checks less than it should

static const struct {
    const char *name;
    size_t offset;
} table[] = {
#define COLUMN(name) {#name, offsetof(MetricsRow, name)},
    METRICS_COLUMNS(COLUMN)
#undef COLUMN
};

typedef struct Worst {
    double share, got, expected;
    char where[96];
} Worst;

static int failures;

static void __attribute__((format(printf, 1, 2))) fail(const char *format, ...) {
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
    failures++;
}

static double allowed(const char *column, double expected, double tolerance) {
    static const char *const exact[] = {"num_tokens", "rows", "rows_chosen"};
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++)
        if (!strcmp(column, exact[i])) return 0.0;
    if (!strcmp(column, "epoch")) return 1e-12 * fabs(expected);
    if (!strcmp(column, "grad_norm") || !strcmp(column, "learning_rate")) return 1e-4 * fabs(expected);
    return tolerance + tolerance * fabs(expected);
}

static void compare_value(const char *group, const char *column, int64_t step, double got, const json_t *want,
                          double tolerance, Worst *worst) {
    if (json_is_null(want)) { // no row of that class
        if (!isnan(got)) fail("%s/%s step %lld: %.9g where TRL has no value", group, column, (long long)step, got);
        return;
    }
    double expected = json_number_value(want);
    double limit = allowed(column, expected, tolerance), difference = fabs(got - expected);
    if (!(difference <= limit)) {
        fail("%s/%s step %lld: %.9g, expected %.9g, off by %.3g, allowed %.3g", group, column, (long long)step, got,
             expected, difference, limit);
    }
    double share = difference == 0 ? 0 : difference / limit; // infinite where limit is 0
    if (isnan(share)) share = INFINITY;
    if (share > worst->share) {
        *worst = (Worst){.share = share, .got = got, .expected = expected};
        snprintf(worst->where, sizeof worst->where, "%s/%s step %lld", group, column, (long long)step);
    }
}

static void compare_group(const char *path, MetricsGroup group, const char *name, const json_t *golden,
                          double tolerance, Worst *worst) {
    const json_t *columns = json_object_get(golden, name), *steps = json_object_get(columns, "step");
    size_t expected_rows = json_array_size(steps), columns_seen = 1;
    MetricsRow *rows = NULL;
    int64_t count = 0;
    if (metrics_read(path, group, &rows, &count) != STATUS_OK) {
        fail("%s", error_text());
        return;
    }
    if (count != (int64_t)expected_rows) fail("%s: %lld rows, expected %zu", name, (long long)count, expected_rows);
    for (int64_t i = 0; i < count && i < (int64_t)expected_rows; i++) {
        int64_t step = (int64_t)json_integer_value(json_array_get(steps, (size_t)i));
        if (rows[i].step != step)
            fail("%s: row %lld is step %lld, expected %lld", name, (long long)i, (long long)rows[i].step,
                 (long long)step);
        if (group == METRICS_TRAIN && !(rows[i].skipped == 0)) fail("%s: step %lld was skipped", name, (long long)step);
    }
    for (size_t c = 0; c < sizeof table / sizeof *table; c++) {
        const json_t *values = json_object_get(columns, table[c].name);
        if (!values) continue;
        columns_seen++;
        if (json_array_size(values) != expected_rows) fail("golden %s/%s: wrong length", name, table[c].name);
        for (int64_t i = 0; i < count && i < (int64_t)expected_rows; i++) {
            double got;
            memcpy(&got, (const char *)&rows[i] + table[c].offset, sizeof got);
            compare_value(name, table[c].name, rows[i].step, got, json_array_get(values, (size_t)i), tolerance, worst);
        }
    }
    if (expected_rows > 0 && columns_seen != json_object_size(columns))
        fail("golden %s: a column this program does not know", name);
    if (group == METRICS_TRAIN && columns_seen != GOLDEN_COLUMNS) fail("golden %s: %zu columns", name, columns_seen);
    free(rows);
}

// The distance of the run's adapter from TRL's over TRL's distance from the start, over all tensors.
static double adapter_share(const char *got_path, const char *expected_path, const char *start_path) {
    TensorFiles *got = NULL, *expected = NULL, *start = NULL;
    double away = 0, moved = 0;
    if (tensor_files_open(&got, got_path) || tensor_files_open(&expected, expected_path) ||
        tensor_files_open(&start, start_path)) {
        fail("%s", error_text());
        return NAN;
    }
    int count = tensor_files_count(expected);
    if (tensor_files_count(got) != count) fail("adapter: %d tensors, expected %d", tensor_files_count(got), count);
    for (int t = 0; t < count; t++) {
        const Tensor *one = tensor_files_at(expected, t), *two, *from;
        if (tensor_files_get(got, one->name, one->dims, one->shape, &two) ||
            tensor_files_get(start, one->name, one->dims, one->shape, &from)) {
            fail("%s", error_text());
            error_clear();
            continue;
        }
        size_t n = (size_t)(one->shape[0] * one->shape[1]);
        float *values = calloc(3 * n, sizeof *values);
        if (!values) {
            fail("out of memory");
            break;
        }
        tensor_to_f32(one->data, one->type, n, values);
        tensor_to_f32(two->data, two->type, n, values + n);
        tensor_to_f32(from->data, from->type, n, values + 2 * n);
        for (size_t i = 0; i < n; i++) {
            double d = (double)values[n + i] - values[i], m = (double)values[i] - values[2 * n + i];
            away += d * d;
            moved += m * m;
        }
        free(values);
    }
    tensor_files_close(got);
    tensor_files_close(expected);
    tensor_files_close(start);
    return sqrt(away / moved);
}

int main(int argc, char **argv) {
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: compare_golden RUN_DIR GOLDEN_JSON [TOLERANCE]\n");
        return 2;
    }
    double tolerance = argc == 4 ? atof(argv[3]) : 2e-5;
    json_error_t json_error;
    json_t *golden = json_load_file(argv[2], 0, &json_error);
    if (!golden || !(tolerance > 0)) {
        fprintf(stderr, "%s: %s\n", argv[2], golden ? "bad tolerance" : json_error.text);
        return 2;
    }
    char path[3][4096];
    Worst worst = {.where = "nothing"};
    snprintf(path[0], sizeof path[0], "%s/metrics.h5", argv[1]);
    compare_group(path[0], METRICS_TRAIN, "train", golden, tolerance, &worst);
    compare_group(path[0], METRICS_EVAL, "eval", golden, tolerance, &worst);

    const char *slash = strrchr(argv[2], '/');
    int folder = slash ? (int)(slash - argv[2]) + 1 : 0;
    snprintf(path[0], sizeof path[0], "%s/adapter/adapter_model.safetensors", argv[1]);
    snprintf(path[1], sizeof path[1], "%.*s%s", folder, argv[2],
             json_string_value(json_object_get(golden, "adapter_final")));
    snprintf(path[2], sizeof path[2], "%.*s%s", folder, argv[2],
             json_string_value(json_object_get(golden, "adapter_start")));
    double share = adapter_share(path[0], path[1], path[2]);
    if (!(share <= ADAPTER_TOLERANCE))
        fail("adapter: %.3g of its way from the start away from TRL's, allowed %.3g", share, ADAPTER_TOLERANCE);

    printf("worst metric: %s: %.9g, expected %.9g, %.1f %% of the tolerance; adapter: %.2g of its way, %.1f %%\n",
           worst.where, worst.got, worst.expected, 100 * worst.share, share, 100 * share / ADAPTER_TOLERANCE);
    json_decref(golden);
    return failures ? 1 : 0;
}
