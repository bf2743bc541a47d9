// Text that grows; what it means is its users' business.
#include "io/text_buffer.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

Status text_buffer_reserve(TextBuffer *buffer, size_t more) {
    if (more <= buffer->room - buffer->bytes) return STATUS_OK;
    if (more > SIZE_MAX / 4 - buffer->bytes) return error_set(STATUS_FAILED, "not enough memory for a text");
    const size_t room = 2 * (buffer->bytes + more) + 64;
    char *grown = realloc(buffer->text, room);
    if (grown == NULL) return error_set(STATUS_FAILED, "not enough memory for a text of %zu bytes", room);
    buffer->text = grown;
    buffer->room = room;
    return STATUS_OK;
}

Status text_buffer_add(TextBuffer *buffer, const char *text, size_t bytes) {
    TRY(text_buffer_reserve(buffer, bytes));
    if (bytes > 0) memcpy(buffer->text + buffer->bytes, text, bytes);
    buffer->bytes += bytes;
    return STATUS_OK;
}

void text_buffer_free(TextBuffer *buffer) {
    free(buffer->text);
    *buffer = (TextBuffer){0};
}
