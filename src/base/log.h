// What a person sees on stderr. Only the rank that was given the voice (rank 0) prints; the others are silent.
#pragma once
#include <stdbool.h>

// `speaks`: whether this process prints. Until the first call every process does.
void log_init(bool speaks);
bool log_speaks(void);

void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));    // "text\n"
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2))); // "kto: warning: text\n"
void log_error(const char *text);                                                // "kto: error: text\n"

// One line redrawn in place on a terminal; nothing elsewhere. An empty text clears it. The three above clear it first.
bool log_is_terminal(void);
void log_progress(const char *text);
