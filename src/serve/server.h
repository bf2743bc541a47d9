// The server of a trained model: its state, and how it is opened, run and closed. The network is http.h's, what
// computes src/decode/engine.h; which path leads where is decided in routes.c, and what is said to the person who
// starts it by src/commands/serve.c.
#pragma once
#include "src/data/prompt_frame.h"
#include "src/decode/answers.h"
#include "src/decode/engine.h"
#include "src/serve/http.h"
#include "src/setup/run.h"

#define SERVER_EXAMPLES 3
#define SERVER_STOPPING "the server is stopping"

// Who answers.
enum { WHO_TUNED, WHO_BASE, WHO_COUNT };
extern const char *const who_names[WHO_COUNT];

typedef struct ServerOptions {
    const char *host;          // numeric address
    const char *name;          // heading of the page
    const char *template_file; // of prompts; NULL: as the training rows have it
    const char *token_file;    // NULL: no token is asked for
    int64_t port;              // 0: any that is free
    int64_t sequences;         // answered together
    int64_t queue;             // jobs that may wait for a place
    int64_t cache_tokens, connections;
    double request_seconds; // that a client may take to send a request
    SampleOptions sample;   // of requests that do not say; max_tokens: at most; seed 0: another one each start
} ServerOptions;

typedef struct Server {
    Run run;
    ServerOptions options;
    PromptFrame frame;
    Model *copy;    // [copies] but for the first
    Model **models; // [copies]
    int copies;
    Engine *engine;
    HttpServer *http;
    char *token;     // NULL: none is asked for
    char model[256]; // its name in the API
    char *examples[SERVER_EXAMPLES];
    bool loopback;
    uint64_t seed;
    uint32_t asked; // requests so far
    int64_t start;  // seconds since 1970
} Server;

// Opens the model that `source` (RUN_DIR or CONFIG) names, and listens. The caller has set run.comm (one rank) and
// options, all else is zero. `from`: as tuned_open. STATUS_USAGE for an empty token file or an address that cannot be
// had.
Status server_open(Server *server, const char *source, char *from);
// Answers until the process is asked to stop (comm/stop.h), then ends the network.
Status server_run(Server *server);
void server_close(Server *server); // also after a failed server_open
