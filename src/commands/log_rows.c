// Rows in their three forms, and the loop that passes on what is new of runs that go on: files are looked at a few
// times a second, and nothing is locked. A resume that cuts rows, a run that waits for its first step and one that
// nobody trains are told on standard error.
#include "src/commands/log_rows.h"

#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/commands/logged_run.h"

#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { FOLLOW_FIRST_ROWS = 10, POLL_MILLISECONDS = 200 };

static const int followed[] = {METRICS_loss, METRICS_kl, METRICS_rewards_margins, METRICS_rewards_accuracies,
                               METRICS_tokens_per_second};

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
    const int *columns, chosen = log_columns(options, followed, LENGTH(followed), &columns);
    if (several) {
        log_print_name(from->run.name, LOG_NAME_CELLS);
        printf("  ");
    }
    printf("%-5s step %-6lld", metrics_group_names[group], (long long)row->step);
    for (int c = 0; c < chosen; c++) {
        const int column = columns[c];
        char text[32];
        if (column == METRICS_tokens_per_second)
            printf("  %.0f tokens/s", metrics_value(row, column));
        else
            printf("  %s %s", metrics_columns[column].name, log_number(metrics_value(row, column), text));
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
        if (!log_wants(options, g)) continue;
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
    return status == STATUS_OK ? log_end_output() : status;
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

Status log_rows(char **names, int count, const LogOptions *options) {
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
            status = log_refuse_empty(names[i]);
    }
    free(runs);
    return status == STATUS_OK ? log_end_output() : status;
}
