// Loads and writes JSON that others wrote (jansson parses). What its keys must be is the caller's business.
#include "io/json_file.h"

#include "io/files.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// What a number that jansson refuses begins with as a text: U+FFFF, which Unicode leaves to a program's own use.
#define MARK       "\"\xEF\xBF\xBF"
#define MARK_ASCII "\"\\uFFFF"

// How much of `text`, not empty, the next text, number or word takes; 1 for any other character.
static size_t token_bytes(const char *text, const char *end) {
    const char *p = text;
    if (*p == '"') {
        for (p++; p < end && *p != '"'; p++)
            if (*p == '\\' && p + 1 < end) p++;
        return (size_t)(p < end ? p + 1 - text : p - text);
    }
    while (p < end && (isalnum((unsigned char)*p) || *p == '-' || *p == '+' || *p == '.')) p++;
    return p == text ? 1 : (size_t)(p - text);
}

// Whether a token is a number that jansson refuses; NaN and Infinity are numbers to Python.
static bool is_beyond(const char *token, size_t bytes) {
    if (strchr("-0123456789NI", *token) == NULL) return false;
    char *end;
    const double value = strtod(token, &end);
    if (end != token + bytes) return false;
    if (strspn(token, "-0123456789") < bytes) return !isfinite(value);
    errno = 0;
    strtoll(token, &end, 10);
    return errno == ERANGE;
}

// The JSON text with such numbers as texts. NULL when out of memory.
static char *mark_numbers(const char *text, size_t bytes, size_t *size) {
    char *source = malloc(bytes + 1), *marked = NULL; // a copy that ends, for strtod
    FILE *to = source == NULL ? NULL : open_memstream(&marked, size);
    if (to == NULL) {
        free(source);
        return NULL;
    }
    memcpy(source, text, bytes);
    source[bytes] = '\0';
    size_t count;
    for (const char *p = source, *end = source + bytes; p < end; p += count) {
        count = token_bytes(p, end);
        const bool mark = *p != '\0' && is_beyond(p, count);
        if (mark) fputs(MARK, to);
        fwrite(p, 1, count, to);
        if (mark) fputc('"', to);
    }
    free(source);
    if (fclose(to) == 0) return marked;
    free(marked);
    return NULL;
}

json_t *json_foreign_load(const char *text, size_t bytes, size_t flags, json_error_t *error) {
    flags |= JSON_ALLOW_NUL;
    json_t *root = json_loadb(text, bytes, flags, error);
    if (root != NULL) return root;
    const enum json_error_code code = json_error_code(error);
    if (code != json_error_numeric_overflow && code != json_error_invalid_syntax) return NULL;
    size_t size;
    char *marked = mark_numbers(text, bytes, &size);
    if (marked != NULL) root = json_loadb(marked, size, flags, error);
    free(marked);
    return root;
}

char *json_foreign_dump(const json_t *value, size_t flags) {
    char *text = json_dumps(value, flags);
    const char *mark = flags & JSON_ENSURE_ASCII ? MARK_ASCII : MARK;
    char *to = text, *from = text;
    for (char *found; text != NULL && (found = strstr(from, mark)) != NULL;) {
        const size_t before = (size_t)(found - from);
        memmove(to, from, before);
        to += before;
        from = found + strlen(mark);
        const size_t number = strcspn(from, "\"");
        memmove(to, from, number);
        to += number;
        from += number + 1;
    }
    if (to != from) memmove(to, from, strlen(from) + 1);
    return text;
}

const char *json_text(const json_t *value) {
    const char *text = json_string_value(value);
    return text == NULL || strlen(text) != json_string_length(value) ? NULL : text;
}

Status json_file_object(const char *path, size_t limit, json_t **out) {
    char *text = NULL;
    size_t bytes = 0;
    *out = NULL;
    TRY(file_read(path, limit, &text, &bytes));
    json_error_t error;
    json_t *root = json_foreign_load(text, bytes, 0, &error);
    free(text);
    if (root == NULL) return error_set(STATUS_DATA, "%s:%d: broken JSON: %s", path, error.line, error.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return error_set(STATUS_DATA, "%s:1: holds no JSON object", path);
    }
    *out = root;
    return STATUS_OK;
}

Status json_file_write(const char *path, json_t *root, size_t flags) {
    char *text = root == NULL ? NULL : json_foreign_dump(root, flags);
    json_decref(root);
    if (text == NULL) return error_set(STATUS_FAILED, "%s: out of memory", path);
    const size_t length = strlen(text);
    text[length] = '\n'; // in the place of the end, which a file has without it
    const Status status = file_write_durable(path, text, length + 1);
    free(text);
    return status;
}
