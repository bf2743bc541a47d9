// See chat_template.h. What a template sees is what transformers 5 gives it: messages without their null fields and
// with every name of their reasoning, tools, documents, add_generation_prompt and the special tokens.
#include "io/chat_template.h"
#include "io/files.h"
#include "io/json_file.h"

#include <dirent.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEMPLATE_BYTES_MAX ((size_t)1 << 20)
#define CONFIG_BYTES_MAX   ((size_t)64 << 20)
#define VARIABLES_MAX      48 // that a conversation may bring beside the usual ones
#define BUILT_IN           "zephyr, chatml or llama-2"

enum { TOKEN_BOS, TOKEN_EOS, TOKEN_UNK, TOKEN_SEP, TOKEN_PAD, TOKEN_CLS, TOKEN_MASK, TOKENS };
static const char *const token_names[TOKENS] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                "pad_token", "cls_token", "mask_token"};

struct ChatTemplate {
    JinjaTemplate *plain, *with_tools; // with_tools: for conversations with tools, where there is one; else NULL
    char *token[TOKENS];               // NULL: none
    time_t now;
};

// --- built in -------------------------------------------------------------------------------------------------------

// The model's own but for this: a message of a role that they would pass over in silence is refused.
#define OTHER_ROLE                                                                                                     \
    "{{ raise_exception('there is no role \"' ~ message['role'] ~ '\" here; use system, user and assistant') }}"

static const struct {
    const char *name, *text;
} built_in[] = {
    // TinyLlama-1.1B-Chat-v1.0 and zephyr-7b-beta
    {"zephyr", "{% for message in messages %}\n"
               "{% if message['role'] in ['system', 'user', 'assistant'] %}\n"
               "{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token }}\n"
               "{% else %}\n" OTHER_ROLE "{% endif %}\n"
               "{% if loop.last and add_generation_prompt %}\n"
               "{{ '<|assistant|>' }}\n"
               "{% endif %}\n"
               "{% endfor %}"},
    {"chatml", "{% for message in messages %}\n"
               "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}\n"
               "{% endfor %}\n"
               "{% if add_generation_prompt %}\n"
               "{{ '<|im_start|>assistant\\n' }}\n"
               "{%- endif %}"},
    // Llama-2-7b-chat-hf
    {"llama-2", "{% set system = '' %}\n"
                "{% if messages[0]['role'] == 'system' %}\n"
                "{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}\n"
                "{% set messages = messages[1:] %}\n"
                "{% endif %}\n"
                "{% for message in messages %}\n"
                "{% if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') %}\n"
                "{{ raise_exception('after an optional system message, user and assistant must alternate; got \"' ~ "
                "message['role'] ~ '\" as number ' ~ loop.index) }}\n"
                "{% elif message['role'] == 'user' %}\n"
                "{{- bos_token + '[INST] ' + ((system if loop.first else '') + message['content']).strip() + "
                "' [/INST]' -}}\n"
                "{% else %}\n"
                "{{- ' ' + message['content'].strip() + ' ' + eos_token -}}\n"
                "{% endif %}\n"
                "{% endfor %}"},
};

// --- where a template is --------------------------------------------------------------------------------------------

static Status path_in(char path[PATH_MAX], const char *dir, const char *name) {
    if ((size_t)snprintf(path, PATH_MAX, "%s/%s", dir, name) < PATH_MAX) return STATUS_OK;
    return error_set(STATUS_DATA, "%s: the path is too long", dir);
}

static Status parse_file(JinjaTemplate **out, const char *path) {
    char *text;
    size_t bytes;
    TRY(file_read(path, TEMPLATE_BYTES_MAX, &text, &bytes));
    Status status = jinja_parse(out, path, text, bytes);
    free(text);
    return status;
}

static Status parse_if_there(JinjaTemplate **out, const char *dir, const char *name, bool *there) {
    char path[PATH_MAX];
    TRY(path_in(path, dir, name));
    if (!file_exists(path)) return STATUS_OK;
    *there = true;
    return parse_file(out, path);
}

static bool has_other_templates(const char *dir) {
    char path[PATH_MAX];
    bool found = false;
    if (path_in(path, dir, "additional_chat_templates") != STATUS_OK) return false;
    DIR *folder = opendir(path);
    for (const struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
        const char *dot = strrchr(entry->d_name, '.');
        found |= dot != NULL && strcmp(dot, ".jinja") == 0;
    }
    if (folder != NULL) closedir(folder);
    return found;
}

static Status no_default(const char *place) {
    return error_set(STATUS_DATA,
                     "%s: there are several chat templates and none of them is \"default\"; name a file with one by "
                     "data.chat_template",
                     place);
}

// The files that transformers reads before it looks at tokenizer_config.json, and in place of what stands there.
static Status open_files(ChatTemplate *chat, const char *dir, bool *there) {
    const bool others = has_other_templates(dir);
    *there = others;
    if (others) {
        TRY(parse_if_there(&chat->plain, dir, "additional_chat_templates/default.jinja", there));
        TRY(parse_if_there(&chat->with_tools, dir, "additional_chat_templates/tool_use.jinja", there));
    }
    if (chat->plain == NULL) TRY(parse_if_there(&chat->plain, dir, "chat_template.jinja", there));
    return *there && chat->plain == NULL ? no_default(dir) : STATUS_OK;
}

static Status parse_text(JinjaTemplate **out, const char *path, const json_t *text) {
    char name[PATH_MAX + 32];
    snprintf(name, sizeof name, "%s: chat_template", path);
    return jinja_parse(out, name, json_string_value(text), json_string_length(text));
}

// chat_template in tokenizer_config.json: a text, or a list of named ones.
static Status open_config(ChatTemplate *chat, const char *path, const json_t *value) {
    if (json_is_string(value)) return parse_text(&chat->plain, path, value);
    if (!json_is_array(value))
        return error_set(STATUS_DATA, "%s: chat_template must be a text or a list of texts with names", path);
    size_t index;
    const json_t *entry;
    json_array_foreach((json_t *)value, index, entry) {
        const json_t *name = json_object_get(entry, "name"), *text = json_object_get(entry, "template");
        if (!json_is_string(name) || !json_is_string(text))
            return error_set(STATUS_DATA, "%s: entry %zu of chat_template must be {\"name\", \"template\"}", path,
                             index + 1);
        JinjaTemplate **to = strcmp(json_string_value(name), "default") == 0    ? &chat->plain
                             : strcmp(json_string_value(name), "tool_use") == 0 ? &chat->with_tools
                                                                                : NULL;
        if (to == NULL) continue;
        jinja_free(*to);
        *to = NULL;
        TRY(parse_text(to, path, text));
    }
    return chat->plain == NULL ? no_default(path) : STATUS_OK;
}

static Status take_token(ChatTemplate *chat, int token, const char *text) {
    if (chat->token[token] != NULL || text == NULL || text[0] == '\0') return STATUS_OK;
    chat->token[token] = strdup(text);
    return chat->token[token] != NULL ? STATUS_OK : error_set(STATUS_FAILED, "out of memory for a chat template");
}

// Special tokens as these files name them: a text, or {"content": text, ...}.
static Status take_tokens(ChatTemplate *chat, const json_t *config) {
    for (int i = TOKEN_UNK; i < TOKENS; i++) {
        const json_t *value = json_object_get(config, token_names[i]);
        TRY(take_token(chat, i, json_string_value(json_is_object(value) ? json_object_get(value, "content") : value)));
    }
    return STATUS_OK;
}

// Reads a JSON file of the folder where it is; NULL where it is not.
static Status read_config(const char *dir, const char *name, char path[PATH_MAX], json_t **out) {
    *out = NULL;
    TRY(path_in(path, dir, name));
    return file_exists(path) ? json_file_object(path, CONFIG_BYTES_MAX, out) : STATUS_OK;
}

// Folders of old name special tokens in a file of their own, which wins where the configuration lists no added tokens.
static Status take_old_tokens(ChatTemplate *chat, const char *dir, const json_t *config) {
    char path[PATH_MAX];
    json_t *map;
    if (json_object_get(config, "added_tokens_decoder") != NULL) return STATUS_OK;
    TRY(read_config(dir, "special_tokens_map.json", path, &map));
    const Status status = take_tokens(chat, map);
    json_decref(map);
    return status;
}

static Status open_folder(ChatTemplate *chat, const char *dir, bool takes_template) {
    char path[PATH_MAX];
    json_t *config;
    bool there = false;
    if (takes_template) TRY(open_files(chat, dir, &there));
    TRY(read_config(dir, "tokenizer_config.json", path, &config));
    const json_t *value = json_object_get(config, "chat_template");
    Status status = take_old_tokens(chat, dir, config);
    if (status == STATUS_OK) status = take_tokens(chat, config);
    if (status == STATUS_OK && takes_template && !there && value != NULL && !json_is_null(value))
        status = open_config(chat, path, value);
    json_decref(config);
    return status;
}

bool chat_template_is_there(const char *model_dir) {
    char path[PATH_MAX];
    json_t *config = NULL;
    if (has_other_templates(model_dir)) return true;
    if (path_in(path, model_dir, "chat_template.jinja") == STATUS_OK && file_exists(path)) return true;
    const bool read = read_config(model_dir, "tokenizer_config.json", path, &config) == STATUS_OK;
    const json_t *value = json_object_get(config, "chat_template");
    const bool there = read && value != NULL && !json_is_null(value);
    json_decref(config);
    if (!read) error_clear();
    return there;
}

static Status open_setting(ChatTemplate *chat, const char *dir, const char *setting) {
    char name[64];
    const bool automatic = strcmp(setting, "auto") == 0;
    TRY(open_folder(chat, dir, automatic));
    if (automatic) return STATUS_OK;
    for (size_t i = 0; i < sizeof built_in / sizeof *built_in; i++) {
        if (strcmp(setting, built_in[i].name) != 0) continue;
        snprintf(name, sizeof name, "chat template %s", built_in[i].name);
        return jinja_parse(&chat->plain, name, built_in[i].text, strlen(built_in[i].text));
    }
    if (!file_exists(setting))
        return error_set(STATUS_USAGE,
                         "data.chat_template is \"%s\"; it must be auto, " BUILT_IN ", or a file with a template",
                         setting);
    return parse_file(&chat->plain, setting);
}

Status chat_template_open(ChatTemplate **out, const char *model_dir, const char *setting, const char *bos,
                          const char *eos, time_t now) {
    *out = NULL;
    ChatTemplate *chat = calloc(1, sizeof *chat);
    if (chat == NULL) return error_set(STATUS_FAILED, "out of memory for a chat template");
    chat->now = now;
    Status status = take_token(chat, TOKEN_BOS, bos);
    if (status == STATUS_OK) status = take_token(chat, TOKEN_EOS, eos);
    if (status == STATUS_OK) status = open_setting(chat, model_dir, setting);
    if (status == STATUS_OK && chat->plain != NULL)
        *out = chat;
    else
        chat_template_close(chat);
    return status;
}

void chat_template_close(ChatTemplate *chat) {
    if (chat == NULL) return;
    jinja_free(chat->plain);
    jinja_free(chat->with_tools);
    for (int i = 0; i < TOKENS; i++) free(chat->token[i]);
    free(chat);
}

bool chat_template_tells_time(const ChatTemplate *chat) {
    return chat != NULL && (jinja_names(chat->plain, "strftime_now") ||
                            (chat->with_tools != NULL && jinja_names(chat->with_tools, "strftime_now")));
}

// --- what a template sees -------------------------------------------------------------------------------------------

static JinjaValue text_value(const char *text) {
    return jinja_string(text, strlen(text));
}

static Status set_field(JinjaScratch *scratch, JinjaValue dict, const char *key, JinjaValue value) {
    return jinja_dict_set(scratch, dict, text_value(key), value);
}

// A message with more than a role and a text. As transformers does, fields that are null are left out, and what is
// thought is found under all names that templates know it by.
static Status full_message(JinjaScratch *scratch, const json_t *fields, JinjaValue *out) {
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    const json_t *reasoning = NULL;
    JinjaValue thought, value;
    const char *key;
    json_t *field;
    TRY(jinja_dict(scratch, json_object_size(fields) + 2, out));
    for (size_t i = 0; i < sizeof names / sizeof *names && (reasoning == NULL || json_is_null(reasoning)); i++)
        reasoning = json_object_get(fields, names[i]);
    const bool thinks = reasoning != NULL && !json_is_null(reasoning);
    if (thinks) {
        TRY(jinja_from_json(scratch, reasoning, &thought));
        TRY(set_field(scratch, *out, "thinking", thought));
    }
    json_object_foreach((json_t *)fields, key, field) {
        if (json_is_null(field)) continue;
        TRY(jinja_from_json(scratch, field, &value));
        TRY(set_field(scratch, *out, key, value));
    }
    return thinks ? set_field(scratch, *out, "reasoning_content", thought) : STATUS_OK;
}

static Status add_messages(JinjaScratch *scratch, const TextOrMessages *from, JinjaValue list) {
    for (int i = 0; from != NULL && i < from->message_count; i++) {
        const Message *m = &from->messages[i];
        JinjaValue message;
        if (m->fields != NULL) {
            TRY(full_message(scratch, m->fields, &message));
        } else {
            TRY(jinja_dict(scratch, 2, &message));
            TRY(set_field(scratch, message, "role", text_value(m->role)));
            TRY(set_field(scratch, message, "content", text_value(m->content)));
        }
        TRY(jinja_list_add(scratch, list, message));
    }
    return STATUS_OK;
}

typedef struct Variables {
    JinjaVariable v[TOKENS + 4 + VARIABLES_MAX];
    int count;
} Variables;

static void add_variable(Variables *to, const char *name, JinjaValue value) {
    to->v[to->count++] = (JinjaVariable){name, value};
}

// What the row itself names, which wins over what is there already.
static Status add_given(JinjaScratch *scratch, const json_t *given, Variables *to) {
    const char *name;
    json_t *json;
    if (json_object_size(given) > VARIABLES_MAX)
        return error_set(STATUS_DATA, "\"chat_template_kwargs\" holds more than %d variables", VARIABLES_MAX);
    json_object_foreach((json_t *)given, name, json) {
        JinjaValue value;
        TRY(jinja_from_json(scratch, json, &value));
        add_variable(to, name, value);
    }
    return STATUS_OK;
}

Status chat_template_render(const ChatTemplate *chat, JinjaScratch *scratch, const TextOrMessages *prompt,
                            const TextOrMessages *answer, bool add_generation_prompt, const char **text,
                            size_t *bytes) {
    JinjaValue messages, tools = {.type = JINJA_NONE};
    Variables variables = {.count = 0};
    if (chat == NULL)
        return error_set(STATUS_DATA,
                         "the row has messages, but the model folder has no chat template; set data.chat_template "
                         "to " BUILT_IN " or to a file with one, or give rows as plain text");
    jinja_scratch_reset(scratch);
    TRY(jinja_list(scratch, (size_t)prompt->message_count + (answer != NULL ? (size_t)answer->message_count : 0),
                   &messages));
    TRY(add_messages(scratch, prompt, messages));
    TRY(add_messages(scratch, answer, messages));
    if (prompt->tools != NULL) TRY(jinja_from_json(scratch, prompt->tools, &tools));
    add_variable(&variables, "messages", messages);
    add_variable(&variables, "tools", tools);
    add_variable(&variables, "documents", (JinjaValue){.type = JINJA_NONE});
    add_variable(&variables, "add_generation_prompt", jinja_bool(add_generation_prompt));
    for (int i = 0; i < TOKENS; i++)
        if (chat->token[i] != NULL) add_variable(&variables, token_names[i], text_value(chat->token[i]));
    TRY(add_given(scratch, prompt->variables, &variables));
    return jinja_render(prompt->tools != NULL && chat->with_tools != NULL ? chat->with_tools : chat->plain, scratch,
                        variables.v, variables.count, chat->now, text, bytes);
}
