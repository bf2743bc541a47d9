// A Jinja interpreter for the chat templates of model folders: a template gives the text that jinja2 gives in the
// environment in which transformers' apply_chat_template runs it (ImmutableSandboxedEnvironment, trim_blocks,
// lstrip_blocks, loop controls, its tojson, raise_exception, strftime_now and generation blocks). What it does not know
// it refuses by name; docs/chat-templates.md lists what it knows. What messages are is left to io/chat_template.
#pragma once
#include "src/base/status.h"
#include <stddef.h>
#include <stdint.h>
#include <time.h>

typedef struct JinjaTemplate JinjaTemplate; // never changes once parsed: any number of threads may render it

// `name` is what errors call the template: "NAME:LINE: what". STATUS_DATA for what cannot be parsed. Free with
// jinja_free.
Status jinja_parse(JinjaTemplate **out, const char *name, const char *text, size_t bytes);
void jinja_free(JinjaTemplate *template);
bool jinja_names(const JinjaTemplate *template, const char *name); // whether the template holds this name

typedef enum JinjaType {
    JINJA_MISSING = 0, // no value at all: an argument that was not given; never seen by a template
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING, // UTF-8
    JINJA_LIST,
    JINJA_TUPLE,
    JINJA_RANGE,
    JINJA_VIEW,     // a dict's keys, values or items
    JINJA_ITERATOR, // what filters like map give: to be gone through once
    JINJA_DICT,     // in the order of insertion
    JINJA_NAMESPACE,
    JINJA_LOOP,
    JINJA_MACRO,
    JINJA_FUNCTION,
    JINJA_METHOD,
} JinjaType;

typedef struct JinjaValue {
    uint8_t type;
    uint32_t size; // of a string, in bytes
    union {
        bool boolean;
        int64_t integer;
        double real;
        const char *text; // need not end in NUL
        const char *hint; // of JINJA_UNDEFINED: what an error says of it
        struct JinjaList *list;
        struct JinjaDict *dict;
        struct JinjaLoop *loop;
        const struct JinjaMacro *macro;
        const struct JinjaBuiltin *function;
        const struct JinjaMethod *method;
    };
} JinjaValue;

// What one rendering needs beside the template: memory that is kept from one to the next. Belongs to one thread, starts
// as {0}, and ends with jinja_scratch_free. The limits are this file's defaults where they are 0.
typedef struct JinjaScratch {
    struct JinjaChunk *first, *chunk; // all of them, and the one that is being filled
    size_t used, total;               // bytes of the chunk; of all chunks
    char *output;
    size_t output_size, output_capacity;
    size_t bytes_max;   // of values and output
    uint64_t steps_max; // of a rendering
} JinjaScratch;

// Forgets all values made before.
void jinja_scratch_reset(JinjaScratch *scratch);
void jinja_scratch_free(JinjaScratch *scratch);

// Values for a rendering, which live until the scratch is reset. A string's bytes are not copied.
JinjaValue jinja_string(const char *text, size_t bytes);
JinjaValue jinja_bool(bool value);
Status jinja_list(JinjaScratch *scratch, size_t capacity, JinjaValue *out);
Status jinja_list_add(JinjaScratch *scratch, JinjaValue list, JinjaValue item);
Status jinja_dict(JinjaScratch *scratch, size_t capacity, JinjaValue *out);
// Replaces the value of a key that is there.
Status jinja_dict_set(JinjaScratch *scratch, JinjaValue dict, JinjaValue key, JinjaValue value);
struct json_t;
// Texts are not copied: `json` must outlive the value.
Status jinja_from_json(JinjaScratch *scratch, const struct json_t *json, JinjaValue *out);

typedef struct JinjaVariable {
    const char *name;
    JinjaValue value;
} JinjaVariable;

// Renders with the variables; `now` is what strftime_now tells. *text is the scratch's, until it is used again, and has
// a NUL behind its *bytes bytes. STATUS_DATA "NAME:LINE: what" for what jinja2 raises, what the template raises, and
// one that goes beyond the limits.
Status jinja_render(const JinjaTemplate *template, JinjaScratch *scratch, const JinjaVariable *variables, int count,
                    time_t now, const char **text, size_t *bytes);
