// `kto serve`: a trained model as a web page and behind OpenAI's API. The command's flags, and what it says at its
// start and end; the server is src/serve/.
#include "src/commands/commands.h"

#include "src/base/log.h"
#include "src/commands/sampling.h"
#include "src/serve/server.h"

#include <limits.h>
#include <string.h>

enum { CACHE_TOKENS = 1 << 16 };

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

static Status serve(Server *server, const char *source) {
    char from[PATH_MAX];
    TRY(server_open(server, source, from));
    describe(server, from);
    const Status status = server_run(server);
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
    server_close(&server);
    return comm_agree(comm, status);
}

#define AT(field) offsetof(ServerOptions, field)
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
                             SAMPLING_FLAGS(ServerOptions, sample),
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
