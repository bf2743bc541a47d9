// Breaking text into paragraphs and lines.
#include "src/base/wrap.h"

#include <ctype.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

bool text_block(const char **rest, TextBlock *out) {
    const char *at = *rest;
    out->gap = *at == '\n';
    at += strspn(at, "\n");
    out->start = at;
    out->verbatim = *at == ' ';
    while (*at != '\0') {
        at += strcspn(at, "\n");
        if (out->verbatim || at[0] == '\0' || strchr("\n ", at[1]) != NULL) break; // (also at the end)
        at++;
    }
    out->length = (int)(at - out->start);
    *rest = at + (*at == '\n');
    return out->length > 0;
}

int text_columns(void) {
    enum { LEAST = 60, MOST = 100 };
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_col > MOST) return MOST;
    return size.ws_col < LEAST ? LEAST : size.ws_col;
}

// Columns of UTF-8 text: bytes that begin a character.
static int columns(const char *text, int length) {
    int count = 0;
    for (int i = 0; i < length; i++) count += ((unsigned char)text[i] & 0xC0) != 0x80;
    return count;
}

void text_wrap(FILE *to, const char *text, int length, int column, int indent, int width) {
    const char *end = text + (length < 0 ? (int)strlen(text) : length);
    bool first = true; // word of its line
    while (text < end) {
        if (*text == ' ' || *text == '\n') {
            text++;
            continue;
        }
        int bytes = (int)strcspn(text, " \n");
        if (bytes > end - text) bytes = (int)(end - text);
        const int wide = columns(text, bytes);
        if (!first && column + 1 + wide > width) {
            fprintf(to, "\n%*s", indent, "");
            column = indent;
            first = true;
        }
        fprintf(to, "%s%.*s", first ? "" : " ", bytes, text);
        column += !first + wide;
        first = false;
        text += bytes;
    }
    fputc('\n', to);
}

void text_sentence(const char *text, char *out, size_t size) {
    const char *end = text;
    while (isalpha((unsigned char)*end)) end++;
    snprintf(out, size, "%s.", text);
    if (strchr(" ,;", *end) != NULL) out[0] = (char)toupper((unsigned char)out[0]);
}
