// `kto data review-pairs`: asks a model for a scathing and a kind review of each title and keeps the pairs that are
// well-formed. The command's flags, which model is asked, and what is said; the work is src/review/review_pairs.h's.
#include "src/commands/commands.h"

#include "comm/stop.h"
#include "io/files.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/commands/sampling.h"
#include "src/model/arch.h"
#include "src/review/review_pairs.h"
#include "src/setup/run.h"
#include "src/setup/tuned.h"

#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#define SECONDS_PER_MESSAGE 30

typedef struct Arguments {
    const char *model;
    ReviewPairsOptions pairs;
    bool base;
} Arguments;

// A model folder has no configuration: the defaults, and no adapter.
static Status open_model(Run *run, Arguments *arguments) {
    const char *model = arguments->model;
    char path[PATH_MAX];
    struct stat info;
    snprintf(path, sizeof path, "%s/config.cfg", model);
    if (file_exists(path) || stat(model, &info) != 0 || !S_ISDIR(info.st_mode))
        return tuned_open(run, model, arguments->pairs.sampling.adapters, NULL);
    char *const needed[] = {"model.path=.", "data.train=none", "train.output_dir=none"};
    Status status =
        strlen(model) < sizeof run->config.model.path
            ? config_parse(&run->config, arch_modules, "", "defaults", sizeof needed / sizeof *needed, needed)
            : error_set(STATUS_USAGE, "%s: the path is too long", model);
    TRY(comm_agree(run->comm, status));
    snprintf(run->config.model.path, sizeof run->config.model.path, "%s", model);
    run->config.lora.r = 0;
    arguments->pairs.sampling.adapters = false;
    return run_open(run, RUN_MODEL, 0);
}

static void say_progress(const ReviewPairs *pairs, double *last) {
    char line[128];
    snprintf(line, sizeof line, "title %lld of %lld: %lld pairs", (long long)pairs->head, (long long)pairs->count,
             (long long)pairs->found);
    log_progress(line);
    if (log_is_terminal() || clock_seconds() - *last < SECONDS_PER_MESSAGE) return;
    log_info("%s", line);
    *last = clock_seconds();
}

static void say_figures(const ReviewPairs *pairs) {
    char faults[512] = "";
    size_t used = 0;
    int64_t answers = 0;
    for (int i = 0; i < REVIEW_FAULTS; i++) {
        answers += pairs->faults[i];
        if (pairs->faults[i] > 0)
            used += (size_t)snprintf(faults + used, sizeof faults - used, "%s%lld %s", used == 0 ? "" : ", ",
                                     (long long)pairs->faults[i], review_fault_names[i]);
    }
    const int64_t titles = pairs->head > pairs->written ? pairs->head - pairs->written : 0;
    log_info("%-8s %lld, of which %lld gave a pair", "titles", (long long)titles, (long long)pairs->found);
    if (answers > 0) log_info("%-8s %lld: %s", "answers", (long long)answers, faults);
    if (pairs->too_long > 0)
        log_warning("%lld titles were not asked about: with the templates they fill the model's %d positions",
                    (long long)pairs->too_long, pairs->run->model.options.max_positions);
    if (pairs->found == 0 && answers > 0)
        log_warning("no answer pair was well-formed; ask another model, or with other templates (docs/data.md)");
}

static Status run_rounds(ReviewPairs *pairs) {
    double last = clock_seconds();
    while (pairs->head < pairs->count) {
        unsigned said;
        TRY(stop_agree(pairs->run->comm, 0, &said));
        if (said & SAY_STOP) {
            say_figures(pairs);
            log_info("%-8s on request at title %lld of %lld; the same command goes on from there", "stopped",
                     (long long)pairs->head, (long long)pairs->count);
            return STATUS_STOPPED;
        }
        TRY(review_pairs_round(pairs));
        say_progress(pairs, &last);
    }
    say_figures(pairs);
    return STATUS_OK;
}

static Status make_pairs(Run *run, const ReviewPairsOptions *options, const char *titles) {
    ReviewPairs pairs;
    Status status = review_pairs_open(&pairs, run, options, titles);
    if (status == STATUS_OK) status = run_rounds(&pairs);
    review_pairs_close(&pairs);
    return status;
}

static Status check_arguments(const ReviewPairsOptions *options) {
    const ReviewLimits *limits = &options->limits;
    if (limits->min_words > limits->max_words)
        return error_set(STATUS_USAGE, "--min-words %lld is above --max-words %lld: no review fits",
                         (long long)limits->min_words, (long long)limits->max_words);
    if (options->unpaired != NULL && strcmp(options->paired, options->unpaired) == 0)
        return error_set(STATUS_USAGE, "%s: is both --paired and --unpaired; name two files", options->paired);
    return STATUS_OK;
}

static Status run_command(Comm *comm, int argc, char **argv) {
    Arguments arguments = {
        .pairs = {.tries = 4, .limits = {.min_words = 4, .max_words = 60}, .sampling = sample_defaults}};
    Run run = {.comm = comm};
    TRY(comm_agree(comm, command_parse(&command_data_review_pairs, &argc, argv, &arguments)));
    TRY(comm_agree(comm, check_arguments(&arguments.pairs)));
    arguments.pairs.sampling.adapters = !arguments.base;
    Status status = open_model(&run, &arguments);
    if (status == STATUS_OK) status = make_pairs(&run, &arguments.pairs, argv[0]);
    run_close(&run);
    return status == STATUS_STOPPED ? status : comm_agree(comm, status);
}

#define AT(field) offsetof(Arguments, field)
static const Flag flags[] = {
    {.name = "--model",
     .value = "MODEL",
     .kind = FLAG_FILE,
     .required = true,
     .offset = AT(model),
     .help = "who reviews: a model folder, CONFIG or RUN_DIR"},
    {.name = "--paired",
     .value = "FILE",
     .kind = FLAG_FILE,
     .required = true,
     .offset = AT(pairs.paired),
     .help = "gets {prompt, chosen: scathing, rejected: kind}; goes on where it ends"},
    {.name = "--unpaired",
     .value = "FILE",
     .kind = FLAG_FILE,
     .offset = AT(pairs.unpaired),
     .help = "gets the same as {prompt, completion, label}, two rows a title"},
    {.name = "--templates",
     .value = "DIR",
     .kind = FLAG_FOLDER,
     .offset = AT(pairs.templates),
     .help = "ask-scathing.txt, ask-kind.txt and plain.txt (those of configs/review-pairs)"},
    {.name = "--tries",
     .value = "N",
     .kind = FLAG_WHOLE,
     .offset = AT(pairs.tries),
     .low = 1,
     .high = REVIEW_TRIES_MAX,
     .help = "answers a title and kind, until one is well-formed (4)"},
    {.name = "--min-words",
     .value = "N",
     .kind = FLAG_WHOLE,
     .offset = AT(pairs.limits.min_words),
     .low = 1,
     .high = 100000,
     .help = "of a review (4)"},
    {.name = "--max-words",
     .value = "N",
     .kind = FLAG_WHOLE,
     .offset = AT(pairs.limits.max_words),
     .low = 1,
     .high = 100000,
     .help = "of a review (60)"},
    {.name = "--base", .kind = FLAG_SWITCH, .offset = AT(base), .help = "the base model of a CONFIG: adapters off"},
    SAMPLING_FLAGS(Arguments, pairs.sampling),
    {0}};

const Command command_data_review_pairs = {
    .name = "data review-pairs",
    .operands = "TITLES",
    .operands_min = 1,
    .operands_max = 1,
    .stops_on_request = true,
    .summary = "ask a model for scathing and kind reviews of titles, and make rows of them",
    .text = "TITLES has a title a line, plain or {\"title\"}. Of the answers, single well-formed sentences are kept\n"
            "(docs/data.md has the rules). Stopped or killed, the same command goes on where it was. The same seed\n"
            "gives the same rows on the same number of ranks.",
    .examples = "kto data review-pairs titles.txt --model models/TinyLlama-1.1B-Chat-v1.0 --paired pairs.jsonl "
                "--unpaired rows.jsonl\n"
                "mpirun -n 2 kto data review-pairs titles.jsonl --model run.cfg --base --paired pairs.jsonl --tries 8",
    .flags = flags,
    .run = run_command,
};
