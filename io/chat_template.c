// Chat templates: three known ones, rendered in C. A model folder's Jinja text is recognised when it reads the same as
// a known text once both are brought to a form in which whitespace and quotes that Jinja ignores are gone; so what
// would render differently is never taken for a known template. Tokenising the text is src/dataset's.
#include "io/chat_template.h"
#include "io/files.h"
#include "io/json_file.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEMPLATE_BYTES_MAX ((size_t)1 << 20)
#define CONFIG_BYTES_MAX   ((size_t)64 << 20)
#define SUPPORTED          "zephyr (TinyLlama), chatml and llama-2"

static const char *const chat_names[] = {"none", "zephyr", "chatml", "llama-2"};

const char *chat_template_name(ChatTemplate chat) {
    return chat_names[chat];
}

// ---- recognition ----

// The beginning that some templates have, so that they work where add_generation_prompt is not passed.
#define DEFAULT_NO_PROMPT                                                                                              \
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"

#define CHATML_LOOP                                                                                                    \
    "{% for message in messages %}"                                                                                    \
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"                         \
    "{% endfor %}"
#define CHATML_LOOP_SHORT                                                                                              \
    "{% for message in messages %}"                                                                                    \
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"                              \
    "{% endfor %}"
#define CHATML_PROMPT "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

#define LLAMA2_START                                                                                                   \
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"                                   \
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"                    \
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"                                    \
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"                                                   \
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"          \
    "{% if loop.index0 == 0 and system_message != false %}"                                                            \
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}{% else %}"               \
    "{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"

static const struct {
    ChatTemplate chat;
    const char *text;
} known[] = {
    // TinyLlama-1.1B-Chat-v1.0 and zephyr-7b-beta.
    {CHAT_ZEPHYR,
     "{% for message in messages %}\n"
     "{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
     "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
     "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n' + message['content'] + eos_token }}\n"
     "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
     "{% endfor %}"},
    {CHAT_CHATML, CHATML_LOOP CHATML_PROMPT},
    {CHAT_CHATML, CHATML_LOOP_SHORT CHATML_PROMPT},
    {CHAT_CHATML, DEFAULT_NO_PROMPT CHATML_LOOP CHATML_PROMPT},
    {CHAT_CHATML, DEFAULT_NO_PROMPT CHATML_LOOP_SHORT CHATML_PROMPT},
    // Llama-2-7b-chat-hf, before and after its strip() became a filter.
    {CHAT_LLAMA2, LLAMA2_START "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
                               "{% elif message['role'] == 'assistant' %}"
                               "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"},
    {CHAT_LLAMA2, LLAMA2_START "{{ bos_token + '[INST] ' + content | trim + ' [/INST]' }}"
                               "{% elif message['role'] == 'assistant' %}"
                               "{{ ' ' + content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"},
};

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           (unsigned char)c >= 0x80;
}

// Copies the string literal at `from` to `to`, in one kind of quotes and with \n as the character it stands for; gives
// the position behind it, NULL when it has no end. Other escapes stay as written.
static const char *copy_literal(const char *from, char **to) {
    char quote = *from++;
    *(*to)++ = '\'';
    for (; *from != quote; from++) {
        if (*from == '\0') return NULL;
        if (*from == '\\' && from[1] == 'n') {
            *(*to)++ = '\n';
            from++;
            continue;
        }
        if (*from == '\\' && from[1] != '\0')
            *(*to)++ = *from++;
        else if (*from == '\'')
            *(*to)++ = '\\';
        *(*to)++ = *from;
    }
    *(*to)++ = '\'';
    return from + 1;
}

// Jinja reads every line end as \n.
static void normalize_newlines(char *text) {
    char *to = text;
    for (const char *from = text; *from != '\0'; from++) {
        if (*from == '\r' && from[1] == '\n') continue;
        *to++ = *from == '\r' ? '\n' : *from;
    }
    *to = '\0';
}

// `text` without what Jinja ignores, under trim_blocks and lstrip_blocks as transformers sets them: in tags, whitespace
// that parts no two words; around tags, what "-" and these two options remove. NULL for text with an unfinished tag or
// a comment, which is not recognised, or no memory. Caller frees.
static char *canonical(const char *text) {
    char *out = malloc(2 * strlen(text) + 1), *to = out;
    if (out == NULL) return NULL;
    for (const char *from = text; *from != '\0';) {
        if (*from != '{' || (from[1] != '%' && from[1] != '{' && from[1] != '#')) {
            *to++ = *from++;
            continue;
        }
        char kind = from[1];
        const char *line = from; // the whitespace in front of the tag
        while (line > text && (line[-1] == ' ' || line[-1] == '\t')) line--;
        from += 2;
        if (kind == '#' || *from == '+') goto unknown;
        if (*from == '-') {
            while (to > out && is_space(to[-1])) to--;
            from++;
        } else if (kind == '%' && (line == text || line[-1] == '\n')) { // lstrip_blocks
            while (to > out && (to[-1] == ' ' || to[-1] == '\t')) to--;
        }
        *to++ = '{';
        *to++ = kind;
        char close = kind == '%' ? '%' : '}';
        bool gap = false;
        for (;;) {
            if (*from == '\0') goto unknown;
            if (is_space(*from)) {
                gap = true;
                from++;
                continue;
            }
            if (*from == '\'' || *from == '"') {
                from = copy_literal(from, &to);
                if (from == NULL) goto unknown;
                gap = false;
                continue;
            }
            bool strip = *from == '-' && from[1] == close && from[2] == '}';
            if (strip || (*from == close && from[1] == '}')) {
                from += strip ? 3 : 2;
                *to++ = close;
                *to++ = '}';
                if (strip) {
                    while (is_space(*from)) from++;
                } else if (kind == '%') { // trim_blocks
                    if (*from == '\n') from++;
                }
                break;
            }
            if (gap && is_word(*from) && is_word(to[-1])) *to++ = ' ';
            gap = false;
            *to++ = *from++;
        }
    }
    if (to > out && to[-1] == '\n') to--; // keep_trailing_newline is off
    *to = '\0';
    return out;
unknown:
    free(out);
    return NULL;
}

static ChatTemplate recognise(const char *text) {
    ChatTemplate found = CHAT_NONE;
    char *source = strdup(text);
    if (source != NULL) normalize_newlines(source);
    char *given = source == NULL ? NULL : canonical(source);
    for (size_t i = 0; given != NULL && i < sizeof known / sizeof *known && found == CHAT_NONE; i++) {
        char *ours = canonical(known[i].text);
        if (ours != NULL && strcmp(ours, given) == 0) found = known[i].chat;
        free(ours);
    }
    free(given);
    free(source);
    return found;
}

// The text of chat_template in tokenizer_config.json: a string, or the entry "default" of a list; NULL if there is
// none.
static const char *config_template(const json_t *config) {
    const json_t *value = json_object_get(config, "chat_template");
    size_t index;
    json_t *entry;
    json_array_foreach(value, index, entry) {
        const char *name = json_text(json_object_get(entry, "name"));
        if (name != NULL && strcmp(name, "default") == 0) return json_text(json_object_get(entry, "template"));
    }
    return json_text(value);
}

static Status recognise_in(const char *path, const char *text, ChatTemplate *out) {
    *out = recognise(text);
    if (*out != CHAT_NONE) return STATUS_OK;
    return error_set(STATUS_DATA,
                     "%s: has a chat template that is not known; supported are " SUPPORTED "; set "
                     "data.chat_template to the name of one of them if it renders the same, or give rows as plain text",
                     path);
}

static Status find_in_folder(const char *dir, ChatTemplate *out) {
    char path[PATH_MAX];
    char *text;
    size_t bytes;
    if ((size_t)snprintf(path, sizeof path, "%s/chat_template.jinja", dir) >= sizeof path)
        return error_set(STATUS_DATA, "%s: the path is too long", dir);
    if (file_exists(path)) {
        TRY(file_read(path, TEMPLATE_BYTES_MAX, &text, &bytes));
        Status status = recognise_in(path, text, out);
        free(text);
        return status;
    }
    if ((size_t)snprintf(path, sizeof path, "%s/tokenizer_config.json", dir) >= sizeof path)
        return error_set(STATUS_DATA, "%s: the path is too long", dir);
    if (!file_exists(path)) return STATUS_OK;
    json_t *config;
    TRY(json_file_object(path, CONFIG_BYTES_MAX, &config));
    const json_t *value = json_object_get(config, "chat_template");
    const char *chat = config_template(config);
    Status status = STATUS_OK;
    if (chat != NULL)
        status = recognise_in(path, chat, out);
    else if (value != NULL && !json_is_null(value))
        status = error_set(STATUS_DATA,
                           "%s: chat_template must be text or a list with an entry \"default\"; or set "
                           "data.chat_template to one of " SUPPORTED,
                           path);
    json_decref(config);
    return status;
}

Status chat_template_find(const char *model_dir, const char *setting, ChatTemplate *out) {
    *out = CHAT_NONE;
    if (strcmp(setting, "auto") == 0) return find_in_folder(model_dir, out);
    for (ChatTemplate chat = CHAT_ZEPHYR; chat <= CHAT_LLAMA2; chat++) {
        if (strcmp(setting, chat_names[chat]) != 0) continue;
        *out = chat;
        return STATUS_OK;
    }
    return error_set(STATUS_USAGE, "data.chat_template is \"%s\"; it must be auto, zephyr, chatml or llama-2", setting);
}

// ---- rendering ----

static bool is_role(const Message *message, const char *role) {
    return strcmp(message->role, role) == 0;
}

static Status render_zephyr(FILE *to, const Message *messages, int count, bool add_generation_prompt, const char *eos) {
    for (int i = 0; i < count; i++) {
        const Message *m = &messages[i];
        if (!is_role(m, "user") && !is_role(m, "system") && !is_role(m, "assistant"))
            return error_set(STATUS_DATA, "the chat template zephyr has no role \"%s\"; use system, user or assistant",
                             m->role);
        fprintf(to, "<|%s|>\n%s%s\n", m->role, m->content, eos);
    }
    if (count > 0 && add_generation_prompt) fputs("<|assistant|>\n", to);
    return STATUS_OK;
}

static void render_chatml(FILE *to, const Message *messages, int count, bool add_generation_prompt) {
    for (int i = 0; i < count; i++)
        fprintf(to, "<|im_start|>%s\n%s<|im_end|>\n", messages[i].role, messages[i].content);
    if (add_generation_prompt) fputs("<|im_start|>assistant\n", to);
}

// The bytes of the whitespace character at text, 0 if it is another: what Python's str.strip removes.
static size_t python_space(const char *text) {
    const unsigned char *c = (const unsigned char *)text;
    if ((c[0] >= 0x09 && c[0] <= 0x0D) || (c[0] >= 0x1C && c[0] <= 0x20)) return 1;
    if (c[0] == 0xC2 && (c[1] == 0x85 || c[1] == 0xA0)) return 2; // U+0085, U+00A0
    if (c[0] == 0xE1 && c[1] == 0x9A && c[2] == 0x80) return 3;   // U+1680
    if (c[0] == 0xE2 && c[1] == 0x81 && c[2] == 0x9F) return 3;   // U+205F
    if (c[0] == 0xE3 && c[1] == 0x80 && c[2] == 0x80) return 3;   // U+3000
    if (c[0] == 0xE2 && c[1] == 0x80)                             // U+2000 to 200A, 2028, 2029, 202F
        return (c[2] >= 0x80 && c[2] <= 0x8A) || c[2] == 0xA8 || c[2] == 0xA9 || c[2] == 0xAF ? 3 : 0;
    return 0;
}

// Writes `head` and `text` as one string without whitespace at its ends.
static Status put_stripped(FILE *to, const char *head, const char *system, const char *tail, const char *text) {
    char *joined;
    if (asprintf(&joined, "%s%s%s%s", head, system, tail, text) < 0)
        return error_set(STATUS_FAILED, "not enough memory for a conversation");
    const char *first = joined;
    for (size_t bytes; (bytes = python_space(first)) > 0;) first += bytes;
    const char *end = first; // behind the last character that is no whitespace
    for (const char *c = first; *c != '\0';) {
        size_t bytes = python_space(c);
        c += bytes > 0 ? bytes : 1;
        if (bytes == 0) end = c;
    }
    fwrite(first, 1, (size_t)(end - first), to);
    free(joined);
    return STATUS_OK;
}

static Status render_llama2(FILE *to, const Message *messages, int count, const char *bos, const char *eos) {
    const char *system = NULL;
    if (count > 0 && is_role(&messages[0], "system")) {
        system = messages[0].content;
        messages++;
        count--;
    }
    for (int i = 0; i < count; i++) {
        const Message *m = &messages[i];
        bool user = i % 2 == 0;
        if (!is_role(m, user ? "user" : "assistant"))
            return error_set(STATUS_DATA,
                             "the chat template llama-2 wants an optional system message, then user and assistant in "
                             "turn; got \"%s\" where \"%s\" should be",
                             m->role, user ? "user" : "assistant");
        if (user)
            fprintf(to, "%s[INST] ", bos);
        else
            fputc(' ', to);
        if (i == 0 && system != NULL)
            TRY(put_stripped(to, "<<SYS>>\n", system, "\n<</SYS>>\n\n", m->content));
        else
            TRY(put_stripped(to, "", "", "", m->content));
        if (user)
            fputs(" [/INST]", to);
        else
            fprintf(to, " %s", eos);
    }
    return STATUS_OK;
}

Status chat_template_render(ChatTemplate chat, const Message *messages, int count, bool add_generation_prompt,
                            const char *bos, const char *eos, char **out) {
    *out = NULL;
    if (chat == CHAT_NONE)
        return error_set(STATUS_DATA,
                         "the row has messages, but the model folder has no chat template; set data.chat_template to "
                         "one of " SUPPORTED ", or give rows as plain text");
    size_t bytes;
    FILE *to = open_memstream(out, &bytes);
    if (to == NULL) return error_set(STATUS_FAILED, "not enough memory for a conversation");
    Status status = STATUS_OK;
    if (chat == CHAT_ZEPHYR)
        status = render_zephyr(to, messages, count, add_generation_prompt, eos);
    else if (chat == CHAT_CHATML)
        render_chatml(to, messages, count, add_generation_prompt);
    else
        status = render_llama2(to, messages, count, bos, eos);
    bool failed = ferror(to) != 0;
    failed = fclose(to) != 0 || failed;
    if (status == STATUS_OK && failed) status = error_set(STATUS_FAILED, "not enough memory for a conversation");
    if (status != STATUS_OK) {
        free(*out);
        *out = NULL;
    }
    return status;
}
