// Values of the Jinja interpreter, as Python has them: memory, truth, comparison, items and slices, and how a value is
// written by str, repr and json.dumps. Lists and dicts never change once a template sees them (transformers' sandbox
// forbids it).
#include "io/jinja_internal.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES     ((size_t)16 << 10)
#define BYTES_MAX       ((size_t)256 << 20)
#define STEPS_MAX       100000000
#define ALIGNMENT       16
#define KEPT_CHUNKS_MAX ((size_t)4 << 20) // bytes that a scratch keeps from one rendering to the next

// --- memory ---------------------------------------------------------------------------------------------------------

typedef struct JinjaChunk {
    struct JinjaChunk *next;
    size_t size;
    _Alignas(ALIGNMENT) char bytes[];
} JinjaChunk;

static size_t limit_of(const JinjaScratch *memory) {
    return memory->bytes_max > 0 ? memory->bytes_max : BYTES_MAX;
}

static Status too_large(const JinjaScratch *memory) {
    return error_set(STATUS_DATA, "the chat template needs more than %zu MiB; it may never end",
                     limit_of(memory) >> 20);
}

static Status new_chunk(JinjaScratch *memory, size_t bytes) {
    size_t size = memory->total < CHUNK_BYTES ? CHUNK_BYTES : memory->total;
    if (size < bytes) size = bytes;
    if (size > limit_of(memory) || memory->total > limit_of(memory) - size) size = bytes;
    if (size > limit_of(memory) || memory->total > limit_of(memory) - size) return too_large(memory);
    JinjaChunk *chunk = malloc(sizeof *chunk + size);
    if (chunk == NULL) return error_set(STATUS_FAILED, "out of memory for a chat template");
    *chunk = (JinjaChunk){.size = size};
    if (memory->chunk != NULL)
        memory->chunk->next = chunk;
    else
        memory->first = chunk;
    memory->chunk = chunk;
    memory->total += size;
    memory->used = 0;
    return STATUS_OK;
}

Status jinja_alloc(JinjaScratch *memory, size_t count, size_t size, void **out) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX - ALIGNMENT) return too_large(memory);
    bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    while (memory->chunk == NULL || memory->chunk->size - memory->used < bytes) {
        if (memory->chunk == NULL || memory->chunk->next == NULL) {
            TRY(new_chunk(memory, bytes));
        } else {
            memory->chunk = memory->chunk->next;
            memory->used = 0;
        }
    }
    *out = memory->chunk->bytes + memory->used;
    memory->used += bytes;
    return STATUS_OK;
}

Status jinja_grow_output(JinjaScratch *memory, size_t more) {
    const size_t limit = limit_of(memory);
    if (more >= limit || memory->output_size >= limit - more) return too_large(memory);
    size_t capacity = memory->output_capacity < 4096 ? 4096 : 2 * memory->output_capacity;
    if (capacity <= memory->output_size + more) capacity = memory->output_size + more + 1;
    char *grown = realloc(memory->output, capacity);
    if (grown == NULL) return error_set(STATUS_FAILED, "out of memory for a chat template");
    memory->output = grown;
    memory->output_capacity = capacity;
    return STATUS_OK;
}

static void free_chunks(JinjaScratch *scratch) {
    for (JinjaChunk *chunk = scratch->first, *next; chunk != NULL; chunk = next) {
        next = chunk->next;
        free(chunk);
    }
    scratch->first = scratch->chunk = NULL;
    scratch->used = scratch->total = 0;
}

void jinja_scratch_reset(JinjaScratch *scratch) {
    if (scratch->total > KEPT_CHUNKS_MAX) free_chunks(scratch);
    scratch->chunk = scratch->first;
    scratch->used = 0;
    scratch->output_size = 0;
}

void jinja_scratch_free(JinjaScratch *scratch) {
    free_chunks(scratch);
    free(scratch->output);
    *scratch = (JinjaScratch){0};
}

Status jinja_spend(Render *r, size_t work) {
    const uint64_t limit = r->memory->steps_max > 0 ? r->memory->steps_max : STEPS_MAX;
    r->steps += 1 + work;
    if (r->steps > limit || r->steps < work)
        return JINJA_FAIL(r, "takes more than %llu steps; it may never end", (unsigned long long)limit);
    return STATUS_OK;
}

Status jinja_deeper(Render *r) {
    if (r->depth >= JINJA_DEPTH_MAX) return JINJA_FAIL(r, "is nested more than %d deep", JINJA_DEPTH_MAX);
    r->depth++;
    return STATUS_OK;
}

// --- making values --------------------------------------------------------------------------------------------------

JinjaValue jinja_string(const char *text, size_t bytes) {
    return (JinjaValue){.type = JINJA_STRING, .size = (uint32_t)bytes, .text = text};
}

JinjaValue jinja_bool(bool value) {
    return (JinjaValue){.type = JINJA_BOOL, .boolean = value};
}

JinjaValue jinja_int(int64_t value) {
    return (JinjaValue){.type = JINJA_INT, .integer = value};
}

JinjaValue jinja_float(double value) {
    return (JinjaValue){.type = JINJA_FLOAT, .real = value};
}

JinjaValue jinja_none(void) {
    return (JinjaValue){.type = JINJA_NONE};
}

JinjaValue jinja_undefined(const char *hint) {
    return (JinjaValue){.type = JINJA_UNDEFINED, .hint = hint};
}

static Status make_list(JinjaScratch *memory, JinjaType type, const char *kind, size_t capacity, JinjaValue *out) {
    JinjaList *list = NULL;
    TRY(JINJA_ALLOC(memory, list, 1));
    *list = (JinjaList){.capacity = capacity, .kind = kind};
    if (capacity > 0) TRY(JINJA_ALLOC(memory, list->v, capacity));
    *out = (JinjaValue){.type = (uint8_t)type, .list = list};
    return STATUS_OK;
}

Status jinja_list(JinjaScratch *scratch, size_t capacity, JinjaValue *out) {
    return make_list(scratch, JINJA_LIST, NULL, capacity, out);
}

Status jinja_new_list(Render *r, JinjaType type, size_t capacity, JinjaValue *out) {
    return make_list(r->memory, type, NULL, capacity, out);
}

Status jinja_iterator(Render *r, const char *kind, size_t capacity, JinjaValue *out) {
    return make_list(r->memory, JINJA_ITERATOR, kind, capacity, out);
}

Status jinja_list_add(JinjaScratch *scratch, JinjaValue value, JinjaValue item) {
    JinjaList *list = value.list;
    if (list->count == list->capacity) {
        const size_t capacity = list->capacity < 4 ? 8 : 2 * list->capacity;
        JinjaValue *grown = NULL;
        TRY(JINJA_ALLOC(scratch, grown, capacity));
        if (list->count > 0) memcpy(grown, list->v, list->count * sizeof *grown);
        list->v = grown;
        list->capacity = capacity;
    }
    list->v[list->count++] = item;
    return STATUS_OK;
}

Status jinja_dict(JinjaScratch *scratch, size_t capacity, JinjaValue *out) {
    JinjaDict *dict = NULL;
    TRY(JINJA_ALLOC(scratch, dict, 1));
    *dict = (JinjaDict){.capacity = capacity};
    if (capacity > 0) {
        TRY(JINJA_ALLOC(scratch, dict->key, capacity));
        TRY(JINJA_ALLOC(scratch, dict->value, capacity));
    }
    *out = (JinjaValue){.type = JINJA_DICT, .dict = dict};
    return STATUS_OK;
}

static Status dict_add(JinjaScratch *memory, JinjaDict *dict, JinjaValue key, JinjaValue value) {
    if (dict->count == dict->capacity) {
        const size_t capacity = dict->capacity < 4 ? 8 : 2 * dict->capacity;
        JinjaValue *keys = NULL, *values = NULL;
        TRY(JINJA_ALLOC(memory, keys, capacity));
        TRY(JINJA_ALLOC(memory, values, capacity));
        if (dict->count > 0) {
            memcpy(keys, dict->key, dict->count * sizeof *keys);
            memcpy(values, dict->value, dict->count * sizeof *values);
        }
        dict->key = keys;
        dict->value = values;
        dict->capacity = capacity;
    }
    dict->key[dict->count] = key;
    dict->value[dict->count++] = value;
    return STATUS_OK;
}

static double number_of(JinjaValue v) {
    return v.type == JINJA_FLOAT ? v.real : v.type == JINJA_BOOL ? v.boolean : (double)v.integer;
}

static bool is_number(JinjaValue v) {
    return v.type == JINJA_BOOL || v.type == JINJA_INT || v.type == JINJA_FLOAT;
}

static int64_t integer_of(JinjaValue v) {
    return v.type == JINJA_BOOL ? v.boolean : v.integer;
}

static int compare_numbers(JinjaValue a, JinjaValue b) { // 2: a NaN
    if (a.type != JINJA_FLOAT && b.type != JINJA_FLOAT) {
        const int64_t x = integer_of(a), y = integer_of(b);
        return x < y ? -1 : x > y;
    }
    const double x = number_of(a), y = number_of(b);
    return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2;
}

// Keys that are equal: numbers and texts; others are never keys.
static bool same_key(JinjaValue a, JinjaValue b) {
    if (a.type == JINJA_STRING || b.type == JINJA_STRING) return jinja_same_text(a, b);
    if (is_number(a) && is_number(b)) return compare_numbers(a, b) == 0;
    return a.type == JINJA_NONE && b.type == JINJA_NONE;
}

Status jinja_dict_set(JinjaScratch *scratch, JinjaValue dict, JinjaValue key, JinjaValue value) {
    for (size_t i = 0; i < dict.dict->count; i++) {
        if (!same_key(dict.dict->key[i], key)) continue;
        dict.dict->value[i] = value;
        return STATUS_OK;
    }
    return dict_add(scratch, dict.dict, key, value);
}

static Status object_from_json(JinjaScratch *scratch, const json_t *json, int depth, JinjaValue *out);

static Status value_from_json(JinjaScratch *scratch, const json_t *json, int depth, JinjaValue *out) {
    switch (json_typeof(json)) {
    case JSON_OBJECT:
    case JSON_ARRAY:
        return object_from_json(scratch, json, depth, out);
    case JSON_STRING:
        *out = jinja_string(json_string_value(json), json_string_length(json));
        return STATUS_OK;
    case JSON_INTEGER:
        *out = jinja_int(json_integer_value(json));
        return STATUS_OK;
    case JSON_REAL:
        *out = jinja_float(json_real_value(json));
        return STATUS_OK;
    case JSON_NULL:
        *out = jinja_none();
        return STATUS_OK;
    default:
        *out = jinja_bool(json_is_true(json));
        return STATUS_OK;
    }
}

static Status object_from_json(JinjaScratch *scratch, const json_t *json, int depth, JinjaValue *out) {
    if (depth == JINJA_DEPTH_MAX)
        return error_set(STATUS_DATA, "a message holds JSON that is nested more than %d deep", JINJA_DEPTH_MAX);
    if (json_is_array(json)) {
        TRY(jinja_list(scratch, json_array_size(json), out));
        for (size_t i = 0; i < json_array_size(json); i++) {
            JinjaValue item;
            TRY(value_from_json(scratch, json_array_get(json, i), depth + 1, &item));
            TRY(jinja_list_add(scratch, *out, item));
        }
        return STATUS_OK;
    }
    TRY(jinja_dict(scratch, json_object_size(json), out));
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)json, key, value) { // no key is there twice
        JinjaValue item;
        TRY(value_from_json(scratch, value, depth + 1, &item));
        TRY(dict_add(scratch, out->dict, jinja_string(key, strlen(key)), item));
    }
    return STATUS_OK;
}

Status jinja_from_json(JinjaScratch *scratch, const json_t *json, JinjaValue *out) {
    return value_from_json(scratch, json, 0, out);
}

// --- what values are ------------------------------------------------------------------------------------------------

const char *jinja_type_name(JinjaValue v) {
    static const char *const names[] = {[JINJA_MISSING] = "missing",   [JINJA_UNDEFINED] = "Undefined",
                                        [JINJA_NONE] = "NoneType",     [JINJA_BOOL] = "bool",
                                        [JINJA_INT] = "int",           [JINJA_FLOAT] = "float",
                                        [JINJA_STRING] = "str",        [JINJA_LIST] = "list",
                                        [JINJA_TUPLE] = "tuple",       [JINJA_RANGE] = "range",
                                        [JINJA_DICT] = "dict",         [JINJA_NAMESPACE] = "namespace",
                                        [JINJA_LOOP] = "loop",         [JINJA_MACRO] = "macro",
                                        [JINJA_FUNCTION] = "function", [JINJA_METHOD] = "builtin_function_or_method"};
    return v.type == JINJA_VIEW || v.type == JINJA_ITERATOR ? v.list->kind : names[v.type];
}

bool jinja_is(JinjaValue v, const char *text) {
    return v.type == JINJA_STRING && strlen(text) == v.size && memcmp(v.text, text, v.size) == 0;
}

bool jinja_same_text(JinjaValue a, JinjaValue b) {
    return a.type == JINJA_STRING && b.type == JINJA_STRING && a.size == b.size && memcmp(a.text, b.text, a.size) == 0;
}

bool jinja_is_sequence(JinjaValue v) {
    return v.type == JINJA_LIST || v.type == JINJA_TUPLE || v.type == JINJA_RANGE;
}

bool jinja_truth(JinjaValue v) {
    switch (v.type) {
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return false;
    case JINJA_BOOL:
        return v.boolean;
    case JINJA_INT:
        return v.integer != 0;
    case JINJA_FLOAT:
        return v.real != 0;
    case JINJA_STRING:
        return v.size > 0;
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_RANGE:
    case JINJA_VIEW:
        return v.list->count > 0;
    case JINJA_DICT:
        return v.dict->count > 0;
    default:
        return true;
    }
}

static Status undefined_used(Render *r, JinjaValue v) {
    return JINJA_FAIL(r, "%s", v.hint);
}

// --- comparison -----------------------------------------------------------------------------------------------------

static Status equal_dicts(Render *r, const JinjaDict *a, const JinjaDict *b, bool *out) {
    *out = a->count == b->count;
    for (size_t i = 0; i < a->count && *out; i++) {
        const JinjaValue *other;
        TRY(jinja_dict_get(r, b, a->key[i], &other));
        if (other == NULL)
            *out = false;
        else
            TRY(jinja_equal(r, a->value[i], *other, out));
    }
    return STATUS_OK;
}

Status jinja_equal(Render *r, JinjaValue a, JinjaValue b, bool *out) {
    TRY(jinja_spend(r, a.type == JINJA_STRING ? a.size / JINJA_STEP_BYTES : 0));
    if (is_number(a) && is_number(b)) {
        *out = compare_numbers(a, b) == 0;
    } else if (a.type == JINJA_STRING) {
        *out = jinja_same_text(a, b);
    } else if (a.type != b.type) {
        *out = false;
    } else if (a.type == JINJA_DICT) {
        TRY(jinja_deeper(r));
        TRY(equal_dicts(r, a.dict, b.dict, out));
        r->depth--;
    } else if (jinja_is_sequence(a)) {
        TRY(jinja_deeper(r));
        *out = a.list->count == b.list->count;
        for (size_t i = 0; i < a.list->count && *out; i++) TRY(jinja_equal(r, a.list->v[i], b.list->v[i], out));
        r->depth--;
    } else {
        *out = a.type == JINJA_UNDEFINED || a.type == JINJA_NONE || a.list == b.list;
    }
    return STATUS_OK;
}

static int compare_texts(JinjaValue a, JinjaValue b) { // of UTF-8: by characters
    const int order = memcmp(a.text, b.text, a.size < b.size ? a.size : b.size);
    return order != 0 ? order : a.size < b.size ? -1 : a.size > b.size;
}

Status jinja_less(Render *r, JinjaValue a, JinjaValue b, const char *operator_name, bool or_equal, bool *out) {
    TRY(jinja_spend(r, a.type == JINJA_STRING ? a.size / JINJA_STEP_BYTES : 0));
    if (a.type == JINJA_UNDEFINED) return undefined_used(r, a);
    if (b.type == JINJA_UNDEFINED) return undefined_used(r, b);
    if (is_number(a) && is_number(b)) {
        const int order = compare_numbers(a, b);
        *out = order == -1 || (or_equal && order == 0);
    } else if (a.type == JINJA_STRING && b.type == JINJA_STRING) {
        const int order = compare_texts(a, b);
        *out = order < 0 || (or_equal && order == 0);
    } else if (a.type == b.type && (a.type == JINJA_LIST || a.type == JINJA_TUPLE)) {
        size_t i = 0;
        for (bool same = true; i < a.list->count && i < b.list->count; i++) {
            TRY(jinja_equal(r, a.list->v[i], b.list->v[i], &same));
            if (!same) break;
        }
        if (i == a.list->count || i == b.list->count) {
            *out = a.list->count < b.list->count || (or_equal && a.list->count == b.list->count);
        } else {
            TRY(jinja_deeper(r));
            TRY(jinja_less(r, a.list->v[i], b.list->v[i], operator_name, or_equal, out));
            r->depth--;
        }
    } else {
        return JINJA_FAIL(r, "'%s' is not supported between instances of '%s' and '%s'", operator_name,
                          jinja_type_name(a), jinja_type_name(b));
    }
    return STATUS_OK;
}

Status jinja_dict_get(Render *r, const JinjaDict *dict, JinjaValue key, const JinjaValue **out) {
    *out = NULL;
    size_t i = 0;
    while (i < dict->count && !same_key(dict->key[i], key)) i++;
    if (i < dict->count) *out = &dict->value[i];
    return jinja_spend(r, i / 8);
}

Status jinja_contains(Render *r, JinjaValue container, JinjaValue item, bool *out) {
    if (container.type == JINJA_STRING) {
        if (item.type != JINJA_STRING)
            return JINJA_FAIL(r, "'in <string>' requires string as left operand, not %s", jinja_type_name(item));
        *out = jinja_search(container, item) != NULL;
        return jinja_spend(r, container.size / JINJA_STEP_BYTES);
    }
    if (container.type == JINJA_DICT) {
        const JinjaValue *found;
        if (item.type == JINJA_LIST || item.type == JINJA_DICT)
            return JINJA_FAIL(r, "unhashable type: '%s'", jinja_type_name(item));
        TRY(jinja_dict_get(r, container.dict, item, &found));
        *out = found != NULL;
        return STATUS_OK;
    }
    const JinjaList *items;
    if (container.type != JINJA_UNDEFINED && container.type < JINJA_STRING)
        return JINJA_FAIL(r, "argument of type '%s' is not iterable", jinja_type_name(container));
    TRY(jinja_items(r, container, &items));
    *out = false;
    for (size_t i = 0; i < items->count && !*out; i++) TRY(jinja_equal(r, items->v[i], item, out));
    return STATUS_OK;
}

// --- items ----------------------------------------------------------------------------------------------------------

Status jinja_length(Render *r, JinjaValue v, size_t *out) {
    *out = 0;
    if (v.type == JINJA_UNDEFINED) return STATUS_OK;
    if (v.type == JINJA_STRING) return jinja_characters(r, v, out);
    if (v.type == JINJA_DICT) {
        *out = v.dict->count;
    } else if (jinja_is_sequence(v) || v.type == JINJA_VIEW) {
        *out = v.list->count;
    } else if (v.type == JINJA_LOOP) {
        *out = v.loop->items->count;
    } else {
        return JINJA_FAIL(r, "object of type '%s' has no len()", jinja_type_name(v));
    }
    return STATUS_OK;
}

static Status characters_of(Render *r, JinjaValue text, JinjaList *list) {
    JinjaValue made;
    size_t count;
    TRY(jinja_characters(r, text, &count));
    TRY(jinja_spend(r, count));
    TRY(jinja_new_list(r, JINJA_LIST, count, &made));
    for (size_t at = 0, next; at < text.size; at = next) {
        jinja_character(text.text, text.size, at, &next);
        TRY(jinja_list_add(r->memory, made, jinja_string(text.text + at, next - at)));
    }
    *list = *made.list;
    return STATUS_OK;
}

Status jinja_items(Render *r, JinjaValue v, const JinjaList **out) {
    *out = v.list;
    if (jinja_is_sequence(v) || v.type == JINJA_VIEW) return jinja_spend(r, v.list->count / 4);
    JinjaList *list = NULL;
    TRY(JINJA_ALLOC(r->memory, list, 1));
    *list = (JinjaList){0};
    *out = list;
    if (v.type == JINJA_STRING) return characters_of(r, v, list);
    if (v.type == JINJA_DICT) {
        *list = (JinjaList){.v = v.dict->key, .count = v.dict->count};
    } else if (v.type == JINJA_ITERATOR) {
        const size_t left = v.list->count - v.list->next;
        *list = (JinjaList){.v = left > 0 ? v.list->v + v.list->next : NULL, .count = left};
        v.list->next = v.list->count;
    } else if (v.type != JINJA_UNDEFINED) {
        return JINJA_FAIL(r, "'%s' object is not iterable", jinja_type_name(v));
    }
    return jinja_spend(r, list->count / 4);
}

Status jinja_whole(Render *r, JinjaValue v, const char *what, int64_t *out) {
    if (v.type != JINJA_INT && v.type != JINJA_BOOL)
        return v.type == JINJA_UNDEFINED
                   ? undefined_used(r, v)
                   : JINJA_FAIL(r, "%s must be a whole number, not '%s'", what, jinja_type_name(v));
    *out = integer_of(v);
    return STATUS_OK;
}

Status jinja_hint(Render *r, JinjaValue *out, const char *format, ...) {
    char text[512], *kept = NULL;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    TRY(JINJA_ALLOC(r->memory, kept, strlen(text) + 1));
    memcpy(kept, text, strlen(text) + 1);
    *out = jinja_undefined(kept);
    return STATUS_OK;
}

static Status undefined_attribute(Render *r, JinjaValue object, JinjaValue name, JinjaValue *out) {
    const bool is_none = object.type == JINJA_NONE;
    const char *type = is_none ? "None" : jinja_type_name(object), *kind = is_none ? "" : " object";
    if (name.type == JINJA_STRING)
        return jinja_hint(r, out, "'%s%s' has no attribute '%.*s'", type, kind, TEXT_ARGUMENT(name));
    if (name.type == JINJA_INT)
        return jinja_hint(r, out, "%s%s has no element %lld", type, kind, (long long)name.integer);
    return jinja_hint(r, out, "%s%s has no such element", type, kind);
}

// What Python's own objects have, beginning with "_", and what changes a list or dict, is there but may not be used.
static bool is_unsafe(JinjaValue object, JinjaValue name) {
    static const char *const list[] = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove", NULL};
    static const char *const dict[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
    if (name.size > 4 && memcmp(name.text, "__", 2) == 0 && memcmp(name.text + name.size - 2, "__", 2) == 0)
        return true;
    const char *const *names = object.type == JINJA_LIST ? list : object.type == JINJA_DICT ? dict : NULL;
    for (; names != NULL && *names != NULL; names++)
        if (jinja_is(name, *names)) return true;
    return false;
}

static bool loop_attribute(const JinjaLoop *loop, JinjaValue name, JinjaValue *out) {
    const int64_t index = (int64_t)loop->index, length = (int64_t)loop->items->count;
    if (jinja_is(name, "index"))
        *out = jinja_int(index + 1);
    else if (jinja_is(name, "index0"))
        *out = jinja_int(index);
    else if (jinja_is(name, "first"))
        *out = jinja_bool(index == 0);
    else if (jinja_is(name, "last"))
        *out = jinja_bool(index + 1 == length);
    else if (jinja_is(name, "length"))
        *out = jinja_int(length);
    else if (jinja_is(name, "revindex"))
        *out = jinja_int(length - index);
    else if (jinja_is(name, "revindex0"))
        *out = jinja_int(length - index - 1);
    else if (jinja_is(name, "depth"))
        *out = jinja_int(loop->depth + 1);
    else if (jinja_is(name, "depth0"))
        *out = jinja_int(loop->depth);
    else if (jinja_is(name, "previtem"))
        *out = index > 0 ? loop->items->v[index - 1] : jinja_undefined("there is no previous item");
    else if (jinja_is(name, "nextitem"))
        *out = index + 1 < length ? loop->items->v[index + 1] : jinja_undefined("there is no next item");
    else
        return false;
    return true;
}

// What Python's getattr finds; false where the object has no such attribute.
static Status own_attribute(Render *r, JinjaValue object, JinjaValue name, JinjaValue *out, bool *found) {
    *found = true;
    if (object.type == JINJA_UNDEFINED) return undefined_used(r, object);
    if (object.type == JINJA_NAMESPACE) {
        const JinjaValue *value;
        TRY(jinja_dict_get(r, object.dict, name, &value));
        *found = value != NULL;
        if (value != NULL) *out = *value;
        return STATUS_OK;
    }
    if (object.type == JINJA_LOOP && loop_attribute(object.loop, name, out)) return STATUS_OK;
    if (is_unsafe(object, name))
        return jinja_hint(r, out, "access to attribute '%.*s' of '%s' object is unsafe.", TEXT_ARGUMENT(name),
                          jinja_type_name(object));
    const JinjaBuiltin *method = jinja_find_method(object.type, name);
    *found = method != NULL;
    if (!*found) return STATUS_OK;
    if (method->run == NULL)
        return JINJA_FAIL(r, "the method '%s' of '%s' is not supported", method->name, jinja_type_name(object));
    JinjaMethod *bound = NULL;
    TRY(JINJA_ALLOC(r->memory, bound, 1));
    *bound = (JinjaMethod){method, object};
    *out = (JinjaValue){.type = JINJA_METHOD, .method = bound};
    return STATUS_OK;
}

// What Python's object[index] finds.
static Status own_item(Render *r, JinjaValue object, JinjaValue index, JinjaValue *out, bool *found) {
    *found = false;
    if (object.type == JINJA_UNDEFINED) return undefined_used(r, object);
    if (object.type == JINJA_DICT) {
        const JinjaValue *value;
        TRY(jinja_dict_get(r, object.dict, index, &value));
        *found = value != NULL;
        if (value != NULL) *out = *value;
        return STATUS_OK;
    }
    if ((index.type != JINJA_INT && index.type != JINJA_BOOL) ||
        !(jinja_is_sequence(object) || object.type == JINJA_STRING))
        return STATUS_OK;
    size_t length;
    TRY(jinja_length(r, object, &length));
    const int64_t at = integer_of(index) < 0 ? integer_of(index) + (int64_t)length : integer_of(index);
    if (at < 0 || at >= (int64_t)length) return STATUS_OK;
    *found = true;
    if (object.type != JINJA_STRING) {
        *out = object.list->v[at];
        return STATUS_OK;
    }
    size_t from, next;
    TRY(jinja_offset(r, object, (size_t)at, &from));
    jinja_character(object.text, object.size, from, &next);
    *out = jinja_string(object.text + from, next - from);
    return STATUS_OK;
}

Status jinja_attribute(Render *r, JinjaValue object, JinjaValue name, JinjaValue *out) {
    bool found = false;
    TRY(own_attribute(r, object, name, out, &found));
    if (!found) TRY(own_item(r, object, name, out, &found));
    return found ? STATUS_OK : undefined_attribute(r, object, name, out);
}

Status jinja_item(Render *r, JinjaValue object, JinjaValue index, JinjaValue *out) {
    bool found = false;
    TRY(own_item(r, object, index, out, &found));
    if (!found && index.type == JINJA_STRING) TRY(own_attribute(r, object, index, out, &found));
    return found ? STATUS_OK : undefined_attribute(r, object, index, out);
}

// Python's slice.indices.
static Status slice_bounds(Render *r, const JinjaValue bound[3], int64_t length, int64_t *start, int64_t *stop,
                           int64_t *step) {
    *step = 1;
    if (bound[2].type != JINJA_NONE) TRY(jinja_whole(r, bound[2], "a slice's step", step));
    if (*step == 0) return JINJA_FAIL(r, "slice step cannot be zero");
    const int64_t low = *step < 0 ? -1 : 0, high = *step < 0 ? length - 1 : length;
    int64_t *const to[2] = {start, stop};
    for (int i = 0; i < 2; i++) {
        *to[i] = (i == 0) == (*step > 0) ? low : high;
        if (bound[i].type == JINJA_NONE) continue;
        int64_t at;
        TRY(jinja_whole(r, bound[i], "a slice's bound", &at));
        if (at < 0) at = at < -length ? low : at + length < low ? low : at + length;
        *to[i] = at > high ? high : at;
    }
    return STATUS_OK;
}

static Status slice_text(Render *r, JinjaValue v, int64_t start, int64_t stop, int64_t step, JinjaValue *out) {
    size_t from, to;
    if (step == 1) {
        *out = jinja_string(v.text, 0);
        if (stop <= start) return STATUS_OK;
        TRY(jinja_offset(r, v, (size_t)start, &from));
        const JinjaValue rest = jinja_string(v.text + from, v.size - from);
        TRY(jinja_offset(r, rest, (size_t)(stop - start), &to));
        *out = jinja_string(rest.text, to);
        return STATUS_OK;
    }
    const JinjaList *characters;
    const size_t mark = jinja_mark(r);
    TRY(jinja_items(r, v, &characters));
    for (int64_t at = start; step > 0 ? at < stop : at > stop; at += step) {
        TRY(jinja_put(r, characters->v[at].text, characters->v[at].size));
        if (step > INT32_MAX || step < -INT32_MAX) break; // the next would be beyond any text
    }
    return jinja_take(r, mark, out);
}

Status jinja_slice(Render *r, JinjaValue v, const JinjaValue bound[3], JinjaValue *out) {
    if (v.type == JINJA_UNDEFINED) return undefined_used(r, v);
    if (v.type != JINJA_STRING && !jinja_is_sequence(v))
        return JINJA_FAIL(r, "'%s' object cannot be sliced", jinja_type_name(v));
    size_t length;
    int64_t start, stop, step;
    TRY(jinja_length(r, v, &length));
    TRY(slice_bounds(r, bound, (int64_t)length, &start, &stop, &step));
    if (v.type == JINJA_STRING) return slice_text(r, v, start, stop, step, out);
    TRY(jinja_new_list(r, v.type, 0, out));
    out->list->kind = "slice";       // of a range: its bounds are not known any more
    if (step == 1 && stop > start) { // the items are shared: nothing changes them
        out->list->v = v.list->v + start;
        out->list->count = out->list->capacity = (size_t)(stop - start);
        return STATUS_OK;
    }
    for (int64_t at = start; step > 0 ? at < stop : at > stop; at += step) {
        TRY(jinja_list_add(r->memory, *out, v.list->v[at]));
        if (step > INT32_MAX || step < -INT32_MAX) break;
    }
    return jinja_spend(r, out->list->count / 4);
}
