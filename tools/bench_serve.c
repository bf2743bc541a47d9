// Clients of `kto serve`: N connections that each ask, read the whole answer and ask again, for some seconds. Says
// requests, tokens a second as the server counts them, times to an answer, and what went wrong.
//
//     bench_serve [--clients N] [--seconds S] [--port P] [--stream] [--pid PID] TITLES.jsonl
//
// TITLES.jsonl: {"prompt": [messages]} a line, whose last message is asked. --pid also prints the server's resident
// memory at the start, in the middle and at the end. A 503 with Retry-After is waited for and asked again. Exit code 1
// when a request failed in any other way.
#include "io/jsonl.h"
#include "src/base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ANSWER_MAX = 1 << 20 };

typedef struct Client {
    int fd;
    int64_t question;
    char *request, *answer;
    size_t got;
    double start, retry_at; // retry_at 0: under way
} Client;

typedef struct Bench {
    int clients, port, stream;
    double seconds;
    long pid;
    char **bodies;
    int64_t body_count;
    Client *client;
    int epoll;
    int64_t answers, tokens, refused, failed;
    double *times;
    int64_t time_capacity;
} Bench;

static void fail(const char *what) {
    fprintf(stderr, "bench_serve: %s\n", what);
    exit(1);
}

static void read_bodies(Bench *bench, const char *path) {
    JsonlFile file;
    if (jsonl_open(&file, path) != STATUS_OK) fail(error_text());
    bench->bodies = calloc((size_t)file.line_count, sizeof *bench->bodies);
    for (int64_t i = 0; i < file.line_count; i++) {
        TextOrMessages prompt;
        if (jsonl_prompt(&file, i, &prompt) != STATUS_OK) fail(error_text());
        const char *words = prompt.text != NULL ? prompt.text : prompt.messages[prompt.message_count - 1].content;
        json_t *body = json_pack("{s:[{s:s, s:s}], s:b, s:{s:b}}", "messages", "role", "user", "content", words,
                                 "stream", bench->stream, "stream_options", "include_usage", 1);
        bench->bodies[bench->body_count++] = json_dumps(body, JSON_COMPACT);
        json_decref(body);
        jsonl_prompt_free(&prompt);
    }
    jsonl_close(&file);
}

static void connect_client(Bench *bench, Client *client) {
    const struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)bench->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    client->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (client->fd < 0 || connect(client->fd, (const struct sockaddr *)&to, sizeof to) != 0)
        fail("the server does not take a connection");
    fcntl(client->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    epoll_ctl(bench->epoll, EPOLL_CTL_ADD, client->fd, &event);
}

static void ask(Bench *bench, Client *client) {
    const char *body = bench->bodies[client->question % bench->body_count];
    client->question += bench->clients;
    free(client->request);
    if (asprintf(&client->request,
                 "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                 "Content-Length: %zu\r\n\r\n%s",
                 strlen(body), body) < 0)
        fail("out of memory");
    client->got = 0;
    client->retry_at = 0;
    client->start = clock_seconds();
    const size_t size = strlen(client->request);
    if (send(client->fd, client->request, size, MSG_NOSIGNAL) != (ssize_t)size) { // a small request fits the socket
        bench->failed++;
        close(client->fd);
        connect_client(bench, client);
        client->retry_at = clock_seconds() + 0.1;
    }
}

// Whether the answer is whole: its length as said, or the last chunk.
static bool whole(const Client *client) {
    const char *body = strstr(client->answer, "\r\n\r\n");
    if (body == NULL) return false;
    const char *length = strcasestr(client->answer, "\r\nContent-Length: ");
    if (length != NULL && length < body)
        return (size_t)(client->answer + client->got - body - 4) >= strtoull(length + 18, NULL, 10);
    return client->got >= 5 && memcmp(client->answer + client->got - 5, "0\r\n\r\n", 5) == 0;
}

static void take_answer(Bench *bench, Client *client) {
    const int status = atoi(client->answer + strlen("HTTP/1.1 "));
    const char *retry = strcasestr(client->answer, "\r\nRetry-After: ");
    const char *tokens = strstr(client->answer, "\"completion_tokens\":");
    if (status == 503 && retry != NULL) {
        bench->refused++;
        client->retry_at = clock_seconds() + atoi(retry + 15);
        return;
    }
    if (status != 200 || tokens == NULL) {
        if (bench->failed++ == 0) fprintf(stderr, "bench_serve: %.300s\n", client->answer);
    } else {
        if (bench->answers == bench->time_capacity) {
            bench->time_capacity = 2 * bench->time_capacity + 1024;
            bench->times = realloc(bench->times, (size_t)bench->time_capacity * sizeof *bench->times);
        }
        bench->times[bench->answers++] = clock_seconds() - client->start;
        bench->tokens += atoll(tokens + 20);
    }
    ask(bench, client);
}

static void read_answer(Bench *bench, Client *client) {
    const ssize_t got = recv(client->fd, client->answer + client->got, ANSWER_MAX - 1 - client->got, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        bench->failed++;
        close(client->fd);
        connect_client(bench, client);
        ask(bench, client);
        return;
    }
    client->got += (size_t)got;
    client->answer[client->got] = '\0';
    if (whole(client)) take_answer(bench, client);
}

static double resident_mib(long pid) {
    char path[64];
    long pages[2] = {0};
    snprintf(path, sizeof path, "/proc/%ld/statm", pid);
    FILE *file = fopen(path, "r");
    if (file == NULL || fscanf(file, "%ld %ld", &pages[0], &pages[1]) != 2) fail("no process of that id");
    fclose(file);
    return (double)pages[1] * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void run(Bench *bench) {
    const double start = clock_seconds(), end = start + bench->seconds;
    double memory[3] = {0}, middle = start + bench->seconds / 2;
    if (bench->pid > 0) memory[0] = resident_mib(bench->pid);
    for (int i = 0; i < bench->clients; i++) {
        Client *client = &bench->client[i];
        client->question = i;
        client->answer = malloc(ANSWER_MAX);
        connect_client(bench, client);
        ask(bench, client);
    }
    struct epoll_event events[256];
    for (double now = start; now < end; now = clock_seconds()) {
        const int count = epoll_wait(bench->epoll, events, 256, 50);
        for (int i = 0; i < count; i++) read_answer(bench, events[i].data.ptr);
        for (int i = 0; i < bench->clients; i++)
            if (bench->client[i].retry_at > 0 && clock_seconds() > bench->client[i].retry_at)
                ask(bench, &bench->client[i]);
        if (bench->pid > 0 && now > middle) {
            memory[1] = resident_mib(bench->pid);
            middle = end;
        }
    }
    const double seconds = clock_seconds() - start;
    if (bench->answers == 0) fail("no answer came");
    qsort(bench->times, (size_t)bench->answers, sizeof *bench->times, by_value);
    printf("%d clients, %.0f s: %lld answers, %.1f a second, %.0f tokens a second; ms to an answer: median %.1f, 99 %% "
           "%.1f, "
           "most %.1f; %lld asked to come back (503), %lld failed\n",
           bench->clients, seconds, (long long)bench->answers, (double)bench->answers / seconds,
           (double)bench->tokens / seconds, 1e3 * bench->times[bench->answers / 2],
           1e3 * bench->times[bench->answers * 99 / 100], 1e3 * bench->times[bench->answers - 1],
           (long long)bench->refused, (long long)bench->failed);
    if (bench->pid > 0)
        printf("server's resident memory, MiB: %.1f, %.1f, %.1f\n", memory[0], memory[1], resident_mib(bench->pid));
}

static void bench_free(Bench *bench) {
    for (int i = 0; i < bench->clients; i++) {
        free(bench->client[i].request);
        free(bench->client[i].answer);
        close(bench->client[i].fd);
    }
    for (int64_t i = 0; i < bench->body_count; i++) free(bench->bodies[i]);
    free(bench->client);
    free(bench->bodies);
    free(bench->times);
    close(bench->epoll);
}

int main(int argc, char **argv) {
    Bench bench = {.clients = 64, .seconds = 10, .port = 8080};
    static const struct option flags[] = {{"clients", 1, NULL, 'c'}, {"seconds", 1, NULL, 's'}, {"port", 1, NULL, 'p'},
                                          {"stream", 0, NULL, 'e'},  {"pid", 1, NULL, 'i'},     {0}};
    for (int flag; (flag = getopt_long(argc, argv, "", flags, NULL)) >= 0;) {
        switch (flag) {
        case 'c':
            bench.clients = atoi(optarg);
            break;
        case 's':
            bench.seconds = atof(optarg);
            break;
        case 'p':
            bench.port = atoi(optarg);
            break;
        case 'e':
            bench.stream = 1;
            break;
        case 'i':
            bench.pid = atol(optarg);
            break;
        default:
            return 2;
        }
    }
    if (optind + 1 != argc || bench.clients < 1 || !(bench.seconds > 0))
        fail("usage: bench_serve [--clients N] [--seconds S] [--port P] [--stream] [--pid PID] TITLES.jsonl");
    read_bodies(&bench, argv[optind]);
    bench.client = calloc((size_t)bench.clients, sizeof *bench.client);
    bench.epoll = epoll_create1(0);
    run(&bench);
    bench_free(&bench);
    return bench.failed > 0;
}
