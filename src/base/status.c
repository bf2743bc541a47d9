#include "src/base/status.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char text[ERROR_TEXT_MAX];

Status error_set(Status status, const char *format, ...) {
    pthread_mutex_lock(&lock);
    if (text[0] == '\0') {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
    }
    pthread_mutex_unlock(&lock);
    return status;
}

const char *error_text(void) {
    return text;
}

void error_clear(void) {
    pthread_mutex_lock(&lock);
    text[0] = '\0';
    pthread_mutex_unlock(&lock);
}
