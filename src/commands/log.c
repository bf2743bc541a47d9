// `kto log`: what runs did, for people (tables and curves) and for programs (CSV, JSON lines), once or while they go
// on. It reads what logged_run.h gives and opens neither model nor rows.
#include "src/commands/commands.h"

#include "src/base/chart.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/base/text.h"
#include "src/commands/logged_run.h"
#include "src/setup/run.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { NAME_CELLS = 24, FOLLOW_FIRST_ROWS = 10, POLL_MILLISECONDS = 200, DIFFERENCES_MAX = 12, VALUE_CELLS = 24 };

typedef struct LogOptions {
    const char *metrics; // NULL: those that matter
    int group;           // MetricsGroup; -1: both
    bool follow, csv, json, ascii;
    int columns[METRICS_COLUMN_COUNT], column_count; // from `metrics`; 0: not given
} LogOptions;

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
static const int followed[] = {METRICS_loss, METRICS_kl, METRICS_rewards_margins, METRICS_rewards_accuracies,
                               METRICS_tokens_per_second};
#define LENGTH(array) ((int)(sizeof(array) / sizeof *(array)))

// --- the words of the command line ----------------------------------------------------------------------------------

static Status find_column(const char *name, int *out) {
    int best = 0, distance = 64;
    for (int c = METRICS_STEP_COLUMN + 1; c < METRICS_COLUMN_COUNT; c++) {
        const MetricsColumn *column = &metrics_columns[c];
        *out = c;
        if (strcmp(name, column->name) == 0 || strcmp(name, column->trl_name) == 0) return STATUS_OK;
        const int d = edit_distance(name, column->name);
        if (d < distance) {
            distance = d;
            best = c;
        }
    }
    return error_set(STATUS_USAGE, "--metric: there is no metric \"%s\"; did you mean %s?", name,
                     metrics_columns[best].name);
}

static Status choose_columns(LogOptions *options) {
    char *names = options->metrics == NULL ? NULL : strdup(options->metrics), *rest = names;
    Status status = STATUS_OK;
    for (char *name; status == STATUS_OK && (name = strsep(&rest, ",")) != NULL;) {
        int column = 0;
        bool known = false;
        status = find_column(name, &column);
        for (int i = 0; i < options->column_count; i++) known |= options->columns[i] == column;
        if (status == STATUS_OK && !known) options->columns[options->column_count++] = column;
    }
    free(names);
    return status;
}

static bool wants(const LogOptions *options, int group) {
    return options->group < 0 || options->group == group;
}

static Status end_output(void) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return STATUS_OK;
    return error_set(STATUS_FAILED, "standard output: %s", strerror(errno));
}

// --- small words ----------------------------------------------------------------------------------------------------

static const char *number_text(double value, char out[32]) {
    if (isnan(value)) return "-";
    snprintf(out, 32, fabs(value) >= 1e-2 && fabs(value) < 1e5 ? "%.4f" : value == 0 ? "%.0f" : "%.3e", value);
    return out;
}

static const char *steps_text(const LoggedRun *run, char out[64]) {
    const int64_t count = run->count[METRICS_TRAIN], total = logged_run_total_steps(run);
    const int64_t step = count == 0 ? 0 : run->rows[METRICS_TRAIN][count - 1].step;
    if (total > 0)
        snprintf(out, 64, "%lld/%lld", (long long)step, (long long)total);
    else
        snprintf(out, 64, "%lld", (long long)step);
    return out;
}

static double value_at(const LoggedRun *run, int group, int64_t i, int column) {
    return metrics_value(&run->rows[group][i], column);
}

static double last_value(const LoggedRun *run, int group, int column) {
    const int64_t count = run->count[group];
    return count == 0 ? NAN : value_at(run, group, count - 1, column);
}

// One batch says little; the last tenth of the steps says more.
static double tail_mean(const LoggedRun *run, int group, int column) {
    const int64_t count = run->count[group], tail = (count + 9) / 10;
    double sum = 0;
    int64_t numbers = 0;
    for (int64_t i = count - tail; i < count; i++) {
        const double value = value_at(run, group, i, column);
        if (!isfinite(value)) continue;
        sum += value;
        numbers++;
    }
    return numbers == 0 ? NAN : sum / (double)numbers;
}

// The row of the best value; -1: none.
static int64_t best_row(const LoggedRun *run, int group, int column, int better) {
    int64_t best = -1;
    for (int64_t i = 0; i < run->count[group]; i++) {
        const double value = value_at(run, group, i, column);
        if (isfinite(value) && (best < 0 || better * value > better * value_at(run, group, best, column))) best = i;
    }
    return best;
}

static int better_of(int column) {
    for (int i = 0; i < LENGTH(told); i++)
        if (told[i].column == column) return told[i].better;
    return 0;
}

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_step_seconds(const LoggedRun *run) {
    const int64_t count = run->count[METRICS_TRAIN];
    double *seconds = count == 0 ? NULL : malloc((size_t)count * sizeof *seconds), median = NAN;
    if (seconds == NULL) return NAN;
    for (int64_t i = 0; i < count; i++) seconds[i] = run->rows[METRICS_TRAIN][i].step_seconds;
    qsort(seconds, (size_t)count, sizeof *seconds, compare_doubles);
    median = seconds[count / 2];
    free(seconds);
    return median;
}

static double sum_of(const LoggedRun *run, int column) {
    double sum = 0;
    for (int64_t i = 0; i < run->count[METRICS_TRAIN]; i++) sum += value_at(run, METRICS_TRAIN, i, column);
    return sum;
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
           config->data.eval[0] != '\0' ? ", evaluated on " : "", config->data.eval, sum_of(run, METRICS_rows), unit,
           last_value(run, METRICS_TRAIN, METRICS_epoch));
}

static void tell_run(const LoggedRun *run) {
    char start[64] = "?", host[64];
    const time_t at = (time_t)run->about.start_time;
    struct tm utc;
    const double seconds = sum_of(run, METRICS_step_seconds), skipped = sum_of(run, METRICS_skipped);
    if (gmtime_r(&at, &utc) != NULL) strftime(start, sizeof start, "%Y-%m-%d %H:%M:%S UTC", &utc);
    snprintf(host, sizeof host, "%s", run->about.hosts);
    printf("%s\n", run->name);
    tell_state(run);
    tell_model(run);
    printf("  started   %s with kto %s (%s)\n", start, run->about.version, run->about.git_commit);
    printf("  on        %d rank%s, %s, host %s\n", run->about.ranks, run->about.ranks == 1 ? "" : "s",
           run->about.devices, host);
    printf("  speed     %.0f tokens/s, %.3g s a step (median)\n", logged_run_tokens(run) / seconds,
           median_step_seconds(run));
    printf("            communication %.1f %%, waiting %.1f %%, reference %.1f %% of the time\n",
           100 * sum_of(run, METRICS_comm_seconds) / seconds, 100 * sum_of(run, METRICS_wait_seconds) / seconds,
           100 * sum_of(run, METRICS_reference_seconds) / seconds);
    if (skipped > 0) printf("  skipped   %.0f steps, whose numbers were not finite\n", skipped);
}

static void tell_metric(const LoggedRun *run, int group, int column) {
    char first[32], best[32] = "", at[32] = "", last[32], tail[32] = "";
    if (run->count[group] == 0) return;
    const int better = better_of(column);
    const int64_t row = better == 0 ? -1 : best_row(run, group, column, better);
    if (row >= 0) {
        snprintf(best, sizeof best, "%s", number_text(value_at(run, group, row, column), at));
        snprintf(at, sizeof at, "%lld", (long long)run->rows[group][row].step);
    }
    const char *mean = group == METRICS_TRAIN ? number_text(tail_mean(run, group, column), tail) : "";
    printf("  %-20s %11s %11s %8s %11s%*s\n", metrics_columns[column].name,
           number_text(value_at(run, group, 0, column), first), best, row < 0 ? "" : at,
           number_text(last_value(run, group, column), last), *mean == '\0' ? 0 : 12, mean);
}

static void tell_metrics(const LoggedRun *run, const LogOptions *options) {
    for (int g = METRICS_TRAIN; g <= METRICS_EVAL; g++) {
        if (!wants(options, g) || run->count[g] == 0) continue;
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

// The end of a long name says which run it is.
static void print_name(const char *name, int cells) {
    const int length = (int)strlen(name);
    if (length > cells)
        printf("..%s", name + length - (cells - 2));
    else
        printf("%-*s", cells, name);
}

static int chosen_columns(const LogOptions *options, const int *others, int other_count, const int **out) {
    *out = options->column_count > 0 ? options->columns : others;
    return options->column_count > 0 ? options->column_count : other_count;
}

// Validation tells runs apart best, where all of them have it.
static int group_to_compare(const LoggedRun *runs, int count, const LogOptions *options, int64_t least) {
    if (options->group >= 0) return options->group;
    for (int i = 0; i < count; i++)
        if (runs[i].count[METRICS_TRAIN] > 0 && runs[i].count[METRICS_EVAL] < least) return METRICS_TRAIN;
    return METRICS_EVAL;
}

static void tell_table(const LoggedRun *runs, int count, const LogOptions *options, const ChartStyle *style) {
    const int *columns, chosen = chosen_columns(options, curves, LENGTH(curves), &columns);
    const int group = group_to_compare(runs, count, options, 1);
    printf("%s\n\n", group == METRICS_EVAL ? "last evaluation of each run"
                                           : "training: mean over the last tenth of the steps of each run");
    int cells = 0;
    for (int i = 0; i < count; i++) cells = (int)fmin(NAME_CELLS, fmax(cells, (double)strlen(runs[i].name)));
    printf("  %-*s %-8s %9s %8s", cells, "", "state", "steps", "tokens/s");
    for (int c = 0; c < chosen; c++) {
        const char *name = metrics_columns[columns[c]].name;
        printf(" %10s", strncmp(name, "rewards_", 8) == 0 ? name + 8 : name);
    }
    printf("\n");
    for (int i = 0; i < count; i++) {
        char steps[64], value[32], key[CHART_KEY_MAX];
        printf("%s ", chart_key(style, i, count, key));
        print_name(runs[i].name, cells);
        const bool empty = runs[i].count[METRICS_TRAIN] == 0 && runs[i].state == RUN_STOPPED;
        printf(" %-8s %9s", empty ? "no step" : logged_run_state(&runs[i]), steps_text(&runs[i], steps));
        if (runs[i].count[METRICS_TRAIN] == 0)
            printf(" %8s", "-");
        else
            printf(" %8.0f", logged_run_tokens(&runs[i]) / sum_of(&runs[i], METRICS_step_seconds));
        for (int c = 0; c < chosen; c++)
            printf(" %10s", number_text(group == METRICS_EVAL ? last_value(&runs[i], group, columns[c])
                                                              : tail_mean(&runs[i], group, columns[c]),
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
        (*values)[count + i] = value_at(run, group, i, column);
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
            if (!wants(options, g) || runs->count[g] == 0) continue;
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
    const int *columns, chosen = chosen_columns(options, curves, LENGTH(curves), &columns);
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

static Status refuse_empty(const char *name) {
    return error_set(STATUS_DATA, "%s: has no step in its log yet; kto log %s --follow waits for the first", name,
                     name);
}

static Status tell_all(const LoggedRun *runs, int count, const LogOptions *options) {
    const ChartStyle style = chart_style(stdout, options->ascii);
    bool any = false;
    for (int i = 0; i < count; i++) any |= runs[i].count[METRICS_TRAIN] > 0;
    if (!any) return refuse_empty(runs[0].name);
    if (count > 1) {
        tell_table(runs, count, options, &style);
        tell_differences(runs, count, &style);
    } else {
        tell_run(runs);
        tell_metrics(runs, options);
    }
    return tell_curves(runs, count, options, &style);
}

static Status summarize(char **names, int count, const LogOptions *options) {
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
    return status == STATUS_OK ? end_output() : status;
}

// --- for programs ---------------------------------------------------------------------------------------------------

static void print_csv_head(const LogOptions *options) {
    printf("run,group,step");
    for (int c = METRICS_STEP_COLUMN + 1; c < METRICS_COLUMN_COUNT && options->column_count == 0; c++)
        printf(",%s", metrics_columns[c].name);
    for (int i = 0; i < options->column_count; i++) printf(",%s", metrics_columns[options->columns[i]].name);
    printf("\n");
}

static void print_csv_number(double value) {
    if (isnan(value))
        printf(",");
    else
        printf(",%.17g", value);
}

// As RFC 4180 quotes.
static void print_csv_text(const char *text) {
    if (strpbrk(text, ",\"\r\n") == NULL) {
        printf("%s", text);
        return;
    }
    putchar('"');
    for (; *text != '\0'; text++) {
        if (*text == '"') putchar('"');
        putchar(*text);
    }
    putchar('"');
}

static void print_csv_row(const LogOptions *options, const char *name, int group, const MetricsRow *row) {
    print_csv_text(name);
    printf(",%s,%lld", metrics_group_names[group], (long long)row->step);
    for (int c = METRICS_STEP_COLUMN + 1; c < METRICS_COLUMN_COUNT && options->column_count == 0; c++)
        print_csv_number(metrics_value(row, c));
    for (int i = 0; i < options->column_count; i++) print_csv_number(metrics_value(row, options->columns[i]));
    printf("\n");
}

static Status print_json_row(const LogOptions *options, const char *name, int group, const MetricsRow *row) {
    json_t *object =
        json_pack("{s:s,s:s,s:I}", "run", name, "group", metrics_group_names[group], "step", (json_int_t)row->step);
    bool good = object != NULL;
    for (int i = 0; good && i < METRICS_COLUMN_COUNT; i++) {
        if (options->column_count > 0 ? i >= options->column_count : i == METRICS_STEP_COLUMN) continue;
        const int c = options->column_count > 0 ? options->columns[i] : i;
        const double value = metrics_value(row, c); // JSON has no NaN and no infinity
        good =
            json_object_set_new(object, metrics_columns[c].name, isfinite(value) ? json_real(value) : json_null()) == 0;
    }
    good = good && json_dumpf(object, stdout, JSON_PRESERVE_ORDER | JSON_COMPACT | JSON_REAL_PRECISION(17)) == 0;
    json_decref(object);
    if (!good) return error_set(STATUS_FAILED, "a row of %s cannot be written as JSON", name);
    printf("\n");
    return STATUS_OK;
}

// --- row by row -----------------------------------------------------------------------------------------------------

// A run whose rows are passed on as they come.
typedef struct Followed {
    LoggedRun run;
    int64_t seen[2]; // rows of each group
    bool there, ended, said_waiting, said_stopped;
} Followed;

static volatile sig_atomic_t interrupted;

static void interrupt(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}

static Status print_row(const LogOptions *options, const Followed *from, bool several, int group,
                        const MetricsRow *row) {
    if (options->csv) {
        print_csv_row(options, from->run.name, group, row);
        return STATUS_OK;
    }
    if (options->json) return print_json_row(options, from->run.name, group, row);
    const int *columns, chosen = chosen_columns(options, followed, LENGTH(followed), &columns);
    if (several) {
        print_name(from->run.name, NAME_CELLS);
        printf("  ");
    }
    printf("%-5s step %-6lld", metrics_group_names[group], (long long)row->step);
    for (int c = 0; c < chosen; c++) {
        const int column = columns[c];
        char text[32];
        if (column == METRICS_tokens_per_second)
            printf("  %.0f tokens/s", metrics_value(row, column));
        else
            printf("  %s %s", metrics_columns[column].name, number_text(metrics_value(row, column), text));
    }
    printf("\n");
    return STATUS_OK;
}

// A resume cuts the rows after its checkpoint.
static void note_cut(Followed *from, int group, int64_t missing) {
    from->seen[group] += missing;
    if (group == METRICS_TRAIN) log_info("%s: goes on after step %lld", from->run.name, (long long)from->seen[group]);
    from->said_stopped = false;
}

// New rows of both groups, an evaluation after the step it follows. `last`: of each group no more than so many.
static Status pass_on(const LogOptions *options, Followed *from, bool several, int64_t last) {
    MetricsRow *rows[2] = {NULL, NULL};
    int64_t count[2] = {0, 0}, at[2];
    Status status = STATUS_OK;
    for (int g = METRICS_TRAIN; g <= METRICS_EVAL && status == STATUS_OK; g++) {
        if (!wants(options, g)) continue;
        status = logged_run_rows(&from->run, (MetricsGroup)g, from->seen[g], &rows[g], &count[g]);
        if (count[g] < 0) {
            note_cut(from, g, count[g]);
            count[g] = 0;
        }
        from->seen[g] += count[g];
    }
    for (int g = METRICS_TRAIN; g <= METRICS_EVAL; g++) at[g] = count[g] > last ? count[g] - last : 0;
    while (status == STATUS_OK && (at[0] < count[0] || at[1] < count[1])) {
        const bool train = at[1] == count[1] || (at[0] < count[0] && rows[0][at[0]].step <= rows[1][at[1]].step);
        const int g = train ? METRICS_TRAIN : METRICS_EVAL;
        status = print_row(options, from, several, g, &rows[g][at[g]++]);
    }
    free(rows[0]);
    free(rows[1]);
    return status == STATUS_OK ? end_output() : status;
}

// Whether the run has come to its end is known before its rows are read: then they are all there.
static Status follow_once(const LogOptions *options, Followed *from, bool several, int64_t last) {
    if (!from->there) TRY(logged_run_find(&from->run, from->run.name, &from->there));
    if (!from->there) {
        if (!from->said_waiting) log_info("%s: waiting for its first step; Ctrl-C ends", from->run.name);
        from->said_waiting = true;
        return STATUS_OK;
    }
    const RunState before = from->run.state;
    TRY(pass_on(options, from, several, last));
    if (from->run.state == RUN_FINISHED && before == RUN_FINISHED) {
        from->ended = true;
        log_info("%s: finished", from->run.name);
    }
    if (from->run.state == RUN_GOING) from->said_stopped = false;
    if (from->run.state == RUN_STOPPED && before == RUN_STOPPED && !from->said_stopped) {
        log_info("%s: no process trains it; waiting until it goes on, Ctrl-C ends", from->run.name);
        from->said_stopped = true;
    }
    return STATUS_OK;
}

static Status follow_all(const LogOptions *options, Followed *runs, int count) {
    const struct sigaction action = {.sa_handler = interrupt};
    const struct timespec pause = {.tv_nsec = POLL_MILLISECONDS * 1000000L};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    for (bool first = true;; first = false) {
        int ended = 0;
        for (int i = 0; i < count; i++) {
            const int64_t last = first && !options->csv && !options->json ? FOLLOW_FIRST_ROWS : INT64_MAX;
            if (!runs[i].ended) TRY(follow_once(options, &runs[i], count > 1, last));
            ended += runs[i].ended;
        }
        if (ended == count || interrupted) return STATUS_OK;
        nanosleep(&pause, NULL);
        if (interrupted) return STATUS_OK;
    }
}

static Status row_by_row(char **names, int count, const LogOptions *options) {
    Followed *runs = NULL;
    TRY(MEMORY_ALLOC(runs, count, "the runs"));
    Status status = STATUS_OK;
    for (int i = 0; i < count && status == STATUS_OK; i++)
        status = logged_run_find(&runs[i].run, names[i], &runs[i].there);
    if (status == STATUS_OK && options->csv) print_csv_head(options);
    if (status == STATUS_OK && options->follow) status = follow_all(options, runs, count);
    for (int i = 0; i < count && status == STATUS_OK && !options->follow; i++) {
        if (runs[i].there) status = pass_on(options, &runs[i], count > 1, INT64_MAX);
        if (status == STATUS_OK && count == 1 && runs[i].seen[METRICS_TRAIN] + runs[i].seen[METRICS_EVAL] == 0)
            status = refuse_empty(names[i]);
    }
    free(runs);
    return status == STATUS_OK ? end_output() : status;
}

// --- the command ----------------------------------------------------------------------------------------------------

static Status run_command(Comm *comm, int argc, char **argv) {
    (void)comm;
    LogOptions options = {.group = -1};
    signal(SIGPIPE, SIG_DFL); // kto log ... | head
    TRY(command_parse(&command_log, &argc, argv, &options));
    TRY(choose_columns(&options));
    if (options.csv && options.json) return error_set(STATUS_USAGE, "--csv and --json are two forms; choose one");
    if (options.csv || options.json || options.follow) return row_by_row(argv, argc, &options);
    return summarize(argv, argc, &options);
}

#define AT(field) offsetof(LogOptions, field)
static const Flag flags[] = {
    {.name = "--metric",
     .value = "NAME,...",
     .kind = FLAG_TEXT,
     .offset = AT(metrics),
     .help = "these metrics only, by their names here or in TRL: loss,rewards/margins"},
    {.name = "--group",
     .value = "train|eval",
     .kind = FLAG_WORD,
     .offset = AT(group),
     .words = metrics_group_names,
     .help = "steps, or evaluations, only"},
    {.name = "--follow",
     .kind = FLAG_SWITCH,
     .offset = AT(follow),
     .help = "a line for each new row, until the run is finished"},
    {.name = "--csv",
     .kind = FLAG_SWITCH,
     .offset = AT(csv),
     .help = "all rows with every digit; empty where there is no number"},
    {.name = "--json",
     .kind = FLAG_SWITCH,
     .offset = AT(json),
     .help = "the same, a JSON object a line; null where there is no number"},
    {.name = "--ascii", .kind = FLAG_SWITCH, .offset = AT(ascii), .help = "curves without braille"},
    {0}};

const Command command_log = {
    .name = "log",
    .operands = "RUN_DIR [RUN_DIR ...]",
    .operands_min = 1,
    .operands_max = -1,
    .alone = true,
    .summary = "show what runs did: figures, curves, CSV, JSON; also while they go on",
    .text =
        "RUN_DIR is a run's train.output_dir, or a metrics.h5. Several are compared. \"last tenth\" is the mean over\n"
        "the last tenth of the steps. Nothing that is read here disturbs a run. docs/logs.md has the columns.",
    .examples = "kto log runs/first\n"
                "kto log runs/first runs/second --metric loss,rewards_margins --group eval\n"
                "kto log runs/first --follow\n"
                "kto log runs/* --csv >all.csv",
    .flags = flags,
    .run = run_command,
};
