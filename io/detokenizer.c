// Decoders. Reading them from tokenizer.json is io/tokenizer_json.c's; which tokens are left out, io/tokenizer.c's.
#include "io/detokenizer.h"

#include "io/unicode.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static Status no_memory(void) {
    return error_set(STATUS_FAILED, "not enough memory to decode tokens");
}

Status detokenizer_add(Detokenizer *d, DecoderKind kind, DecoderStep **step) {
    DecoderStep *grown = realloc(d->step, ((size_t)d->count + 1) * sizeof *grown);
    if (grown == NULL) return no_memory();
    d->step = grown;
    *step = &grown[d->count++];
    **step = (DecoderStep){.kind = kind};
    return STATUS_OK;
}

void detokenizer_free(Detokenizer *d) {
    for (int i = 0; i < d->count; i++) {
        pattern_close(d->step[i].pattern);
        text_buffer_free(&d->step[i].content);
    }
    free(d->step);
    *d = (Detokenizer){0};
}

// ---- lists of texts ----

// Ends the text that was put at the end of `all`.
static Status texts_end(Texts *texts) {
    if (texts->count == texts->room) {
        const size_t room = 2 * texts->room + 16;
        size_t *grown = realloc(texts->end, room * sizeof *grown);
        if (grown == NULL) return no_memory();
        texts->end = grown;
        texts->room = room;
    }
    texts->end[texts->count++] = texts->all.bytes;
    return STATUS_OK;
}

Status texts_add(Texts *texts, const char *text, size_t bytes) {
    TRY(text_buffer_add(&texts->all, text, bytes));
    return texts_end(texts);
}

void texts_free(Texts *texts) {
    text_buffer_free(&texts->all);
    free(texts->end);
    *texts = (Texts){0};
}

static const char *text_of(const Texts *texts, size_t i, size_t *bytes) {
    const size_t start = i == 0 ? 0 : texts->end[i - 1];
    *bytes = texts->end[i] - start;
    return *bytes == 0 ? "" : texts->all.text + start;
}

// ---- bytes ----

// The byte that a character of the byte-level alphabet stands for (GPT-2's bytes_to_unicode): printable ones stand for
// themselves, the others in order from U+0100 on. -1 for other characters.
static int alphabet_byte(uint32_t c) {
    if ((c >= '!' && c <= '~') || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF)) return (int)c;
    if (c < 0x100 || c > 0x143) return -1;
    const uint32_t k = c - 0x100; // 33 from 0 on, 34 from 0x7F on, 0xAD
    return (int)(k < 33 ? k : k < 67 ? k - 33 + 0x7F : 0xAD);
}

bool byte_level_decode(const char *text, size_t bytes, char *to, size_t *length) {
    *length = 0;
    for (size_t i = 0, step; i < bytes; i += step) {
        const int byte = alphabet_byte(unicode_at(text + i, &step));
        if (byte < 0) return false;
        to[(*length)++] = (char)byte;
    }
    return true;
}

// How many bytes begin a character that is cut short or broken: they become one U+FFFD (Unicode 15.0, table 3-8).
static size_t broken_bytes(const char *text, size_t bytes) {
    const unsigned char *c = (const unsigned char *)text;
    const size_t length = c[0] < 0xC2 || c[0] > 0xF4 ? 1 : unicode_length(text[0]);
    const unsigned char low = c[0] == 0xE0 ? 0xA0 : c[0] == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = c[0] == 0xED ? 0x9F : c[0] == 0xF4 ? 0x8F : 0xBF;
    if (length == 1 || bytes == 1 || c[1] < low || c[1] > high) return 1;
    size_t n = 2;
    while (n < length && n < bytes && (c[n] & 0xC0) == 0x80) n++;
    return n;
}

static Status put_well_formed(const char *text, size_t bytes, TextBuffer *to) {
    for (size_t i = 0; i < bytes;) {
        const size_t valid = unicode_valid(text + i, bytes - i);
        TRY(text_buffer_add(to, text + i, valid));
        i += valid;
        if (i == bytes) break;
        TRY(text_buffer_add(to, REPLACEMENT, REPLACEMENT_BYTES));
        i += broken_bytes(text + i, bytes - i);
    }
    return STATUS_OK;
}

// ---- the steps ----

static Status put_bytes(const char *text, size_t bytes, TextBuffer *to) {
    size_t length;
    TRY(text_buffer_reserve(to, bytes));
    if (!byte_level_decode(text, bytes, to->text + to->bytes, &length))
        return text_buffer_add(to, text, bytes); // an added token that is no byte-level text
    to->bytes += length;
    return STATUS_OK;
}

static Status byte_level(const Texts *from, Texts *to) {
    TextBuffer raw = {0};
    Status status = STATUS_OK;
    for (size_t i = 0, bytes; i < from->count && status == STATUS_OK; i++) {
        const char *text = text_of(from, i, &bytes);
        status = put_bytes(text, bytes, &raw);
    }
    if (status == STATUS_OK) status = put_well_formed(raw.text, raw.bytes, &to->all);
    text_buffer_free(&raw);
    return status != STATUS_OK ? status : texts_end(to);
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

// The byte that "<0x0A>" names, -1 for other texts.
static int fallback_byte(const char *text, size_t bytes) {
    if (bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    const int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

// A run of bytes, which stands at the end of `to` from `start` on: one text when it is well-formed as a whole, else as
// many U+FFFD.
static Status end_byte_run(Texts *to, size_t start) {
    const size_t bytes = to->all.bytes - start;
    if (bytes == 0) return STATUS_OK;
    if (unicode_valid(to->all.text + start, bytes) == bytes) return texts_end(to);
    to->all.bytes = start;
    for (size_t i = 0; i < bytes; i++) TRY(texts_add(to, REPLACEMENT, REPLACEMENT_BYTES));
    return STATUS_OK;
}

static Status byte_fallback(const Texts *from, Texts *to) {
    size_t start = 0;
    for (size_t i = 0, bytes; i < from->count; i++) {
        const char *text = text_of(from, i, &bytes);
        const int byte = fallback_byte(text, bytes);
        if (byte >= 0) {
            const char c = (char)byte;
            TRY(text_buffer_add(&to->all, &c, 1));
            continue;
        }
        TRY(end_byte_run(to, start));
        TRY(texts_add(to, text, bytes));
        start = to->all.bytes;
    }
    return end_byte_run(to, start);
}

static Status strip(const DecoderStep *step, const char *text, size_t bytes, Texts *to) {
    const size_t one = step->content.bytes;
    for (int i = 0; i < step->left && bytes >= one && memcmp(text, step->content.text, one) == 0; i++) {
        text += one;
        bytes -= one;
    }
    for (int i = 0; i < step->right && bytes >= one && memcmp(text + bytes - one, step->content.text, one) == 0; i++)
        bytes -= one;
    return texts_add(to, text, bytes);
}

static Status replace(const DecoderStep *step, PatternScratch *scratch, const char *text, size_t bytes, bool drop,
                      Texts *to) {
    PatternSearch search = pattern_search(step->pattern, scratch, text, bytes);
    size_t from = 0;
    for (bool found = bytes > 0; found;) {
        TRY(pattern_next(&search, &found));
        if (!found) break;
        TRY(text_buffer_add(&to->all, text + from, search.start - from));
        if (!drop) TRY(text_buffer_add(&to->all, step->content.text, step->content.bytes));
        from = search.end;
    }
    return texts_add(to, text + from, bytes - from);
}

static Status run_step(const DecoderStep *step, PatternScratch *scratch, const Texts *from, Texts *to) {
    if (step->kind == DECODE_BYTE_LEVEL) return byte_level(from, to);
    if (step->kind == DECODE_BYTE_FALLBACK) return byte_fallback(from, to);
    if (step->kind == DECODE_FUSE) return texts_add(to, from->all.text, from->all.bytes);
    for (size_t i = 0, bytes; i < from->count; i++) {
        const char *text = text_of(from, i, &bytes);
        const bool drop = step->kind == DECODE_METASPACE && i == 0 && step->prepend != PREPEND_NEVER;
        TRY(step->kind == DECODE_STRIP ? strip(step, text, bytes, to) : replace(step, scratch, text, bytes, drop, to));
    }
    return STATUS_OK;
}

// As a C string, which no NUL can stand in.
static Status finish(const Texts *texts, bool spaces, char **out) {
    TextBuffer made = {0};
    Status status = text_buffer_reserve(&made, texts->all.bytes + texts->count + 1);
    for (size_t i = 0, bytes; i < texts->count && status == STATUS_OK; i++) {
        const char *text = text_of(texts, i, &bytes);
        if (spaces && i > 0) status = text_buffer_add(&made, " ", 1);
        for (size_t from = 0; from <= bytes && status == STATUS_OK;) {
            const char *nul = memchr(text + from, '\0', bytes - from);
            const size_t end = nul == NULL ? bytes : (size_t)(nul - text);
            status = text_buffer_add(&made, text + from, end - from);
            if (nul != NULL && status == STATUS_OK) status = text_buffer_add(&made, REPLACEMENT, REPLACEMENT_BYTES);
            from = end + 1;
        }
    }
    if (status == STATUS_OK) status = text_buffer_add(&made, "", 1);
    if (status == STATUS_OK)
        *out = made.text;
    else
        text_buffer_free(&made);
    return status;
}

Status detokenizer_run(const Detokenizer *d, PatternScratch *scratch, Texts *texts, char **out) {
    *out = NULL;
    for (int i = 0; i < d->count; i++) {
        Texts next = {0};
        Status status = run_step(&d->step[i], scratch, texts, &next);
        texts_free(texts);
        *texts = next;
        TRY(status);
    }
    return finish(texts, d->count == 0, out);
}

static Status run_token_step(const DecoderStep *step, PatternScratch *scratch, const Texts *from, Texts *to) {
    size_t bytes;
    const char *text = text_of(from, 0, &bytes);
    const int byte = step->kind == DECODE_BYTE_FALLBACK ? fallback_byte(text, bytes) : -1;
    const char c = (char)byte;
    if (byte >= 0) return texts_add(to, &c, 1);
    if (step->kind == DECODE_REPLACE || step->kind == DECODE_METASPACE)
        return replace(step, scratch, text, bytes, false, to);
    if (step->kind != DECODE_BYTE_LEVEL) return texts_add(to, text, bytes); // the others are about a text's ends
    TRY(put_bytes(text, bytes, &to->all));
    return texts_end(to);
}

Status detokenizer_token(const Detokenizer *d, PatternScratch *scratch, const char *text, size_t bytes,
                         TextBuffer *out) {
    Texts texts = {0};
    Status status = texts_add(&texts, text, bytes);
    for (int i = 0; i < d->count && status == STATUS_OK; i++) {
        Texts next = {0};
        status = run_token_step(&d->step[i], scratch, &texts, &next);
        texts_free(&texts);
        texts = next;
    }
    if (status == STATUS_OK) status = text_buffer_add(out, texts.all.text, texts.all.bytes);
    texts_free(&texts);
    return status;
}
