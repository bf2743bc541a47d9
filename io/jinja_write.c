// How values of the Jinja interpreter are written: by Python's str and repr, and by json.dumps. Texts are built at the
// end of a rendering's output, which grows as needed up to its limit.
#include "io/jinja_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// --- writing --------------------------------------------------------------------------------------------------------

size_t jinja_mark(const Render *r) {
    return r->memory->output_size;
}

Status jinja_put(Render *r, const char *text, size_t size) {
    JinjaScratch *m = r->memory;
    if (m->output_capacity - m->output_size <= size) TRY(jinja_grow_output(m, size));
    memcpy(m->output + m->output_size, text, size);
    m->output_size += size;
    return size < JINJA_STEP_BYTES ? STATUS_OK : jinja_spend(r, size / JINJA_STEP_BYTES);
}

Status jinja_take(Render *r, size_t mark, JinjaValue *out) {
    const size_t size = r->memory->output_size - mark;
    char *text = NULL;
    TRY(JINJA_ALLOC(r->memory, text, size + 1));
    if (size > 0) memcpy(text, r->memory->output + mark, size);
    r->memory->output_size = mark;
    *out = jinja_string(text, size);
    return STATUS_OK;
}

Status jinja_text(Render *r, JinjaValue v, JinjaValue *out) {
    *out = v;
    if (v.type == JINJA_STRING) return STATUS_OK;
    const size_t mark = jinja_mark(r);
    TRY(jinja_put_value(r, v));
    return jinja_take(r, mark, out);
}

// The shortest decimal text that reads back as the same number, laid out as Python's float.__repr__ does.
static Status put_float(Render *r, double value) {
    char text[40], digits[40];
    if (!isfinite(value)) {
        const char *name = isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
        return jinja_put(r, name, strlen(name));
    }
    for (int precision = 0; precision < 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, value);
        if (strtod(text, NULL) == value) break;
    }
    const char *from = text + (text[0] == '-');
    const int exponent = atoi(strchr(text, 'e') + 1);
    int count = 0;
    for (; *from != 'e'; from++)
        if (*from != '.') digits[count++] = *from;
    char out[64];
    int size = text[0] == '-' ? (out[0] = '-', 1) : 0;
    if (exponent < -4 || exponent >= 16) {
        size += snprintf(out + size, sizeof out - (size_t)size, "%c%s%.*se%c%02d", digits[0], count > 1 ? "." : "",
                         count - 1, digits + 1, exponent < 0 ? '-' : '+', abs(exponent));
    } else if (exponent < 0) {
        size += snprintf(out + size, sizeof out - (size_t)size, "0.%.*s%.*s", -exponent - 1, "000", count, digits);
    } else {
        const int whole = exponent + 1, given = count < whole ? count : whole;
        size += snprintf(out + size, sizeof out - (size_t)size, "%.*s%.*s.%.*s", given, digits, whole - given,
                         "0000000000000000", count > whole ? count - whole : 1, count > whole ? digits + whole : "0");
    }
    return jinja_put(r, out, (size_t)size);
}

static Status put_int(Render *r, int64_t value) {
    char text[24];
    return jinja_put(r, text, (size_t)snprintf(text, sizeof text, "%lld", (long long)value));
}

static Status put_literal(Render *r, const char *text) {
    return jinja_put(r, text, strlen(text));
}

static Status put_text_repr(Render *r, JinjaValue v) {
    const char quote = memchr(v.text, '\'', v.size) != NULL && memchr(v.text, '"', v.size) == NULL ? '"' : '\'';
    char escape[16];
    TRY(jinja_put(r, &quote, 1));
    for (size_t at = 0, next; at < v.size; at = next) {
        const uint32_t c = jinja_character(v.text, v.size, at, &next);
        const char letter = c == '\n'                           ? 'n'
                            : c == '\r'                         ? 'r'
                            : c == '\t'                         ? 't'
                            : c == '\\' || c == (uint32_t)quote ? (char)c
                                                                : '\0';
        if (letter != '\0')
            TRY(jinja_put(r, escape, (size_t)snprintf(escape, sizeof escape, "\\%c", letter)));
        else if (jinja_is_printable(c))
            TRY(jinja_put(r, v.text + at, next - at));
        else
            TRY(jinja_put(r, escape,
                          (size_t)snprintf(escape, sizeof escape,
                                           c < 0x100     ? "\\x%02x"
                                           : c < 0x10000 ? "\\u%04x"
                                                         : "\\U%08x",
                                           c)));
    }
    return jinja_put(r, &quote, 1);
}

static Status put_items_repr(Render *r, const JinjaList *list, const char *open, const char *close) {
    TRY(put_literal(r, open));
    for (size_t i = 0; i < list->count; i++) {
        if (i > 0) TRY(put_literal(r, ", "));
        TRY(jinja_put_repr(r, list->v[i]));
    }
    return put_literal(r, close);
}

static Status put_dict_repr(Render *r, const JinjaDict *dict) {
    TRY(put_literal(r, "{"));
    for (size_t i = 0; i < dict->count; i++) {
        if (i > 0) TRY(put_literal(r, ", "));
        TRY(jinja_put_repr(r, dict->key[i]));
        TRY(put_literal(r, ": "));
        TRY(jinja_put_repr(r, dict->value[i]));
    }
    return put_literal(r, "}");
}

static Status put_range_repr(Render *r, const JinjaList *list) {
    const size_t n = list->count;
    if (list->kind != NULL) return JINJA_FAIL(r, "a slice of a range cannot be written; put the filter list behind it");
    const int64_t start = n > 0 ? list->v[0].integer : 0, step = n > 1 ? list->v[1].integer - start : 1;
    char text[80];
    const int size =
        step == 1 ? snprintf(text, sizeof text, "range(%lld, %lld)", (long long)start, (long long)(start + (int64_t)n))
                  : snprintf(text, sizeof text, "range(%lld, %lld, %lld)", (long long)start,
                             (long long)(start + (int64_t)n * step), (long long)step);
    return jinja_put(r, text, (size_t)size);
}

static Status put_nested_repr(Render *r, JinjaValue v) {
    switch (v.type) {
    case JINJA_LIST:
        return put_items_repr(r, v.list, "[", "]");
    case JINJA_TUPLE:
        return put_items_repr(r, v.list, "(", v.list->count == 1 ? ",)" : ")");
    case JINJA_VIEW:
        TRY(put_literal(r, v.list->kind));
        return put_items_repr(r, v.list, "([", "])");
    case JINJA_RANGE:
        return put_range_repr(r, v.list);
    default:
        return put_dict_repr(r, v.dict);
    }
}

Status jinja_put_repr(Render *r, JinjaValue v) {
    switch (v.type) {
    case JINJA_UNDEFINED:
        return put_literal(r, "Undefined");
    case JINJA_NONE:
        return put_literal(r, "None");
    case JINJA_BOOL:
        return put_literal(r, v.boolean ? "True" : "False");
    case JINJA_INT:
        return put_int(r, v.integer);
    case JINJA_FLOAT:
        return put_float(r, v.real);
    case JINJA_STRING:
        return put_text_repr(r, v);
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_RANGE:
    case JINJA_VIEW:
    case JINJA_DICT:
        TRY(jinja_spend(r, 0));
        TRY(jinja_deeper(r));
        TRY(put_nested_repr(r, v));
        r->depth--;
        return STATUS_OK;
    default: // an address in memory, in Python
        return JINJA_FAIL(r, "a '%s' cannot be written; put a filter like list or join behind it", jinja_type_name(v));
    }
}

Status jinja_put_value(Render *r, JinjaValue v) {
    if (v.type == JINJA_STRING) return jinja_put(r, v.text, v.size);
    return v.type == JINJA_UNDEFINED ? STATUS_OK : jinja_put_repr(r, v);
}

// --- JSON -----------------------------------------------------------------------------------------------------------

static Status put_json_text(Render *r, JinjaValue v, bool ascii) {
    char escape[16];
    TRY(put_literal(r, "\""));
    size_t plain = 0; // where what needs no escape began
    for (size_t at = 0, next; at < v.size; at = next) {
        const uint32_t c = jinja_character(v.text, v.size, at, &next);
        if (c >= ' ' && c != '"' && c != '\\' && (!ascii || c < 0x7f)) continue;
        TRY(jinja_put(r, v.text + plain, at - plain));
        plain = next;
        static const char letters[] = "\"\\\n\r\t\b\f", names[] = "\"\\nrtbf";
        const char *letter = c < 0x80 && c > 0 ? strchr(letters, (int)c) : NULL;
        int size;
        if (letter != NULL)
            size = snprintf(escape, sizeof escape, "\\%c", names[letter - letters]);
        else if (c < 0x10000)
            size = snprintf(escape, sizeof escape, "\\u%04x", c);
        else
            size = snprintf(escape, sizeof escape, "\\u%04x\\u%04x", 0xd7c0 + (c >> 10), 0xdc00 + (c & 0x3ff));
        TRY(jinja_put(r, escape, (size_t)size));
    }
    TRY(jinja_put(r, v.text + plain, v.size - plain));
    return put_literal(r, "\"");
}

static Status put_json_line(Render *r, const JsonForm *form, int level) {
    if (!form->indented) return STATUS_OK;
    TRY(put_literal(r, "\n"));
    for (int i = 0; i < level; i++) TRY(jinja_put_value(r, form->indent));
    return STATUS_OK;
}

static Status put_json_list(Render *r, const JinjaList *list, const JsonForm *form, int level) {
    if (list->count == 0) return put_literal(r, "[]");
    TRY(put_literal(r, "["));
    for (size_t i = 0; i < list->count; i++) {
        if (i > 0) TRY(jinja_put_value(r, form->item_separator));
        TRY(put_json_line(r, form, level + 1));
        TRY(jinja_put_json(r, list->v[i], form, level + 1));
    }
    TRY(put_json_line(r, form, level));
    return put_literal(r, "]");
}

static Status put_json_key(Render *r, JinjaValue key, const JsonForm *form) {
    if (key.type == JINJA_STRING) return put_json_text(r, key, form->ascii);
    TRY(put_literal(r, "\""));
    TRY(jinja_put_json(r, key, form, 0));
    return put_literal(r, "\"");
}

// The order of the keys: as they stand, or sorted.
static Status key_order(Render *r, const JinjaDict *dict, bool sort, size_t **out) {
    TRY(JINJA_ALLOC(r->memory, *out, dict->count + 1));
    for (size_t i = 0; i < dict->count; i++) {
        size_t at = i;
        for (bool less = sort; at > 0 && less;) {
            TRY(jinja_less(r, dict->key[i], dict->key[(*out)[at - 1]], "<", false, &less));
            if (less) {
                (*out)[at] = (*out)[at - 1];
                at--;
            }
        }
        (*out)[at] = i;
    }
    return STATUS_OK;
}

static Status put_json_dict(Render *r, const JinjaDict *dict, const JsonForm *form, int level) {
    size_t *order;
    if (dict->count == 0) return put_literal(r, "{}");
    TRY(key_order(r, dict, form->sort, &order));
    TRY(put_literal(r, "{"));
    for (size_t i = 0; i < dict->count; i++) {
        if (i > 0) TRY(jinja_put_value(r, form->item_separator));
        TRY(put_json_line(r, form, level + 1));
        TRY(put_json_key(r, dict->key[order[i]], form));
        TRY(jinja_put_value(r, form->key_separator));
        TRY(jinja_put_json(r, dict->value[order[i]], form, level + 1));
    }
    TRY(put_json_line(r, form, level));
    return put_literal(r, "}");
}

Status jinja_put_json(Render *r, JinjaValue v, const JsonForm *form, int level) {
    TRY(jinja_spend(r, 0));
    switch (v.type) {
    case JINJA_NONE:
        return put_literal(r, "null");
    case JINJA_BOOL:
        return put_literal(r, v.boolean ? "true" : "false");
    case JINJA_INT:
        return put_int(r, v.integer);
    case JINJA_FLOAT:
        if (!isfinite(v.real)) return put_literal(r, isnan(v.real) ? "NaN" : v.real > 0 ? "Infinity" : "-Infinity");
        return put_float(r, v.real);
    case JINJA_STRING:
        return put_json_text(r, v, form->ascii);
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_DICT:
        TRY(jinja_deeper(r));
        if (v.type == JINJA_DICT)
            TRY(put_json_dict(r, v.dict, form, level));
        else
            TRY(put_json_list(r, v.list, form, level));
        r->depth--;
        return STATUS_OK;
    default:
        return JINJA_FAIL(r, "Object of type %s is not JSON serializable", jinja_type_name(v));
    }
}
