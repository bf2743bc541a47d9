// How a tokenizer cuts text into the words that are merged apart from each other: the pre-tokenizers of tokenizer.json,
// each of which cuts what the ones before it left.
#pragma once
#include "io/pattern.h"
#include "io/text_buffer.h"

typedef enum SplitBehavior {
    SPLIT_REMOVED,
    SPLIT_ISOLATED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS
} SplitBehavior;

typedef enum PrependScheme { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS } PrependScheme;

// First the text is changed: spaces become `space` (when set), and `prefix` is put before it by the scheme where it
// does not begin so. Then the pattern, when there is one, cuts it.
typedef struct PretokenizerStep {
    TextBuffer space, prefix;
    PrependScheme prepend;
    Pattern *pattern;
    SplitBehavior behavior;
    bool invert; // what the pattern leaves are the matches
} PretokenizerStep;

#define PRETOKENIZER_STEPS_MAX 16

typedef struct Pretokenizer {
    PretokenizerStep step[PRETOKENIZER_STEPS_MAX];
    int count;
} Pretokenizer;

void pretokenizer_free(Pretokenizer *p);

typedef Status (*PretokenizerEmit)(void *context, const char *word, size_t bytes);

// Calls emit for each word of text[0, bytes), which is well-formed, in order. `first`: the text begins what is
// tokenised. `buffers` are the thread's own.
Status pretokenizer_run(const Pretokenizer *p, PatternScratch *scratch, TextBuffer buffers[PRETOKENIZER_STEPS_MAX],
                        const char *text, size_t bytes, bool first, PretokenizerEmit emit, void *context);
