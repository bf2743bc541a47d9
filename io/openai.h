// The JSON of OpenAI's API, as its clients send it and expect it back (POST /v1/chat/completions and /v1/completions):
// what of it this server understands. No network here.
#pragma once
#include "io/jsonl.h"
#include "src/base/status.h"
#include <stddef.h>
#include <stdint.h>

#define OPENAI_STOPS_MAX 4 // texts that end an answer

typedef struct OpenAiRequest {
    bool chat, stream, include_usage;
    char *model;       // NULL: not named
    Message *messages; // [message_count], of chat
    int message_count;
    char *prompt; // of a completion
    char *stop[OPENAI_STOPS_MAX];
    int stop_count;
    bool greedy, has_seed;
    double temperature, top_p;
    int32_t top_k, max_tokens;
    uint64_t seed;
} OpenAiRequest;

// Reads a body over the defaults that stand in *out (temperature, top_p, top_k, max_tokens, greedy). On an error
// returns false with what is wrong in `error`, and in `param` the field it is about ("" if none). Free with
// openai_free, also after an error.
bool openai_parse(const char *body, size_t size, bool chat, OpenAiRequest *out, char error[256], char param[64]);
void openai_free(OpenAiRequest *request);

typedef struct OpenAiAnswer {
    bool chat;
    const char *id, *model;
    int64_t created; // seconds since 1970
    int32_t prompt_tokens, completion_tokens;
} OpenAiAnswer;

// All of these return JSON text that the caller frees; NULL when out of memory. finish: "stop", "length" or NULL.
char *openai_whole(const OpenAiAnswer *answer, const char *text, const char *finish);
// A chunk of a stream as a server-sent event. first: opens the assistant's turn.
char *openai_chunk(const OpenAiAnswer *answer, const char *text, const char *finish, bool first);
char *openai_usage_chunk(const OpenAiAnswer *answer);
char *openai_error(const char *message, const char *type, const char *param, const char *code); // NULL: null
char *openai_error_chunk(const char *message, const char *type);
char *openai_models(const char *const *names, int count, int64_t created);
