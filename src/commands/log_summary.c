// Tables and curves of `kto log`, in the order in which they are printed. Everything is read once, by logged_run.h; the
// tables below say what is shown unless --metric says it.
#include "src/commands/log_summary.h"

#include "src/base/chart.h"
#include "src/base/memory.h"
#include "src/base/text.h"
#include "src/commands/log_figures.h"
#include "src/commands/logged_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DIFFERENCES_MAX = 12, VALUE_CELLS = 24 };

// What a summary tells, unless it is told what to tell, and which end of it is better.
typedef struct Told {
    int column, better; // -1 lower, +1 higher, 0 neither
} Told;
static const Told told[] = {
    {METRICS_loss, -1},          {METRICS_rewards_margins, 1},  {METRICS_rewards_accuracies, 1},
    {METRICS_rewards_chosen, 1}, {METRICS_rewards_rejected, 0}, {METRICS_kl, 0},
    {METRICS_entropy, 0},        {METRICS_logps_chosen, 0},     {METRICS_logps_rejected, 0},
    {METRICS_grad_norm, 0},      {METRICS_learning_rate, 0},
};
static const int curves[] = {METRICS_loss, METRICS_rewards_margins, METRICS_rewards_accuracies, METRICS_kl};

static const char *steps_text(const LoggedRun *run, char out[64]) {
    const int64_t count = run->count[METRICS_TRAIN], total = logged_run_total_steps(run);
    const int64_t step = count == 0 ? 0 : run->rows[METRICS_TRAIN][count - 1].step;
    if (total > 0)
        snprintf(out, 64, "%lld/%lld", (long long)step, (long long)total);
    else
        snprintf(out, 64, "%lld", (long long)step);
    return out;
}

static int better_of(int column) {
    for (int i = 0; i < LENGTH(told); i++)
        if (told[i].column == column) return told[i].better;
    return 0;
}

// --- one run --------------------------------------------------------------------------------------------------------

static void tell_state(const LoggedRun *run) {
    char steps[64], time[32];
    const int64_t count = run->count[METRICS_TRAIN], step = run->rows[METRICS_TRAIN][count - 1].step;
    const double seconds = logged_run_seconds(run);
    switch (run->state) {
    case RUN_FINISHED:
        printf("  state     finished: %lld steps in %s\n", (long long)step, duration_text(seconds, time));
        return;
    case RUN_STOPPED:
        printf("  state     stopped at step %s after %s; the same command goes on\n", steps_text(run, steps),
               duration_text(seconds, time));
        return;
    case RUN_GOING:
        printf("  state     going on: step %s after %s", steps_text(run, steps), duration_text(seconds, time));
        const int64_t left = logged_run_total_steps(run) - step;
        if (left > 0) printf(", about %s left", duration_text(seconds / (double)count * (double)left, time));
        printf("\n");
        return;
    }
}

static void tell_model(const LoggedRun *run) {
    const Config *config = &run->config;
    const char *unit = loss_takes_pairs((LossType)config->kto.loss_type) ? "pairs" : "rows";
    if (!run->has_config) return;
    printf("  model     %s, %s; LoRA r %lld, alpha %g\n", config->model.path, config_word(config, "model.dtype"),
           (long long)config->lora.r, config->lora.alpha);
    printf("  loss      %s, beta %g; learning rate %g, %lld %s a step\n", config_word(config, "kto.loss_type"),
           config->kto.beta, config->train.learning_rate, (long long)config->train.global_batch_size, unit);
    printf("  rows      %s%s%s; %.0f %s seen in %.2f epochs\n", config->data.train,
           config->data.eval[0] != '\0' ? ", evaluated on " : "", config->data.eval, figure_sum(run, METRICS_rows),
           unit, figure_last(run, METRICS_TRAIN, METRICS_epoch));
}

static void tell_run(const LoggedRun *run) {
    char start[64] = "?", host[64];
    const time_t at = (time_t)run->about.start_time;
    struct tm utc;
    const double seconds = figure_sum(run, METRICS_step_seconds), skipped = figure_sum(run, METRICS_skipped);
    if (gmtime_r(&at, &utc) != NULL) strftime(start, sizeof start, "%Y-%m-%d %H:%M:%S UTC", &utc);
    snprintf(host, sizeof host, "%s", run->about.hosts);
    printf("%s\n", run->name);
    tell_state(run);
    tell_model(run);
    printf("  started   %s with kto %s (%s)\n", start, run->about.version, run->about.git_commit);
    printf("  on        %d rank%s, %s, host %s\n", run->about.ranks, run->about.ranks == 1 ? "" : "s",
           run->about.devices, host);
    printf("  speed     %.0f tokens/s, %.3g s a step (median)\n", logged_run_tokens(run) / seconds,
           figure_median_step_seconds(run));
    printf("            communication %.1f %%, waiting %.1f %%, reference %.1f %% of the time\n",
           100 * figure_sum(run, METRICS_comm_seconds) / seconds, 100 * figure_sum(run, METRICS_wait_seconds) / seconds,
           100 * figure_sum(run, METRICS_reference_seconds) / seconds);
    if (skipped > 0) printf("  skipped   %.0f steps, whose numbers were not finite\n", skipped);
}

static void tell_metric(const LoggedRun *run, int group, int column) {
    char first[32], best[32] = "", at[32] = "", last[32], tail[32] = "";
    if (run->count[group] == 0) return;
    const int better = better_of(column);
    const int64_t row = better == 0 ? -1 : figure_best_row(run, group, column, better);
    if (row >= 0) {
        snprintf(best, sizeof best, "%s", log_number(figure_value(run, group, row, column), at));
        snprintf(at, sizeof at, "%lld", (long long)run->rows[group][row].step);
    }
    const char *mean = group == METRICS_TRAIN ? log_number(figure_tail_mean(run, group, column), tail) : "";
    printf("  %-20s %11s %11s %8s %11s%*s\n", metrics_columns[column].name,
           log_number(figure_value(run, group, 0, column), first), best, row < 0 ? "" : at,
           log_number(figure_last(run, group, column), last), *mean == '\0' ? 0 : 12, mean);
}

static void tell_metrics(const LoggedRun *run, const LogOptions *options) {
    for (int g = METRICS_TRAIN; g <= METRICS_EVAL; g++) {
        if (!log_wants(options, g) || run->count[g] == 0) continue;
        printf("\n  %-20s %11s %11s %8s %11s%s\n", metrics_group_names[g], "first", "best", "at step", "last",
               g == METRICS_TRAIN ? "  last tenth" : "");
        if (options->column_count > 0)
            for (int i = 0; i < options->column_count; i++) tell_metric(run, g, options->columns[i]);
        else
            for (int i = 0; i < LENGTH(told); i++)
                if (g == METRICS_TRAIN || told[i].column < METRICS_grad_norm || told[i].column > METRICS_learning_rate)
                    tell_metric(run, g, told[i].column);
    }
}

// --- several runs ---------------------------------------------------------------------------------------------------

// Validation tells runs apart best, where all of them have it.
static int group_to_compare(const LoggedRun *runs, int count, const LogOptions *options, int64_t least) {
    if (options->group >= 0) return options->group;
    for (int i = 0; i < count; i++)
        if (runs[i].count[METRICS_TRAIN] > 0 && runs[i].count[METRICS_EVAL] < least) return METRICS_TRAIN;
    return METRICS_EVAL;
}

static void tell_table(const LoggedRun *runs, int count, const LogOptions *options, const ChartStyle *style) {
    const int *columns, chosen = log_columns(options, curves, LENGTH(curves), &columns);
    const int group = group_to_compare(runs, count, options, 1);
    printf("%s\n\n", group == METRICS_EVAL ? "last evaluation of each run"
                                           : "training: mean over the last tenth of the steps of each run");
    int cells = 0;
    for (int i = 0; i < count; i++) cells = (int)fmin(LOG_NAME_CELLS, fmax(cells, (double)strlen(runs[i].name)));
    printf("  %-*s %-8s %9s %8s", cells, "", "state", "steps", "tokens/s");
    for (int c = 0; c < chosen; c++) {
        const char *name = metrics_columns[columns[c]].name;
        printf(" %10s", strncmp(name, "rewards_", 8) == 0 ? name + 8 : name);
    }
    printf("\n");
    for (int i = 0; i < count; i++) {
        char steps[64], value[32], key[CHART_KEY_MAX];
        printf("%s ", chart_key(style, i, count, key));
        log_print_name(runs[i].name, cells);
        const bool empty = runs[i].count[METRICS_TRAIN] == 0 && runs[i].state == RUN_STOPPED;
        printf(" %-8s %9s", empty ? "no step" : logged_run_state(&runs[i]), steps_text(&runs[i], steps));
        if (runs[i].count[METRICS_TRAIN] == 0)
            printf(" %8s", "-");
        else
            printf(" %8.0f", logged_run_tokens(&runs[i]) / figure_sum(&runs[i], METRICS_step_seconds));
        for (int c = 0; c < chosen; c++)
            printf(" %10s", log_number(group == METRICS_EVAL ? figure_last(&runs[i], group, columns[c])
                                                             : figure_tail_mean(&runs[i], group, columns[c]),
                                       value));
        printf("\n");
    }
}

// Line `index` of a configuration's text (NULL: of a run without a log) as "group.key" and value; false after the last.
static bool config_line(const char *text, int index, char key[128], char value[256]) {
    char group[64] = "", line[2 * CONFIG_TEXT_MAX];
    for (; text != NULL && *text != '\0'; text += strcspn(text, "\n"), text += *text == '\n') {
        snprintf(line, sizeof line, "%.*s", (int)strcspn(text, "\n"), text);
        char *equals = strstr(line, " = "), *start = line + strspn(line, " ");
        if (equals == NULL && strstr(line, ": {") != NULL)
            snprintf(group, sizeof group, "%.*s", (int)strcspn(line, ":"), line);
        if (equals == NULL || index-- > 0) continue;
        *equals = '\0';
        snprintf(key, 128, "%s.%.60s", group, start);
        snprintf(value, 256, "%.*s", (int)strcspn(equals + 3, ";"), equals + 3);
        return true;
    }
    return false;
}

// The keys whose values are not the same in all runs; those of runs of another version, with other keys, are left out.
static void tell_differences(const LoggedRun *runs, int count, const ChartStyle *style) {
    char key[128], first[256], other_key[128], other[256], mark[CHART_KEY_MAX];
    int told_so_far = 0, with_log = 0;
    while (with_log < count - 1 && runs[with_log].about.config == NULL) with_log++;
    for (int k = 0; config_line(runs[with_log].about.config, k, key, first); k++) {
        bool same = true;
        for (int i = 0; i < count; i++)
            if (config_line(runs[i].about.config, k, other_key, other) && strcmp(key, other_key) == 0)
                same = same && strcmp(first, other) == 0;
        if (same || strcmp(key, "train.output_dir") == 0 || strcmp(key, "data.reference_cache") == 0) continue;
        if (told_so_far++ == DIFFERENCES_MAX) {
            printf("  ...\n");
            return;
        }
        printf("%s  %s:", told_so_far == 1 ? "\n" : "", key);
        for (int i = 0; i < count; i++)
            if (config_line(runs[i].about.config, k, other_key, other) && strcmp(key, other_key) == 0)
                printf("   %s %.*s", chart_key(style, i, count, mark), VALUE_CELLS, other);
        printf("\n");
    }
}

// --- curves ---------------------------------------------------------------------------------------------------------

// x and y of each series, one after the other in *values, which the caller frees.
static Status fill_series(const LoggedRun *run, int group, int column, ChartSeries *out, double **values) {
    const int64_t count = run->count[group];
    TRY(MEMORY_ALLOC(*values, 2 * count, "a curve"));
    for (int64_t i = 0; i < count; i++) {
        (*values)[i] = (double)run->rows[group][i].step;
        (*values)[count + i] = figure_value(run, group, i, column);
    }
    out->x = *values;
    out->y = *values + count;
    out->count = count;
    return STATUS_OK;
}

// series[]: one of each run, or of a single one its groups.
static Status fill_chart(const LoggedRun *runs, int count, int column, const LogOptions *options, ChartSeries *series,
                         double **values, Chart *out, char title[64]) {
    const int group = group_to_compare(runs, count, options, 2);
    int used = 0;
    if (count > 1) {
        for (; used < count; used++) // also of one without rows: its place is its colour
            TRY(fill_series(&runs[used], group, column, &series[used], &values[used]));
        snprintf(title, 64, "%s (%s)", metrics_columns[column].name, metrics_group_names[group]);
    } else {
        for (int g = METRICS_TRAIN; g <= METRICS_EVAL; g++) {
            if (!log_wants(options, g) || runs->count[g] == 0) continue;
            series[used] = (ChartSeries){.name = metrics_group_names[g]};
            series[used].form = g == METRICS_TRAIN ? CHART_LINE : used == 0 ? CHART_LINE_POINTS : CHART_POINTS;
            TRY(fill_series(runs, g, column, &series[used], &values[used]));
            used++;
        }
        snprintf(title, 64, "%s", metrics_columns[column].name);
    }
    *out = (Chart){.title = title, .series = series, .count = used};
    return STATUS_OK;
}

static Status tell_curves(const LoggedRun *runs, int count, const LogOptions *options, const ChartStyle *style) {
    const int *columns, chosen = log_columns(options, curves, LENGTH(curves), &columns);
    const int room = count > 2 ? count : 2; // series of a chart
    Chart charts[METRICS_COLUMN_COUNT];
    char titles[METRICS_COLUMN_COUNT][64];
    ChartSeries *series = NULL;
    double **values = NULL;
    Status status = STATUS_OK;
    TRY_GOTO(MEMORY_ALLOC(series, chosen * room, "curves"), done);
    TRY_GOTO(MEMORY_ALLOC(values, chosen * room, "curves"), done);
    for (int c = 0; c < chosen; c++)
        TRY_GOTO(
            fill_chart(runs, count, columns[c], options, series + c * room, values + c * room, &charts[c], titles[c]),
            done);
    printf("\n");
    status = chart_draw(charts, chosen, style, stdout);
done:
    for (int i = 0; values != NULL && i < chosen * room; i++) free(values[i]);
    free(values);
    free(series);
    return status;
}

// --- for people -----------------------------------------------------------------------------------------------------

static Status tell_all(const LoggedRun *runs, int count, const LogOptions *options) {
    const ChartStyle style = chart_style(stdout, options->ascii);
    bool any = false;
    for (int i = 0; i < count; i++) any |= runs[i].count[METRICS_TRAIN] > 0;
    if (!any) return log_refuse_empty(runs[0].name);
    if (count > 1) {
        tell_table(runs, count, options, &style);
        tell_differences(runs, count, &style);
    } else {
        tell_run(runs);
        tell_metrics(runs, options);
    }
    return tell_curves(runs, count, options, &style);
}

Status log_summary(char **names, int count, const LogOptions *options) {
    LoggedRun *runs = NULL;
    TRY(MEMORY_ALLOC(runs, count, "the runs"));
    Status status = STATUS_OK;
    for (int i = 0; i < count && status == STATUS_OK; i++) {
        bool there;
        status = logged_run_find(&runs[i], names[i], &there);
        if (status == STATUS_OK && there) status = logged_run_read(&runs[i]);
    }
    if (status == STATUS_OK) status = tell_all(runs, count, options);
    for (int i = 0; i < count; i++) logged_run_free(&runs[i]);
    free(runs);
    return status == STATUS_OK ? log_end_output() : status;
}
