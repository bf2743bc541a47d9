// From what was asked to jobs in the engine's queue: the prompt's text (src/data/prompt_frame.h), its tokens, and how
// to sample. What was submitted before a refusal is released with the request. Reading jobs is left to replies.c.
#include "src/serve/questions.h"

#include "src/data/dataset.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TITLE_MAX = 2000 }; // bytes

Asked *asked_new(HttpRequest *request, Server *server, Kind kind) {
    Asked *asked = calloc(1, sizeof *asked);
    if (asked == NULL) return NULL;
    asked->server = server;
    asked->kind = kind;
    request->state = asked;
    return asked;
}

void asked_end(HttpRequest *request, void *argument) {
    (void)argument;
    Asked *asked = request->state;
    for (int who = 0; who < WHO_COUNT; who++)
        if (asked->job[who] != NULL) job_release(asked->server->engine, asked->job[who]);
    free(asked->title);
    free(asked);
    request->state = NULL;
}

static bool refuse(Refusal *out, int status, const char *code, const char *message) {
    out->status = status;
    out->code = code;
    snprintf(out->message, sizeof out->message, "%s", message);
    return false;
}

static bool refuse_failure(Refusal *out) {
    refuse(out, 400, NULL, error_text());
    error_clear();
    return false;
}

static void wake(void *connection) {
    http_wake(connection);
}

static bool submit(Asked *asked, HttpRequest *request, const TextOrMessages *prompt, int who, JobOptions *options,
                   Refusal *refusal) {
    Server *server = asked->server;
    int32_t *ids = NULL, count = 0;
    if (dataset_encode_prompt(prompt, server->run.tokenizer, server->run.chat, &ids, &count) != STATUS_OK) {
        free(ids);
        return refuse_failure(refusal);
    }
    options->generate.adapters = who == WHO_TUNED;
    options->generate.ends = server->run.ends;
    options->skip_newline = prompt->text == NULL;
    options->notify = wake;
    options->argument = request->connection;
    const Submitted result = engine_submit(server->engine, ids, count, options, &asked->job[who]);
    free(ids);
    asked->answer.prompt_tokens = count;
    switch (result) {
    case SUBMIT_TAKEN:
        return true;
    case SUBMIT_FULL:
        return refuse(refusal, 503, NULL, "the server is busy; try again soon");
    case SUBMIT_CLOSED:
        return refuse(refusal, 503, NULL, SERVER_STOPPING);
    case SUBMIT_TOO_LONG:
        break;
    case SUBMIT_NO_MEMORY:
        return refuse(refusal, 503, NULL, "out of memory");
    }
    char text[200];
    snprintf(text, sizeof text, "the prompt of %d tokens is longer than the %d that this server takes", count,
             server->run.model.options.max_positions);
    return refuse(refusal, 400, "context_length_exceeded", text);
}

static JobOptions job_options(Server *server) {
    const SampleOptions *sample = &server->options.sample;
    return (JobOptions){.generate = {.greedy = sample->greedy,
                                     .temperature = sample->temperature,
                                     .top_p = sample->top_p,
                                     .top_k = (int32_t)sample->top_k,
                                     .max_tokens = (int32_t)sample->max_tokens,
                                     .seed = server->seed},
                        .id = server->asked++};
}

bool ask_title(Asked *asked, HttpRequest *request, const char *title, Refusal *refusal) {
    Server *server = asked->server;
    if (title == NULL || title[strspn(title, " \t\r\n")] == '\0')
        return refuse(refusal, 400, NULL, "the title is empty");
    if (strlen(title) > TITLE_MAX) return refuse(refusal, 400, NULL, "the title is too long");
    json_t *text = json_string(title); // NULL: no UTF-8
    json_decref(text);
    if (text == NULL) return refuse(refusal, 400, NULL, "the title is no UTF-8");
    TextOrMessages prompt;
    if (prompt_frame_fill(&server->frame, title, &prompt) != STATUS_OK) return refuse_failure(refusal);
    JobOptions options = job_options(server);
    bool taken = true;
    for (int who = 0; who < WHO_COUNT && taken; who++) taken = submit(asked, request, &prompt, who, &options, refusal);
    jsonl_prompt_free(&prompt);
    return taken;
}

bool ask_openai(Asked *asked, HttpRequest *request, const OpenAiRequest *from, int who, Refusal *refusal) {
    Server *server = asked->server;
    TextOrMessages prompt = {.text = from->prompt};
    if (from->chat && prompt_frame_converse(&server->frame, from->messages, from->message_count, &prompt) != STATUS_OK)
        return refuse_failure(refusal);
    JobOptions options = job_options(server);
    options.generate.greedy = from->greedy;
    options.generate.temperature = from->temperature;
    options.generate.top_p = from->top_p;
    options.generate.top_k = from->top_k;
    options.generate.max_tokens = from->max_tokens;
    if (from->has_seed) {
        options.generate.seed = from->seed;
        options.id = 0;
    }
    _Static_assert(sizeof options.stop == sizeof from->stop, "as many stop texts as a request may have");
    memcpy(options.stop, from->stop, sizeof options.stop);
    options.stop_count = from->stop_count;
    const bool taken = submit(asked, request, &prompt, who, &options, refusal);
    if (from->chat) jsonl_prompt_free(&prompt);
    return taken;
}
