// io/tokenizer against ids and texts of transformers (tests/golden/tokenizer, made by tools/make_tokenizer_golden.py,
// and tokenizer-json, made by tools/make_tokenizer_json_golden.py), and its refusals.
#include "io/tokenizer.h"

#include <jansson.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define GOLDEN  TEST_DATA "/tokenizer"
#define JSON    TEST_DATA "/tokenizer-json"
#define THREADS 4

// A folder of links and files that lives for one test.
static char folder[PATH_MAX];

static int folder_setup(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/kto-tokenizer-XXXXXX");
    error_clear();
    return mkdtemp(folder) == NULL ? -1 : 0;
}

static int folder_teardown(void **state) {
    (void)state;
    static const char *const names[] = {"tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
                                        "added_tokens.json", "tokenizer.json"};
    char path[PATH_MAX + 64];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    error_clear();
    return rmdir(folder);
}

static void link_file(const char *from, const char *name) {
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(symlink(from, path), 0);
}

static void write_file(const char *name, const char *text) {
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static json_t *load_cases(const char *path) {
    json_error_t error;
    json_t *cases = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (cases == NULL) fail_msg("%s:%d: %s", path, error.line, error.text);
    assert_true(json_array_size(cases) > 10);
    return cases;
}

static void print_ids(const char *what, const int32_t *ids, int32_t count) {
    fprintf(stderr, "  %s:", what);
    for (int32_t i = 0; i < count; i++) fprintf(stderr, " %d", ids[i]);
    fprintf(stderr, "\n");
}

// A text as Python decoded it, with NUL as our C strings have it.
static char *expected_text(const json_t *value) {
    const char *text = json_string_value(value);
    size_t bytes = json_string_length(value), length = 0;
    char *out = malloc(3 * bytes + 1);
    assert_non_null(out);
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] != '\0')
            out[length++] = text[i];
        else {
            memcpy(out + length, "\xEF\xBF\xBD", 3);
            length += 3;
        }
    }
    out[length] = '\0';
    return out;
}

static int check_decoded(const Tokenizer *t, const json_t *one, const int32_t *ids, int32_t count) {
    int wrong = 0;
    static const char *const keys[2] = {"decoded_all", "decoded"};
    for (int skip = 0; skip < 2; skip++) {
        char *want = expected_text(json_object_get(one, keys[skip])), *got;
        assert_int_equal(tokenizer_decode(t, ids, count, skip, &got), STATUS_OK);
        if (strcmp(got, want) != 0) {
            fprintf(stderr, "%s: got \"%s\", want \"%s\"\n", keys[skip], got, want);
            print_ids("ids", ids, count);
            wrong++;
        }
        free(want);
        free(got);
    }
    return wrong;
}

// The pieces say, one behind the other, what the ids say together, but for a blank that only a text's first token has
// and for bytes that are no character.
static int check_pieces(const Tokenizer *t, const json_t *one, const int32_t *ids, int32_t count) {
    const char *want = json_string_value(json_object_get(one, "decoded_all"));
    const size_t want_bytes = json_string_length(json_object_get(one, "decoded_all"));
    char *all = malloc(64 * want_bytes + 64 * (size_t)count + 1);
    size_t bytes = 0;
    assert_non_null(all);
    for (int32_t i = 0; i < count; i++) {
        char *text;
        size_t length;
        assert_int_equal(tokenizer_piece_text(t, ids[i], &text, &length), STATUS_OK);
        memcpy(all + bytes, text, length);
        bytes += length;
        free(text);
    }
    const bool blank = bytes == want_bytes + 1 && all[0] == ' ';
    const bool same = bytes - blank == want_bytes && memcmp(all + blank, want, want_bytes) == 0;
    const bool broken = strstr(want, "\xEF\xBF\xBD") != NULL;
    if (!same && !broken) fprintf(stderr, "pieces: got \"%.*s\", want \"%s\"\n", (int)bytes, all, want);
    free(all);
    return !same && !broken;
}

// Each case's ids and, where it has a text, that encoding gives them.
static int count_wrong(const Tokenizer *t, const json_t *cases) {
    int wrong = 0;
    int32_t *got = NULL, capacity = 0;
    size_t index;
    json_t *one;
    json_array_foreach(cases, index, one) {
        const json_t *list = json_object_get(one, "ids"), *text = json_object_get(one, "text");
        int32_t want_count = (int32_t)json_array_size(list);
        int32_t *want = calloc((size_t)want_count + 1, sizeof *want);
        assert_non_null(want);
        for (int32_t i = 0; i < want_count; i++) want[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
        if (text != NULL) {
            int32_t count = 0;
            assert_int_equal(
                tokenizer_encode(t, json_string_value(text), json_string_length(text), true, &got, &count, &capacity),
                STATUS_OK);
            if (count != want_count || (count > 0 && memcmp(got, want, (size_t)count * sizeof *got) != 0)) {
                fprintf(stderr, "case %zu, \"%s\":\n", index, json_string_value(text));
                print_ids("got ", got, count);
                print_ids("want", want, want_count);
                wrong++;
            }
        }
        wrong += check_decoded(t, one, want, want_count) + check_pieces(t, one, want, want_count);
        free(want);
    }
    free(got);
    return wrong;
}

static void check_cases(const char *dir, const char *path) {
    Tokenizer *t;
    if (tokenizer_open(&t, dir) != STATUS_OK) fail_msg("%s", error_text());
    json_t *cases = load_cases(path);
    assert_int_equal(count_wrong(t, cases), 0);
    json_decref(cases);
    tokenizer_close(t);
}

static void ids_and_texts_are_pythons(void **state) {
    (void)state;
    check_cases(GOLDEN, GOLDEN "/cases.json");
}

static void any_ids_decode_as_pythons(void **state) {
    (void)state;
    check_cases(GOLDEN, GOLDEN "/decode.json");
}

static void added_tokens_are_pythons(void **state) {
    (void)state;
    link_file(GOLDEN "/tokenizer.model", "tokenizer.model");
    link_file(GOLDEN "/added/tokenizer_config.json", "tokenizer_config.json");
    check_cases(folder, GOLDEN "/added/cases.json");
}

// One folder for each kind of tokenizer.json.
static void every_tokenizer_json_is_transformers(void **state) {
    (void)state;
    static const char *const kinds[] = {
        "llama-3",          "gpt-2", "qwen",       "tekken", "deepseek", "llama-2", "metaspace-first",
        "metaspace-always", "gemma", "characters", "added"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char dir[PATH_MAX], path[PATH_MAX + 16];
        print_message("%s\n", kinds[i]);
        snprintf(dir, sizeof dir, JSON "/%s", kinds[i]);
        snprintf(path, sizeof path, "%s/cases.json", dir);
        check_cases(dir, path);
    }
}

// Where a folder has both files the ids are those of tokenizer.json.
static void tokenizer_json_goes_first(void **state) {
    (void)state;
    link_file(GOLDEN "/tokenizer.model", "tokenizer.model");
    link_file(JSON "/llama-3/tokenizer.json", "tokenizer.json");
    link_file(JSON "/llama-3/tokenizer_config.json", "tokenizer_config.json");
    check_cases(folder, JSON "/llama-3/cases.json");
}

// Cases for another model, by hand: tools/make_tokenizer_golden.py --model FILE --out DIR, with the model in DIR.
static void another_model_is_pythons(void **state) {
    (void)state;
    const char *dir = getenv("KTO_TEST_TOKENIZER");
    if (dir == NULL) {
        print_message("skipped: KTO_TEST_TOKENIZER names no folder with tokenizer.model, cases.json and decode.json\n");
        skip();
        return;
    }
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/cases.json", dir);
    check_cases(dir, path);
    snprintf(path, sizeof path, "%s/decode.json", dir);
    check_cases(dir, path);
}

static void names_and_sizes(void **state) {
    (void)state;
    Tokenizer *t, *other;
    link_file(GOLDEN "/tokenizer.model", "tokenizer.model");
    assert_int_equal(tokenizer_open(&t, folder), STATUS_OK); // without any JSON beside it
    assert_int_equal(tokenizer_vocab(t), 1000);
    assert_int_equal(tokenizer_bos(t), 1);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_string_equal(tokenizer_bos_text(t), "<s>");
    assert_string_equal(tokenizer_eos_text(t), "</s>");
    uint64_t hash = tokenizer_hash(t);
    tokenizer_close(t);
    assert_int_equal(tokenizer_open(&t, folder), STATUS_OK);
    assert_true(tokenizer_hash(t) == hash);
    tokenizer_close(t);
    write_file("added_tokens.json", "{\"<|end|>\": 1003}");
    write_file("special_tokens_map.json", "{\"eos_token\": {\"content\": \"<|end|>\"}, \"bos_token\": null}");
    assert_int_equal(tokenizer_open(&other, folder), STATUS_OK);
    assert_int_equal(tokenizer_vocab(other), 1004);
    assert_int_equal(tokenizer_eos(other), 1003);
    assert_int_equal(tokenizer_bos(other), -1);
    assert_string_equal(tokenizer_bos_text(other), "");
    assert_true(tokenizer_hash(other) != hash);
    int32_t *ids = NULL, count = 0, capacity = 0;
    assert_int_equal(tokenizer_encode(other, "<|end|>", 7, true, &ids, &count, &capacity), STATUS_OK);
    assert_int_equal(count, 1);
    assert_int_equal(ids[0], 1003);
    // Ids are appended.
    assert_int_equal(tokenizer_encode(other, "</s>", 4, false, &ids, &count, &capacity), STATUS_OK);
    assert_int_equal(count, 2);
    assert_int_equal(ids[1], 2);
    free(ids);
    tokenizer_close(other);
}

static void *encode_in_thread(void *tokenizer) {
    json_t *cases = load_cases(GOLDEN "/cases.json");
    intptr_t wrong = 0;
    for (int i = 0; i < 3; i++) wrong += count_wrong(tokenizer, cases);
    json_decref(cases);
    return (void *)wrong;
}

static void threads_share_a_tokenizer(void **state) {
    (void)state;
    Tokenizer *t;
    pthread_t thread[THREADS];
    assert_int_equal(tokenizer_open(&t, GOLDEN), STATUS_OK);
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&thread[i], NULL, encode_in_thread, t), 0);
    for (int i = 0; i < THREADS; i++) {
        void *wrong;
        assert_int_equal(pthread_join(thread[i], &wrong), 0);
        assert_null(wrong);
    }
    tokenizer_close(t);
}

// Whatever the bytes, encoding gives ids of the vocabulary and reads nothing outside.
static void broken_utf8_is_survived(void **state) {
    (void)state;
    Tokenizer *t;
    assert_int_equal(tokenizer_open(&t, GOLDEN), STATUS_OK);
    uint32_t seed = 1;
    int32_t *ids = NULL, capacity = 0;
    for (int i = 0; i < 2000; i++) {
        size_t bytes = (size_t)(i % 40);
        char *text = malloc(bytes + 1);
        assert_non_null(text);
        for (size_t k = 0; k < bytes; k++) {
            seed = seed * 1664525u + 1013904223u;
            text[k] = (char)(seed >> (i % 2 ? 24 : 25));
        }
        int32_t count = 0;
        assert_int_equal(tokenizer_encode(t, text, bytes, false, &ids, &count, &capacity), STATUS_OK);
        for (int32_t k = 0; k < count; k++) assert_in_range(ids[k], 0, 999);
        free(text);
    }
    free(ids);
    tokenizer_close(t);
}

static void refuse(const char *config, const char *added, const char *message) {
    Tokenizer *t;
    char want[PATH_MAX + 1100];
    error_clear();
    if (config != NULL) write_file("tokenizer_config.json", config);
    if (added != NULL) write_file("added_tokens.json", added);
    assert_int_equal(tokenizer_open(&t, folder), STATUS_DATA);
    assert_null(t);
    snprintf(want, sizeof want, "%s/%s", folder, message);
    assert_string_equal(error_text(), want);
}

// As transformers 5.24 writes it for a tokenizer without a limit.
static void no_limit_is_no_fault(void **state) {
    (void)state;
    link_file(GOLDEN "/tokenizer.model", "tokenizer.model");
    write_file("tokenizer_config.json",
               "{\"tokenizer_class\": \"LlamaTokenizer\", \"add_bos_token\": true, \"add_eos_token\": false, "
               "\"bos_token\": \"<s>\", \"eos_token\": \"</s>\", \"unk_token\": \"<unk>\", \"legacy\": false, "
               "\"model_max_length\": 1000000000000000019884624838656}");
    Tokenizer *t;
    if (tokenizer_open(&t, folder) != STATUS_OK) fail_msg("%s", error_text());
    assert_string_equal(tokenizer_eos_text(t), "</s>");
    tokenizer_close(t);
}

static void bad_folders_are_refused(void **state) {
    (void)state;
    Tokenizer *t;
    char want[PATH_MAX + 1100];
    assert_int_equal(tokenizer_open(&t, folder), STATUS_DATA);
    snprintf(want, sizeof want,
             "%s: has neither tokenizer.json nor tokenizer.model; AutoTokenizer of transformers writes a "
             "tokenizer.json by save_pretrained",
             folder);
    assert_string_equal(error_text(), want);
    write_file("tokenizer.model", "not a model");
    refuse(NULL, NULL, "tokenizer.model: is not a SentencePiece model");
}

// A tokenizer.json of these parts; NULL stands for what is right.
static void refuse_json(const char *parts, const char *model, const char *message) {
    char text[4096], want[1024];
    snprintf(text, sizeof text, "{\"version\": \"1.0\", %s \"model\": {\"type\": \"BPE\", %s}}",
             parts == NULL ? "" : parts,
             model == NULL ? "\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]" : model);
    write_file("tokenizer.json", text);
    snprintf(want, sizeof want, "tokenizer.json: %s", message);
    refuse(NULL, NULL, want);
}

static void bad_parts_are_refused(void **state) {
    (void)state;
    write_file("tokenizer_config.json", "{\"eos_token\": \"a\"}");
    refuse_json("\"normalizer\": {\"type\": \"Lowercase\"},", NULL,
                "normalizer.type is \"Lowercase\", which is not supported; known are NFC, NFD, NFKC, NFKD, Prepend, "
                "Replace, Strip and Sequence");
    refuse_json("\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\"}, {\"type\": "
                "\"Whitespace\"}]},",
                NULL,
                "pre_tokenizer.pretokenizers[1].type is \"Whitespace\", which is not supported; known are Split, "
                "ByteLevel, Digits, Metaspace and Sequence");
    refuse_json("\"pre_tokenizer\": {\"type\": \"Digits\", \"individual\": true},", NULL,
                "pre_tokenizer.individual is not known; a tokenizer with it is not supported");
    refuse_json("\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"ByteLevel\"}, {\"type\": "
                "\"Digits\"}]},",
                NULL, "pre_tokenizer.pretokenizers[1].type is \"Digits\" behind ByteLevel, which must be the last");
    refuse_json(
        "\"decoder\": {\"type\": \"WordPiece\"},", NULL,
        "decoder.type is \"WordPiece\", which is not supported; known are ByteLevel, ByteFallback, Fuse, Strip, "
        "Replace, Metaspace and Sequence");
    refuse_json("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"Sequence\": {\"id\": \"A\"}}, "
                "{\"SpecialToken\": {\"id\": \"a\"}}], \"special_tokens\": {}},",
                NULL, "post_processor.single puts \"a\" behind a text, which is not supported");
    refuse_json("\"extra\": 1,", NULL, "extra is not known; a tokenizer with it is not supported");
    refuse_json("\"added_tokens\": [{\"id\": 7, \"content\": \"x\"}],", NULL,
                "added_tokens[0]: added token \"x\" has the id 7, but its place gives it 3");
    refuse_json(NULL, "\"vocab\": {\"a\": 0}, \"merges\": [], \"dropout\": 0.1",
                "model.dropout makes tokens by chance, which is not supported; set it to null");
    refuse_json(NULL, "\"vocab\": {\"a\": 0}, \"merges\": [], \"end_of_word_suffix\": \"</w>\"",
                "model.end_of_word_suffix is not empty, which is not supported");
}

static void bad_tables_are_refused(void **state) {
    (void)state;
    write_file("tokenizer_config.json", "{\"eos_token\": \"a\"}");
    refuse_json(NULL, "\"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": [\"a b\"]",
                "model.merges[0]: makes \"ab\", which model.vocab does not have");
    refuse_json(NULL, "\"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": [[\"a\", \"c\"]]",
                "model.merges[0]: merges \"c\", which model.vocab does not have");
    refuse_json(NULL, "\"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]",
                "model.merges[0] is neither \"left right\" nor [\"left\", \"right\"]");
    refuse_json(NULL, "\"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []",
                "model.vocab: \"b\" and \"a\" both have the id 0");
    refuse_json(NULL, "\"vocab\": {\"a\": 0, \"a\": 1}, \"merges\": []", "model.vocab has \"a\" twice");
    refuse_json(NULL, "\"vocab\": {\"a\": 16000000}, \"merges\": []",
                "model.vocab: \"a\" has the id 16000000, which is beyond its 1 tokens");
    refuse_json(NULL, "\"vocab\": {\"a\": -1}, \"merges\": []",
                "model.vocab: \"a\" has the id -1, which is beyond its 1 tokens");
    refuse_json(NULL, "\"vocab\": {\"a\": \"0\"}, \"merges\": []", "model.vocab: the id of entry 0 is no integer");
    refuse_json(NULL, "\"vocab\": [[\"a\", -1.5]], \"unk_id\": 0",
                "model.unk_id is not known; a tokenizer with it is not supported");
    refuse_json(NULL, "\"merges\": []", "model.vocab is missing or empty");
    write_file("tokenizer.json", "{\"model\": {\"type\": \"Unigram\", \"unk_id\": 0, \"vocab\": [[\"a\", -1.5]]}}");
    refuse(NULL, NULL, "tokenizer.json: model.type is \"Unigram\", which is not supported; known are BPE alone");
    write_file("tokenizer.json", "{\n\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\"");
    refuse(NULL, NULL, "tokenizer.json:2: broken JSON: ':' expected near end of file");
}

static void refuse_regex(const char *regex, const char *message) {
    char parts[512], want[512];
    snprintf(parts, sizeof parts,
             "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"%s\"}, \"behavior\": \"Isolated\", "
             "\"invert\": false},",
             regex);
    snprintf(want, sizeof want, "pre_tokenizer.pattern: the regular expression %s", message);
    refuse_json(parts, NULL, want);
}

static void bad_patterns_are_refused(void **state) {
    (void)state;
    write_file("tokenizer_config.json", "{\"eos_token\": \"a\"}");
    refuse_regex("a(b", "a(b cannot be used: missing closing parenthesis");
    refuse_regex("ab)", "ab) has ) at byte 2, which is not supported");
    refuse_regex("\\\\bx", "\\bx has \\b at byte 0, which is not supported");
    refuse_regex("[a&&b]", "[a&&b] has && at byte 2, which is not supported");
    refuse_regex("[[:alpha:]]", "[[:alpha:]] has [ at byte 1, which is not supported");
    refuse_regex("(a)\\\\1", "(a)\\1 has \\1 at byte 3, which is not supported");
    refuse_regex("(?<n>a)", "(?<n>a) has (?< at byte 0, which is not supported");
    refuse_regex("a{2}?", "a{2}? has {2}? at byte 1, which is not supported");
    refuse_regex("\\\\p{Klingon}", "\\p{Klingon} cannot be used: unknown property after \\P or \\p");
    refuse_regex("\\\\h+", "\\h+ has \\h at byte 0, which is not supported");
}

// A regular expression that goes back without end is stopped, and the text's error says so.
static void running_away_is_stopped(void **state) {
    (void)state;
    Tokenizer *t;
    write_file("tokenizer_config.json", "{\"eos_token\": \"e\"}");
    write_file("tokenizer.json",
               "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"e\": 0}, \"merges\": []}, \"pre_tokenizer\": {\"type\": "
               "\"Split\", \"pattern\": {\"Regex\": \"(a|aa|a+)+$\"}, \"behavior\": \"Isolated\", \"invert\": false}}");
    assert_int_equal(tokenizer_open(&t, folder), STATUS_OK);
    const char *text = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!";
    int32_t *ids = NULL, count = 0, capacity = 0;
    assert_int_equal(tokenizer_encode(t, text, strlen(text), false, &ids, &count, &capacity), STATUS_DATA);
    assert_non_null(strstr(error_text(), "pre_tokenizer.pattern: the regular expression (a|aa|a+)+$ takes too many "
                                         "steps on a text of 90 bytes"));
    free(ids);
    tokenizer_close(t);
}

static void bad_configs_are_refused(void **state) {
    (void)state;
    link_file(GOLDEN "/tokenizer.model", "tokenizer.model");
    refuse("{\n\"a\": }", NULL, "tokenizer_config.json:2: broken JSON: unexpected token near '}'");
    refuse("[]", NULL, "tokenizer_config.json:1: holds no JSON object");
    refuse("{\"add_eos_token\": true}", NULL,
           "tokenizer_config.json: add_eos_token is true, which is not supported; set it to false");
    refuse("{\"eos_token\": \"<end>\"}", NULL,
           "tokenizer_config.json: eos_token is \"<end>\", which is not in the vocabulary");
    refuse("{\"eos_token\": null}", NULL,
           "tokenizer_config.json: there is no eos_token; name the token that ends an answer");
    refuse("{\"added_tokens_decoder\": {\"x1\": {\"content\": \"<x>\"}}}", NULL,
           "tokenizer_config.json: added_tokens_decoder has the key \"x1\", which is no token id");
    refuse("{\"added_tokens_decoder\": {\"1000\": {}}}", NULL,
           "tokenizer_config.json: added token 1000 has no usable text");
    refuse("{\"added_tokens_decoder\": {\"99999999999\": {\"content\": \"<x>\"}}}", NULL,
           "tokenizer_config.json: added token \"<x>\" has the id 99999999999; ids are 0 to 66535");
    refuse("{\"added_tokens_decoder\": {\"1\": {\"content\": \"<x>\"}}}", NULL,
           "tokenizer_config.json: added token \"<x>\" has the id 1, which is already \"<s>\"");
    refuse("{\"eos_token\": \"</s>\\u0000\"}", NULL, "tokenizer_config.json: eos_token must be text");
    refuse("{}", "{\"<x>\": 18446744073709551617}", "added_tokens.json: the id of \"<x>\" must be an integer");
    refuse("{}", "{\"<x>\": \"1000\"}", "added_tokens.json: the id of \"<x>\" must be an integer");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_and_texts_are_pythons),
        cmocka_unit_test(any_ids_decode_as_pythons),
        cmocka_unit_test_setup_teardown(added_tokens_are_pythons, folder_setup, folder_teardown),
        cmocka_unit_test(every_tokenizer_json_is_transformers),
        cmocka_unit_test_setup_teardown(tokenizer_json_goes_first, folder_setup, folder_teardown),
        cmocka_unit_test(another_model_is_pythons),
        cmocka_unit_test_setup_teardown(names_and_sizes, folder_setup, folder_teardown),
        cmocka_unit_test(threads_share_a_tokenizer),
        cmocka_unit_test(broken_utf8_is_survived),
        cmocka_unit_test_setup_teardown(no_limit_is_no_fault, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(bad_folders_are_refused, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(bad_parts_are_refused, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(bad_tables_are_refused, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(bad_patterns_are_refused, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(running_away_is_stopped, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(bad_configs_are_refused, folder_setup, folder_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
