// See openai.h.
#include "io/openai.h"

#include "io/json_file.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGES_MAX 1024

// --- requests -------------------------------------------------------------------------------------------------------

typedef struct Reader {
    json_t *root;
    char *error, *param;
    bool failed;
} Reader;

static void refuse(Reader *reader, const char *key, const char *what) {
    if (reader->failed) return;
    reader->failed = true;
    snprintf(reader->error, 256, "%s%s%s", key, key[0] == '\0' ? "" : " ", what);
    snprintf(reader->param, 64, "%s", key);
}

// A field that is there and not null.
static json_t *field(const Reader *reader, const char *key) {
    json_t *value = json_object_get(reader->root, key);
    return json_is_null(value) ? NULL : value;
}

static void read_bool(Reader *reader, const char *key, bool *out) {
    const json_t *value = field(reader, key);
    if (value == NULL) return;
    if (!json_is_boolean(value))
        refuse(reader, key, "must be true or false");
    else
        *out = json_is_true(value);
}

static void read_number(Reader *reader, const char *key, double low, double high, double *out) {
    const json_t *value = field(reader, key);
    char what[96];
    if (value == NULL) return;
    snprintf(what, sizeof what, "must be a number from %g to %g", low, high);
    if (!json_is_number(value) || !(json_number_value(value) >= low) || !(json_number_value(value) <= high))
        refuse(reader, key, what);
    else
        *out = json_number_value(value);
}

static void read_whole(Reader *reader, const char *key, int64_t low, int64_t high, int64_t *out) {
    const json_t *value = field(reader, key);
    char what[96];
    if (value == NULL) return;
    snprintf(what, sizeof what, "must be a whole number from %lld to %lld", (long long)low, (long long)high);
    if (!json_is_integer(value) || json_integer_value(value) < low || json_integer_value(value) > high)
        refuse(reader, key, what);
    else
        *out = json_integer_value(value);
}

static char *copy(Reader *reader, const json_t *value) {
    const char *text = json_text(value);
    char *out = text == NULL ? NULL : strdup(text);
    if (out == NULL) refuse(reader, "", text == NULL ? "a text holds the character \\u0000" : "out of memory");
    return out;
}

// What would change the answer and is not there is refused; other fields of the API are left alone.
static void refuse_unsupported(Reader *reader) {
    static const char *const zero[] = {"frequency_penalty", "presence_penalty"};
    static const char *const absent[] = {"logit_bias",      "logprobs", "top_logprobs", "tools",   "functions",
                                         "response_format", "echo",     "suffix",       "best_of", "audio"};
    for (size_t i = 0; i < sizeof zero / sizeof *zero; i++) {
        double value = 0;
        read_number(reader, zero[i], -2, 2, &value);
        if (value != 0) refuse(reader, zero[i], "is not supported; leave it out");
    }
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        const json_t *value = field(reader, absent[i]);
        const bool harmless =
            value == NULL || json_is_false(value) || (json_is_array(value) && json_array_size(value) == 0) ||
            (json_is_object(value) && json_object_size(value) == 0) ||
            (json_is_integer(value) && json_integer_value(value) <= (strcmp(absent[i], "best_of") == 0));
        const json_t *type = json_object_get(value, "type"); // response_format
        const bool plain = json_is_string(type) && strcmp(json_string_value(type), "text") == 0;
        if (!harmless && !plain) refuse(reader, absent[i], "is not supported; leave it out");
    }
    int64_t n = 1;
    read_whole(reader, "n", 1, INT32_MAX, &n);
    if (n != 1) refuse(reader, "n", "must be 1; ask several times");
}

static void read_stops(Reader *reader, OpenAiRequest *out) {
    json_t *value = field(reader, "stop");
    if (value == NULL) return;
    const size_t count = json_is_array(value) ? json_array_size(value) : 1;
    if (count > OPENAI_STOPS_MAX) refuse(reader, "stop", "may hold four texts at most");
    for (size_t i = 0; i < count && !reader->failed; i++) {
        const json_t *stop = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_string(stop) || json_string_length(stop) == 0 || json_string_length(stop) > 256)
            refuse(reader, "stop", "must be a text, or texts, of 1 to 256 bytes");
        else
            out->stop[out->stop_count++] = copy(reader, stop);
    }
}

// A chat template may pass over others in silence.
static bool is_role(const json_t *role) {
    static const char *const names[] = {"system", "developer", "user", "assistant", "tool"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (json_is_string(role) && strcmp(json_string_value(role), names[i]) == 0) return true;
    return false;
}

static void read_messages(Reader *reader, OpenAiRequest *out) {
    const json_t *messages = field(reader, "messages");
    const size_t count = json_array_size(messages);
    if (!json_is_array(messages) || count == 0 || count > MESSAGES_MAX) {
        refuse(reader, "messages", "must be a list of 1 to 1024 messages");
        return;
    }
    out->messages = calloc(count, sizeof *out->messages);
    if (out->messages == NULL) refuse(reader, "", "out of memory");
    for (size_t i = 0; i < count && !reader->failed; i++) {
        const json_t *message = json_array_get(messages, i), *role = json_object_get(message, "role");
        if (!is_role(role)) {
            refuse(reader, "messages", "must each have a role: system, developer, user, assistant or tool");
            return;
        }
        Message *to = &out->messages[out->message_count++];
        // What newer clients call the system message.
        to->role = strcmp(json_string_value(role), "developer") == 0 ? strdup("system") : copy(reader, role);
        if (!message_content(json_object_get(message, "content"), &to->content))
            refuse(reader, "messages", "must have as content " MESSAGE_CONTENT_FORMS);
        else if (to->content == NULL)
            refuse(reader, "", "out of memory");
    }
}

static void read_prompt(Reader *reader, OpenAiRequest *out) {
    const json_t *prompt = field(reader, "prompt");
    if (json_is_array(prompt) && json_array_size(prompt) == 1) prompt = json_array_get(prompt, 0);
    if (json_is_string(prompt))
        out->prompt = copy(reader, prompt);
    else
        refuse(reader, "prompt", "must be one text");
}

static void read_fields(Reader *reader, OpenAiRequest *out) {
    const json_t *model = field(reader, "model");
    if (model != NULL && !json_is_string(model)) refuse(reader, "model", "must be a text");
    if (json_is_string(model)) out->model = copy(reader, model);
    read_bool(reader, "stream", &out->stream);
    const json_t *options = field(reader, "stream_options");
    if (options != NULL && !json_is_object(options)) refuse(reader, "stream_options", "must be an object");
    out->include_usage = json_is_true(json_object_get(options, "include_usage"));
    if (field(reader, "temperature") != NULL) out->greedy = false;
    read_number(reader, "temperature", 0, 100, &out->temperature);
    if (out->temperature == 0) {
        out->greedy = true;
        out->temperature = 1;
    }
    read_number(reader, "top_p", 0, 1, &out->top_p);
    int64_t top_k = out->top_k, max_tokens = out->max_tokens, seed = 0;
    read_whole(reader, "top_k", -1, INT32_MAX, &top_k); // as vLLM: -1 and 0 are off
    out->top_k = top_k > 0 ? (int32_t)top_k : 0;
    read_whole(reader, "max_tokens", 1, INT32_MAX, &max_tokens);
    read_whole(reader, "max_completion_tokens", 1, INT32_MAX, &max_tokens);
    if (max_tokens < out->max_tokens) out->max_tokens = (int32_t)max_tokens; // the default is the most that is allowed
    out->has_seed = field(reader, "seed") != NULL;
    read_whole(reader, "seed", INT64_MIN, INT64_MAX, &seed);
    out->seed = (uint64_t)seed;
    read_stops(reader, out);
    refuse_unsupported(reader);
    if (out->chat)
        read_messages(reader, out);
    else
        read_prompt(reader, out);
}

bool openai_parse(const char *body, size_t size, bool chat, OpenAiRequest *out, char error[256], char param[64]) {
    json_error_t broken;
    Reader reader = {
        .root = json_foreign_load(body, size, JSON_REJECT_DUPLICATES, &broken), .error = error, .param = param};
    error[0] = param[0] = '\0';
    out->chat = chat;
    if (reader.root == NULL) {
        char what[200];
        snprintf(what, sizeof what, "the body is no JSON: line %d: %.120s", broken.line, broken.text);
        refuse(&reader, "", what);
    } else if (!json_is_object(reader.root)) {
        refuse(&reader, "", "the body must be a JSON object");
    } else {
        read_fields(&reader, out);
    }
    json_decref(reader.root);
    return !reader.failed;
}

void openai_free(OpenAiRequest *request) {
    for (int i = 0; i < request->message_count; i++) message_free(&request->messages[i]);
    for (int i = 0; i < request->stop_count; i++) free(request->stop[i]);
    free(request->messages);
    free(request->model);
    free(request->prompt);
}

// --- answers --------------------------------------------------------------------------------------------------------

// Takes `root`. event: as a server-sent event.
static char *dump(json_t *root, bool event) {
    char *text = root == NULL ? NULL : json_dumps(root, JSON_COMPACT);
    json_decref(root);
    if (text == NULL) return NULL;
    char *out = NULL;
    if (asprintf(&out, event ? "data: %s\n\n" : "%s\n", text) < 0) out = NULL;
    free(text);
    return out;
}

static json_t *usage(const OpenAiAnswer *a) {
    return json_pack("{s:i, s:i, s:i}", "prompt_tokens", a->prompt_tokens, "completion_tokens", a->completion_tokens,
                     "total_tokens", a->prompt_tokens + a->completion_tokens);
}

static json_t *envelope(const OpenAiAnswer *a, bool chunk, json_t *choices) {
    const char *object = !a->chat ? "text_completion" : chunk ? "chat.completion.chunk" : "chat.completion";
    return json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", a->id, "object", object, "created", (json_int_t)a->created,
                     "model", a->model, "choices", choices);
}

char *openai_whole(const OpenAiAnswer *a, const char *text, const char *finish) {
    json_t *choice =
        a->chat ? json_pack("{s:i, s:{s:s, s:s}, s:n, s:s?}", "index", 0, "message", "role", "assistant", "content",
                            text, "logprobs", "finish_reason", finish)
                : json_pack("{s:i, s:s, s:n, s:s?}", "index", 0, "text", text, "logprobs", "finish_reason", finish);
    json_t *root = envelope(a, false, json_pack("[o]", choice));
    if (root != NULL) json_object_set_new(root, "usage", usage(a));
    return dump(root, false);
}

char *openai_chunk(const OpenAiAnswer *a, const char *text, const char *finish, bool first) {
    json_t *choice;
    if (!a->chat) {
        choice = json_pack("{s:i, s:s, s:n, s:s?}", "index", 0, "text", text, "logprobs", "finish_reason", finish);
    } else {
        json_t *delta = first ? json_pack("{s:s, s:s}", "role", "assistant", "content", text)
                        : finish != NULL && text[0] == '\0' ? json_object()
                                                            : json_pack("{s:s}", "content", text);
        choice = json_pack("{s:i, s:o, s:n, s:s?}", "index", 0, "delta", delta, "logprobs", "finish_reason", finish);
    }
    return dump(envelope(a, true, json_pack("[o]", choice)), true);
}

char *openai_usage_chunk(const OpenAiAnswer *a) {
    json_t *root = envelope(a, true, json_array());
    if (root != NULL) json_object_set_new(root, "usage", usage(a));
    return dump(root, true);
}

static json_t *error_object(const char *message, const char *type, const char *param, const char *code) {
    return json_pack("{s:{s:s, s:s, s:s?, s:s?}}", "error", "message", message, "type", type, "param", param, "code",
                     code);
}

char *openai_error(const char *message, const char *type, const char *param, const char *code) {
    return dump(error_object(message, type, param, code), false);
}

char *openai_error_chunk(const char *message, const char *type) {
    return dump(error_object(message, type, NULL, NULL), true);
}

char *openai_models(const char *const *names, int count, int64_t created) {
    json_t *list = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:s}", "id", names[i], "object", "model", "created",
                                              (json_int_t)created, "owned_by", "kto"));
    return dump(json_pack("{s:s, s:o}", "object", "list", "data", list), false);
}
