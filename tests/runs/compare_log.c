// compare_log make METRICS.H5                        writes a log with the values that text gets wrong
// compare_log csv|json METRICS.H5 [GROUP] <OUTPUT    what kto log printed, against the file, bit for bit
#include "io/metrics.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int stop(const char *what, int64_t row, const char *column) {
    fprintf(stderr, "row %lld, %s: %s\n", (long long)row, column, what);
    return 1;
}

static int make(const char *path) {
    const MetricsRun run = {.version = "v", .git_commit = "c", .config = "", .hosts = "h", .devices = "d", .ranks = 1};
    Metrics *metrics;
    if (metrics_open(&metrics, path, &run, 0, true) != STATUS_OK) return 1;
    for (int64_t step = 1; step <= 20; step++) {
        MetricsRow row = {.step = step == 20 ? ((int64_t)1 << 53) + 1 : step};
        double value = 1.0 / 3.0 * (double)step;
#define METRICS_FIELD(name) row.name = value *= -1.1;
        METRICS_COLUMNS(METRICS_FIELD)
#undef METRICS_FIELD
        if (step == 2) row.loss = NAN;
        if (step == 3) row.loss = INFINITY;
        if (step == 4) row.loss = -INFINITY;
        if (step == 5) row.loss = -0.0;
        if (step == 6) row.loss = 5e-324;
        if (step == 7) row.loss = 1.7976931348623157e308;
        if (step == 8) row.loss = 0.1;
        if (metrics_append(metrics, METRICS_TRAIN, &row) != STATUS_OK) return 1;
        if (step % 5 == 0 && metrics_append(metrics, METRICS_EVAL, &row) != STATUS_OK) return 1;
    }
    return metrics_close(metrics) != STATUS_OK;
}

static bool same_bits(double a, double b) {
    return memcmp(&a, &b, sizeof a) == 0;
}

static int compare_csv(char *line, int group, int64_t at, const MetricsRow *row) {
    char *field = strsep(&line, ",");
    if (field == NULL || *field == '\0') return stop("no run", at, "run");
    field = strsep(&line, ",");
    if (field == NULL || strcmp(field, metrics_group_names[group]) != 0) return stop("another group", at, "group");
    field = strsep(&line, ",");
    if (field == NULL || strtoll(field, NULL, 10) != row->step) return stop("another step", at, "step");
    for (int c = METRICS_STEP_COLUMN + 1; c < METRICS_COLUMN_COUNT; c++) {
        const double value = metrics_value(row, c);
        char *end = NULL;
        field = strsep(&line, ",");
        if (field == NULL) return stop("is missing", at, metrics_columns[c].name);
        if (isnan(value) ? *field != '\0' : !same_bits(strtod(field, &end), value) || *end != '\0')
            return stop(field, at, metrics_columns[c].name);
    }
    return line == NULL ? 0 : stop("more columns than the file has", at, line);
}

static int compare_json(const char *line, int group, int64_t at, const MetricsRow *row) {
    json_error_t error;
    json_t *object = json_loads(line, 0, &error);
    if (object == NULL) return stop(error.text, at, line);
    const char *name = json_string_value(json_object_get(object, "group"));
    if (name == NULL || strcmp(name, metrics_group_names[group]) != 0) return stop("another group", at, "group");
    if (json_integer_value(json_object_get(object, "step")) != row->step) return stop("another step", at, "step");
    for (int c = METRICS_STEP_COLUMN + 1; c < METRICS_COLUMN_COUNT; c++) {
        const double value = metrics_value(row, c);
        const json_t *got = json_object_get(object, metrics_columns[c].name);
        if (isfinite(value) ? !json_is_real(got) || !same_bits(json_real_value(got), value) : !json_is_null(got))
            return stop("another value", at, metrics_columns[c].name);
    }
    const size_t columns = json_object_size(object);
    json_decref(object);
    return columns == METRICS_COLUMN_COUNT + 2 ? 0 : stop("other columns", at, line);
}

// The columns' names, in order.
static int compare_head(const char *line) {
    char wanted[2048] = "run,group";
    for (int c = 0; c < METRICS_COLUMN_COUNT; c++)
        snprintf(wanted + strlen(wanted), sizeof wanted - strlen(wanted), ",%s", metrics_columns[c].name);
    return strcmp(line, wanted) == 0 ? 0 : stop(line, 0, "the first line");
}

static bool next_line(char **line, size_t *room) {
    const ssize_t length = getline(line, room, stdin);
    if (length > 0 && (*line)[length - 1] == '\n') (*line)[length - 1] = '\0';
    return length > 0;
}

static int compare(bool csv, const char *path, int only) {
    char *line = NULL;
    size_t room = 0;
    MetricsRow *rows[2];
    int64_t count[2], at[2] = {0, 0};
    for (int g = METRICS_TRAIN; g <= METRICS_EVAL; g++)
        if (metrics_read(path, (MetricsGroup)g, &rows[g], &count[g]) != STATUS_OK) return stop(error_text(), 0, path);
    for (int g = METRICS_TRAIN; g <= METRICS_EVAL; g++)
        if (only >= 0 && only != g) count[g] = 0;
    if (csv && (!next_line(&line, &room) || compare_head(line) != 0)) return 1;
    while (at[0] < count[0] || at[1] < count[1]) {
        const bool train = at[1] == count[1] || (at[0] < count[0] && rows[0][at[0]].step <= rows[1][at[1]].step);
        const int g = train ? METRICS_TRAIN : METRICS_EVAL;
        if (!next_line(&line, &room)) return stop("is missing", at[g], metrics_group_names[g]);
        if ((csv ? compare_csv(line, g, at[g], &rows[g][at[g]]) : compare_json(line, g, at[g], &rows[g][at[g]])) != 0)
            return 1;
        at[g]++;
    }
    if (next_line(&line, &room)) return stop("more rows than the file has", at[0] + at[1], line);
    printf("%lld steps and %lld evaluations the same\n", (long long)count[0], (long long)count[1]);
    free(line);
    free(rows[0]);
    free(rows[1]);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "make") == 0) return make(argv[2]);
    if (argc < 3) return 2;
    const int only = argc < 4 ? -1 : strcmp(argv[3], "eval") == 0 ? METRICS_EVAL : METRICS_TRAIN;
    return compare(strcmp(argv[1], "csv") == 0, argv[2], only);
}
