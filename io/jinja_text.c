// Texts of the Jinja interpreter: UTF-8 by characters, and Python's methods of str. Case and printability of characters
// beyond ASCII are utf8proc's.
#include "io/jinja_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

// --- characters -----------------------------------------------------------------------------------------------------

uint32_t jinja_character(const char *text, size_t size, size_t at, size_t *next) {
    const unsigned char *c = (const unsigned char *)text + at;
    *next = at + 1;
    if (*c < 0x80) return *c;
    utf8proc_int32_t character;
    const utf8proc_ssize_t read = utf8proc_iterate(c, (utf8proc_ssize_t)(size - at), &character);
    if (read <= 0) return *c;
    *next = at + (size_t)read;
    return (uint32_t)character;
}

static Status put_character(Render *r, uint32_t character) {
    utf8proc_uint8_t bytes[4];
    const utf8proc_ssize_t size = utf8proc_encode_char((utf8proc_int32_t)character, bytes);
    return jinja_put(r, (const char *)bytes, (size_t)size);
}

bool jinja_is_space(uint32_t c) {
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static utf8proc_category_t category(uint32_t c) {
    return utf8proc_category((utf8proc_int32_t)c);
}

bool jinja_is_printable(uint32_t c) {
    if (c < 0x7f) return c >= 0x20;
    const utf8proc_category_t is = category(c);
    return is != UTF8PROC_CATEGORY_CN && is != UTF8PROC_CATEGORY_CC && is != UTF8PROC_CATEGORY_CF &&
           is != UTF8PROC_CATEGORY_CS && is != UTF8PROC_CATEGORY_CO && is != UTF8PROC_CATEGORY_ZS &&
           is != UTF8PROC_CATEGORY_ZL && is != UTF8PROC_CATEGORY_ZP;
}

static bool is_letter(uint32_t c) {
    const utf8proc_category_t is = category(c);
    return is >= UTF8PROC_CATEGORY_LU && is <= UTF8PROC_CATEGORY_LO;
}

static bool is_upper(uint32_t c) {
    return c < 0x80 ? c >= 'A' && c <= 'Z' : category(c) == UTF8PROC_CATEGORY_LU;
}

static bool is_lower(uint32_t c) {
    return c < 0x80 ? c >= 'a' && c <= 'z' : category(c) == UTF8PROC_CATEGORY_LL;
}

static bool is_ascii(JinjaValue text) {
    size_t i = 0;
    for (; i + 8 <= text.size; i += 8) {
        uint64_t eight;
        memcpy(&eight, text.text + i, 8);
        if (eight & 0x8080808080808080u) return false;
    }
    for (; i < text.size; i++)
        if ((unsigned char)text.text[i] >= 0x80) return false;
    return true;
}

Status jinja_characters(Render *r, JinjaValue text, size_t *out) {
    *out = text.size;
    TRY(jinja_spend(r, text.size / 64));
    if (is_ascii(text)) return STATUS_OK;
    *out = 0;
    for (size_t at = 0; at < text.size; ++*out) jinja_character(text.text, text.size, at, &at);
    return jinja_spend(r, text.size / 16);
}

Status jinja_offset(Render *r, JinjaValue text, size_t index, size_t *out) {
    *out = index < text.size ? index : text.size;
    TRY(jinja_spend(r, *out / 16));
    if (is_ascii(jinja_string(text.text, *out))) return STATUS_OK;
    size_t at = 0;
    for (size_t i = 0; i < index && at < text.size; i++) jinja_character(text.text, text.size, at, &at);
    *out = at;
    return STATUS_OK;
}

static bool holds_character(JinjaValue set, uint32_t c) {
    for (size_t at = 0; at < set.size;)
        if (jinja_character(set.text, set.size, at, &at) == c) return true;
    return false;
}

static bool strips(JinjaValue set, uint32_t c) {
    return set.type == JINJA_STRING ? holds_character(set, c) : jinja_is_space(c);
}

JinjaValue jinja_strip(JinjaValue text, JinjaValue characters, bool left, bool right) {
    size_t begin = 0, end = text.size, next;
    while (left && begin < end && strips(characters, jinja_character(text.text, end, begin, &next))) begin = next;
    while (right && end > begin) {
        size_t last = end - 1;
        while (last > begin && end - last < 4 && ((unsigned char)text.text[last] & 0xc0) == 0x80) last--;
        const uint32_t c = jinja_character(text.text, end, last, &next);
        if (next != end || !strips(characters, c)) break;
        end = last;
    }
    return jinja_string(text.text + begin, end - begin);
}

const char *jinja_search(JinjaValue text, JinjaValue part) {
    return part.size == 0 ? text.text : memmem(text.text, text.size, part.text, part.size);
}

static JinjaValue rest_of(JinjaValue text, const char *from) {
    return jinja_string(from, (size_t)(text.text + text.size - from));
}

// --- arguments ------------------------------------------------------------------------------------------------------

static Status need_text(Render *r, JinjaValue v, const char *what) {
    if (v.type == JINJA_STRING) return STATUS_OK;
    return JINJA_FAIL(r, "%s must be str, not %s", what, jinja_type_name(v));
}

static bool given(JinjaValue v) {
    return v.type != JINJA_MISSING && v.type != JINJA_NONE;
}

static Status whole_or(Render *r, JinjaValue v, int64_t otherwise, int64_t *out) {
    *out = otherwise;
    return given(v) ? jinja_whole(r, v, "this argument", out) : STATUS_OK;
}

// The part of `in` between the characters start and stop, as str.find and its like take them; *shift gets the first's
// index. *valid is false where start lies behind the end, where not even "" is found.
static Status part_of(Render *r, JinjaValue in, JinjaValue start, JinjaValue stop, JinjaValue *out, size_t *shift,
                      bool *valid) {
    *out = in;
    *shift = 0;
    *valid = true;
    if (!given(start) && !given(stop)) return STATUS_OK;
    size_t count, from, to;
    int64_t first, last;
    TRY(jinja_characters(r, in, &count));
    TRY(whole_or(r, start, 0, &first));
    TRY(whole_or(r, stop, (int64_t)count, &last));
    if (first < 0) first = first + (int64_t)count < 0 ? 0 : first + (int64_t)count;
    if (last < 0) last = last + (int64_t)count < 0 ? 0 : last + (int64_t)count;
    if (last > (int64_t)count) last = (int64_t)count;
    *valid = first <= last;
    if (!*valid) return STATUS_OK;
    TRY(jinja_offset(r, in, (size_t)first, &from));
    TRY(jinja_offset(r, in, (size_t)last, &to));
    *shift = (size_t)first;
    *out = jinja_string(in.text + from, to - from);
    return STATUS_OK;
}

// --- case -----------------------------------------------------------------------------------------------------------

typedef enum Case { UPPER, LOWER, TITLE } Case;

static Status put_cased(Render *r, uint32_t c, Case to) {
    if (c == 0xdf && to != LOWER) return jinja_put(r, to == UPPER ? "SS" : "Ss", 2);
    const utf8proc_int32_t character = (utf8proc_int32_t)c;
    return put_character(r, (uint32_t)(to == UPPER   ? utf8proc_toupper(character)
                                       : to == LOWER ? utf8proc_tolower(character)
                                                     : utf8proc_totitle(character)));
}

// The first character in one case and the others in another.
static Status put_word(Render *r, JinjaValue text, Case first, Case others) {
    for (size_t at = 0, next; at < text.size; at = next) {
        const uint32_t c = jinja_character(text.text, text.size, at, &next);
        if (c < 0x80) {
            const char cased = (at == 0 ? first : others) == LOWER ? (char)(c >= 'A' && c <= 'Z' ? c + 32 : c)
                                                                   : (char)(c >= 'a' && c <= 'z' ? c - 32 : c);
            TRY(jinja_put(r, &cased, 1));
        } else {
            TRY(put_cased(r, c, at == 0 ? first : others));
        }
    }
    return STATUS_OK;
}

static Status cased(Render *r, JinjaValue in, Case first, Case others, JinjaValue *out) {
    JinjaValue text;
    TRY(jinja_text(r, in, &text));
    const size_t mark = jinja_mark(r);
    TRY(put_word(r, text, first, others));
    return jinja_take(r, mark, out);
}

#define UNUSED_ARGUMENTS                                                                                               \
    (void)argument;                                                                                                    \
    (void)all

Status jinja_upper(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    UNUSED_ARGUMENTS;
    return cased(r, in, UPPER, UPPER, out);
}

Status jinja_lower(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    UNUSED_ARGUMENTS;
    return cased(r, in, LOWER, LOWER, out);
}

Status jinja_capitalize(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    UNUSED_ARGUMENTS;
    return cased(r, in, TITLE, LOWER, out);
}

// Words as jinja2's filter title takes them: parted by whitespace and -({[<.
Status jinja_title_filter(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    UNUSED_ARGUMENTS;
    JinjaValue text;
    TRY(jinja_text(r, in, &text));
    const size_t mark = jinja_mark(r);
    for (size_t at = 0; at < text.size;) {
        size_t end = at, next;
        for (; end < text.size; end = next) {
            const uint32_t c = jinja_character(text.text, text.size, end, &next);
            if (jinja_is_space(c) || (c < 0x80 && c > 0 && strchr("-({[<", (int)c) != NULL)) break;
        }
        TRY(put_word(r, jinja_string(text.text + at, end - at), UPPER, LOWER));
        at = end;
        if (at == text.size) break;
        jinja_character(text.text, text.size, at, &next);
        TRY(jinja_put(r, text.text + at, next - at));
        at = next;
    }
    return jinja_take(r, mark, out);
}

// Words as str.title takes them: letters behind anything that has no case.
static Status title(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    UNUSED_ARGUMENTS;
    const size_t mark = jinja_mark(r);
    bool within = false;
    for (size_t at = 0, next; at < in.size; at = next) {
        const uint32_t c = jinja_character(in.text, in.size, at, &next);
        TRY(put_cased(r, c, within ? LOWER : TITLE));
        within = is_upper(c) || is_lower(c) || category(c) == UTF8PROC_CATEGORY_LT;
    }
    return jinja_take(r, mark, out);
}

static Status swapcase(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    UNUSED_ARGUMENTS;
    const size_t mark = jinja_mark(r);
    for (size_t at = 0, next; at < in.size; at = next) {
        const uint32_t c = jinja_character(in.text, in.size, at, &next);
        TRY(put_cased(r, c, is_upper(c) ? LOWER : UPPER));
    }
    return jinja_take(r, mark, out);
}

// --- what a text is made of -----------------------------------------------------------------------------------------

typedef bool CharacterTest(uint32_t c);

static bool every(JinjaValue text, CharacterTest *test) {
    for (size_t at = 0; at < text.size;)
        if (!test(jinja_character(text.text, text.size, at, &at))) return false;
    return text.size > 0;
}

static bool is_digit(uint32_t c) { // str.isdigit takes some more: superscripts and the like
    return c < 0x80 ? c >= '0' && c <= '9' : category(c) == UTF8PROC_CATEGORY_ND;
}

static bool is_letter_or_digit(uint32_t c) {
    return is_letter(c) || is_digit(c) || category(c) == UTF8PROC_CATEGORY_NL || category(c) == UTF8PROC_CATEGORY_NO;
}

static Status one_case(JinjaValue text, CharacterTest *wanted, CharacterTest *other, JinjaValue *out) {
    bool has = false;
    for (size_t at = 0; at < text.size;) {
        const uint32_t c = jinja_character(text.text, text.size, at, &at);
        has |= wanted(c);
        if (other(c) || (c >= 0x80 && category(c) == UTF8PROC_CATEGORY_LT)) {
            *out = jinja_bool(false);
            return STATUS_OK;
        }
    }
    *out = jinja_bool(has);
    return STATUS_OK;
}

Status jinja_is_lower(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    UNUSED_ARGUMENTS;
    JinjaValue text;
    TRY(jinja_text(r, in, &text));
    TRY(jinja_spend(r, text.size / 16));
    return one_case(text, is_lower, is_upper, out);
}

Status jinja_is_upper(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    UNUSED_ARGUMENTS;
    JinjaValue text;
    TRY(jinja_text(r, in, &text));
    TRY(jinja_spend(r, text.size / 16));
    return one_case(text, is_upper, is_lower, out);
}

#define CHARACTER_METHOD(name, test)                                                                                   \
    static Status name(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {  \
        UNUSED_ARGUMENTS;                                                                                              \
        *out = jinja_bool(every(in, test));                                                                            \
        return jinja_spend(r, in.size / 16);                                                                           \
    }
CHARACTER_METHOD(isalpha_method, is_letter)
CHARACTER_METHOD(isalnum_method, is_letter_or_digit)
CHARACTER_METHOD(isdigit_method, is_digit)
CHARACTER_METHOD(isspace_method, jinja_is_space)

// --- ends -----------------------------------------------------------------------------------------------------------

static Status strip_both(Render *r, JinjaValue in, JinjaValue characters, bool left, bool right, JinjaValue *out) {
    if (given(characters)) TRY(need_text(r, characters, "strip arg"));
    *out = jinja_strip(in, characters, left, right);
    return jinja_spend(r, (in.size - out->size) / 16);
}

static Status strip(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)all;
    return strip_both(r, in, argument[0], true, true, out);
}

static Status lstrip(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)all;
    return strip_both(r, in, argument[0], true, false, out);
}

static Status rstrip(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)all;
    return strip_both(r, in, argument[0], false, true, out);
}

static bool begins(JinjaValue text, JinjaValue part) {
    return part.size <= text.size && memcmp(text.text, part.text, part.size) == 0;
}

static bool ends(JinjaValue text, JinjaValue part) {
    return part.size <= text.size && memcmp(text.text + text.size - part.size, part.text, part.size) == 0;
}

// A text, or any of a tuple.
static Status has_end(Render *r, JinjaValue in, const JinjaValue *argument, bool at_start, JinjaValue *out) {
    const JinjaValue *one = &argument[0];
    size_t count = 1, shift;
    bool valid, found = false;
    JinjaValue part;
    TRY(part_of(r, in, argument[1], argument[2], &part, &shift, &valid));
    if (argument[0].type == JINJA_TUPLE) {
        one = argument[0].list->v;
        count = argument[0].list->count;
    }
    for (size_t i = 0; i < count; i++) {
        TRY(need_text(r, one[i], at_start ? "startswith first arg" : "endswith first arg"));
        found |= valid && (at_start ? begins(part, one[i]) : ends(part, one[i]));
    }
    *out = jinja_bool(found);
    return STATUS_OK;
}

static Status startswith(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)all;
    return has_end(r, in, argument, true, out);
}

static Status endswith(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)all;
    return has_end(r, in, argument, false, out);
}

static Status removeprefix(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all,
                           JinjaValue *out) {
    (void)all;
    TRY(need_text(r, argument[0], "removeprefix() argument"));
    const size_t cut = begins(in, argument[0]) ? argument[0].size : 0;
    *out = jinja_string(in.text + cut, in.size - cut);
    return STATUS_OK;
}

static Status removesuffix(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all,
                           JinjaValue *out) {
    (void)all;
    TRY(need_text(r, argument[0], "removesuffix() argument"));
    *out = jinja_string(in.text, in.size - (ends(in, argument[0]) ? argument[0].size : 0));
    return STATUS_OK;
}

// --- parts ----------------------------------------------------------------------------------------------------------

static Status add_part(Render *r, JinjaValue list, const char *from, const char *to) {
    TRY(jinja_spend(r, 0));
    return jinja_list_add(r->memory, list, jinja_string(from, (size_t)(to - from)));
}

static Status split_words(Render *r, JinjaValue in, int64_t limit, JinjaValue list) {
    const JinjaValue space = jinja_none();
    for (JinjaValue rest = jinja_strip(in, space, true, false); rest.size > 0; limit--) {
        if (limit == 0) return add_part(r, list, rest.text, rest.text + rest.size);
        size_t end = 0, next;
        while (end < rest.size && !jinja_is_space(jinja_character(rest.text, rest.size, end, &next))) end = next;
        TRY(add_part(r, list, rest.text, rest.text + end));
        rest = jinja_strip(rest_of(rest, rest.text + end), space, true, false);
    }
    return STATUS_OK;
}

static Status split(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)all;
    int64_t limit;
    TRY(whole_or(r, argument[1], -1, &limit));
    TRY(jinja_list(r->memory, 0, out));
    TRY(jinja_spend(r, in.size / 64));
    if (!given(argument[0])) return split_words(r, in, limit, *out);
    const JinjaValue by = argument[0];
    TRY(need_text(r, by, "the separator"));
    if (by.size == 0) return JINJA_FAIL(r, "empty separator");
    JinjaValue rest = in;
    for (const char *at; limit != 0 && (at = jinja_search(rest, by)) != NULL; limit--) {
        TRY(add_part(r, *out, rest.text, at));
        rest = rest_of(rest, at + by.size);
    }
    return add_part(r, *out, rest.text, rest.text + rest.size);
}

// The last place of `part`.
static const char *search_last(JinjaValue text, JinjaValue part) {
    for (size_t at = text.size >= part.size ? text.size - part.size + 1 : 0; at-- > 0;)
        if (memcmp(text.text + at, part.text, part.size) == 0) return text.text + at;
    return NULL;
}

static void reverse_list(JinjaList *list) {
    for (size_t i = 0, j = list->count; i + 1 < j; i++) {
        const JinjaValue kept = list->v[i];
        list->v[i] = list->v[--j];
        list->v[j] = kept;
    }
}

static Status rsplit_words(Render *r, JinjaValue in, int64_t limit, JinjaValue list) {
    const JinjaValue space = jinja_none();
    for (JinjaValue rest = jinja_strip(in, space, false, true); rest.size > 0; limit--) {
        JinjaValue head = rest;
        if (limit == 0) return add_part(r, list, rest.text, rest.text + rest.size);
        for (size_t at = 0, next; at < rest.size; at = next) // up to the last whitespace
            if (jinja_is_space(jinja_character(rest.text, rest.size, at, &next))) head.size = (uint32_t)next;
        if (head.size == rest.size) head.size = 0;
        TRY(jinja_spend(r, rest.size / 16));
        TRY(add_part(r, list, rest.text + head.size, rest.text + rest.size));
        rest = jinja_strip(head, space, false, true);
    }
    return STATUS_OK;
}

static Status rsplit(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    int64_t limit;
    TRY(whole_or(r, argument[1], -1, &limit));
    if (limit < 0) return split(r, in, argument, all, out);
    TRY(jinja_list(r->memory, 0, out));
    TRY(jinja_spend(r, in.size / 64));
    if (!given(argument[0])) {
        TRY(rsplit_words(r, in, limit, *out));
        reverse_list(out->list);
        return STATUS_OK;
    }
    const JinjaValue by = argument[0];
    TRY(need_text(r, by, "the separator"));
    if (by.size == 0) return JINJA_FAIL(r, "empty separator");
    JinjaValue rest = in;
    for (const char *at; limit > 0 && (at = search_last(rest, by)) != NULL; limit--) {
        TRY(add_part(r, *out, at + by.size, rest.text + rest.size));
        rest.size = (uint32_t)(at - rest.text);
    }
    TRY(add_part(r, *out, rest.text, rest.text + rest.size));
    reverse_list(out->list);
    return STATUS_OK;
}

static Status part_at(Render *r, JinjaValue in, JinjaValue by, bool last, JinjaValue *out) {
    TRY(need_text(r, by, "the separator"));
    if (by.size == 0) return JINJA_FAIL(r, "empty separator");
    const char *at = last ? search_last(in, by) : jinja_search(in, by), *end = in.text + in.size;
    TRY(jinja_spend(r, in.size / 16));
    TRY(jinja_new_list(r, JINJA_TUPLE, 3, out));
    TRY(add_part(r, *out, in.text, at != NULL ? at : last ? in.text : end));
    TRY(add_part(r, *out, at != NULL ? at : end, at != NULL ? at + by.size : end));
    return add_part(r, *out, at != NULL ? at + by.size : last ? in.text : end, end);
}

static Status partition(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)all;
    return part_at(r, in, argument[0], false, out);
}

static Status rpartition(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)all;
    return part_at(r, in, argument[0], true, out);
}

static bool is_line_end(uint32_t c) {
    return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

Status jinja_splitlines(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)all;
    const bool keeps = argument != NULL && given(argument[0]) && jinja_truth(argument[0]);
    TRY(jinja_list(r->memory, 0, out));
    TRY(jinja_spend(r, in.size / 16));
    size_t line = 0;
    for (size_t at = 0, next; at < in.size; at = next) {
        const uint32_t c = jinja_character(in.text, in.size, at, &next);
        if (!is_line_end(c)) continue;
        if (c == '\r' && next < in.size && in.text[next] == '\n') next++;
        TRY(add_part(r, *out, in.text + line, in.text + (keeps ? next : at)));
        line = next;
    }
    return line < in.size ? add_part(r, *out, in.text + line, in.text + in.size) : STATUS_OK;
}

static Status join(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)all;
    const JinjaList *items;
    TRY(jinja_items(r, argument[0], &items));
    const size_t mark = jinja_mark(r);
    for (size_t i = 0; i < items->count; i++) {
        if (items->v[i].type != JINJA_STRING)
            return JINJA_FAIL(r, "sequence item %zu: expected str instance, %s found", i, jinja_type_name(items->v[i]));
        if (i > 0) TRY(jinja_put_value(r, in));
        TRY(jinja_put_value(r, items->v[i]));
    }
    return jinja_take(r, mark, out);
}

// --- finding and replacing ------------------------------------------------------------------------------------------

static Status find_any(Render *r, JinjaValue in, const JinjaValue *argument, bool last, JinjaValue *out) {
    JinjaValue part;
    size_t shift, before = 0;
    bool valid;
    TRY(need_text(r, argument[0], "the text to be found"));
    TRY(part_of(r, in, argument[1], argument[2], &part, &shift, &valid));
    TRY(jinja_spend(r, in.size / 16));
    const char *at = !valid ? NULL : last ? search_last(part, argument[0]) : jinja_search(part, argument[0]);
    if (at != NULL) TRY(jinja_characters(r, jinja_string(part.text, (size_t)(at - part.text)), &before));
    *out = jinja_int(at == NULL ? -1 : (int64_t)(shift + before));
    return STATUS_OK;
}

static Status find(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)all;
    return find_any(r, in, argument, false, out);
}

static Status rfind(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)all;
    return find_any(r, in, argument, true, out);
}

static Status must_be_found(Render *r, JinjaValue found) {
    return found.integer >= 0 ? STATUS_OK : JINJA_FAIL(r, "substring not found");
}

static Status index_of(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    TRY(find(r, in, argument, all, out));
    return must_be_found(r, *out);
}

static Status rindex_of(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    TRY(rfind(r, in, argument, all, out));
    return must_be_found(r, *out);
}

static Status count_of(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)all;
    JinjaValue part;
    size_t shift, count = 0;
    bool valid;
    TRY(need_text(r, argument[0], "the text to be counted"));
    TRY(part_of(r, in, argument[1], argument[2], &part, &shift, &valid));
    TRY(jinja_spend(r, in.size / 16));
    if (argument[0].size == 0) {
        TRY(jinja_characters(r, part, &count));
        count++;
    } else {
        for (const char *at; (at = jinja_search(part, argument[0])) != NULL; count++)
            part = rest_of(part, at + argument[0].size);
    }
    *out = jinja_int(valid ? (int64_t)count : 0);
    return STATUS_OK;
}

Status jinja_replace(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)all;
    const JinjaValue old = argument[0], new = argument[1];
    int64_t limit;
    TRY(need_text(r, old, "replace() argument 1"));
    TRY(need_text(r, new, "replace() argument 2"));
    TRY(whole_or(r, argument[2], -1, &limit));
    TRY(jinja_spend(r, in.size / 16));
    const size_t mark = jinja_mark(r);
    JinjaValue rest = in;
    for (const char *at; limit != 0 && (at = jinja_search(rest, old)) != NULL; limit--) {
        size_t step = old.size, next;
        TRY(jinja_spend(r, 0));
        TRY(jinja_put(r, rest.text, (size_t)(at - rest.text)));
        TRY(jinja_put_value(r, new));
        if (step == 0) { // between all characters, and at the ends
            if (rest.size == 0) return jinja_take(r, mark, out);
            jinja_character(rest.text, rest.size, 0, &next);
            TRY(jinja_put(r, rest.text, next));
            step = next;
        }
        rest = rest_of(rest, at + step);
    }
    TRY(jinja_put_value(r, rest));
    return jinja_take(r, mark, out);
}

// --- width ----------------------------------------------------------------------------------------------------------

static Status put_fill(Render *r, JinjaValue fill, int64_t count) {
    for (; count > 0; count--) TRY(jinja_put_value(r, fill));
    return STATUS_OK;
}

static Status padded(Render *r, JinjaValue in, JinjaValue width, JinjaValue fill, int side, JinjaValue *out) {
    size_t count;
    int64_t wanted;
    if (!given(fill)) fill = TEXT(" ");
    TRY(need_text(r, fill, "the fill character"));
    TRY(jinja_characters(r, fill, &count));
    if (count != 1) return JINJA_FAIL(r, "The fill character must be exactly one character long");
    TRY(jinja_whole(r, width, "the width", &wanted));
    TRY(jinja_characters(r, in, &count));
    const int64_t room = wanted > (int64_t)count ? wanted - (int64_t)count : 0;
    const int64_t left = side < 0 ? room : side > 0 ? 0 : room / 2 + (room & wanted & 1); // as str.center rounds
    TRY(jinja_spend(r, (size_t)room));
    const size_t mark = jinja_mark(r);
    TRY(put_fill(r, fill, left));
    TRY(jinja_put_value(r, in));
    TRY(put_fill(r, fill, room - left));
    return jinja_take(r, mark, out);
}

static Status ljust(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)all;
    return padded(r, in, argument[0], argument[1], 1, out);
}

static Status rjust(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)all;
    return padded(r, in, argument[0], argument[1], -1, out);
}

static Status center(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)all;
    return padded(r, in, argument[0], argument[1], 0, out);
}

static Status zfill(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)all;
    const bool sign = in.size > 0 && (in.text[0] == '-' || in.text[0] == '+');
    if (!sign) return padded(r, in, argument[0], TEXT("0"), -1, out);
    const size_t mark = jinja_mark(r);
    int64_t width;
    TRY(jinja_whole(r, argument[0], "the width", &width));
    JinjaValue rest;
    TRY(padded(r, jinja_string(in.text + 1, in.size - 1), jinja_int(width - (width > INT64_MIN)), TEXT("0"), -1,
               &rest));
    TRY(jinja_put(r, in.text, 1));
    TRY(jinja_put_value(r, rest));
    return jinja_take(r, mark, out);
}

// --- formats --------------------------------------------------------------------------------------------------------

// The value for a field {0}, {name} or {}, whose name is field[0, size).
static Status format_value(Render *r, const char *field, size_t size, int *next, const Arguments *all,
                           JinjaValue *out) {
    if (size == 0 || strspn(field, "0123456789") >= size) {
        const long at = size == 0 ? (*next)++ : strtol(field, NULL, 10);
        if (at >= all->count) return JINJA_FAIL(r, "Replacement index %ld out of range for positional args tuple", at);
        *out = all->positional[at];
        return STATUS_OK;
    }
    for (int i = 0; i < all->named_count; i++)
        if (all->name[i].size == size && memcmp(all->name[i].text, field, size) == 0) {
            *out = all->named[i];
            return STATUS_OK;
        }
    return JINJA_FAIL(r, "the field '%.*s' of format() is not given or not supported", size < 100 ? (int)size : 100,
                      field);
}

// str.format with plain fields; format specifications are refused.
static Status format(Render *r, JinjaValue in, const JinjaValue *argument, const Arguments *all, JinjaValue *out) {
    (void)argument;
    const size_t mark = jinja_mark(r);
    int next = 0;
    for (size_t at = 0; at < in.size; at++) {
        const char c = in.text[at];
        const bool twice = at + 1 < in.size && in.text[at + 1] == c;
        if (c != '{' && c != '}') {
            TRY(jinja_put(r, &c, 1));
        } else if (twice) {
            TRY(jinja_put(r, &c, 1));
            at++;
        } else {
            const char *end = c == '{' ? memchr(in.text + at, '}', in.size - at) : NULL;
            if (end == NULL) return JINJA_FAIL(r, "Single '%c' encountered in format string", c);
            JinjaValue value;
            const char *field = in.text + at + 1;
            TRY(jinja_spend(r, 0));
            TRY(format_value(r, field, (size_t)(end - field), &next, all, &value));
            TRY(jinja_put_value(r, value));
            at = (size_t)(end - in.text);
        }
    }
    return jinja_take(r, mark, out);
}

// One conversion of %; `form` is what stands between "%" and its letter.
static Status put_conversion(Render *r, const char *form, char letter, JinjaValue v) {
    char full[32], text[512];
    int64_t whole = v.type == JINJA_FLOAT && v.real > -9e18 && v.real < 9e18 ? (int64_t)v.real : 0;
    if (letter == 's' && form[0] == '\0') return jinja_put_value(r, v);
    if (letter == 'r' && form[0] == '\0') return jinja_put_repr(r, v);
    if (v.type != JINJA_INT && v.type != JINJA_BOOL && v.type != JINJA_FLOAT)
        return JINJA_FAIL(r, "the format %%%s%c of '%s' is not supported", form, letter, jinja_type_name(v));
    if (v.type != JINJA_FLOAT) TRY(jinja_whole(r, v, "a number", &whole));
    int size;
    if (letter == 'd' || letter == 'i' || letter == 'x' || letter == 'X') {
        snprintf(full, sizeof full, "%%%sll%c", form, letter);
        size = snprintf(text, sizeof text, full, (long long)whole);
    } else if (strchr("feEgG", letter) != NULL) {
        snprintf(full, sizeof full, "%%%s%c", form, letter);
        size = snprintf(text, sizeof text, full, v.type == JINJA_FLOAT ? v.real : (double)whole);
    } else {
        return JINJA_FAIL(r, "the format %%%s%c is not supported", form, letter);
    }
    if (size < 0 || size >= (int)sizeof text)
        return JINJA_FAIL(r, "the format %%%s%c gives too long a text", form, letter);
    return jinja_put(r, text, (size_t)size);
}

Status jinja_percent(Render *r, JinjaValue in, const Arguments *given, bool all, JinjaValue *out) {
    const size_t mark = jinja_mark(r);
    int next = 0;
    for (size_t at = 0; at < in.size; at++) {
        if (in.text[at] != '%') {
            TRY(jinja_put(r, in.text + at, 1));
            continue;
        }
        char form[16] = "";
        size_t size = 0;
        JinjaValue value = {0};
        at++;
        if (at < in.size && in.text[at] == '(') {
            const char *name = in.text + at + 1, *end = memchr(name, ')', in.size - at - 1);
            if (end == NULL) return JINJA_FAIL(r, "incomplete format key");
            if (end == name) return JINJA_FAIL(r, "a format key is empty");
            TRY(format_value(r, name, (size_t)(end - name), &next, given, &value));
            at = (size_t)(end - in.text) + 1;
        }
        while (at < in.size && size < 8 && strchr("-+ #0123456789.", in.text[at]) != NULL) form[size++] = in.text[at++];
        if (at >= in.size || in.text[at] == '\0') return JINJA_FAIL(r, "incomplete format");
        if (in.text[at] == '%') {
            TRY(jinja_put(r, "%", 1));
            continue;
        }
        if (value.type == JINJA_MISSING) {
            if (next >= given->count) return JINJA_FAIL(r, "not enough arguments for format string");
            value = given->positional[next++];
        }
        TRY(jinja_spend(r, 0));
        TRY(put_conversion(r, form, in.text[at], value));
    }
    if (all && next < given->count) return JINJA_FAIL(r, "not all arguments converted during string formatting");
    return jinja_take(r, mark, out);
}

const JinjaBuiltin jinja_text_methods[] = {{"strip", strip, 0, {"chars"}},
                                           {"lstrip", lstrip, 0, {"chars"}},
                                           {"rstrip", rstrip, 0, {"chars"}},
                                           {"split", split, 0, {"sep", "maxsplit"}},
                                           {"rsplit", rsplit, 0, {"sep", "maxsplit"}},
                                           {"startswith", startswith, 1, {"prefix", "start", "end"}},
                                           {"endswith", endswith, 1, {"suffix", "start", "end"}},
                                           {"replace", jinja_replace, 2, {"old", "new", "count"}},
                                           {"find", find, 1, {"sub", "start", "end"}},
                                           {"rfind", rfind, 1, {"sub", "start", "end"}},
                                           {"index", index_of, 1, {"sub", "start", "end"}},
                                           {"rindex", rindex_of, 1, {"sub", "start", "end"}},
                                           {"count", count_of, 1, {"sub", "start", "end"}},
                                           {"join", join, 1, {"iterable"}},
                                           {"upper", jinja_upper, 0, {0}},
                                           {"lower", jinja_lower, 0, {0}},
                                           {"capitalize", jinja_capitalize, 0, {0}},
                                           {"title", title, 0, {0}},
                                           {"swapcase", swapcase, 0, {0}},
                                           {"splitlines", jinja_splitlines, 0, {"keepends"}},
                                           {"partition", partition, 1, {"sep"}},
                                           {"rpartition", rpartition, 1, {"sep"}},
                                           {"removeprefix", removeprefix, 1, {"prefix"}},
                                           {"removesuffix", removesuffix, 1, {"suffix"}},
                                           {"isalpha", isalpha_method, 0, {0}},
                                           {"isalnum", isalnum_method, 0, {0}},
                                           {"isdigit", isdigit_method, 0, {0}},
                                           {"isspace", isspace_method, 0, {0}},
                                           {"islower", jinja_is_lower, 0, {0}},
                                           {"isupper", jinja_is_upper, 0, {0}},
                                           {"ljust", ljust, 1, {"width", "fillchar"}},
                                           {"rjust", rjust, 1, {"width", "fillchar"}},
                                           {"center", center, 1, {"width", "fillchar"}},
                                           {"zfill", zfill, 1, {"width"}},
                                           {"format", format, -1, {0}},
                                           {"casefold", NULL, 0, {0}}, // from here on known and refused
                                           {"encode", NULL, 0, {0}},
                                           {"expandtabs", NULL, 0, {0}},
                                           {"format_map", NULL, 0, {0}},
                                           {"isascii", NULL, 0, {0}},
                                           {"isdecimal", NULL, 0, {0}},
                                           {"isidentifier", NULL, 0, {0}},
                                           {"isnumeric", NULL, 0, {0}},
                                           {"isprintable", NULL, 0, {0}},
                                           {"istitle", NULL, 0, {0}},
                                           {"maketrans", NULL, 0, {0}},
                                           {"translate", NULL, 0, {0}},
                                           {0}};
