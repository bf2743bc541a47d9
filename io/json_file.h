// JSON files of model and adapter folders, read in full and with checked types.
#pragma once
#include "src/base/status.h"
#include <jansson.h>
#include <stddef.h>

// The object in a JSON file of at most `limit` bytes. STATUS_DATA naming the file, with the line of broken JSON. The
// caller releases *out with json_decref.
Status json_file_object(const char *path, size_t limit, json_t **out);
// Writes `root`, which it takes (NULL: it could not be made), as file_write_durable does; `flags` are jansson's.
Status json_file_write(const char *path, json_t *root, size_t flags);
