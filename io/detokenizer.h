// From tokens' texts to text: the decoders of tokenizer.json, one after the other.
#pragma once
#include "io/pattern.h"
#include "io/pretokenizer.h"
#include "io/text_buffer.h"

typedef enum DecoderKind {
    DECODE_BYTE_LEVEL,    // every character stands for a byte
    DECODE_BYTE_FALLBACK, // "<0x0A>" is a byte
    DECODE_FUSE,          // one text of all
    DECODE_STRIP,         // up to `left` and `right` times `content` at a text's ends
    DECODE_REPLACE,       // every match of pattern by content
    DECODE_METASPACE      // the same, but in the first text the matches go, unless prepend is PREPEND_NEVER
} DecoderKind;

typedef struct DecoderStep {
    DecoderKind kind;
    int left, right;
    PrependScheme prepend;
    Pattern *pattern;
    TextBuffer content; // one character for DECODE_STRIP
} DecoderStep;

// With no step the texts are joined by spaces, as the tokenizers library has it.
typedef struct Detokenizer {
    DecoderStep *step; // [count]
    int count;
} Detokenizer;

// A new last step of that kind, *step, for the caller to fill.
Status detokenizer_add(Detokenizer *d, DecoderKind kind, DecoderStep **step);
void detokenizer_free(Detokenizer *d);

// Texts that stand one behind the other in `all`.
typedef struct Texts {
    TextBuffer all;
    size_t *end; // [count]
    size_t count, room;
} Texts;
Status texts_add(Texts *texts, const char *text, size_t bytes);
void texts_free(Texts *texts);

// What the texts say together; they are used up. *out is well-formed, NUL-terminated text in which U+FFFD stands for
// bytes that are no character and for NUL. Caller frees.
Status detokenizer_run(const Detokenizer *d, PatternScratch *scratch, Texts *texts, char **out);

// Appends the bytes that one token adds inside a text, which may be a part of a character.
Status detokenizer_token(const Detokenizer *d, PatternScratch *scratch, const char *text, size_t bytes,
                         TextBuffer *out);

// The bytes that the characters of a byte-level text stand for, into `to`, which has room for `bytes`; false when a
// character stands for none.
bool byte_level_decode(const char *text, size_t bytes, char *to, size_t *length);
