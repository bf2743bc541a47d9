// How the prompts of a run are built around what a person types: a text with a place for it, or messages of which the
// last is the person's. Taken from the run's own training rows (what all their prompts have in common), or from a file.
#pragma once
#include "io/jsonl.h"

#define PROMPT_FRAME_PLACE "{title}" // stands for the person's words in a file

typedef struct PromptFrame {
    bool chat;     // messages for the model's chat template; else one text
    Message *lead; // [lead_count] messages before the person's, e.g. a system message
    int lead_count;
    json_t *tools, *variables; // for the chat template, as rows have them; NULL: none, or not in all rows alike
    char *before, *after;      // around the person's words
} PromptFrame;

// What the prompts of the rows of `path` (the first thousand) have in common. STATUS_DATA naming the file.
Status prompt_frame_of_rows(PromptFrame *out, const char *path);
// A plain text with one {title}. STATUS_DATA naming the file.
Status prompt_frame_of_file(PromptFrame *out, const char *path);
// The frame for a run's prompts: of `file` where it is not NULL, else of the rows of `rows`. Where these cannot be
// read, the chat template with nothing before a person's words (has_template), or their bare words: then *why gets the
// reason, which the caller frees and no error is set. STATUS_DATA too where prompts are messages and the model has no
// template.
Status prompt_frame_open(PromptFrame *out, const char *file, const char *rows, bool has_template, char **why);
void prompt_frame_free(PromptFrame *frame);

// The prompt for a person's words alone. Free with jsonl_prompt_free.
Status prompt_frame_fill(const PromptFrame *frame, const char *words, TextOrMessages *out);
// The prompt for a conversation that ends with the person's message: with chat, the lead and all messages (a system
// message of theirs takes the lead's place); without, the person's last words alone. STATUS_USAGE when the last message
// is not a user's.
Status prompt_frame_converse(const PromptFrame *frame, const Message *messages, int count, TextOrMessages *out);
// The person's words in a prompt that the frame fits; NULL where it does not fit. Caller frees.
char *prompt_frame_words(const PromptFrame *frame, const TextOrMessages *prompt);
// In one line, for people.
void prompt_frame_describe(const PromptFrame *frame, char *text, size_t size);
