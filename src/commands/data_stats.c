// `kto data stats`: what is in files of rows, before anything is trained on them. Text for a person, or JSON.
#include "src/commands/commands.h"

#include "io/config.h"
#include "io/files.h"
#include "src/base/memory.h"
#include "src/data/dataset.h"
#include "src/data/lengths.h"
#include "src/data/rows.h"
#include "src/model/arch.h"
#include "src/setup/run.h"
#include "src/train/kto.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define SHOWN_MAX 20 // bad rows and contradictions that the text names; JSON names all

typedef struct Arguments {
    const char *model;
    int64_t max_length; // 0: not given
    bool json;
} Arguments;

// What counts lengths: the tokens of a model, or characters.
typedef struct Ruler {
    Tokenizer *tokenizer; // NULL: characters
    ChatTemplate *chat;
    int64_t max_length, max_prompt_length; // 0: none
} Ruler;

typedef struct Answer {
    uint64_t prompt, both; // hashes
    uint32_t line;
    bool label;
    int32_t prompt_length, completion_length;
} Answer;

typedef struct BadRow {
    uint32_t line;
    char *message; // with FILE:LINE
} BadRow;

typedef struct Contradiction {
    uint32_t desirable, undesirable; // lines
} Contradiction;

// What is known of one file.
typedef struct Figures {
    const char *path;
    int64_t lines, pairs, count[2]; // count: rows by label
    Answer *answers;                // [answer_count], sorted by prompt and answer
    int64_t answer_count;
    BadRow *bad; // [bad_count]
    int64_t bad_count;
    Contradiction *contradictions; // [contradiction_count]
    int64_t contradiction_count;
    int64_t prompts, repeats;   // distinct prompts; rows whose prompt and completion were there before
    int64_t dropped, cut, lost; // by max_length: rows, completions, tokens of these
    int64_t prompts_cut;        // by max_prompt_length
    int64_t weighted;           // rows of another weight than 1
    int32_t *lengths[2];        // [answer_count], sorted: of prompts and of completions
    Lengths prompt, completion;
} Figures;

// --- reading --------------------------------------------------------------------------------------------------------

static int32_t text_characters(const char *text) {
    int32_t n = 0;
    for (; *text != '\0'; text++) n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

static int32_t characters(const TextOrMessages *value) {
    if (value->text != NULL) return text_characters(value->text);
    int32_t n = 0;
    for (int i = 0; i < value->message_count; i++) n += text_characters(value->messages[i].content);
    return n;
}

static Status measure_row(const Ruler *ruler, const JsonlRow *row, int which, Answer *out) {
    if (ruler->tokenizer != NULL)
        return dataset_lengths(&row->prompt, &row->completion[which], ruler->tokenizer, ruler->chat,
                               &out->prompt_length, &out->completion_length);
    out->prompt_length = characters(&row->prompt);
    out->completion_length = characters(&row->completion[which]);
    return STATUS_OK;
}

static Status add_line(const Ruler *ruler, const JsonlFile *file, int64_t index, Figures *out) {
    JsonlRow row;
    Answer *to = out->answers + out->answer_count;
    Status status = jsonl_row(file, index, &row);
    const int answers = row.paired ? 2 : 1;
    for (int which = 0; which < answers && status == STATUS_OK; which++) {
        status = measure_row(ruler, &row, which, &to[which]);
        if (status != STATUS_OK) {
            status = error_at(status, file->path, file->line_number[index]);
            break;
        }
        to[which].line = file->line_number[index];
        to[which].label = row.paired ? which == 0 : row.label;
        to[which].prompt = data_hash(0, &row.prompt);
        to[which].both = data_hash(to[which].prompt, &row.completion[which]);
    }
    if (status == STATUS_OK) {
        out->pairs += row.paired;
        out->answer_count += answers;
        if (row.weight != 1) out->weighted += answers;
        for (int which = 0; which < answers; which++) out->count[to[which].label]++;
    }
    jsonl_row_free(&row);
    if (status != STATUS_DATA) return status;
    BadRow *bad = &out->bad[out->bad_count];
    *bad = (BadRow){file->line_number[index], strdup(error_text())};
    error_clear();
    if (bad->message == NULL) return error_set(STATUS_FAILED, "out of memory for bad rows");
    out->bad_count++;
    return STATUS_OK;
}

// --- counting -------------------------------------------------------------------------------------------------------

static int by_prompt_and_answer(const void *a, const void *b) {
    const Answer *x = a, *y = b;
    if (x->prompt != y->prompt) return x->prompt < y->prompt ? -1 : 1;
    if (x->both != y->both) return x->both < y->both ? -1 : 1;
    return x->line < y->line ? -1 : x->line > y->line;
}

static int by_desirable_line(const void *a, const void *b) {
    const Contradiction *x = a, *y = b;
    return x->desirable < y->desirable ? -1 : x->desirable > y->desirable;
}

static Status count_repeats(Figures *f) {
    TRY(MEMORY_ALLOC(f->contradictions, f->answer_count, "contradictions"));
    qsort(f->answers, (size_t)f->answer_count, sizeof *f->answers, by_prompt_and_answer);
    for (int64_t first = 0, end; first < f->answer_count; first = end) {
        uint32_t line[2] = {0, 0}; // the first of each label
        const Answer *a = &f->answers[first];
        for (end = first; end < f->answer_count && f->answers[end].both == a->both; end++)
            if (line[f->answers[end].label] == 0) line[f->answers[end].label] = f->answers[end].line;
        f->prompts += first == 0 || a->prompt != a[-1].prompt;
        f->repeats += end - first - 1;
        if (line[0] > 0 && line[1] > 0) f->contradictions[f->contradiction_count++] = (Contradiction){line[1], line[0]};
    }
    qsort(f->contradictions, (size_t)f->contradiction_count, sizeof *f->contradictions, by_desirable_line);
    return STATUS_OK;
}

// What training would do with rows of these lengths (src/data/dataset.c).
static void count_cuts(const Ruler *ruler, Figures *f) {
    for (int64_t i = 0; i < f->answer_count && ruler->max_length > 0; i++) {
        int64_t prompt = f->answers[i].prompt_length;
        if (ruler->max_prompt_length > 0 && prompt > ruler->max_prompt_length) {
            prompt = ruler->max_prompt_length;
            f->prompts_cut++;
        }
        const int64_t over = prompt + f->answers[i].completion_length - ruler->max_length;
        if (prompt >= ruler->max_length) {
            f->dropped++;
        } else if (over > 0) {
            f->cut++;
            f->lost += over;
        }
    }
}

static Status count_lengths(Figures *f) {
    for (int i = 0; i < 2; i++) TRY(MEMORY_ALLOC(f->lengths[i], f->answer_count, "lengths"));
    for (int64_t i = 0; i < f->answer_count; i++) {
        f->lengths[0][i] = f->answers[i].prompt_length;
        f->lengths[1][i] = f->answers[i].completion_length;
    }
    f->prompt = lengths_of(f->lengths[0], f->answer_count);
    f->completion = lengths_of(f->lengths[1], f->answer_count);
    return STATUS_OK;
}

static Status read_figures(const Ruler *ruler, const char *path, Figures *out) {
    JsonlFile file = {0};
    TRY(jsonl_open(&file, path));
    out->path = path;
    out->lines = file.line_count;
    Status status = MEMORY_ALLOC(out->answers, 2 * file.line_count, "rows");
    if (status == STATUS_OK) status = MEMORY_ALLOC(out->bad, file.line_count, "bad rows");
    for (int64_t i = 0; i < file.line_count && status == STATUS_OK; i++) status = add_line(ruler, &file, i, out);
    jsonl_close(&file);
    if (status == STATUS_OK) status = count_repeats(out);
    if (status == STATUS_OK) status = count_lengths(out);
    if (status == STATUS_OK) count_cuts(ruler, out);
    return status;
}

static void free_figures(Figures *f) {
    for (int64_t i = 0; i < f->bad_count; i++) free(f->bad[i].message);
    free(f->bad);
    free(f->answers);
    free(f->contradictions);
    free(f->lengths[0]);
    free(f->lengths[1]);
}

// Distinct prompts, and rows of b with prompt and completion, that are in both files.
typedef struct Overlap {
    int64_t prompts, answers;
} Overlap;

static Overlap overlap(const Figures *a, const Figures *b) {
    Overlap out = {0};
    int64_t i = 0, j = 0;
    while (i < a->answer_count && j < b->answer_count) {
        const uint64_t prompt = a->answers[i].prompt, other = b->answers[j].prompt;
        int64_t i_end = i, j_end = j;
        while (i_end < a->answer_count && a->answers[i_end].prompt == prompt) i_end++;
        while (j_end < b->answer_count && b->answers[j_end].prompt == other) j_end++;
        if (prompt == other) {
            out.prompts++;
            for (int64_t y = j, x = i; y < j_end; y++) { // both sorted by answer
                while (x < i_end && a->answers[x].both < b->answers[y].both) x++;
                out.answers += x < i_end && a->answers[x].both == b->answers[y].both;
            }
        }
        if (prompt <= other) i = i_end;
        if (other <= prompt) j = j_end;
    }
    return out;
}

// --- text -----------------------------------------------------------------------------------------------------------

static void print_lengths(const char *name, const Lengths *l, const int32_t *values, const char *unit) {
    const int64_t *q = l->quantile;
    printf("  %-13s %s: least %lld, 10 %% up to %lld, half up to %lld, 90 %% up to %lld, 99 %% up to %lld, most %lld, "
           "mean %.1f\n",
           name, unit, (long long)q[Q_LEAST], (long long)q[Q_10], (long long)q[Q_50], (long long)q[Q_90],
           (long long)q[Q_99], (long long)q[Q_MOST], l->mean);
    lengths_histogram(values, l->count, "    ", stdout);
}

static void print_balance(const Figures *f) {
    printf("  %-13s %lld: %lld desirable, %lld undesirable", "rows", (long long)f->answer_count, (long long)f->count[1],
           (long long)f->count[0]);
    double low, high;
    const KtoOptions equal = {.desirable_weight = 1, .undesirable_weight = 1};
    if (f->count[0] == 0 || f->count[1] == 0)
        printf("; KTO learns from the difference between both labels");
    else if (!kto_weights_in_range(&equal, f->count[1], f->count[0], &low, &high))
        printf("; kto.desirable_weight from %.2f to %.2f would balance them (eq. 8 of the paper)", low, high);
    printf("\n");
    if (f->weighted > 0) printf("  %-13s %lld rows have another weight than 1\n", "", (long long)f->weighted);
}

static void print_figures(const Ruler *ruler, const Figures *f) {
    const char *unit = ruler->tokenizer != NULL ? "tokens" : "characters";
    printf("%s\n", f->path);
    printf("  %-13s %lld, %lld of them pairs, %lld bad\n", "lines", (long long)f->lines, (long long)f->pairs,
           (long long)f->bad_count);
    for (int64_t i = 0; i < f->bad_count && i < SHOWN_MAX; i++) printf("    %s\n", f->bad[i].message);
    if (f->bad_count > SHOWN_MAX) printf("    and %lld more\n", (long long)(f->bad_count - SHOWN_MAX));
    print_balance(f);
    printf("  %-13s %lld distinct\n", "prompts", (long long)f->prompts);
    printf("  %-13s %lld rows repeat prompt and completion of another\n", "repeats", (long long)f->repeats);
    printf("  %-13s %lld answers have both labels\n", "contradictory", (long long)f->contradiction_count);
    for (int64_t i = 0; i < f->contradiction_count && i < SHOWN_MAX; i++)
        printf("    %s:%u: is desirable, and %s in line %u\n", f->path, f->contradictions[i].desirable, "undesirable",
               f->contradictions[i].undesirable);
    if (f->contradiction_count > SHOWN_MAX)
        printf("    and %lld more\n", (long long)(f->contradiction_count - SHOWN_MAX));
    if (f->answer_count == 0) return;
    print_lengths("prompt", &f->prompt, f->lengths[0], unit);
    print_lengths("completion", &f->completion, f->lengths[1], unit);
    if (ruler->max_length == 0) return;
    printf("  %-13s %lld drops %lld rows, whose prompt alone fills it, and cuts %lld completions by %lld tokens\n",
           "max_length", (long long)ruler->max_length, (long long)f->dropped, (long long)f->cut, (long long)f->lost);
    if (ruler->max_prompt_length > 0)
        printf("  %-13s max_prompt_length %lld cuts the prompts of %lld rows\n", "",
               (long long)ruler->max_prompt_length, (long long)f->prompts_cut);
}

static void print_overlaps(const Figures *figures, int count) {
    for (int b = 1; b < count; b++)
        for (int a = 0; a < b; a++) {
            const Overlap both = overlap(&figures[a], &figures[b]);
            printf("%s and %s\n  %-13s %lld prompts are in both; %lld rows of %s are in %s with their completion\n",
                   figures[a].path, figures[b].path, "shared", (long long)both.prompts, (long long)both.answers,
                   figures[b].path, figures[a].path);
        }
}

// --- JSON -----------------------------------------------------------------------------------------------------------

static json_t *json_lengths(const Lengths *l) {
    const int64_t *q = l->quantile;
    return json_pack("{s:I s:I s:I s:I s:I s:I s:f}", "min", (json_int_t)q[Q_LEAST], "p10", (json_int_t)q[Q_10], "p50",
                     (json_int_t)q[Q_50], "p90", (json_int_t)q[Q_90], "p99", (json_int_t)q[Q_99], "max",
                     (json_int_t)q[Q_MOST], "mean", l->mean);
}

static json_t *json_figures(const Ruler *ruler, const Figures *f) {
    json_t *bad = json_array(), *contradictions = json_array();
    for (int64_t i = 0; i < f->bad_count; i++)
        json_array_append_new(bad,
                              json_pack("{s:I s:s}", "line", (json_int_t)f->bad[i].line, "message", f->bad[i].message));
    for (int64_t i = 0; i < f->contradiction_count; i++)
        json_array_append_new(contradictions,
                              json_pack("{s:I s:I}", "desirable_line", (json_int_t)f->contradictions[i].desirable,
                                        "undesirable_line", (json_int_t)f->contradictions[i].undesirable));
    json_t *out = json_pack("{s:s s:I s:I s:I s:I s:I s:I s:I s:I s:o s:o s:o s:o}", "path", f->path, "lines",
                            (json_int_t)f->lines, "pairs", (json_int_t)f->pairs, "rows", (json_int_t)f->answer_count,
                            "desirable", (json_int_t)f->count[1], "undesirable", (json_int_t)f->count[0], "weighted",
                            (json_int_t)f->weighted, "prompts", (json_int_t)f->prompts, "repeats",
                            (json_int_t)f->repeats, "contradictions", contradictions, "bad", bad, "prompt_length",
                            json_lengths(&f->prompt), "completion_length", json_lengths(&f->completion));
    if (out != NULL && ruler->max_length > 0)
        json_object_set_new(out, "cut",
                            json_pack("{s:I s:I s:I s:I s:I s:I}", "max_length", (json_int_t)ruler->max_length,
                                      "max_prompt_length", (json_int_t)ruler->max_prompt_length, "rows_dropped",
                                      (json_int_t)f->dropped, "completions_cut", (json_int_t)f->cut, "tokens_cut",
                                      (json_int_t)f->lost, "prompts_cut", (json_int_t)f->prompts_cut));
    return out;
}

static Status print_json(const Ruler *ruler, const Figures *figures, int count) {
    json_t *files = json_array(), *shared = json_array();
    for (int i = 0; i < count; i++) json_array_append_new(files, json_figures(ruler, &figures[i]));
    for (int b = 1; b < count; b++)
        for (int a = 0; a < b; a++) {
            const Overlap both = overlap(&figures[a], &figures[b]);
            json_array_append_new(shared,
                                  json_pack("{s:[s,s] s:I s:I}", "files", figures[a].path, figures[b].path, "prompts",
                                            (json_int_t)both.prompts, "rows", (json_int_t)both.answers));
        }
    json_t *all = json_pack("{s:s s:o s:o}", "unit", ruler->tokenizer != NULL ? "tokens" : "characters", "files", files,
                            "shared", shared);
    char *text = all == NULL ? NULL : json_dumps(all, JSON_REAL_PRECISION(6));
    json_decref(all);
    if (text == NULL)
        return error_set(STATUS_FAILED,
                         "the figures cannot be written as JSON (a path that is not UTF-8, or no memory)");
    puts(text);
    free(text);
    return STATUS_OK;
}

// --- the command ----------------------------------------------------------------------------------------------------

// `model` is a model folder, a run directory, or a configuration, whose model, template and lengths are then taken.
static Status open_ruler(Ruler *ruler, const Arguments *arguments) {
    char path[PATH_MAX];
    struct stat info;
    if (arguments->model == NULL) {
        if (arguments->max_length == 0) return STATUS_OK;
        return error_set(STATUS_USAGE, "--max-length counts tokens; name their model by --model");
    }
    const char *folder = arguments->model, *chat = "auto";
    time_t now = time(NULL);
    snprintf(path, sizeof path, "%s/config.cfg", folder);
    const bool is_run = file_exists(path);
    Config config;
    if (is_run || (stat(folder, &info) == 0 && !S_ISDIR(info.st_mode))) {
        TRY(config_load(&config, arch_modules, is_run ? path : arguments->model, 0, NULL));
        folder = config.model.path;
        chat = config.data.chat_template;
        TRY(run_today(&config, &now));
        ruler->max_length = config.data.max_length;
        ruler->max_prompt_length = config.data.max_prompt_length;
    }
    if (arguments->max_length > 0) {
        ruler->max_length = arguments->max_length;
        ruler->max_prompt_length = 0;
    }
    TRY(tokenizer_open(&ruler->tokenizer, folder));
    return chat_template_open(&ruler->chat, folder, chat, tokenizer_bos_text(ruler->tokenizer),
                              tokenizer_eos_text(ruler->tokenizer), now);
}

static Status run_command(Comm *comm, int argc, char **argv) {
    (void)comm;
    Arguments arguments = {0};
    Ruler ruler = {0};
    Figures *figures = NULL;
    TRY(command_parse(&command_data_stats, &argc, argv, &arguments));
    TRY(MEMORY_ALLOC(figures, argc, "files"));
    Status status = open_ruler(&ruler, &arguments);
    for (int i = 0; i < argc && status == STATUS_OK; i++) status = read_figures(&ruler, argv[i], &figures[i]);
    if (status == STATUS_OK && arguments.json) status = print_json(&ruler, figures, argc);
    if (status == STATUS_OK && !arguments.json) {
        for (int i = 0; i < argc; i++) print_figures(&ruler, &figures[i]);
        print_overlaps(figures, argc);
    }
    if (status == STATUS_OK && (fflush(stdout) != 0 || ferror(stdout)))
        status = error_set(STATUS_FAILED, "standard output: cannot be written: %s", strerror(errno));
    for (int i = 0; i < argc; i++) free_figures(&figures[i]);
    free(figures);
    chat_template_close(ruler.chat);
    tokenizer_close(ruler.tokenizer);
    return status;
}

#define AT(field) offsetof(Arguments, field)
static const Flag flags[] = {{.name = "--model",
                              .value = "MODEL",
                              .kind = FLAG_FILE,
                              .offset = AT(model),
                              .help = "count tokens: a model folder, CONFIG or RUN_DIR; else characters"},
                             {.name = "--max-length",
                              .value = "N",
                              .kind = FLAG_WHOLE,
                              .offset = AT(max_length),
                              .low = 2,
                              .high = INT32_MAX,
                              .help = "what data.max_length = N would cut (a CONFIG's own)"},
                             {.name = "--json", .kind = FLAG_SWITCH, .offset = AT(json), .help = "one JSON object"},
                             {0}};

const Command command_data_stats = {
    .name = "data stats",
    .operands = "FILE.jsonl [FILE.jsonl ...]",
    .operands_min = 1,
    .operands_max = -1,
    .alone = true,
    .summary = "count rows, labels, lengths, repeats and contradictions; name bad rows",
    .text = "Of several files, also which prompts are in more than one. Bad rows do not stop it.",
    .examples = "kto data stats train.jsonl eval.jsonl --model models/TinyLlama-1.1B-Chat-v1.0 --max-length 512\n"
                "kto data stats rows.jsonl --json | jq .files[0].bad",
    .flags = flags,
    .run = run_command,
};
