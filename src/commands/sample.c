// `kto sample`: answers to the prompts of a file.
#include "src/commands/commands.h"

#include "src/commands/sampling.h"
#include "src/setup/run.h"
#include "src/setup/tuned.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Arguments {
    const char *prompts;
    SampleOptions options;
    bool base;
} Arguments;

static Status run_command(Comm *comm, int argc, char **argv) {
    Arguments arguments = {.options = sample_defaults};
    TRY(comm_agree(comm, command_parse(&command_sample, &argc, argv, &arguments)));
    arguments.options.adapters = !arguments.base;
    Run run = {.comm = comm};
    Status status = tuned_open(&run, argv[0], arguments.options.adapters, NULL);
    const Answering who = run_answering(&run);
    char *lines = NULL;
    if (status == STATUS_OK) status = answer_file(&who, arguments.prompts, &arguments.options, -1, &lines);
    if (status == STATUS_OK && lines != NULL && (fputs(lines, stdout) < 0 || fflush(stdout) != 0))
        status = error_set(STATUS_FAILED, "standard output: cannot be written: %s", strerror(errno));
    free(lines);
    run_close(&run);
    return comm_agree(comm, status);
}

#define AT(field) offsetof(Arguments, field)
static const Flag flags[] = {
    {.name = "--prompts",
     .value = "FILE",
     .kind = FLAG_FILE,
     .required = true,
     .offset = AT(prompts),
     .help = "JSONL, {\"prompt\": text or messages} a line"},
    {.name = "--base", .kind = FLAG_SWITCH, .offset = AT(base), .help = "the base model: adapters off"},
    SAMPLING_FLAGS(Arguments, options),
    {.name = "--n",
     .value = "N",
     .kind = FLAG_WHOLE,
     .offset = AT(options.samples),
     .low = 1,
     .high = 1 << 20,
     .help = "answers a prompt (1)"},
    {0}};

const Command command_sample = {
    .name = "sample",
    .operands = "CONFIG|RUN_DIR",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "answer the prompts of a file, a JSON object a line on standard output",
    .text = "RUN_DIR takes the final adapter, or the newest checkpoint of a run that still goes on. The same seed "
            "gives the\n"
            "same answers on any number of ranks.",
    .examples = "kto sample runs/first --prompts ask.jsonl --temperature 0.7\n"
                "kto sample runs/first --prompts ask.jsonl --base --greedy",
    .flags = flags,
    .run = run_command,
};
