// What stands beside a tokenizer: tokenizer_config.json, special_tokens_map.json and added_tokens.json, read as
// transformers 5 reads them: more added tokens, which tokens are bos and eos, and whether plain text begins with bos.
#include "io/files.h"
#include "io/json_file.h"
#include "io/tokenizer_parts.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_BYTES_MAX ((size_t)64 << 20)

typedef struct Configs {
    json_t *config, *map, *added; // NULL where there is no such file
    char config_path[PATH_MAX], map_path[PATH_MAX], added_path[PATH_MAX];
} Configs;

// The JSON object DIR/NAME; *out NULL when there is no such file.
static Status read_json(const char *dir, const char *name, char path[PATH_MAX], json_t **out) {
    *out = NULL;
    if ((size_t)snprintf(path, PATH_MAX, "%s/%s", dir, name) >= PATH_MAX)
        return error_set(STATUS_DATA, "%s: the path is too long", dir);
    if (!file_exists(path)) return STATUS_OK;
    return json_file_object(path, CONFIG_BYTES_MAX, out);
}

// The text of a token given as "text" or {"content": "text"}; NULL if neither.
static const char *token_text(const json_t *value) {
    return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}

static TokenFlags read_flags(const json_t *token) {
    return (TokenFlags){.special = json_is_true(json_object_get(token, "special")),
                        .normalized = json_is_true(json_object_get(token, "normalized")),
                        .lstrip = json_is_true(json_object_get(token, "lstrip")),
                        .rstrip = json_is_true(json_object_get(token, "rstrip")),
                        .single_word = json_is_true(json_object_get(token, "single_word"))};
}

typedef struct NumberedToken {
    int64_t id;
    const json_t *token;
} NumberedToken;

static int compare_numbers(const void *a, const void *b) {
    const NumberedToken *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

// added_tokens_decoder, {"id": {"content": ...}}, in the order of its ids.
static Status read_added_tokens_decoder(Tokenizer *t, json_t *decoder, const char *path) {
    const char *key;
    json_t *token;
    size_t count = 0;
    NumberedToken *list = calloc(json_object_size(decoder) + 1, sizeof *list);
    Status status = list == NULL ? error_set(STATUS_FAILED, "%s: not enough memory to read it", path) : STATUS_OK;
    json_object_foreach(decoder, key, token) {
        char *end;
        if (status != STATUS_OK) break;
        list[count++] = (NumberedToken){strtoll(key, &end, 10), token};
        if (end == key || *end != '\0')
            status = error_set(STATUS_DATA, "%s: added_tokens_decoder has the key \"%.80s\", which is no token id",
                               path, key);
    }
    if (status == STATUS_OK) qsort(list, count, sizeof *list, compare_numbers);
    for (size_t i = 0; i < count && status == STATUS_OK; i++)
        status = tokenizer_add(t, list[i].id, token_text(list[i].token), read_flags(list[i].token), path);
    free(list);
    return status;
}

// Names that stand for special tokens in tokenizer_config.json and special_tokens_map.json; and of lists of such.
static const char *const special_names[] = {"bos_token", "eos_token", "unk_token", "pad_token",
                                            "sep_token", "cls_token", "mask_token"};
static const char *const special_lists[] = {"additional_special_tokens", "extra_special_tokens"};
enum { NAMES = sizeof special_names / sizeof *special_names, LISTS = sizeof special_lists / sizeof *special_lists };

static bool names_special(const json_t *object, const char *text) {
    for (int i = 0; i < NAMES; i++) {
        const char *found = token_text(json_object_get(object, special_names[i]));
        if (found != NULL && strcmp(found, text) == 0) return true;
    }
    for (int i = 0; i < LISTS; i++) {
        size_t index;
        json_t *value;
        json_array_foreach(json_object_get(object, special_lists[i]), index, value) {
            const char *found = token_text(value);
            if (found != NULL && strcmp(found, text) == 0) return true;
        }
    }
    return false;
}

// added_tokens.json, {"text": id}: what older folders have instead of added_tokens_decoder.
static Status read_added_tokens(Tokenizer *t, const Configs *c) {
    const char *text;
    json_t *id;
    json_object_foreach(c->added, text, id) {
        if (!json_is_integer(id))
            return error_set(STATUS_DATA, "%s: the id of \"%.80s\" must be an integer", c->added_path, text);
        const json_int_t value = json_integer_value(id);
        if (vocabulary_has(&t->names, value) && tokenizer_flags(t, (int32_t)value).added) continue;
        const bool special = names_special(c->config, text) || names_special(c->map, text);
        TRY(tokenizer_add(t, value, text, (TokenFlags){.special = special, .normalized = !special}, c->added_path));
    }
    return STATUS_OK;
}

// special_tokens_map.json goes before tokenizer_config.json where that has no added_tokens_decoder, else behind it.
static const json_t *find_value(const Configs *c, const char *name) {
    const json_t *in_config = json_object_get(c->config, name), *in_map = json_object_get(c->map, name);
    const bool map_first = json_object_get(c->config, "added_tokens_decoder") == NULL;
    if (in_config == NULL || (map_first && in_map != NULL)) return in_map;
    return in_config;
}

// A token that has a name is special. One that is no token yet would get an id that the model lacks, so that it is
// passed over.
static Status make_special(Tokenizer *t, const json_t *token, const char *path) {
    const char *text = token_text(token);
    const int32_t id = text == NULL ? NO_TOKEN : vocabulary_find(&t->names, text, strlen(text));
    if (id == NO_TOKEN || text[0] == '\0') return STATUS_OK;
    TokenFlags flags = tokenizer_flags(t, id);
    if (!flags.added) flags = read_flags(token);
    flags.special = true;
    return tokenizer_add(t, id, text, flags, path);
}

static Status make_all_special(Tokenizer *t, const Configs *c) {
    for (int i = 0; i < NAMES; i++) TRY(make_special(t, find_value(c, special_names[i]), c->config_path));
    for (int i = 0; i < LISTS; i++) {
        const json_t *list = find_value(c, special_lists[i]);
        for (size_t k = 0; k < json_array_size(list); k++)
            TRY(make_special(t, json_array_get(list, k), c->config_path));
    }
    return STATUS_OK;
}

// The id of bos_token or eos_token: as the files say (null: none), else the model.
static Status named_token(const Tokenizer *t, const Configs *c, const char *name, int32_t *id) {
    const json_t *value = find_value(c, name);
    if (value == NULL) return STATUS_OK;
    *id = NO_TOKEN;
    if (json_is_null(value)) return STATUS_OK;
    const char *text = token_text(value);
    if (text == NULL) return error_set(STATUS_DATA, "%s: %s must be text", c->config_path, name);
    *id = vocabulary_find(&t->names, text, strlen(text));
    if (*id != NO_TOKEN) return STATUS_OK;
    return error_set(STATUS_DATA, "%s: %s is \"%.80s\", which is not in the vocabulary", c->config_path, name, text);
}

// What plain text begins with: for a tokenizer.json what its post_processor says alone, for a tokenizer.model bos,
// unless add_bos_token is false.
static Status set_prefix(Tokenizer *t, const Configs *c) {
    if (t->from_json) return STATUS_OK;
    if (json_is_true(json_object_get(c->config, "add_eos_token")))
        return error_set(STATUS_DATA, "%s: add_eos_token is true, which is not supported; set it to false",
                         c->config_path);
    t->prefix_count = t->bos != NO_TOKEN && !json_is_false(json_object_get(c->config, "add_bos_token"));
    t->prefix[0] = t->bos;
    return STATUS_OK;
}

static Status apply(Tokenizer *t, const Configs *c) {
    json_t *decoder = json_object_get(c->config, "added_tokens_decoder");
    TRY(read_added_tokens_decoder(t, decoder, c->config_path));
    if (decoder == NULL || !t->from_json) TRY(read_added_tokens(t, c));
    TRY(make_all_special(t, c));
    TRY(named_token(t, c, "bos_token", &t->bos));
    TRY(named_token(t, c, "eos_token", &t->eos));
    if (t->eos == NO_TOKEN)
        return error_set(STATUS_DATA, "%s: there is no eos_token; name the token that ends an answer", c->config_path);
    return set_prefix(t, c);
}

Status tokenizer_read_config(Tokenizer *t, const char *dir) {
    Configs c = {0};
    Status status;
    TRY_GOTO(read_json(dir, "tokenizer_config.json", c.config_path, &c.config), done);
    TRY_GOTO(read_json(dir, "special_tokens_map.json", c.map_path, &c.map), done);
    TRY_GOTO(read_json(dir, "added_tokens.json", c.added_path, &c.added), done);
    status = apply(t, &c);
done:
    json_decref(c.config);
    json_decref(c.map);
    json_decref(c.added);
    return status;
}
