// Text for people to read: paragraphs, lines of a width, sentences.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

// A piece of a longer text: a paragraph, whose line ends count as spaces, or one line that begins with a space and
// stays as it is. Both point into the text.
typedef struct TextBlock {
    const char *start;
    int length;
    bool verbatim;
    bool gap; // an empty line stands before it
} TextBlock;

// Takes the next block off *rest; false: there is none.
bool text_block(const char **rest, TextBlock *out);

// Columns to write to standard output: those of its terminal, from 60 to 100; 100 where it is none.
int text_columns(void);

// Writes `length` bytes of `text` (-1: up to its end) in lines of at most `width` columns, broken at spaces and at line
// ends; longer words stay whole. The first line goes on at column `column`, the others begin with `indent` spaces. A
// line end follows.
void text_wrap(FILE *to, const char *text, int length, int column, int indent, int width);

// The text as a sentence: its first word with a capital, unless that is a name or a value ("metrics.h5", "layer:"), and
// a full stop.
void text_sentence(const char *text, char *out, size_t size);
