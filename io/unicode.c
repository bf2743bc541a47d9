// UTF-8 and whitespace. Normal forms are io/normalizer.c's, character classes in patterns io/pattern.c's.
#include "io/unicode.h"

#include "src/base/text.h"

#include <string.h>

size_t unicode_valid(const char *text, size_t bytes) {
    size_t i = 0;
    while (i < bytes) {
        uint64_t eight;
        if (bytes - i >= sizeof eight) {
            memcpy(&eight, text + i, sizeof eight);
            if ((eight & 0x8080808080808080u) == 0) {
                i += sizeof eight;
                continue;
            }
        }
        const size_t length = text[i] == '\0' ? 1 : utf8_length((const unsigned char *)text + i, bytes - i);
        if (length == 0) break;
        i += length;
    }
    return i;
}

uint32_t unicode_at(const char *text, size_t *length) {
    const unsigned char *c = (const unsigned char *)text;
    *length = unicode_length(text[0]);
    switch (*length) {
    case 1:
        return c[0];
    case 2:
        return (uint32_t)(c[0] & 0x1F) << 6 | (c[1] & 0x3F);
    case 3:
        return (uint32_t)(c[0] & 0x0F) << 12 | (uint32_t)(c[1] & 0x3F) << 6 | (c[2] & 0x3F);
    default:
        return (uint32_t)(c[0] & 0x07) << 18 | (uint32_t)(c[1] & 0x3F) << 12 | (uint32_t)(c[2] & 0x3F) << 6 |
               (c[3] & 0x3F);
    }
}

bool unicode_is_space(uint32_t c) {
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

size_t unicode_spaces_before(const char *text, size_t bytes) {
    for (size_t end = bytes, length; end > 0;) {
        size_t start = end - 1;
        while (start > 0 && ((unsigned char)text[start] & 0xC0) == 0x80) start--;
        if (!unicode_is_space(unicode_at(text + start, &length))) return end;
        end = start;
    }
    return 0;
}

size_t unicode_spaces_behind(const char *text, size_t bytes) {
    size_t i = 0;
    for (size_t length; i < bytes && unicode_is_space(unicode_at(text + i, &length)); i += length)
        ;
    return i;
}
