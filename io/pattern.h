// What tokenizers look for in text: a literal, or a regular expression as the tokenizers library (Oniguruma with Ruby's
// syntax) reads it.
#pragma once
#include "src/base/status.h"
#include <stddef.h>

typedef struct Pattern Pattern;
typedef struct PatternScratch PatternScratch; // what one thread matches with

// `text` matches itself; "" matches nowhere.
Status pattern_open_text(Pattern **out, const char *text, size_t bytes);
// STATUS_DATA beginning with `place`, which the pattern keeps for later errors: an expression that is none, or says
// what is not known to mean the same here.
Status pattern_open_regex(Pattern **out, const char *regex, const char *place);
void pattern_close(Pattern *pattern); // NULL is allowed

Status pattern_scratch_open(PatternScratch **out);
void pattern_scratch_close(PatternScratch *scratch); // NULL is allowed

// A walk over the matches in text[0, bytes), which is well-formed UTF-8.
typedef struct PatternSearch {
    const Pattern *pattern;
    PatternScratch *scratch;
    const char *text;
    size_t bytes, at, last_end; // at: where the next match may begin
    size_t start, end;          // of the match found
} PatternSearch;

PatternSearch pattern_search(const Pattern *pattern, PatternScratch *scratch, const char *text, size_t bytes);
// The next match, or *found = false. STATUS_DATA when the expression runs away on this text.
Status pattern_next(PatternSearch *search, bool *found);
