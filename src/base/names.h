// Choices out of a list of names, written as text with commas between: "q_proj,v_proj". The list is of at most
// NAMES_MAX names and ends with NULL; a choice's text has them in the list's order, each once, so that equal choices
// are equal texts.
#pragma once
#include <stdbool.h>
#include <stddef.h>

#define NAMES_MAX 32

// The index of the name that is `length` bytes at `text`; -1: it is none.
int names_find(const char *const *names, const char *text, size_t length);
// The text of the names that are chosen. False: it does not fit.
bool names_write(const char *const *names, const bool *chosen, char *out, size_t size);
// Whether each name is in a text of names_write's.
void names_read(const char *const *names, const char *text, bool *chosen);
// "a, b and c" with last = " and "; cut where it does not fit.
void names_list(const char *const *names, const char *last, char *out, size_t size);
