// generation_config.json of a model folder: of it only the tokens that end an answer are read; how to sample is said on
// the command line. A chat model often has several: one for the end of a text, one for the end of a turn.
#include "io/generation_config.h"

#include "io/files.h"
#include "io/json_file.h"

#include <limits.h>
#include <stdio.h>

#define CONFIG_BYTES_MAX (1 << 20)

bool end_tokens_has(const EndTokens *ends, int32_t id) {
    for (int32_t i = 0; i < ends->count; i++)
        if (ends->id[i] == id) return true;
    return false;
}

bool end_tokens_add(EndTokens *ends, int32_t id) {
    if (end_tokens_has(ends, id)) return true;
    if (ends->count == END_TOKENS_MAX) return false;
    ends->id[ends->count++] = id;
    return true;
}

static Status add(const char *path, const json_t *value, EndTokens *ends) {
    const json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || id > INT32_MAX)
        return error_set(STATUS_DATA, "%s: eos_token_id must be a token's number or a list of them", path);
    if (end_tokens_add(ends, (int32_t)id)) return STATUS_OK;
    return error_set(STATUS_DATA, "%s: eos_token_id lists more than %d tokens", path, END_TOKENS_MAX);
}

Status generation_config_ends(const char *model_dir, EndTokens *ends) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/generation_config.json", model_dir);
    if (!file_exists(path)) snprintf(path, sizeof path, "%s/config.json", model_dir);
    json_t *root = NULL;
    TRY(json_file_object(path, CONFIG_BYTES_MAX, &root));
    const json_t *value = json_object_get(root, "eos_token_id");
    Status status = STATUS_OK;
    if (json_is_array(value))
        for (size_t i = 0; i < json_array_size(value) && status == STATUS_OK; i++)
            status = add(path, json_array_get(value, i), ends);
    else if (value != NULL && !json_is_null(value))
        status = add(path, value, ends);
    json_decref(root);
    return status;
}
