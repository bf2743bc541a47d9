// compare_runs same RUN_A RUN_B       metrics (but for times) and the adapter file are equal, bit for bit
// compare_runs near RUN_A RUN_B [TOLERANCE]
//                                     metrics agree as the golden runs must: for runs that differ in ranks or packing;
//                                     TOLERANCE, absolute and relative, replaces 2e-5
// compare_runs zero-rewards RUN_DIR   the first step's rewards, margins and z0 are exactly 0 (B = 0 before any update)
//
// Exit code 1 with the differences on stderr.
#include "io/files.h"
#include "io/metrics.h"
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    size_t offset;
} table[] = {
#define COLUMN(name) {#name, offsetof(MetricsRow, name)},
    METRICS_COLUMNS(COLUMN)
#undef COLUMN
};

static int failures;
static double tolerance = 2e-5;

static double value(const MetricsRow *row, size_t column) {
    double x;
    memcpy(&x, (const char *)row + table[column].offset, sizeof x);
    return x;
}

static bool is_time(const char *name) {
    return !strcmp(name, "time") || strstr(name, "_seconds") || !strcmp(name, "tokens_per_second");
}

// How far apart the same value of two runs may be.
static double allowed(const char *name, double x, bool near) {
    if (!near) return 0;
    if (!strcmp(name, "computed_tokens")) return INFINITY; // says how the run was packed
    return !strcmp(name, "grad_norm") ? 5 * tolerance * fabs(x) : tolerance + tolerance * fabs(x);
}

static void compare_group(const char *one, const char *two, MetricsGroup group, bool near, double *worst) {
    char path[2][4096];
    MetricsRow *rows[2] = {NULL, NULL};
    int64_t count[2] = {0, 0};
    snprintf(path[0], sizeof path[0], "%s/metrics.h5", one);
    snprintf(path[1], sizeof path[1], "%s/metrics.h5", two);
    for (int i = 0; i < 2; i++) {
        if (metrics_read(path[i], group, &rows[i], &count[i]) == STATUS_OK) continue;
        fprintf(stderr, "%s\n", error_text());
        failures++;
    }
    if (count[0] != count[1] || (group == METRICS_TRAIN && count[0] == 0)) {
        fprintf(stderr, "%lld and %lld rows\n", (long long)count[0], (long long)count[1]);
        failures++;
    }
    for (int64_t r = 0; r < count[0] && r < count[1]; r++) {
        for (size_t c = 0; c < sizeof table / sizeof *table; c++) {
            double x = value(&rows[0][r], c), y = value(&rows[1][r], c);
            if (is_time(table[c].name) || (isnan(x) && isnan(y))) continue;
            double limit = allowed(table[c].name, x, near), difference = fabs(x - y);
            if (!(difference <= limit)) {
                fprintf(stderr, "step %lld %s: %.17g and %.17g\n", (long long)rows[0][r].step, table[c].name, x, y);
                failures++;
            } else if (isfinite(limit) && limit > 0 && difference / limit > *worst) {
                *worst = difference / limit;
            }
        }
    }
    free(rows[0]);
    free(rows[1]);
}

static void compare_adapters(const char *one, const char *two) {
    char path[2][4096], *bytes[2] = {NULL, NULL};
    size_t size[2] = {0, 0};
    snprintf(path[0], sizeof path[0], "%s/adapter/adapter_model.safetensors", one);
    snprintf(path[1], sizeof path[1], "%s/adapter/adapter_model.safetensors", two);
    for (int i = 0; i < 2; i++) {
        if (file_read(path[i], (size_t)1 << 30, &bytes[i], &size[i]) == STATUS_OK) continue;
        fprintf(stderr, "%s\n", error_text());
        failures++;
        goto done;
    }
    if (size[0] != size[1] || memcmp(bytes[0], bytes[1], size[0]) != 0) {
        fprintf(stderr, "the adapters differ\n");
        failures++;
    }
done:
    free(bytes[0]);
    free(bytes[1]);
}

static void check_zero_rewards(const char *run) {
    char path[4096];
    MetricsRow *rows = NULL;
    int64_t count = 0;
    snprintf(path, sizeof path, "%s/metrics.h5", run);
    if (metrics_read(path, METRICS_TRAIN, &rows, &count) != STATUS_OK || count == 0) {
        fprintf(stderr, "%s\n", count ? error_text() : "no step in the log");
        failures++;
    } else {
        const MetricsRow *row = &rows[0];
        printf("rewards %.3g %.3g, kl %.3g\n", row->rewards_chosen, row->rewards_rejected, row->kl);
        if (!(row->rewards_chosen == 0 && row->rewards_rejected == 0 && row->rewards_margins == 0 && row->kl == 0))
            failures++;
    }
    free(rows);
}

int main(int argc, char **argv) {
    bool near = (argc == 4 || argc == 5) && !strcmp(argv[1], "near"), same = argc == 4 && !strcmp(argv[1], "same");
    if (argc == 5) tolerance = atof(argv[4]);
    if ((near || same) && tolerance > 0) {
        double worst = 0;
        compare_group(argv[2], argv[3], METRICS_TRAIN, near, &worst);
        compare_group(argv[2], argv[3], METRICS_EVAL, near, &worst);
        if (same) compare_adapters(argv[2], argv[3]);
        printf("%d differences, worst within: %.1f %% of the tolerance\n", failures, 100 * worst);
    } else if (argc == 3 && !strcmp(argv[1], "zero-rewards")) {
        check_zero_rewards(argv[2]);
    } else {
        fprintf(stderr, "usage: compare_runs same RUN_A RUN_B, compare_runs near RUN_A RUN_B [TOLERANCE], or "
                        "compare_runs zero-rewards RUN_DIR\n");
        return 2;
    }
    return failures ? 1 : 0;
}
