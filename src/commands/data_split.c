// `kto data split`: a file of rows into one to train on and one to evaluate on, with no prompt in both.
#include "src/commands/commands.h"

#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/data/rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SHARE_DEFAULT 0.1

typedef struct Arguments {
    const char *train, *eval;
    double share; // 0: not given
    int64_t count, seed;
    bool force;
} Arguments;

static Status hash_prompts(const JsonlFile *file, uint64_t *prompt) {
    Status status = STATUS_OK;
    for (int64_t i = 0; i < file->line_count && status == STATUS_OK; i++) {
        JsonlRow row;
        status = jsonl_row(file, i, &row);
        if (status == STATUS_OK) prompt[i] = data_hash(0, &row.prompt);
        jsonl_row_free(&row);
    }
    return status;
}

static Status choose(const JsonlFile *file, const Arguments *arguments, bool *eval) {
    uint64_t *prompt = NULL;
    int64_t chosen = 0;
    const double share = arguments->share > 0 ? arguments->share : SHARE_DEFAULT;
    int64_t wanted = arguments->count > 0 ? arguments->count : llround(share * (double)file->line_count);
    if (wanted < 1) wanted = 1;
    TRY(MEMORY_ALLOC(prompt, file->line_count, "prompts"));
    Status status = hash_prompts(file, prompt);
    if (status == STATUS_OK)
        status = data_split_choose(prompt, file->line_count, wanted, (uint64_t)arguments->seed, eval, &chosen);
    free(prompt);
    TRY(status);
    if (chosen == file->line_count)
        return error_set(STATUS_USAGE,
                         "%s: %lld of its %lld lines for --eval leave nothing to train on (lines of one prompt stay "
                         "together); ask for fewer",
                         file->path, (long long)wanted, (long long)file->line_count);
    if (chosen != wanted)
        log_info("%lld lines asked for, %lld taken: lines of one prompt stay together", (long long)wanted,
                 (long long)chosen);
    return STATUS_OK;
}

static Status run_command(Comm *comm, int argc, char **argv) {
    (void)comm;
    Arguments arguments = {0};
    JsonlFile file = {0};
    Output out[2] = {{0}};
    bool *eval = NULL;
    TRY(command_parse(&command_data_split, &argc, argv, &arguments));
    if (arguments.share > 0 && arguments.count > 0)
        return error_set(STATUS_USAGE, "--share and --count both say how much goes to --eval; give one of them");
    if (strcmp(arguments.train, arguments.eval) == 0)
        return error_set(STATUS_USAGE, "%s: is both --train and --eval; name two files", arguments.train);
    TRY(jsonl_open(&file, argv[0]));
    Status status = output_open(&out[0], arguments.train, arguments.force);
    if (status == STATUS_OK) status = output_open(&out[1], arguments.eval, arguments.force);
    if (status == STATUS_OK) status = MEMORY_ALLOC(eval, file.line_count, "lines");
    if (status == STATUS_OK) status = choose(&file, &arguments, eval);
    for (int64_t i = 0; i < file.line_count && status == STATUS_OK; i++) {
        size_t bytes;
        const char *line = data_line(&file, i, &bytes);
        status = output_line(&out[eval[i]], line, bytes);
    }
    status = output_close(&out[0], status);
    status = output_close(&out[1], status);
    if (status == STATUS_OK)
        for (int i = 0; i < 2; i++) log_info("%s: %lld lines", out[i].path, (long long)out[i].lines);
    free(eval);
    jsonl_close(&file);
    return status;
}

#define AT(field) offsetof(Arguments, field)
static const Flag flags[] = {
    {.name = "--train",
     .value = "FILE",
     .kind = FLAG_FILE,
     .required = true,
     .offset = AT(train),
     .help = "gets the rows to train on"},
    {.name = "--eval",
     .value = "FILE",
     .kind = FLAG_FILE,
     .required = true,
     .offset = AT(eval),
     .help = "gets the rows to evaluate on"},
    {.name = "--share",
     .value = "P",
     .kind = FLAG_REAL,
     .offset = AT(share),
     .high = 1,
     .help = "share of the lines for --eval (0.1)"},
    {.name = "--count",
     .value = "N",
     .kind = FLAG_WHOLE,
     .offset = AT(count),
     .low = 1,
     .high = INT32_MAX,
     .help = "lines for --eval, instead of a share"},
    {.name = "--seed",
     .value = "S",
     .kind = FLAG_WHOLE,
     .offset = AT(seed),
     .high = 9007199254740992.0,
     .help = "of the draw (0)"},
    {.name = "--force", .kind = FLAG_SWITCH, .offset = AT(force), .help = "replace the files if they are there"},
    {0}};

const Command command_data_split = {
    .name = "data split",
    .operands = "IN.jsonl",
    .operands_min = 1,
    .operands_max = 1,
    .alone = true,
    .summary = "divide rows into training and evaluation, no prompt in both",
    .text = "Whole prompts are drawn by the seed until the evaluation has its lines. Lines are copied byte for byte,\n"
            "in their order; the same seed gives the same files.",
    .examples = "kto data split rows.jsonl --train train.jsonl --eval eval.jsonl --share 0.05\n"
                "kto data split pairs.jsonl --train train.jsonl --eval eval.jsonl --count 200 --seed 7",
    .flags = flags,
    .run = run_command,
};
