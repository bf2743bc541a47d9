// The page that people open: HTML with what was asked and answered, which needs no script, and its style and script.
// The files themselves stand in src/serve/page/ and are part of the program.
#pragma once
#include "src/serve/server.h"

typedef struct Page {
    const char *title, *error, *answer[WHO_COUNT]; // NULL: none
} Page;

// Answers with the page; `extra`: more headers, or NULL.
void page_reply(HttpRequest *request, const Server *server, int status, const Page *page, const char *extra);
void page_reply_style(HttpRequest *request);
void page_reply_script(HttpRequest *request);
