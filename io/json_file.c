// Loads one JSON object from a file. What its keys must be is the caller's business.
#include "io/json_file.h"

#include "io/files.h"

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
