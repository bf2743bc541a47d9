// Characters as tokenizers see them.
#pragma once
#include "src/base/status.h"
#include <stddef.h>
#include <stdint.h>

#define REPLACEMENT       "\xEF\xBF\xBD" // U+FFFD
#define REPLACEMENT_BYTES 3

// How many bytes from `text` on are well-formed UTF-8, NUL being a character like any other.
size_t unicode_valid(const char *text, size_t bytes);
// The character at `text`, which is well-formed, and its length in bytes.
uint32_t unicode_at(const char *text, size_t *length);
// The length in bytes of the character that begins with this byte, in well-formed text.
static inline size_t unicode_length(char first) {
    const unsigned char byte = (unsigned char)first;
    return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}
// Unicode's White_Space.
bool unicode_is_space(uint32_t character);
// Where the whitespace that ends text[0, bytes) begins, and where that at its start ends. The text is well-formed.
size_t unicode_spaces_before(const char *text, size_t bytes);
size_t unicode_spaces_behind(const char *text, size_t bytes);
