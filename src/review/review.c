// Templates, the rules for reviews, and rows. Asking the model is left to review_pairs.c.
#include "src/review/review.h"

#include "io/json_file.h"
#include "src/base/hash.h"
#include "src/base/memory.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TITLE_MARK '\x01' // stands for the title in a parsed template
#define ECHO_WORDS 8      // of a review in a row that also stand in the prompt
#define TITLES_MAX (1 << 24)

static Status no_memory(void) {
    return error_set(STATUS_FAILED, "out of memory for reviews");
}

// --- templates ------------------------------------------------------------------------------------------------------

static bool is_blank(char c) {
    return c == ' ' || c == '\t';
}

static bool is_space(char c) {
    return is_blank(c) || c == '\n' || c == '\r';
}

Status review_template_parse(ReviewTemplate *out, const char *name, const char *text) {
    *out = (ReviewTemplate){0};
    size_t length = strlen(text), start = 0, titles = 0;
    int line = 1;
    bool has_review = false;
    while (length > 0 && is_space(text[length - 1])) length--;
    char *to = malloc(length + 1);
    if (to == NULL) return no_memory();
    out->start = to;
    for (const char *p = text; p < text + length; p++) {
        if (*p == '\n') line++;
        if (*p == TITLE_MARK) return error_set(STATUS_DATA, "%s:%d: holds a control character; remove it", name, line);
        if (*p != '{') {
            if (*p != '\r') *to++ = *p;
            continue;
        }
        if (p[1] == '{') {
            *to++ = *p++;
            continue;
        }
        const size_t word = strspn(p + 1, "abcdefghijklmnopqrstuvwxyz_");
        if (p[1 + word] != '}' || word == 0) {
            *to++ = *p;
            continue;
        }
        if (strncmp(p, "{title}", word + 2) == 0) {
            *to++ = TITLE_MARK;
            titles += !has_review;
        } else if (strncmp(p, "{review}", word + 2) != 0) {
            return error_set(STATUS_DATA, "%s:%d: unknown placeholder %.*s; there are {title} and {review} ({{ is a {)",
                             name, line, (int)word + 2, p);
        } else if (has_review) {
            return error_set(STATUS_DATA, "%s:%d: a second {review}; it stands where the review begins, once", name,
                             line);
        } else {
            has_review = true;
            start = (size_t)(to - out->start);
        }
        p += word + 1;
    }
    *to = '\0';
    if (!has_review) return error_set(STATUS_DATA, "%s:%d: no {review}; put it where the review begins", name, line);
    if (titles == 0) return error_set(STATUS_DATA, "%s:%d: no {title} before the review", name, line);
    size_t end = start;
    while (end > 0 && is_blank(out->start[end - 1])) end--;
    out->opening = strdup(out->start + start);
    out->gap = strndup(out->start + end, start - end);
    out->start[end] = '\0';
    return out->opening == NULL || out->gap == NULL ? no_memory() : STATUS_OK;
}

void review_template_free(ReviewTemplate *t) {
    free(t->start);
    free(t->gap);
    free(t->opening);
    *t = (ReviewTemplate){0};
}

static char *fill(const char *text, const char *title) {
    const size_t length = strlen(title);
    size_t size = 1;
    for (const char *p = text; *p != '\0'; p++) size += *p == TITLE_MARK ? length : 1;
    char *out = malloc(size), *to = out;
    for (const char *p = text; out != NULL && *p != '\0'; p++) {
        if (*p == TITLE_MARK) {
            memcpy(to, title, length);
            to += length;
        } else {
            *to++ = *p;
        }
    }
    if (out != NULL) *to = '\0';
    return out;
}

Status review_prompt(const ReviewTemplate *t, const char *title, ReviewPrompt *out) {
    *out = (ReviewPrompt){.before = fill(t->start, title), .opening = fill(t->opening, title)};
    if (out->before == NULL || out->opening == NULL) return no_memory();
    if (out->opening[0] == '\0')
        out->text = strdup(out->before);
    else if (asprintf(&out->text, "%s%s%s", out->before, t->gap, out->opening) < 0)
        out->text = NULL;
    return out->text == NULL ? no_memory() : STATUS_OK;
}

void review_prompt_free(ReviewPrompt *prompt) {
    free(prompt->text);
    free(prompt->before);
    free(prompt->opening);
    *prompt = (ReviewPrompt){0};
}

// --- answers --------------------------------------------------------------------------------------------------------

char *review_of(const ReviewPrompt *prompt, const char *answer) {
    char *out = NULL;
    if (asprintf(&out, "%s%.*s", prompt->opening, (int)strcspn(answer, "\n\r"), answer) < 0) return NULL;
    size_t first = 0, end = strlen(out);
    while (is_space(out[first])) first++;
    while (end > first && is_space(out[end - 1])) end--;
    memmove(out, out + first, end - first);
    out[end - first] = '\0';
    return out;
}

const char *const review_fault_names[REVIEW_FAULTS] = {"kept",
                                                       "cut off",
                                                       "empty",
                                                       "garbled",
                                                       "echo of the prompt",
                                                       "short",
                                                       "long",
                                                       "no end",
                                                       "more than one sentence",
                                                       "kind and scathing alike"};

// The words of a text in lower case, one blank around each: " the cat s dinner ". Bytes beyond ASCII are letters.
// Caller frees.
static char *words_of(const char *text) {
    char *out = malloc(strlen(text) + 3), *to = out;
    if (out == NULL) return NULL;
    *to++ = ' ';
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++) {
        if (*p >= 0x80 || isalnum(*p))
            *to++ = (char)(*p < 0x80 ? tolower(*p) : *p);
        else if (to[-1] != ' ')
            *to++ = ' ';
    }
    if (to[-1] != ' ') *to++ = ' ';
    *to = '\0';
    return out;
}

bool review_same(const char *a, const char *b) {
    char *x = words_of(a), *y = words_of(b);
    const bool same = x != NULL && y != NULL && strcmp(x, y) == 0;
    free(x);
    free(y);
    return same;
}

// Whether ECHO_WORDS words of `review` in a row, or all of them where it has fewer, stand in `before` in a row. Both as
// words_of gives them.
static bool repeats_words(char *review, const char *before) {
    for (char *first = review; first[1] != '\0';) {
        char *end = first + 1;
        int words = 0;
        while (words < ECHO_WORDS && *end != '\0')
            if (*end++ == ' ') words++;
        if (words < ECHO_WORDS && first != review) return false;
        const char kept = *end;
        *end = '\0';
        const bool found = strstr(before, first) != NULL;
        *end = kept;
        if (found) return true;
        first = strchr(first + 1, ' ');
    }
    return false;
}

// Whether the review begins like a line of the prompt up to its first colon: "Title:", "Negative review:".
static bool begins_with_label(const char *review, const char *before) {
    for (const char *line = before; *line != '\0';) {
        const size_t length = strcspn(line, "\n"), label = strcspn(line, ":\n");
        if (label > 0 && label < length && strncasecmp(review, line, label + 1) == 0) return true;
        line += length + (line[length] == '\n');
    }
    return false;
}

static bool is_echo(const char *review, const char *before) {
    char *x = words_of(review), *y = words_of(before);
    const bool echo = x == NULL || y == NULL || repeats_words(x, y) || begins_with_label(review, before);
    free(x);
    free(y);
    return echo;
}

static bool is_garbled(const char *review) {
    for (const unsigned char *p = (const unsigned char *)review; *p != '\0'; p++)
        if (*p < ' ' || *p == 0x7f) return true;
    json_t *text = json_string(review); // NULL: no UTF-8
    json_decref(text);
    return text == NULL || strstr(review, "\xEF\xBF\xBD") != NULL;
}

static int64_t count_words(const char *text) {
    int64_t words = 0;
    for (const char *p = text; *p != '\0'; p++) words += !is_space(*p) && (p == text || is_space(p[-1]));
    return words;
}

// Bytes of the mark that ends a sentence at p; 0: none stands there.
static size_t end_mark(const char *p) {
    if (*p == '.' || *p == '!' || *p == '?') return 1;
    return strncmp(p, "\xE2\x80\xA6", 3) == 0 ? 3 : 0;
}

// Bytes of a closing quote or bracket at p; 0: none.
static size_t closing(const char *p) {
    static const char *const marks[] = {"\"", "'", ")", "]", "*", "\xE2\x80\x9D", "\xE2\x80\x99", "\xC2\xBB"};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (strncmp(p, marks[i], strlen(marks[i])) == 0) return strlen(marks[i]);
    return 0;
}

// Whether the word before the full stop at `stop` is an abbreviation or an initial.
static bool is_abbreviation(const char *text, const char *stop) {
    static const char *const known[] = {"e.g", "i.e", "al", "vs",  "cf", "Fig", "Eq",
                                        "Sec", "Dr",  "Mr", "Mrs", "Ms", "Prof"};
    const char *word = stop;
    while (word > text && !is_space(word[-1]) && word[-1] != '(') word--;
    const size_t length = (size_t)(stop - word);
    if (length == 1 && isupper((unsigned char)*word) && *word != 'I') return true;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (length == strlen(known[i]) && strncasecmp(word, known[i], length) == 0) return true;
    return false;
}

// Sentences that are ended; *ended: the last one is. A sentence goes on behind a mark that no blank follows, behind one
// that a lower-case letter follows, and behind an abbreviation.
static int count_sentences(const char *text, bool *ended) {
    int count = 0;
    *ended = false;
    for (const char *p = text; *p != '\0';) {
        size_t mark = end_mark(p);
        if (mark == 0) {
            p++;
            continue;
        }
        const char *stop = p;
        for (; mark > 0; mark = end_mark(p)) p += mark;
        const bool single = p == stop + 1 && *stop == '.';
        for (size_t bytes = closing(p); bytes > 0; bytes = closing(p)) p += bytes;
        if (*p == '\0') {
            *ended = true;
            return count + 1;
        }
        if (!is_space(*p)) continue;
        while (is_space(*p)) p++;
        if (islower((unsigned char)*p) || (single && is_abbreviation(text, stop))) continue;
        count++;
    }
    return count;
}

ReviewFault review_check(const char *review, const char *before, const ReviewLimits *limits) {
    bool ended;
    if (review[0] == '\0') return REVIEW_EMPTY;
    if (is_garbled(review)) return REVIEW_GARBLED;
    if (is_echo(review, before)) return REVIEW_ECHO;
    const int64_t words = count_words(review);
    if (words < limits->min_words) return REVIEW_SHORT;
    if (words > limits->max_words) return REVIEW_LONG;
    const int sentences = count_sentences(review, &ended);
    if (!ended) return REVIEW_UNENDED;
    return sentences > 1 ? REVIEW_SENTENCES : REVIEW_GOOD;
}

// --- titles and rows ------------------------------------------------------------------------------------------------

// One blank for every run of blanks, none around; in place.
static void squeeze(char *text) {
    char *to = text;
    for (const char *p = text; *p != '\0'; p++) {
        if (!is_space(*p))
            *to++ = *p;
        else if (to > text && to[-1] != ' ')
            *to++ = ' ';
    }
    while (to > text && to[-1] == ' ') to--;
    *to = '\0';
}

// The title in a line, NULL where it is blank.
static Status read_title(const char *name, int64_t line, const char *text, size_t bytes, char **out) {
    json_error_t error;
    *out = NULL;
    while (bytes > 0 && is_space(*text)) {
        text++;
        bytes--;
    }
    if (bytes == 0) return STATUS_OK;
    json_t *value =
        *text == '{' ? json_foreign_load(text, bytes, 0, &error) : json_stringn(text, bytes); // NULL: no UTF-8
    if (value == NULL && *text == '{')
        return error_set(STATUS_DATA, "%s:%lld: broken JSON in column %d: %s; a line is {\"title\"} or a plain title",
                         name, (long long)line, error.column, error.text);
    if (value == NULL)
        return error_set(STATUS_DATA, "%s:%lld: invalid UTF-8; save the file as UTF-8", name, (long long)line);
    const char *title = json_text(json_is_object(value) ? json_object_get(value, "title") : value);
    Status status = STATUS_OK;
    if (title == NULL)
        status = error_set(STATUS_DATA, "%s:%lld: has no text \"title\"", name, (long long)line);
    else if ((*out = strdup(title)) == NULL)
        status = no_memory();
    json_decref(value);
    TRY(status);
    squeeze(*out);
    for (const unsigned char *p = (const unsigned char *)*out; *p != '\0'; p++)
        if (*p < ' ' || *p == 0x7f)
            return error_set(STATUS_DATA, "%s:%lld: the title holds a control character; remove it", name,
                             (long long)line);
    if (**out == '\0') return error_set(STATUS_DATA, "%s:%lld: the title is empty", name, (long long)line);
    return STATUS_OK;
}

typedef struct Seen {
    uint64_t hash;
    int64_t index; // of the title
} Seen;

static int by_hash(const void *a, const void *b) {
    const Seen *x = a, *y = b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

// Frees titles that stood there before, and closes the gaps.
static Status drop_repeats(char **titles, int64_t *count) {
    Seen *seen = NULL;
    TRY(MEMORY_ALLOC(seen, *count, "titles"));
    for (int64_t i = 0; i < *count; i++) seen[i] = (Seen){hash_bytes(0, titles[i], strlen(titles[i])), i};
    qsort(seen, (size_t)*count, sizeof *seen, by_hash);
    int64_t kept = 0;
    for (int64_t i = *count - 1; i > 0; i--) {
        if (seen[i].hash != seen[i - 1].hash) continue;
        free(titles[seen[i].index]);
        titles[seen[i].index] = NULL;
    }
    for (int64_t i = 0; i < *count; i++)
        if (titles[i] != NULL) titles[kept++] = titles[i];
    *count = kept;
    free(seen);
    return STATUS_OK;
}

Status review_titles(const char *name, const char *text, size_t bytes, char ***out, int64_t *count, int64_t *repeats) {
    *out = NULL;
    *count = *repeats = 0;
    int64_t lines = 1, number = 0;
    for (size_t i = 0; i < bytes; i++) lines += text[i] == '\n';
    TRY(MEMORY_ALLOC(*out, lines, "titles"));
    size_t first = bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    while (first < bytes) {
        const char *end = memchr(text + first, '\n', bytes - first);
        const size_t length = end == NULL ? bytes - first : (size_t)(end - text) - first;
        Status status = read_title(name, ++number, text + first, length, &(*out)[*count]);
        if ((*out)[*count] != NULL) ++*count;
        TRY(status);
        first += length + 1;
    }
    if (*count == 0) return error_set(STATUS_DATA, "%s: holds no title; a line is a title or {\"title\"}", name);
    const int64_t all = *count;
    TRY(drop_repeats(*out, count));
    *repeats = all - *count;
    if (*count > TITLES_MAX) return error_set(STATUS_DATA, "%s: has more than %d titles; split it", name, TITLES_MAX);
    return STATUS_OK;
}

char *review_pair_line(const char *prompt, const char *gap, const char *scathing, const char *kind, const char *title) {
    json_t *row = json_pack("{s:s s:s+ s:s+ s:s}", "prompt", prompt, "chosen", gap, scathing, "rejected", gap, kind,
                            "title", title);
    char *line = row == NULL ? NULL : json_dumps(row, 0);
    json_decref(row);
    return line;
}
