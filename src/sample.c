// `kto sample`, and the samples that training writes on its way: prompts from a file, answers by all ranks together.
#include "src/run.h"

#include "io/jsonl.h"
#include "src/base/memory.h"
#include "src/generate.h"
#include "src/stop.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const SampleOptions sample_defaults = {.adapters = true, .temperature = 1, .top_p = 1, .max_tokens = 256, .samples = 1};

// --- answers of all ranks -------------------------------------------------------------------------------------------

#define ANSWERS_PER_AGREEMENT 64 // of a rank: a request to stop is noticed after so many

typedef struct Question {
    TextOrMessages prompt;
    int32_t *ids, count;
} Question;

static void asked_free(Question *asked, int64_t count) {
    for (int64_t i = 0; asked != NULL && i < count; i++) {
        jsonl_prompt_free(&asked[i].prompt);
        free(asked[i].ids);
    }
    free(asked);
}

static Status read_prompts(const Run *run, const JsonlFile *file, Question *asked) {
    for (int64_t i = 0; i < file->line_count; i++) {
        TRY(jsonl_prompt(file, i, &asked[i].prompt));
        Status status =
            dataset_encode_prompt(&asked[i].prompt, run->tokenizer, run->chat, &asked[i].ids, &asked[i].count);
        if (status != STATUS_OK) return error_at(status, file->path, file->line_number[i]);
    }
    return STATUS_OK;
}

Status run_answer(Run *run, const GeneratePrompt *prompts, int32_t count, const SampleOptions *options, int32_t eos,
                  int32_t *lengths, int32_t *ids) {
    Comm *comm = run->comm;
    const int32_t mine = (count - comm->rank + comm->size - 1) / comm->size;
    const size_t width = (size_t)options->max_tokens;
    GeneratePrompt *asked = NULL;
    GenerateAnswer *answers = NULL;
    double *own = NULL, *all = NULL; // a record an answer: its length, then its tokens
    int *counts = NULL;
    Status status = MEMORY_ALLOC(asked, mine, "prompts");
    if (status == STATUS_OK) status = MEMORY_ALLOC(answers, mine, "answers");
    if (status == STATUS_OK) status = MEMORY_ALLOC(own, (size_t)mine * (1 + width), "answers");
    if (status == STATUS_OK) status = MEMORY_ALLOC(all, (size_t)count * (1 + width), "answers");
    if (status == STATUS_OK) status = MEMORY_ALLOC(counts, comm->size, "answers");
    if (status == STATUS_OK) {
        for (int32_t i = 0; i < mine; i++) asked[i] = prompts[comm->rank + i * comm->size];
        const GenerateOptions generate_options = {.adapters = options->adapters,
                                                  .greedy = options->greedy,
                                                  .temperature = options->temperature,
                                                  .top_p = options->top_p,
                                                  .top_k = (int32_t)options->top_k,
                                                  .max_tokens = (int32_t)options->max_tokens,
                                                  .seed = (uint64_t)options->seed,
                                                  .eos = eos};
        status = generate(&run->model, asked, mine, &generate_options, answers);
        for (int32_t i = 0; i < mine && status == STATUS_OK; i++) {
            double *to = own + (size_t)i * (1 + width);
            to[0] = answers[i].length;
            for (int32_t t = 0; t < answers[i].length; t++) to[1 + t] = answers[i].tokens[t];
        }
    }
    status = comm_agree(comm, status);
    if (status == STATUS_OK) {
        for (int r = 0; r < comm->size; r++) counts[r] = (count - r + comm->size - 1) / comm->size * (int)(1 + width);
        status = comm_gather(comm, own, all, counts);
    }
    const double *from = all;
    for (int r = 0; r < comm->size && status == STATUS_OK; r++)
        for (int32_t i = r; i < count; i += comm->size, from += 1 + width) {
            lengths[i] = (int32_t)from[0];
            for (int32_t t = 0; t < lengths[i]; t++) ids[(size_t)i * width + (size_t)t] = (int32_t)from[1 + t];
        }
    for (int32_t i = 0; answers != NULL && i < mine; i++) free(answers[i].tokens);
    free(asked);
    free(answers);
    free(own);
    free(all);
    free(counts);
    return status;
}

// Every rank gets lengths[total] and ids[total * max_tokens]. STATUS_STOPPED when the ranks were asked to stop.
static Status answer_all(Run *run, const Question *asked, int64_t total, const SampleOptions *options, int32_t *lengths,
                         int32_t *ids) {
    const int64_t piece = (int64_t)ANSWERS_PER_AGREEMENT * run->comm->size;
    GeneratePrompt *prompts = NULL;
    Status status = comm_agree(run->comm, MEMORY_ALLOC(prompts, piece, "prompts"));
    for (int64_t first = 0; first < total && status == STATUS_OK; first += piece) {
        unsigned said;
        status = stop_agree(run->comm, 0, &said);
        if (status == STATUS_OK && said & SAY_STOP) status = STATUS_STOPPED;
        const int32_t count = (int32_t)(total - first < piece ? total - first : piece);
        for (int32_t i = 0; i < count; i++) {
            const Question *from = &asked[(first + i) / options->samples];
            prompts[i] = (GeneratePrompt){from->ids, from->count, (uint32_t)(first + i)};
        }
        if (status == STATUS_OK)
            status = run_answer(run, prompts, count, options, tokenizer_eos(run->tokenizer), lengths + first,
                                ids + first * options->max_tokens);
    }
    free(prompts);
    return status;
}

static Status format_lines(const Run *run, const Question *asked, int64_t total, const SampleOptions *options,
                           const int32_t *lengths, const int32_t *ids, int64_t step, char **lines) {
    size_t size = 0;
    FILE *text = open_memstream(lines, &size);
    if (text == NULL) return error_set(STATUS_FAILED, "out of memory for samples");
    Status status = STATUS_OK;
    for (int64_t i = 0; i < total && status == STATUS_OK; i++) {
        char *answer = NULL, *line = NULL;
        status =
            tokenizer_decode(run->tokenizer, ids + (size_t)i * (size_t)options->max_tokens, lengths[i], true, &answer);
        if (status == STATUS_OK) {
            // A chat template opens the answer with a newline, which is not the model's words.
            const char *start =
                asked[i / options->samples].prompt.text == NULL && answer[0] == '\n' ? answer + 1 : answer;
            line = jsonl_sample_line(&asked[i / options->samples].prompt, start, step);
            if (line == NULL)
                status = error_set(STATUS_FAILED, "out of memory for samples");
            else
                fprintf(text, "%s\n", line);
        }
        free(answer);
        free(line);
    }
    if (fclose(text) != 0 && status == STATUS_OK) status = error_set(STATUS_FAILED, "out of memory for samples");
    return status;
}

Status sample_file(Run *run, const char *path, const SampleOptions *options, int64_t step, char **lines) {
    *lines = NULL;
    JsonlFile file = {0};
    Question *asked = NULL;
    int32_t *lengths = NULL, *ids = NULL;
    Status status = jsonl_open(&file, path);
    const int64_t total = file.line_count * options->samples;
    if (status == STATUS_OK) status = MEMORY_ALLOC(asked, file.line_count, "prompts");
    if (status == STATUS_OK) status = read_prompts(run, &file, asked);
    if (status == STATUS_OK) status = MEMORY_ALLOC(lengths, total, "answers");
    if (status == STATUS_OK) status = MEMORY_ALLOC(ids, total * options->max_tokens, "answers");
    status = comm_agree(run->comm, status);
    if (status == STATUS_OK) status = answer_all(run, asked, total, options, lengths, ids);
    if (status == STATUS_OK && run->comm->rank == 0)
        status = format_lines(run, asked, total, options, lengths, ids, step, lines);
    asked_free(asked, file.line_count);
    jsonl_close(&file);
    free(lengths);
    free(ids);
    return comm_agree(run->comm, status);
}

// --- the command ----------------------------------------------------------------------------------------------------

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
    Status status = run_open_tuned(&run, argv[0], arguments.options.adapters, NULL);
    char *lines = NULL;
    if (status == STATUS_OK) status = sample_file(&run, arguments.prompts, &arguments.options, -1, &lines);
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
