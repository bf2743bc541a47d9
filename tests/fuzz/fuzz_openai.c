// Fuzzes the bodies of requests in OpenAI's form (io/openai.c), as a chat and as a completion, and answers with what
// was in them.
#include "io/openai.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void check(const OpenAiRequest *request) {
    FUZZ_CHECK(request->temperature > 0 && request->temperature <= 100 && request->top_p >= 0 && request->top_p <= 1);
    FUZZ_CHECK(request->max_tokens >= 1 && request->max_tokens <= 256 && request->top_k >= 0);
    for (int i = 0; i < request->stop_count; i++) FUZZ_CHECK(request->stop[i][0] != '\0');
    FUZZ_CHECK(request->chat ? request->message_count > 0 : request->prompt != NULL);
    for (int i = 0; i < request->message_count; i++)
        FUZZ_CHECK(request->messages[i].role != NULL && request->messages[i].content != NULL);
    const char *text = request->chat ? request->messages[0].content : request->prompt;
    const OpenAiAnswer answer = {.chat = request->chat, .id = "id", .model = request->model ? request->model : "m"};
    char *whole = openai_whole(&answer, text, "stop"), *chunk = openai_chunk(&answer, text, NULL, true);
    FUZZ_CHECK(whole != NULL && chunk != NULL);
    FUZZ_CHECK(strchr(chunk, '\n') == chunk + strlen(chunk) - 2); // an event is one line, whatever the text
    free(whole);
    free(chunk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    for (int chat = 0; chat < 2; chat++) {
        OpenAiRequest request = {.temperature = 1, .top_p = 1, .max_tokens = 256};
        char error[256], param[64];
        const bool good = openai_parse((const char *)data, size, chat, &request, error, param);
        FUZZ_CHECK(good == (error[0] == '\0'));
        if (good) check(&request);
        openai_free(&request);
    }
    return 0;
}
