// The text of the engine's jobs as JSON, as server-sent events or in the page. Called in the network's thread, at once
// and again after every wake; nothing here waits. How OpenAI's JSON looks is io/openai.c's.
#include "src/serve/replies.h"

#include "src/serve/page.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void reply_json(HttpRequest *request, int status, char *json, const char *extra) {
    if (json == NULL) return;
    http_reply(request, status, "application/json", json, strlen(json), extra);
    free(json);
}

void reply_error(HttpRequest *request, int status, const char *message, const char *param, const char *code,
                 const char *extra) {
    const char *type = status == 401   ? "authentication_error"
                       : status >= 500 ? "server_error"
                                       : "invalid_request_error";
    reply_json(request, status, openai_error(message, type, param, code), extra);
}

const char *retry_after(const Server *server, int status, char out[64]) {
    const EngineState state = engine_state(server->engine);
    out[0] = '\0';
    if (status == 503) snprintf(out, 64, "Retry-After: %d\n", 1 + state.waiting / state.capacity);
    return out;
}

void reply_refusal(HttpRequest *request, const Server *server, const Refusal *refusal) {
    char extra[64];
    reply_error(request, refusal->status, refusal->message, NULL, refusal->code,
                retry_after(server, refusal->status, extra));
}

// --- answers that have ended ----------------------------------------------------------------------------------------

static const char *finish_reason(JobEnd end) {
    return end == JOB_LENGTH ? "length" : "stop";
}

void reply_whole(HttpRequest *request) {
    Asked *asked = request->state;
    Server *server = asked->server;
    char *text[WHO_COUNT] = {0};
    JobEnd end[WHO_COUNT] = {0};
    bool whole = true, cancelled = false;
    for (int who = 0; who < WHO_COUNT; who++) {
        if (asked->job[who] == NULL) continue;
        end[who] = job_read(server->engine, asked->job[who], 0, true, &text[who]);
        whole &= end[who] != JOB_GOES_ON;
        cancelled |= end[who] == JOB_CANCELLED || text[who] == NULL;
    }
    if (whole && asked->kind == KIND_FORM) {
        const Page page = {.title = asked->title, .answer = {text[WHO_TUNED], text[WHO_BASE]}};
        const Page failed = {.title = asked->title, .error = SERVER_STOPPING};
        page_reply(request, server, cancelled ? 503 : 200, cancelled ? &failed : &page, NULL);
    } else if (whole && cancelled) {
        reply_error(request, 503, SERVER_STOPPING, NULL, NULL, "Retry-After: 5\n");
    } else if (whole) {
        const int who = asked->job[WHO_TUNED] != NULL ? WHO_TUNED : WHO_BASE;
        asked->answer.completion_tokens = job_tokens(asked->job[who]);
        reply_json(request, 200, openai_whole(&asked->answer, text[who], finish_reason(end[who])), NULL);
    }
    for (int who = 0; who < WHO_COUNT; who++) free(text[who]);
}

// --- answers as they come -------------------------------------------------------------------------------------------

static void put(FILE *to, char *event) {
    if (event != NULL) fputs(event, to);
    free(event);
}

static char *review_event(int who, const char *text, JobEnd end) {
    json_t *root = json_pack("{s:s, s:s}", "who", who_names[who], "text", text);
    if (root != NULL && end != JOB_GOES_ON) json_object_set_new(root, "end", json_string(finish_reason(end)));
    char *json = root == NULL ? NULL : json_dumps(root, JSON_COMPACT), *event = NULL;
    json_decref(root);
    if (json != NULL && asprintf(&event, "data: %s\n\n", json) < 0) event = NULL;
    free(json);
    return event;
}

static void put_openai(Asked *asked, int who, const char *text, JobEnd end, FILE *to) {
    if (!asked->begun) {
        asked->begun = true;
        if (asked->answer.chat) put(to, openai_chunk(&asked->answer, "", NULL, true));
    }
    if (text[0] != '\0') put(to, openai_chunk(&asked->answer, text, NULL, false));
    if (end == JOB_GOES_ON) return;
    put(to, openai_chunk(&asked->answer, "", finish_reason(end), false));
    asked->answer.completion_tokens = job_tokens(asked->job[who]);
    if (asked->include_usage) put(to, openai_usage_chunk(&asked->answer));
}

static bool more(HttpRequest *request, char **piece) {
    Asked *asked = request->state;
    if (asked->over) return false;
    size_t size = 0;
    FILE *to = open_memstream(piece, &size);
    if (to == NULL) {
        *piece = NULL;
        return true;
    }
    bool over = true;
    for (int who = 0; who < WHO_COUNT; who++) {
        char *text = NULL;
        if (asked->job[who] == NULL || asked->ended[who]) continue;
        const JobEnd end = job_read(asked->server->engine, asked->job[who], asked->read[who], false, &text);
        const char *news = text == NULL ? "" : text;
        asked->read[who] += strlen(news);
        asked->ended[who] = end != JOB_GOES_ON;
        over &= asked->ended[who];
        if (end == JOB_CANCELLED)
            put(to, openai_error_chunk(SERVER_STOPPING, "server_error"));
        else if (asked->kind == KIND_OPENAI)
            put_openai(asked, who, news, end, to);
        else if (news[0] != '\0' || end != JOB_GOES_ON)
            put(to, review_event(who, news, end));
        free(text);
    }
    if (over) fputs("data: [DONE]\n\n", to);
    asked->over = over;
    if (fclose(to) != 0) {
        free(*piece);
        *piece = NULL;
    }
    return true;
}

void reply_stream(HttpRequest *request) {
    http_stream(request, "text/event-stream", more);
}
