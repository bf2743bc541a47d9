// What a request asks the engine: a title, of the tuned and the base model, or what OpenAI's API takes. Jobs go into
// the engine's queue here, or the reason why not comes back. What comes of them
// is read and sent by replies.h.
#pragma once
#include "io/openai.h"
#include "src/serve/server.h"

typedef enum Kind { KIND_OPENAI, KIND_REVIEW, KIND_FORM } Kind;

// One request that waits for answers.
typedef struct Asked {
    Server *server;
    Kind kind;
    Job *job[WHO_COUNT]; // NULL: not asked
    size_t read[WHO_COUNT];
    bool ended[WHO_COUNT];
    bool begun, over; // of a stream: its first and its last piece were made
    bool include_usage;
    OpenAiAnswer answer;
    char id[40];
    char *title;
} Asked;

// What keeps a question from being answered.
typedef struct Refusal {
    int status;
    char message[400];
    const char *code;
} Refusal;

// A request's question, without jobs, as request->state; NULL when out of memory. The HttpServer ends it by asked_end.
Asked *asked_new(HttpRequest *request, Server *server, Kind kind);
void asked_end(HttpRequest *request, void *argument); // as HttpOptions.end: releases the jobs

// Both answers to a title (NULL: none was given). False: refused, and *refusal says why.
bool ask_title(Asked *asked, HttpRequest *request, const char *title, Refusal *refusal);
// One answer of WHO_TUNED or WHO_BASE. False as above.
bool ask_openai(Asked *asked, HttpRequest *request, const OpenAiRequest *from, int who, Refusal *refusal);
