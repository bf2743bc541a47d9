// Reviews of titles as text: templates of prompts, which answers count as a review, and the rows made of two of them.
// Nothing here knows a model.
#pragma once
#include "src/base/status.h"
#include <stddef.h>
#include <stdint.h>

// --- templates ------------------------------------------------------------------------------------------------------

// A text with {title} and, once, {review}, where the review begins. What follows {review} are words that the review
// opens with. Blanks before {review} belong to the review, as a language model's words begin with their blank; those at
// the end of the file to nothing. "{{" is a "{".
typedef struct ReviewTemplate {
    char *start;   // up to the review, with a mark for every title; without the blanks before the review
    char *gap;     // these blanks
    char *opening; // with a mark for every title; "" of most
} ReviewTemplate;

// `name` stands for the file in messages (STATUS_DATA, FILE:LINE). Free with review_template_free, also after an error.
Status review_template_parse(ReviewTemplate *out, const char *name, const char *text);
void review_template_free(ReviewTemplate *t);

typedef struct ReviewPrompt {
    char *text;    // what the model gets
    char *before;  // of it, what stands before the review
    char *opening; // how the review opens
} ReviewPrompt;

// The template for one title. Free with review_prompt_free, also after an error.
Status review_prompt(const ReviewTemplate *t, const char *title, ReviewPrompt *out);
void review_prompt_free(ReviewPrompt *prompt);

// --- answers --------------------------------------------------------------------------------------------------------

// The review in what the model wrote behind a prompt: the opening and the answer's first line, without blanks around.
// Caller frees; NULL when out of memory.
char *review_of(const ReviewPrompt *prompt, const char *answer);

// The rules, in the order in which they are tried. docs/data.md says each to the user.
typedef enum ReviewFault {
    REVIEW_GOOD,
    REVIEW_CUT,       // the caller's: ended by the limit of tokens
    REVIEW_EMPTY,     //
    REVIEW_GARBLED,   // no UTF-8, control characters, U+FFFD
    REVIEW_ECHO,      // of the prompt
    REVIEW_SHORT,     // words
    REVIEW_LONG,      //
    REVIEW_UNENDED,   // no . ! ? or ... at its end
    REVIEW_SENTENCES, // more than one
    REVIEW_SAME,      // the caller's: kind and scathing are equal
    REVIEW_FAULTS
} ReviewFault;
extern const char *const review_fault_names[REVIEW_FAULTS];

typedef struct ReviewLimits {
    int64_t min_words, max_words;
} ReviewLimits;

// `before`: of the prompt, what stands before the review.
ReviewFault review_check(const char *review, const char *before, const ReviewLimits *limits);

// Whether two reviews are the same words, whatever their case and punctuation.
bool review_same(const char *a, const char *b);

// --- titles and rows ------------------------------------------------------------------------------------------------

// The titles in a text of plain lines or {"title"} lines, in their order, each once; runs of blanks become one, empty
// lines are skipped. STATUS_DATA with FILE:LINE. Caller frees each, and *out.
Status review_titles(const char *name, const char *text, size_t bytes, char ***out, int64_t *count, int64_t *repeats);

// {"prompt", "chosen", "rejected", "title"} as one line without newline. Caller frees; NULL when out of memory.
char *review_pair_line(const char *prompt, const char *gap, const char *scathing, const char *kind, const char *title);
