// Patterns by PCRE2. An expression was written for Oniguruma, so it is translated: what both read alike is copied, what
// they read otherwise is spelt out (\s, \w, \v, {n,m}+, scripts), and what is not known to mean the same is refused.
// Matches come as the tokenizers library's find_matches gives them. What is done with them is io/normalizer.c's and
// io/pretokenizer.c's.
#include "io/pattern.h"

#include "io/text_buffer.h"
#include "io/unicode.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEPS_MIN      100000 // of one match, and STEPS_PER_BYTE more: looking for the end of a run of blanks
#define STEPS_PER_BYTE 16     // takes the tokenizers of today 2 to 10 a blank
#define JIT_STACK_MAX  ((size_t)16 << 20) // taken only by expressions that go back far
#define GROUPS_MAX     64                 // open at once
#define REGEX_MAX      65536              // bytes
#define NOWHERE        SIZE_MAX

// White_Space; and what is not.
#define SPACE "\\x09-\\x0D\\x20\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
#define NOT_SPACE                                                                                                      \
    "\\x00-\\x08\\x0E-\\x1F\\x21-\\x{84}\\x{86}-\\x{9F}\\x{A1}-\\x{167F}\\x{1681}-\\x{1FFF}\\x{200B}-\\x{2027}"        \
    "\\x{202A}-\\x{202E}\\x{2030}-\\x{205E}\\x{2060}-\\x{2FFF}\\x{3001}-\\x{10FFFF}"
// Alphabetic (letters, letter numbers, circled letters), marks, decimal digits and connectors.
#define WORD                                                                                                           \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{"    \
    "1F189}"

struct Pattern {
    char *literal; // NULL for an expression
    size_t literal_bytes;
    pcre2_code *code;
    bool jit;
    char *place, *source; // for errors
};

struct PatternScratch {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

static Status no_memory(void) {
    return error_set(STATUS_FAILED, "not enough memory for the tokenizer's patterns");
}

// ---- from Oniguruma's syntax to PCRE2's ----

typedef struct Translation {
    const char *at;
    TextBuffer out;
    size_t atom;              // where the last atom begins in `out`, NOWHERE when there is none
    size_t group[GROUPS_MAX]; // where each open group begins
    int depth;
    const char *place, *source;
} Translation;

static Status refuse(const Translation *t, const char *what, int bytes) {
    return error_set(STATUS_DATA, "%s: the regular expression %.200s has %.*s at byte %td, which is not supported",
                     t->place, t->source, bytes, what, t->at - t->source);
}

static Status put(Translation *t, const char *text) {
    return text_buffer_add(&t->out, text, strlen(text));
}

static bool is_hex(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// \p{...} and \P{...}: general categories stay, any other name is a script. Ends behind the brace.
static Status put_property(Translation *t) {
    static const char categories[] =
        " C Cc Cf Cn Co Cs L Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi Po Ps S "
        "Sc Sk Sm So Z Zl Zp Zs Any ";
    const char *name = t->at + 2, *end = *name == '{' ? strchr(name, '}') : NULL;
    bool negated = t->at[1] == 'P';
    if (end == NULL || end - name > 40) return refuse(t, t->at, 2);
    name++;
    if (*name == '^') {
        negated = !negated;
        name++;
    }
    char word[44], known[48];
    const int bytes = (int)(end - name);
    for (int i = 0; i < bytes; i++)
        if (!is_letter(name[i]) && name[i] != '_') return refuse(t, t->at, (int)(end + 1 - t->at));
    if (bytes == 0) return refuse(t, t->at, (int)(end + 1 - t->at));
    snprintf(word, sizeof word, "%.*s", bytes, name);
    snprintf(known, sizeof known, " %s ", word);
    TRY(put(t, negated ? "\\P{" : "\\p{"));
    if (strstr(categories, known) == NULL) TRY(put(t, "sc:")); // PCRE2 would take a bare name for Script_Extensions
    TRY(put(t, word));
    TRY(put(t, "}"));
    t->at = end + 1;
    return STATUS_OK;
}

// \x41, \x{41}, \u0041.
static Status put_number(Translation *t) {
    const char *digits = t->at + 2, *end;
    const bool braces = t->at[1] == 'x' && *digits == '{';
    if (braces) digits++;
    for (end = digits; is_hex(*end) && end - digits < (braces ? 6 : t->at[1] == 'u' ? 4 : 2);) end++;
    const bool right = braces            ? end > digits && *end == '}'
                       : t->at[1] == 'u' ? end - digits == 4
                                         : end - digits == 2 && *digits < '8';
    if (!right) return refuse(t, t->at, 2);
    char text[16];
    snprintf(text, sizeof text, "\\x{%.*s}", (int)(end - digits), digits);
    t->at = braces ? end + 1 : end;
    return put(t, text);
}

// What \s and its like stand for; NULL for others. Inside a class without brackets.
static const char *class_escape(char c, bool inside) {
    switch (c) {
    case 's':
        return inside ? SPACE : "[" SPACE "]";
    case 'S':
        return inside ? NOT_SPACE : "[^" SPACE "]";
    case 'd':
        return "\\p{Nd}";
    case 'D':
        return "\\P{Nd}";
    case 'w':
        return inside ? WORD : "[" WORD "]";
    case 'W':
        return inside ? NULL : "[^" WORD "]";
    default:
        return NULL;
    }
}

static Status put_escape(Translation *t, bool inside) {
    const char c = t->at[1], *class = class_escape(c, inside);
    if (c == 'p' || c == 'P') return put_property(t);
    if (c == 'x' || c == 'u') return put_number(t);
    const bool punctuation = c > ' ' && c < 0x7F && !is_letter(c) && !(c >= '0' && c <= '9');
    const bool same = punctuation || c == ' ' || (c != '\0' && strchr("rntfae", c) != NULL) ||
                      (!inside && c != '\0' && strchr("AzZ", c) != NULL);
    if (class == NULL && c == 'v') class = "\\x0B";
    if (class == NULL && !same) return refuse(t, t->at, c == '\0' ? 1 : 2);
    TRY(class != NULL ? put(t, class) : text_buffer_add(&t->out, t->at, 2));
    t->at += 2;
    return STATUS_OK;
}

// [...], without sets in it and without &&.
static Status put_class(Translation *t) {
    TRY(put(t, "["));
    t->at++;
    if (*t->at == '^') {
        TRY(put(t, "^"));
        t->at++;
    }
    if (*t->at == ']') return refuse(t, "an empty class", 14);
    for (bool behind_class = false; *t->at != ']';) {
        const char c = *t->at;
        if (c == '\0') return refuse(t, "a class without an end", 22);
        if (c == '[' || (c == '&' && t->at[1] == '&')) return refuse(t, t->at, c == '[' ? 1 : 2);
        if (c == '\\') {
            behind_class = t->at[1] != '\0' && strchr("sSdDwpP", t->at[1]) != NULL;
            TRY(put_escape(t, true));
            continue;
        }
        // A class is no end of a range, so a - beside one means itself.
        const bool before_class =
            c == '-' && t->at[1] == '\\' && t->at[2] != '\0' && strchr("sSdDwpP", t->at[2]) != NULL;
        if (c == '-' && (behind_class || before_class)) TRY(put(t, "\\"));
        const size_t length = unicode_length(c);
        TRY(text_buffer_add(&t->out, t->at, length));
        t->at += length;
        behind_class = false;
    }
    t->at++;
    return put(t, "]");
}

static Status put_group(Translation *t) {
    static const char *const kinds[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:"};
    if (t->depth == GROUPS_MAX) return refuse(t, "groups nested too deep", 22);
    t->group[t->depth++] = t->out.bytes;
    t->atom = NOWHERE;
    if (t->at[1] != '?') {
        t->at++;
        return put(t, "(?:"); // what a group captured nobody asks
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strncmp(t->at, kinds[i], strlen(kinds[i])) != 0) continue;
        t->at += strlen(kinds[i]);
        return put(t, kinds[i]);
    }
    return refuse(t, t->at, 3);
}

// {n}, {n,} and {n,m}, else the brace itself. Behind it Ruby takes + for another repetition and not as possessive.
static Status put_interval(Translation *t) {
    const char *end = t->at + 1;
    bool comma = false, digits = false;
    for (; (*end >= '0' && *end <= '9') || (*end == ',' && !comma); end++) {
        if (*end == ',' && !digits) break;
        comma = comma || *end == ',';
        digits = true;
    }
    if (*end == ',') return refuse(t, t->at, (int)(end - t->at) + 1);
    if (*end != '}' || !digits) {
        t->atom = t->out.bytes;
        t->at++;
        return put(t, "\\{");
    }
    if (end[1] == '?' && !comma) return refuse(t, t->at, (int)(end - t->at) + 2);
    if (t->atom == NOWHERE) return refuse(t, "a repetition of nothing", 23);
    TRY(text_buffer_add(&t->out, t->at, (size_t)(end + 1 - t->at)));
    t->at = end + 1;
    if (*t->at != '+') return STATUS_OK;
    t->at++;
    TRY(put(t, "(?:"));
    memmove(t->out.text + t->atom + 3, t->out.text + t->atom, t->out.bytes - 3 - t->atom);
    memcpy(t->out.text + t->atom, "(?:", 3);
    return put(t, ")+");
}

static Status put_one(Translation *t) {
    const char c = *t->at;
    if (c == '(') return put_group(t);
    if (c == '{') return put_interval(t);
    if (c == ')') {
        if (t->depth == 0) return refuse(t, t->at, 1);
        t->atom = t->group[--t->depth];
    } else if (strchr("*+?|^$", c) == NULL) {
        t->atom = t->out.bytes;
    }
    if (c == '[') return put_class(t);
    if (c == '\\') return put_escape(t, false);
    const size_t length = unicode_length(c);
    TRY(text_buffer_add(&t->out, t->at, length));
    t->at += length;
    return STATUS_OK;
}

static Status translate(const char *regex, const char *place, TextBuffer *out) {
    Translation t = {.at = regex, .source = regex, .place = place, .atom = NOWHERE};
    Status status = STATUS_OK;
    if (strncmp(regex, "(?i)", 4) == 0) { // elsewhere it would reach less far than in Ruby
        status = put(&t, "(?i)");
        t.at += 4;
    }
    while (status == STATUS_OK && *t.at != '\0') status = put_one(&t);
    *out = t.out;
    return status;
}

// ---- opening ----

static Status compile(Pattern *pattern, const TextBuffer *regex) {
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (context == NULL) return no_memory();
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int error;
    PCRE2_SIZE at;
    pattern->code =
        pcre2_compile((PCRE2_SPTR)(regex->bytes > 0 ? regex->text : ""), regex->bytes,
                      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &at, context);
    pcre2_compile_context_free(context);
    if (pattern->code == NULL) {
        char text[160];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof text);
        return error_set(STATUS_DATA, "%s: the regular expression %.200s cannot be used: %s", pattern->place,
                         pattern->source, text);
    }
    // Where the system allows no machine code to be made, PCRE2 interprets.
    pattern->jit = pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE) == 0;
    return STATUS_OK;
}

Status pattern_open_text(Pattern **out, const char *text, size_t bytes) {
    *out = calloc(1, sizeof **out);
    if (*out == NULL || ((*out)->literal = malloc(bytes + 1)) == NULL) return no_memory();
    memcpy((*out)->literal, text, bytes);
    (*out)->literal_bytes = bytes;
    return STATUS_OK;
}

Status pattern_open_regex(Pattern **out, const char *regex, const char *place) {
    Pattern *pattern = *out = calloc(1, sizeof *pattern);
    if (pattern == NULL || (pattern->place = strdup(place)) == NULL || (pattern->source = strdup(regex)) == NULL)
        return no_memory();
    if (strlen(regex) > REGEX_MAX)
        return error_set(STATUS_DATA, "%s: the regular expression is longer than %d bytes", place, REGEX_MAX);
    TextBuffer translated = {0};
    Status status = translate(regex, place, &translated);
    if (status == STATUS_OK) status = compile(pattern, &translated);
    text_buffer_free(&translated);
    return status;
}

void pattern_close(Pattern *pattern) {
    if (pattern == NULL) return;
    pcre2_code_free(pattern->code);
    free(pattern->literal);
    free(pattern->place);
    free(pattern->source);
    free(pattern);
}

Status pattern_scratch_open(PatternScratch **out) {
    PatternScratch *scratch = *out = calloc(1, sizeof *scratch);
    if (scratch == NULL) return no_memory();
    scratch->match = pcre2_match_data_create(1, NULL);
    scratch->context = pcre2_match_context_create(NULL);
    scratch->stack = pcre2_jit_stack_create(32 << 10, JIT_STACK_MAX, NULL); // NULL where PCRE2 has no JIT
    if (scratch->match == NULL || scratch->context == NULL) return no_memory();
    if (scratch->stack != NULL) pcre2_jit_stack_assign(scratch->context, NULL, scratch->stack);
    return STATUS_OK;
}

void pattern_scratch_close(PatternScratch *scratch) {
    if (scratch == NULL) return;
    pcre2_match_data_free(scratch->match);
    pcre2_match_context_free(scratch->context);
    pcre2_jit_stack_free(scratch->stack);
    free(scratch);
}

// ---- matching ----

PatternSearch pattern_search(const Pattern *pattern, PatternScratch *scratch, const char *text, size_t bytes) {
    return (PatternSearch){.pattern = pattern, .scratch = scratch, .text = text, .bytes = bytes, .last_end = NOWHERE};
}

static bool find_literal(PatternSearch *s) {
    const Pattern *p = s->pattern;
    const char *found = p->literal_bytes == 0 || s->at > s->bytes
                            ? NULL
                            : memmem(s->text + s->at, s->bytes - s->at, p->literal, p->literal_bytes);
    if (found == NULL) return false;
    s->start = (size_t)(found - s->text);
    s->at = s->end = s->start + p->literal_bytes;
    return true;
}

static Status find_regex(PatternSearch *s, bool *found) {
    const Pattern *p = s->pattern;
    const PCRE2_SPTR text = (PCRE2_SPTR)s->text;
    const size_t steps = STEPS_MIN + STEPS_PER_BYTE * (s->bytes - s->at);
    pcre2_set_match_limit(s->scratch->context, steps > UINT32_MAX ? UINT32_MAX : (uint32_t)steps);
    // The text was checked; pcre2_jit_match checks nothing.
    const int result =
        p->jit
            ? pcre2_jit_match(p->code, text, s->bytes, s->at, 0, s->scratch->match, s->scratch->context)
            : pcre2_match(p->code, text, s->bytes, s->at, PCRE2_NO_UTF_CHECK, s->scratch->match, s->scratch->context);
    *found = result >= 0;
    if (result == PCRE2_ERROR_NOMATCH) return STATUS_OK;
    if (result < 0)
        return error_set(STATUS_DATA,
                         "%s: the regular expression %.200s takes too many steps on a text of %zu bytes; it is not one "
                         "to tokenise with",
                         p->place, p->source, s->bytes);
    const PCRE2_SIZE *ovector = pcre2_get_ovector_pointer(s->scratch->match);
    s->start = ovector[0];
    s->end = ovector[1];
    return STATUS_OK;
}

Status pattern_next(PatternSearch *s, bool *found) {
    if (s->pattern->literal != NULL) {
        *found = find_literal(s);
        return STATUS_OK;
    }
    for (*found = false; s->at <= s->bytes;) {
        TRY(find_regex(s, found));
        if (!*found) return STATUS_OK;
        if (s->end > s->start || s->end != s->last_end) {
            s->at = s->last_end = s->end;
            return STATUS_OK;
        }
        // An empty match right behind the last one does not count.
        *found = false;
        s->at += s->at < s->bytes ? unicode_length(s->text[s->at]) : 1;
    }
    return STATUS_OK;
}
