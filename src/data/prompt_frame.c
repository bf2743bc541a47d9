// See prompt_frame.h.
#include "src/data/prompt_frame.h"

#include "io/files.h"
#include "src/base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_MAX       1000      // that are compared
#define FRAME_FILE_MAX (1 << 20) // bytes

static Status join(const char *a, const char *b, const char *c, char **out) {
    const size_t size = strlen(a) + strlen(b) + strlen(c) + 1;
    *out = malloc(size);
    if (*out == NULL) return error_set(STATUS_FAILED, "out of memory for a prompt");
    snprintf(*out, size, "%s%s%s", a, b, c);
    return STATUS_OK;
}

static Status copy_message(const char *role, const char *before, const char *content, const char *after, Message *out) {
    TRY(join(role, "", "", &out->role));
    return join(before, content, after, &out->content);
}

// --- what prompts have in common ------------------------------------------------------------------------------------

static bool within_character(const char *at) {
    return ((unsigned char)*at & 0xc0) == 0x80; // a continuation byte of UTF-8
}

// Cuts `text` to its last `length` bytes, or fewer: whole characters.
static void keep_end(char *text, size_t length) {
    const size_t all = strlen(text);
    while (length > 0 && within_character(text + all - length)) length--;
    memmove(text, text + all - length, length + 1);
}

// Cuts before and after to what `words` has in common with them; whole characters.
static void narrow(char *before, char *after, const char *words) {
    size_t n = 0, m = 0;
    while (before[n] != '\0' && before[n] == words[n]) n++;
    while (n > 0 && (within_character(before + n) || within_character(words + n))) n--;
    before[n] = '\0';
    const size_t a = strlen(after), w = strlen(words);
    while (m < a && m < w && after[a - 1 - m] == words[w - 1 - m]) m++;
    keep_end(after, m);
}

static const char *persons_words(const TextOrMessages *prompt) {
    return prompt->text != NULL ? prompt->text : prompt->messages[prompt->message_count - 1].content;
}

static bool same_lead(const PromptFrame *frame, const TextOrMessages *prompt) {
    if (prompt->message_count - 1 != frame->lead_count) return false;
    for (int i = 0; i < frame->lead_count; i++)
        if (!message_same(&frame->lead[i], &prompt->messages[i])) return false;
    return true;
}

static void drop_lead(PromptFrame *frame) {
    for (int i = 0; i < frame->lead_count; i++) message_free(&frame->lead[i]);
    free(frame->lead);
    frame->lead = NULL;
    frame->lead_count = 0;
}

// Forgets what not all prompts have alike.
static void keep_same(json_t **common, const json_t *other) {
    if (*common == other || json_equal(*common, other)) return;
    json_decref(*common);
    *common = NULL;
}

static Status start_from(PromptFrame *frame, const TextOrMessages *prompt) {
    frame->chat = prompt->text == NULL;
    if (frame->chat) {
        TRY(MEMORY_ALLOC(frame->lead, prompt->message_count, "a prompt"));
        for (; frame->lead_count < prompt->message_count - 1; frame->lead_count++)
            TRY(message_copy(&prompt->messages[frame->lead_count], &frame->lead[frame->lead_count]));
        frame->tools = json_incref(prompt->tools);
        frame->variables = json_incref(prompt->variables);
    }
    TRY(join(persons_words(prompt), "", "", &frame->before));
    return join(persons_words(prompt), "", "", &frame->after);
}

Status prompt_frame_of_rows(PromptFrame *out, const char *path) {
    *out = (PromptFrame){0};
    JsonlFile file = {0};
    Status status = jsonl_open(&file, path);
    bool differ = false; // in their words
    size_t shortest = 0;
    for (int64_t i = 0; i < file.line_count && i < ROWS_MAX && status == STATUS_OK; i++) {
        TextOrMessages prompt = {0};
        status = jsonl_prompt(&file, i, &prompt);
        if (status == STATUS_OK && i == 0) {
            status = start_from(out, &prompt);
            shortest = strlen(persons_words(&prompt));
        } else if (status == STATUS_OK && (prompt.text == NULL) == out->chat) {
            // Conversations of several turns have no lead in common; the last message is still a person's.
            if (out->chat && !same_lead(out, &prompt)) drop_lead(out);
            keep_same(&out->tools, prompt.tools);
            keep_same(&out->variables, prompt.variables);
            differ |= strcmp(persons_words(&prompt), out->before) != 0;
            narrow(out->before, out->after, persons_words(&prompt));
            if (strlen(persons_words(&prompt)) < shortest) shortest = strlen(persons_words(&prompt));
        }
        jsonl_prompt_free(&prompt);
    }
    jsonl_close(&file);
    if (status == STATUS_OK) {
        // Of prompts that are all the same nothing is common; what both ends could claim goes to the front.
        if (!differ) out->before[0] = out->after[0] = '\0';
        const size_t room = shortest - strlen(out->before);
        if (strlen(out->after) > room) keep_end(out->after, room);
    }
    if (status != STATUS_OK) prompt_frame_free(out);
    return status;
}

Status prompt_frame_of_file(PromptFrame *out, const char *path) {
    *out = (PromptFrame){0};
    char *text = NULL;
    size_t size = 0;
    TRY(file_read(path, FRAME_FILE_MAX, &text, &size));
    char *place = strstr(text, PROMPT_FRAME_PLACE);
    Status status = STATUS_OK;
    if (place == NULL || strlen(text) != size || strstr(place + 1, PROMPT_FRAME_PLACE) != NULL) {
        status = error_set(STATUS_DATA, "%s: must hold " PROMPT_FRAME_PLACE " once, where a person's words go", path);
    } else {
        *place = '\0';
        status = join(text, "", "", &out->before);
        if (status == STATUS_OK) status = join(place + strlen(PROMPT_FRAME_PLACE), "", "", &out->after);
    }
    free(text);
    if (status != STATUS_OK) prompt_frame_free(out);
    return status;
}

Status prompt_frame_open(PromptFrame *out, const char *file, const char *rows, bool has_template, char **why) {
    *why = NULL;
    if (file != NULL) return prompt_frame_of_file(out, file);
    Status status = prompt_frame_of_rows(out, rows);
    if (status == STATUS_DATA) {
        status = join(error_text(), "", "", why);
        error_clear();
        out->chat = has_template;
        if (status == STATUS_OK) status = join("", "", "", &out->before);
        if (status == STATUS_OK) status = join("", "", "", &out->after);
    }
    if (status == STATUS_OK && out->chat && !has_template)
        status =
            error_set(STATUS_DATA,
                      "%s: its prompts are messages, but the model has no chat template; set data.chat_template, or "
                      "give --prompt-template FILE",
                      rows);
    return status;
}

void prompt_frame_free(PromptFrame *frame) {
    drop_lead(frame);
    json_decref(frame->tools);
    json_decref(frame->variables);
    free(frame->before);
    free(frame->after);
    *frame = (PromptFrame){0};
}

// --- prompts --------------------------------------------------------------------------------------------------------

Status prompt_frame_converse(const PromptFrame *frame, const Message *messages, int count, TextOrMessages *out) {
    *out = (TextOrMessages){0};
    if (count == 0 || strcmp(messages[count - 1].role, "user") != 0)
        return error_set(STATUS_USAGE, "the last message must be the user's");
    const char *before = frame->before, *after = frame->after;
    if (!frame->chat) return join(before, messages[count - 1].content, after, &out->text);
    const int lead = strcmp(messages[0].role, "system") == 0 ? 0 : frame->lead_count;
    TRY(MEMORY_ALLOC(out->messages, lead + count, "a prompt"));
    Status status = STATUS_OK;
    for (int i = 0; i < lead + count && status == STATUS_OK; i++) {
        const Message *from = i < lead ? &frame->lead[i] : &messages[i - lead];
        const bool persons = i >= lead && strcmp(from->role, "user") == 0;
        out->message_count = i + 1;
        status = persons ? copy_message(from->role, before, from->content, after, &out->messages[i])
                         : message_copy(from, &out->messages[i]);
    }
    out->tools = json_incref(frame->tools);
    out->variables = json_incref(frame->variables);
    if (status != STATUS_OK) jsonl_prompt_free(out);
    return status;
}

Status prompt_frame_fill(const PromptFrame *frame, const char *words, TextOrMessages *out) {
    const Message message = {.role = "user", .content = (char *)words};
    return prompt_frame_converse(frame, &message, 1, out);
}

char *prompt_frame_words(const PromptFrame *frame, const TextOrMessages *prompt) {
    if ((prompt->text == NULL) != frame->chat) return NULL;
    const char *words = persons_words(prompt);
    const size_t before = strlen(frame->before), after = strlen(frame->after), length = strlen(words);
    if (length < before + after || strncmp(words, frame->before, before) != 0 ||
        strcmp(words + length - after, frame->after) != 0)
        return NULL;
    return strndup(words + before, length - before - after);
}

// As much of a text as a line has room for; line ends as \n.
static void quote(const char *text, char *out, size_t size) {
    size_t used = 0;
    for (; *text != '\0' && used + 8 < size; text++) {
        if (*text == '\n')
            used += (size_t)snprintf(out + used, size - used, "\\n");
        else
            out[used++] = *text;
    }
    snprintf(out + used, size - used, "%s", *text == '\0' ? "" : "...");
}

void prompt_frame_describe(const PromptFrame *frame, char *text, size_t size) {
    char before[80], after[80];
    quote(frame->before, before, sizeof before);
    quote(frame->after, after, sizeof after);
    if (frame->chat)
        snprintf(text, size, "chat, %d message%s before the person's \"%s" PROMPT_FRAME_PLACE "%s\"", frame->lead_count,
                 frame->lead_count == 1 ? "" : "s", before, after);
    else
        snprintf(text, size, "\"%s" PROMPT_FRAME_PLACE "%s\"", before, after);
}
