// Fuzzes how a folder's chat template is found and what it is shown (io/chat_template.c): the input as
// chat_template.jinja and as a tokenizer_config.json that holds one, each put to a conversation with a tool.
#include "io/chat_template.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>

static void render(const ChatTemplate *chat) {
    Message messages[] = {{.role = "system", .content = "Be \u3000kind."}, {.role = "user", .content = " hi\n"}};
    Message answer = {.role = "assistant",
                      .content = "",
                      .fields = json_pack("{ss s[i] sn}", "thinking", "hm", "tool_calls", 1, "content")};
    const TextOrMessages prompt = {.messages = messages, .message_count = 2, .tools = json_pack("[{sf}]", "x", 0.5)};
    const TextOrMessages completion = {.messages = &answer, .message_count = 1};
    JinjaScratch scratch = {.bytes_max = (size_t)16 << 20, .steps_max = 300000};
    for (int i = 0; i < 2; i++) {
        const char *text;
        size_t bytes;
        const Status status =
            chat_template_render(chat, &scratch, &prompt, i == 0 ? NULL : &completion, i == 0, &text, &bytes);
        fuzz_end(status);
        if (status == STATUS_OK) fuzz_touch(text, bytes + 1);
    }
    jinja_scratch_free(&scratch);
    json_decref(answer.fields);
    json_decref(prompt.tools);
}

static void find(const char *folder) {
    char path[4096];
    ChatTemplate *chat;
    snprintf(path, sizeof path, "%s/%s", fuzz_folder(), folder);
    const Status status = chat_template_open(&chat, path, "auto", "<s>", "</s>", 0);
    fuzz_end(status);
    FUZZ_CHECK(status == STATUS_OK || chat == NULL);
    if (chat != NULL) render(chat);
    chat_template_close(chat);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_file("jinja/chat_template.jinja", data, size);
    fuzz_file("json/tokenizer_config.json", data, size);
    find("jinja");
    find("json");
    return 0;
}
