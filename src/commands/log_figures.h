// Figures of a run's rows: single values, means, sums and the best, by METRICS_TRAIN or METRICS_EVAL and column. A
// number that is missing is a NaN. How they are written and which of them are shown is left to log_summary.c.
#pragma once
#include "src/commands/logged_run.h"

double figure_value(const LoggedRun *run, int group, int64_t i, int column); // of row i
double figure_last(const LoggedRun *run, int group, int column);             // NaN without rows
// Over the last tenth of the rows, of the finite ones: one batch says little.
double figure_tail_mean(const LoggedRun *run, int group, int column);
// The row of the least (better -1) or largest (+1) finite value; -1: none.
int64_t figure_best_row(const LoggedRun *run, int group, int column, int better);
double figure_sum(const LoggedRun *run, int column); // over the steps
double figure_median_step_seconds(const LoggedRun *run);
