// `kto data tokens`: each row of a file as the tokens that training makes of it, prompt and completion apart. JSON for
// programs, blocks of text for a person. Which tokens these are is src/data/dataset's.
#include "src/commands/commands.h"

#include "src/base/text.h"
#include "src/commands/data_model.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SEPARATOR "\xE2\x94\x82" // U+2502, a line that rows seldom hold

typedef struct Arguments {
    const char *template;                  // NULL: data.chat_template
    int64_t max_length, max_prompt_length; // 0, -1: the configuration's
    bool pairs, json;
} Arguments;

// What each line of the file goes through.
typedef struct Listing {
    DataModel model;
    RowTokens row;   // at hand
    TokenList plain; // of a line {"text"}
    bool json;
} Listing;

static const char *answer_name(const JsonlRow *row, int which) {
    return !row->paired ? "completion" : which == 0 ? "chosen" : "rejected";
}

static bool is_desirable(const JsonlRow *row, int which) {
    return row->paired ? which == 0 : row->label;
}

// --- JSON -----------------------------------------------------------------------------------------------------------

static json_t *json_ids(const int32_t *id, int32_t count) {
    json_t *out = json_array();
    for (int32_t i = 0; i < count; i++) json_array_append_new(out, json_integer(id[i]));
    return out;
}

static json_t *json_pieces(const Tokenizer *tokenizer, const int32_t *id, int32_t count) {
    json_t *out = json_array();
    for (int32_t i = 0; i < count; i++) {
        size_t bytes;
        const char *piece = tokenizer_piece(tokenizer, id[i], &bytes);
        json_array_append_new(out, json_stringn(piece, bytes));
    }
    return out;
}

// Takes the line; NULL where it could not be made.
static Status print_json(json_t *line) {
    const bool failed = line == NULL || json_dumpf(line, stdout, JSON_COMPACT) != 0;
    json_decref(line);
    if (failed && !ferror(stdout)) return error_set(STATUS_FAILED, "out of memory for a row's tokens");
    putchar('\n');
    return STATUS_OK;
}

static Status print_answer_json(const Listing *listing, uint32_t line, const JsonlRow *row, int which) {
    const Tokenizer *tokenizer = listing->model.tokenizer;
    const AnswerTokens *a = &listing->row.answer[which];
    const int32_t *id = a->all.id;
    return print_json(json_pack("{s:I s:s s:b s:b s:{s:o s:o s:o} s:{s:o s:o s:o} s:i}", "line", (json_int_t)line,
                                "answer", answer_name(row, which), "label", is_desirable(row, which), "dropped",
                                a->dropped, "prompt", "ids", json_ids(id + a->first, a->seam - a->first), "pieces",
                                json_pieces(tokenizer, id + a->first, a->seam - a->first), "cut",
                                json_ids(id, a->first), "completion", "ids", json_ids(id + a->seam, a->end - a->seam),
                                "pieces", json_pieces(tokenizer, id + a->seam, a->end - a->seam), "cut",
                                json_ids(id + a->end, a->all.count - a->end), "scored", a->end - a->seam));
}

// --- text -----------------------------------------------------------------------------------------------------------

// What a piece says, so that it can be seen: control characters, bytes that are no character and backslashes escaped.
static void print_escaped(const char *text, size_t bytes) {
    for (size_t i = 0, length; i < bytes; i += length) {
        const unsigned char *c = (const unsigned char *)text + i;
        length = utf8_length(c, bytes - i);
        const bool c1 = length == 2 && c[0] == 0xC2 && c[1] < 0xA0; // U+0080 to U+009F
        if (*c == '\n' || *c == '\t' || *c == '\r' || *c == '\\')
            printf("\\%c", *c == '\n' ? 'n' : *c == '\t' ? 't' : *c == '\r' ? 'r' : '\\');
        else if (c1)
            printf("\\u%04X", c[1]);
        else if (length == 0 || *c < 0x20 || *c == 0x7F)
            printf("\\x%02X", *c);
        else
            fwrite(c, 1, length, stdout);
        if (length == 0) length = 1;
    }
}

// A line "name: N tokens" and the pieces below it; a piece that ends a line of the text ends one here.
static Status print_part(const Tokenizer *tokenizer, const char *name, const int32_t *id, int32_t count) {
    printf("  %s: %d token%s\n", name, count, count == 1 ? "" : "s");
    bool begins = true;
    for (int32_t i = 0; i < count; i++) {
        char *text;
        size_t bytes;
        TRY(tokenizer_piece_text(tokenizer, id[i], &text, &bytes));
        const bool added = tokenizer_is_added(tokenizer, id[i]);
        printf("%s%s", begins ? "    " : SEPARATOR, added ? "\xC2\xAB" : "");
        print_escaped(text, bytes);
        begins = bytes > 0 && text[bytes - 1] == '\n';
        printf("%s%s", added ? "\xC2\xBB" : "", begins ? "\n" : "");
        free(text);
    }
    if (!begins) putchar('\n');
    return STATUS_OK;
}

static Status print_answer(const Listing *listing, const JsonlFile *file, uint32_t line, const JsonlRow *row,
                           int which) {
    const Tokenizer *tokenizer = listing->model.tokenizer;
    const DatasetOptions *rows = &listing->model.rows;
    const AnswerTokens *a = &listing->row.answer[which];
    const int32_t *id = a->all.id;
    char name[96];
    printf("%s:%u: %s, %s\n", file->path, line, answer_name(row, which),
           is_desirable(row, which) ? "desirable" : "undesirable");
    if (a->first > 0) {
        snprintf(name, sizeof name, "cut by max_prompt_length %lld", (long long)rows->max_prompt_length);
        TRY(print_part(tokenizer, name, id, a->first));
    }
    TRY(print_part(tokenizer, "prompt, not scored", id + a->first, a->seam - a->first));
    if (a->dropped)
        printf("  dropped: the prompt alone fills max_length %lld\n", (long long)rows->max_length);
    else
        TRY(print_part(tokenizer, "completion, scored", id + a->seam, a->end - a->seam));
    if (a->end == a->all.count) return STATUS_OK;
    snprintf(name, sizeof name, "cut by max_length %lld", (long long)rows->max_length);
    return print_part(tokenizer, name, id + a->end, a->all.count - a->end);
}

// --- lines ----------------------------------------------------------------------------------------------------------

static Status list_row(Listing *listing, const JsonlFile *file, uint32_t line, const JsonlRow *row) {
    const Status status = dataset_encode_row(&listing->row, row, listing->model.tokenizer, &listing->model.rows);
    if (status != STATUS_OK) return error_at(status, file->path, line);
    for (int which = 0; which < listing->row.count; which++)
        TRY(listing->json ? print_answer_json(listing, line, row, which)
                          : print_answer(listing, file, line, row, which));
    return STATUS_OK;
}

// A text's own tokens, with nothing that begins or ends a row.
static Status list_text(Listing *listing, const JsonlFile *file, uint32_t line, const char *text) {
    TokenList *ids = &listing->plain;
    ids->count = 0;
    const Status status =
        tokenizer_encode(listing->model.tokenizer, text, strlen(text), false, &ids->id, &ids->count, &ids->capacity);
    if (status != STATUS_OK) return error_at(status, file->path, line);
    if (listing->json) return print_json(json_pack("{s:o}", "ids", json_ids(ids->id, ids->count)));
    printf("%s:%u:\n", file->path, line);
    return print_part(listing->model.tokenizer, "text", ids->id, ids->count);
}

static Status list_line(Listing *listing, const JsonlFile *file, int64_t index) {
    JsonlRow row;
    char *text;
    const uint32_t line = file->line_number[index];
    Status status = jsonl_row_or_text(file, index, &row, &text);
    if (status == STATUS_OK)
        status = text != NULL ? list_text(listing, file, line, text) : list_row(listing, file, line, &row);
    jsonl_row_free(&row);
    free(text);
    if (status == STATUS_OK && ferror(stdout))
        status = error_set(STATUS_FAILED, "standard output: cannot be written: %s", strerror(errno));
    return status;
}

// --- the command ----------------------------------------------------------------------------------------------------

static Status open_model(DataModel *out, const char *model, const Arguments *arguments) {
    char text[DATA_MODEL_WORDS][PATH_MAX + 32], *words[DATA_MODEL_WORDS];
    const bool none = arguments->template != NULL && strcmp(arguments->template, "none") == 0;
    int count = 0;
    for (int i = 0; i < DATA_MODEL_WORDS; i++) words[i] = text[i];
    if (arguments->max_length > 0)
        snprintf(words[count++], sizeof text[0], "data.max_length=%lld", (long long)arguments->max_length);
    if (arguments->max_prompt_length >= 0)
        snprintf(words[count++], sizeof text[0], "data.max_prompt_length=%lld",
                 (long long)arguments->max_prompt_length);
    if (arguments->template != NULL && !none &&
        snprintf(words[count++], sizeof text[0], "data.chat_template=%s", arguments->template) >= (int)sizeof text[0])
        return error_set(STATUS_USAGE, "--template %.100s...: the path is too long", arguments->template);
    TRY(data_model_open(out, model, !none, count, words));
    if (arguments->pairs && !out->rows.pairs) {
        out->rows.pairs = true;
        out->rows.loss = "dpo";
    }
    return STATUS_OK;
}

static Status run_command(Comm *comm, int argc, char **argv) {
    (void)comm;
    Arguments arguments = {.max_prompt_length = -1};
    Listing listing = {0};
    JsonlFile file = {0};
    TRY(command_parse(&command_data_tokens, &argc, argv, &arguments));
    listing.json = arguments.json || !isatty(STDOUT_FILENO);
    Status status = open_model(&listing.model, argv[0], &arguments);
    if (status == STATUS_OK)
        status = argc < 2 || strcmp(argv[1], "-") == 0 ? jsonl_open_standard_input(&file) : jsonl_open(&file, argv[1]);
    for (int64_t i = 0; i < file.line_count && status == STATUS_OK; i++) status = list_line(&listing, &file, i);
    if (fflush(stdout) != 0 && status == STATUS_OK)
        status = error_set(STATUS_FAILED, "standard output: cannot be written: %s", strerror(errno));
    jsonl_close(&file);
    free(listing.plain.id);
    row_tokens_free(&listing.row);
    data_model_close(&listing.model);
    return status;
}

#define AT(field) offsetof(Arguments, field)
static const Flag flags[] = {{.name = "--max-length",
                              .value = "N",
                              .kind = FLAG_WHOLE,
                              .offset = AT(max_length),
                              .low = 2,
                              .high = 1e6,
                              .help = "data.max_length (a CONFIG's own, or 1024)"},
                             {.name = "--max-prompt-length",
                              .value = "N",
                              .kind = FLAG_WHOLE,
                              .offset = AT(max_prompt_length),
                              .low = 0,
                              .high = 1e6,
                              .help = "data.max_prompt_length; 0: none (a CONFIG's own, or 0)"},
                             {.name = "--template",
                              .value = "WORD",
                              .kind = FLAG_FILE,
                              .offset = AT(template),
                              .help = "data.chat_template: auto, a built-in one or a file; none: open none"},
                             {.name = "--pairs",
                              .kind = FLAG_SWITCH,
                              .offset = AT(pairs),
                              .help = "as kto.loss_type = \"dpo\" has them: one prompt for both answers"},
                             {.name = "--json", .kind = FLAG_SWITCH, .offset = AT(json), .help = "JSON on a terminal"},
                             {0}};

const Command command_data_tokens = {
    .name = "data tokens",
    .operands = "MODEL [FILE.jsonl]",
    .operands_min = 1,
    .operands_max = 2,
    .alone = true,
    .summary = "show the tokens that training makes of rows, what is scored and what is cut",
    .text = "MODEL is a model folder, of which the tokenizer's files are enough, a CONFIG or a RUN_DIR. Without FILE,\n"
            "or with -, rows come from standard input. On a terminal a block a row: pieces between bars, added tokens\n"
            "in \xC2\xABmarks\xC2\xBB, control characters escaped. Elsewhere, or with --json, one JSON object a row.\n"
            "A line {\"text\": ...} gives {\"ids\": [...]}, the text's own tokens with nothing added. The first bad\n"
            "row ends it.",
    .examples = "kto data tokens models/TinyLlama-1.1B-Chat-v1.0 rows.jsonl | less\n"
                "head -n 3 rows.jsonl | kto data tokens configs/demo/demo.cfg --max-length 32\n"
                "kto data tokens models/Qwen3-0.6B rows.jsonl | jq -c .completion.pieces",
    .flags = flags,
    .run = run_command,
};
