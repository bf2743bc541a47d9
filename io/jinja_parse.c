// A Jinja template as a tree: jinja2's grammar (its parser.py), without what loads other templates (include, import,
// extends, block). Filters, tests and tags that are not known are found here; what the tree means is jinja_eval.c's.
#include "io/jinja_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct NameEntry {
    struct NameEntry *next;
    int id;
} NameEntry;

typedef struct Parser {
    JinjaTemplate *template;
    Token *token; // the one at hand
    int depth;
    int loops;            // around what is parsed, within the same body
    Signature *signature; // of the macro that is parsed, or NULL
} Parser;

#define PARSE_ERROR(p, format, ...)                                                                                    \
    error_set(STATUS_DATA, "%s:%d: " format, (p)->template->name, (p)->token->line __VA_OPT__(, ) __VA_ARGS__)

// --- names ----------------------------------------------------------------------------------------------------------

static unsigned bucket_of(const char *name, size_t size) {
    unsigned hash = 2166136261u; // FNV-1a
    for (size_t i = 0; i < size; i++) hash = (hash ^ (unsigned char)name[i]) * 16777619u;
    return hash % 256;
}

int jinja_name_find(const JinjaTemplate *template, const char *name, size_t size) {
    for (const NameEntry *e = template->buckets[bucket_of(name, size)]; e != NULL; e = e->next) {
        const JinjaValue *known = &template->names[e->id].text;
        if (known->size == size && memcmp(known->text, name, size) == 0) return e->id;
    }
    return -1;
}

bool jinja_names(const JinjaTemplate *template, const char *name) {
    return jinja_name_find(template, name, strlen(name)) >= 0;
}

static Status name_id(Parser *p, const char *name, size_t size, int *out) {
    JinjaTemplate *t = p->template;
    *out = jinja_name_find(t, name, size);
    if (*out >= 0) return STATUS_OK;
    if (t->name_count == JINJA_NAMES_MAX) return PARSE_ERROR(p, "holds more than %d names", JINJA_NAMES_MAX);
    NameEntry *entry = NULL, **bucket = &t->buckets[bucket_of(name, size)];
    TRY(JINJA_ALLOC(&t->memory, entry, 1));
    *entry = (NameEntry){*bucket, t->name_count};
    *bucket = entry;
    char *hint = NULL;
    TRY(JINJA_ALLOC(&t->memory, hint, size + sizeof "'' is undefined"));
    snprintf(hint, size + sizeof "'' is undefined", "'%.*s' is undefined", (int)size, name);
    t->names[t->name_count] =
        (struct Name){jinja_string(name, size), hint, jinja_find_function(jinja_string(name, size))};
    *out = t->name_count++;
    return STATUS_OK;
}

// --- tokens ---------------------------------------------------------------------------------------------------------

static bool token_is(const Token *t, TokenType type, const char *text) {
    return t->type == type && strlen(text) == t->size && memcmp(t->text, text, t->size) == 0;
}

static bool is_name(const Parser *p, const char *name) {
    return token_is(p->token, TOKEN_NAME, name);
}

static bool is_operator(const Parser *p, const char *text) {
    return token_is(p->token, TOKEN_OPERATOR, text);
}

static bool next_is_operator(const Parser *p, const char *text) {
    return p->token->type != TOKEN_EOF && token_is(p->token + 1, TOKEN_OPERATOR, text);
}

static bool skip_name(Parser *p, const char *name) {
    const bool there = is_name(p, name);
    if (there) p->token++;
    return there;
}

static bool skip_operator(Parser *p, const char *text) {
    const bool there = is_operator(p, text);
    if (there) p->token++;
    return there;
}

static Status unexpected(Parser *p, const char *wanted) {
    static const char *const what[] = {"the template's end", "text", "'{{'", "'}}'", "'{%'", "'%}'"};
    const Token *t = p->token;
    if (t->type <= TOKEN_BLOCK_END) return PARSE_ERROR(p, "expected %s, found %s", wanted, what[t->type]);
    return PARSE_ERROR(p, "expected %s, found '%.*s'", wanted, t->size < 100 ? (int)t->size : 100, t->text);
}

static Status expect_operator(Parser *p, const char *text) {
    char wanted[8] = {'\'', text[0], text[1] != '\0' ? text[1] : '\'', text[1] != '\0' ? '\'' : '\0', '\0'};
    return skip_operator(p, text) ? STATUS_OK : unexpected(p, wanted);
}

static Status expect(Parser *p, TokenType type, const char *wanted) {
    if (p->token->type != type) return unexpected(p, wanted);
    p->token++;
    return STATUS_OK;
}

static Status new_node(Parser *p, NodeKind kind, Node **out) {
    TRY(JINJA_ALLOC(&p->template->memory, *out, 1));
    memset(*out, 0, sizeof **out);
    (*out)->kind = kind;
    (*out)->line = p->token->line;
    return STATUS_OK;
}

// A list of pointers or numbers that grows; what it grew out of stays in the template's memory.
static Status append(Parser *p, void **v, int count, size_t size, const void *item) {
    if ((count & (count - 1)) == 0) { // full: a power of two, or none
        void *grown;
        TRY(jinja_alloc(&p->template->memory, count == 0 ? 1 : 2 * (size_t)count, size, &grown));
        if (count > 0) memcpy(grown, *v, (size_t)count * size);
        *v = grown;
    }
    memcpy((char *)*v + (size_t)count * size, item, size);
    return STATUS_OK;
}

static Status list_add(Parser *p, Node *list, Node *item) {
    TRY(append(p, (void **)&list->list.v, list->list.count, sizeof item, &item));
    list->list.count++;
    return STATUS_OK;
}

static Status enter(Parser *p) {
    if (p->depth == JINJA_DEPTH_MAX) return PARSE_ERROR(p, "is nested more than %d deep", JINJA_DEPTH_MAX);
    p->depth++;
    return STATUS_OK;
}

// --- literals -------------------------------------------------------------------------------------------------------

static int hex_digits(const char *from, const char *end, int count, uint32_t *out) {
    *out = 0;
    for (int i = 0; i < count; i++) {
        const char c = from + i < end ? from[i] : '\0';
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0) return 0;
        *out = 16 * *out + (uint32_t)digit;
    }
    return count;
}

static size_t put_utf8(uint32_t c, char *to) {
    if (c < 0x80) {
        to[0] = (char)c;
        return 1;
    }
    const size_t size = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = size - 1; i > 0; i--, c >>= 6) to[i] = (char)(0x80 | (c & 0x3f));
    to[0] = (char)((size == 2 ? 0xc0 : size == 3 ? 0xe0 : 0xf0) | c);
    return size;
}

// The escape behind a backslash at `from`, to `to`; gives how much of the source it takes, 0 where it is broken.
static size_t unescape(const char *from, const char *end, char **to) {
    static const char letters[] = "abfnrtv\\'\"", values[] = "\a\b\f\n\r\t\v\\'\"";
    const char *letter = *from == '\0' ? NULL : strchr(letters, *from);
    if (*from == '\n') return 1; // a line goes on
    if (letter != NULL) {
        *(*to)++ = values[letter - letters];
        return 1;
    }
    uint32_t c = 0;
    size_t size = 0;
    if (*from >= '0' && *from <= '7') {
        while (size < 3 && from + size < end && from[size] >= '0' && from[size] <= '7')
            c = 8 * c + (uint32_t)(from[size++] - '0');
    } else if (*from == 'x' || *from == 'u' || *from == 'U') {
        const int count = *from == 'x' ? 2 : *from == 'u' ? 4 : 8;
        if (hex_digits(from + 1, end, count, &c) == 0 || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return 0;
        size = 1 + (size_t)count;
    } else if (*from == 'N') {
        return 0;
    } else {
        *(*to)++ = '\\';
        *(*to)++ = *from;
        return 1;
    }
    *to += put_utf8(c, *to);
    return size;
}

static Status string_literal(Parser *p, JinjaValue *out) {
    const char *from = p->token->text + 1, *end = p->token->text + p->token->size - 1;
    char *text = NULL;
    TRY(JINJA_ALLOC(&p->template->memory, text, 2 * p->token->size)); // an escape gives at most as much as it takes
    char *to = text;
    while (from < end) {
        if (*from != '\\') {
            *to++ = *from++;
            continue;
        }
        const size_t taken = unescape(from + 1, end, &to);
        if (taken == 0) return PARSE_ERROR(p, "a string holds an escape that is not supported: \\%c", from[1]);
        from += 1 + taken;
    }
    *out = jinja_string(text, (size_t)(to - text));
    p->token++;
    return STATUS_OK;
}

static Status number_literal(Parser *p, JinjaValue *out) {
    char text[64];
    size_t size = 0;
    for (uint32_t i = 0; i < p->token->size && size < sizeof text - 1; i++)
        if (p->token->text[i] != '_') text[size++] = p->token->text[i];
    text[size] = '\0';
    char *end = text;
    const char base = text[0] == '0' ? text[1] : '\0';
    errno = 0;
    if (p->token->type == TOKEN_FLOAT)
        *out = jinja_float(strtod(text, &end));
    else if (base == 'b' || base == 'B' || base == 'o' || base == 'O')
        *out = jinja_int(strtoll(text + 2, &end, base == 'b' || base == 'B' ? 2 : 8));
    else
        *out = jinja_int(strtoll(text, &end, base == 'x' || base == 'X' ? 16 : 10));
    if (*end != '\0' || end == text || (p->token->type == TOKEN_INTEGER && errno == ERANGE) ||
        (base >= '0' && base <= '9' && strspn(text, "0") != size && p->token->type == TOKEN_INTEGER))
        return PARSE_ERROR(p, "'%s' is not a number that is supported", text);
    p->token++;
    return STATUS_OK;
}

// --- expressions ----------------------------------------------------------------------------------------------------

static Status parse_expression(Parser *p, Node **out);
static Status parse_or(Parser *p, Node **out);
static Status parse_unary(Parser *p, bool with_filter, Node **out);
static Status parse_postfix(Parser *p, Node **node);

static bool at_tuple_end(const Parser *p, const char *end_name) {
    return p->token->type == TOKEN_OUTPUT_END || p->token->type == TOKEN_BLOCK_END || is_operator(p, ")") ||
           (end_name != NULL && is_name(p, end_name));
}

typedef Status ItemParser(Parser *p, Node **out);

// Items with commas between them: one of them alone, or a tuple. empty: nothing at all is a tuple, too.
static Status parse_tuple(Parser *p, ItemParser *item, const char *end_name, bool empty, Node **out) {
    Node *tuple;
    TRY(new_node(p, NODE_TUPLE, &tuple));
    bool comma = false;
    while (!at_tuple_end(p, end_name)) {
        Node *one;
        TRY(item(p, &one));
        TRY(list_add(p, tuple, one));
        if (!skip_operator(p, ",")) break;
        comma = true;
    }
    if (!comma && tuple->list.count == 0 && !empty) return unexpected(p, "an expression");
    *out = comma || tuple->list.count == 0 ? tuple : tuple->list.v[0];
    return STATUS_OK;
}

// [a, b] and {a: b, c: d}
static Status parse_items(Parser *p, NodeKind kind, const char *close, Node **out) {
    TRY(new_node(p, kind, out));
    p->token++;
    while (!is_operator(p, close)) {
        Node *one;
        if ((*out)->list.count > 0) TRY(expect_operator(p, ","));
        if (is_operator(p, close)) break;
        TRY(parse_expression(p, &one));
        TRY(list_add(p, *out, one));
        if (kind == NODE_LIST) continue;
        TRY(expect_operator(p, ":"));
        TRY(parse_expression(p, &one));
        TRY(list_add(p, *out, one));
    }
    return expect_operator(p, close);
}

static Status parse_strings(Parser *p, JinjaValue *out) {
    TRY(string_literal(p, out));
    while (p->token->type == TOKEN_STRING) { // "a" "b" is one
        JinjaValue more;
        char *joined = NULL;
        TRY(string_literal(p, &more));
        TRY(JINJA_ALLOC(&p->template->memory, joined, (size_t)out->size + more.size + 1));
        memcpy(joined, out->text, out->size);
        memcpy(joined + out->size, more.text, more.size);
        *out = jinja_string(joined, (size_t)out->size + more.size);
    }
    return STATUS_OK;
}

static Status parse_name(Parser *p, Node **out) {
    const Token *t = p->token;
    const bool yes = is_name(p, "true") || is_name(p, "True"), no = is_name(p, "false") || is_name(p, "False");
    const bool none = is_name(p, "none") || is_name(p, "None");
    TRY(new_node(p, yes || no || none ? NODE_CONST : NODE_NAME, out));
    p->token++;
    if ((*out)->kind == NODE_CONST) {
        (*out)->value = none ? jinja_none() : jinja_bool(yes);
        return STATUS_OK;
    }
    TRY(name_id(p, t->text, t->size, &(*out)->name));
    if (p->signature != NULL) {
        p->signature->takes_varargs |= (*out)->name == p->template->varargs;
        p->signature->takes_kwargs |= (*out)->name == p->template->kwargs;
        p->signature->takes_caller |= (*out)->name == p->template->caller;
    }
    return STATUS_OK;
}

static Status parse_primary(Parser *p, Node **out) {
    if (p->token->type == TOKEN_NAME) return parse_name(p, out);
    if (is_operator(p, "[")) return parse_items(p, NODE_LIST, "]", out);
    if (is_operator(p, "{")) return parse_items(p, NODE_DICT, "}", out);
    if (skip_operator(p, "(")) {
        TRY(parse_tuple(p, parse_expression, NULL, true, out));
        return expect_operator(p, ")");
    }
    TRY(new_node(p, NODE_CONST, out));
    if (p->token->type == TOKEN_STRING) return parse_strings(p, &(*out)->value);
    if (p->token->type == TOKEN_INTEGER || p->token->type == TOKEN_FLOAT) return number_literal(p, &(*out)->value);
    return unexpected(p, "an expression");
}

static Status parse_argument(Parser *p, CallArguments *all) {
    Node *value;
    if (skip_operator(p, "*"))
        return all->star == NULL && all->star_star == NULL ? parse_expression(p, &all->star)
                                                           : unexpected(p, "an argument");
    if (skip_operator(p, "**"))
        return all->star_star == NULL ? parse_expression(p, &all->star_star) : unexpected(p, "an argument");
    if (p->token->type == TOKEN_NAME && next_is_operator(p, "=")) {
        const JinjaValue name = jinja_string(p->token->text, p->token->size);
        p->token += 2;
        TRY(parse_expression(p, &value));
        TRY(append(p, (void **)&all->name, all->named_count, sizeof name, &name));
        TRY(append(p, (void **)&all->named, all->named_count, sizeof value, &value));
        all->named_count++;
        return STATUS_OK;
    }
    if (all->named_count > 0 || all->star != NULL || all->star_star != NULL)
        return unexpected(p, "an argument with a name");
    TRY(parse_expression(p, &value));
    TRY(append(p, (void **)&all->positional, all->count, sizeof value, &value));
    all->count++;
    return STATUS_OK;
}

// (a, b=c, *d, **e), or no arguments where no parenthesis is
static Status parse_arguments(Parser *p, CallArguments **out) {
    TRY(JINJA_ALLOC(&p->template->memory, *out, 1));
    **out = (CallArguments){0};
    if (!skip_operator(p, "(")) return STATUS_OK;
    for (bool first = true; !is_operator(p, ")"); first = false) {
        if (!first) TRY(expect_operator(p, ","));
        if (is_operator(p, ")")) break;
        TRY(parse_argument(p, *out));
    }
    return expect_operator(p, ")");
}

static Status parse_call(Parser *p, Node **node) {
    Node *call;
    TRY(new_node(p, NODE_CALL, &call));
    call->call.callee = *node;
    TRY(parse_arguments(p, &call->call.arguments));
    *node = call;
    return STATUS_OK;
}

// [a], [a:b:c], and with commas a tuple of these
static Status parse_index(Parser *p, Node **out) {
    Node *bound[3] = {NULL};
    Node *slice;
    TRY(new_node(p, NODE_SLICE, &slice));
    if (!is_operator(p, ":")) {
        TRY(parse_expression(p, &bound[0]));
        if (!is_operator(p, ":")) {
            *out = bound[0];
            return STATUS_OK;
        }
    }
    for (int i = 1; i < 3 && skip_operator(p, ":"); i++)
        if (!is_operator(p, ":") && !is_operator(p, "]") && !is_operator(p, ",")) TRY(parse_expression(p, &bound[i]));
    slice->slice.start = bound[0];
    slice->slice.stop = bound[1];
    slice->slice.step = bound[2];
    *out = slice;
    return STATUS_OK;
}

static Status parse_subscript(Parser *p, Node **node) {
    Node *of;
    TRY(new_node(p, NODE_ITEM, &of));
    of->of.object = *node;
    *node = of;
    if (skip_operator(p, "[")) {
        TRY(parse_index(p, &of->of.index));
        return expect_operator(p, "]");
    }
    p->token++;
    if (p->token->type == TOKEN_NAME) {
        of->kind = NODE_ATTRIBUTE;
        of->of.name = jinja_string(p->token->text, p->token->size);
        p->token++;
        return STATUS_OK;
    }
    if (p->token->type != TOKEN_INTEGER) return unexpected(p, "a name or a number");
    TRY(new_node(p, NODE_CONST, &of->of.index));
    return number_literal(p, &of->of.index->value);
}

static Status parse_postfix(Parser *p, Node **node) {
    for (int links = 0;; links++) { // which are evaluated one within the other
        if (links == JINJA_DEPTH_MAX) return PARSE_ERROR(p, "is nested more than %d deep", JINJA_DEPTH_MAX);
        if (is_operator(p, ".") || is_operator(p, "["))
            TRY(parse_subscript(p, node));
        else if (is_operator(p, "("))
            TRY(parse_call(p, node));
        else
            return STATUS_OK;
    }
}

// The name of a filter or test.
static Status find_builtin(Parser *p, const char *kind, const JinjaBuiltin *(*find)(JinjaValue),
                           const JinjaBuiltin **out) {
    if (p->token->type != TOKEN_NAME) return unexpected(p, "a name");
    *out = find(jinja_string(p->token->text, p->token->size));
    if (*out == NULL)
        return PARSE_ERROR(p, "the %s '%.*s' is not supported", kind, (int)p->token->size, p->token->text);
    p->token++;
    return STATUS_OK;
}

static Status parse_filter(Parser *p, Node **node) {
    Node *filter;
    TRY(new_node(p, NODE_FILTER, &filter));
    filter->call.callee = *node;
    TRY(find_builtin(p, "filter", jinja_find_filter, &filter->call.builtin));
    TRY(parse_arguments(p, &filter->call.arguments));
    *node = filter;
    return STATUS_OK;
}

// is [not] NAME [argument]
static Status parse_test(Parser *p, Node **node) {
    const bool negated = skip_name(p, "not");
    Node *test;
    TRY(new_node(p, NODE_TEST, &test));
    test->call.callee = *node;
    TRY(find_builtin(p, "test", jinja_find_test, &test->call.builtin));
    if (is_name(p, "is")) return PARSE_ERROR(p, "tests with 'is' cannot be chained");
    const Token *t = p->token;
    const bool bare = t->type == TOKEN_STRING || t->type == TOKEN_INTEGER || t->type == TOKEN_FLOAT ||
                      is_operator(p, "[") || is_operator(p, "{") ||
                      (t->type == TOKEN_NAME && !is_name(p, "else") && !is_name(p, "or") && !is_name(p, "and") &&
                       !is_name(p, "is") && !is_name(p, "if"));
    if (bare) {
        Node *argument;
        TRY(parse_primary(p, &argument));
        TRY(parse_postfix(p, &argument));
        TRY(JINJA_ALLOC(&p->template->memory, test->call.arguments, 1));
        *test->call.arguments = (CallArguments){0};
        TRY(append(p, (void **)&test->call.arguments->positional, 0, sizeof argument, &argument));
        test->call.arguments->count = 1;
    } else {
        TRY(parse_arguments(p, &test->call.arguments));
    }
    *node = test;
    if (!negated) return STATUS_OK;
    TRY(new_node(p, NODE_NOT, node));
    (*node)->one = test;
    return STATUS_OK;
}

static Status parse_filters(Parser *p, Node **node) {
    for (int links = 0;; links++) {
        if (links == JINJA_DEPTH_MAX) return PARSE_ERROR(p, "is nested more than %d deep", JINJA_DEPTH_MAX);
        if (skip_operator(p, "|"))
            TRY(parse_filter(p, node));
        else if (skip_name(p, "is"))
            TRY(parse_test(p, node));
        else if (is_operator(p, "("))
            TRY(parse_call(p, node));
        else
            return STATUS_OK;
    }
}

static Status parse_unary(Parser *p, bool with_filter, Node **out) {
    TRY(enter(p));
    if (is_operator(p, "-") || is_operator(p, "+")) {
        TRY(new_node(p, is_operator(p, "-") ? NODE_NEGATIVE : NODE_POSITIVE, out));
        p->token++;
        TRY(parse_unary(p, false, &(*out)->one));
    } else {
        TRY(parse_primary(p, out));
    }
    TRY(parse_postfix(p, out));
    if (with_filter) TRY(parse_filters(p, out));
    p->depth--;
    return STATUS_OK;
}

typedef struct Infix {
    const char *text;
    Operation op;
} Infix;

// LEFT op LEFT op LEFT, from the left.
static Status parse_chain(Parser *p, ItemParser *operand, const Infix *infix, Node **out) {
    TRY(operand(p, out));
    for (int links = 0;; links++) {
        const Infix *found = infix;
        while (found->text != NULL && !is_operator(p, found->text)) found++;
        if (found->text == NULL) return STATUS_OK;
        if (links == JINJA_DEPTH_MAX) return PARSE_ERROR(p, "is nested more than %d deep", JINJA_DEPTH_MAX);
        Node *pair;
        TRY(new_node(p, NODE_BINARY, &pair));
        p->token++;
        pair->pair.op = found->op;
        pair->pair.left = *out;
        *out = pair;
        TRY(operand(p, &pair->pair.right));
    }
}

static Status parse_filtered(Parser *p, Node **out) {
    return parse_unary(p, true, out);
}

static Status parse_power(Parser *p, Node **out) {
    static const Infix infix[] = {{"**", OP_POWER}, {0}};
    return parse_chain(p, parse_filtered, infix, out);
}

static Status parse_product(Parser *p, Node **out) {
    static const Infix infix[] = {{"*", OP_MULTIPLY}, {"/", OP_DIVIDE}, {"//", OP_FLOOR_DIVIDE}, {"%", OP_MODULO}, {0}};
    return parse_chain(p, parse_power, infix, out);
}

static Status parse_concat(Parser *p, Node **out) {
    Node *first;
    TRY(parse_product(p, &first));
    *out = first;
    if (!is_operator(p, "~")) return STATUS_OK;
    TRY(new_node(p, NODE_CONCAT, out));
    TRY(list_add(p, *out, first));
    while (skip_operator(p, "~")) {
        Node *more;
        TRY(parse_product(p, &more));
        TRY(list_add(p, *out, more));
    }
    return STATUS_OK;
}

static Status parse_sum(Parser *p, Node **out) {
    static const Infix infix[] = {{"+", OP_ADD}, {"-", OP_SUBTRACT}, {0}};
    return parse_chain(p, parse_concat, infix, out);
}

static bool compare_operator(Parser *p, Operation *op) {
    static const Infix infix[] = {{"==", OP_EQUAL},      {"!=", OP_NOT_EQUAL}, {"<", OP_LESS},
                                  {"<=", OP_LESS_EQUAL}, {">", OP_GREATER},    {">=", OP_GREATER_EQUAL}};
    for (size_t i = 0; i < sizeof infix / sizeof *infix; i++)
        if (skip_operator(p, infix[i].text)) {
            *op = infix[i].op;
            return true;
        }
    if (is_name(p, "not") && token_is(p->token + 1, TOKEN_NAME, "in")) {
        p->token += 2;
        *op = OP_NOT_IN;
        return true;
    }
    *op = OP_IN;
    return skip_name(p, "in");
}

static Status parse_compare(Parser *p, Node **out) {
    Node *first, *chain = NULL;
    TRY(parse_sum(p, &first));
    *out = first;
    for (Operation op; compare_operator(p, &op);) {
        if (chain == NULL) {
            TRY(new_node(p, NODE_COMPARE, &chain));
            TRY(list_add(p, chain, first));
            *out = chain;
        }
        TRY(append(p, (void **)&chain->list.op, chain->list.count - 1, sizeof op, &op));
        Node *operand;
        TRY(parse_sum(p, &operand));
        TRY(list_add(p, chain, operand));
    }
    return STATUS_OK;
}

static Status parse_not(Parser *p, Node **out) {
    if (!is_name(p, "not")) return parse_compare(p, out);
    TRY(enter(p));
    TRY(new_node(p, NODE_NOT, out));
    p->token++;
    TRY(parse_not(p, &(*out)->one));
    p->depth--;
    return STATUS_OK;
}

// LEFT word LEFT ..., as one list: a long chain is no deep tree.
static Status parse_logic(Parser *p, ItemParser *operand, NodeKind kind, const char *word, Node **out) {
    Node *first;
    TRY(operand(p, &first));
    *out = first;
    if (!is_name(p, word)) return STATUS_OK;
    TRY(new_node(p, kind, out));
    TRY(list_add(p, *out, first));
    while (skip_name(p, word)) {
        Node *more;
        TRY(operand(p, &more));
        TRY(list_add(p, *out, more));
    }
    return STATUS_OK;
}

static Status parse_and(Parser *p, Node **out) {
    return parse_logic(p, parse_not, NODE_AND, "and", out);
}

static Status parse_or(Parser *p, Node **out) {
    return parse_logic(p, parse_and, NODE_OR, "or", out);
}

static Status parse_expression(Parser *p, Node **out) {
    TRY(enter(p));
    TRY(parse_or(p, out));
    for (int links = 0; is_name(p, "if"); links++) {
        if (links == JINJA_DEPTH_MAX) return PARSE_ERROR(p, "is nested more than %d deep", JINJA_DEPTH_MAX);
        Node *choice;
        TRY(new_node(p, NODE_CONDITIONAL, &choice));
        p->token++;
        choice->branch.then = *out;
        *out = choice;
        TRY(parse_or(p, &choice->branch.test));
        if (skip_name(p, "else")) TRY(parse_expression(p, &choice->branch.otherwise));
    }
    p->depth--;
    return STATUS_OK;
}

// --- statements -----------------------------------------------------------------------------------------------------

static Status parse_body(Parser *p, const char *const *ends, Node **out);

// What is assigned to: a name, a namespace's item, or a tuple of these.
static Status parse_one_target(Parser *p, Node **out) {
    if (skip_operator(p, "(")) {
        TRY(enter(p));
        TRY(parse_tuple(p, parse_one_target, NULL, true, out));
        p->depth--;
        return expect_operator(p, ")");
    }
    if (p->token->type != TOKEN_NAME) return unexpected(p, "a name to assign to");
    const Token *t = p->token;
    TRY(parse_name(p, out));
    if ((*out)->kind != NODE_NAME) {
        p->token = (Token *)t;
        return unexpected(p, "a name to assign to");
    }
    if (!skip_operator(p, ".")) return STATUS_OK;
    const int name = (*out)->name;
    (*out)->kind = NODE_NAMESPACE_ITEM;
    (*out)->namespace_item.name = name;
    (*out)->namespace_item.attribute = jinja_string(p->token->text, p->token->size);
    return expect(p, TOKEN_NAME, "a name");
}

static Status parse_for(Parser *p, Node **out) {
    static const char *const ends[] = {"else", "endfor", NULL}, *const end[] = {"endfor", NULL};
    TRY(new_node(p, NODE_FOR, out));
    Node *n = *out;
    TRY(parse_tuple(p, parse_one_target, "in", false, &n->loop.target));
    if (!skip_name(p, "in")) return unexpected(p, "'in'");
    TRY(parse_tuple(p, parse_or, "recursive", false, &n->loop.over));
    if (skip_name(p, "if")) TRY(parse_expression(p, &n->loop.test));
    n->loop.recursive = skip_name(p, "recursive");
    p->loops++;
    TRY(parse_body(p, ends, &n->loop.body));
    p->loops--;
    if (skip_name(p, "else")) TRY(parse_body(p, end, &n->loop.otherwise));
    p->token++;
    return STATUS_OK;
}

static Status parse_if(Parser *p, Node **out) {
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const end[] = {"endif", NULL};
    for (Node **to = out;;) { // elif: the else of the one before
        TRY(new_node(p, NODE_IF, to));
        Node *n = *to;
        TRY(parse_tuple(p, parse_or, NULL, false, &n->branch.test));
        TRY(parse_body(p, ends, &n->branch.then));
        to = &n->branch.otherwise;
        if (skip_name(p, "elif")) continue;
        if (skip_name(p, "else")) TRY(parse_body(p, end, to));
        p->token++;
        return STATUS_OK;
    }
}

// |filter|filter ... put to the text of a block; NULL where there is none.
static Status parse_block_filter(Parser *p, Node **out) {
    *out = NULL;
    for (int links = 0; skip_operator(p, "|"); links++) {
        if (links == JINJA_DEPTH_MAX) return PARSE_ERROR(p, "is nested more than %d deep", JINJA_DEPTH_MAX);
        if (*out == NULL) TRY(new_node(p, NODE_CAPTURED, out));
        TRY(parse_filter(p, out));
    }
    return STATUS_OK;
}

static Status parse_inner_body(Parser *p, const char *const *ends, Node **out);

static Status parse_set(Parser *p, Node **out) {
    static const char *const end[] = {"endset", NULL};
    TRY(new_node(p, NODE_SET, out));
    Node *n = *out;
    TRY(parse_tuple(p, parse_one_target, NULL, false, &n->set.target));
    if (skip_operator(p, "=")) return parse_tuple(p, parse_expression, NULL, false, &n->set.value);
    n->kind = NODE_SET_BLOCK;
    TRY(parse_block_filter(p, &n->set.filter));
    TRY(parse_inner_body(p, end, &n->set.value));
    p->token++;
    return STATUS_OK;
}

static Status parse_with(Parser *p, Node **out) {
    static const char *const end[] = {"endwith", NULL};
    TRY(new_node(p, NODE_WITH, out));
    Node *n = *out;
    TRY(new_node(p, NODE_TUPLE, &n->set.target));
    TRY(new_node(p, NODE_TUPLE, &n->set.value));
    while (p->token->type != TOKEN_BLOCK_END) {
        Node *target, *value;
        if (n->set.target->list.count > 0) TRY(expect_operator(p, ","));
        TRY(parse_one_target(p, &target));
        TRY(expect_operator(p, "="));
        TRY(parse_expression(p, &value));
        TRY(list_add(p, n->set.target, target));
        TRY(list_add(p, n->set.value, value));
    }
    TRY(parse_body(p, end, &n->set.filter)); // the body
    p->token++;
    return STATUS_OK;
}

static Status parse_parameters(Parser *p, Signature *s) {
    TRY(expect_operator(p, "("));
    while (!is_operator(p, ")")) {
        if (s->count > 0) TRY(expect_operator(p, ","));
        int name;
        Node *otherwise = NULL;
        if (p->token->type != TOKEN_NAME) return unexpected(p, "a parameter");
        TRY(name_id(p, p->token->text, p->token->size, &name));
        p->token++;
        if (skip_operator(p, "="))
            TRY(parse_expression(p, &otherwise));
        else if (s->count > 0 && s->otherwise[s->count - 1] != NULL)
            return unexpected(p, "a default for this parameter, too");
        TRY(append(p, (void **)&s->parameter, s->count, sizeof name, &name));
        TRY(append(p, (void **)&s->otherwise, s->count, sizeof otherwise, &otherwise));
        s->count++;
    }
    return expect_operator(p, ")");
}

// A body that is a function of its own, with parameters where a parenthesis is.
static Status parse_function(Parser *p, Signature *s, const char *const *ends) {
    Signature *around = p->signature;
    p->signature = s;
    TRY(parse_inner_body(p, ends, &s->body));
    p->signature = around;
    p->token++;
    return STATUS_OK;
}

static Status new_signature(Parser *p, Signature **out) {
    TRY(JINJA_ALLOC(&p->template->memory, *out, 1));
    **out = (Signature){0};
    return STATUS_OK;
}

static Status parse_macro(Parser *p, Node **out) {
    static const char *const end[] = {"endmacro", NULL};
    TRY(new_node(p, NODE_MACRO, out));
    TRY(new_signature(p, &(*out)->macro));
    (*out)->macro->name = jinja_string(p->token->text, p->token->size);
    int id;
    if (p->token->type == TOKEN_NAME) TRY(name_id(p, p->token->text, p->token->size, &id));
    TRY(expect(p, TOKEN_NAME, "the macro's name"));
    TRY(parse_parameters(p, (*out)->macro));
    return parse_function(p, (*out)->macro, end);
}

static Status parse_call_block(Parser *p, Node **out) {
    static const char *const end[] = {"endcall", NULL};
    TRY(new_node(p, NODE_CALL_BLOCK, out));
    Node *n = *out;
    TRY(new_signature(p, &n->caller.body));
    n->caller.body->name = TEXT("caller");
    if (is_operator(p, "(")) TRY(parse_parameters(p, n->caller.body));
    TRY(parse_expression(p, &n->caller.call));
    if (n->caller.call->kind != NODE_CALL) return unexpected(p, "a call");
    return parse_function(p, n->caller.body, end);
}

static Status parse_filter_block(Parser *p, Node **out) {
    static const char *const end[] = {"endfilter", NULL};
    TRY(new_node(p, NODE_FILTER_BLOCK, out));
    Node *n = *out;
    TRY(new_node(p, NODE_CAPTURED, &n->set.filter));
    TRY(parse_filter(p, &n->set.filter));
    while (skip_operator(p, "|")) TRY(parse_filter(p, &n->set.filter));
    TRY(parse_inner_body(p, end, &n->set.value));
    p->token++;
    return STATUS_OK;
}

static Status parse_generation(Parser *p, Node **out) {
    static const char *const end[] = {"endgeneration", NULL};
    TRY(new_node(p, NODE_SCOPE, out));
    TRY(parse_inner_body(p, end, &(*out)->one));
    p->token++;
    return STATUS_OK;
}

static Status parse_print(Parser *p, Node **out) {
    TRY(new_node(p, NODE_BLOCK, out));
    while (p->token->type != TOKEN_BLOCK_END) {
        if ((*out)->list.count > 0) TRY(expect_operator(p, ","));
        Node *output;
        TRY(new_node(p, NODE_OUTPUT, &output));
        TRY(parse_expression(p, &output->one));
        TRY(list_add(p, *out, output));
    }
    return STATUS_OK;
}

static Status parse_leave(Parser *p, NodeKind kind, Node **out) {
    if (p->loops == 0) return PARSE_ERROR(p, "'break' or 'continue' outside a loop");
    return new_node(p, kind, out);
}

static Status parse_break(Parser *p, Node **out) {
    return parse_leave(p, NODE_BREAK, out);
}

static Status parse_continue(Parser *p, Node **out) {
    return parse_leave(p, NODE_CONTINUE, out);
}

static Status parse_statement(Parser *p, Node **out) {
    static const struct {
        const char *tag;
        ItemParser *parse;
    } tags[] = {{"for", parse_for},
                {"if", parse_if},
                {"set", parse_set},
                {"with", parse_with},
                {"macro", parse_macro},
                {"call", parse_call_block},
                {"filter", parse_filter_block},
                {"generation", parse_generation},
                {"print", parse_print},
                {"break", parse_break},
                {"continue", parse_continue}};
    if (p->token->type != TOKEN_NAME) return unexpected(p, "a tag");
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) {
        if (!is_name(p, tags[i].tag)) continue;
        TRY(enter(p));
        p->token++;
        TRY(tags[i].parse(p, out));
        p->depth--;
        return STATUS_OK;
    }
    return PARSE_ERROR(p, "the tag '%.*s' is not supported here", p->token->size < 100 ? (int)p->token->size : 100,
                       p->token->text);
}

// Statements until one of the tags `ends` (NULL: the template's end), whose name is then at hand.
static Status parse_statements(Parser *p, const char *const *ends, Node **out) {
    TRY(new_node(p, NODE_BLOCK, out));
    for (;;) {
        Node *one;
        if (p->token->type == TOKEN_EOF) {
            if (ends == NULL) return STATUS_OK;
            while (ends[1] != NULL) ends++;
            return PARSE_ERROR(p, "the template ends where '{%% %s %%}' is missing", ends[0]);
        }
        if (p->token->type == TOKEN_DATA) {
            TRY(new_node(p, NODE_DATA, &one));
            one->value = jinja_string(p->token->text, p->token->size);
            p->token++;
        } else if (p->token->type == TOKEN_OUTPUT_BEGIN) {
            p->token++;
            TRY(new_node(p, NODE_OUTPUT, &one));
            TRY(parse_tuple(p, parse_expression, NULL, false, &one->one));
            TRY(expect(p, TOKEN_OUTPUT_END, "'}}'"));
        } else {
            p->token++;
            for (int i = 0; ends != NULL && ends[i] != NULL; i++)
                if (is_name(p, ends[i])) return STATUS_OK;
            TRY(parse_statement(p, &one));
            TRY(expect(p, TOKEN_BLOCK_END, "'%}'"));
        }
        TRY(list_add(p, *out, one));
    }
}

// Behind a tag: its closing and the statements up to one of `ends`.
static Status parse_body(Parser *p, const char *const *ends, Node **out) {
    skip_operator(p, ":");
    TRY(expect(p, TOKEN_BLOCK_END, "'%}'"));
    return parse_statements(p, ends, out);
}

// A body that no loop around it can be left from.
static Status parse_inner_body(Parser *p, const char *const *ends, Node **out) {
    const int loops = p->loops;
    p->loops = 0;
    TRY(parse_body(p, ends, out));
    p->loops = loops;
    return STATUS_OK;
}

// --- a template -----------------------------------------------------------------------------------------------------

// Lines ends as \n, and the last one gone.
static Status normalize(JinjaTemplate *t, const char *text, size_t bytes, Source *out) {
    char *copy = NULL;
    TRY(JINJA_ALLOC(&t->memory, copy, bytes + 1));
    size_t size = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == '\r' && i + 1 < bytes && text[i + 1] == '\n') continue;
        copy[size++] = text[i] == '\r' ? '\n' : text[i];
    }
    if (size > 0 && copy[size - 1] == '\n') size--;
    copy[size] = '\0';
    *out = (Source){t->name, copy, size};
    return STATUS_OK;
}

static Status check_text(const Source *source) {
    for (size_t at = 0, next, line = 1; at < source->size; at = next) {
        const uint32_t c = jinja_character(source->text, source->size, at, &next);
        line += c == '\n';
        if (c == 0 || (next == at + 1 && (unsigned char)source->text[at] >= 0x80))
            return error_set(STATUS_DATA, "%s:%zu: is not UTF-8 text", source->name, line);
    }
    return STATUS_OK;
}

static Status parse_template(JinjaTemplate *t, JinjaScratch *tokens, const char *text, size_t bytes) {
    static const char *const special[] = {"loop", "caller", "varargs", "kwargs"};
    int *const to[] = {&t->loop, &t->caller, &t->varargs, &t->kwargs};
    Source source;
    size_t count;
    if (bytes > INT32_MAX) return error_set(STATUS_DATA, "%s: is too long for a template", t->name);
    TRY(normalize(t, text, bytes, &source));
    TRY(check_text(&source));
    Parser p = {.template = t};
    TRY(jinja_lex(tokens, &source, &p.token, &count));
    TRY(JINJA_ALLOC(&t->memory, t->names, JINJA_NAMES_MAX));
    for (size_t i = 0; i < sizeof to / sizeof *to; i++) TRY(name_id(&p, special[i], strlen(special[i]), to[i]));
    return parse_statements(&p, NULL, &t->root);
}

Status jinja_parse(JinjaTemplate **out, const char *name, const char *text, size_t bytes) {
    *out = NULL;
    JinjaTemplate *t = calloc(1, sizeof *t);
    char *copy = strdup(name);
    if (t == NULL || copy == NULL) {
        free(t);
        free(copy);
        return error_set(STATUS_FAILED, "out of memory for a chat template");
    }
    t->name = copy;
    JinjaScratch tokens = {0};
    Status status = parse_template(t, &tokens, text, bytes);
    jinja_scratch_free(&tokens);
    if (status == STATUS_OK)
        *out = t;
    else
        jinja_free(t);
    return status;
}

void jinja_free(JinjaTemplate *template) {
    if (template == NULL) return;
    jinja_scratch_free(&template->memory);
    free((char *)template->name);
    free(template);
}
