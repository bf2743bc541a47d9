// Requests of OpenAI's clients, and the answers they expect.
#include "io/openai.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static OpenAiRequest defaults(void) {
    return (OpenAiRequest){.temperature = 0.7, .top_p = 0.9, .top_k = 40, .max_tokens = 100};
}

static OpenAiRequest parse(const char *body, bool chat) {
    OpenAiRequest request = defaults();
    char error[256], param[64];
    if (!openai_parse(body, strlen(body), chat, &request, error, param)) fail_msg("%s", error);
    return request;
}

static void reads_chats(void **state) {
    (void)state;
    OpenAiRequest r =
        parse("{\"model\": \"m\", \"messages\": [{\"role\": \"developer\", \"content\": \"s\"}, {\"role\": \"user\", "
              "\"content\": [{\"type\": \"text\", \"text\": \"a\"}, {\"type\": \"text\", \"text\": \"b\"}]}], "
              "\"stream\": true, \"stream_options\": {\"include_usage\": true}, \"temperature\": 1.5, "
              "\"top_p\": 1, \"top_k\": -1, \"seed\": 7, \"max_completion_tokens\": 9, \"stop\": [\"x\", \"y\"], "
              "\"user\": \"u\", \"presence_penalty\": 0.0, \"tools\": [], \"response_format\": {\"type\": \"text\"}}",
              true);
    assert_string_equal(r.model, "m");
    assert_int_equal(r.message_count, 2);
    assert_string_equal(r.messages[0].role, "system");
    assert_string_equal(r.messages[1].content, "ab");
    assert_true(r.stream && r.include_usage && r.has_seed && !r.greedy);
    assert_true(r.temperature == 1.5 && r.top_p == 1 && r.top_k == 0 && r.seed == 7 && r.max_tokens == 9);
    assert_int_equal(r.stop_count, 2);
    assert_string_equal(r.stop[1], "y");
    openai_free(&r);
    // What is not said stays as it was; null is as not said; more tokens than allowed are cut to what is.
    r = parse("{\"messages\": [{\"role\": \"user\", \"content\": \"\"}], \"temperature\": null, \"stop\": null, "
              "\"max_tokens\": 100000}",
              true);
    assert_true(r.temperature == 0.7 && r.top_p == 0.9 && r.top_k == 40 && r.max_tokens == 100 && !r.stream &&
                !r.has_seed);
    assert_null(r.model);
    openai_free(&r);
}

static void reads_completions(void **state) {
    (void)state;
    OpenAiRequest r = parse(
        "{\"prompt\": [\"once\"], \"temperature\": 0, \"stop\": \"end\", \"best_of\": 1, \"echo\": false}", false);
    assert_string_equal(r.prompt, "once");
    assert_true(r.greedy && r.temperature > 0);
    assert_string_equal(r.stop[0], "end");
    openai_free(&r);
}

static void refuses(void **state) {
    (void)state;
#define USER "\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]"
    static const struct {
        const char *body, *error, *param;
    } cases[] = {
        {"", "the body is no JSON: line 1: '[' or '{' expected near end of file", ""},
        {"{\"a\": 1, \"a\": 2}", "the body is no JSON: line 1: duplicate object key near '\"a\"'", ""},
        {"[]", "the body must be a JSON object", ""},
        {"{\"messages\": []}", "messages must be a list of 1 to 1024 messages", "messages"},
        {"{\"messages\": [{\"content\": \"x\"}]}",
         "messages must each have a role: system, developer, user, assistant or tool", "messages"},
        {"{\"messages\": [{\"role\": \"user\"}]}",
         "messages must have as content text or a list of parts {\"type\": \"text\", \"text\"}, without \\u0000",
         "messages"},
        {"{" USER ", \"model\": 1}", "model must be a text", "model"},
        {"{" USER ", \"stream\": 1}", "stream must be true or false", "stream"},
        {"{" USER ", \"stream_options\": 1}", "stream_options must be an object", "stream_options"},
        {"{" USER ", \"temperature\": -1}", "temperature must be a number from 0 to 100", "temperature"},
        {"{" USER ", \"top_p\": 1.1}", "top_p must be a number from 0 to 1", "top_p"},
        {"{" USER ", \"max_tokens\": 1.5}", "max_tokens must be a whole number from 1 to 2147483647", "max_tokens"},
        {"{" USER ", \"frequency_penalty\": 0.1}", "frequency_penalty is not supported; leave it out",
         "frequency_penalty"},
        {"{" USER ", \"logprobs\": true}", "logprobs is not supported; leave it out", "logprobs"},
        {"{" USER ", \"response_format\": {\"type\": \"json_object\"}}",
         "response_format is not supported; leave it out", "response_format"},
        {"{" USER ", \"n\": 3}", "n must be 1; ask several times", "n"},
        {"{" USER ", \"stop\": [\"a\", \"b\", \"c\", \"d\", \"e\"]}", "stop may hold four texts at most", "stop"},
        {"{" USER ", \"stop\": 5}", "stop must be a text, or texts, of 1 to 256 bytes", "stop"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        OpenAiRequest request = defaults();
        char error[256], param[64];
        assert_false(openai_parse(cases[i].body, strlen(cases[i].body), true, &request, error, param));
        assert_string_equal(error, cases[i].error);
        assert_string_equal(param, cases[i].param);
        openai_free(&request);
    }
}

static void expect(char *got, const char *want) {
    assert_non_null(got);
    assert_string_equal(got, want);
    free(got);
}

static void answers(void **state) {
    (void)state;
    OpenAiAnswer a = {.chat = true,
                      .id = "chatcmpl-1",
                      .model = "m",
                      .created = 1700000000,
                      .prompt_tokens = 3,
                      .completion_tokens = 4};
    expect(openai_whole(&a, "a \"b\"\n", "stop"),
           "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"m\",\"choices\":[{"
           "\"index\":0,"
           "\"message\":{\"role\":\"assistant\",\"content\":\"a "
           "\\\"b\\\"\\n\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
           "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4,\"total_tokens\":7}}\n");
    expect(openai_chunk(&a, "", NULL, true), "data: "
                                             "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":"
                                             "1700000000,\"model\":\"m\",\"choices\":[{"
                                             "\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                                             "\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    expect(openai_chunk(&a, "", "length", false),
           "data: "
           "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\","
           "\"choices\":[{"
           "\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"length\"}]}\n\n");
    a.chat = false;
    expect(openai_chunk(&a, "w", NULL, false),
           "data: "
           "{\"id\":\"chatcmpl-1\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"m\",\"choices\":[{"
           "\"index\":0,\"text\":\"w\",\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    expect(openai_error("no", "invalid_request_error", NULL, "c"),
           "{\"error\":{\"message\":\"no\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"c\"}}\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(reads_chats), cmocka_unit_test(reads_completions),
                                       cmocka_unit_test(refuses), cmocka_unit_test(answers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
