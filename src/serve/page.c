// Filling the places of src/serve/page/index.html, which CMake embeds with the page's other files. Everything that
// comes from outside is escaped here. What the page shows is decided by its callers.
#include "src/serve/page.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const char page_index_html[], page_style_css[], page_app_js[];

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

static void put_examples(const Server *server, FILE *to) {
    for (int i = 0; i < SERVER_EXAMPLES && server->examples[i] != NULL; i++) {
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
        {"name", server->options.name},
        {"model", server->model},
        {"title", page->title},
        {"error", page->error},
        {"error_hidden", NULL},
        {"answers_hidden", NULL},
        {"tuned", page->answer[WHO_TUNED]},
        {"base", page->answer[WHO_BASE]},
    };
    if (strncmp(name, "examples", length) == 0 && length == 8) put_examples(server, to);
    if (strncmp(name, "error_hidden", length) == 0 && length == 12 && page->error == NULL) fputs("hidden", to);
    if (strncmp(name, "answers_hidden", length) == 0 && length == 14 && page->answer[WHO_TUNED] == NULL)
        fputs("hidden", to);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (strlen(places[i].name) == length && strncmp(places[i].name, name, length) == 0 && places[i].text != NULL)
            put_escaped(places[i].text, to);
}

// What stands between {{#token}} and {{/token}} is shown only where one is asked for.
void page_reply(HttpRequest *request, const Server *server, int status, const Page *page, const char *extra) {
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

void page_reply_style(HttpRequest *request) {
    http_reply(request, 200, "text/css; charset=utf-8", page_style_css, strlen(page_style_css), NULL);
}

void page_reply_script(HttpRequest *request) {
    http_reply(request, 200, "text/javascript; charset=utf-8", page_app_js, strlen(page_app_js), NULL);
}
