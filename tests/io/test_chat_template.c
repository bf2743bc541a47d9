// io/chat_template against texts that transformers' apply_chat_template rendered (tests/golden/chat, made by
// tools/make_tokenizer_golden.py), and the recognition of templates.
#include "io/chat_template.h"

#include <jansson.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define GOLDEN TEST_DATA "/chat"

static char folder[PATH_MAX];

static int folder_setup(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/kto-chat-XXXXXX");
    error_clear();
    return mkdtemp(folder) == NULL ? -1 : 0;
}

static int folder_teardown(void **state) {
    (void)state;
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/chat_template.jinja", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    unlink(path);
    error_clear();
    return rmdir(folder);
}

static void write_file(const char *name, const char *text) {
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void write_config(json_t *chat_template) { // takes the reference
    json_t *config = json_pack("{so}", "chat_template", chat_template);
    assert_non_null(config);
    char *text = json_dumps(config, 0);
    write_file("tokenizer_config.json", text);
    free(text);
    json_decref(config);
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

static void texts_are_those_of_jinja(void **state) {
    (void)state;
    json_t *cases = load_cases(GOLDEN "/cases.json"), *one;
    size_t index;
    int wrong = 0;
    json_array_foreach(cases, index, one) {
        ChatTemplate chat;
        assert_int_equal(chat_template_find("", text_of(one, "template"), &chat), STATUS_OK);
        assert_string_equal(chat_template_name(chat), text_of(one, "template"));
        const json_t *list = json_object_get(one, "messages");
        int count = (int)json_array_size(list);
        Message messages[16];
        assert_in_range(count, 1, 16);
        for (int i = 0; i < count; i++) {
            const json_t *m = json_array_get(list, (size_t)i);
            messages[i] = (Message){(char *)text_of(m, "role"), (char *)text_of(m, "content")};
        }
        char *got;
        error_clear();
        Status status = chat_template_render(
            chat, messages, count, json_is_true(json_object_get(one, "add_generation_prompt")), "<s>", "</s>", &got);
        const char *want = text_of(one, "text"); // NULL: refused
        bool right = want == NULL ? status == STATUS_DATA && got == NULL && error_text()[0] != '\0'
                                  : status == STATUS_OK && strcmp(got, want) == 0;
        if (!right) {
            fprintf(stderr, "case %zu: got \"%s\" (%s), want \"%s\"\n", index, got == NULL ? "nothing" : got,
                    error_text(), want == NULL ? "a refusal" : want);
            wrong++;
        }
        free(got);
    }
    assert_int_equal(wrong, 0);
    json_decref(cases);
}

static void refusals_say_why(void **state) {
    (void)state;
    Message messages[] = {{"user", "a"}, {"tool", "b"}};
    char *text;
    error_clear();
    assert_int_equal(chat_template_render(CHAT_ZEPHYR, messages, 2, false, "<s>", "</s>", &text), STATUS_DATA);
    assert_string_equal(error_text(), "the chat template zephyr has no role \"tool\"; use system, user or assistant");
    error_clear();
    assert_int_equal(chat_template_render(CHAT_LLAMA2, messages, 2, false, "<s>", "</s>", &text), STATUS_DATA);
    assert_string_equal(error_text(),
                        "the chat template llama-2 wants an optional system message, then user and assistant in turn; "
                        "got \"tool\" where \"assistant\" should be");
    error_clear();
    assert_int_equal(chat_template_render(CHAT_NONE, messages, 2, false, "<s>", "</s>", &text), STATUS_DATA);
    assert_string_equal(error_text(),
                        "the row has messages, but the model folder has no chat template; set data.chat_template to "
                        "one of zephyr (TinyLlama), chatml and llama-2, or give rows as plain text");
    error_clear();
    ChatTemplate chat;
    assert_int_equal(chat_template_find(".", "alpaca", &chat), STATUS_USAGE);
    assert_string_equal(error_text(), "data.chat_template is \"alpaca\"; it must be auto, zephyr, chatml or llama-2");
    error_clear();
}

// Every text in both places; those that render otherwise (template null) are refused.
static void texts_are_recognised(void **state) {
    (void)state;
    json_t *cases = load_cases(GOLDEN "/templates.json"), *one;
    size_t index;
    int wrong = 0;
    json_array_foreach(cases, index, one) {
        const char *name = text_of(one, "template"), *text = text_of(one, "text");
        for (int in_config = 0; in_config < 2; in_config++) {
            char path[PATH_MAX + 64];
            snprintf(path, sizeof path, "%s/chat_template.jinja", folder);
            unlink(path);
            if (in_config)
                write_config(json_string(text));
            else
                write_file("chat_template.jinja", text);
            ChatTemplate chat;
            error_clear();
            Status status = chat_template_find(folder, "auto", &chat);
            bool right = name == NULL ? status == STATUS_DATA
                                      : status == STATUS_OK && strcmp(chat_template_name(chat), name) == 0;
            if (!right) {
                fprintf(stderr, "template %zu, wanted %s: %s\n%s\n", index, name == NULL ? "a refusal" : name,
                        status == STATUS_OK ? chat_template_name(chat) : error_text(), text);
                wrong++;
            }
        }
    }
    assert_int_equal(wrong, 0);
    json_decref(cases);
}

#define CHATML                                                                                                         \
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "    \
    "'\n'}}"                                                                                                           \
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

static void places_in_their_order(void **state) {
    (void)state;
    ChatTemplate chat;
    assert_int_equal(chat_template_find(folder, "auto", &chat), STATUS_OK);
    assert_int_equal(chat, CHAT_NONE);
    write_file("tokenizer_config.json", "{\"chat_template\": null}");
    assert_int_equal(chat_template_find(folder, "auto", &chat), STATUS_OK);
    assert_int_equal(chat, CHAT_NONE);
    write_config(json_pack("[{ssss}{ssss}]", "name", "tool_use", "template", "{{ tools }}", "name", "default",
                           "template", CHATML));
    assert_int_equal(chat_template_find(folder, "auto", &chat), STATUS_OK);
    assert_int_equal(chat, CHAT_CHATML);
    write_config(json_pack("[{ssss}]", "name", "rag", "template", CHATML));
    assert_int_equal(chat_template_find(folder, "auto", &chat), STATUS_DATA);
    error_clear();
    write_file("tokenizer_config.json", "{\"chat_template\": 1}");
    char want[PATH_MAX + 512];
    assert_int_equal(chat_template_find(folder, "auto", &chat), STATUS_DATA);
    snprintf(want, sizeof want,
             "%s/tokenizer_config.json: chat_template must be text or a list with an entry \"default\"; or set "
             "data.chat_template to one of zephyr (TinyLlama), chatml and llama-2",
             folder);
    assert_string_equal(error_text(), want);
    error_clear();
    write_file("tokenizer_config.json", "{\"chat_template\": \"{{ messages }}\"}");
    assert_int_equal(chat_template_find(folder, "auto", &chat), STATUS_DATA);
    snprintf(want, sizeof want,
             "%s/tokenizer_config.json: has a chat template that is not known; supported are zephyr (TinyLlama), "
             "chatml and llama-2; set data.chat_template to the name of one of them if it renders the same, or "
             "give rows as plain text",
             folder);
    assert_string_equal(error_text(), want);
    error_clear();
    // A setting other than "auto" asks no file; chat_template.jinja wins over the configuration.
    assert_int_equal(chat_template_find(folder, "llama-2", &chat), STATUS_OK);
    assert_int_equal(chat, CHAT_LLAMA2);
    write_file("chat_template.jinja", CHATML);
    assert_int_equal(chat_template_find(folder, "auto", &chat), STATUS_OK);
    assert_int_equal(chat, CHAT_CHATML);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_those_of_jinja),
        cmocka_unit_test(refusals_say_why),
        cmocka_unit_test_setup_teardown(texts_are_recognised, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(places_in_their_order, folder_setup, folder_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
