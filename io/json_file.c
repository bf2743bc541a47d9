// Loads one JSON object from a file, and writes one. What its keys must be is the caller's business.
#include "io/json_file.h"

#include "io/files.h"

#include <string.h>

#include <stdlib.h>

Status json_file_object(const char *path, size_t limit, json_t **out) {
    char *text = NULL;
    size_t bytes = 0;
    *out = NULL;
    TRY(file_read(path, limit, &text, &bytes));
    json_error_t error;
    json_t *root = json_loadb(text, bytes, 0, &error);
    free(text);
    if (root == NULL) return error_set(STATUS_DATA, "%s:%d: broken JSON: %s", path, error.line, error.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return error_set(STATUS_DATA, "%s:1: holds no JSON object", path);
    }
    *out = root;
    return STATUS_OK;
}

Status json_file_write(const char *path, json_t *root, size_t flags) {
    char *text = root == NULL ? NULL : json_dumps(root, flags);
    json_decref(root);
    if (text == NULL) return error_set(STATUS_FAILED, "%s: out of memory", path);
    const size_t length = strlen(text);
    text[length] = '\n'; // in the place of the end, which a file has without it
    const Status status = file_write_durable(path, text, length + 1);
    free(text);
    return status;
}
