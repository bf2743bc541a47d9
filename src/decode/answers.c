#include "src/decode/answers.h"

#include "comm/stop.h"
#include "io/jsonl.h"
#include "src/base/memory.h"
#include "src/data/dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const SampleOptions sample_defaults = {.adapters = true, .temperature = 1, .top_p = 1, .max_tokens = 256, .samples = 1};

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

static Status read_prompts(const Answering *who, const JsonlFile *file, Question *asked) {
    for (int64_t i = 0; i < file->line_count; i++) {
        TRY(jsonl_prompt(file, i, &asked[i].prompt));
        Status status =
            dataset_encode_prompt(&asked[i].prompt, who->tokenizer, who->chat, &asked[i].ids, &asked[i].count);
        if (status != STATUS_OK) return error_at(status, file->path, file->line_number[i]);
    }
    return STATUS_OK;
}

// This rank's answers as records: the length, then the tokens, in room for the longest.
static Status answer_own(const Answering *who, const GeneratePrompt *prompts, int32_t mine,
                         const SampleOptions *options, const EndTokens *ends, int32_t *records) {
    const size_t record = 1 + (size_t)options->max_tokens;
    const Comm *comm = who->comm;
    GeneratePrompt *asked = NULL;
    GenerateAnswer *answers = NULL;
    Status status = MEMORY_ALLOC(asked, mine, "prompts");
    if (status == STATUS_OK) status = MEMORY_ALLOC(answers, mine, "answers");
    if (status == STATUS_OK) {
        for (int32_t i = 0; i < mine; i++) asked[i] = prompts[comm->rank + i * comm->size];
        const GenerateOptions generate_options = {.adapters = options->adapters,
                                                  .greedy = options->greedy,
                                                  .temperature = options->temperature,
                                                  .top_p = options->top_p,
                                                  .top_k = (int32_t)options->top_k,
                                                  .max_tokens = (int32_t)options->max_tokens,
                                                  .seed = (uint64_t)options->seed,
                                                  .ends = *ends};
        status = generate(who->model, asked, mine, &generate_options, answers);
    }
    for (int32_t i = 0; i < mine && status == STATUS_OK; i++) {
        int32_t *to = records + (size_t)i * record;
        to[0] = answers[i].length;
        if (answers[i].length > 0) memcpy(to + 1, answers[i].tokens, (size_t)answers[i].length * sizeof *to);
    }
    for (int32_t i = 0; answers != NULL && i < mine; i++) free(answers[i].tokens);
    free(asked);
    free(answers);
    return status;
}

Status answer_prompts(const Answering *who, const GeneratePrompt *prompts, int32_t count, const SampleOptions *options,
                      const EndTokens *ends, int32_t *lengths, int32_t *ids) {
    Comm *comm = who->comm;
    const int32_t mine = (count - comm->rank + comm->size - 1) / comm->size;
    const size_t width = (size_t)options->max_tokens, record = 1 + width;
    int32_t *own = NULL, *all = NULL;
    size_t *bytes = NULL;
    Status status = MEMORY_ALLOC(own, (size_t)mine * record, "answers");
    if (status == STATUS_OK) status = MEMORY_ALLOC(all, (size_t)count * record, "answers");
    if (status == STATUS_OK) status = MEMORY_ALLOC(bytes, comm->size, "answers");
    if (status == STATUS_OK) status = answer_own(who, prompts, mine, options, ends, own);
    status = comm_agree(comm, status);
    if (status == STATUS_OK) {
        for (int r = 0; r < comm->size; r++)
            bytes[r] = (size_t)((count - r + comm->size - 1) / comm->size) * record * sizeof *own;
        status = comm_gather(comm, "the exchange of answers", own, bytes, all);
    }
    const int32_t *from = all;
    for (int r = 0; r < comm->size && status == STATUS_OK; r++)
        for (int32_t i = r; i < count; i += comm->size, from += record) {
            lengths[i] = from[0];
            memcpy(ids + (size_t)i * width, from + 1, (size_t)from[0] * sizeof *ids);
        }
    free(own);
    free(all);
    free(bytes);
    return status;
}

// Every rank gets lengths[total] and ids[total * max_tokens]. STATUS_STOPPED when the ranks were asked to stop.
static Status answer_all(const Answering *who, const Question *asked, int64_t total, const SampleOptions *options,
                         int32_t *lengths, int32_t *ids) {
    const int64_t piece = (int64_t)ANSWERS_PER_AGREEMENT * who->comm->size;
    GeneratePrompt *prompts = NULL;
    Status status = comm_agree(who->comm, MEMORY_ALLOC(prompts, piece, "prompts"));
    for (int64_t first = 0; first < total && status == STATUS_OK; first += piece) {
        unsigned said;
        status = stop_agree(who->comm, 0, &said);
        if (status == STATUS_OK && said & SAY_STOP) status = STATUS_STOPPED;
        const int32_t count = (int32_t)(total - first < piece ? total - first : piece);
        for (int32_t i = 0; i < count; i++) {
            const Question *from = &asked[(first + i) / options->samples];
            prompts[i] = (GeneratePrompt){from->ids, from->count, (uint32_t)(first + i)};
        }
        if (status == STATUS_OK)
            status = answer_prompts(who, prompts, count, options, who->ends, lengths + first,
                                    ids + first * options->max_tokens);
    }
    free(prompts);
    return status;
}

static Status format_lines(const Answering *who, const Question *asked, int64_t total, const SampleOptions *options,
                           const int32_t *lengths, const int32_t *ids, int64_t step, char **lines) {
    size_t size = 0;
    FILE *text = open_memstream(lines, &size);
    if (text == NULL) return error_set(STATUS_FAILED, "out of memory for samples");
    Status status = STATUS_OK;
    for (int64_t i = 0; i < total && status == STATUS_OK; i++) {
        char *answer = NULL, *line = NULL;
        status =
            tokenizer_decode(who->tokenizer, ids + (size_t)i * (size_t)options->max_tokens, lengths[i], true, &answer);
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

Status answer_file(const Answering *who, const char *path, const SampleOptions *options, int64_t step, char **lines) {
    *lines = NULL;
    JsonlFile file = {0};
    Question *asked = NULL;
    int32_t *lengths = NULL, *ids = NULL;
    Status status = jsonl_open(&file, path);
    const int64_t total = file.line_count * options->samples;
    if (status == STATUS_OK) status = MEMORY_ALLOC(asked, file.line_count, "prompts");
    if (status == STATUS_OK) status = read_prompts(who, &file, asked);
    if (status == STATUS_OK) status = MEMORY_ALLOC(lengths, total, "answers");
    if (status == STATUS_OK) status = MEMORY_ALLOC(ids, total * options->max_tokens, "answers");
    status = comm_agree(who->comm, status);
    if (status == STATUS_OK) status = answer_all(who, asked, total, options, lengths, ids);
    if (status == STATUS_OK && who->comm->rank == 0)
        status = format_lines(who, asked, total, options, lengths, ids, step, lines);
    asked_free(asked, file.line_count);
    jsonl_close(&file);
    free(lengths);
    free(ids);
    return comm_agree(who->comm, status);
}
