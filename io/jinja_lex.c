// Tokens of a Jinja template, as jinja2's lexer makes them with trim_blocks and lstrip_blocks: what whitespace around
// tags goes away is decided here. What the tokens mean is left to jinja_parse.c.
#include "io/jinja_internal.h"

#include <string.h>

typedef struct Lexer {
    JinjaScratch *memory;
    const Source *source;
    size_t at;
    int line;
    bool line_start; // the last tag ended a line
    Token *v;
    size_t count, capacity;
    char open[JINJA_DEPTH_MAX]; // brackets
    int depth;
} Lexer;

#define LEX_ERROR(lexer, format, ...)                                                                                  \
    error_set(STATUS_DATA, "%s:%d: " format, (lexer)->source->name, (lexer)->line __VA_OPT__(, ) __VA_ARGS__)

static Status add(Lexer *l, TokenType type, const char *text, size_t size) {
    if (l->count == l->capacity) {
        const size_t capacity = l->capacity == 0 ? 256 : 2 * l->capacity;
        Token *grown = NULL;
        TRY(JINJA_ALLOC(l->memory, grown, capacity));
        if (l->count > 0) memcpy(grown, l->v, l->count * sizeof *grown);
        l->v = grown;
        l->capacity = capacity;
    }
    l->v[l->count++] = (Token){type, l->line, text, (uint32_t)size};
    return STATUS_OK;
}

static char peek(const Lexer *l, size_t ahead) {
    return l->at + ahead < l->source->size ? l->source->text[l->at + ahead] : '\0';
}

// Goes on to `to`, counting lines.
static void advance(Lexer *l, size_t to) {
    for (; l->at < to; l->at++) l->line += l->source->text[l->at] == '\n';
}

static size_t skip_space(const Lexer *l, size_t at) {
    size_t next = at;
    while (at < l->source->size && jinja_is_space(jinja_character(l->source->text, l->source->size, at, &next)))
        at = next;
    return at;
}

// `end` without the whitespace in front of it, not before `begin`.
static size_t strip_back(const Lexer *l, size_t begin, size_t end) {
    const JinjaValue text = jinja_string(l->source->text + begin, end - begin);
    return begin + jinja_strip(text, jinja_none(), false, true).size;
}

// `end` without what lstrip_blocks takes away: whitespace between the beginning of the line and a tag at `end`.
static size_t strip_line(const Lexer *l, size_t begin, size_t end) {
    size_t line = end;
    while (line > begin && l->source->text[line - 1] != '\n') line--;
    if ((line > begin || l->line_start) && skip_space(l, line) >= end) return line;
    return end;
}

// The text [begin, end) in front of a tag that has `sign` ('-', '+' or 0) behind its opening.
static Status add_data(Lexer *l, size_t begin, size_t end, char sign, bool strips_line) {
    size_t kept = end;
    if (sign == '-')
        kept = strip_back(l, begin, end);
    else if (sign != '+' && strips_line)
        kept = strip_line(l, begin, end);
    if (kept > begin) TRY(add(l, TOKEN_DATA, l->source->text + begin, kept - begin));
    advance(l, end);
    return STATUS_OK;
}

// Behind a tag's closing two characters, with '-' or '+' (or another character) in front of them.
static void close_tag(Lexer *l, size_t end, char sign, bool trims) {
    size_t to = end;
    if (sign == '-')
        to = skip_space(l, end);
    else if (sign != '+' && trims && end < l->source->size && l->source->text[end] == '\n')
        to = end + 1;
    advance(l, to);
    l->line_start = l->source->text[to - 1] == '\n';
}

static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           (unsigned char)c >= 0x80;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

// The length of a "{% WORD %}" tag at `at`, 0 if it is another; the signs beside its opening and closing.
static size_t word_tag(const Lexer *l, size_t at, const char *word, char *open, char *close) {
    const char *text = l->source->text;
    const size_t size = l->source->size, begin = at, length = strlen(word);
    if (at + 2 > size || memcmp(text + at, "{%", 2) != 0) return 0;
    at += 2;
    *open = at < size && (text[at] == '-' || text[at] == '+') ? text[at++] : '\0';
    at = skip_space(l, at);
    if (at + length > size || memcmp(text + at, word, length) != 0) return 0;
    at = skip_space(l, at + length);
    *close = at < size && (text[at] == '-' || text[at] == '+') ? text[at++] : '\0';
    return at + 2 <= size && memcmp(text + at, "%}", 2) == 0 ? at + 2 - begin : 0;
}

static Status lex_raw(Lexer *l, size_t tag, char sign) {
    close_tag(l, l->at + tag, sign, false);
    char open, close;
    for (size_t at = l->at; at < l->source->size; at++) {
        const size_t end = l->source->text[at] == '{' ? word_tag(l, at, "endraw", &open, &close) : 0;
        if (end == 0) continue;
        TRY(add_data(l, l->at, at, open, true));
        close_tag(l, at + end, close, true);
        return STATUS_OK;
    }
    return LEX_ERROR(l, "a raw block without endraw");
}

static Status lex_comment(Lexer *l) {
    for (size_t at = l->at + 2; at + 1 < l->source->size; at++) {
        if (l->source->text[at] != '#' || l->source->text[at + 1] != '}') continue;
        const bool signed_ = at > l->at + 2 + (peek(l, 2) == '-' || peek(l, 2) == '+');
        close_tag(l, at + 2, signed_ ? l->source->text[at - 1] : '\0', true);
        return STATUS_OK;
    }
    return LEX_ERROR(l, "a comment without its end, #}");
}

static Status lex_string(Lexer *l) {
    const char quote = peek(l, 0);
    size_t at = l->at + 1;
    while (at < l->source->size && l->source->text[at] != quote) at += l->source->text[at] == '\\' ? 2 : 1;
    if (at >= l->source->size) return LEX_ERROR(l, "a string without its end, %c", quote);
    TRY(add(l, TOKEN_STRING, l->source->text + l->at, at + 1 - l->at));
    advance(l, at + 1);
    return STATUS_OK;
}

static size_t digits(const Lexer *l, size_t at) {
    const char *text = l->source->text;
    while (at < l->source->size &&
           (is_digit(text[at]) || (text[at] == '_' && at + 1 < l->source->size && is_digit(text[at + 1]))))
        at++;
    return at;
}

static Status lex_number(Lexer *l) {
    const char *text = l->source->text;
    size_t end = digits(l, l->at);
    bool real = false;
    const bool based = text[l->at] == '0' && strchr("xXoObB", peek(l, 1)) != NULL && peek(l, 1) != '\0';
    if (based) {
        end = l->at + 2;
        while (end < l->source->size && is_word(text[end])) end++;
    } else {
        // "messages.0.role" and "1.5": a number behind a dot has no fraction.
        const bool behind_dot = l->at > 0 && text[l->at - 1] == '.';
        if (!behind_dot && end + 1 < l->source->size && text[end] == '.' && is_digit(text[end + 1])) {
            end = digits(l, end + 1);
            real = true;
        }
        if (!behind_dot && end < l->source->size && (text[end] == 'e' || text[end] == 'E')) {
            const size_t sign = end + 1 < l->source->size && (text[end + 1] == '-' || text[end + 1] == '+');
            if (end + 1 + sign < l->source->size && is_digit(text[end + 1 + sign])) {
                end = digits(l, end + 1 + sign);
                real = true;
            }
        }
    }
    TRY(add(l, real ? TOKEN_FLOAT : TOKEN_INTEGER, text + l->at, end - l->at));
    l->at = end;
    return STATUS_OK;
}

static Status lex_operator(Lexer *l) {
    static const char *const two[] = {"==", "!=", ">=", "<=", "//", "**"};
    const char c = peek(l, 0);
    size_t size = 1;
    for (size_t i = 0; i < sizeof two / sizeof *two; i++)
        if (c == two[i][0] && peek(l, 1) == two[i][1]) size = 2;
    if (size == 1 && (c == '\0' || strchr("+-/*%~[](){}><=.:|,;", c) == NULL))
        return LEX_ERROR(l, "unexpected character '%c'", c);
    if (c == '(' || c == '[' || c == '{') {
        if (l->depth == JINJA_DEPTH_MAX) return LEX_ERROR(l, "brackets are nested more than %d deep", JINJA_DEPTH_MAX);
        l->open[l->depth++] = c == '(' ? ')' : (char)(c + 2);
    } else if (c == ')' || c == ']' || c == '}') {
        if (l->depth == 0) return LEX_ERROR(l, "unexpected '%c'", c);
        if (l->open[--l->depth] != c) return LEX_ERROR(l, "unexpected '%c', expected '%c'", c, l->open[l->depth]);
    }
    TRY(add(l, TOKEN_OPERATOR, l->source->text + l->at, size));
    l->at += size;
    return STATUS_OK;
}

// Whether a tag that `close` ('%' or '}') ends, does so here; *sign gets what stands before it.
static bool at_end(const Lexer *l, char close, char *sign) {
    const size_t at = (peek(l, 0) == '-' || (peek(l, 0) == '+' && close == '%')) ? 1 : 0;
    *sign = at == 1 ? peek(l, 0) : '\0';
    return l->depth == 0 && peek(l, at) == close && peek(l, at + 1) == '}';
}

static Status lex_tag(Lexer *l, char close, TokenType begin, TokenType end) {
    TRY(add(l, begin, l->source->text + l->at, 2));
    const char first = peek(l, 2);
    advance(l, l->at + 2 + (first == '-' || first == '+'));
    l->depth = 0;
    for (;;) {
        char sign;
        if (at_end(l, close, &sign)) {
            TRY(add(l, end, l->source->text + l->at, 2));
            close_tag(l, l->at + 2 + (sign != '\0'), sign, close == '%');
            return STATUS_OK;
        }
        const size_t space = skip_space(l, l->at);
        if (space > l->at) {
            advance(l, space);
            continue;
        }
        const char c = peek(l, 0);
        if (l->at >= l->source->size) return LEX_ERROR(l, "a tag without its end, %c}", close);
        if (is_digit(c)) {
            TRY(lex_number(l));
        } else if (c == '\'' || c == '"') {
            TRY(lex_string(l));
        } else if (is_word(c)) {
            size_t to = l->at;
            while (to < l->source->size && is_word(l->source->text[to])) to++;
            TRY(add(l, TOKEN_NAME, l->source->text + l->at, to - l->at));
            l->at = to;
        } else {
            TRY(lex_operator(l));
        }
    }
}

static Status lex_root(Lexer *l) {
    size_t tag = l->at;
    const char *text = l->source->text;
    const size_t size = l->source->size;
    while (tag + 1 < size &&
           !(text[tag] == '{' && (text[tag + 1] == '{' || text[tag + 1] == '%' || text[tag + 1] == '#')))
        tag++;
    if (tag + 1 >= size) {
        TRY(add(l, TOKEN_DATA, text + l->at, size - l->at));
        l->at = size;
        return STATUS_OK;
    }
    const char kind = text[tag + 1], sign = tag + 2 < size ? text[tag + 2] : '\0';
    TRY(add_data(l, l->at, tag, sign, kind != '{'));
    char open, close;
    const size_t raw = word_tag(l, tag, "raw", &open, &close);
    if (raw > 0 && close != '+') return lex_raw(l, raw, close);
    if (kind == '#') return lex_comment(l);
    return kind == '%' ? lex_tag(l, '%', TOKEN_BLOCK_BEGIN, TOKEN_BLOCK_END)
                       : lex_tag(l, '}', TOKEN_OUTPUT_BEGIN, TOKEN_OUTPUT_END);
}

Status jinja_lex(JinjaScratch *memory, const Source *source, Token **out, size_t *count) {
    Lexer l = {.memory = memory, .source = source, .line = 1, .line_start = true};
    while (l.at < source->size) TRY(lex_root(&l));
    TRY(add(&l, TOKEN_EOF, source->text + source->size, 0));
    *out = l.v;
    *count = l.count;
    return STATUS_OK;
}
