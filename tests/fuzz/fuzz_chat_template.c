// Fuzzes the recognition of chat templates (io/chat_template.c): the input as chat_template.jinja, and as a
// tokenizer_config.json that holds one.
#include "io/chat_template.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>

static void find(const char *folder) {
    char path[4096];
    ChatTemplate chat;
    snprintf(path, sizeof path, "%s/%s", fuzz_folder(), folder);
    Status status = chat_template_find(path, "auto", &chat);
    fuzz_end(status);
    FUZZ_CHECK(status != STATUS_OK || chat_template_name(chat) != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_file("jinja/chat_template.jinja", data, size);
    fuzz_file("json/tokenizer_config.json", data, size);
    find("jinja");
    find("json");
    return 0;
}
