#include "src/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static bool speaks = true;
static bool progress_shown;

void log_init(bool speaks_now) {
    speaks = speaks_now;
}

bool log_speaks(void) {
    return speaks;
}

bool log_is_terminal(void) {
    return speaks && isatty(STDERR_FILENO);
}

void log_progress(const char *text) {
    if (!log_is_terminal()) return;
    if (text[0] != '\0' || progress_shown) fprintf(stderr, "\r\033[K%s", text);
    fflush(stderr);
    progress_shown = text[0] != '\0';
}

static void print(const char *head, const char *format, va_list arguments) {
    if (!speaks) return;
    log_progress("");
    fputs(head, stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    fflush(stderr);
}

void log_info(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print("", format, arguments);
    va_end(arguments);
}

void log_warning(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print("kto: warning: ", format, arguments);
    va_end(arguments);
}

void log_error(const char *text) {
    log_progress("");
    if (speaks) fprintf(stderr, "kto: error: %s\n", text);
}
