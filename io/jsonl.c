// JSONL rows: maps the file, indexes its lines, and turns one line into a checked row (jansson parses). What a row
// means for training (tokens, pairs, lengths) is left to src/dataset.
#include "io/jsonl.h"

#include "io/json_file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_BYTES_MAX     ((size_t)64 << 20) // longer than any row, and far below jansson's own limits
#define LINES_MAX          UINT32_MAX         // of a file: line numbers are 32 bits
#define MESSAGES_MAX       65536              // of one conversation
#define LINES_FIRST_GUESS  1024
#define STREAM_FIRST_GUESS ((size_t)1 << 20)
#define VALUE_TEXT_MAX     48 // of a wrong value, quoted in a message

#define ROW_FORMS "a row is {\"prompt\", \"completion\", \"label\"} or {\"prompt\", \"chosen\", \"rejected\"}"

static const char byte_order_mark[] = "\xEF\xBB\xBF";

static Status no_memory(const char *path) {
    return error_set(STATUS_FAILED, "%s: not enough memory to read it", path);
}

static bool is_blank(const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (text[i] != ' ' && text[i] != '\t' && text[i] != '\r') return false;
    return true;
}

static Status index_lines(JsonlFile *file) {
    size_t capacity = 0, count = 0, number = 0;
    size_t position = file->size >= 3 && memcmp(file->bytes, byte_order_mark, 3) == 0 ? 3 : 0;
    for (;;) {
        if (count + 1 >= capacity) {
            capacity = capacity == 0 ? LINES_FIRST_GUESS : 2 * capacity;
            uint64_t *first = realloc(file->line_first, capacity * sizeof *first);
            if (first == NULL) return no_memory(file->path);
            file->line_first = first;
            uint32_t *numbers = realloc(file->line_number, capacity * sizeof *numbers);
            if (numbers == NULL) return no_memory(file->path);
            file->line_number = numbers;
        }
        if (position >= file->size) break;
        const char *line = file->bytes + position;
        const char *end = memchr(line, '\n', file->size - position);
        size_t bytes = end == NULL ? file->size - position : (size_t)(end - line);
        if (++number > LINES_MAX)
            return error_set(STATUS_DATA, "%s: has more than %u lines; split it", file->path, LINES_MAX);
        if (!is_blank(line, bytes)) {
            file->line_first[count] = position;
            file->line_number[count++] = (uint32_t)number;
        }
        position += bytes + 1;
    }
    file->line_first[count] = file->size;
    file->line_count = (int64_t)count;
    if (count == 0) return error_set(STATUS_DATA, "%s: holds no row; %s, one a line", file->path, ROW_FORMS);
    return STATUS_OK;
}

Status jsonl_open(JsonlFile *out, const char *path) {
    memset(out, 0, sizeof *out);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) {
        int error = errno;
        if (fd >= 0) close(fd);
        return error_set(STATUS_DATA, "%s: %s", path, strerror(error));
    }
    if (!S_ISREG(info.st_mode)) {
        close(fd);
        return error_set(STATUS_DATA, "%s: is not a file; give a JSONL file", path);
    }
    out->path = strdup(path);
    out->size = (size_t)info.st_size;
    void *bytes = out->size == 0 ? NULL : mmap(NULL, out->size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (out->path == NULL || bytes == MAP_FAILED) {
        free((char *)out->path);
        memset(out, 0, sizeof *out);
        return no_memory(path);
    }
    out->bytes = bytes;
    Status status = index_lines(out);
    if (status != STATUS_OK) jsonl_close(out);
    return status;
}

// Doubles the room of an anonymous mapping.
static bool grow_map(char **bytes, size_t *room) {
    const size_t wanted = *room == 0 ? STREAM_FIRST_GUESS : 2 * *room;
    void *grown = *room == 0 ? mmap(NULL, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                             : mremap(*bytes, *room, wanted, MREMAP_MAYMOVE);
    if (grown == MAP_FAILED) return false;
    *bytes = grown;
    *room = wanted;
    return true;
}

Status jsonl_open_standard_input(JsonlFile *out) {
    static const char name[] = "standard input";
    char *bytes = NULL;
    size_t size = 0, room = 0;
    memset(out, 0, sizeof *out);
    for (;;) {
        if (size == room && !grow_map(&bytes, &room)) {
            if (bytes != NULL) munmap(bytes, room);
            return no_memory(name);
        }
        const ssize_t got = read(STDIN_FILENO, bytes + size, room - size);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            const int error = errno;
            munmap(bytes, room);
            return error_set(STATUS_DATA, "%s: %s", name, strerror(error));
        }
        if (got == 0) break;
        size += (size_t)got;
    }
    // jsonl_close unmaps the pages of `size` bytes.
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), used = (size + page - 1) / page * page;
    munmap(bytes + used, room - used);
    *out = (JsonlFile){.path = strdup(name), .bytes = used > 0 ? bytes : NULL, .size = size};
    Status status = out->path == NULL ? no_memory(name) : index_lines(out);
    if (status != STATUS_OK) jsonl_close(out);
    return status;
}

void jsonl_close(JsonlFile *file) {
    if (file->bytes != NULL) munmap((void *)file->bytes, file->size);
    free((char *)file->path);
    free(file->line_first);
    free(file->line_number);
    memset(file, 0, sizeof *file);
}

// Where a row stands, for its messages.
typedef struct Place {
    const char *path;
    uint32_t line;
} Place;

#define ROW_ERROR(place, format, ...)                                                                                  \
    error_set(STATUS_DATA, "%s:%u: " format, (place)->path, (place)->line __VA_OPT__(, ) __VA_ARGS__)

// A value as a person wrote it, shortened, in ASCII.
static const char *value_text(const json_t *value, char text[VALUE_TEXT_MAX]) {
    if (json_is_number(value)) {
        snprintf(text, VALUE_TEXT_MAX, "%g", json_number_value(value));
        return text;
    }
    char *dump = json_foreign_dump(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    if (dump == NULL) return "something else";
    size_t bytes = strlen(dump);
    snprintf(text, VALUE_TEXT_MAX, "%.*s%s", VALUE_TEXT_MAX - 4, dump, bytes > VALUE_TEXT_MAX - 4 ? "..." : "");
    free(dump);
    return text;
}

static Status parse_line(const JsonlFile *file, int64_t index, const Place *place, json_t **out) {
    const char *line = file->bytes + file->line_first[index];
    size_t bytes = file->line_first[index + 1] - file->line_first[index];
    const char *end = memchr(line, '\n', bytes);
    if (end != NULL) bytes = (size_t)(end - line);
    if (bytes > LINE_BYTES_MAX)
        return ROW_ERROR(place, "the line is longer than %zu MiB; split it", LINE_BYTES_MAX >> 20);
    json_error_t error;
    json_t *row = json_foreign_load(line, bytes, JSON_DECODE_ANY, &error);
    if (row == NULL) {
        switch (json_error_code(&error)) {
        case json_error_out_of_memory:
            return no_memory(place->path);
        case json_error_invalid_utf8:
            return ROW_ERROR(place, "invalid UTF-8 in column %d; save the file as UTF-8", error.column);
        default:
            return ROW_ERROR(place, "broken JSON in column %d: %s; write one object a line", error.column, error.text);
        }
    }
    if (!json_is_object(row)) {
        char text[VALUE_TEXT_MAX];
        value_text(row, text);
        json_decref(row);
        return ROW_ERROR(place, "got %s; " ROW_FORMS, text);
    }
    *out = row;
    return STATUS_OK;
}

// The field, or NULL when it is missing or null (as tables exported to JSON write a missing field).
static json_t *field(const json_t *row, const char *name) {
    json_t *value = json_object_get(row, name);
    return json_is_null(value) ? NULL : value;
}

static Status copy_text(const json_t *value, const Place *place, char **out) {
    const char *text = json_text(value);
    if (text == NULL) return ROW_ERROR(place, "a text holds the character \\u0000; remove it");
    *out = strdup(text);
    return *out == NULL ? no_memory(place->path) : STATUS_OK;
}

static Status read_message(const json_t *value, const Place *place, const char *name, size_t index, Message *out) {
    char text[VALUE_TEXT_MAX];
    if (!json_is_object(value))
        return ROW_ERROR(place, "message %zu of \"%s\" must be {\"role\", \"content\"}; got %s", index + 1, name,
                         value_text(value, text));
    const json_t *role = json_object_get(value, "role"), *content = field(value, "content");
    const bool calls = content == NULL && field(value, "tool_calls") != NULL; // which need no words
    if (role == NULL || (content == NULL && !calls))
        return ROW_ERROR(place, "message %zu of \"%s\" has no \"%s\"; a message is {\"role\", \"content\"}", index + 1,
                         name, role == NULL ? "role" : "content");
    if (!json_is_string(role))
        return ROW_ERROR(place, "\"role\" in message %zu of \"%s\" must be text; got %s", index + 1, name,
                         value_text(role, text));
    TRY(copy_text(role, place, &out->role));
    if (json_object_size(value) > 2 || calls) out->fields = json_incref((json_t *)value);
    if (calls) {
        out->content = strdup("");
        return out->content == NULL ? no_memory(place->path) : STATUS_OK;
    }
    if (json_is_string(content)) return copy_text(content, place, &out->content);
    if (!message_content(content, &out->content))
        return ROW_ERROR(place, "\"content\" in message %zu of \"%s\" must be " MESSAGE_CONTENT_FORMS "; got %s",
                         index + 1, name, value_text(content, text));
    return out->content == NULL ? no_memory(place->path) : STATUS_OK;
}

static Status read_text_or_messages(const json_t *row, const Place *place, const char *name, const char *forms,
                                    TextOrMessages *out) {
    const json_t *value = field(row, name);
    if (value == NULL) return ROW_ERROR(place, "missing \"%s\"; %s", name, forms);
    if (json_is_string(value)) return copy_text(value, place, &out->text);
    if (!json_is_array(value)) {
        char text[VALUE_TEXT_MAX];
        return ROW_ERROR(place, "\"%s\" must be text or a list of messages; got %s", name, value_text(value, text));
    }
    size_t count = json_array_size(value);
    if (count == 0) return ROW_ERROR(place, "\"%s\" is an empty list; give at least one message", name);
    if (count > MESSAGES_MAX) return ROW_ERROR(place, "\"%s\" has more than %d messages", name, MESSAGES_MAX);
    out->messages = calloc(count, sizeof *out->messages);
    if (out->messages == NULL) return no_memory(place->path);
    out->message_count = (int)count;
    for (size_t i = 0; i < count; i++) TRY(read_message(json_array_get(value, i), place, name, i, &out->messages[i]));
    return STATUS_OK;
}

// Arguments of transformers' apply_chat_template, which no row may change.
static bool is_reserved(const char *name) {
    static const char *const names[] = {"conversation",
                                        "messages",
                                        "chat_template",
                                        "add_generation_prompt",
                                        "continue_final_message",
                                        "tokenize",
                                        "sanitize_control_tokens",
                                        "padding",
                                        "truncation",
                                        "max_length",
                                        "return_tensors",
                                        "return_dict",
                                        "return_assistant_tokens_mask",
                                        "tokenizer_kwargs"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return false;
}

static Status read_tools(const json_t *row, const Place *place, json_t **out) {
    json_t *tools = field(row, "tools");
    char text[VALUE_TEXT_MAX];
    json_error_t error;
    if (tools == NULL) return STATUS_OK;
    *out = json_is_string(tools)
               ? json_foreign_load(json_string_value(tools), json_string_length(tools), JSON_DECODE_ANY, &error)
               : json_incref(tools);
    if (json_is_array(*out)) return STATUS_OK;
    if (json_is_null(*out)) {
        json_decref(*out);
        *out = NULL;
        return STATUS_OK;
    }
    return ROW_ERROR(place, "\"tools\" must be a list, or a text that holds one as JSON; got %s",
                     value_text(tools, text));
}

// What the prompt's chat template gets beside the messages.
static Status read_extras(const json_t *row, const Place *place, TextOrMessages *prompt) {
    json_t *variables = field(row, "chat_template_kwargs");
    char text[VALUE_TEXT_MAX];
    const char *name;
    json_t *value;
    if (prompt->text != NULL) return STATUS_OK;
    TRY(read_tools(row, place, &prompt->tools));
    if (variables == NULL) return STATUS_OK;
    if (!json_is_object(variables))
        return ROW_ERROR(place, "\"chat_template_kwargs\" must be an object; got %s", value_text(variables, text));
    json_object_foreach(variables, name, value) if (is_reserved(name)) return ROW_ERROR(
        place, "\"chat_template_kwargs\" may not set \"%s\"; remove it", name);
    prompt->variables = json_incref(variables);
    return STATUS_OK;
}

static Status read_completion(const json_t *row, const Place *place, const char *name, const TextOrMessages *prompt,
                              TextOrMessages *out) {
    TRY(read_text_or_messages(row, place, name, ROW_FORMS, out));
    if (out->text != NULL && out->text[0] == '\0')
        return ROW_ERROR(place, "\"%s\" is empty; remove the row or give an answer", name);
    if ((out->text != NULL) != (prompt->text != NULL))
        return ROW_ERROR(place, "\"prompt\" is %s and \"%s\" is %s; give both as text or both as messages",
                         prompt->text != NULL ? "text" : "a list of messages", name,
                         out->text != NULL ? "text" : "a list of messages");
    return STATUS_OK;
}

static Status read_label(const json_t *row, const Place *place, bool *out) {
    const json_t *value = field(row, "label");
    if (value == NULL) return ROW_ERROR(place, "missing \"label\"; " ROW_FORMS);
    double number = json_is_boolean(value)  ? json_is_true(value)
                    : json_is_number(value) ? json_number_value(value)
                                            : -1;
    if (number != 0 && number != 1) {
        char text[VALUE_TEXT_MAX];
        return ROW_ERROR(place, "\"label\" must be true, false, 0 or 1; got %s", value_text(value, text));
    }
    *out = number == 1;
    return STATUS_OK;
}

static Status read_weight(const json_t *row, const Place *place, float *out) {
    const json_t *value = field(row, "weight");
    *out = 1.0f;
    if (value == NULL) return STATUS_OK;
    float weight = json_is_number(value) ? (float)json_number_value(value) : 0.0f;
    if (!(weight > 0.0f) || !isfinite(weight)) {
        char text[VALUE_TEXT_MAX];
        return ROW_ERROR(place, "\"weight\" must be a number above 0; got %s", value_text(value, text));
    }
    *out = weight;
    return STATUS_OK;
}

static Status read_row(const json_t *row, const Place *place, JsonlRow *out) {
    bool chosen = field(row, "chosen") != NULL, rejected = field(row, "rejected") != NULL;
    out->paired = chosen || rejected;
    if (out->paired && field(row, "completion") != NULL)
        return ROW_ERROR(place, "has both \"completion\" and \"%s\"; " ROW_FORMS, chosen ? "chosen" : "rejected");
    TRY(read_text_or_messages(row, place, "prompt", ROW_FORMS, &out->prompt));
    TRY(read_extras(row, place, &out->prompt));
    if (out->paired) {
        TRY(read_completion(row, place, "chosen", &out->prompt, &out->completion[0]));
        TRY(read_completion(row, place, "rejected", &out->prompt, &out->completion[1]));
    } else {
        TRY(read_completion(row, place, "completion", &out->prompt, &out->completion[0]));
        TRY(read_label(row, place, &out->label));
    }
    return read_weight(row, place, &out->weight);
}

static Status read_row_text(const json_t *row, const Place *place, char **out) {
    const json_t *value = field(row, "text");
    char text[VALUE_TEXT_MAX];
    if (json_is_string(value)) return copy_text(value, place, out);
    return ROW_ERROR(place, "\"text\" must be text; got %s", value_text(value, text));
}

// text: NULL where a line must be a row.
static Status read_line(const JsonlFile *file, int64_t index, JsonlRow *out, char **text) {
    memset(out, 0, sizeof *out);
    Place place = {file->path, file->line_number[index]};
    json_t *row = NULL;
    TRY(parse_line(file, index, &place, &row));
    const bool is_text = text != NULL && field(row, "text") != NULL && field(row, "prompt") == NULL;
    Status status = is_text ? read_row_text(row, &place, text) : read_row(row, &place, out);
    json_decref(row);
    return status;
}

Status jsonl_row(const JsonlFile *file, int64_t index, JsonlRow *out) {
    return read_line(file, index, out, NULL);
}

Status jsonl_row_or_text(const JsonlFile *file, int64_t index, JsonlRow *out, char **text) {
    *text = NULL;
    return read_line(file, index, out, text);
}

Status jsonl_prompt(const JsonlFile *file, int64_t index, TextOrMessages *out) {
    memset(out, 0, sizeof *out);
    Place place = {file->path, file->line_number[index]};
    json_t *row = NULL;
    TRY(parse_line(file, index, &place, &row));
    Status status = read_text_or_messages(row, &place, "prompt", "a line is {\"prompt\": text or messages}", out);
    if (status == STATUS_OK) status = read_extras(row, &place, out);
    json_decref(row);
    return status;
}

void jsonl_prompt_free(TextOrMessages *prompt) {
    for (int i = 0; i < prompt->message_count; i++) message_free(&prompt->messages[i]);
    json_decref(prompt->tools);
    json_decref(prompt->variables);
    free(prompt->messages);
    free(prompt->text);
    memset(prompt, 0, sizeof *prompt);
}

void jsonl_row_free(JsonlRow *row) {
    jsonl_prompt_free(&row->prompt);
    jsonl_prompt_free(&row->completion[0]);
    jsonl_prompt_free(&row->completion[1]);
}

char *jsonl_sample_line(const TextOrMessages *prompt, const char *completion, int64_t step) {
    json_t *value = prompt->text != NULL ? json_string(prompt->text) : json_array();
    for (int i = 0; i < prompt->message_count; i++) {
        const Message *m = &prompt->messages[i];
        json_array_append_new(value, m->fields != NULL ? json_incref(m->fields)
                                                       : json_pack("{ss ss}", "role", m->role, "content", m->content));
    }
    json_t *line = json_pack("{so ss}", "prompt", value, "completion", completion);
    if (line != NULL && prompt->tools != NULL) json_object_set(line, "tools", prompt->tools);
    if (line != NULL && prompt->variables != NULL) json_object_set(line, "chat_template_kwargs", prompt->variables);
    if (line != NULL && step >= 0) json_object_set_new(line, "step", json_integer(step));
    char *text = line == NULL ? NULL : json_foreign_dump(line, 0);
    json_decref(line);
    return text;
}

int64_t jsonl_sample_step(const char *line, size_t bytes) {
    json_error_t error;
    json_t *object = json_foreign_load(line, bytes, 0, &error), *step = json_object_get(object, "step");
    const int64_t out = json_is_integer(step) ? json_integer_value(step) : -1;
    json_decref(object);
    return out;
}
