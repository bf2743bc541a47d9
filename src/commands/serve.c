// `kto serve`: a trained model as a web page and behind OpenAI's API. Routes and their answers; the network is
// src/serve/http.c, OpenAI's JSON io/openai.c, and what computes src/decode/engine.c.
#include "src/commands/commands.h"

#include "comm/stop.h"
#include "io/files.h"
#include "io/openai.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/base/version.h"
#include "src/commands/sampling.h"
#include "src/data/prompt_frame.h"
#include "src/decode/engine.h"
#include "src/serve/http.h"
#include "src/setup/run.h"
#include "src/setup/tuned.h"

#include <arpa/inet.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

extern const char page_index_html[], page_style_css[], page_app_js[];

enum {
    BODY_MAX = 1 << 20, // bytes of a request's body
    TITLE_MAX = 2000,   // bytes of what is asked on the page
    TOKEN_FILE_MAX = 4096,
    STOP_SECONDS = 5,     // for answers under way when the server is asked to stop
    PREFILL_TOKENS = 256, // of prompts between two tokens of those that answer
    CACHE_TOKENS = 1 << 16,
    EXAMPLES = 3,
};

enum { TUNED, BASE, WHO };
static const char *const who_names[WHO] = {"tuned", "base"};
static const char stopping[] = "the server is stopping";

typedef struct ServeOptions {
    const char *host, *name, *template_file, *token_file;
    int64_t port, sequences, queue, cache_tokens, connections;
    double request_seconds;
    SampleOptions sample;
} ServeOptions;

typedef struct Server {
    Run run;
    ServeOptions options;
    PromptFrame frame;
    Model *copy;    // [copies] but for the first
    Model **models; // [copies]
    int copies;
    Engine *engine;
    HttpServer *http;
    char *token;     // NULL: none is asked for
    char model[256]; // its name in the API
    char *examples[EXAMPLES];
    bool loopback;
    uint64_t seed;
    uint32_t asked; // requests so far
    int64_t start;  // seconds since 1970
} Server;

typedef enum Kind { KIND_OPENAI, KIND_REVIEW, KIND_FORM } Kind;

// One request that waits for answers.
typedef struct Asked {
    Server *server;
    Kind kind;
    Job *job[WHO]; // NULL: not asked
    size_t read[WHO];
    bool ended[WHO];
    bool begun, over; // of a stream: its first and its last piece were made
    bool include_usage;
    OpenAiAnswer answer;
    char id[40];
    char *title;
} Asked;

// --- plain answers --------------------------------------------------------------------------------------------------

static void reply_json(HttpRequest *request, int status, char *json, const char *extra) {
    if (json == NULL) return;
    http_reply(request, status, "application/json", json, strlen(json), extra);
    free(json);
}

// As OpenAI's API says it.
static void reply_error(HttpRequest *request, int status, const char *message, const char *param, const char *code,
                        const char *extra) {
    const char *type = status == 401   ? "authentication_error"
                       : status >= 500 ? "server_error"
                                       : "invalid_request_error";
    reply_json(request, status, openai_error(message, type, param, code), extra);
}

// --- the page -------------------------------------------------------------------------------------------------------

static void put_escaped(const char *text, FILE *to) {
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '&':
            fputs("&amp;", to);
            break;
        case '<':
            fputs("&lt;", to);
            break;
        case '>':
            fputs("&gt;", to);
            break;
        case '"':
            fputs("&quot;", to);
            break;
        case '\'':
            fputs("&#39;", to);
            break;
        default:
            fputc(*text, to);
        }
    }
}

typedef struct Page {
    const char *title, *error, *answer[WHO]; // NULL: none
} Page;

static void put_examples(const Server *server, FILE *to) {
    for (int i = 0; i < EXAMPLES && server->examples[i] != NULL; i++) {
        fputs("<button class=\"example\" name=\"example\" formnovalidate value=\"", to);
        put_escaped(server->examples[i], to);
        fputs("\">", to);
        put_escaped(server->examples[i], to);
        fputs("</button>\n", to);
    }
}

static void put_place(const Server *server, const Page *page, const char *name, size_t length, FILE *to) {
    const struct {
        const char *name, *text;
    } places[] = {
        {"name", server->options.name}, {"model", server->model},     {"title", page->title},
        {"error", page->error},         {"error_hidden", NULL},       {"answers_hidden", NULL},
        {"tuned", page->answer[TUNED]}, {"base", page->answer[BASE]},
    };
    if (strncmp(name, "examples", length) == 0 && length == 8) put_examples(server, to);
    if (strncmp(name, "error_hidden", length) == 0 && length == 12 && page->error == NULL) fputs("hidden", to);
    if (strncmp(name, "answers_hidden", length) == 0 && length == 14 && page->answer[TUNED] == NULL)
        fputs("hidden", to);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (strlen(places[i].name) == length && strncmp(places[i].name, name, length) == 0 && places[i].text != NULL)
            put_escaped(places[i].text, to);
}

// src/serve/page/index.html with its {{places}} filled; what stands between {{#token}} and {{/token}} only where one is
// asked for.
static void reply_page(HttpRequest *request, const Server *server, int status, const Page *page, const char *extra) {
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    if (to == NULL) return;
    const char *at = page_index_html;
    for (const char *place; (place = strstr(at, "{{")) != NULL;) {
        const char *name = place + 2, *end = strstr(name, "}}");
        fwrite(at, 1, (size_t)(place - at), to);
        at = end + 2;
        if (*name == '#' && server->token == NULL) at = strstr(at, "{{/token}}") + strlen("{{/token}}");
        if (*name != '#' && *name != '/') put_place(server, page, name, (size_t)(end - name), to);
    }
    fputs(at, to);
    if (fclose(to) == 0) http_reply(request, status, "text/html; charset=utf-8", text, size, extra);
    free(text);
}

// --- questions ------------------------------------------------------------------------------------------------------

static void end_asked(HttpRequest *request, void *argument) {
    (void)argument;
    Asked *asked = request->state;
    for (int who = 0; who < WHO; who++)
        if (asked->job[who] != NULL) job_release(asked->server->engine, asked->job[who]);
    free(asked->title);
    free(asked);
    request->state = NULL;
}

static void wake(void *connection) {
    http_wake(connection);
}

// What keeps a question from being answered.
typedef struct Refusal {
    int status;
    char message[400];
    const char *code;
} Refusal;

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

static bool submit(Asked *asked, HttpRequest *request, const TextOrMessages *prompt, int who, JobOptions *options,
                   Refusal *refusal) {
    Server *server = asked->server;
    int32_t *ids = NULL, count = 0;
    if (dataset_encode_prompt(prompt, server->run.tokenizer, server->run.chat, &ids, &count) != STATUS_OK) {
        free(ids);
        return refuse_failure(refusal);
    }
    options->generate.adapters = who == TUNED;
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
        return refuse(refusal, 503, NULL, stopping);
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

// The header of a 503, else "": seconds after which a place may be free, which grow with the queue.
static const char *retry_after(const Server *server, int status, char out[64]) {
    const EngineState state = engine_state(server->engine);
    out[0] = '\0';
    if (status == 503) snprintf(out, 64, "Retry-After: %d\n", 1 + state.waiting / state.capacity);
    return out;
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

static Asked *asked_new(HttpRequest *request, Server *server, Kind kind) {
    Asked *asked = calloc(1, sizeof *asked);
    if (asked == NULL) return NULL;
    asked->server = server;
    asked->kind = kind;
    request->state = asked;
    return asked;
}

// Both answers to a title.
static bool ask_title(Asked *asked, HttpRequest *request, const char *title, Refusal *refusal) {
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
    for (int who = 0; who < WHO && taken; who++) taken = submit(asked, request, &prompt, who, &options, refusal);
    jsonl_prompt_free(&prompt);
    return taken;
}

static void reply_refusal(HttpRequest *request, const Server *server, const Refusal *refusal) {
    char extra[64];
    reply_error(request, refusal->status, refusal->message, NULL, refusal->code,
                retry_after(server, refusal->status, extra));
}

// --- answers that have ended ----------------------------------------------------------------------------------------

static const char *finish_reason(JobEnd end) {
    return end == JOB_LENGTH ? "length" : "stop";
}

// Answers when all jobs have ended; else it is called again when one has.
static void reply_when_whole(HttpRequest *request) {
    Asked *asked = request->state;
    Server *server = asked->server;
    char *text[WHO] = {0};
    JobEnd end[WHO] = {0};
    bool whole = true, cancelled = false;
    for (int who = 0; who < WHO; who++) {
        if (asked->job[who] == NULL) continue;
        end[who] = job_read(server->engine, asked->job[who], 0, true, &text[who]);
        whole &= end[who] != JOB_GOES_ON;
        cancelled |= end[who] == JOB_CANCELLED || text[who] == NULL;
    }
    if (whole && asked->kind == KIND_FORM) {
        const Page page = {.title = asked->title, .answer = {text[TUNED], text[BASE]}};
        const Page failed = {.title = asked->title, .error = stopping};
        reply_page(request, server, cancelled ? 503 : 200, cancelled ? &failed : &page, NULL);
    } else if (whole && cancelled) {
        reply_error(request, 503, stopping, NULL, NULL, "Retry-After: 5\n");
    } else if (whole) {
        const int who = asked->job[TUNED] != NULL ? TUNED : BASE;
        asked->answer.completion_tokens = job_tokens(asked->job[who]);
        reply_json(request, 200, openai_whole(&asked->answer, text[who], finish_reason(end[who])), NULL);
    }
    for (int who = 0; who < WHO; who++) free(text[who]);
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
    for (int who = 0; who < WHO; who++) {
        char *text = NULL;
        if (asked->job[who] == NULL || asked->ended[who]) continue;
        const JobEnd end = job_read(asked->server->engine, asked->job[who], asked->read[who], false, &text);
        const char *news = text == NULL ? "" : text;
        asked->read[who] += strlen(news);
        asked->ended[who] = end != JOB_GOES_ON;
        over &= asked->ended[who];
        if (end == JOB_CANCELLED)
            put(to, openai_error_chunk(stopping, "server_error"));
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

// --- routes ---------------------------------------------------------------------------------------------------------

static void get_page(HttpRequest *request, Server *server) {
    reply_page(request, server, 200, &(Page){0}, NULL);
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
        reply_when_whole(request);
    } else if (asked != NULL) {
        char extra[64];
        reply_page(request, server, refusal.status, &(Page){.title = words, .error = refusal.message},
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
        http_stream(request, "text/event-stream", more);
    else if (asked != NULL)
        reply_refusal(request, server, &refusal);
    json_decref(body);
}

static void get_style(HttpRequest *request, Server *server) {
    (void)server;
    http_reply(request, 200, "text/css; charset=utf-8", page_style_css, strlen(page_style_css), NULL);
}

static void get_script(HttpRequest *request, Server *server) {
    (void)server;
    http_reply(request, 200, "text/javascript; charset=utf-8", page_app_js, strlen(page_app_js), NULL);
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
    const char *const names[] = {server->model, who_names[BASE]};
    reply_json(request, 200, openai_models(names, 2, server->start), NULL);
}

static bool find_model(const Server *server, const char *name, int *who) {
    *who = TUNED;
    if (name == NULL || strcmp(name, server->model) == 0 || strcmp(name, who_names[TUNED]) == 0) return true;
    *who = BASE;
    return strcmp(name, who_names[BASE]) == 0;
}

static bool ask_openai(Asked *asked, HttpRequest *request, const OpenAiRequest *from, int who, Refusal *refusal) {
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
                                       .model = who == TUNED ? server->model : who_names[BASE],
                                       .created = (int64_t)clock_unix_seconds()};
        if (!ask_openai(asked, request, &from, who, &refusal))
            reply_refusal(request, server, &refusal);
        else if (from.stream)
            http_stream(request, "text/event-stream", more);
        else
            reply_when_whole(request);
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

static void handle(HttpRequest *request, void *argument) {
    Server *server = argument;
    if (request->state != NULL) {
        reply_when_whole(request);
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

// --- the command ----------------------------------------------------------------------------------------------------

static Status read_token(Server *server) {
    const char *path = server->options.token_file;
    if (path == NULL) return STATUS_OK;
    size_t size = 0;
    TRY(file_read(path, TOKEN_FILE_MAX, &server->token, &size));
    server->token[strcspn(server->token, "\r\n")] = '\0';
    if (server->token[0] == '\0') return error_set(STATUS_USAGE, "%s:1: is empty; it must hold the token", path);
    return STATUS_OK;
}

static Status find_frame(Server *server) {
    char *why = NULL;
    TRY(prompt_frame_open(&server->frame, server->options.template_file, server->run.config.data.train,
                          server->run.chat != NULL, &why));
    if (why != NULL)
        log_warning("%s; so prompts are what is asked and no more (--prompt-template FILE says how to ask)", why);
    free(why);
    return STATUS_OK;
}

// What to click on: words of rows of the run.
static void find_examples(Server *server) {
    const Config *config = &server->run.config;
    JsonlFile file = {0};
    int found = 0;
    if (jsonl_open(&file, config->data.eval[0] != '\0' ? config->data.eval : config->data.train) != STATUS_OK)
        error_clear();
    for (int64_t i = 0; i < file.line_count && found < EXAMPLES; i++) {
        TextOrMessages prompt = {0};
        char *words = NULL;
        if (jsonl_prompt(&file, i, &prompt) == STATUS_OK) words = prompt_frame_words(&server->frame, &prompt);
        error_clear();
        bool fits = words != NULL && words[0] != '\0' && strlen(words) <= 200;
        for (int k = 0; k < found && fits; k++) fits = strcmp(words, server->examples[k]) != 0;
        if (fits)
            server->examples[found++] = words;
        else
            free(words);
        jsonl_prompt_free(&prompt);
    }
    jsonl_close(&file);
}

static bool is_loopback(const char *address) {
    struct in6_addr six;
    return strncmp(address, "127.", 4) == 0 ||
           (inet_pton(AF_INET6, address, &six) == 1 && memcmp(&six, &in6addr_loopback, sizeof six) == 0);
}

static void name_model(Server *server, const char *source) {
    size_t end = strlen(source);
    while (end > 1 && source[end - 1] == '/') end--;
    size_t first = end;
    while (first > 0 && source[first - 1] != '/') first--;
    snprintf(server->model, sizeof server->model, "%.*s", (int)(end - first), source + first);
}

static void tick(void *argument) {
    http_tick(((Server *)argument)->http);
}

static void describe(const Server *server, const char *from) {
    char frame[300];
    prompt_frame_describe(&server->frame, frame, sizeof frame);
    log_info("%-8s %s", "adapter", from);
    log_info("%-8s %s", "prompts", frame);
    if (server->copies > 1) log_info("%-8s %d copies of the model, a thread each", "threads", server->copies);
    const char *host = server->options.host;
    const bool six = strchr(host, ':') != NULL;
    log_info("%-8s http://%s%s%s:%d/  (Ctrl-C or SIGTERM ends it)", "serve", six ? "[" : "", host, six ? "]" : "",
             http_port(server->http));
    if (!server->loopback && server->token == NULL)
        log_warning("everybody who reaches %s can use this server; --token FILE asks for a token", host);
}

// The models that compute side by side: as many as there are threads, sequences and room in the cache for.
static Status open_copies(Server *server, const GeneratorSize *size) {
    Run *run = &server->run;
    const int64_t fit = size->cache_tokens / run->model.options.max_positions;
    int copies = run->copies;
    if (copies > size->sequences) copies = size->sequences;
    if (copies > fit) copies = fit > 1 ? (int)fit : 1;
    TRY(MEMORY_ALLOC(server->copy, copies, "copies of the model"));
    TRY(MEMORY_ALLOC(server->models, copies, "copies of the model"));
    server->models[server->copies++] = &run->model;
    while (server->copies < copies) {
        Model *copy = &server->copy[server->copies];
        server->models[server->copies++] = copy;
        TRY(tuned_copy_model(run, copy));
    }
    return STATUS_OK;
}

static Status serve(Server *server, const char *source) {
    const ServeOptions *options = &server->options;
    char from[PATH_MAX];
    server->run.apart = true;
    TRY(tuned_open(&server->run, source, true, from));
    TRY(read_token(server));
    TRY(find_frame(server));
    find_examples(server);
    name_model(server, source);
    server->start = (int64_t)clock_unix_seconds();
    server->loopback = is_loopback(options->host);
    server->seed = (uint64_t)options->sample.seed;
    if (server->seed == 0 && getrandom(&server->seed, sizeof server->seed, 0) < 0)
        server->seed = (uint64_t)server->start;
    const int32_t positions = server->run.model.options.max_positions;
    const int64_t most = options->sequences * positions;
    const EngineOptions engine = {.size = {.sequences = (int32_t)options->sequences,
                                           .cache_tokens = options->cache_tokens < most ? options->cache_tokens : most,
                                           .prefill_tokens = PREFILL_TOKENS},
                                  .queue = (int32_t)options->queue,
                                  .stop_seconds = STOP_SECONDS};
    TRY(open_copies(server, &engine.size));
    TRY(engine_open(&server->engine, server->models, server->copies, server->run.tokenizer, &engine));
    const HttpOptions http = {.address = options->host,
                              .port = (int)options->port,
                              .body_max = BODY_MAX,
                              .connections_max = (int)options->connections,
                              .request_seconds = options->request_seconds,
                              .handle = handle,
                              .end = end_asked,
                              .argument = server};
    TRY(http_open(&server->http, &http));
    describe(server, from);
    const Status status = engine_run(server->engine, stop_requested, tick, server);
    http_close(server->http, STOP_SECONDS);
    server->http = NULL;
    const EngineState state = engine_state(server->engine);
    log_info("%-8s %lld answers, %lld tokens", "served", (long long)state.answers, (long long)state.tokens);
    return status;
}

static Status run_command(Comm *comm, int argc, char **argv) {
    Server server = {.run.comm = comm,
                     .options = {.host = "127.0.0.1",
                                 .name = "Reviewer #2",
                                 .port = 8080,
                                 .sequences = 64,
                                 .queue = 256,
                                 .cache_tokens = CACHE_TOKENS,
                                 .connections = 1024,
                                 .request_seconds = 60,
                                 .sample = sample_defaults}};
    TRY(comm_agree(comm, command_parse(&command_serve, &argc, argv, &server.options)));
    if (comm->size > 1)
        return comm_agree(comm, error_set(STATUS_USAGE, "kto serve is one process; start it without mpirun"));
    const Status status = serve(&server, argv[0]);
    http_close(server.http, 0);
    engine_close(server.engine);
    for (int i = 1; i < server.copies; i++) model_close(&server.copy[i]);
    free(server.copy);
    free(server.models);
    prompt_frame_free(&server.frame);
    for (int i = 0; i < EXAMPLES; i++) free(server.examples[i]);
    free(server.token);
    run_close(&server.run);
    return comm_agree(comm, status);
}

#define AT(field) offsetof(ServeOptions, field)
static const Flag flags[] = {{.name = "--host",
                              .value = "ADDRESS",
                              .kind = FLAG_TEXT,
                              .offset = AT(host),
                              .help = "IP address to listen on (127.0.0.1: this machine alone; 0.0.0.0: all)"},
                             {.name = "--port",
                              .value = "PORT",
                              .kind = FLAG_WHOLE,
                              .offset = AT(port),
                              .high = 65535,
                              .help = "port to listen on (8080; 0: any that is free)"},
                             {.name = "--token",
                              .value = "FILE",
                              .kind = FLAG_FILE,
                              .offset = AT(token_file),
                              .help = "asks for the token in the file's first line (Authorization: Bearer ...)"},
                             {.name = "--prompt-template",
                              .value = "FILE",
                              .kind = FLAG_FILE,
                              .offset = AT(template_file),
                              .help = "text around {title} (as the training rows' prompts have it)"},
                             {.name = "--name",
                              .value = "TEXT",
                              .kind = FLAG_TEXT,
                              .offset = AT(name),
                              .help = "heading of the page (Reviewer #2)"},
                             {.name = "--sequences",
                              .value = "N",
                              .kind = FLAG_WHOLE,
                              .offset = AT(sequences),
                              .low = 1,
                              .high = 4096,
                              .help = "answers computed together (64)"},
                             {.name = "--queue",
                              .value = "N",
                              .kind = FLAG_WHOLE,
                              .offset = AT(queue),
                              .high = 1 << 20,
                              .help = "questions that may wait beyond those (256); more get 503 and Retry-After"},
                             {.name = "--cache-tokens",
                              .value = "N",
                              .kind = FLAG_WHOLE,
                              .offset = AT(cache_tokens),
                              .low = 64,
                              .high = 1 << 24,
                              .help = "tokens of all prompts and answers in the key/value cache (65536)"},
                             {.name = "--connections",
                              .value = "N",
                              .kind = FLAG_WHOLE,
                              .offset = AT(connections),
                              .low = 4,
                              .high = 60000,
                              .help = "connections at most (1024)"},
                             {.name = "--request-seconds",
                              .value = "S",
                              .kind = FLAG_REAL,
                              .offset = AT(request_seconds),
                              .high = 86400,
                              .help = "that a client may take to send a request (60)"},
                             SAMPLING_FLAGS(ServeOptions, sample),
                             {0}};

const Command command_serve = {
    .name = "serve",
    .operands = "RUN_DIR|CONFIG",
    .operands_min = 1,
    .operands_max = 1,
    .stops_on_request = true,
    .summary = "the trained model as a web page and behind OpenAI's API",
    .text =
        "The page shows the trained model's answer beside the base model's. POST /v1/chat/completions and\n"
        "/v1/completions take what OpenAI's clients send, model \"base\" being the one before training; GET /health "
        "says\n"
        "how it goes. Sampling flags are defaults that a request may replace; --max-tokens is also the longest answer\n"
        "that one may ask for, and --seed 0 gives another answer each time.",
    .examples = "kto serve runs/first\n"
                "kto serve runs/first --port 9000 --temperature 0.7 --token token.txt --host 0.0.0.0",
    .flags = flags,
    .run = run_command,
};
