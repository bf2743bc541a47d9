// Normalizers; the normal forms of Unicode by utf8proc. Reading them from tokenizer.json is io/tokenizer_json.c's.
#include "io/normalizer.h"

#include "io/unicode.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static Status no_memory(void) {
    return error_set(STATUS_FAILED, "not enough memory to normalise a text");
}

Status normalizer_add(Normalizer *normalizer, NormalizerKind kind, NormalizerStep **step) {
    NormalizerStep *grown = realloc(normalizer->step, ((size_t)normalizer->count + 1) * sizeof *grown);
    if (grown == NULL) return no_memory();
    normalizer->step = grown;
    *step = &grown[normalizer->count++];
    **step = (NormalizerStep){.kind = kind};
    return STATUS_OK;
}

void normalizer_free(Normalizer *normalizer) {
    for (int i = 0; i < normalizer->count; i++) {
        pattern_close(normalizer->step[i].pattern);
        text_buffer_free(&normalizer->step[i].content);
    }
    free(normalizer->step);
    *normalizer = (Normalizer){0};
}

// Whether the text is for certain in normal form C already: its characters are below U+0300, or ones that neither
// decompose nor combine.
static bool is_composed(const char *text, size_t bytes) {
    for (size_t i = 0, length; i < bytes; i += length) {
        uint64_t eight;
        if (bytes - i >= sizeof eight) {
            memcpy(&eight, text + i, sizeof eight);
            if ((eight & 0x8080808080808080u) == 0) {
                length = sizeof eight;
                continue;
            }
        }
        const uint32_t c = unicode_at(text + i, &length);
        if (c < 0x300) continue;
        if (c >= 0x1100 && c < 0x1200) return false; // Hangul's jamo combine by arithmetic
        const utf8proc_property_t *property = utf8proc_get_property((utf8proc_int32_t)c);
        if (property->combining_class != 0 || property->decomp_seqindex != UINT16_MAX ||
            property->comb_index != UINT16_MAX)
            return false;
    }
    return true;
}

static bool is_ascii(const char *text, size_t bytes) {
    size_t i = 0;
    while (i < bytes && (unsigned char)text[i] < 0x80) i++;
    return i == bytes;
}

// The tokenizers library knows Unicode 9. Characters that came later, and that decompose or combine since, mean nothing
// to it (its forms and utf8proc's of Unicode 15 were compared over all characters); U+11930 is one half of U+11938.
static bool is_newer(uint32_t c) {
    static const struct {
        uint32_t first, last;
    } newer[] = {{0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
                 {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
                 {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},   {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x10781, 0x10785},
                 {0x10787, 0x107B0}, {0x107B2, 0x107BA}, {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF},
                 {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E},
                 {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943},
                 {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42},
                 {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E030, 0x1E06D},
                 {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF},
                 {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9}};
    size_t low = 0, high = sizeof newer / sizeof *newer;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (newer[middle].last < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low < sizeof newer / sizeof *newer && newer[low].first <= c;
}

static Status put_mapped(const char *text, size_t bytes, utf8proc_option_t options, TextBuffer *to) {
    utf8proc_uint8_t *made = NULL;
    if (bytes == 0) return STATUS_OK;
    const utf8proc_ssize_t length =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &made, options);
    if (length < 0) return error_set(STATUS_FAILED, "a text cannot be normalised: %s", utf8proc_errmsg(length));
    Status status = text_buffer_add(to, (const char *)made, (size_t)length);
    free(made);
    return status;
}

static Status put_form(const char *text, size_t bytes, NormalizerKind kind, TextBuffer *to) {
    const bool compatible = kind == NORMALIZE_NFKC || kind == NORMALIZE_NFKD;
    const bool composed = kind == NORMALIZE_NFC || kind == NORMALIZE_NFKC;
    if (kind == NORMALIZE_NFC ? is_composed(text, bytes) : is_ascii(text, bytes))
        return text_buffer_add(to, text, bytes);
    const utf8proc_option_t options =
        UTF8PROC_STABLE | (composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compatible ? UTF8PROC_COMPAT : 0);
    size_t from = 0;
    for (size_t i = 0, length; i < bytes; i += length) {
        if (!is_newer(unicode_at(text + i, &length))) continue;
        TRY(put_mapped(text + from, i - from, options, to));
        TRY(text_buffer_add(to, text + i, length));
        from = i + length;
    }
    return put_mapped(text + from, bytes - from, options, to);
}

static Status put_replaced(const NormalizerStep *step, PatternScratch *scratch, const char *text, size_t bytes,
                           TextBuffer *to) {
    PatternSearch search = pattern_search(step->pattern, scratch, text, bytes);
    size_t from = 0;
    for (bool found = bytes > 0; found;) {
        TRY(pattern_next(&search, &found));
        if (!found) break;
        TRY(text_buffer_add(to, text + from, search.start - from));
        TRY(text_buffer_add(to, step->content.text, step->content.bytes));
        from = search.end;
    }
    return text_buffer_add(to, text + from, bytes - from);
}

static Status run_step(const NormalizerStep *step, PatternScratch *scratch, const char *text, size_t bytes,
                       TextBuffer *to) {
    to->bytes = 0;
    TRY(text_buffer_reserve(to, bytes + step->content.bytes + 1));
    switch (step->kind) {
    case NORMALIZE_PREPEND:
        if (bytes > 0) TRY(text_buffer_add(to, step->content.text, step->content.bytes));
        return text_buffer_add(to, text, bytes);
    case NORMALIZE_REPLACE:
        return put_replaced(step, scratch, text, bytes, to);
    case NORMALIZE_STRIP: {
        const size_t start = step->strip_left ? unicode_spaces_behind(text, bytes) : 0;
        const size_t end = step->strip_right ? unicode_spaces_before(text, bytes) : bytes;
        return start < end ? text_buffer_add(to, text + start, end - start) : STATUS_OK;
    }
    default:
        return put_form(text, bytes, step->kind, to);
    }
}

Status normalizer_run(const Normalizer *normalizer, PatternScratch *scratch, TextBuffer buffers[2], const char *text,
                      size_t bytes, const char **out, size_t *out_bytes) {
    for (int i = 0; i < normalizer->count; i++) {
        TextBuffer *to = &buffers[i % 2];
        TRY(run_step(&normalizer->step[i], scratch, text, bytes, to));
        text = to->text;
        bytes = to->bytes;
    }
    *out = text;
    *out_bytes = bytes;
    return STATUS_OK;
}
