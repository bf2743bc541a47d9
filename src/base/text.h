// Small questions about words and characters.
#pragma once
#include <stdbool.h>
#include <stddef.h>

// Levenshtein's distance between two words, letters of either case alike; 64 for words longer than that.
int edit_distance(const char *a, const char *b);

// The length of the well-formed UTF-8 character at text, 0 if there is none (RFC 3629; NUL, which a C string cannot
// hold, counts as ill-formed).
size_t utf8_length(const unsigned char *text, size_t bytes);
bool utf8_valid(const char *text, size_t bytes); // well-formed, and without NUL
// A figure for people with so many decimals, its sign always there with `plus`; "-" for NaN, which stands for what a
// batch does not have.
const char *figure_text(double value, int decimals, bool plus, char out[32]);
// A time in the unit that fits: "12.9 ms", "4.5 s", "3 min 07 s", "2 h 05 min".
const char *duration_text(double seconds, char out[32]);

// Puts '?' in the place of every control character but newline and tab, so that text of a model or a file cannot tell
// the terminal anything. `text` is UTF-8.
void text_make_printable(char *text);
