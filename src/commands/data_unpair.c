// `kto data unpair`: pairs of answers to rows of one answer each.
#include "src/commands/commands.h"

#include "src/base/log.h"
#include "src/data/rows.h"

#include <stdlib.h>
#include <string.h>

typedef struct Arguments {
    const char *out;
    bool interleave, force;
} Arguments;

typedef enum Lists { CHOSEN = 1, REJECTED = 2 } Lists; // bits

// Writes what line `index` gives to the lists asked for; an unpaired line, which belongs to the first, as it stands.
static Status write_line(Output *out, const JsonlFile *file, int64_t index, unsigned lists, int64_t *unpaired) {
    JsonlRow row;
    size_t bytes;
    const char *line = data_line(file, index, &bytes);
    Status status = jsonl_row(file, index, &row);
    if (status == STATUS_OK && !row.paired) {
        if (lists & CHOSEN) {
            ++*unpaired;
            status = output_line(out, line, bytes);
        }
    } else {
        for (int which = 0; which < 2 && status == STATUS_OK; which++) {
            char *text = NULL;
            if (!(lists >> which & 1)) continue;
            status = data_unpair_line(line, bytes, which, &text);
            if (status == STATUS_OK) status = output_line(out, text, strlen(text));
            free(text);
        }
    }
    jsonl_row_free(&row);
    return status;
}

static Status run_command(Comm *comm, int argc, char **argv) {
    (void)comm;
    Arguments arguments = {0};
    JsonlFile file = {0};
    Output out = {0};
    int64_t unpaired = 0;
    TRY(command_parse(&command_data_unpair, &argc, argv, &arguments));
    TRY(jsonl_open(&file, argv[0]));
    Status status = output_open(&out, arguments.out, arguments.force);
    if (arguments.interleave) {
        for (int64_t i = 0; i < file.line_count && status == STATUS_OK; i++)
            status = write_line(&out, &file, i, CHOSEN | REJECTED, &unpaired);
    } else {
        for (int64_t i = 0; i < file.line_count && status == STATUS_OK; i++)
            status = write_line(&out, &file, i, CHOSEN, &unpaired);
        for (int64_t i = 0; i < file.line_count && status == STATUS_OK; i++)
            status = write_line(&out, &file, i, REJECTED, &unpaired);
    }
    status = output_close(&out, status);
    if (status == STATUS_OK) {
        log_info("%s: %lld rows of %lld pairs", arguments.out, (long long)out.lines,
                 (long long)(file.line_count - unpaired));
        if (unpaired > 0) log_info("%lld of them were unpaired already, and stay as they were", (long long)unpaired);
    }
    jsonl_close(&file);
    return status;
}

#define AT(field) offsetof(Arguments, field)
static const Flag flags[] = {
    {.name = "--out", .value = "FILE", .kind = FLAG_FILE, .required = true, .offset = AT(out), .help = "what to write"},
    {.name = "--interleave",
     .kind = FLAG_SWITCH,
     .offset = AT(interleave),
     .help = "the two answers of a pair one after the other, instead of all chosen ones first"},
    {.name = "--force", .kind = FLAG_SWITCH, .offset = AT(force), .help = "replace FILE if it is there"},
    {0}};

const Command command_data_unpair = {
    .name = "data unpair",
    .operands = "IN.jsonl",
    .operands_min = 1,
    .operands_max = 1,
    .alone = true,
    .summary = "turn pairs {prompt, chosen, rejected} into rows {prompt, completion, label}",
    .text = "In the order in which training reads pairs: all chosen answers, then all rejected ones. A weight and\n"
            "unknown fields go to both rows; rows that are unpaired already stay as they are.",
    .examples = "kto data unpair pairs.jsonl --out rows.jsonl",
    .flags = flags,
    .run = run_command,
};
