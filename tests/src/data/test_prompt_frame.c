// What prompts have in common, and the prompts made of it.
#include "src/data/prompt_frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/io/temporary_folder.h"

static void write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static PromptFrame frame_of(const char *rows) {
    PromptFrame frame;
    write_file("rows.jsonl", rows);
    if (prompt_frame_of_rows(&frame, "rows.jsonl") != STATUS_OK) fail_msg("%s", error_text());
    return frame;
}

static void expect_text(const PromptFrame *frame, const char *words, const char *want) {
    TextOrMessages prompt;
    assert_int_equal(prompt_frame_fill(frame, words, &prompt), STATUS_OK);
    assert_string_equal(prompt.text, want);
    jsonl_prompt_free(&prompt);
}

static void plain(void **state) {
    (void)state;
    PromptFrame frame =
        frame_of("{\"prompt\": \"Title: One\\nReview:\"}\n{\"prompt\": \"Title: Two and a half\\nReview:\"}\n"
                 "{\"prompt\": \"Title: x\\nReview:\"}\n");
    assert_false(frame.chat);
    expect_text(&frame, "A new one", "Title: A new one\nReview:");
    char line[256];
    prompt_frame_describe(&frame, line, sizeof line);
    assert_string_equal(line, "\"Title: {title}\\nReview:\"");
    prompt_frame_free(&frame);
    frame = frame_of("{\"prompt\": \"aa\"}\n{\"prompt\": \"aaa\"}\n"); // what both ends could claim goes to the front
    expect_text(&frame, "b", "aab");
    prompt_frame_free(&frame);
    frame = frame_of("{\"prompt\": \"same\"}\n{\"prompt\": \"same\"}\n"); // nothing differs: all of it is a person's
    expect_text(&frame, "b", "b");
    prompt_frame_free(&frame);
    // Characters that begin or end with the same bytes are not cut apart.
    frame = frame_of("{\"prompt\": \"\\u00e9 one\\u00e9\"}\n{\"prompt\": \"\\u00e8 two\\u0229\"}\n");
    expect_text(&frame, "b", "b");
    prompt_frame_free(&frame);
}

static void chat(void **state) {
    (void)state;
    PromptFrame frame = frame_of(
        "{\"prompt\": [{\"role\": \"system\", \"content\": \"Be #2.\"}, {\"role\": \"user\", \"content\": \"One\"}]}\n"
        "{\"prompt\": [{\"role\": \"system\", \"content\": \"Be #2.\"}, {\"role\": \"user\", \"content\": "
        "\"Two\"}]}\n");
    assert_true(frame.chat);
    const Message talk[] = {
        {.role = "user", .content = "a"}, {.role = "assistant", .content = "b"}, {.role = "user", .content = "c"}};
    TextOrMessages prompt;
    assert_int_equal(prompt_frame_converse(&frame, talk, 3, &prompt), STATUS_OK);
    assert_int_equal(prompt.message_count, 4);
    assert_string_equal(prompt.messages[0].content, "Be #2.");
    assert_string_equal(prompt.messages[3].content, "c");
    jsonl_prompt_free(&prompt);
    const Message own[] = {{.role = "system", .content = "Be kind."}, {.role = "user", .content = "a"}};
    assert_int_equal(prompt_frame_converse(&frame, own, 2, &prompt), STATUS_OK);
    assert_int_equal(prompt.message_count, 2);
    assert_string_equal(prompt.messages[0].content, "Be kind.");
    jsonl_prompt_free(&prompt);
    assert_int_equal(prompt_frame_converse(&frame, talk, 2, &prompt), STATUS_USAGE);
    error_clear();
    prompt_frame_free(&frame);
    // Another system message a row: none of them is common.
    frame = frame_of(
        "{\"prompt\": [{\"role\": \"system\", \"content\": \"A\"}, {\"role\": \"user\", \"content\": \"One\"}]}\n"
        "{\"prompt\": [{\"role\": \"system\", \"content\": \"B\"}, {\"role\": \"user\", \"content\": \"Two\"}]}\n");
    assert_int_equal(frame.lead_count, 0);
    prompt_frame_free(&frame);
}

static void files(void **state) {
    (void)state;
    PromptFrame frame;
    write_file("frame.txt", "Review this: {title}\nScathing:");
    assert_int_equal(prompt_frame_of_file(&frame, "frame.txt"), STATUS_OK);
    expect_text(&frame, "T", "Review this: T\nScathing:");
    prompt_frame_free(&frame);
    static const char *const bad[] = {"", "no place", "{title} twice {title}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_file("frame.txt", bad[i]);
        assert_int_equal(prompt_frame_of_file(&frame, "frame.txt"), STATUS_DATA);
        assert_string_equal(error_text(), "frame.txt: must hold {title} once, where a person's words go");
        error_clear();
    }
    assert_int_equal(prompt_frame_of_file(&frame, "none.txt"), STATUS_DATA);
    error_clear();
    assert_int_equal(prompt_frame_of_rows(&frame, "none.jsonl"), STATUS_DATA);
    error_clear();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(plain), cmocka_unit_test(chat), cmocka_unit_test(files)};
    return cmocka_run_group_tests(tests, enter_temporary_folder, remove_temporary_folder);
}
