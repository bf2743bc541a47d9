// What goes back to a client: errors as OpenAI's API says them, and the answers to a question (questions.h), whole or
// as they come. Headers and connections are http.h's.
#pragma once
#include "src/serve/questions.h"

// Answers with `json`, which is freed; NULL (out of memory): not at all. `extra`: more headers, or NULL.
void reply_json(HttpRequest *request, int status, char *json, const char *extra);
// As OpenAI's API says it; `param` and `code` may be NULL.
void reply_error(HttpRequest *request, int status, const char *message, const char *param, const char *code,
                 const char *extra);
void reply_refusal(HttpRequest *request, const Server *server, const Refusal *refusal);
// The header of a 503, else "": seconds after which a place may be free, which grow with the queue.
const char *retry_after(const Server *server, int status, char out[64]);

// Answers when all jobs of the question (request->state) have ended; else it is to be called again when one has.
void reply_whole(HttpRequest *request);
// Answers with the jobs' text as it comes, as server-sent events.
void reply_stream(HttpRequest *request);
