// See text_stream.h. A token's text depends on the one before it (spaces, bytes of a character), so each piece is the
// difference of two decodings that begin at the last place where a piece ended.
#include "src/decode/text_stream.h"

#include <stdlib.h>
#include <string.h>

// Tokens that are waited for until a character is whole: its four bytes at most, and others that have no text.
#define PENDING_MAX 8

static bool ends_in_replacement(const char *text) {
    const size_t length = strlen(text);
    return length >= 3 && memcmp(text + length - 3, "\xef\xbf\xbd", 3) == 0;
}

static Status decode(const TextStream *stream, int32_t end, char **text) {
    return tokenizer_decode(stream->tokenizer, stream->ids + stream->window, end - stream->window, true, text);
}

static Status say(TextStream *stream, bool all, char **piece) {
    char *before = NULL, *now = NULL;
    const char *text = "";
    Status status = decode(stream, stream->said, &before);
    if (status == STATUS_OK) status = decode(stream, stream->count, &now);
    // Bytes that are no character after as many as one can have will never be one.
    const bool whole =
        status == STATUS_OK && (all || stream->count - stream->said >= PENDING_MAX || !ends_in_replacement(now));
    if (whole && strncmp(now, before, strlen(before)) != 0) { // such bytes made the characters before them void, too
        stream->window = stream->said;
        before[0] = '\0';
        free(now);
        status = decode(stream, stream->count, &now);
    }
    if (whole && status == STATUS_OK && strlen(now) > strlen(before)) {
        text = now + strlen(before);
        if (!stream->started && stream->skip_newline && *text == '\n') text++;
        stream->window = stream->said;
        stream->said = stream->count;
        stream->started = true;
    }
    *piece = strdup(text);
    if (*piece == NULL && status == STATUS_OK) status = error_set(STATUS_FAILED, "out of memory for an answer");
    free(before);
    free(now);
    return status;
}

Status text_stream_add(TextStream *stream, int32_t token, char **piece) {
    *piece = NULL;
    if (stream->count == stream->capacity) {
        const int32_t capacity = stream->capacity == 0 ? 64 : 2 * stream->capacity;
        int32_t *ids = realloc(stream->ids, (size_t)capacity * sizeof *ids);
        if (ids == NULL) return error_set(STATUS_FAILED, "out of memory for an answer");
        stream->ids = ids;
        stream->capacity = capacity;
    }
    stream->ids[stream->count++] = token;
    return say(stream, false, piece);
}

Status text_stream_end(TextStream *stream, char **piece) {
    return say(stream, true, piece);
}

void text_stream_free(TextStream *stream) {
    free(stream->ids);
    *stream = (TextStream){0};
}
