// Rounds of questions to the model, and what becomes of the answers: a review that is kept, or another try. The rules
// for a single review and the form of a row are review.c's, files are pair_files.c's, and sampling is
// src/decode/answers.c's.
#include "src/review/review_pairs.h"

#include "io/files.h"
#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/data/dataset.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUESTIONS_PER_RANK 64 // of a round, answered together
#define TITLES_PER_RANK    64 // of a group, which ends before another begins
#define TITLES_BYTES_MAX   ((size_t)1 << 30)
#define TEMPLATE_BYTES_MAX ((size_t)1 << 20)

// One question to the model.
typedef struct Question {
    int64_t title;
    int kind;
    ReviewPrompt prompt;
    int32_t *ids, count;
} Question;

// --- what is asked --------------------------------------------------------------------------------------------------

static const char *const template_names[REVIEW_TEMPLATES] = {"ask-scathing.txt", "ask-kind.txt", "plain.txt"};
// Those of configs/review-pairs, which the build puts into the program.
extern const char template_ask_scathing_txt[], template_ask_kind_txt[], template_plain_txt[];
static const char *const template_defaults[REVIEW_TEMPLATES] = {template_ask_scathing_txt, template_ask_kind_txt,
                                                                template_plain_txt};

static Status read_templates(ReviewPairs *pairs) {
    for (int i = 0; i < REVIEW_TEMPLATES; i++) {
        char path[PATH_MAX], *text = NULL;
        const char *folder = pairs->options.templates, *name = template_names[i];
        if (folder != NULL) {
            snprintf(path, sizeof path, "%s/%s", folder, name);
            name = path;
            TRY(file_read(path, TEMPLATE_BYTES_MAX, &text, NULL));
        }
        Status status = review_template_parse(&pairs->templates[i], name, text != NULL ? text : template_defaults[i]);
        if (status == STATUS_OK && i == REVIEW_PLAIN && pairs->templates[i].opening[0] != '\0')
            status = error_set(STATUS_DATA, "%s:1: words behind {review}; rows end with the review", name);
        free(text);
        TRY(status);
    }
    return STATUS_OK;
}

static Status read_titles(ReviewPairs *pairs, const char *path) {
    char *text = NULL;
    size_t bytes = 0;
    int64_t repeats = 0;
    TRY(file_read(path, TITLES_BYTES_MAX, &text, &bytes));
    const Status status = review_titles(path, text, bytes, &pairs->titles, &pairs->count, &repeats);
    free(text);
    TRY(status);
    if (repeats > 0) log_info("%s: %lld titles that repeat another are left out", path, (long long)repeats);
    return MEMORY_ALLOC(pairs->state, pairs->count, "titles");
}

// Reviews are lines, so that a newline ends an answer, where the vocabulary has it as a token.
static Status find_ends(ReviewPairs *pairs) {
    const Tokenizer *tokenizer = pairs->run->tokenizer;
    int32_t *ids = NULL, count = 0, capacity = 0;
    char *text = NULL;
    TRY(tokenizer_encode(tokenizer, "\n", 1, false, &ids, &count, &capacity));
    pairs->ends = pairs->run->ends;
    Status status = count > 0 ? tokenizer_decode(tokenizer, ids + count - 1, 1, true, &text) : STATUS_OK;
    if (status == STATUS_OK && text != NULL && strcmp(text, "\n") == 0 && !end_tokens_add(&pairs->ends, ids[count - 1]))
        status = error_set(STATUS_DATA, "%s: names too many tokens that end an answer", pairs->run->config.model.path);
    free(ids);
    free(text);
    return status;
}

// --- asking ---------------------------------------------------------------------------------------------------------

static void free_questions(Question *questions, int32_t count) {
    for (int32_t i = 0; questions != NULL && i < count; i++) {
        review_prompt_free(&questions[i].prompt);
        free(questions[i].ids);
    }
    free(questions);
}

// Encodes the questions of a title: what it has no review of. *fits: their prompts leave room for an answer.
static Status add_questions(const ReviewPairs *pairs, int64_t index, Question *questions, int32_t *count, bool *fits) {
    const ReviewTitle *title = &pairs->state[index];
    const Run *run = pairs->run;
    *fits = true;
    for (int kind = 0; kind < REVIEW_KINDS; kind++) {
        if (title->review[kind] != NULL) continue;
        Question *q = &questions[(*count)++];
        *q = (Question){.title = index, .kind = kind};
        TRY(review_prompt(&pairs->templates[kind], pairs->titles[index], &q->prompt));
        const TextOrMessages prompt = {.text = q->prompt.text};
        TRY(dataset_encode_prompt(&prompt, run->tokenizer, run->chat, &q->ids, &q->count));
        *fits &= q->count < run->model.options.max_positions;
    }
    return STATUS_OK;
}

static int64_t group_size(const ReviewPairs *pairs) {
    return (int64_t)TITLES_PER_RANK * pairs->run->comm->size;
}

// The next questions: of the first titles in head's group that are not done.
static Status choose_questions(ReviewPairs *pairs, Question *questions, int32_t capacity, int32_t *count) {
    int64_t end = (pairs->head / group_size(pairs) + 1) * group_size(pairs);
    if (end > pairs->count) end = pairs->count;
    *count = 0;
    for (int64_t i = pairs->head; i < end && *count + REVIEW_KINDS <= capacity; i++) {
        bool fits;
        const int32_t before = *count;
        if (pairs->state[i].done) continue;
        TRY(add_questions(pairs, i, questions, count, &fits));
        if (fits) continue;
        for (; *count > before; --*count) {
            review_prompt_free(&questions[*count - 1].prompt);
            free(questions[*count - 1].ids);
        }
        pairs->state[i].done = true;
        pairs->too_long++;
    }
    return STATUS_OK;
}

// The number of a question's random numbers, so that every try of a title differs and none depends on the others.
static uint32_t question_id(const ReviewPairs *pairs, const Question *q) {
    return (uint32_t)((q->title * REVIEW_KINDS + q->kind) * REVIEW_TRIES_MAX + pairs->state[q->title].tries);
}

// Question i is answered by rank i % size. Every rank gets tokens[count * max_tokens] and lengths[count].
static Status ask(ReviewPairs *pairs, const Question *questions, int32_t count, int32_t *lengths, int32_t *tokens) {
    GeneratePrompt *prompts = NULL;
    Status status = comm_agree(pairs->run->comm, MEMORY_ALLOC(prompts, count, "prompts"));
    for (int32_t i = 0; i < count && status == STATUS_OK; i++)
        prompts[i] = (GeneratePrompt){questions[i].ids, questions[i].count, question_id(pairs, &questions[i])};
    const Answering who = run_answering(pairs->run);
    if (status == STATUS_OK)
        status = answer_prompts(&who, prompts, count, &pairs->options.sampling, &pairs->ends, lengths, tokens);
    free(prompts);
    return status;
}

// --- answers --------------------------------------------------------------------------------------------------------

// The text behind the prompt. Decoded together with it, as a tokenizer drops the blank that a text begins with.
static Status answer_text(const Tokenizer *tokenizer, const Question *q, const int32_t *tokens, int32_t length,
                          char **out) {
    char *prompt = NULL, *both = NULL;
    int32_t *ids = NULL;
    Status status = MEMORY_ALLOC(ids, q->count + length, "an answer");
    if (status == STATUS_OK) {
        memcpy(ids, q->ids, sizeof *ids * (size_t)q->count);
        memcpy(ids + q->count, tokens, sizeof *ids * (size_t)length);
        status = tokenizer_decode(tokenizer, ids, q->count, true, &prompt);
    }
    if (status == STATUS_OK) status = tokenizer_decode(tokenizer, ids, q->count + length, true, &both);
    if (status == STATUS_OK) {
        const size_t skip = strlen(prompt);
        if (strncmp(prompt, both, skip) == 0)
            *out = strdup(both + skip);
        else
            status = tokenizer_decode(tokenizer, tokens, length, true, out);
        if (status == STATUS_OK && *out == NULL) status = error_set(STATUS_FAILED, "out of memory for an answer");
    }
    free(prompt);
    free(both);
    free(ids);
    return status;
}

// Keeps the review that an answer holds, or counts what is wrong with it.
static Status take_answer(ReviewPairs *pairs, const Question *q, const int32_t *tokens, int32_t length) {
    char *text = NULL;
    bool ended = length < pairs->options.sampling.max_tokens;
    TRY(answer_text(pairs->run->tokenizer, q, tokens, length, &text));
    ended |= strpbrk(text, "\n\r") != NULL; // of a token that holds more than a newline
    char *review = review_of(&q->prompt, text);
    free(text);
    if (review == NULL) return error_set(STATUS_FAILED, "out of memory for a review");
    const ReviewFault fault = ended ? review_check(review, q->prompt.before, &pairs->options.limits) : REVIEW_CUT;
    pairs->faults[fault]++;
    if (fault == REVIEW_GOOD)
        pairs->state[q->title].review[q->kind] = review;
    else
        free(review);
    return STATUS_OK;
}

static bool has_both(const ReviewTitle *title) {
    return title->review[REVIEW_SCATHING] != NULL && title->review[REVIEW_KIND] != NULL;
}

static bool alike(const ReviewTitle *title) {
    return has_both(title) && review_same(title->review[REVIEW_SCATHING], title->review[REVIEW_KIND]);
}

// After a round: which titles need no other.
static void settle_titles(ReviewPairs *pairs, const Question *questions, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        ReviewTitle *title = &pairs->state[questions[i].title];
        if (i > 0 && questions[i].title == questions[i - 1].title) continue;
        if (alike(title)) { // the kind one is asked for again
            free(title->review[REVIEW_KIND]);
            title->review[REVIEW_KIND] = NULL;
            pairs->faults[REVIEW_GOOD]--;
            pairs->faults[REVIEW_SAME]++;
        }
        title->tries++;
        title->done = has_both(title) || title->tries == pairs->options.tries;
    }
}

static void free_reviews(ReviewTitle *title) {
    for (int kind = 0; kind < REVIEW_KINDS; kind++) {
        free(title->review[kind]);
        title->review[kind] = NULL;
    }
}

// The row of a title that has both reviews.
static Status print_pair(const ReviewPairs *pairs, int64_t index, FILE *to) {
    const ReviewTemplate *plain = &pairs->templates[REVIEW_PLAIN];
    const ReviewTitle *title = &pairs->state[index];
    ReviewPrompt prompt;
    Status status = review_prompt(plain, pairs->titles[index], &prompt);
    char *line = status == STATUS_OK ? review_pair_line(prompt.text, plain->gap, title->review[REVIEW_SCATHING],
                                                        title->review[REVIEW_KIND], pairs->titles[index])
                                     : NULL;
    review_prompt_free(&prompt);
    TRY(status);
    if (line == NULL) return error_set(STATUS_FAILED, "out of memory for a row");
    fprintf(to, "%s\n", line);
    free(line);
    return STATUS_OK;
}

// Appends the pairs of the titles from head on that are done.
static Status write_pairs(ReviewPairs *pairs) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *rows = open_memstream(&text, &bytes);
    if (rows == NULL) return error_set(STATUS_FAILED, "out of memory for rows");
    Status status = STATUS_OK;
    for (; status == STATUS_OK && pairs->head < pairs->count && pairs->state[pairs->head].done; pairs->head++) {
        ReviewTitle *title = &pairs->state[pairs->head];
        if (pairs->head >= pairs->written && has_both(title)) {
            status = print_pair(pairs, pairs->head, rows);
            pairs->found++;
        }
        free_reviews(title);
    }
    if (fclose(rows) != 0 && status == STATUS_OK) status = error_set(STATUS_FAILED, "out of memory for rows");
    if (status == STATUS_OK) status = pair_files_append(&pairs->files, text, bytes);
    free(text);
    return status;
}

// --- rounds ---------------------------------------------------------------------------------------------------------

Status review_pairs_round(ReviewPairs *pairs) {
    const int32_t capacity = QUESTIONS_PER_RANK * pairs->run->comm->size;
    const size_t width = (size_t)pairs->options.sampling.max_tokens;
    Question *questions = NULL;
    int32_t *lengths = NULL, *tokens = NULL, count = 0;
    Status status = MEMORY_ALLOC(questions, capacity, "questions");
    if (status == STATUS_OK) status = MEMORY_ALLOC(lengths, capacity, "answers");
    if (status == STATUS_OK) status = MEMORY_ALLOC(tokens, (size_t)capacity * width, "answers");
    if (status == STATUS_OK) status = choose_questions(pairs, questions, capacity, &count);
    status = comm_agree(pairs->run->comm, status);
    if (status == STATUS_OK && count > 0) status = ask(pairs, questions, count, lengths, tokens);
    for (int32_t i = 0; i < count && status == STATUS_OK; i++)
        status = take_answer(pairs, &questions[i], tokens + (size_t)i * width, lengths[i]);
    if (status == STATUS_OK) settle_titles(pairs, questions, count);
    if (status == STATUS_OK) status = write_pairs(pairs);
    free_questions(questions, questions == NULL ? 0 : capacity);
    free(lengths);
    free(tokens);
    return comm_agree(pairs->run->comm, status);
}

// Rank 0 reads what is in the files; the others learn where to go on.
Status review_pairs_open(ReviewPairs *pairs, Run *run, const ReviewPairsOptions *options, const char *titles) {
    Comm *comm = run->comm;
    *pairs = (ReviewPairs){.run = run, .options = *options};
    pairs->files = (PairFiles){.paired = -1, .unpaired = -1};
    Status status = read_templates(pairs);
    if (status == STATUS_OK) status = read_titles(pairs, titles);
    if (status == STATUS_OK) status = find_ends(pairs);
    pairs->files.paired_path = options->paired;
    pairs->files.unpaired_path = options->unpaired;
    pairs->files.plain = &pairs->templates[REVIEW_PLAIN];
    pairs->files.titles = pairs->titles;
    pairs->files.count = pairs->count;
    if (status == STATUS_OK && comm->rank == 0) status = pair_files_open(&pairs->files, &pairs->head);
    TRY(comm_agree(comm, status));
    TRY(comm_broadcast(comm, "the place to go on from", &pairs->head, sizeof pairs->head, 0));
    pairs->written = pairs->head;
    if (pairs->head < pairs->count) pairs->head -= pairs->head % group_size(pairs);
    return STATUS_OK;
}

void review_pairs_close(ReviewPairs *pairs) {
    pair_files_close(&pairs->files);
    for (int i = 0; i < REVIEW_TEMPLATES; i++) review_template_free(&pairs->templates[i]);
    for (int64_t i = 0; i < pairs->count; i++) {
        free(pairs->titles[i]);
        if (pairs->state != NULL) free_reviews(&pairs->state[i]);
    }
    free(pairs->titles);
    free(pairs->state);
}
