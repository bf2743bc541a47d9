// io/chat_template against texts that transformers' apply_chat_template rendered: the built-in templates
// (tests/golden/chat, made by tools/make_tokenizer_golden.py) and those of model families (tests/golden/templates, made
// by tools/make_template_golden.py); and where a folder's template is looked for.
#include "io/chat_template.h"

#include "tests/io/temporary_folder.h"

#include <jansson.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#define FAMILIES TEST_DATA "/templates"
#define NOW      1767323045 // 2 January 2026, 03:04:05 UTC

static void write_file(const char *name, const char *text) {
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static json_t *load_cases(const char *path) {
    json_error_t error;
    json_t *cases = json_load_file(path, 0, &error);
    if (cases == NULL) fail_msg("%s:%d: %s", path, error.line, error.text);
    assert_true(json_array_size(cases) > 10);
    return cases;
}

static const char *text_of(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

static ChatTemplate *open_chat(const char *dir, const char *setting) {
    ChatTemplate *chat;
    error_clear();
    if (chat_template_open(&chat, dir, setting, "<s>", "</s>", NOW) != STATUS_OK) fail_msg("%s", error_text());
    return chat;
}

// The cases as lines of a file, so that they come to the template the way that rows do.
static void write_rows(const char *path, const json_t *cases) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    size_t index;
    json_t *one;
    json_array_foreach((json_t *)cases, index, one) {
        json_t *row = json_pack("{sO}", "prompt", json_object_get(one, "messages"));
        if (json_object_get(one, "tools") != NULL) json_object_set(row, "tools", json_object_get(one, "tools"));
        if (json_object_get(one, "variables") != NULL)
            json_object_set(row, "chat_template_kwargs", json_object_get(one, "variables"));
        json_dumpf(row, file, 0);
        fputc('\n', file);
        json_decref(row);
    }
    assert_int_equal(fclose(file), 0);
}

// Renders every case; `find` gives its template's setting.
static void check_cases(const char *path, void (*find)(const char *name, char setting[PATH_MAX])) {
    json_t *cases = load_cases(path), *one;
    JsonlFile rows;
    JinjaScratch scratch = {0};
    ChatTemplate *chat = NULL;
    char opened[64] = "";
    size_t index;
    int wrong = 0, rendered = 0;
    write_rows("rows.jsonl", cases);
    assert_int_equal(jsonl_open(&rows, "rows.jsonl"), STATUS_OK);
    json_array_foreach(cases, index, one) {
        char setting[PATH_MAX];
        TextOrMessages prompt;
        const char *got = NULL, *want = text_of(one, "text"); // NULL: refused
        size_t bytes;
        if (strcmp(opened, text_of(one, "template")) != 0) {
            chat_template_close(chat);
            find(text_of(one, "template"), setting);
            chat = open_chat(".", setting);
            snprintf(opened, sizeof opened, "%s", text_of(one, "template"));
        }
        error_clear();
        Status status = jsonl_prompt(&rows, (int64_t)index, &prompt);
        if (status != STATUS_OK) fail_msg("%s", error_text());
        status = chat_template_render(chat, &scratch, &prompt, NULL,
                                      json_is_true(json_object_get(one, "add_generation_prompt")), &got, &bytes);
        const bool right = want == NULL ? status == STATUS_DATA && error_text()[0] != '\0'
                                        : status == STATUS_OK && strcmp(got, want) == 0 && strlen(got) == bytes;
        if (!right) {
            fprintf(stderr, "case %zu, %s: got\n%s\nwant\n%s\n", index, opened,
                    status == STATUS_OK ? got : error_text(), want == NULL ? "a refusal" : want);
            wrong++;
        }
        rendered += want != NULL;
        jsonl_prompt_free(&prompt);
    }
    assert_int_equal(wrong, 0);
    assert_true(rendered > 50);
    chat_template_close(chat);
    jinja_scratch_free(&scratch);
    jsonl_close(&rows);
    json_decref(cases);
}

static void built_in(const char *name, char setting[PATH_MAX]) {
    snprintf(setting, PATH_MAX, "%s", name);
}

static void built_in_templates_render_as_the_models_own(void **state) {
    (void)state;
    check_cases(TEST_DATA "/chat/cases.json", built_in);
}

static void of_family(const char *name, char setting[PATH_MAX]) {
    snprintf(setting, PATH_MAX, "%s/%s.jinja", FAMILIES, name);
}

static void families_render_as_in_transformers(void **state) {
    (void)state;
    write_file("tokenizer_config.json", "{\"pad_token\": {\"content\": \"<pad>\"}, \"unk_token\": null}");
    check_cases(FAMILIES "/families.json", of_family);
    assert_int_equal(remove("tokenizer_config.json"), 0);
}

static void expect_render(const ChatTemplate *chat, const TextOrMessages *prompt, const TextOrMessages *answer,
                          Status status, const char *want) {
    JinjaScratch scratch = {0};
    const char *text;
    size_t bytes;
    error_clear();
    assert_int_equal(chat_template_render(chat, &scratch, prompt, answer, answer == NULL, &text, &bytes), status);
    assert_string_equal(status == STATUS_OK ? text : error_text(), want);
    jinja_scratch_free(&scratch);
}

static void refusals_say_why(void **state) {
    (void)state;
    Message messages[] = {{.role = "user", .content = "a"}, {.role = "tool", .content = "b"}};
    const TextOrMessages prompt = {.messages = messages, .message_count = 2};
    ChatTemplate *chat = open_chat(".", "zephyr");
    expect_render(chat, &prompt, NULL, STATUS_DATA,
                  "chat template zephyr:5: the chat template refuses the conversation: there is no role \"tool\" here; "
                  "use system, user and assistant");
    chat_template_close(chat);
    chat = open_chat(".", "llama-2");
    expect_render(chat, &prompt, NULL, STATUS_DATA,
                  "chat template llama-2:8: the chat template refuses the conversation: after an optional system "
                  "message, user and assistant must alternate; got \"tool\" as number 2");
    chat_template_close(chat);
    expect_render(NULL, &prompt, NULL, STATUS_DATA,
                  "the row has messages, but the model folder has no chat template; set data.chat_template to zephyr, "
                  "chatml or llama-2 or to a file with one, or give rows as plain text");
    error_clear();
    assert_int_equal(chat_template_open(&chat, ".", "alpaca", "", "", NOW), STATUS_USAGE);
    assert_string_equal(error_text(), "data.chat_template is \"alpaca\"; it must be auto, zephyr, chatml or llama-2, "
                                      "or a file with a template");
    write_file("own.jinja", "a\n{% nothing %}");
    error_clear();
    assert_int_equal(chat_template_open(&chat, ".", "own.jinja", "", "", NOW), STATUS_DATA);
    assert_string_equal(error_text(), "own.jinja:2: the tag 'nothing' is not supported here");
    write_file("own.jinja", "\xff");
    error_clear();
    assert_int_equal(chat_template_open(&chat, ".", "own.jinja", "", "", NOW), STATUS_DATA);
    assert_string_equal(error_text(), "own.jinja:1: is not UTF-8 text");
    assert_int_equal(remove("own.jinja"), 0);
    error_clear();
}

static void expect_folder(Status status, const char *want, json_t *tools) { // takes the reference
    Message message = {.role = "user", .content = "x"};
    const TextOrMessages prompt = {.messages = &message, .message_count = 1, .tools = tools};
    ChatTemplate *chat;
    error_clear();
    assert_int_equal(chat_template_open(&chat, ".", "auto", "", "", NOW), status);
    if (status != STATUS_OK)
        assert_string_equal(error_text(), want);
    else if (want == NULL)
        assert_null(chat);
    else
        expect_render(chat, &prompt, NULL, STATUS_OK, want);
    if (status == STATUS_OK) assert_true(chat_template_is_there(".") == (chat != NULL));
    chat_template_close(chat);
    json_decref(tools);
    error_clear();
}

static void places_in_their_order(void **state) {
    (void)state;
    expect_folder(STATUS_OK, NULL, NULL);
    write_file("tokenizer_config.json", "{\"chat_template\": null}");
    expect_folder(STATUS_OK, NULL, NULL);
    write_file("tokenizer_config.json", "{\"chat_template\": \"config {{ messages[0].content }}\"}");
    expect_folder(STATUS_OK, "config x", NULL);
    write_file("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"{{ tools }}\"}, "
                                        "{\"name\": \"default\", \"template\": \"named{{ tools }}\"}]}");
    expect_folder(STATUS_OK, "namedNone", NULL);
    expect_folder(STATUS_OK, "[1]", json_pack("[i]", 1));
    write_file("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"rag\", \"template\": \"\"}]}");
    expect_folder(STATUS_DATA,
                  "./tokenizer_config.json: there are several chat templates and none of them is \"default\"; name a "
                  "file with one by data.chat_template",
                  NULL);
    write_file("tokenizer_config.json", "{\"chat_template\": 1}");
    expect_folder(STATUS_DATA, "./tokenizer_config.json: chat_template must be a text or a list of texts with names",
                  NULL);
    write_file("tokenizer_config.json", "{\"chat_template\": \"\\n{{ x.y }}{% if %}\"}");
    expect_folder(STATUS_DATA, "./tokenizer_config.json: chat_template:2: expected an expression, found '%}'", NULL);
    write_file("chat_template.jinja", "file {{ tools }}\n");
    expect_folder(STATUS_OK, "file None", NULL);
    assert_int_equal(mkdir("additional_chat_templates", 0700), 0);
    expect_folder(STATUS_OK, "file None", NULL);
    write_file("additional_chat_templates/tool_use.jinja", "use {{ tools }}");
    expect_folder(STATUS_OK, "file None", NULL);
    expect_folder(STATUS_OK, "use []", json_array());
    assert_int_equal(remove("chat_template.jinja"), 0);
    expect_folder(STATUS_DATA,
                  ".: there are several chat templates and none of them is \"default\"; name a file with one by "
                  "data.chat_template",
                  NULL);
    write_file("additional_chat_templates/default.jinja", "other");
    expect_folder(STATUS_OK, "other", NULL);
}

// What a row brings along wins over what is there already; the answer's messages follow the prompt's.
static void rows_bring_variables(void **state) {
    (void)state;
    write_file("own.jinja", "{{ bos_token }}{{ x }}{{ messages | map(attribute='content') | join('/') }}"
                            "{{ add_generation_prompt }}{{ documents }}{{ pad_token is defined }}");
    ChatTemplate *chat = open_chat(".", "own.jinja");
    Message asked = {.role = "user", .content = "a"}, given = {.role = "assistant", .content = "b"};
    TextOrMessages prompt = {.messages = &asked, .message_count = 1};
    const TextOrMessages answer = {.messages = &given, .message_count = 1};
    expect_render(chat, &prompt, NULL, STATUS_OK, "<s>aTrueNoneFalse");
    expect_render(chat, &prompt, &answer, STATUS_OK, "<s>a/bFalseNoneFalse");
    prompt.variables = json_pack("{ss sf}", "bos_token", "B", "x", 1.0);
    expect_render(chat, &prompt, NULL, STATUS_OK, "B1.0aTrueNoneFalse");
    json_decref(prompt.variables);
    chat_template_close(chat);
    assert_false(chat_template_tells_time(NULL));
    write_file("own.jinja", "{{ strftime_now('%d %b %Y') }}");
    chat = open_chat(".", "own.jinja");
    assert_true(chat_template_tells_time(chat));
    chat_template_close(chat);
    assert_int_equal(remove("own.jinja"), 0);
}

int main(void) {
    setenv("TZ", "UTC", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(built_in_templates_render_as_the_models_own),
        cmocka_unit_test(families_render_as_in_transformers),
        cmocka_unit_test(refusals_say_why),
        cmocka_unit_test(rows_bring_variables),
        cmocka_unit_test(places_in_their_order),
    };
    return cmocka_run_group_tests(tests, enter_temporary_folder, remove_temporary_folder);
}
