// The table of routes, what each does with its request, and the checks before it. Asking is left to questions.c,
// answers to replies.c and page.c.
#include "src/serve/routes.h"

#include "src/base/clock.h"
#include "src/serve/page.h"
#include "src/serve/questions.h"
#include "src/serve/replies.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static void get_page(HttpRequest *request, Server *server) {
    page_reply(request, server, 200, &(Page){0}, NULL);
}

static bool token_fits(const Server *server, const char *given) {
    if (server->token == NULL) return true;
    const size_t length = strlen(server->token);
    if (given == NULL || strlen(given) != length) return false;
    unsigned char different = 0; // in a time that does not tell where
    for (size_t i = 0; i < length; i++) different |= (unsigned char)(given[i] ^ server->token[i]);
    return different == 0;
}

static void post_form(HttpRequest *request, Server *server) {
    char *example = http_form_field(request, "example"), *title = http_form_field(request, "title");
    char *token = http_form_field(request, "token");
    const char *words = example != NULL ? example : title;
    Asked *asked = asked_new(request, server, KIND_FORM);
    Refusal refusal = {.status = 401, .message = "the access token is missing or wrong"};
    bool taken = asked != NULL && token_fits(server, token) && ask_title(asked, request, words, &refusal);
    if (taken) {
        asked->title = strdup(words);
        reply_whole(request);
    } else if (asked != NULL) {
        char extra[64];
        page_reply(request, server, refusal.status, &(Page){.title = words, .error = refusal.message},
                   retry_after(server, refusal.status, extra));
    }
    free(example);
    free(title);
    free(token);
}

static void post_review(HttpRequest *request, Server *server) {
    json_t *body = json_loadb(request->body, request->body_size, JSON_REJECT_DUPLICATES, NULL);
    const json_t *title = json_object_get(body, "title");
    Asked *asked = asked_new(request, server, KIND_REVIEW);
    Refusal refusal;
    if (!json_is_string(title))
        reply_error(request, 400, "the body must be {\"title\": text}", "title", NULL, NULL);
    else if (asked != NULL && ask_title(asked, request, json_string_value(title), &refusal))
        reply_stream(request);
    else if (asked != NULL)
        reply_refusal(request, server, &refusal);
    json_decref(body);
}

static void get_style(HttpRequest *request, Server *server) {
    (void)server;
    page_reply_style(request);
}

static void get_script(HttpRequest *request, Server *server) {
    (void)server;
    page_reply_script(request);
}

static void get_health(HttpRequest *request, Server *server) {
    const EngineState state = engine_state(server->engine);
    json_t *root = json_pack("{s:s, s:s, s:i, s:i, s:i, s:I, s:I}", "status", "ok", "model", server->model, "answering",
                             state.answering, "waiting", state.waiting, "places", state.capacity, "answers",
                             (json_int_t)state.answers, "tokens", (json_int_t)state.tokens);
    char *json = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    reply_json(request, 200, json, NULL);
}

static void get_models(HttpRequest *request, Server *server) {
    const char *const names[] = {server->model, who_names[WHO_BASE]};
    reply_json(request, 200, openai_models(names, 2, server->start), NULL);
}

static bool find_model(const Server *server, const char *name, int *who) {
    *who = WHO_TUNED;
    if (name == NULL || strcmp(name, server->model) == 0 || strcmp(name, who_names[WHO_TUNED]) == 0) return true;
    *who = WHO_BASE;
    return strcmp(name, who_names[WHO_BASE]) == 0;
}

static void post_openai(HttpRequest *request, Server *server, bool chat) {
    const SampleOptions *sample = &server->options.sample;
    OpenAiRequest from = {.greedy = sample->greedy,
                          .temperature = sample->temperature,
                          .top_p = sample->top_p,
                          .top_k = (int32_t)sample->top_k,
                          .max_tokens = (int32_t)sample->max_tokens};
    char error[256], param[64];
    int who;
    Asked *asked = asked_new(request, server, KIND_OPENAI);
    Refusal refusal;
    if (asked == NULL) return;
    if (!openai_parse(request->body, request->body_size, chat, &from, error, param)) {
        reply_error(request, 400, error, param[0] == '\0' ? NULL : param, NULL, NULL);
    } else if (!find_model(server, from.model, &who)) {
        snprintf(error, sizeof error, "there is no such model; there are \"%.150s\" and \"base\"", server->model);
        reply_error(request, 404, error, "model", "model_not_found", NULL);
    } else {
        snprintf(asked->id, sizeof asked->id, "%s-%016llx%08x", chat ? "chatcmpl" : "cmpl",
                 (unsigned long long)server->seed, server->asked);
        asked->include_usage = from.include_usage;
        asked->answer = (OpenAiAnswer){.chat = chat,
                                       .id = asked->id,
                                       .model = who == WHO_TUNED ? server->model : who_names[WHO_BASE],
                                       .created = (int64_t)clock_unix_seconds()};
        if (!ask_openai(asked, request, &from, who, &refusal))
            reply_refusal(request, server, &refusal);
        else if (from.stream)
            reply_stream(request);
        else
            reply_whole(request);
    }
    openai_free(&from);
}

static void post_chat(HttpRequest *request, Server *server) {
    post_openai(request, server, true);
}

static void post_completion(HttpRequest *request, Server *server) {
    post_openai(request, server, false);
}

typedef struct Route {
    const char *method, *path;
    void (*run)(HttpRequest *request, Server *server);
    bool token, json; // asks for the token in a header; takes JSON alone
} Route;

static const Route routes[] = {
    {"GET", "/", get_page, false, false},
    {"POST", "/", post_form, false, false}, // its token is a field
    {"GET", "/style.css", get_style, false, false},
    {"GET", "/app.js", get_script, false, false},
    {"GET", "/health", get_health, false, false},
    {"POST", "/review", post_review, true, true},
    {"GET", "/v1/models", get_models, true, false},
    {"POST", "/v1/chat/completions", post_chat, true, true},
    {"POST", "/v1/completions", post_completion, true, true},
};
enum { ROUTES = sizeof routes / sizeof *routes };

// Names of this machine, where the server listens on it alone: so that another site's page, whose name was made to lead
// here, gets nothing (DNS rebinding).
static bool host_fits(const Server *server, const char *host) {
    if (!server->loopback) return true;
    if (host == NULL) return false;
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    const char *colon = strrchr(host, ':');
    const size_t length = colon == NULL || strchr(colon, ']') != NULL ? strlen(host) : (size_t)(colon - host);
    if (strncmp(host, server->options.host, length) == 0 && strlen(server->options.host) == length) return true;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == length && strncasecmp(names[i], host, length) == 0) return true;
    return false;
}

// A form of another site's page would come with its name.
static bool origin_fits(const HttpRequest *request) {
    const char *origin = http_header(request, "Origin"), *host = http_header(request, "Host");
    if (origin == NULL) return true;
    const char *name = strstr(origin, "://");
    return name != NULL && host != NULL && strcmp(name + 3, host) == 0;
}

static bool bearer_fits(const HttpRequest *request, const Server *server) {
    const char *given = http_header(request, "Authorization");
    const bool bearer = given != NULL && strncasecmp(given, "Bearer ", 7) == 0;
    return token_fits(server, bearer ? given + 7 : NULL);
}

static void route(HttpRequest *request, Server *server, const Route *to) {
    const char *type = http_header(request, "Content-Type");
    if (to->token && !bearer_fits(request, server))
        reply_error(request, 401, "the access token is missing or wrong", NULL, "invalid_api_key",
                    "WWW-Authenticate: Bearer\n");
    else if (to->json && (type == NULL || strncasecmp(type, "application/json", 16) != 0))
        reply_error(request, 415, "the body must be application/json", NULL, NULL, NULL);
    else
        to->run(request, server);
}

void routes_handle(HttpRequest *request, void *argument) {
    Server *server = argument;
    if (request->state != NULL) {
        reply_whole(request);
        return;
    }
    if (!host_fits(server, http_header(request, "Host")) || !origin_fits(request)) {
        reply_error(request, 403, "this server does not answer to that name", NULL, NULL, NULL);
        return;
    }
    const char *method = strcmp(request->method, "HEAD") == 0 ? "GET" : request->method;
    char allow[64] = "";
    for (int i = 0; i < ROUTES; i++) {
        if (strcmp(routes[i].path, request->path) != 0) continue;
        if (strcmp(routes[i].method, method) == 0) {
            route(request, server, &routes[i]);
            return;
        }
        const size_t used = strlen(allow);
        snprintf(allow + used, sizeof allow - used, "%s%s", used == 0 ? "Allow: " : ", ", routes[i].method);
    }
    if (allow[0] != '\0') {
        strcat(allow, "\n");
        reply_error(request, 405, "this path does not take that method", NULL, NULL, allow);
    } else {
        reply_error(request, 404, "there is nothing at this path", NULL, NULL, NULL);
    }
}
