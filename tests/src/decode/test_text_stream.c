// The pieces of an answer, put together, are the answer's text, and each is valid UTF-8; a character never comes in
// parts.
#include "src/decode/text_stream.h"
#include "src/base/rng.h"
#include "src/base/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static Tokenizer *tokenizer;

static bool valid_utf8(const char *text) {
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0';) {
        const int more = *p < 0x80                 ? 0
                         : *p >= 0xc2 && *p < 0xe0 ? 1
                         : *p >= 0xe0 && *p < 0xf0 ? 2
                         : *p >= 0xf0 && *p < 0xf5 ? 3
                                                   : -1;
        if (more < 0) return false;
        for (int i = 1; i <= more; i++)
            if ((p[i] & 0xc0) != 0x80) return false;
        p += 1 + more;
    }
    return true;
}

// All pieces of ids, joined. Caller frees.
static char *stream_all(const int32_t *ids, int32_t count, bool skip_newline, int32_t *pieces) {
    TextStream stream = {.tokenizer = tokenizer, .skip_newline = skip_newline};
    char *all = NULL;
    size_t size = 0;
    FILE *text = open_memstream(&all, &size);
    *pieces = 0;
    for (int32_t i = 0; i <= count; i++) {
        char *piece = NULL;
        assert_int_equal(i < count ? text_stream_add(&stream, ids[i], &piece) : text_stream_end(&stream, &piece),
                         STATUS_OK);
        assert_true(valid_utf8(piece));
        *pieces += piece[0] != '\0';
        fputs(piece, text);
        free(piece);
    }
    fclose(text);
    text_stream_free(&stream);
    return all;
}

static void texts(void **state) {
    (void)state;
    static const char *const cases[] = {"",
                                        " ",
                                        "a",
                                        "The quiet river finds a lantern.",
                                        "  two  spaces ",
                                        "line\nline\n\n",
                                        "na\u00efve \u20ac 5, \U0001f642\U0001f642 \u4e2d\u6587",
                                        "<|user|>\nmail & <b>",
                                        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
                                        "\u00e9"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t *ids = NULL, count = 0, capacity = 0, pieces;
        assert_int_equal(tokenizer_encode(tokenizer, cases[i], strlen(cases[i]), false, &ids, &count, &capacity),
                         STATUS_OK);
        char *got = stream_all(ids, count, false, &pieces);
        assert_string_equal(got, cases[i]);
        if (count > 3 && strlen(cases[i]) > 12) assert_true(pieces >= 3); // it does stream
        free(got);
        free(ids);
    }
}

// Any ids at all: the bytes among them are mostly no characters. Where they are, the text is the tokenizer's own.
static void any_ids(void **state) {
    (void)state;
    Rng rng = rng_make(3, 0, 0);
    int same = 0;
    for (int round = 0; round < 2000; round++) {
        int32_t ids[24], pieces;
        const int32_t count = 1 + (int32_t)rng_below(&rng, 24);
        const bool bytes = round % 2 == 0; // ids 3 to 258
        for (int32_t i = 0; i < count; i++)
            ids[i] = bytes && rng_below(&rng, 2) ? 3 + (int32_t)rng_below(&rng, 256)
                                                 : (int32_t)rng_below(&rng, (uint32_t)tokenizer_vocab(tokenizer));
        char *got = stream_all(ids, count, false, &pieces), *whole = NULL;
        assert_int_equal(tokenizer_decode(tokenizer, ids, count, true, &whole), STATUS_OK);
        if (strstr(whole, "\xef\xbf\xbd") == NULL) {
            assert_string_equal(got, whole);
            same++;
        }
        free(got);
        free(whole);
    }
    assert_true(same > 50); // of bytes alone few are text
}

static void newline(void **state) {
    (void)state;
    int32_t *ids = NULL, count = 0, capacity = 0, pieces;
    assert_int_equal(tokenizer_encode(tokenizer, "\nSure.\nNo.", 10, false, &ids, &count, &capacity), STATUS_OK);
    char *got = stream_all(ids, count, true, &pieces);
    assert_string_equal(got, "Sure.\nNo.");
    free(got);
    free(ids);
}

// A tokenizer of bytes, whose tokens end inside characters; and one of pieces with byte fallback.
int main(void) {
    static const char *const folders[] = {TEST_DATA "/tiny-model", TEST_DATA "/tokenizer-json/llama-3"};
    const struct CMUnitTest tests[] = {cmocka_unit_test(texts), cmocka_unit_test(any_ids), cmocka_unit_test(newline)};
    int failed = 0;
    for (int i = 0; i < 2; i++) {
        if (tokenizer_open(&tokenizer, folders[i]) != STATUS_OK) {
            fprintf(stderr, "%s\n", error_text());
            return 1;
        }
        failed += cmocka_run_group_tests_name(folders[i], tests, NULL, NULL);
        tokenizer_close(tokenizer);
    }
    return failed;
}
