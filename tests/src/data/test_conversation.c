// Conversations as prompts: history, system messages, what is forgotten when it becomes too long.
#include "src/data/conversation.h"
#include "src/data/dataset.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/io/temporary_folder.h"

static Tokenizer *tokenizer;
static ChatTemplate *zephyr;

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        if ((call) != STATUS_OK) fail_msg("%s", error_text());                                                         \
    } while (0)

static Conversation conversation(const char *rows, bool chat) {
    Conversation talk = {0};
    char *why;
    FILE *file = fopen("rows.jsonl", "w");
    assert_non_null(file);
    fputs(rows, file);
    assert_int_equal(fclose(file), 0);
    CHECK(prompt_frame_open(&talk.frame, NULL, "rows.jsonl", chat, &why));
    assert_null(why);
    return talk;
}

#define ROW(word)                                                                                                      \
    "{\"prompt\": [{\"role\": \"system\", \"content\": \"Be #2.\"}, {\"role\": \"user\", \"content\": \"On " word      \
    ".\"}]}\n"

// The prompt's ids are those of these messages, or of this text.
static void expect(Conversation *talk, int32_t limit, int want_dropped, const TextOrMessages *want) {
    int32_t *ids, *want_ids, count, want_count;
    int dropped;
    CHECK(conversation_encode(talk, tokenizer, zephyr, limit, &ids, &count, &dropped));
    CHECK(dataset_encode_prompt(want, tokenizer, zephyr, &want_ids, &want_count));
    assert_int_equal(dropped, want_dropped);
    assert_int_equal(count, want_count);
    assert_memory_equal(ids, want_ids, (size_t)count * sizeof *ids);
    free(ids);
    free(want_ids);
}

static void turns(void **state) {
    (void)state;
    Conversation talk = conversation(ROW("a") ROW("b"), true);
    CHECK(conversation_ask(&talk, "x"));
    Message all[] = {{.role = "system", .content = "Be #2."},
                     {.role = "user", .content = "On x."},
                     {.role = "assistant", .content = "Yes."},
                     {.role = "user", .content = "On y."}};
    expect(&talk, 1000, 0, &(TextOrMessages){.messages = all, .message_count = 2});
    CHECK(conversation_answer(&talk, "Yes."));
    CHECK(conversation_ask(&talk, "y"));
    expect(&talk, 1000, 0, &(TextOrMessages){.messages = all, .message_count = 4});
    CHECK(conversation_set_system(&talk, "Be kind."));
    all[0].content = "Be kind.";
    expect(&talk, 1000, 0, &(TextOrMessages){.messages = all, .message_count = 4});
    CHECK(conversation_set_system(&talk, NULL));
    all[0].content = "Be #2.";
    expect(&talk, 1000, 0, &(TextOrMessages){.messages = all, .message_count = 4});
    conversation_take_back(&talk); // the question; its turn does not end the conversation
    conversation_take_back(&talk);
    expect(&talk, 1000, 0, &(TextOrMessages){.messages = all, .message_count = 2});
    conversation_forget(&talk);
    CHECK(conversation_ask(&talk, "z"));
    Message last[] = {{.role = "system", .content = "Be #2."}, {.role = "user", .content = "On z."}};
    expect(&talk, 1000, 0, &(TextOrMessages){.messages = last, .message_count = 2});
    conversation_free(&talk);
}

static void too_long(void **state) {
    (void)state;
    Conversation talk = conversation(ROW("a") ROW("b"), true);
    for (int i = 0; i < 20; i++) {
        CHECK(conversation_ask(&talk, "x"));
        CHECK(conversation_answer(&talk, "Yes."));
    }
    CHECK(conversation_ask(&talk, "y"));
    Message kept[] = {{.role = "system", .content = "Be #2."},
                      {.role = "user", .content = "On x."},
                      {.role = "assistant", .content = "Yes."},
                      {.role = "user", .content = "On y."}};
    int32_t *ids, count;
    CHECK(dataset_encode_prompt(&(TextOrMessages){.messages = kept, .message_count = 4}, tokenizer, zephyr, &ids,
                                &count));
    free(ids);
    expect(&talk, count, 19, &(TextOrMessages){.messages = kept, .message_count = 4}); // just fits
    assert_int_equal(talk.count, 3);
    // What it starts with is never dropped, nor the question, however long.
    Message question[] = {{.role = "system", .content = "Be #2."}, {.role = "user", .content = "On y."}};
    expect(&talk, 1, 1, &(TextOrMessages){.messages = question, .message_count = 2});
    conversation_free(&talk);
}

static void plain(void **state) {
    (void)state;
    Conversation talk = conversation("{\"prompt\": \"On a:\"}\n{\"prompt\": \"On b:\"}\n", true);
    CHECK(conversation_ask(&talk, "x"));
    CHECK(conversation_answer(&talk, "Yes."));
    CHECK(conversation_ask(&talk, "y"));
    assert_int_equal(talk.count, 1);
    expect(&talk, 1000, 0, &(TextOrMessages){.text = "On y:"});
    conversation_free(&talk);
}

static void no_rows(void **state) {
    (void)state;
    char *why;
    Message bare[] = {{.role = "user", .content = "x"}};
    for (int chat = 0; chat < 2; chat++) {
        Conversation talk = {0};
        CHECK(prompt_frame_open(&talk.frame, NULL, "none.jsonl", chat, &why));
        assert_string_equal(why, "none.jsonl: No such file or directory");
        assert_string_equal(error_text(), "");
        CHECK(conversation_ask(&talk, "x"));
        expect(&talk, 1000, 0,
               chat ? &(TextOrMessages){.messages = bare, .message_count = 1} : &(TextOrMessages){.text = "x"});
        conversation_free(&talk);
        free(why);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(turns), cmocka_unit_test(too_long), cmocka_unit_test(plain),
                                       cmocka_unit_test(no_rows)};
    CHECK(tokenizer_open(&tokenizer, TEST_DATA "/tiny-model"));
    CHECK(chat_template_open(&zephyr, "", "zephyr", "<s>", "</s>", 0));
    const int failed = cmocka_run_group_tests(tests, enter_temporary_folder, remove_temporary_folder);
    chat_template_close(zephyr);
    tokenizer_close(tokenizer);
    return failed;
}
