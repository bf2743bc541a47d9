// Plain passes over the rows that logged_run.h has read; none of them changes a run, and all but figure_value take runs
// without rows. In means and bests only finite values count.
#include "src/commands/log_figures.h"

#include <math.h>
#include <stdlib.h>

double figure_value(const LoggedRun *run, int group, int64_t i, int column) {
    return metrics_value(&run->rows[group][i], column);
}

double figure_last(const LoggedRun *run, int group, int column) {
    const int64_t count = run->count[group];
    return count == 0 ? NAN : figure_value(run, group, count - 1, column);
}

double figure_tail_mean(const LoggedRun *run, int group, int column) {
    const int64_t count = run->count[group], tail = (count + 9) / 10;
    double sum = 0;
    int64_t numbers = 0;
    for (int64_t i = count - tail; i < count; i++) {
        const double value = figure_value(run, group, i, column);
        if (!isfinite(value)) continue;
        sum += value;
        numbers++;
    }
    return numbers == 0 ? NAN : sum / (double)numbers;
}

int64_t figure_best_row(const LoggedRun *run, int group, int column, int better) {
    int64_t best = -1;
    for (int64_t i = 0; i < run->count[group]; i++) {
        const double value = figure_value(run, group, i, column);
        if (isfinite(value) && (best < 0 || better * value > better * figure_value(run, group, best, column))) best = i;
    }
    return best;
}

double figure_sum(const LoggedRun *run, int column) {
    double sum = 0;
    for (int64_t i = 0; i < run->count[METRICS_TRAIN]; i++) sum += figure_value(run, METRICS_TRAIN, i, column);
    return sum;
}

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double figure_median_step_seconds(const LoggedRun *run) {
    const int64_t count = run->count[METRICS_TRAIN];
    double *seconds = count == 0 ? NULL : malloc((size_t)count * sizeof *seconds), median = NAN;
    if (seconds == NULL) return NAN;
    for (int64_t i = 0; i < count; i++) seconds[i] = run->rows[METRICS_TRAIN][i].step_seconds;
    qsort(seconds, (size_t)count, sizeof *seconds, compare_doubles);
    median = seconds[count / 2];
    free(seconds);
    return median;
}
