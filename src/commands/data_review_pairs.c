// `kto data review-pairs`: asks a model for a scathing and a kind review of each title and keeps the pairs that are
// well-formed. The ranks answer together and all know all answers; rank 0 alone has the files. Rows are appended in the
// order of the titles, so that what is in the files says where to go on. Titles are asked about group by group, and a
// run that goes on begins with a whole group: an answer's last bits may depend on what is computed beside it.
#include "src/commands/commands.h"

#include "comm/stop.h"
#include "io/files.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/commands/sampling.h"
#include "src/data/rows.h"
#include "src/decode/generate.h"
#include "src/review/review.h"
#include "src/setup/run.h"
#include "src/setup/tuned.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define QUESTIONS_PER_RANK  64 // of a round, answered together
#define TITLES_PER_RANK     64 // of a group, which ends before another begins
#define TRIES_MAX           100
#define TITLES_BYTES_MAX    ((size_t)1 << 30)
#define TEMPLATE_BYTES_MAX  ((size_t)1 << 20)
#define SECONDS_PER_MESSAGE 30

enum { SCATHING, KIND, KINDS };
enum { PLAIN = KINDS, TEMPLATES };

typedef struct Arguments {
    const char *model, *paired, *unpaired, *templates;
    int64_t tries;
    ReviewLimits limits;
    SampleOptions sampling;
    bool base;
} Arguments;

typedef struct Title {
    char *text;
    int32_t tries;
    bool done;
    char *review[KINDS]; // NULL: none yet
} Title;

// One question to the model.
typedef struct Question {
    int64_t title;
    int kind;
    ReviewPrompt prompt;
    int32_t *ids, count;
} Question;

typedef struct Files {
    int paired, unpaired; // -1: not open
    const char *paired_path, *unpaired_path;
} Files;

typedef struct Work {
    Run run;
    Arguments arguments;
    ReviewTemplate templates[TEMPLATES];
    Title *titles;       // [count]
    int64_t count, head; // titles before head are in the files, or gave no pair
    int64_t written;     // titles before it had their chance in an earlier start
    int64_t pairs;       // of this start
    int64_t faults[REVIEW_FAULTS];
    int64_t too_long; // titles whose prompt leaves the model no room
    EndTokens ends;
    Files files;
} Work;

// --- what is asked --------------------------------------------------------------------------------------------------

static const char *const template_names[TEMPLATES] = {"ask-scathing.txt", "ask-kind.txt", "plain.txt"};
// Those of configs/review-pairs, which the build puts into the program.
extern const char template_ask_scathing_txt[], template_ask_kind_txt[], template_plain_txt[];
static const char *const template_defaults[TEMPLATES] = {template_ask_scathing_txt, template_ask_kind_txt,
                                                         template_plain_txt};

static Status read_templates(Work *work) {
    for (int i = 0; i < TEMPLATES; i++) {
        char path[PATH_MAX], *text = NULL;
        const char *folder = work->arguments.templates, *name = template_names[i];
        if (folder != NULL) {
            snprintf(path, sizeof path, "%s/%s", folder, name);
            name = path;
            TRY(file_read(path, TEMPLATE_BYTES_MAX, &text, NULL));
        }
        Status status = review_template_parse(&work->templates[i], name, text != NULL ? text : template_defaults[i]);
        if (status == STATUS_OK && i == PLAIN && work->templates[i].opening[0] != '\0')
            status = error_set(STATUS_DATA, "%s:1: words behind {review}; rows end with the review", name);
        free(text);
        TRY(status);
    }
    return STATUS_OK;
}

static Status read_titles(Work *work, const char *path) {
    char *text = NULL, **titles = NULL;
    size_t bytes = 0;
    int64_t count = 0, repeats = 0;
    TRY(file_read(path, TITLES_BYTES_MAX, &text, &bytes));
    Status status = review_titles(path, text, bytes, &titles, &count, &repeats);
    free(text);
    if (status == STATUS_OK) status = MEMORY_ALLOC(work->titles, count, "titles");
    for (int64_t i = 0; i < count; i++) {
        if (status == STATUS_OK)
            work->titles[i].text = titles[i];
        else
            free(titles[i]);
    }
    free(titles);
    if (status == STATUS_OK) work->count = count;
    if (status == STATUS_OK && repeats > 0)
        log_info("%s: %lld titles that repeat another are left out", path, (long long)repeats);
    return status;
}

// Reviews are lines, so that a newline ends an answer, where the vocabulary has it as a token.
static Status find_ends(Work *work) {
    const Tokenizer *tokenizer = work->run.tokenizer;
    int32_t *ids = NULL, count = 0, capacity = 0;
    char *text = NULL;
    TRY(tokenizer_encode(tokenizer, "\n", 1, false, &ids, &count, &capacity));
    work->ends = work->run.ends;
    Status status = count > 0 ? tokenizer_decode(tokenizer, ids + count - 1, 1, true, &text) : STATUS_OK;
    if (status == STATUS_OK && text != NULL && strcmp(text, "\n") == 0 && !end_tokens_add(&work->ends, ids[count - 1]))
        status = error_set(STATUS_DATA, "%s: names too many tokens that end an answer", work->run.config.model.path);
    free(ids);
    free(text);
    return status;
}

// --- files ----------------------------------------------------------------------------------------------------------

static Status refuse_file(const char *path, const char *what) {
    return error_set(STATUS_FAILED, "%s: cannot be %s: %s", path, what, strerror(errno));
}

static Status open_file(const char *path, int *fd, char **text, size_t *bytes) {
    struct stat info;
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_APPEND, 0666);
    if (*fd < 0 || fstat(*fd, &info) != 0) return refuse_file(path, "opened");
    if (!S_ISREG(info.st_mode)) return error_set(STATUS_USAGE, "%s: is not a file; name another", path);
    if (flock(*fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) // some file systems have no locks
        return error_set(STATUS_USAGE, "%s: another process writes to it; wait for it or name another file", path);
    *bytes = (size_t)info.st_size;
    *text = malloc(*bytes + 1);
    if (*text == NULL) return error_set(STATUS_FAILED, "%s: out of memory to read it", path);
    for (size_t done = 0; done < *bytes;) {
        const ssize_t got = pread(*fd, *text + done, *bytes - done, (off_t)done);
        if (got <= 0) return refuse_file(path, "read in full");
        done += (size_t)got;
    }
    (*text)[*bytes] = '\0';
    return STATUS_OK;
}

static Status append(int fd, const char *path, const char *text, size_t bytes) {
    while (bytes > 0) {
        const ssize_t put = write(fd, text, bytes);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return refuse_file(path, "written");
        text += put;
        bytes -= (size_t)put;
    }
    return fdatasync(fd) != 0 && errno != EINVAL ? refuse_file(path, "made durable") : STATUS_OK;
}

static Status print_unpaired(FILE *to, const char *line, size_t bytes) {
    for (int which = 0; which < KINDS; which++) {
        char *row = NULL;
        TRY(data_unpair_line(line, bytes, which, &row));
        fprintf(to, "%s\n", row);
        free(row);
    }
    return STATUS_OK;
}

// Moves head behind the title of a row, which must have been made of one of the titles from head on.
static Status pass_row(Work *work, const char *line, size_t bytes, int64_t number) {
    const char *path = work->files.paired_path;
    json_t *row = json_loadb(line, bytes, 0, NULL);
    const char *title = json_string_value(json_object_get(row, "title"));
    const char *prompt = json_string_value(json_object_get(row, "prompt"));
    Status status = STATUS_OK;
    if (title == NULL || prompt == NULL || !json_is_string(json_object_get(row, "chosen")) ||
        !json_is_string(json_object_get(row, "rejected")))
        status = error_set(STATUS_DATA, "%s:%lld: is no row of kto data review-pairs; name another file by --paired",
                           path, (long long)number);
    while (status == STATUS_OK && work->head < work->count && strcmp(work->titles[work->head].text, title) != 0)
        work->head++;
    if (status == STATUS_OK && work->head == work->count)
        status = error_set(STATUS_DATA,
                           "%s:%lld: its title is not among the titles, or not in their order; go on with the titles "
                           "that the file was begun with, or name another file by --paired",
                           path, (long long)number);
    if (status == STATUS_OK) {
        ReviewPrompt plain;
        status = review_prompt(&work->templates[PLAIN], title, &plain);
        if (status == STATUS_OK && strcmp(plain.text, prompt) != 0)
            status = error_set(STATUS_DATA,
                               "%s:%lld: was made with another plain.txt; go on with that one, or name another file by "
                               "--paired",
                               path, (long long)number);
        review_prompt_free(&plain);
        work->head++;
    }
    json_decref(row);
    return status;
}

// Whether `text` could be the beginning of a row that was not written to its end.
static bool begins_row(const char *text, size_t bytes) {
    static const char begin[] = "{\"prompt\": ";
    return strncmp(text, begin, bytes < sizeof begin - 1 ? bytes : sizeof begin - 1) == 0;
}

// Cuts a half-written last line from the text and the file.
static Status cut_half_line(int fd, const char *path, char *text, size_t *bytes) {
    size_t whole = *bytes;
    while (whole > 0 && text[whole - 1] != '\n') whole--;
    if (whole == *bytes) return STATUS_OK;
    if (!begins_row(text + whole, *bytes - whole))
        return error_set(STATUS_DATA, "%s: ends in a line that is no row of kto data review-pairs; name another file",
                         path);
    log_info("%s: a half-written line at its end is cut", path);
    if (ftruncate(fd, (off_t)whole) != 0) return refuse_file(path, "cut");
    text[whole] = '\0';
    *bytes = whole;
    return STATUS_OK;
}

// Gives the unpaired file what it lacks of the rows in the paired one.
static Status complete_unpaired(const Files *files, const char *expected, size_t expected_bytes, char *text,
                                size_t bytes) {
    if (bytes > expected_bytes || memcmp(text, expected, bytes) != 0) {
        const size_t both = bytes < expected_bytes ? bytes : expected_bytes;
        size_t same = 0;
        int64_t line = 1;
        for (; same < both && text[same] == expected[same]; same++) line += text[same] == '\n';
        return error_set(STATUS_DATA,
                         "%s:%lld: is not what the rows of %s give; name another file by --unpaired, or take this one "
                         "away",
                         files->unpaired_path, (long long)line, files->paired_path);
    }
    return append(files->unpaired, files->unpaired_path, expected + bytes, expected_bytes - bytes);
}

// Opens the files and goes behind what is in them.
static Status open_files(Work *work) {
    Files *files = &work->files;
    char *text[2] = {NULL, NULL}, *expected = NULL;
    size_t bytes[2] = {0, 0}, expected_bytes = 0;
    Status status = open_file(files->paired_path, &files->paired, &text[0], &bytes[0]);
    if (status == STATUS_OK && files->unpaired_path != NULL)
        status = open_file(files->unpaired_path, &files->unpaired, &text[1], &bytes[1]);
    FILE *rows = open_memstream(&expected, &expected_bytes);
    if (rows == NULL && status == STATUS_OK) status = error_set(STATUS_FAILED, "out of memory for rows");
    int64_t number = 0;
    for (size_t first = 0; status == STATUS_OK && first < bytes[0];) {
        const char *end = memchr(text[0] + first, '\n', bytes[0] - first);
        if (end == NULL) break;
        const size_t length = (size_t)(end - text[0]) - first;
        status = pass_row(work, text[0] + first, length, ++number);
        if (status == STATUS_OK) status = print_unpaired(rows, text[0] + first, length);
        first += length + 1;
    }
    if (rows != NULL && fclose(rows) != 0 && status == STATUS_OK)
        status = error_set(STATUS_FAILED, "out of memory for rows");
    // Nothing is cut before all the rest is known to be ours.
    if (status == STATUS_OK) status = cut_half_line(files->paired, files->paired_path, text[0], &bytes[0]);
    if (status == STATUS_OK && files->unpaired >= 0) {
        status = cut_half_line(files->unpaired, files->unpaired_path, text[1], &bytes[1]);
        if (status == STATUS_OK) status = complete_unpaired(files, expected, expected_bytes, text[1], bytes[1]);
    }
    if (status == STATUS_OK && number > 0)
        log_info("%-8s %s holds %lld pairs; going on behind title %lld of %lld", "resumed", files->paired_path,
                 (long long)number, (long long)work->head, (long long)work->count);
    free(text[0]);
    free(text[1]);
    free(expected);
    return status;
}

static void close_files(Files *files) {
    if (files->paired >= 0) close(files->paired);
    if (files->unpaired >= 0) close(files->unpaired);
}

// --- asking ---------------------------------------------------------------------------------------------------------

static void free_questions(Question *questions, int32_t count) {
    for (int32_t i = 0; questions != NULL && i < count; i++) {
        review_prompt_free(&questions[i].prompt);
        free(questions[i].ids);
    }
    free(questions);
}

static bool alike(const Title *title) {
    return title->review[SCATHING] != NULL && title->review[KIND] != NULL &&
           review_same(title->review[SCATHING], title->review[KIND]);
}

// Encodes the questions of a title: what it has no review of. *fits: their prompts leave room for an answer.
static Status add_questions(const Work *work, int64_t index, Question *questions, int32_t *count, bool *fits) {
    const Title *title = &work->titles[index];
    const Run *run = &work->run;
    *fits = true;
    for (int kind = 0; kind < KINDS; kind++) {
        if (title->review[kind] != NULL) continue;
        Question *q = &questions[(*count)++];
        *q = (Question){.title = index, .kind = kind};
        TRY(review_prompt(&work->templates[kind], title->text, &q->prompt));
        const TextOrMessages prompt = {.text = q->prompt.text};
        TRY(dataset_encode_prompt(&prompt, run->tokenizer, run->chat, &q->ids, &q->count));
        *fits &= q->count < run->model.options.max_positions;
    }
    return STATUS_OK;
}

static int64_t group_size(const Work *work) {
    return (int64_t)TITLES_PER_RANK * work->run.comm->size;
}

// The next questions: of the first titles in head's group that are not done.
static Status choose_questions(Work *work, Question *questions, int32_t capacity, int32_t *count) {
    int64_t end = (work->head / group_size(work) + 1) * group_size(work);
    if (end > work->count) end = work->count;
    *count = 0;
    for (int64_t i = work->head; i < end && *count + KINDS <= capacity; i++) {
        bool fits;
        const int32_t before = *count;
        if (work->titles[i].done) continue;
        Status status = add_questions(work, i, questions, count, &fits);
        TRY(status);
        if (fits) continue;
        for (; *count > before; --*count) {
            review_prompt_free(&questions[*count - 1].prompt);
            free(questions[*count - 1].ids);
        }
        work->titles[i].done = true;
        work->too_long++;
    }
    return STATUS_OK;
}

// The number of a question's random numbers, so that every try of a title differs and none depends on the others.
static uint32_t question_id(const Work *work, const Question *q) {
    return (uint32_t)((q->title * KINDS + q->kind) * TRIES_MAX + work->titles[q->title].tries);
}

// Question i is answered by rank i % size. Every rank gets tokens[count * max_tokens] and lengths[count].
static Status ask(Work *work, const Question *questions, int32_t count, int32_t *lengths, int32_t *tokens) {
    GeneratePrompt *prompts = NULL;
    Status status = comm_agree(work->run.comm, MEMORY_ALLOC(prompts, count, "prompts"));
    for (int32_t i = 0; i < count && status == STATUS_OK; i++)
        prompts[i] = (GeneratePrompt){questions[i].ids, questions[i].count, question_id(work, &questions[i])};
    const Answering who = run_answering(&work->run);
    if (status == STATUS_OK)
        status = answer_prompts(&who, prompts, count, &work->arguments.sampling, &work->ends, lengths, tokens);
    free(prompts);
    return status;
}

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
static Status take_answer(Work *work, const Question *q, const int32_t *tokens, int32_t length) {
    char *text = NULL;
    bool ended = length < work->arguments.sampling.max_tokens;
    TRY(answer_text(work->run.tokenizer, q, tokens, length, &text));
    ended |= strpbrk(text, "\n\r") != NULL; // of a token that holds more than a newline
    char *review = review_of(&q->prompt, text);
    free(text);
    if (review == NULL) return error_set(STATUS_FAILED, "out of memory for a review");
    const ReviewFault fault = ended ? review_check(review, q->prompt.before, &work->arguments.limits) : REVIEW_CUT;
    work->faults[fault]++;
    if (fault == REVIEW_GOOD)
        work->titles[q->title].review[q->kind] = review;
    else
        free(review);
    return STATUS_OK;
}

// After a round: which titles need no other.
static void settle_titles(Work *work, const Question *questions, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        Title *title = &work->titles[questions[i].title];
        if (i > 0 && questions[i].title == questions[i - 1].title) continue;
        if (alike(title)) { // the kind one is asked for again
            free(title->review[KIND]);
            title->review[KIND] = NULL;
            work->faults[REVIEW_GOOD]--;
            work->faults[REVIEW_SAME]++;
        }
        title->tries++;
        title->done =
            (title->review[SCATHING] != NULL && title->review[KIND] != NULL) || title->tries == work->arguments.tries;
    }
}

static Status print_pair(const Work *work, const Title *title, FILE *paired, FILE *unpaired) {
    const ReviewTemplate *plain = &work->templates[PLAIN];
    ReviewPrompt prompt;
    Status status = review_prompt(plain, title->text, &prompt);
    char *line = status == STATUS_OK ? review_pair_line(prompt.text, plain->gap, title->review[SCATHING],
                                                        title->review[KIND], title->text)
                                     : NULL;
    review_prompt_free(&prompt);
    TRY(status);
    if (line == NULL) return error_set(STATUS_FAILED, "out of memory for a row");
    fprintf(paired, "%s\n", line);
    status = print_unpaired(unpaired, line, strlen(line));
    free(line);
    return status;
}

// Appends the pairs of the titles from head on that are done; the paired file first, which the other is completed by.
static Status write_pairs(Work *work) {
    char *text[2] = {NULL, NULL};
    size_t bytes[2] = {0, 0};
    FILE *paired = open_memstream(&text[0], &bytes[0]), *unpaired = open_memstream(&text[1], &bytes[1]);
    Status status = paired == NULL || unpaired == NULL ? error_set(STATUS_FAILED, "out of memory for rows") : STATUS_OK;
    for (; status == STATUS_OK && work->head < work->count && work->titles[work->head].done; work->head++) {
        Title *title = &work->titles[work->head];
        if (work->head >= work->written && title->review[SCATHING] != NULL && title->review[KIND] != NULL) {
            status = print_pair(work, title, paired, unpaired);
            work->pairs++;
        }
        for (int kind = 0; kind < KINDS; kind++) {
            free(title->review[kind]);
            title->review[kind] = NULL;
        }
    }
    if (paired != NULL && fclose(paired) != 0 && status == STATUS_OK)
        status = error_set(STATUS_FAILED, "out of memory for rows");
    if (unpaired != NULL && fclose(unpaired) != 0 && status == STATUS_OK)
        status = error_set(STATUS_FAILED, "out of memory for rows");
    const Files *files = &work->files; // open on rank 0 alone
    if (status == STATUS_OK && files->paired >= 0)
        status = append(files->paired, files->paired_path, text[0], bytes[0]);
    if (status == STATUS_OK && files->unpaired >= 0)
        status = append(files->unpaired, files->unpaired_path, text[1], bytes[1]);
    free(text[0]);
    free(text[1]);
    return status;
}

// One batch of questions on every rank, and what comes of them.
static Status ask_round(Work *work) {
    const int32_t capacity = QUESTIONS_PER_RANK * work->run.comm->size;
    const size_t width = (size_t)work->arguments.sampling.max_tokens;
    Question *questions = NULL;
    int32_t *lengths = NULL, *tokens = NULL, count = 0;
    Status status = MEMORY_ALLOC(questions, capacity, "questions");
    if (status == STATUS_OK) status = MEMORY_ALLOC(lengths, capacity, "answers");
    if (status == STATUS_OK) status = MEMORY_ALLOC(tokens, (size_t)capacity * width, "answers");
    if (status == STATUS_OK) status = choose_questions(work, questions, capacity, &count);
    status = comm_agree(work->run.comm, status);
    if (status == STATUS_OK && count > 0) status = ask(work, questions, count, lengths, tokens);
    for (int32_t i = 0; i < count && status == STATUS_OK; i++)
        status = take_answer(work, &questions[i], tokens + (size_t)i * width, lengths[i]);
    if (status == STATUS_OK) settle_titles(work, questions, count);
    if (status == STATUS_OK) status = write_pairs(work);
    free_questions(questions, questions == NULL ? 0 : capacity);
    free(lengths);
    free(tokens);
    return comm_agree(work->run.comm, status);
}

// --- what is said ---------------------------------------------------------------------------------------------------

static void say_progress(const Work *work, double *last) {
    char line[128];
    snprintf(line, sizeof line, "title %lld of %lld: %lld pairs", (long long)work->head, (long long)work->count,
             (long long)work->pairs);
    log_progress(line);
    if (log_is_terminal() || clock_seconds() - *last < SECONDS_PER_MESSAGE) return;
    log_info("%s", line);
    *last = clock_seconds();
}

static void say_figures(const Work *work) {
    char faults[512] = "";
    size_t used = 0;
    int64_t answers = 0;
    for (int i = 0; i < REVIEW_FAULTS; i++) {
        answers += work->faults[i];
        if (work->faults[i] > 0)
            used += (size_t)snprintf(faults + used, sizeof faults - used, "%s%lld %s", used == 0 ? "" : ", ",
                                     (long long)work->faults[i], review_fault_names[i]);
    }
    const int64_t titles = work->head > work->written ? work->head - work->written : 0;
    log_info("%-8s %lld, of which %lld gave a pair", "titles", (long long)titles, (long long)work->pairs);
    if (answers > 0) log_info("%-8s %lld: %s", "answers", (long long)answers, faults);
    if (work->too_long > 0)
        log_warning("%lld titles were not asked about: with the templates they fill the model's %d positions",
                    (long long)work->too_long, work->run.model.options.max_positions);
    if (work->pairs == 0 && answers > 0)
        log_warning("no answer pair was well-formed; ask another model, or with other templates (docs/data.md)");
}

// --- the command ----------------------------------------------------------------------------------------------------

// A model folder has no configuration: the defaults, and no adapter.
static Status open_model(Work *work) {
    Run *run = &work->run;
    const char *model = work->arguments.model;
    char path[PATH_MAX];
    struct stat info;
    snprintf(path, sizeof path, "%s/config.cfg", model);
    if (file_exists(path) || stat(model, &info) != 0 || !S_ISDIR(info.st_mode))
        return tuned_open(run, model, work->arguments.sampling.adapters, NULL);
    char *const needed[] = {"model.path=.", "data.train=none", "train.output_dir=none"};
    Status status =
        strlen(model) < sizeof run->config.model.path
            ? config_parse(&run->config, arch_modules, "", "defaults", sizeof needed / sizeof *needed, needed)
            : error_set(STATUS_USAGE, "%s: the path is too long", model);
    TRY(comm_agree(run->comm, status));
    snprintf(run->config.model.path, sizeof run->config.model.path, "%s", model);
    run->config.lora.r = 0;
    work->arguments.sampling.adapters = false;
    return run_open(run, RUN_MODEL, 0);
}

// Rank 0 reads what is there; the others learn where to go on.
static Status start(Work *work, const char *titles) {
    Comm *comm = work->run.comm;
    Status status = read_templates(work);
    if (status == STATUS_OK) status = read_titles(work, titles);
    if (status == STATUS_OK) status = find_ends(work);
    if (status == STATUS_OK && comm->rank == 0) status = open_files(work);
    TRY(comm_agree(comm, status));
    TRY(comm_broadcast(comm, "the place to go on from", &work->head, sizeof work->head, 0));
    work->written = work->head;
    if (work->head < work->count) work->head -= work->head % group_size(work);
    return STATUS_OK;
}

static Status run_rounds(Work *work) {
    double last = clock_seconds();
    while (work->head < work->count) {
        unsigned said;
        TRY(stop_agree(work->run.comm, 0, &said));
        if (said & SAY_STOP) {
            say_figures(work);
            log_info("%-8s on request at title %lld of %lld; the same command goes on from there", "stopped",
                     (long long)work->head, (long long)work->count);
            return STATUS_STOPPED;
        }
        TRY(ask_round(work));
        say_progress(work, &last);
    }
    say_figures(work);
    return STATUS_OK;
}

static Status run_command(Comm *comm, int argc, char **argv) {
    Work work = {.run = {.comm = comm},
                 .arguments = {.tries = 4, .limits = {.min_words = 4, .max_words = 60}, .sampling = sample_defaults},
                 .files = {.paired = -1, .unpaired = -1}};
    Arguments *arguments = &work.arguments;
    TRY(comm_agree(comm, command_parse(&command_data_review_pairs, &argc, argv, arguments)));
    if (arguments->limits.min_words > arguments->limits.max_words)
        return comm_agree(comm,
                          error_set(STATUS_USAGE, "--min-words %lld is above --max-words %lld: no review fits",
                                    (long long)arguments->limits.min_words, (long long)arguments->limits.max_words));
    work.files.paired_path = arguments->paired;
    work.files.unpaired_path = arguments->unpaired;
    if (arguments->unpaired != NULL && strcmp(arguments->paired, arguments->unpaired) == 0)
        return comm_agree(
            comm, error_set(STATUS_USAGE, "%s: is both --paired and --unpaired; name two files", arguments->paired));
    arguments->sampling.adapters = !arguments->base;
    Status status = open_model(&work);
    if (status == STATUS_OK) status = start(&work, argv[0]);
    if (status == STATUS_OK) status = run_rounds(&work);
    close_files(&work.files);
    for (int i = 0; i < TEMPLATES; i++) review_template_free(&work.templates[i]);
    for (int64_t i = 0; i < work.count; i++) {
        free(work.titles[i].text);
        free(work.titles[i].review[SCATHING]);
        free(work.titles[i].review[KIND]);
    }
    free(work.titles);
    run_close(&work.run);
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
     .offset = AT(paired),
     .help = "gets {prompt, chosen: scathing, rejected: kind}; goes on where it ends"},
    {.name = "--unpaired",
     .value = "FILE",
     .kind = FLAG_FILE,
     .offset = AT(unpaired),
     .help = "gets the same as {prompt, completion, label}, two rows a title"},
    {.name = "--templates",
     .value = "DIR",
     .kind = FLAG_FOLDER,
     .offset = AT(templates),
     .help = "ask-scathing.txt, ask-kind.txt and plain.txt (those of configs/review-pairs)"},
    {.name = "--tries",
     .value = "N",
     .kind = FLAG_WHOLE,
     .offset = AT(tries),
     .low = 1,
     .high = TRIES_MAX,
     .help = "answers a title and kind, until one is well-formed (4)"},
    {.name = "--min-words",
     .value = "N",
     .kind = FLAG_WHOLE,
     .offset = AT(limits.min_words),
     .low = 1,
     .high = 100000,
     .help = "of a review (4)"},
    {.name = "--max-words",
     .value = "N",
     .kind = FLAG_WHOLE,
     .offset = AT(limits.max_words),
     .low = 1,
     .high = 100000,
     .help = "of a review (60)"},
    {.name = "--base", .kind = FLAG_SWITCH, .offset = AT(base), .help = "the base model of a CONFIG: adapters off"},
    SAMPLING_FLAGS(Arguments, sampling),
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
