#include "src/base/text.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

// Two rows of the table at a time.
int edit_distance(const char *a, const char *b) {
    enum { LONGEST = 64 };
    int row[LONGEST + 1];
    int n = (int)strlen(b);
    if (n > LONGEST || strlen(a) > LONGEST) return LONGEST;
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; a[i - 1] != '\0'; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int change = diagonal + (tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]));
            int shift = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = change < shift ? change : shift;
        }
    }
    return row[n];
}

size_t utf8_length(const unsigned char *text, size_t bytes) {
    unsigned char a = text[0];
    if (a >= 1 && a < 0x80) return 1;
    size_t length = a >= 0xC2 && a < 0xE0 ? 2 : a >= 0xE0 && a < 0xF0 ? 3 : a >= 0xF0 && a < 0xF5 ? 4 : 0;
    if (length == 0 || length > bytes) return 0;
    unsigned char low = a == 0xE0 ? 0xA0 : a == 0xF0 ? 0x90 : 0x80, high = a == 0xED ? 0x9F : a == 0xF4 ? 0x8F : 0xBF;
    if (text[1] < low || text[1] > high) return 0;
    for (size_t i = 2; i < length; i++)
        if (text[i] < 0x80 || text[i] > 0xBF) return 0;
    return length;
}

bool utf8_valid(const char *text, size_t bytes) {
    for (size_t i = 0, length; i < bytes; i += length) {
        length = utf8_length((const unsigned char *)text + i, bytes - i);
        if (length == 0) return false;
    }
    return true;
}

const char *figure_text(double value, int decimals, bool plus, char out[32]) {
    if (isnan(value)) return "-";
    snprintf(out, 32, plus ? "%+.*f" : "%.*f", decimals, value);
    return out;
}

const char *duration_text(double seconds, char out[32]) {
    const long long whole = (long long)seconds;
    if (seconds < 0.9995) // what rounds to 1000 ms is a second
        snprintf(out, 32, "%.3g ms", seconds * 1e3);
    else if (seconds < 60)
        snprintf(out, 32, "%.1f s", seconds);
    else if (seconds < 3600)
        snprintf(out, 32, "%lld min %02lld s", whole / 60, whole % 60);
    else
        snprintf(out, 32, "%lld h %02lld min", whole / 3600, whole / 60 % 60);
    return out;
}

void text_make_printable(char *text) {
    unsigned char *to = (unsigned char *)text;
    for (const unsigned char *from = to; *from != '\0'; from++) {
        const bool c1 = from[0] == 0xC2 && from[1] >= 0x80 && from[1] < 0xA0; // U+0080 to U+009F
        if (c1) from++;
        const bool control = c1 || (*from < 0x20 && *from != '\n' && *from != '\t') || *from == 0x7f;
        *to++ = control ? '?' : *from;
    }
    *to = '\0';
}
