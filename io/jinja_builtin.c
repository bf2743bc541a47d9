// Filters, tests, functions and the methods of dicts, lists and loops: one table each, with the parameters' names.
// What jinja2 or Python has and is not here stands in the tables without a function, so that it is refused by name.
#include "io/jinja_internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIGNATURE (Render * r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out)
#define UNUSED                                                                                                         \
    (void)r;                                                                                                           \
    (void)in;                                                                                                          \
    (void)argument;                                                                                                    \
    (void)all

static bool given(JinjaValue v) {
    return v.type != JINJA_MISSING && v.type != JINJA_NONE;
}

static bool is_number(JinjaValue v) {
    return v.type == JINJA_BOOL || v.type == JINJA_INT || v.type == JINJA_FLOAT;
}

static double real_of(JinjaValue v) {
    return v.type == JINJA_FLOAT ? v.real : v.type == JINJA_BOOL ? v.boolean : (double)v.integer;
}

// --- texts ----------------------------------------------------------------------------------------------------------

static Status filter_trim SIGNATURE {
    (void)all;
    JinjaValue text;
    TRY(jinja_text(r, in, &text));
    *out = jinja_strip(text, argument[0], true, true);
    return STATUS_OK;
}

static Status filter_string SIGNATURE {
    UNUSED;
    return jinja_text(r, in, out);
}

static Status filter_replace SIGNATURE {
    JinjaValue text, part[3] = {argument[0], argument[1], argument[2]};
    TRY(jinja_text(r, in, &text));
    TRY(jinja_text(r, argument[0], &part[0]));
    TRY(jinja_text(r, argument[1], &part[1]));
    return jinja_replace(r, text, part, all, out);
}

static Status filter_format SIGNATURE {
    (void)argument;
    JinjaValue text;
    TRY(jinja_text(r, in, &text));
    return jinja_percent(r, text, all, true, out);
}

// indent(width=4, first=False, blank=False)
static Status filter_indent SIGNATURE {
    int64_t width = 4;
    JinjaValue lines, indention = argument[0];
    if (in.type != JINJA_STRING) return JINJA_FAIL(r, "indent needs a text, not '%s'", jinja_type_name(in));
    if (indention.type != JINJA_STRING) {
        if (indention.type != JINJA_MISSING) TRY(jinja_whole(r, indention, "the width", &width));
        const size_t mark = jinja_mark(r);
        for (; width > 0; width--) {
            TRY(jinja_spend(r, 0));
            TRY(jinja_put(r, " ", 1));
        }
        TRY(jinja_take(r, mark, &indention));
    }
    TRY(jinja_binary(r, OP_ADD, in, TEXT("\n"), &in)); // as jinja2 does, for splitlines
    TRY(jinja_splitlines(r, in, NULL, all, &lines));
    const bool first = jinja_truth(argument[1]) && argument[1].type != JINJA_MISSING;
    const bool blank = jinja_truth(argument[2]) && argument[2].type != JINJA_MISSING;
    const size_t mark = jinja_mark(r);
    for (size_t i = 0; i < lines.list->count; i++) {
        if (i > 0) TRY(jinja_put(r, "\n", 1));
        if (i == 0 ? first : blank || lines.list->v[i].size > 0) TRY(jinja_put_value(r, indention));
        TRY(jinja_put_value(r, lines.list->v[i]));
    }
    return jinja_take(r, mark, out);
}

static Status json_separators(Render *r, JinjaValue v, JsonForm *form) {
    if (!given(v)) return STATUS_OK;
    if ((v.type != JINJA_TUPLE && v.type != JINJA_LIST) || v.list->count != 2 || v.list->v[0].type != JINJA_STRING ||
        v.list->v[1].type != JINJA_STRING)
        return JINJA_FAIL(r, "separators must be two texts");
    form->item_separator = v.list->v[0];
    form->key_separator = v.list->v[1];
    return STATUS_OK;
}

// tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False), as transformers has it
static Status filter_tojson SIGNATURE {
    (void)all;
    char spaces[65];
    int64_t width;
    const JinjaValue indent = argument[1];
    JsonForm form = {.ascii = argument[0].type != JINJA_MISSING && jinja_truth(argument[0]),
                     .sort = argument[3].type != JINJA_MISSING && jinja_truth(argument[3]),
                     .indented = given(indent),
                     .indent = indent,
                     .item_separator = given(indent) ? TEXT(",") : TEXT(", "),
                     .key_separator = TEXT(": ")};
    if (form.indented && indent.type != JINJA_STRING) {
        TRY(jinja_whole(r, indent, "indent", &width));
        if (width > (int64_t)sizeof spaces - 1) return JINJA_FAIL(r, "an indent beyond 64 is not supported");
        memset(spaces, ' ', sizeof spaces);
        form.indent = jinja_string(spaces, width > 0 ? (size_t)width : 0);
    }
    TRY(json_separators(r, argument[2], &form));
    const size_t mark = jinja_mark(r);
    TRY(jinja_put_json(r, in, &form, 0));
    return jinja_take(r, mark, out);
}

// --- numbers --------------------------------------------------------------------------------------------------------

static Status filter_abs SIGNATURE {
    UNUSED;
    if (!is_number(in)) return JINJA_FAIL(r, "bad operand type for abs(): '%s'", jinja_type_name(in));
    if (in.type == JINJA_FLOAT) {
        *out = jinja_float(fabs(in.real));
        return STATUS_OK;
    }
    return jinja_binary(r, OP_MULTIPLY, in, jinja_int(real_of(in) < 0 ? -1 : 1), out);
}

// Python's int(text, base) or float(text); false where it is none. Underscores stand between digits.
static bool read_number(JinjaValue v, int base, JinjaValue *out) {
    char text[400], *end;
    size_t size = 0;
    v = jinja_strip(v, jinja_none(), true, true);
    if (v.size == 0 || v.size >= sizeof text) return false;
    for (uint32_t i = 0; i < v.size; i++) {
        if (v.text[i] == '_' && (i == 0 || i + 1 == v.size || v.text[i - 1] == '_')) return false;
        if (v.text[i] == '\0' || strchr("\t\n\v\f\r ", v.text[i]) != NULL) return false;
        if (v.text[i] != '_') text[size++] = v.text[i];
    }
    text[size] = '\0';
    errno = 0;
    if (base == 0) {
        if (strpbrk(text, "xXpP(") != NULL) return false; // C's, but not Python's
        *out = jinja_float(strtod(text, &end));
    } else {
        *out = jinja_int(strtoll(text, &end, base));
        if (errno == ERANGE) return false;
    }
    return end != text && *end == '\0';
}

static bool to_int(double value, JinjaValue *out) {
    if (!(value > -9.2e18 && value < 9.2e18)) return false;
    *out = jinja_int((int64_t)value);
    return true;
}

// int(default=0, base=10)
static Status filter_int SIGNATURE {
    (void)all;
    int64_t base = 10;
    JinjaValue real;
    if (argument[1].type != JINJA_MISSING) TRY(jinja_whole(r, argument[1], "base", &base));
    if (base < 2 || base > 36) return JINJA_FAIL(r, "int() base must be >= 2 and <= 36");
    if (in.type == JINJA_UNDEFINED) return JINJA_FAIL(r, "%s", in.hint);
    if (in.type == JINJA_STRING) {
        if (read_number(in, (int)base, out)) return STATUS_OK;
        if (read_number(in, 0, &real) && to_int(real.real, out)) return STATUS_OK;
    } else if (in.type == JINJA_FLOAT) {
        if (to_int(in.real, out)) return STATUS_OK;
    } else if (is_number(in)) {
        *out = jinja_int(in.type == JINJA_BOOL ? in.boolean : in.integer);
        return STATUS_OK;
    }
    *out = argument[0].type == JINJA_MISSING ? jinja_int(0) : argument[0];
    return STATUS_OK;
}

static Status filter_float SIGNATURE {
    (void)all;
    if (in.type == JINJA_UNDEFINED) return JINJA_FAIL(r, "%s", in.hint);
    if (is_number(in))
        *out = jinja_float(real_of(in));
    else if (in.type != JINJA_STRING || !read_number(in, 0, out))
        *out = argument[0].type == JINJA_MISSING ? jinja_float(0) : argument[0];
    return STATUS_OK;
}

// round(precision=0, method="common")
static Status filter_round SIGNATURE {
    (void)all;
    int64_t precision = 0;
    char text[400];
    if (!is_number(in)) return JINJA_FAIL(r, "round needs a number, not '%s'", jinja_type_name(in));
    if (argument[0].type != JINJA_MISSING) TRY(jinja_whole(r, argument[0], "the precision", &precision));
    if (precision < 0 || precision > 17) return JINJA_FAIL(r, "a precision of 0 to 17 is supported");
    const JinjaValue method = argument[1].type == JINJA_MISSING ? TEXT("common") : argument[1];
    const double scale = pow(10, (double)precision), value = real_of(in);
    if (jinja_is(method, "ceil") || jinja_is(method, "floor")) {
        const double scaled = value * scale;
        *out = jinja_float((jinja_is(method, "ceil") ? ceil(scaled) : floor(scaled)) / scale);
    } else if (!jinja_is(method, "common")) {
        return JINJA_FAIL(r, "method must be common, ceil or floor");
    } else if (in.type != JINJA_FLOAT) {
        *out = jinja_int(in.type == JINJA_BOOL ? in.boolean : in.integer);
    } else { // exact halves go to the even neighbour, in C as in Python
        snprintf(text, sizeof text, "%.*f", (int)precision, value);
        *out = jinja_float(strtod(text, NULL));
    }
    return STATUS_OK;
}

// --- attributes of items --------------------------------------------------------------------------------------------

static bool all_digits(const char *text, size_t size) {
    size_t i = 0;
    while (i < size && text[i] >= '0' && text[i] <= '9') i++;
    return size > 0 && size < 18 && i == size;
}

// The attribute "a.b.0" of an item, or the item itself where none is named; `otherwise`, where it is given, in place of
// what is undefined on the way.
static Status attribute_or(Render *r, JinjaValue item, JinjaValue path, JinjaValue otherwise, JinjaValue *out) {
    *out = item;
    if (!given(path)) return STATUS_OK;
    if (path.type != JINJA_STRING) {
        TRY(jinja_item(r, item, path, out));
        if (out->type == JINJA_UNDEFINED && given(otherwise)) *out = otherwise;
        return STATUS_OK;
    }
    for (uint32_t at = 0; at <= path.size;) {
        const char *dot = memchr(path.text + at, '.', path.size - at);
        const uint32_t end = dot == NULL ? path.size : (uint32_t)(dot - path.text);
        JinjaValue part = jinja_string(path.text + at, end - at);
        if (all_digits(part.text, part.size)) {
            char digits[24];
            snprintf(digits, sizeof digits, "%.*s", (int)part.size, part.text);
            part = jinja_int(atoll(digits));
        }
        TRY(jinja_item(r, *out, part, out));
        if (out->type == JINJA_UNDEFINED && given(otherwise)) *out = otherwise;
        at = end + 1;
    }
    return STATUS_OK;
}

static Status attribute_of(Render *r, JinjaValue item, JinjaValue path, JinjaValue *out) {
    return attribute_or(r, item, path, jinja_none(), out);
}

static Status without_case(Render *r, JinjaValue v, bool case_sensitive, JinjaValue *out) {
    *out = v;
    return case_sensitive || v.type != JINJA_STRING ? STATUS_OK : jinja_lower(r, v, NULL, NULL, out);
}

static bool flag(JinjaValue v) {
    return v.type != JINJA_MISSING && jinja_truth(v);
}

static Status reversed_order(Render *r, JinjaValue a, JinjaValue b, bool reverse, bool *less) {
    return reverse ? jinja_less(r, b, a, "<", false, less) : jinja_less(r, a, b, "<", false, less);
}

// Sorts items by their keys; equal ones keep their order. A merge sort from the bottom up.
static Status sort_by(Render *r, JinjaValue *item, JinjaValue *key, size_t count, bool reverse) {
    JinjaValue *other_item = NULL, *other_key = NULL;
    TRY(JINJA_ALLOC(r->memory, other_item, count));
    TRY(JINJA_ALLOC(r->memory, other_key, count));
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t begin = 0; begin < count; begin += 2 * width) {
            const size_t middle = begin + width < count ? begin + width : count;
            const size_t end = begin + 2 * width < count ? begin + 2 * width : count;
            for (size_t i = begin, j = middle, to = begin; to < end; to++) {
                bool second = i == middle;
                if (i < middle && j < end) TRY(reversed_order(r, key[j], key[i], reverse, &second));
                const size_t from = second ? j++ : i++;
                other_item[to] = item[from];
                other_key[to] = key[from];
            }
        }
        memcpy(item, other_item, count * sizeof *item);
        memcpy(key, other_key, count * sizeof *key);
    }
    return STATUS_OK;
}

// A copy of the items, and their keys.
static Status items_and_keys(Render *r, JinjaValue in, JinjaValue attribute, bool case_sensitive, JinjaValue *items,
                             JinjaValue *keys) {
    const JinjaList *list;
    TRY(jinja_items(r, in, &list));
    TRY(jinja_list(r->memory, list->count, items));
    TRY(jinja_list(r->memory, list->count, keys));
    for (size_t i = 0; i < list->count; i++) {
        JinjaValue key;
        TRY(attribute_of(r, list->v[i], attribute, &key));
        TRY(without_case(r, key, case_sensitive, &key));
        TRY(jinja_list_add(r->memory, *items, list->v[i]));
        TRY(jinja_list_add(r->memory, *keys, key));
    }
    return STATUS_OK;
}

// sort(reverse=False, case_sensitive=False, attribute=None)
static Status filter_sort SIGNATURE {
    (void)all;
    JinjaValue keys;
    if (argument[2].type == JINJA_STRING && memchr(argument[2].text, ',', argument[2].size) != NULL)
        return JINJA_FAIL(r, "sort by several attributes is not supported");
    TRY(items_and_keys(r, in, argument[2], flag(argument[1]), out, &keys));
    return sort_by(r, out->list->v, keys.list->v, keys.list->count, flag(argument[0]));
}

static Status dict_items(Render *r, const JinjaDict *dict, JinjaValue list) {
    for (size_t i = 0; i < dict->count; i++) {
        JinjaValue pair;
        TRY(jinja_new_list(r, JINJA_TUPLE, 2, &pair));
        TRY(jinja_list_add(r->memory, pair, dict->key[i]));
        TRY(jinja_list_add(r->memory, pair, dict->value[i]));
        TRY(jinja_list_add(r->memory, list, pair));
    }
    return jinja_spend(r, dict->count / 4);
}

// dictsort(case_sensitive=False, by="key", reverse=False)
static Status filter_dictsort SIGNATURE {
    (void)all;
    JinjaValue pairs, keys;
    if (in.type != JINJA_DICT) return JINJA_FAIL(r, "dictsort needs a dict, not '%s'", jinja_type_name(in));
    const JinjaValue by = argument[1].type == JINJA_MISSING ? TEXT("key") : argument[1];
    if (!jinja_is(by, "key") && !jinja_is(by, "value"))
        return JINJA_FAIL(r, "You can only sort by either \"key\" or \"value\"");
    TRY(jinja_list(r->memory, in.dict->count, &pairs));
    TRY(dict_items(r, in.dict, pairs));
    TRY(items_and_keys(r, pairs, jinja_int(jinja_is(by, "value")), flag(argument[0]), out, &keys));
    return sort_by(r, out->list->v, keys.list->v, keys.list->count, flag(argument[2]));
}

// min and max(case_sensitive=False, attribute=None)
static Status extreme(Render *r, JinjaValue in, const JinjaValue *argument, bool largest, JinjaValue *out) {
    JinjaValue items, keys;
    TRY(items_and_keys(r, in, argument[1], flag(argument[0]), &items, &keys));
    *out = jinja_undefined("No aggregated item, sequence was empty.");
    size_t best = 0;
    for (size_t i = 1; i < items.list->count; i++) {
        bool better;
        TRY(reversed_order(r, keys.list->v[i], keys.list->v[best], largest, &better));
        if (better) best = i;
    }
    if (items.list->count > 0) *out = items.list->v[best];
    return STATUS_OK;
}

static Status filter_min SIGNATURE {
    (void)all;
    return extreme(r, in, argument, false, out);
}

static Status filter_max SIGNATURE {
    (void)all;
    return extreme(r, in, argument, true, out);
}

// sum(attribute=None, start=0)
static Status filter_sum SIGNATURE {
    (void)all;
    const JinjaList *items;
    *out = argument[1].type == JINJA_MISSING ? jinja_int(0) : argument[1];
    TRY(jinja_items(r, in, &items));
    for (size_t i = 0; i < items->count; i++) {
        JinjaValue value;
        TRY(attribute_of(r, items->v[i], argument[0], &value));
        TRY(jinja_binary(r, OP_ADD, *out, value, out));
    }
    return STATUS_OK;
}

// join(d="", attribute=None)
static Status filter_join SIGNATURE {
    (void)all;
    const JinjaList *items;
    TRY(jinja_items(r, in, &items));
    const size_t mark = jinja_mark(r);
    for (size_t i = 0; i < items->count; i++) {
        JinjaValue value;
        TRY(attribute_of(r, items->v[i], argument[1], &value));
        if (i > 0 && argument[0].type != JINJA_MISSING) TRY(jinja_put_value(r, argument[0]));
        TRY(jinja_put_value(r, value));
    }
    return jinja_take(r, mark, out);
}

// unique(case_sensitive=False, attribute=None)
static Status filter_unique SIGNATURE {
    (void)all;
    JinjaValue items, keys, seen;
    TRY(items_and_keys(r, in, argument[1], flag(argument[0]), &items, &keys));
    TRY(jinja_list(r->memory, 0, &seen));
    TRY(jinja_iterator(r, "generator", 0, out));
    for (size_t i = 0; i < items.list->count; i++) {
        bool known;
        TRY(jinja_contains(r, seen, keys.list->v[i], &known));
        if (known) continue;
        TRY(jinja_list_add(r->memory, seen, keys.list->v[i]));
        TRY(jinja_list_add(r->memory, *out, items.list->v[i]));
    }
    return STATUS_OK;
}

// --- sequences ------------------------------------------------------------------------------------------------------

static Status filter_default SIGNATURE {
    UNUSED;
    *out = in.type == JINJA_UNDEFINED || (flag(argument[1]) && !jinja_truth(in))
               ? (argument[0].type == JINJA_MISSING ? TEXT("") : argument[0])
               : in;
    return STATUS_OK;
}

static Status filter_length SIGNATURE {
    UNUSED;
    size_t length;
    TRY(jinja_length(r, in, &length));
    *out = jinja_int((int64_t)length);
    return STATUS_OK;
}

static Status filter_first SIGNATURE {
    UNUSED;
    const JinjaList *items;
    if (in.type == JINJA_ITERATOR && in.list->next < in.list->count) { // takes one
        *out = in.list->v[in.list->next++];
        return STATUS_OK;
    }
    TRY(jinja_items(r, in, &items));
    *out = items->count > 0 ? items->v[0] : jinja_undefined("No first item, sequence was empty.");
    return STATUS_OK;
}

static Status filter_last SIGNATURE {
    UNUSED;
    const JinjaList *items;
    if (in.type == JINJA_ITERATOR) return JINJA_FAIL(r, "'%s' object is not reversible", jinja_type_name(in));
    TRY(jinja_items(r, in, &items));
    *out = items->count > 0 ? items->v[items->count - 1] : jinja_undefined("No last item, sequence was empty.");
    return STATUS_OK;
}

static Status filter_list SIGNATURE {
    UNUSED;
    const JinjaList *items;
    TRY(jinja_items(r, in, &items));
    TRY(jinja_list(r->memory, 0, out));
    out->list->v = items->v; // shared: nothing changes them
    out->list->count = out->list->capacity = items->count;
    return STATUS_OK;
}

static Status filter_items SIGNATURE {
    UNUSED;
    TRY(jinja_iterator(r, "generator", 0, out));
    if (in.type == JINJA_UNDEFINED) return STATUS_OK;
    if (in.type != JINJA_DICT) return JINJA_FAIL(r, "Can only get item pairs from a mapping.");
    return dict_items(r, in.dict, *out);
}

static Status filter_reverse SIGNATURE {
    UNUSED;
    const JinjaList *items;
    const JinjaValue backwards[3] = {jinja_none(), jinja_none(), jinja_int(-1)};
    if (in.type == JINJA_STRING) return jinja_slice(r, in, backwards, out);
    TRY(jinja_items(r, in, &items));
    if (in.type == JINJA_ITERATOR)
        TRY(jinja_list(r->memory, items->count, out));
    else
        TRY(jinja_iterator(r, "list_reverseiterator", items->count, out));
    for (size_t i = items->count; i-- > 0;) TRY(jinja_list_add(r->memory, *out, items->v[i]));
    return STATUS_OK;
}

// The arguments behind the first `count`.
static Arguments rest_of(const Arguments *all, int count) {
    Arguments rest = *all;
    rest.positional += count;
    rest.count -= count;
    return rest;
}

// map(attribute="a.b", default=x) or map("filter", arguments...)
static Status filter_map SIGNATURE {
    (void)argument;
    const JinjaList *items;
    JinjaValue attribute = {0}, otherwise = {0};
    const JinjaBuiltin *filter = NULL;
    for (int i = 0; i < all->named_count && all->count == 0; i++) {
        JinjaValue *to = jinja_is(all->name[i], "attribute") ? &attribute
                         : jinja_is(all->name[i], "default") ? &otherwise
                                                             : NULL;
        if (to == NULL) return JINJA_FAIL(r, "Unexpected keyword argument '%.*s'", TEXT_ARGUMENT(all->name[i]));
        *to = all->named[i];
    }
    if (attribute.type == JINJA_MISSING) {
        if (all->count == 0) return JINJA_FAIL(r, "map requires a filter argument");
        filter = all->positional[0].type == JINJA_STRING ? jinja_find_filter(all->positional[0]) : NULL;
        if (filter == NULL) return JINJA_FAIL(r, "map names a filter that is not supported");
    }
    TRY(jinja_items(r, in, &items));
    TRY(jinja_iterator(r, "generator", items->count, out));
    for (size_t i = 0; i < items->count; i++) {
        JinjaValue value;
        if (filter != NULL) {
            const Arguments rest = rest_of(all, 1);
            TRY(jinja_run_builtin(r, filter, items->v[i], &rest, &value));
        } else {
            TRY(attribute_or(r, items->v[i], attribute, otherwise, &value));
        }
        TRY(jinja_list_add(r->memory, *out, value));
    }
    return STATUS_OK;
}

// select("test", arguments...), selectattr("attribute", "test", arguments...), and the same with what does not pass
static Status choose(Render *r, JinjaValue in, const Arguments *all, bool by_attribute, bool wanted, JinjaValue *out) {
    const JinjaList *items;
    const JinjaBuiltin *test = NULL;
    JinjaValue attribute = {0};
    if (by_attribute && all->count == 0) return JINJA_FAIL(r, "Missing parameter for attribute name");
    if (by_attribute) attribute = all->positional[0];
    Arguments rest = by_attribute ? rest_of(all, 1) : *all;
    if (rest.count > 0) {
        test = rest.positional[0].type == JINJA_STRING ? jinja_find_test(rest.positional[0]) : NULL;
        if (test == NULL) return JINJA_FAIL(r, "select or reject names a test that is not supported");
        rest = rest_of(&rest, 1);
    }
    TRY(jinja_items(r, in, &items));
    TRY(jinja_iterator(r, "generator", 0, out));
    for (size_t i = 0; i < items->count; i++) {
        JinjaValue value;
        TRY(attribute_of(r, items->v[i], attribute, &value));
        if (test != NULL) TRY(jinja_run_builtin(r, test, value, &rest, &value));
        if (jinja_truth(value) == wanted) TRY(jinja_list_add(r->memory, *out, items->v[i]));
    }
    return STATUS_OK;
}

static Status filter_select SIGNATURE {
    (void)argument;
    return choose(r, in, all, false, true, out);
}

static Status filter_reject SIGNATURE {
    (void)argument;
    return choose(r, in, all, false, false, out);
}

static Status filter_selectattr SIGNATURE {
    (void)argument;
    return choose(r, in, all, true, true, out);
}

static Status filter_rejectattr SIGNATURE {
    (void)argument;
    return choose(r, in, all, true, false, out);
}

// --- tests ----------------------------------------------------------------------------------------------------------

#define TEST(name, condition)                                                                                          \
    static Status name SIGNATURE {                                                                                     \
        UNUSED;                                                                                                        \
        *out = jinja_bool(condition);                                                                                  \
        return STATUS_OK;                                                                                              \
    }
TEST(test_defined, in.type != JINJA_UNDEFINED)
TEST(test_undefined, in.type == JINJA_UNDEFINED)
TEST(test_none, in.type == JINJA_NONE)
TEST(test_boolean, in.type == JINJA_BOOL)
TEST(test_true, in.type == JINJA_BOOL && in.boolean)
TEST(test_false, in.type == JINJA_BOOL && !in.boolean)
TEST(test_integer, in.type == JINJA_INT)
TEST(test_float, in.type == JINJA_FLOAT)
TEST(test_number, is_number(in))
TEST(test_string, in.type == JINJA_STRING)
TEST(test_mapping, in.type == JINJA_DICT)
TEST(test_sequence,
     in.type == JINJA_STRING || jinja_is_sequence(in) || in.type == JINJA_DICT || in.type == JINJA_UNDEFINED)
TEST(test_iterable, in.type == JINJA_STRING || jinja_is_sequence(in) || in.type == JINJA_DICT ||
                        in.type == JINJA_UNDEFINED || in.type == JINJA_VIEW || in.type == JINJA_ITERATOR ||
                        in.type == JINJA_LOOP)
TEST(test_callable, in.type == JINJA_MACRO || in.type == JINJA_FUNCTION || in.type == JINJA_METHOD ||
                        in.type == JINJA_LOOP || in.type == JINJA_UNDEFINED)
TEST(test_filter, in.type == JINJA_STRING && jinja_find_filter(in) != NULL)
TEST(test_test, in.type == JINJA_STRING && jinja_find_test(in) != NULL)

static Status test_sameas SIGNATURE {
    (void)all;
    const JinjaValue other = argument[0];
    bool same = in.type == other.type;
    if (same && (is_number(in) || in.type == JINJA_STRING))
        TRY(jinja_equal(r, in, other, &same));
    else if (same && in.type != JINJA_NONE && in.type != JINJA_UNDEFINED)
        same = in.list == other.list;
    *out = jinja_bool(same);
    return STATUS_OK;
}

static Status remainder_is(Render *r, JinjaValue in, JinjaValue by, int64_t wanted, JinjaValue *out) {
    bool same;
    TRY(jinja_binary(r, OP_MODULO, in, by, out));
    TRY(jinja_equal(r, *out, jinja_int(wanted), &same));
    *out = jinja_bool(same);
    return STATUS_OK;
}

static Status test_odd SIGNATURE {
    UNUSED;
    return remainder_is(r, in, jinja_int(2), 1, out);
}

static Status test_even SIGNATURE {
    UNUSED;
    return remainder_is(r, in, jinja_int(2), 0, out);
}

static Status test_divisibleby SIGNATURE {
    UNUSED;
    return remainder_is(r, in, argument[0], 0, out);
}

static Status test_in SIGNATURE {
    (void)all;
    bool found;
    TRY(jinja_contains(r, argument[0], in, &found));
    *out = jinja_bool(found);
    return STATUS_OK;
}

static Status test_eq SIGNATURE {
    (void)all;
    bool same;
    TRY(jinja_equal(r, in, argument[0], &same));
    *out = jinja_bool(same);
    return STATUS_OK;
}

static Status test_ne SIGNATURE {
    TRY(test_eq(r, in, argument, all, out));
    *out = jinja_bool(!out->boolean);
    return STATUS_OK;
}

#define ORDER_TEST(name, a, b, operator_name, or_equal)                                                                \
    static Status name SIGNATURE {                                                                                     \
        (void)all;                                                                                                     \
        bool less;                                                                                                     \
        TRY(jinja_less(r, a, b, operator_name, or_equal, &less));                                                      \
        *out = jinja_bool(less);                                                                                       \
        return STATUS_OK;                                                                                              \
    }
ORDER_TEST(test_lt, in, argument[0], "<", false)
ORDER_TEST(test_le, in, argument[0], "<=", true)
ORDER_TEST(test_gt, argument[0], in, ">", false)
ORDER_TEST(test_ge, argument[0], in, ">=", true)

// --- functions ------------------------------------------------------------------------------------------------------

static Status function_range SIGNATURE {
    (void)in;
    (void)argument;
    int64_t bound[3] = {0, 0, 1};
    if (all->count < 1 || all->count > 3 || all->named_count > 0)
        return JINJA_FAIL(r, "range() takes one to three whole numbers");
    for (int i = 0; i < all->count; i++)
        TRY(jinja_whole(r, all->positional[i], "range()'s argument", &bound[all->count == 1 ? 1 : i]));
    const int64_t step = bound[2];
    if (step == 0) return JINJA_FAIL(r, "range() arg 3 must not be zero");
    TRY(jinja_new_list(r, JINJA_RANGE, 0, out));
    for (int64_t at = bound[0]; step > 0 ? at < bound[1] : at > bound[1];) {
        if (out->list->count == JINJA_RANGE_MAX)
            return JINJA_FAIL(r, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).",
                              JINJA_RANGE_MAX);
        TRY(jinja_list_add(r->memory, *out, jinja_int(at)));
        if (__builtin_add_overflow(at, step, &at)) break;
    }
    return jinja_spend(r, out->list->count / 4);
}

static Status add_pairs(Render *r, JinjaValue from, JinjaValue dict) {
    const JinjaList *items;
    if (from.type == JINJA_DICT || from.type == JINJA_NAMESPACE) {
        for (size_t i = 0; i < from.dict->count; i++)
            TRY(jinja_dict_set(r->memory, dict, from.dict->key[i], from.dict->value[i]));
        return jinja_spend(r, from.dict->count * (1 + from.dict->count / 8));
    }
    TRY(jinja_items(r, from, &items));
    for (size_t i = 0; i < items->count; i++) {
        const JinjaValue pair = items->v[i];
        if ((pair.type != JINJA_TUPLE && pair.type != JINJA_LIST) || pair.list->count != 2)
            return JINJA_FAIL(r, "dict() needs pairs");
        if (pair.list->v[0].type != JINJA_STRING && !is_number(pair.list->v[0]) && pair.list->v[0].type != JINJA_NONE)
            return JINJA_FAIL(r, "a dict's key of the type '%s' is not supported", jinja_type_name(pair.list->v[0]));
        TRY(jinja_spend(r, dict.dict->count / 8));
        TRY(jinja_dict_set(r->memory, dict, pair.list->v[0], pair.list->v[1]));
    }
    return STATUS_OK;
}

static Status function_dict SIGNATURE {
    (void)in;
    (void)argument;
    if (all->count > 1) return JINJA_FAIL(r, "dict expected at most 1 argument, got %d", all->count);
    TRY(jinja_dict(r->memory, (size_t)all->named_count, out));
    if (all->count == 1) TRY(add_pairs(r, all->positional[0], *out));
    for (int i = 0; i < all->named_count; i++) TRY(jinja_dict_set(r->memory, *out, all->name[i], all->named[i]));
    return STATUS_OK;
}

static Status function_namespace SIGNATURE {
    TRY(function_dict(r, in, argument, all, out));
    for (size_t i = 0; i < out->dict->count; i++)
        if (out->dict->key[i].type != JINJA_STRING || (out->dict->key[i].size > 0 && out->dict->key[i].text[0] == '_'))
            return JINJA_FAIL(r, "chat templates cannot store underscore-prefixed attributes on a namespace");
    out->type = JINJA_NAMESPACE;
    return STATUS_OK;
}

static Status function_raise_exception SIGNATURE {
    UNUSED;
    JinjaValue text;
    TRY(jinja_text(r, argument[0], &text));
    *out = jinja_none();
    return JINJA_FAIL(r, "the chat template refuses the conversation: %.*s", text.size < 600 ? (int)text.size : 600,
                      text.text);
}

static Status function_strftime_now SIGNATURE {
    UNUSED;
    char format[128], text[512];
    struct tm now;
    if (argument[0].type != JINJA_STRING || argument[0].size >= sizeof format ||
        memchr(argument[0].text, '\0', argument[0].size) != NULL)
        return JINJA_FAIL(r, "strftime_now needs a format of less than %zu characters", sizeof format);
    snprintf(format, sizeof format, "%.*s", (int)argument[0].size, argument[0].text);
    if (localtime_r(&r->now, &now) == NULL) return JINJA_FAIL(r, "the time of day is not known");
    const size_t size = strftime(text, sizeof text, format, &now);
    if (size == 0 && format[0] != '\0') return JINJA_FAIL(r, "strftime_now's format gives too long a text, or none");
    const size_t mark = jinja_mark(r);
    TRY(jinja_put(r, text, size));
    return jinja_take(r, mark, out);
}

// --- methods --------------------------------------------------------------------------------------------------------

static Status dict_get SIGNATURE {
    (void)all;
    const JinjaValue *found;
    TRY(jinja_dict_get(r, in.dict, argument[0], &found));
    *out = found != NULL ? *found : argument[1].type == JINJA_MISSING ? jinja_none() : argument[1];
    return STATUS_OK;
}

static Status new_view(Render *r, const char *kind, size_t capacity, JinjaValue *out) {
    TRY(jinja_new_list(r, JINJA_VIEW, capacity, out));
    out->list->kind = kind;
    return STATUS_OK;
}

static Status dict_items_method SIGNATURE {
    UNUSED;
    TRY(new_view(r, "dict_items", in.dict->count, out));
    return dict_items(r, in.dict, *out);
}

static Status dict_keys SIGNATURE {
    UNUSED;
    TRY(new_view(r, "dict_keys", 0, out));
    *out->list = (JinjaList){.v = in.dict->key, .count = in.dict->count, .kind = "dict_keys"};
    return STATUS_OK;
}

static Status dict_values SIGNATURE {
    UNUSED;
    TRY(new_view(r, "dict_values", 0, out));
    *out->list = (JinjaList){.v = in.dict->value, .count = in.dict->count, .kind = "dict_values"};
    return STATUS_OK;
}

static Status copy SIGNATURE {
    UNUSED;
    *out = in; // nothing changes either
    return STATUS_OK;
}

static Status list_index SIGNATURE {
    (void)all;
    for (size_t i = 0; i < in.list->count; i++) {
        bool same;
        TRY(jinja_equal(r, in.list->v[i], argument[0], &same));
        if (!same) continue;
        *out = jinja_int((int64_t)i);
        return STATUS_OK;
    }
    return JINJA_FAIL(r, "index(): the item is not in the %s", jinja_type_name(in));
}

static Status list_count SIGNATURE {
    (void)all;
    int64_t count = 0;
    for (size_t i = 0; i < in.list->count; i++) {
        bool same;
        TRY(jinja_equal(r, in.list->v[i], argument[0], &same));
        count += same;
    }
    *out = jinja_int(count);
    return STATUS_OK;
}

static Status loop_cycle SIGNATURE {
    (void)argument;
    if (all->count == 0) return JINJA_FAIL(r, "no items for cycling given");
    *out = all->positional[in.loop->index % (size_t)all->count];
    return STATUS_OK;
}

static Status loop_changed SIGNATURE {
    (void)argument;
    JinjaValue now;
    bool same = false;
    TRY(jinja_new_list(r, JINJA_TUPLE, (size_t)all->count, &now));
    for (int i = 0; i < all->count; i++) TRY(jinja_list_add(r->memory, now, all->positional[i]));
    if (in.loop->changed.type == JINJA_TUPLE) TRY(jinja_equal(r, in.loop->changed, now, &same));
    in.loop->changed = now;
    *out = jinja_bool(!same);
    return STATUS_OK;
}

// --- tables ---------------------------------------------------------------------------------------------------------

static const JinjaBuiltin filters[] = {
    {"abs", filter_abs, 0, {0}},
    {"capitalize", jinja_capitalize, 0, {0}},
    {"count", filter_length, 0, {0}},
    {"d", filter_default, 0, {"default_value", "boolean"}},
    {"default", filter_default, 0, {"default_value", "boolean"}},
    {"dictsort", filter_dictsort, 0, {"case_sensitive", "by", "reverse"}},
    {"first", filter_first, 0, {0}},
    {"float", filter_float, 0, {"default"}},
    {"format", filter_format, -1, {0}},
    {"indent", filter_indent, 0, {"width", "first", "blank"}},
    {"int", filter_int, 0, {"default", "base"}},
    {"items", filter_items, 0, {0}},
    {"join", filter_join, 0, {"d", "attribute"}},
    {"last", filter_last, 0, {0}},
    {"length", filter_length, 0, {0}},
    {"list", filter_list, 0, {0}},
    {"lower", jinja_lower, 0, {0}},
    {"map", filter_map, -1, {0}},
    {"max", filter_max, 0, {"case_sensitive", "attribute"}},
    {"min", filter_min, 0, {"case_sensitive", "attribute"}},
    {"reject", filter_reject, -1, {0}},
    {"rejectattr", filter_rejectattr, -1, {0}},
    {"replace", filter_replace, 2, {"old", "new", "count"}},
    {"reverse", filter_reverse, 0, {0}},
    {"round", filter_round, 0, {"precision", "method"}},
    {"safe", filter_string, 0, {0}},
    {"select", filter_select, -1, {0}},
    {"selectattr", filter_selectattr, -1, {0}},
    {"sort", filter_sort, 0, {"reverse", "case_sensitive", "attribute"}},
    {"string", filter_string, 0, {0}},
    {"sum", filter_sum, 0, {"attribute", "start"}},
    {"title", jinja_title_filter, 0, {0}},
    {"tojson", filter_tojson, 0, {"ensure_ascii", "indent", "separators", "sort_keys"}},
    {"trim", filter_trim, 0, {"chars"}},
    {"unique", filter_unique, 0, {"case_sensitive", "attribute"}},
    {"upper", jinja_upper, 0, {0}},
    {0},
};

static const JinjaBuiltin tests[] = {
    {"defined", test_defined, 0, {0}},
    {"undefined", test_undefined, 0, {0}},
    {"none", test_none, 0, {0}},
    {"boolean", test_boolean, 0, {0}},
    {"true", test_true, 0, {0}},
    {"false", test_false, 0, {0}},
    {"integer", test_integer, 0, {0}},
    {"float", test_float, 0, {0}},
    {"number", test_number, 0, {0}},
    {"string", test_string, 0, {0}},
    {"mapping", test_mapping, 0, {0}},
    {"sequence", test_sequence, 0, {0}},
    {"iterable", test_iterable, 0, {0}},
    {"callable", test_callable, 0, {0}},
    {"sameas", test_sameas, 1, {"other"}},
    {"odd", test_odd, 0, {0}},
    {"even", test_even, 0, {0}},
    {"divisibleby", test_divisibleby, 1, {"num"}},
    {"in", test_in, 1, {"seq"}},
    {"lower", jinja_is_lower, 0, {0}},
    {"upper", jinja_is_upper, 0, {0}},
    {"filter", test_filter, 0, {0}},
    {"test", test_test, 0, {0}},
    {"==", test_eq, 1, {"b"}},
    {"eq", test_eq, 1, {"b"}},
    {"equalto", test_eq, 1, {"b"}},
    {"!=", test_ne, 1, {"b"}},
    {"ne", test_ne, 1, {"b"}},
    {">", test_gt, 1, {"b"}},
    {"gt", test_gt, 1, {"b"}},
    {"greaterthan", test_gt, 1, {"b"}},
    {">=", test_ge, 1, {"b"}},
    {"ge", test_ge, 1, {"b"}},
    {"<", test_lt, 1, {"b"}},
    {"lt", test_lt, 1, {"b"}},
    {"lessthan", test_lt, 1, {"b"}},
    {"<=", test_le, 1, {"b"}},
    {"le", test_le, 1, {"b"}},
    {0},
};

static const JinjaBuiltin functions[] = {
    {"range", function_range, -1, {0}},
    {"dict", function_dict, -1, {0}},
    {"namespace", function_namespace, -1, {0}},
    {"raise_exception", function_raise_exception, 1, {"message"}},
    {"strftime_now", function_strftime_now, 1, {"format"}},
    {"lipsum", NULL, 0, {0}}, // from here on known and refused
    {"cycler", NULL, 0, {0}},
    {"joiner", NULL, 0, {0}},
    {0},
};

static const JinjaBuiltin dict_methods[] = {
    {"get", dict_get, 1, {"key", "default"}},
    {"items", dict_items_method, 0, {0}},
    {"keys", dict_keys, 0, {0}},
    {"values", dict_values, 0, {0}},
    {"copy", copy, 0, {0}},
    {"fromkeys", NULL, 0, {0}},
    {0},
};

static const JinjaBuiltin list_methods[] = {
    {"index", list_index, 1, {"value"}},
    {"count", list_count, 1, {"value"}},
    {"copy", copy, 0, {0}},
    {0},
};

static const JinjaBuiltin number_methods[] = {
    {"real", NULL, 0, {0}},
    {"imag", NULL, 0, {0}},
    {"numerator", NULL, 0, {0}},
    {"denominator", NULL, 0, {0}},
    {"bit_length", NULL, 0, {0}},
    {"is_integer", NULL, 0, {0}},
    {0},
};

static const JinjaBuiltin loop_methods[] = {
    {"cycle", loop_cycle, -1, {0}},
    {"changed", loop_changed, -1, {0}},
    {0},
};

static const JinjaBuiltin *find(const JinjaBuiltin *table, JinjaValue name) {
    for (; table->name != NULL; table++)
        if (jinja_is(name, table->name)) return table;
    return NULL;
}

const JinjaBuiltin *jinja_find_filter(JinjaValue name) {
    return find(filters, name);
}

const JinjaBuiltin *jinja_find_test(JinjaValue name) {
    return find(tests, name);
}

const JinjaBuiltin *jinja_find_function(JinjaValue name) {
    return find(functions, name);
}

const JinjaBuiltin *jinja_find_method(JinjaType type, JinjaValue name) {
    switch (type) {
    case JINJA_STRING:
        return find(jinja_text_methods, name);
    case JINJA_DICT:
        return find(dict_methods, name);
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_RANGE:
        return find(list_methods, name);
    case JINJA_LOOP:
        return find(loop_methods, name);
    case JINJA_BOOL:
    case JINJA_INT:
    case JINJA_FLOAT:
        return find(number_methods, name);
    default:
        return NULL;
    }
}

Status jinja_run_builtin(Render *r, const JinjaBuiltin *b, JinjaValue in, const Arguments *all, JinjaValue *out) {
    JinjaValue argument[PARAMETERS_MAX] = {0};
    int count = 0;
    if (b->run == NULL) return JINJA_FAIL(r, "'%s' is not supported", b->name);
    if (b->needed < 0) return b->run(r, in, argument, all, out);
    while (count < PARAMETERS_MAX && b->parameter[count] != NULL) count++;
    if (all->count > count)
        return JINJA_FAIL(r, "'%s' takes %d argument%s, but %d were given", b->name, count, count == 1 ? "" : "s",
                          all->count);
    for (int i = 0; i < all->count; i++) argument[i] = all->positional[i];
    for (int i = 0; i < all->named_count; i++) {
        int to = 0;
        while (to < count && !jinja_is(all->name[i], b->parameter[to])) to++;
        if (to == count || argument[to].type != JINJA_MISSING)
            return JINJA_FAIL(r, "'%s' got the argument '%.*s' %s", b->name, TEXT_ARGUMENT(all->name[i]),
                              to == count ? "and has none of this name" : "twice");
        argument[to] = all->named[i];
    }
    for (int i = 0; i < b->needed; i++)
        if (argument[i].type == JINJA_MISSING)
            return JINJA_FAIL(r, "'%s' needs the argument '%s'", b->name, b->parameter[i]);
    return b->run(r, in, argument, all, out);
}
