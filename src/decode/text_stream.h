// The text of an answer as its tokens come: what can be said already, and not before a character is whole.
#pragma once
#include "io/tokenizer.h"

typedef struct TextStream {
    const Tokenizer *tokenizer;
    bool skip_newline; // one at the start, which a chat template writes and not the model's words
    int32_t *ids;      // [count]
    int32_t count, capacity;
    int32_t window, said; // ids[window .. said) is what stands before the text to come
    bool started;         // some text was said
} TextStream;

// *piece gets what the token adds, "" where a character is not whole yet. Caller frees.
Status text_stream_add(TextStream *stream, int32_t token, char **piece);
// What is left at the end: bytes that never became a character, as U+FFFD. Caller frees.
Status text_stream_end(TextStream *stream, char **piece);
void text_stream_free(TextStream *stream);
