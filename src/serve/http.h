// An HTTP server for few routes and slow clients: libmicrohttpd in one thread of its own, with the limits that a server
// on a shared machine needs. A request is handled when it has come whole; an answer may be given at once, later, or in
// pieces.
#pragma once
#include "src/base/status.h"
#include <stddef.h>

typedef struct HttpServer HttpServer;

typedef struct HttpRequest {
    const char *method, *path, *body; // body: NUL-terminated; "" if none
    size_t body_size;
    void *state; // the handler's, of this request; NULL at first
    struct HttpConnection *connection;
} HttpRequest;

typedef struct HttpOptions {
    const char *address; // numeric
    int port;            // 0: any that is free
    size_t body_max;     // bytes
    int connections_max;
    double request_seconds; // that a client may take to send a request
    // Called in the server's thread for a request that is whole: answers with http_reply or http_stream, or returns
    // having done neither and is called again after http_wake.
    void (*handle)(HttpRequest *request, void *argument);
    // The request is over, answered or not: frees request->state (not NULL).
    void (*end)(HttpRequest *request, void *argument);
    void *argument;
} HttpOptions;

// STATUS_USAGE naming address and port when they cannot be had.
Status http_open(HttpServer **out, const HttpOptions *options);
int http_port(const HttpServer *server);
// Closes connections whose request does not come; to be called about once a second.
void http_tick(HttpServer *server);
// Takes no more connections, gives those that are there `seconds`, and ends. Nothing may wait for a wake any more.
void http_close(HttpServer *server, double seconds);

const char *http_header(const HttpRequest *request, const char *name); // NULL: not sent
// A field of an application/x-www-form-urlencoded body, decoded; NULL: none. Caller frees.
char *http_form_field(const HttpRequest *request, const char *name);

// Answers; `body` is copied. `extra`: more headers, "Name: value\n" each, or NULL.
void http_reply(HttpRequest *request, int status, const char *type, const char *body, size_t size, const char *extra);
// Answers in pieces: `more` is called (in the server's thread) for the next one, which it gives in *piece (malloc'ed,
// "" to be called again after http_wake) or returns false at the end.
void http_stream(HttpRequest *request, const char *type, bool (*more)(HttpRequest *request, char **piece));
// From any thread, while the request is not over.
void http_wake(struct HttpConnection *connection);
