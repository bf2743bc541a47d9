// io/jsonl: rows read back exactly, line numbers, and the message of every bad row.
#include "io/jsonl.h"

#include <jansson.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define PATH "rows.jsonl" // in a folder made for the test, so that messages are short
#define BOM  "\xEF\xBB\xBF"

static char folder[64], start[4096];

static int folder_setup(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/kto-jsonl-XXXXXX");
    if (getcwd(start, sizeof start) == NULL || mkdtemp(folder) == NULL) return -1;
    return chdir(folder);
}

static int folder_teardown(void **state) {
    (void)state;
    unlink(PATH);
    return chdir(start) != 0 || rmdir(folder) != 0;
}

static void write_bytes(const char *bytes, size_t size) {
    FILE *file = fopen(PATH, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
    error_clear();
}

static void open_text(JsonlFile *file, const char *text) {
    write_bytes(text, strlen(text));
    if (jsonl_open(file, PATH) != STATUS_OK) fail_msg("%s", error_text());
}

static void forms_are_read(void **state) {
    (void)state;
    JsonlFile file;
    JsonlRow row;
    open_text(
        &file,
        "{\"prompt\": \"\", \"completion\": \" y\\n\", \"label\": true, \"id\": 123456789012345678901234567890, "
        "\"score\": NaN, \"note\": \"\\u0000\"}\n"
        "{\"label\": 0, \"weight\": 2.5, \"completion\": \"caf\\u00e9 \\ud83d\\ude00\", \"prompt\": \"\xE6\x97\xA5\"}\n"
        "{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\", \"label\": \"unread\", \"weight\": 3}\n"
        "{\"prompt\": [{\"role\": \"system\", \"content\": \"s\"}, {\"content\": \"\", \"role\": \"user\", \"x\": "
        "[]}, {\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"Spell \"}, {\"type\": \"text\", "
        "\"text\": \"cat.\"}]}], "
        "\"completion\": [{\"role\": \"assistant\", \"content\": \"a\"}], \"label\": 1, \"weight\": null, \"chosen\": "
        "null}");
    assert_int_equal(file.line_count, 4);

    assert_int_equal(jsonl_row(&file, 0, &row), STATUS_OK);
    assert_string_equal(row.prompt.text, "");
    assert_string_equal(row.completion[0].text, " y\n");
    assert_true(row.label && !row.paired && row.weight == 1.0f);
    jsonl_row_free(&row);

    assert_int_equal(jsonl_row(&file, 1, &row), STATUS_OK);
    assert_string_equal(row.prompt.text, "\xE6\x97\xA5");
    assert_string_equal(row.completion[0].text, "caf\xC3\xA9 \xF0\x9F\x98\x80");
    assert_true(!row.label && !row.paired && row.weight == 2.5f);
    jsonl_row_free(&row);

    assert_int_equal(jsonl_row(&file, 2, &row), STATUS_OK);
    assert_true(row.paired && row.weight == 3.0f);
    assert_string_equal(row.completion[0].text, "c");
    assert_string_equal(row.completion[1].text, "r");
    jsonl_row_free(&row);

    assert_int_equal(jsonl_row(&file, 3, &row), STATUS_OK);
    assert_null(row.prompt.text);
    assert_int_equal(row.prompt.message_count, 3);
    assert_string_equal(row.prompt.messages[0].role, "system");
    assert_string_equal(row.prompt.messages[1].content, "");
    assert_string_equal(row.prompt.messages[2].content, "Spell cat.");
    assert_int_equal(row.completion[0].message_count, 1);
    assert_true(row.label && !row.paired && row.weight == 1.0f);
    jsonl_row_free(&row);
    jsonl_close(&file);
}

static void lines_are_numbered_as_in_the_file(void **state) {
    (void)state;
    JsonlFile file;
    TextOrMessages prompt;
    static const char text[] = BOM "\r\n{\"prompt\": \"a\"}\r\n\n  \t\n{\"prompt\": \"b\"}\n\r\n{\"prompt\": \"c\"}";
    static const uint32_t numbers[] = {2, 5, 7};
    for (int newline = 0; newline < 2; newline++) {
        char whole[sizeof text + 1];
        snprintf(whole, sizeof whole, "%s%s", text, newline ? "\n" : "");
        open_text(&file, whole);
        assert_int_equal(file.line_count, 3);
        for (int i = 0; i < 3; i++) {
            char want[] = {(char)('a' + i), '\0'};
            assert_int_equal(file.line_number[i], numbers[i]);
            assert_int_equal(jsonl_prompt(&file, i, &prompt), STATUS_OK);
            assert_string_equal(prompt.text, want);
            jsonl_prompt_free(&prompt);
        }
        assert_int_equal(file.line_first[3], strlen(whole));
        jsonl_close(&file);
    }
}

static void a_mark_at_the_start_is_no_text(void **state) {
    (void)state;
    JsonlFile file;
    TextOrMessages prompt;
    open_text(&file, BOM "{\"prompt\": \"a\"}\n");
    assert_int_equal(jsonl_prompt(&file, 0, &prompt), STATUS_OK);
    assert_int_equal(file.line_number[0], 1);
    jsonl_prompt_free(&prompt);
    jsonl_close(&file);
}

#define FORMS "a row is {\"prompt\", \"completion\", \"label\"} or {\"prompt\", \"chosen\", \"rejected\"}"

static void bad_rows_have_one_clear_line(void **state) {
    (void)state;
    static const struct {
        const char *row, *message;
    } bad[] = {
        {"{\"prompt\": \"p\", \"completion\": \"c\", \"label\": \"yes\"}",
         "\"label\" must be true, false, 0 or 1; got \"yes\""},
        {"{\"prompt\": \"p\", \"completion\": \"c\", \"label\": 2}", "\"label\" must be true, false, 0 or 1; got 2"},
        {"{\"prompt\": \"p\", \"completion\": \"c\", \"label\": [1]}",
         "\"label\" must be true, false, 0 or 1; got [1]"},
        {"{\"prompt\": \"p\", \"completion\": \"c\"}", "missing \"label\"; " FORMS},
        {"{\"prompt\": \"p\", \"completion\": \"c\", \"label\": null}", "missing \"label\"; " FORMS},
        {"{\"prompt\": \"p\", \"label\": true}", "missing \"completion\"; " FORMS},
        {"{\"completion\": \"c\", \"label\": true}", "missing \"prompt\"; " FORMS},
        {"{\"prompt\": \"p\", \"chosen\": \"c\"}", "missing \"rejected\"; " FORMS},
        {"{\"prompt\": \"p\", \"rejected\": \"c\"}", "missing \"chosen\"; " FORMS},
        {"{\"prompt\": \"p\", \"rejected\": \"c\", \"completion\": \"d\"}",
         "has both \"completion\" and \"rejected\"; " FORMS},
        {"{}", "missing \"prompt\"; " FORMS},
        {"[1, 2]", "got [1, 2]; " FORMS},
        {"7", "got 7; " FORMS},
        {"\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"",
         "got \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...; " FORMS},
        {"{\"prompt\": 1, \"completion\": \"c\", \"label\": true}",
         "\"prompt\" must be text or a list of messages; got 1"},
        {"{\"prompt\": \"p\", \"completion\": {}, \"label\": true}",
         "\"completion\" must be text or a list of messages; got {}"},
        {"{\"prompt\": \"p\", \"completion\": \"\", \"label\": true}",
         "\"completion\" is empty; remove the row or give an answer"},
        {"{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"\"}",
         "\"rejected\" is empty; remove the row or give an answer"},
        {"{\"prompt\": [], \"completion\": [], \"label\": true}",
         "\"prompt\" is an empty list; give at least one message"},
        {"{\"prompt\": \"p\", \"completion\": [], \"label\": true}",
         "\"completion\" is an empty list; give at least one message"},
        {"{\"prompt\": \"p\", \"completion\": [{\"role\": \"assistant\", \"content\": \"c\"}], \"label\": true}",
         "\"prompt\" is text and \"completion\" is a list of messages; give both as text or both as messages"},
        {"{\"prompt\": [{\"role\": \"user\", \"content\": \"c\"}], \"chosen\": \"a\", \"rejected\": \"b\"}",
         "\"prompt\" is a list of messages and \"chosen\" is text; give both as text or both as messages"},
        {"{\"prompt\": [\"hi\"], \"completion\": \"c\", \"label\": true}",
         "message 1 of \"prompt\" must be {\"role\", \"content\"}; got \"hi\""},
        {"{\"prompt\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"user\"}], \"completion\": \"c\", "
         "\"label\": true}",
         "message 2 of \"prompt\" has no \"content\"; a message is {\"role\", \"content\"}"},
        {"{\"prompt\": [{\"content\": \"a\"}], \"completion\": \"c\", \"label\": true}",
         "message 1 of \"prompt\" has no \"role\"; a message is {\"role\", \"content\"}"},
        {"{\"prompt\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\"}]}], \"completion\": \"c\", \"label\": "
         "true}",
         "\"content\" in message 1 of \"prompt\" must be text or a list of parts {\"type\": \"text\", \"text\"}, "
         "without \\u0000; got "
         "[{\"type\": \"text\"}]"},
        {"{\"prompt\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"a\\u0000\"}]}]}",
         "\"content\" in message 1 of \"prompt\" must be text or a list of parts {\"type\": \"text\", \"text\"}, "
         "without \\u0000; got "
         "[{\"type\": \"text\", \"text\": \"a\\u0000\"}]"},
        {"{\"prompt\": \"p\", \"completion\": \"c\", \"label\": NaN}",
         "\"label\" must be true, false, 0 or 1; got NaN"},
        {"{\"prompt\": \"p\", \"completion\": \"c\", \"label\": true, \"weight\": Infinity}",
         "\"weight\" must be a number above 0; got Infinity"},
        {"{\"prompt\": \"p\", \"completion\": \"c\", \"label\": true, \"weight\": 0}",
         "\"weight\" must be a number above 0; got 0"},
        {"{\"prompt\": \"p\", \"completion\": \"c\", \"label\": true, \"weight\": -1.5}",
         "\"weight\" must be a number above 0; got -1.5"},
        {"{\"prompt\": \"p\", \"completion\": \"c\", \"label\": true, \"weight\": 1e300}",
         "\"weight\" must be a number above 0; got 1e+300"},
        {"{\"prompt\": \"p\", \"completion\": \"c\", \"label\": true, \"weight\": 1e-300}",
         "\"weight\" must be a number above 0; got 1e-300"},
        {"{\"prompt\": \"p\", \"completion\": \"c\", \"label\": true, \"weight\": true}",
         "\"weight\" must be a number above 0; got true"},
        {"{\"prompt\": \"p\",",
         "broken JSON in column 15: string or '}' expected near end of file; write one object a line"},
        {"{\"prompt\": \"p\"} x", "broken JSON in column 17: end of file expected near 'x'; write one object a line"},
        {"{'prompt': \"p\"}", "broken JSON in column 2: string or '}' expected near '''; write one object a line"},
        {"{\"prompt\": \"a\\u0000b\"}", "a text holds the character \\u0000; remove it"},
        {"{\"prompt\": \"a\xFF\"}", "invalid UTF-8 in column 13; save the file as UTF-8"},
        {"{\"prompt\": \"a\xC0\x80\"}", "invalid UTF-8 in column 13; save the file as UTF-8"},
        {"{\"prompt\": \"a\xED\xA0\x80\"}", "invalid UTF-8 in column 13; save the file as UTF-8"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        JsonlFile file;
        JsonlRow row;
        char text[512], want[512];
        snprintf(text, sizeof text, "{\"prompt\": \"p\", \"completion\": \"c\", \"label\": true}\n\n%s\n", bad[i].row);
        snprintf(want, sizeof want, PATH ":3: %s", bad[i].message);
        open_text(&file, text);
        assert_int_equal(jsonl_row(&file, 0, &row), STATUS_OK);
        jsonl_row_free(&row);
        assert_int_equal(jsonl_row(&file, 1, &row), STATUS_DATA);
        assert_string_equal(error_text(), want);
        jsonl_row_free(&row);
        jsonl_close(&file);
    }
    error_clear();
}

static void raw_nul_is_refused(void **state) {
    (void)state;
    JsonlFile file;
    JsonlRow row;
    static const char text[] = "{\"prompt\": \"a\0b\"}\n";
    write_bytes(text, sizeof text - 1);
    assert_int_equal(jsonl_open(&file, PATH), STATUS_OK);
    assert_int_equal(jsonl_row(&file, 0, &row), STATUS_DATA);
    assert_memory_equal(error_text(), PATH ":1: ", strlen(PATH ":1: "));
    jsonl_row_free(&row);
    jsonl_close(&file);
    error_clear();
}

static void prompts_need_only_a_prompt(void **state) {
    (void)state;
    JsonlFile file;
    TextOrMessages prompt;
    open_text(&file,
              "{\"prompt\": [{\"role\": \"user\", \"content\": \"a\"}], \"label\": \"x\"}\n{\"completion\": \"c\"}\n");
    assert_int_equal(jsonl_prompt(&file, 0, &prompt), STATUS_OK);
    assert_int_equal(prompt.message_count, 1);
    char *line = jsonl_sample_line(&prompt, "say \"hi\"\n", 12);
    assert_string_equal(line, "{\"prompt\": [{\"role\": \"user\", \"content\": \"a\"}], \"completion\": \"say "
                              "\\\"hi\\\"\\n\", \"step\": 12}");
    assert_int_equal(jsonl_sample_step(line, strlen(line)), 12);
    assert_int_equal(jsonl_sample_step(line, strlen(line) - 1), -1); // as a kill may leave it
    free(line);
    jsonl_prompt_free(&prompt);
    assert_int_equal(jsonl_prompt(&file, 1, &prompt), STATUS_DATA);
    assert_string_equal(error_text(), PATH ":2: missing \"prompt\"; a line is {\"prompt\": text or messages}");
    jsonl_prompt_free(&prompt);
    jsonl_close(&file);
    error_clear();
    TextOrMessages text = {.text = "p"};
    line = jsonl_sample_line(&text, "\xC3\xA9", -1);
    assert_string_equal(line, "{\"prompt\": \"p\", \"completion\": \"\xC3\xA9\"}");
    assert_int_equal(jsonl_sample_step(line, strlen(line)), -1);
    free(line);
}

static void bad_files_are_refused(void **state) {
    (void)state;
    JsonlFile file;
    error_clear();
    assert_int_equal(jsonl_open(&file, "missing.jsonl"), STATUS_DATA);
    assert_string_equal(error_text(), "missing.jsonl: No such file or directory");
    error_clear();
    assert_int_equal(jsonl_open(&file, "."), STATUS_DATA);
    assert_string_equal(error_text(), ".: is not a file; give a JSONL file");
    static const char *const empty[] = {"", "\n", " \r\n\n\t", BOM, BOM "\n"};
    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
        write_bytes(empty[i], strlen(empty[i]));
        assert_int_equal(jsonl_open(&file, PATH), STATUS_DATA);
        assert_string_equal(error_text(), PATH ": holds no row; " FORMS ", one a line");
    }
    error_clear();
}

static void an_endless_line_is_refused(void **state) {
    (void)state;
    JsonlFile file;
    JsonlRow row;
    size_t bytes = ((size_t)64 << 20) + 1;
    char *text = malloc(bytes);
    assert_non_null(text);
    memset(text, 'a', bytes);
    write_bytes(text, bytes);
    free(text);
    assert_int_equal(jsonl_open(&file, PATH), STATUS_OK);
    assert_int_equal(jsonl_row(&file, 0, &row), STATUS_DATA);
    assert_string_equal(error_text(), PATH ":1: the line is longer than 64 MiB; split it");
    jsonl_row_free(&row);
    jsonl_close(&file);
    error_clear();
}

static void texts_are_no_rows(void **state) {
    (void)state;
    JsonlFile file;
    JsonlRow row;
    char *text;
    open_text(&file, "{\"text\": \"\", \"label\": 5}\n{\"text\": \"t\", \"prompt\": \"p\", \"completion\": \"c\", "
                     "\"label\": 1}\n{\"text\": [1]}\n{\"text\": \"\\u0000\"}\n{\"text\": null}\n");
    assert_int_equal(jsonl_row_or_text(&file, 0, &row, &text), STATUS_OK);
    assert_string_equal(text, "");
    assert_null(row.prompt.text);
    free(text);
    assert_int_equal(jsonl_row_or_text(&file, 1, &row, &text), STATUS_OK);
    assert_null(text);
    assert_string_equal(row.prompt.text, "p");
    jsonl_row_free(&row);
    static const char *const messages[] = {
        PATH ":3: \"text\" must be text; got [1]", PATH ":4: a text holds the character \\u0000; remove it",
        PATH ":5: missing \"prompt\"; a row is {\"prompt\", \"completion\", \"label\"} or {\"prompt\", \"chosen\", "
             "\"rejected\"}"};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(jsonl_row_or_text(&file, 2 + i, &row, &text), STATUS_DATA);
        assert_string_equal(error_text(), messages[i]);
        assert_null(text);
        error_clear();
    }
    assert_int_equal(jsonl_row(&file, 0, &row), STATUS_DATA); // to training it is a bad row
    error_clear();
    jsonl_close(&file);
}

// A pipe gives the bytes that a file holds, though they come in pieces and need more than the first mapping.
static void standard_input_is_a_file(void **state) {
    (void)state;
    enum { LINES = 40000 };
    static const char line[] = "{\"prompt\": \"a prompt of some length\", \"completion\": \"c\", \"label\": true}\n";
    char command[PATH_MAX];
    JsonlFile file, piped;
    FILE *to = fopen(PATH, "w");
    assert_non_null(to);
    for (int i = 0; i < LINES; i++) fputs(line, to);
    assert_int_equal(fclose(to), 0);
    snprintf(command, sizeof command, "cat %s", PATH);
    FILE *from = popen(command, "r");
    const int kept = dup(STDIN_FILENO);
    assert_non_null(from);
    assert_true(kept >= 0 && dup2(fileno(from), STDIN_FILENO) >= 0);
    const Status status = jsonl_open_standard_input(&piped);
    assert_true(dup2(kept, STDIN_FILENO) >= 0 && close(kept) == 0 && pclose(from) == 0);
    assert_int_equal(status, STATUS_OK);
    assert_int_equal(jsonl_open(&file, PATH), STATUS_OK);
    assert_string_equal(piped.path, "standard input");
    assert_true(piped.size == file.size && piped.size > 2 << 20);
    assert_memory_equal(piped.bytes, file.bytes, file.size);
    assert_int_equal(piped.line_count, LINES);
    jsonl_close(&piped);
    jsonl_close(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forms_are_read),
        cmocka_unit_test(lines_are_numbered_as_in_the_file),
        cmocka_unit_test(a_mark_at_the_start_is_no_text),
        cmocka_unit_test(bad_rows_have_one_clear_line),
        cmocka_unit_test(raw_nul_is_refused),
        cmocka_unit_test(prompts_need_only_a_prompt),
        cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(an_endless_line_is_refused),
        cmocka_unit_test(texts_are_no_rows),
        cmocka_unit_test(standard_input_is_a_file),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}
