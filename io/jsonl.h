// Dataset rows from a JSONL file (one object a line), memory-mapped and indexed by line, so that ranks and threads can
// read any line on their own.
#pragma once
#include "io/message.h"
#include "src/base/status.h"
#include <stddef.h>
#include <stdint.h>

// A prompt or a completion: plain text, or messages for the chat template.
typedef struct TextOrMessages {
    char *text;        // NULL when messages are given
    Message *messages; // [message_count]
    int message_count;
    json_t *tools, *variables; // of a prompt that is messages: what else its chat template gets, or NULL
} TextOrMessages;

// One line. A prompt may come with "tools" (a list, or its JSON as a text) and "chat_template_kwargs" (an object), as
// TRL takes them. label form: completion[0], label. Paired form: completion[0] = chosen, completion[1] = rejected.
typedef struct JsonlRow {
    TextOrMessages prompt, completion[2];
    bool paired;
    bool label; // of the unpaired form
    float weight;
} JsonlRow;

typedef struct JsonlFile {
    const char *path;
    const char *bytes; // mapped
    size_t size;
    uint64_t *line_first;  // [line_count + 1], byte offsets of non-blank lines; the last is the end
    uint32_t *line_number; // [line_count], 1-based, in the file
    int64_t line_count;
} JsonlFile;

// STATUS_DATA when the file is missing, unreadable or holds no row.
Status jsonl_open(JsonlFile *out, const char *path);
// The same of standard input, read to its end; messages call it that.
Status jsonl_open_standard_input(JsonlFile *out);
void jsonl_close(JsonlFile *file);

// Parses and checks one row (index in [0, line_count)). STATUS_DATA with "FILE:LINE: what; what to do": broken JSON,
// missing or mistyped field, empty completion, label that is neither boolean nor 0/1, weight <= 0, invalid UTF-8, NUL
// in a text that is used. Free with jsonl_row_free, also after an error. Thread-safe.
Status jsonl_row(const JsonlFile *file, int64_t index, JsonlRow *out);
// The same, but a line {"text": "..."}, without a prompt, is taken, too: *text gets it, which the caller frees, and
// *out is empty; NULL for a row.
Status jsonl_row_or_text(const JsonlFile *file, int64_t index, JsonlRow *out, char **text);
// A line of a prompts file: only {"prompt": str or messages} is required, and but for tools and chat_template_kwargs
// the rest ignored.
Status jsonl_prompt(const JsonlFile *file, int64_t index, TextOrMessages *out);
void jsonl_row_free(JsonlRow *row);
void jsonl_prompt_free(TextOrMessages *prompt);

// {"prompt": ..., "completion": ...} plus optional "step" (step < 0: left out) as one JSON line (no newline); the
// prompt as it was given. Caller frees; NULL when out of memory.
char *jsonl_sample_line(const TextOrMessages *prompt, const char *completion, int64_t step);
// The step of such a line; -1: it has none, or is no whole line.
int64_t jsonl_sample_step(const char *line, size_t bytes);
