// Choices out of a list of names, as text.
#include "src/base/names.h"

#include <stdio.h>
#include <string.h>

int names_find(const char *const *names, const char *text, size_t length) {
    for (int i = 0; names[i] != NULL; i++)
        if (strlen(names[i]) == length && memcmp(names[i], text, length) == 0) return i;
    return -1;
}

bool names_write(const char *const *names, const bool *chosen, char *out, size_t size) {
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; names[i] != NULL; i++) {
        if (!chosen[i]) continue;
        used += (size_t)snprintf(out + used, size - used, "%s%s", used == 0 ? "" : ",", names[i]);
        if (used >= size) return false;
    }
    return true;
}

void names_read(const char *const *names, const char *text, bool *chosen) {
    for (int i = 0; names[i] != NULL; i++) chosen[i] = false;
    for (const char *at = text; *at != '\0'; at += *at == ',') {
        const size_t length = strcspn(at, ",");
        const int index = names_find(names, at, length);
        if (index >= 0) chosen[index] = true;
        at += length;
    }
}

void names_list(const char *const *names, const char *last, char *out, size_t size) {
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; names[i] != NULL && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%s",
                                 i == 0                 ? ""
                                 : names[i + 1] == NULL ? last
                                                        : ", ",
                                 names[i]);
}
