// Opening the server piece by piece: model, token, prompt frame, examples, copies of the model, engine, network. Then
// the engine computes in the calling thread until a signal ends it. Requests come in the network's thread, and are
// routes.c's.
#include "src/serve/server.h"

#include "comm/stop.h"
#include "io/files.h"
#include "io/jsonl.h"
#include "src/base/clock.h"
#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/serve/questions.h"
#include "src/serve/routes.h"
#include "src/setup/tuned.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
    BODY_MAX = 1 << 20, // bytes of a request's body
    TOKEN_FILE_MAX = 4096,
    STOP_SECONDS = 5,     // for answers under way when the server is asked to stop
    PREFILL_TOKENS = 256, // of prompts between two tokens of those that answer
};

const char *const who_names[WHO_COUNT] = {"tuned", "base"};

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
    for (int64_t i = 0; i < file.line_count && found < SERVER_EXAMPLES; i++) {
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

static Status open_engine(Server *server) {
    const ServerOptions *options = &server->options;
    const int32_t positions = server->run.model.options.max_positions;
    const int64_t most = options->sequences * positions;
    const EngineOptions engine = {.size = {.sequences = (int32_t)options->sequences,
                                           .cache_tokens = options->cache_tokens < most ? options->cache_tokens : most,
                                           .prefill_tokens = PREFILL_TOKENS},
                                  .queue = (int32_t)options->queue,
                                  .stop_seconds = STOP_SECONDS};
    TRY(open_copies(server, &engine.size));
    return engine_open(&server->engine, server->models, server->copies, server->run.tokenizer, &engine);
}

static Status open_http(Server *server) {
    const ServerOptions *options = &server->options;
    const HttpOptions http = {.address = options->host,
                              .port = (int)options->port,
                              .body_max = BODY_MAX,
                              .connections_max = (int)options->connections,
                              .request_seconds = options->request_seconds,
                              .handle = routes_handle,
                              .end = asked_end,
                              .argument = server};
    return http_open(&server->http, &http);
}

Status server_open(Server *server, const char *source, char *from) {
    server->run.apart = true;
    TRY(tuned_open(&server->run, source, true, from));
    TRY(read_token(server));
    TRY(find_frame(server));
    find_examples(server);
    name_model(server, source);
    server->start = (int64_t)clock_unix_seconds();
    server->loopback = is_loopback(server->options.host);
    server->seed = (uint64_t)server->options.sample.seed;
    if (server->seed == 0 && getrandom(&server->seed, sizeof server->seed, 0) < 0)
        server->seed = (uint64_t)server->start;
    TRY(open_engine(server));
    return open_http(server);
}

static void tick(void *argument) {
    http_tick(((Server *)argument)->http);
}

Status server_run(Server *server) {
    const Status status = engine_run(server->engine, stop_requested, tick, server);
    http_close(server->http, STOP_SECONDS);
    server->http = NULL;
    return status;
}

void server_close(Server *server) {
    http_close(server->http, 0);
    engine_close(server->engine);
    for (int i = 1; i < server->copies; i++) model_close(&server->copy[i]);
    free(server->copy);
    free(server->models);
    prompt_frame_free(&server->frame);
    for (int i = 0; i < SERVER_EXAMPLES; i++) free(server->examples[i]);
    free(server->token);
    run_close(&server->run);
}
