// What a tokenizer does to text before it is cut up: the normalizers of tokenizer.json, one after the other.
#pragma once
#include "io/pattern.h"
#include "io/text_buffer.h"

typedef enum NormalizerKind {
    NORMALIZE_NFC,
    NORMALIZE_NFD,
    NORMALIZE_NFKC,
    NORMALIZE_NFKD,
    NORMALIZE_PREPEND, // content, but before no text
    NORMALIZE_REPLACE, // every match of pattern by content
    NORMALIZE_STRIP    // whitespace at the ends
} NormalizerKind;

typedef struct NormalizerStep {
    NormalizerKind kind;
    bool strip_left, strip_right;
    Pattern *pattern;
    TextBuffer content;
} NormalizerStep;

typedef struct Normalizer {
    NormalizerStep *step; // [count]
    int count;
} Normalizer;

// A new last step of that kind, *step, for the caller to fill.
Status normalizer_add(Normalizer *normalizer, NormalizerKind kind, NormalizerStep **step);
void normalizer_free(Normalizer *normalizer);
// text[0, bytes), well-formed, as the steps leave it: *out and *out_bytes, which are the text itself or stand in one of
// the two buffers until these are used again.
Status normalizer_run(const Normalizer *normalizer, PatternScratch *scratch, TextBuffer buffers[2], const char *text,
                      size_t bytes, const char **out, size_t *out_bytes);
