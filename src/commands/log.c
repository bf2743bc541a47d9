// `kto log`: what runs did, for people (tables and curves) and for programs (CSV, JSON lines), once or while they go
// on. The command's words; it opens neither model nor rows. What is printed is log_summary.c's and log_rows.c's.
#include "src/commands/commands.h"

#include "src/base/text.h"
#include "src/commands/log_rows.h"
#include "src/commands/log_summary.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

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

static Status run_command(Comm *comm, int argc, char **argv) {
    (void)comm;
    LogOptions options = {.group = -1};
    signal(SIGPIPE, SIG_DFL); // kto log ... | head
    TRY(command_parse(&command_log, &argc, argv, &options));
    TRY(choose_columns(&options));
    if (options.csv && options.json) return error_set(STATUS_USAGE, "--csv and --json are two forms; choose one");
    if (options.csv || options.json || options.follow) return log_rows(argv, argc, &options);
    return log_summary(argv, argc, &options);
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
