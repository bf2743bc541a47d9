// JSON that others wrote: files of model and adapter folders, and rows. Whatever Python's json writes is read, also
// what jansson refuses, so that a key that nobody here uses cannot keep a file from loading; what is used is checked by
// whoever uses it.
#pragma once
#include "src/base/status.h"
#include <jansson.h>
#include <stddef.h>

// As json_loadb with JSON_ALLOW_NUL and `flags`. Numbers that neither 64 bits nor a double hold (transformers' "no
// limit", 1000000000000000019884624838656), NaN and Infinity become texts, which no reader of a number takes. Refused
// as by json_loadb remain invalid UTF-8, half a surrogate pair, NUL in a key, and more than 2,048 levels.
json_t *json_foreign_load(const char *text, size_t bytes, size_t flags, json_error_t *error);
// As json_dumps; such numbers stand there again as they were read.
char *json_foreign_dump(const json_t *value, size_t flags);
// The text that a value is, valid as long as the value; NULL if it is something else or holds NUL.
const char *json_text(const json_t *value);

// The object in a JSON file of at most `limit` bytes. STATUS_DATA naming the file, with the line of broken JSON. The
// caller releases *out with json_decref.
Status json_file_object(const char *path, size_t limit, json_t **out);
// Writes `root`, which it takes (NULL: it could not be made), as file_write_durable does; `flags` are jansson's.
Status json_file_write(const char *path, json_t *root, size_t flags);
