// Text that grows.
#pragma once
#include "src/base/status.h"
#include <stddef.h>

typedef struct TextBuffer {
    char *text; // [room], not terminated
    size_t bytes, room;
} TextBuffer;

// Makes room for `more` bytes behind what is there. STATUS_FAILED without memory.
Status text_buffer_reserve(TextBuffer *buffer, size_t more);
Status text_buffer_add(TextBuffer *buffer, const char *text, size_t bytes);
void text_buffer_free(TextBuffer *buffer);
