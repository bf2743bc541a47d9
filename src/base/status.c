#include "src/base/status.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char text[ERROR_TEXT_MAX];
static bool shared;

// Messages quote names out of files: none may start a line of its own or steer the terminal.
static void make_one_line(char *message) {
    for (; *message != '\0'; message++)
        if ((unsigned char)*message < ' ' || *message == 127) *message = '?';
}

Status error_set(Status status, const char *format, ...) {
    pthread_mutex_lock(&lock);
    if (text[0] == '\0') {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
        make_one_line(text);
    }
    pthread_mutex_unlock(&lock);
    return status;
}

Status error_at(Status status, const char *path, unsigned line) {
    char head[ERROR_TEXT_MAX];
    int length = snprintf(head, sizeof head, "%s:%u: ", path, line);
    if (length < 0 || (size_t)length >= sizeof head) return status; // a path that long leaves no room for the message
    pthread_mutex_lock(&lock);
    const size_t room = sizeof text - 1 - (size_t)length, kept = strnlen(text, room);
    memmove(text + length, text, kept);
    memcpy(text, head, (size_t)length);
    text[(size_t)length + kept] = '\0';
    pthread_mutex_unlock(&lock);
    return status;
}

Status error_advise(Status status, const char *advice) {
    pthread_mutex_lock(&lock);
    const size_t length = strlen(text);
    snprintf(text + length, sizeof text - length, "; %s", advice);
    pthread_mutex_unlock(&lock);
    return status;
}

Status error_share(Status status) {
    pthread_mutex_lock(&lock);
    shared = status != STATUS_OK && status != STATUS_STOPPED;
    pthread_mutex_unlock(&lock);
    return status;
}

bool error_is_shared(void) {
    return shared;
}

const char *error_text(void) {
    return text;
}

void error_clear(void) {
    pthread_mutex_lock(&lock);
    text[0] = '\0';
    shared = false;
    pthread_mutex_unlock(&lock);
}
