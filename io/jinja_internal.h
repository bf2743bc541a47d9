// What the files of the Jinja interpreter know of each other: jinja_lex.c makes tokens, jinja_parse.c a tree of nodes,
// jinja_eval.c walks it; jinja_value.c has values and how they are written, compared and gone through, jinja_text.c
// Python's functions on texts, jinja_builtin.c filters, tests, methods and functions.
#pragma once
#include "io/jinja.h"

#define JINJA_DEPTH_MAX 400 // of nesting: of a template's text, of calls, of values
#define JINJA_NAMES_MAX 4096
#define JINJA_RANGE_MAX 100000 // jinja2's sandbox

// --- tokens ---------------------------------------------------------------------------------------------------------

typedef enum TokenType {
    TOKEN_EOF,
    TOKEN_DATA,
    TOKEN_OUTPUT_BEGIN,
    TOKEN_OUTPUT_END,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_NAME,
    TOKEN_STRING, // with its quotes
    TOKEN_INTEGER,
    TOKEN_FLOAT,
    TOKEN_OPERATOR // text[0, size) says which
} TokenType;

typedef struct Token {
    TokenType type;
    int line;
    const char *text;
    uint32_t size;
} Token;

typedef struct Source {
    const char *name;
    const char *text; // newlines as \n, and without the last one
    size_t size;
} Source;

// The tokens of the whole source, ending in TOKEN_EOF, in the scratch's memory.
Status jinja_lex(JinjaScratch *memory, const Source *source, Token **out, size_t *count);

// --- nodes ----------------------------------------------------------------------------------------------------------

typedef enum NodeKind {
    NODE_BLOCK, // list: statements
    NODE_DATA,  // value
    NODE_OUTPUT,
    NODE_IF,
    NODE_FOR,
    NODE_SET,
    NODE_SET_BLOCK,
    NODE_WITH,
    NODE_MACRO,
    NODE_SCOPE, // a body in a scope of its own: generation
    NODE_FILTER_BLOCK,
    NODE_CALL_BLOCK,
    NODE_BREAK,
    NODE_CONTINUE,
    NODE_CONST, // from here on expressions
    NODE_NAME,
    NODE_NAMESPACE_ITEM, // as a target
    NODE_TUPLE,
    NODE_LIST,
    NODE_DICT, // list: key, value, key, ...
    NODE_ATTRIBUTE,
    NODE_ITEM,
    NODE_SLICE,
    NODE_CALL,
    NODE_FILTER,
    NODE_TEST,
    NODE_CAPTURED, // the text of the block that a filter is put to
    NODE_NOT,
    NODE_NEGATIVE,
    NODE_POSITIVE,
    NODE_AND,
    NODE_OR,
    NODE_COMPARE, // list: operands; op[i] before operand i + 1
    NODE_BINARY,
    NODE_CONCAT,
    NODE_CONDITIONAL
} NodeKind;

typedef enum Operation {
    OP_ADD,
    OP_SUBTRACT,
    OP_MULTIPLY,
    OP_DIVIDE,
    OP_FLOOR_DIVIDE,
    OP_MODULO,
    OP_POWER,
    OP_EQUAL,
    OP_NOT_EQUAL,
    OP_LESS,
    OP_LESS_EQUAL,
    OP_GREATER,
    OP_GREATER_EQUAL,
    OP_IN,
    OP_NOT_IN
} Operation;

typedef struct Node Node;

typedef struct CallArguments { // as written
    Node **positional;
    int count;
    JinjaValue *name; // [named_count]
    Node **named;
    int named_count;
    Node *star, *star_star; // or NULL
} CallArguments;

typedef struct Signature { // of a macro or of a call block's body
    JinjaValue name;
    int *parameter;   // [count], ids of names
    Node **otherwise; // [count], NULL: none
    int count;
    bool takes_varargs, takes_kwargs, takes_caller;
    Node *body;
} Signature;

struct Node {
    NodeKind kind;
    int line;
    union {
        JinjaValue value;
        int name; // its id
        Node *one;
        struct {
            Node **v;
            Operation *op;
            int count;
        } list;
        struct {
            Node *left, *right;
            Operation op;
        } pair;
        struct {
            Node *object, *index; // index of an item
            JinjaValue name;      // of an attribute
        } of;
        struct {
            int name;
            JinjaValue attribute;
        } namespace_item;
        struct {
            Node *start, *stop, *step;
        } slice;
        struct {
            Node *callee; // of a filter or test what it is put to
            const struct JinjaBuiltin *builtin;
            CallArguments *arguments;
        } call;
        struct {
            Node *test, *then, *otherwise;
        } branch;
        struct {
            Node *target, *over, *test, *body, *otherwise;
            bool recursive;
        } loop;
        struct {
            Node *target, *value, *filter; // value: an expression or a block
        } set;
        struct {
            Node *call;
            Signature *body;
        } caller;
        Signature *macro;
    };
};

struct JinjaTemplate {
    JinjaScratch memory; // of all below
    const char *name;
    Node *root;
    struct Name {
        JinjaValue text;
        const char *hint; // what an error says of the variable where it is undefined
        const struct JinjaBuiltin *function;
    } * names;                                     // [name_count], by id
    int name_count, loop, caller, varargs, kwargs; // ids
    struct NameEntry *buckets[256];
};

// The id of a name that the template holds, or -1.
int jinja_name_find(const JinjaTemplate *template, const char *name, size_t size);

// --- values ---------------------------------------------------------------------------------------------------------

typedef struct JinjaList {
    JinjaValue *v;
    size_t count, capacity;
    size_t next;      // of an iterator: what it gives next
    const char *kind; // of a view or iterator: its type's name in Python
} JinjaList;

typedef struct JinjaDict { // and a namespace
    JinjaValue *key, *value;
    size_t count, capacity;
} JinjaDict;

typedef struct Arguments {
    const JinjaValue *positional;
    int count;
    const JinjaValue *name, *named; // [named_count]
    int named_count;
} Arguments;

#define PARAMETERS_MAX 5
typedef struct Render Render;
typedef Status BuiltinFunction(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all,
                               JinjaValue *out);
// A filter, test, method or function. argument[i] is what was given for parameter[i], JINJA_MISSING where nothing was.
typedef struct JinjaBuiltin {
    const char *name;
    BuiltinFunction *run;
    int needed; // of the parameters; -1: takes any arguments, and looks at `all`
    const char *parameter[PARAMETERS_MAX];
} JinjaBuiltin;

typedef struct JinjaMethod {
    const JinjaBuiltin *builtin;
    JinjaValue of;
} JinjaMethod;

typedef struct Binding {
    int name;
    JinjaValue value;
} Binding;

typedef struct Scope {
    struct Scope *outer; // NULL: the template's own, whose variables are Render.globals
    Binding *v;
    int count, capacity;
} Scope;

typedef struct JinjaMacro {
    const Signature *signature;
    Scope *scope; // where it was defined
} JinjaMacro;

typedef struct JinjaLoop {
    const JinjaList *items;
    size_t index; // from 0
    int depth;    // from 0
    const Node *node;
    Scope *scope;       // around the loop
    JinjaValue changed; // what loop.changed was last given
} JinjaLoop;

struct Render {
    const JinjaTemplate *template;
    JinjaScratch *memory;
    JinjaValue *globals; // [template->name_count]
    Scope *scope;        // NULL: the template's own
    JinjaValue captured;
    uint64_t steps;
    int line, depth;
    NodeKind leaving; // NODE_BREAK or NODE_CONTINUE on the way out to the loop; else 0
    time_t now;
};

// STATUS_DATA "NAME:LINE: ...", where r->line is.
#define JINJA_FAIL(r, format, ...)                                                                                     \
    error_set(STATUS_DATA, "%s:%d: " format, (r)->template->name, (r)->line __VA_OPT__(, ) __VA_ARGS__)
#define TEXT_ARGUMENT(v) (int)((v).size < 200 ? (v).size : 200), (v).text // of %.*s

// Memory of the scratch, not cleared, aligned for any value.
Status jinja_alloc(JinjaScratch *memory, size_t count, size_t size, void **out);
#define JINJA_ALLOC(memory, pointer, count) jinja_alloc(memory, (size_t)(count), sizeof *(pointer), (void **)&(pointer))
// Room for `more` bytes of output and a NUL behind them.
Status jinja_grow_output(JinjaScratch *memory, size_t more);
// Counts `work` against the limit of steps: about one for an operation, or for JINJA_STEP_BYTES gone through.
Status jinja_spend(Render *r, size_t work);
#define JINJA_STEP_BYTES 64
// One level further down, refused beyond the limit; the caller takes r->depth back.
Status jinja_deeper(Render *r);

#define TEXT(literal) ((JinjaValue){.type = JINJA_STRING, .size = sizeof(literal) - 1, .text = (literal)})
JinjaValue jinja_int(int64_t value);
JinjaValue jinja_float(double value);
JinjaValue jinja_none(void);
JinjaValue jinja_undefined(const char *hint);
// An undefined value with a hint of its own.
Status jinja_hint(Render *r, JinjaValue *out, const char *format, ...) __attribute__((format(printf, 3, 4)));
const char *jinja_type_name(JinjaValue v); // as Python has it
bool jinja_truth(JinjaValue v);
bool jinja_is(JinjaValue v, const char *text); // a string with these bytes
bool jinja_same_text(JinjaValue a, JinjaValue b);
bool jinja_is_sequence(JinjaValue v); // of a known length, with items by number: list, tuple, range
Status jinja_new_list(Render *r, JinjaType type, size_t capacity, JinjaValue *out);
Status jinja_iterator(Render *r, const char *kind, size_t capacity, JinjaValue *out);
Status jinja_length(Render *r, JinjaValue v, size_t *out);
Status jinja_equal(Render *r, JinjaValue a, JinjaValue b, bool *out);
Status jinja_less(Render *r, JinjaValue a, JinjaValue b, const char *operator_name, bool or_equal, bool *out);
Status jinja_contains(Render *r, JinjaValue container, JinjaValue item, bool *out);
// NULL in *out where the key is not there.
Status jinja_dict_get(Render *r, const JinjaDict *dict, JinjaValue key, const JinjaValue **out);
// The items that a loop over v meets. The list may be v's own.
Status jinja_items(Render *r, JinjaValue v, const JinjaList **out);
Status jinja_attribute(Render *r, JinjaValue object, JinjaValue name, JinjaValue *out);
Status jinja_item(Render *r, JinjaValue object, JinjaValue index, JinjaValue *out);
Status jinja_slice(Render *r, JinjaValue v, const JinjaValue bound[3], JinjaValue *out); // JINJA_NONE: not given
Status jinja_whole(Render *r, JinjaValue v, const char *what, int64_t *out);

// Texts are built at the end of the output, from a mark on, and taken from there.
size_t jinja_mark(const Render *r);
Status jinja_put(Render *r, const char *text, size_t size);
Status jinja_put_value(Render *r, JinjaValue v); // str(v)
Status jinja_put_repr(Render *r, JinjaValue v);
typedef struct JsonForm {
    bool ascii, sort, indented;
    JinjaValue indent, item_separator, key_separator; // strings
} JsonForm;
Status jinja_put_json(Render *r, JinjaValue v, const JsonForm *form, int level);
Status jinja_take(Render *r, size_t mark, JinjaValue *out);
Status jinja_text(Render *r, JinjaValue v, JinjaValue *out); // str(v) as a string

// --- texts ----------------------------------------------------------------------------------------------------------

// The character at `at` (< size); *next gets where the following one starts. Broken UTF-8 gives a byte.
uint32_t jinja_character(const char *text, size_t size, size_t at, size_t *next);
bool jinja_is_space(uint32_t character); // str.isspace
bool jinja_is_printable(uint32_t character);
Status jinja_characters(Render *r, JinjaValue text, size_t *out); // how many
// The byte where character `index` starts (the end, for one behind the last).
Status jinja_offset(Render *r, JinjaValue text, size_t index, size_t *out);
JinjaValue jinja_strip(JinjaValue text, JinjaValue characters, bool left, bool right); // characters: none is whitespace
const char *jinja_search(JinjaValue text, JinjaValue part);
extern const JinjaBuiltin jinja_text_methods[]; // ends in one without a name
BuiltinFunction jinja_upper, jinja_lower, jinja_capitalize, jinja_title_filter, jinja_replace, jinja_splitlines,
    jinja_is_lower, jinja_is_upper;
// str % arguments; all: each of them must be used
Status jinja_percent(Render *r, JinjaValue format, const Arguments *given, bool all, JinjaValue *out);

// --- built in and evaluation ----------------------------------------------------------------------------------------

const JinjaBuiltin *jinja_find_filter(JinjaValue name);
const JinjaBuiltin *jinja_find_test(JinjaValue name);
const JinjaBuiltin *jinja_find_method(JinjaType type, JinjaValue name);
const JinjaBuiltin *jinja_find_function(JinjaValue name);
// Binds the arguments to the parameters and runs it.
Status jinja_run_builtin(Render *r, const JinjaBuiltin *builtin, JinjaValue in, const Arguments *all, JinjaValue *out);
Status jinja_binary(Render *r, Operation op, JinjaValue a, JinjaValue b, JinjaValue *out);
