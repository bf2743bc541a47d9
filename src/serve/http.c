// See http.h. Every connection is in the server's list, so that one which sends its request byte by byte can be closed
// in time; libmicrohttpd's own limit is on silence only.
#include "src/serve/http.h"

#include "src/base/clock.h"

#include <microhttpd.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SILENCE_SECONDS = 30, CONNECTION_MEMORY = 32 << 10, BLOCK = 4096 };

// One TCP connection, of which there is one request at a time.
typedef struct Socket {
    struct Socket *next, **at;
    int fd;
    double since; // its request is awaited; 0: one is being answered
    bool cut;
} Socket;

struct HttpServer {
    HttpOptions options;
    struct MHD_Daemon *daemon;
    pthread_mutex_t lock;    // of `sockets`
    pthread_mutex_t waiting; // of who waits for http_wake
    Socket *sockets;
    int port;
};

struct HttpConnection { // a request on its way
    HttpRequest request;
    HttpServer *server;
    struct MHD_Connection *mhd;
    Socket *socket;
    char *body;
    size_t capacity;
    bool too_large, replied;
    bool suspended, woken; // woken: before it was suspended
    bool (*more)(HttpRequest *request, char **piece);
    char *piece; // what a stream could not yet write
    size_t piece_at;
};

// --- answers --------------------------------------------------------------------------------------------------------

static const char *const security[][2] = {
    {"Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
                                "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"},
    {"X-Content-Type-Options", "nosniff"},
    {"X-Frame-Options", "DENY"},
    {"Referrer-Policy", "same-origin"}, // with no-referrer a form of ours would come with Origin: null
    {"Cross-Origin-Resource-Policy", "same-origin"},
    {"Cache-Control", "no-store"},
};

static void add_headers(struct MHD_Response *response, const char *type, const char *extra) {
    MHD_add_response_header(response, "Content-Type", type);
    for (size_t i = 0; i < sizeof security / sizeof *security; i++)
        MHD_add_response_header(response, security[i][0], security[i][1]);
    while (extra != NULL && *extra != '\0') {
        char line[256];
        const size_t length = strcspn(extra, "\n");
        snprintf(line, sizeof line, "%.*s", (int)length, extra);
        char *colon = strstr(line, ": ");
        if (colon != NULL) {
            *colon = '\0';
            MHD_add_response_header(response, line, colon + 2);
        }
        extra += length + (extra[length] == '\n');
    }
}

void http_reply(HttpRequest *request, int status, const char *type, const char *body, size_t size, const char *extra) {
    struct HttpConnection *c = request->connection;
    struct MHD_Response *response = MHD_create_response_from_buffer(size, (void *)body, MHD_RESPMEM_MUST_COPY);
    if (response == NULL) return;
    add_headers(response, type, extra);
    c->replied = MHD_queue_response(c->mhd, (unsigned)status, response) == MHD_YES;
    MHD_destroy_response(response);
}

// Waits for http_wake; false: it has come already.
static bool suspend(struct HttpConnection *c) {
    pthread_mutex_lock(&c->server->waiting);
    const bool waits = !c->woken;
    c->woken = false;
    c->suspended = waits;
    if (waits) MHD_suspend_connection(c->mhd);
    pthread_mutex_unlock(&c->server->waiting);
    return waits;
}

void http_wake(struct HttpConnection *c) {
    pthread_mutex_lock(&c->server->waiting);
    if (c->suspended) {
        c->suspended = false;
        MHD_resume_connection(c->mhd);
    } else {
        c->woken = true;
    }
    pthread_mutex_unlock(&c->server->waiting);
}

static ssize_t read_stream(void *argument, uint64_t position, char *to, size_t room) {
    (void)position;
    struct HttpConnection *c = argument;
    while (c->piece == NULL || c->piece[0] == '\0') {
        const bool asked = c->piece != NULL; // and there was nothing
        free(c->piece);
        c->piece = NULL;
        c->piece_at = 0;
        if (asked && suspend(c)) return 0;
        if (!c->more(&c->request, &c->piece)) return MHD_CONTENT_READER_END_OF_STREAM;
        if (c->piece == NULL) return MHD_CONTENT_READER_END_WITH_ERROR;
    }
    size_t left = strlen(c->piece + c->piece_at);
    if (left > room) left = room;
    memcpy(to, c->piece + c->piece_at, left);
    c->piece_at += left;
    if (c->piece[c->piece_at] == '\0') {
        free(c->piece);
        c->piece = NULL;
    }
    return (ssize_t)left;
}

void http_stream(HttpRequest *request, const char *type, bool (*more)(HttpRequest *request, char **piece)) {
    struct HttpConnection *c = request->connection;
    c->more = more;
    struct MHD_Response *response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, read_stream, c, NULL);
    if (response == NULL) return;
    add_headers(response, type, "X-Accel-Buffering: no\n");
    c->replied = MHD_queue_response(c->mhd, MHD_HTTP_OK, response) == MHD_YES;
    MHD_destroy_response(response);
}

// --- requests -------------------------------------------------------------------------------------------------------

const char *http_header(const HttpRequest *request, const char *name) {
    return MHD_lookup_connection_value(request->connection->mhd, MHD_HEADER_KIND, name);
}

typedef struct FormField {
    const char *name;
    char *value;
    size_t size;
} FormField;

static enum MHD_Result take_field(void *argument, enum MHD_ValueKind kind, const char *key, const char *file,
                                  const char *type, const char *encoding, const char *data, uint64_t offset,
                                  size_t size) {
    (void)kind, (void)file, (void)type, (void)encoding, (void)offset;
    FormField *field = argument;
    if (strcmp(key, field->name) != 0) return MHD_YES;
    char *value = realloc(field->value, field->size + size + 1);
    if (value == NULL) return MHD_NO;
    if (size > 0) memcpy(value + field->size, data, size);
    field->value = value;
    field->size += size;
    value[field->size] = '\0';
    return MHD_YES;
}

char *http_form_field(const HttpRequest *request, const char *name) {
    FormField field = {.name = name};
    struct MHD_PostProcessor *post = MHD_create_post_processor(request->connection->mhd, BLOCK, take_field, &field);
    if (post == NULL) return NULL; // another type of body
    MHD_post_process(post, request->body, request->body_size);
    MHD_destroy_post_processor(post);
    if (field.value != NULL && strlen(field.value) != field.size) { // NUL within
        free(field.value);
        return NULL;
    }
    return field.value;
}

static void await_request(HttpServer *server, Socket *socket, bool awaited) {
    if (socket == NULL) return;
    pthread_mutex_lock(&server->lock);
    socket->since = awaited ? clock_seconds() : 0;
    pthread_mutex_unlock(&server->lock);
}

static struct HttpConnection *begin(HttpServer *server, struct MHD_Connection *mhd, const char *path,
                                    const char *method) {
    struct HttpConnection *c = calloc(1, sizeof *c);
    if (c == NULL) return NULL;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    c->server = server;
    c->mhd = mhd;
    c->socket = info != NULL ? info->socket_context : NULL;
    c->request = (HttpRequest){.method = method, .path = path, .body = "", .connection = c};
    return c;
}

static bool take_body(struct HttpConnection *c, const char *data, size_t size) {
    const size_t max = c->server->options.body_max;
    if (c->too_large || c->request.body_size + size > max) {
        c->too_large = true; // the rest is read and thrown away, as long as request_seconds allow
        return true;
    }
    if (c->request.body_size + size + 1 > c->capacity) {
        const size_t capacity = 2 * (c->request.body_size + size) + 1;
        char *body = realloc(c->body, capacity);
        if (body == NULL) return false;
        c->body = body;
        c->capacity = capacity;
    }
    memcpy(c->body + c->request.body_size, data, size);
    c->request.body_size += size;
    c->body[c->request.body_size] = '\0';
    c->request.body = c->body;
    return true;
}

static enum MHD_Result refuse_size(struct HttpConnection *c) {
    static const char text[] =
        "{\"error\": {\"message\": \"the body is too large\", \"type\": \"invalid_request_error\", "
        "\"param\": null, \"code\": null}}\n";
    http_reply(&c->request, MHD_HTTP_CONTENT_TOO_LARGE, "application/json", text, sizeof text - 1,
               "Connection: close\n");
    return c->replied ? MHD_YES : MHD_NO;
}

static enum MHD_Result access_handler(void *argument, struct MHD_Connection *mhd, const char *path, const char *method,
                                      const char *version, const char *data, size_t *data_size, void **state) {
    (void)version;
    HttpServer *server = argument;
    struct HttpConnection *c = *state;
    if (c == NULL) {
        *state = c = begin(server, mhd, path, method);
        if (c == NULL) return MHD_NO;
        const char *length = http_header(&c->request, MHD_HTTP_HEADER_CONTENT_LENGTH);
        if (length != NULL && strtoull(length, NULL, 10) > server->options.body_max) return refuse_size(c);
        return MHD_YES;
    }
    if (*data_size > 0) {
        const bool taken = take_body(c, data, *data_size);
        *data_size = 0;
        return taken ? MHD_YES : MHD_NO;
    }
    if (c->replied) return MHD_YES;
    await_request(server, c->socket, false);
    if (c->too_large) return refuse_size(c);
    do {
        server->options.handle(&c->request, server->options.argument);
        if (!c->replied && c->request.state == NULL) return MHD_NO; // it could not be answered at all: out of memory
    } while (!c->replied && !suspend(c));
    return MHD_YES;
}

static void completed(void *argument, struct MHD_Connection *mhd, void **state, enum MHD_RequestTerminationCode code) {
    (void)mhd, (void)code;
    HttpServer *server = argument;
    struct HttpConnection *c = *state;
    if (c == NULL) return;
    if (c->request.state != NULL) server->options.end(&c->request, server->options.argument);
    await_request(server, c->socket, true);
    free(c->body);
    free(c->piece);
    free(c);
    *state = NULL;
}

// --- connections ----------------------------------------------------------------------------------------------------

static void connection_changed(void *argument, struct MHD_Connection *mhd, void **context,
                               enum MHD_ConnectionNotificationCode code) {
    HttpServer *server = argument;
    pthread_mutex_lock(&server->lock);
    Socket *socket = *context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
        socket = calloc(1, sizeof *socket);
        if (socket != NULL && info != NULL) {
            *socket = (Socket){.next = server->sockets, .at = &server->sockets, .fd = info->connect_fd};
            if (socket->next != NULL) socket->next->at = &socket->next;
            server->sockets = socket;
            socket->since = clock_seconds();
        }
        *context = socket;
    } else if (socket != NULL) {
        *socket->at = socket->next;
        if (socket->next != NULL) socket->next->at = socket->at;
        free(socket);
        *context = NULL;
    }
    pthread_mutex_unlock(&server->lock);
}

void http_tick(HttpServer *server) {
    const double now = clock_seconds();
    pthread_mutex_lock(&server->lock);
    for (Socket *socket = server->sockets; socket != NULL; socket = socket->next) {
        if (socket->cut || socket->since == 0 || now - socket->since < server->options.request_seconds) continue;
        socket->cut = true;
        shutdown(socket->fd, SHUT_RDWR); // the server's thread sees the end and closes it
    }
    pthread_mutex_unlock(&server->lock);
}

// --- the server -----------------------------------------------------------------------------------------------------

static void quiet(void *argument, const char *format, va_list arguments) {
    (void)argument, (void)format, (void)arguments;
}

static Status start(HttpServer *server) {
    const HttpOptions *options = &server->options;
    char port[16];
    snprintf(port, sizeof port, "%d", options->port);
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_PASSIVE};
    struct addrinfo *found = NULL;
    if (getaddrinfo(options->address, port, &hints, &found) != 0)
        return error_set(STATUS_USAGE, "\"%s\" is no IP address; use e.g. 127.0.0.1", options->address);
    const unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG |
                           (found->ai_family == AF_INET6 ? MHD_USE_IPv6 : 0);
    server->daemon =
        MHD_start_daemon(flags, 0, NULL, NULL, access_handler, server, MHD_OPTION_EXTERNAL_LOGGER, quiet, NULL,
                         MHD_OPTION_SOCK_ADDR, found->ai_addr, MHD_OPTION_CONNECTION_LIMIT,
                         (unsigned)options->connections_max, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)SILENCE_SECONDS,
                         MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY, MHD_OPTION_NOTIFY_COMPLETED,
                         completed, server, MHD_OPTION_NOTIFY_CONNECTION, connection_changed, server, MHD_OPTION_END);
    freeaddrinfo(found);
    if (server->daemon == NULL)
        return error_set(STATUS_USAGE, "%s port %d cannot be listened on (is it in use?); choose another with --port",
                         options->address, options->port);
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_BIND_PORT);
    server->port = info != NULL ? info->port : options->port;
    return STATUS_OK;
}

Status http_open(HttpServer **out, const HttpOptions *options) {
    // A descriptor a connection, and some for everything else.
    struct rlimit files;
    const rlim_t wanted = (rlim_t)options->connections_max + 64;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < wanted) {
        files.rlim_cur = files.rlim_max < wanted ? files.rlim_max : wanted;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    HttpServer *server = calloc(1, sizeof *server);
    if (server == NULL) return error_set(STATUS_FAILED, "out of memory for the server");
    *out = server;
    server->options = *options;
    pthread_mutex_init(&server->lock, NULL);
    pthread_mutex_init(&server->waiting, NULL);
    return start(server);
}

int http_port(const HttpServer *server) {
    return server->port;
}

void http_close(HttpServer *server, double seconds) {
    if (server == NULL) return;
    if (server->daemon != NULL) {
        const MHD_socket listening = MHD_quiesce_daemon(server->daemon);
        const double until = clock_seconds() + seconds;
        bool busy = true;
        while (busy && clock_seconds() < until) {
            busy = false;
            pthread_mutex_lock(&server->lock);
            for (const Socket *socket = server->sockets; socket != NULL; socket = socket->next)
                busy |= socket->since == 0;
            pthread_mutex_unlock(&server->lock);
            nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        }
        MHD_stop_daemon(server->daemon);
        if (listening != MHD_INVALID_SOCKET) close(listening);
    }
    pthread_mutex_destroy(&server->lock);
    pthread_mutex_destroy(&server->waiting);
    free(server);
}
