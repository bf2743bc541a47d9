// The configuration. One table, OPTIONS, holds for every key its type, place in Config, default, range, words and help;
// reading the file and the key=value words, writing back, comparing and the help text are all driven by it.
// libconfig does the grammar. Numbers are read from their source text, because libconfig wraps integers that are too
// large without a word. Whether files exist is left to those who open them.
#include "io/config.h"
#include "io/files.h"
#include "src/base/text.h"
#include "src/base/wrap.h"

#include <ctype.h>
#include <errno.h>
#include <libconfig.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define CONFIG_FILE_MAX (1 << 20)

typedef enum Type {
    STRING,
    WORD,
    ENUM,
    INT,
    FLOAT,
    FLOAT_OR_AUTO,
    BOOL,
    MODULES // a choice of names
} Type;     // WORD: a file, or one of `words`

typedef enum Range {
    ANY,
    MIN_MAX,      // min <= value <= max
    ABOVE_MIN,    // min < value <= max
    BELOW_MAX,    // min <= value < max
    NEEDED,       // a string that must not be empty
    MIN_OR_ABOVE0 // value == min, or 0 < value <= max
} Range;

typedef struct Option {
    const char *key; // group.name
    Type type;
    size_t offset;      // in Config
    const char *preset; // the default as it would be typed on the command line
    bool alters;        // another value gives another training result
    Range range;
    double min, max;      // of INT and FLOAT; exact up to 2^53
    const char *words[5]; // of WORD and ENUM, whose value is the index
    const char *help;
} Option;

#define AT(field) offsetof(Config, field)
#define BIG       9007199254740992.0 // 2^53: every integer up to it is a double too

// Two lines an option: what the parser needs, and the help.
// clang-format off
static const Option OPTIONS[] = {
    {"model.path", STRING, AT(model.path), "", true, NEEDED, 0, 0, {0},
     "folder of the base model (config.json, safetensors, tokenizer.json or tokenizer.model)"},
    {"model.dtype", ENUM, AT(model.dtype), "bfloat16", true, ANY, 0, 0, {"float32", "bfloat16"},
     "type of weights and activations"},
    {"data.train", STRING, AT(data.train), "", true, NEEDED, 0, 0, {0},
     "JSONL file of training rows"},
    {"data.eval", STRING, AT(data.eval), "", true, ANY, 0, 0, {0},
     "JSONL file of evaluation rows; empty: no evaluation"},
    {"data.max_length", INT, AT(data.max_length), "1024", true, MIN_MAX, 2, 1e6, {0},
     "tokens of prompt and completion; longer ones are cut at the end"},
    {"data.max_prompt_length", INT, AT(data.max_prompt_length), "0", true, MIN_MAX, 0, 1e6, {0},
     "tokens of a prompt, of which the last are kept; 0: no limit"},
    {"data.order", ENUM, AT(data.order), "shuffle", true, ANY, 0, 0, {"shuffle", "sequential"},
     "order of the training rows"},
    {"data.chat_template", WORD, AT(data.chat_template), "auto", true, ANY, 0, 0, {"auto", "zephyr", "chatml", "llama-2"},
     "how messages become text: a name or a file; auto: as the model's folder says"},
    {"data.today", INT, AT(data.today), "0", true, MIN_MAX, 0, 99991231, {0},
     "the day that chat templates tell, as 20261231; 0: the one on which the run began"},
    {"data.skip_bad_rows", BOOL, AT(data.skip_bad_rows), "false", true, ANY, 0, 0, {0},
     "count and list bad rows instead of stopping"},
    {"data.reference_cache", STRING, AT(data.reference_cache), "", false, ANY, 0, 0, {0},
     "folder for the cache of reference log-probabilities; empty: the run directory"},
    {"data.share_prefixes", BOOL, AT(data.share_prefixes), "true", true, ANY, 0, 0, {0},
     "compute equal beginnings of prompts once"},
    {"lora.r", INT, AT(lora.r), "8", true, MIN_MAX, 1, 1024, {0},
     "rank of the adapters"},
    {"lora.alpha", FLOAT, AT(lora.alpha), "16.0", true, ABOVE_MIN, 0, 1e6, {0},
     "adapters are scaled by alpha / r"},
    {"lora.dropout", FLOAT, AT(lora.dropout), "0.0", true, BELOW_MAX, 0, 1, {0},
     "share of adapter inputs dropped in training"},
    {"lora.target_modules", MODULES, AT(lora.target_modules), "q_proj,v_proj", true, ANY, 0, 0, {0},
     "linear layers that get an adapter; \"all-linear\": all seven"},
    {"lora.init", STRING, AT(lora.init), "", true, ANY, 0, 0, {0},
     "PEFT adapter folder to start from"},
    {"kto.loss_type", ENUM, AT(kto.loss_type), "kto", true, ANY, 0, 0, {"kto", "apo_zero_unpaired", "dpo"},
     "the loss; dpo takes rows {\"prompt\", \"chosen\", \"rejected\"} as pairs"},
    {"kto.beta", FLOAT, AT(kto.beta), "0.1", true, ABOVE_MIN, 0, 1e6, {0},
     "scale of the log-ratios: larger stays closer to the base model"},
    {"kto.desirable_weight", FLOAT_OR_AUTO, AT(kto.desirable_weight), "1.0", true, MIN_MAX, 0, 1e6, {0},
     "weight of desirable rows; auto: balances the classes"},
    {"kto.undesirable_weight", FLOAT_OR_AUTO, AT(kto.undesirable_weight), "1.0", true, MIN_MAX, 0, 1e6, {0},
     "weight of undesirable rows; auto: balances the classes"},
    {"train.output_dir", STRING, AT(train.output_dir), "", false, NEEDED, 0, 0, {0},
     "run directory"},
    {"train.seed", INT, AT(train.seed), "42", true, MIN_MAX, 0, BIG, {0},
     "of data order, adapter start and dropout"},
    {"train.global_batch_size", INT, AT(train.global_batch_size), "16", true, MIN_MAX, 1, 1e6, {0},
     "rows a step (with the loss dpo: pairs), over all ranks"},
    {"train.micro_batch_tokens", INT, AT(train.micro_batch_tokens), "0", true, MIN_MAX, 0, 1e9, {0},
     "tokens a rank computes at once; 0: from the device's memory"},
    {"train.recompute", ENUM, AT(train.recompute), "none", false, ANY, 0, 0, {"none", "layer"},
     "layer: keep less, compute layers twice"},
    {"train.num_train_epochs", FLOAT, AT(train.num_train_epochs), "1.0", true, ABOVE_MIN, 0, 1e6, {0},
     "passes over the data; a part of one is allowed"},
    {"train.max_steps", INT, AT(train.max_steps), "-1", true, MIN_OR_ABOVE0, -1, 1e12, {0},
     "steps; -1: from num_train_epochs"},
    {"train.learning_rate", FLOAT, AT(train.learning_rate), "5e-4", true, ABOVE_MIN, 0, 1e3, {0},
     "the highest rate of the schedule"},
    {"train.lr_scheduler_type", ENUM, AT(train.lr_scheduler_type), "cosine", true, ANY, 0, 0, {"cosine", "linear", "constant"},
     "the rate after warmup; cosine and linear end at 0"},
    {"train.warmup_steps", INT, AT(train.warmup_steps), "0", true, MIN_MAX, 0, 1e12, {0},
     "steps of linear rise of the rate"},
    {"train.optim", ENUM, AT(train.optim), "adamw", true, ANY, 0, 0, {"adamw", "paged_adamw_32bit"},
     "the optimizer; both give the same numbers"},
    {"train.weight_decay", FLOAT, AT(train.weight_decay), "0.0", true, MIN_MAX, 0, 1e3, {0},
     "decoupled weight decay"},
    {"train.adam_beta1", FLOAT, AT(train.adam_beta1), "0.9", true, BELOW_MAX, 0, 1, {0},
     "decay of the first moment"},
    {"train.adam_beta2", FLOAT, AT(train.adam_beta2), "0.999", true, BELOW_MAX, 0, 1, {0},
     "decay of the second moment"},
    {"train.adam_epsilon", FLOAT, AT(train.adam_epsilon), "1e-8", true, ABOVE_MIN, 0, 1, {0},
     "added to the root of the second moment"},
    {"train.max_grad_norm", FLOAT, AT(train.max_grad_norm), "1.0", true, MIN_MAX, 0, 1e9, {0},
     "gradients are clipped to this norm; 0: never"},
    {"train.logging_steps", INT, AT(train.logging_steps), "1", false, MIN_MAX, 1, 1e9, {0},
     "steps between lines on stderr"},
    {"train.eval_steps", INT, AT(train.eval_steps), "0", false, MIN_MAX, 0, 1e9, {0},
     "steps between evaluations; 0: only at the end"},
    {"train.save_steps", INT, AT(train.save_steps), "0", false, MIN_MAX, 0, 1e9, {0},
     "steps between checkpoints; 0: every 10 minutes"},
    {"train.save_total_limit", INT, AT(train.save_total_limit), "2", false, MIN_MAX, 1, 1e6, {0},
     "checkpoints kept"},
    {"train.sample_prompts", STRING, AT(train.sample_prompts), "", false, ANY, 0, 0, {0},
     "JSONL file of prompts to answer while training"},
    {"train.sample_steps", INT, AT(train.sample_steps), "0", false, MIN_MAX, 0, 1e9, {0},
     "steps between such answers; 0: none"},
    {"train.max_skipped_steps", INT, AT(train.max_skipped_steps), "10", false, MIN_MAX, 0, 1e9, {0},
     "updates with non-finite gradients to bear before stopping"},
    {"log.swmr", BOOL, AT(log.swmr), "true", false, ANY, 0, 0, {0},
     "metrics.h5 can be read while written; false for file systems that cannot"},
    {"device.backend", ENUM, AT(device.backend), "auto", false, ANY, 0, 0, {"auto", "cpu", "cuda"},
     "what computes"},
    {"device.comm", ENUM, AT(device.comm), "auto", false, ANY, 0, 0, {"auto", "nccl", "mpi"},
     "what carries gradients; mpi goes through host memory"},
    {"device.timeout_seconds", FLOAT, AT(device.timeout_seconds), "600.0", false, ABOVE_MIN, 0, 1e6, {0},
     "how long to wait for another rank"},
};
// clang-format on
enum { OPTION_COUNT = sizeof OPTIONS / sizeof *OPTIONS };

// A value as found: its kind by its looks and its text (of a string without quotes, of a list "a,b").
typedef struct Value {
    enum { AN_INT, A_FLOAT, A_BOOL, A_STRING, A_LIST, A_GROUP } kind;
    bool bare; // a word of the command line, where a string needs no quotes
    const char *text;
    const char *where; // "FILE:LINE" or the word
} Value;

// One reading: what is filled, and who set each option: 0 nobody, n > 0 line n of the file, n < 0 word -n - 1.
typedef struct Reading {
    Config *config;
    const char *const *modules;
    const char *name;
    char *const *words;
    long set_by[OPTION_COUNT];
} Reading;

// The texts of the scalars of a file in their order, which is the order of a walk through libconfig's tree.
typedef struct Scalar {
    const char *text;
    size_t length;
    int line;
} Scalar;

static int find_option(const char *key) {
    for (int i = 0; i < OPTION_COUNT; i++)
        if (strcmp(OPTIONS[i].key, key) == 0) return i;
    return -1;
}

static Status refuse_key(const char *where, const char *key) {
    const char *name = strrchr(key, '.') != NULL ? strrchr(key, '.') + 1 : key;
    int best = -1, best_distance = 0;
    for (int i = 0; i < OPTION_COUNT; i++) {
        int whole = edit_distance(key, OPTIONS[i].key);
        // The right name in the wrong group, or without one.
        int part = edit_distance(name, strchr(OPTIONS[i].key, '.') + 1) + 1;
        int distance = whole < part ? whole : part;
        if (best < 0 || distance < best_distance) {
            best = i;
            best_distance = distance;
        }
    }
    if (best_distance > 2 + (int)strlen(name) / 3)
        return error_set(STATUS_USAGE, "%s: unknown key %s; kto help keys lists them all", where, key);
    return error_set(STATUS_USAGE, "%s: unknown key %s; did you mean %s?", where, key, OPTIONS[best].key);
}

// What an option takes, as in "it must be ...".
static void expected(const Option *option, char *out, size_t size) {
    static const char *const plain[] = {[STRING] = "a string",
                                        [WORD] = "a string",
                                        [INT] = "an integer",
                                        [FLOAT] = "a number",
                                        [FLOAT_OR_AUTO] = "a number or \"auto\"",
                                        [BOOL] = "true or false",
                                        [MODULES] = "a list of module names"};
    if (option->type != ENUM) {
        snprintf(out, size, "%s", plain[option->type]);
        return;
    }
    int used = 0;
    for (int i = 0; option->words[i] != NULL; i++) {
        const char *between = i == 0 ? "" : option->words[i + 1] == NULL ? " or " : ", ";
        used += snprintf(out + used, size - (size_t)used, "%s\"%s\"", between, option->words[i]);
    }
}

static void range_text(const Option *option, char *out, size_t size) {
    switch (option->range) {
    case ANY:
        snprintf(out, size, "%s", "");
        break;
    case NEEDED:
        snprintf(out, size, "not empty");
        break;
    case MIN_MAX:
        snprintf(out, size, "%.16g to %.16g", option->min, option->max);
        break;
    case ABOVE_MIN:
        snprintf(out, size, "> %.16g", option->min);
        break;
    case BELOW_MAX:
        snprintf(out, size, ">= %.16g and < %.16g", option->min, option->max);
        break;
    case MIN_OR_ABOVE0:
        snprintf(out, size, "%.16g or > 0", option->min);
        break;
    }
}

static bool in_range(const Option *option, double value) {
    bool under_max = value <= option->max;
    switch (option->range) {
    case MIN_MAX:
        return value >= option->min && under_max;
    case ABOVE_MIN:
        return value > option->min && under_max;
    case BELOW_MAX:
        return value >= option->min && value < option->max;
    case MIN_OR_ABOVE0:
        return (value == option->min || value > 0) && under_max;
    default:
        return true;
    }
}

static Status refuse_type(const Option *option, const Value *value) {
    static const char *const kinds[] = {[AN_INT] = "an integer",
                                        [A_FLOAT] = "a float",
                                        [A_BOOL] = "a boolean",
                                        [A_STRING] = "a string",
                                        [A_LIST] = "a list"};
    char wanted[128];
    expected(option, wanted, sizeof wanted);
    if (value->kind == A_GROUP)
        return error_set(STATUS_USAGE, "%s: %s is a group; it must be %s", value->where, option->key, wanted);
    const char *quote = value->kind == A_STRING ? "\"" : "";
    return error_set(STATUS_USAGE, "%s: %s = %s%.200s%s is %s; it must be %s", value->where, option->key, quote,
                     value->text, quote, kinds[value->kind], wanted);
}

static Status refuse_range(const Option *option, const Value *value, bool too_large) {
    char range[96];
    range_text(option, range, sizeof range);
    if (too_large && option->range == ABOVE_MIN) snprintf(range, sizeof range, "at most %.16g", option->max);
    return error_set(STATUS_USAGE, "%s: %s = %.200s is out of range; it must be %s", value->where, option->key,
                     value->text, range);
}

// The whole text as an integer: decimal or 0x, with libconfig's suffix L or LL. False: it is none.
static bool read_int(const char *text, int64_t *out, bool *overflow) {
    const char *digits = text + (*text == '-' || *text == '+');
    int base = digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X') ? 16 : 10;
    if (!isdigit((unsigned char)digits[0])) return false;
    char *end;
    errno = 0;
    *out = strtoll(text, &end, base);
    *overflow = errno == ERANGE;
    for (int i = 0; i < 2 && *end == 'L'; i++) end++;
    return *end == '\0';
}

static bool read_float(const char *text, double *out) {
    if (strspn(text, "+-.0123456789eE") != strlen(text)) return false; // strtod also takes nan, inf and hexadecimals
    char *end;
    *out = strtod(text, &end);
    return end != text && *end == '\0';
}

static Status set_int(const Option *option, const Value *value, int64_t *out) {
    bool overflow = false;
    if (value->kind != AN_INT || !read_int(value->text, out, &overflow)) return refuse_type(option, value);
    if (overflow || !in_range(option, (double)*out)) return refuse_range(option, value, *out > 0);
    return STATUS_OK;
}

static Status set_float(const Option *option, const Value *value, double *out) {
    if (option->type == FLOAT_OR_AUTO && value->kind == A_STRING && strcmp(value->text, "auto") == 0) {
        *out = NAN;
        return STATUS_OK;
    }
    int64_t integer;
    bool overflow = false;
    if (value->kind == AN_INT && read_int(value->text, &integer, &overflow) && !overflow)
        *out = (double)integer;
    else if ((value->kind != AN_INT && value->kind != A_FLOAT) || !read_float(value->text, out))
        return refuse_type(option, value);
    if (!in_range(option, *out)) return refuse_range(option, value, *out > option->max);
    return STATUS_OK;
}

static Status set_string(const Option *option, const Value *value, char *out) {
    if (value->kind != A_STRING && !value->bare) return refuse_type(option, value);
    if (strlen(value->text) >= CONFIG_TEXT_MAX)
        return error_set(STATUS_USAGE, "%.200s: %s is longer than %d bytes", value->where, option->key,
                         CONFIG_TEXT_MAX - 1);
    if (option->range == NEEDED && value->text[0] == '\0')
        return error_set(STATUS_USAGE, "%s: %s is empty; give the %s", value->where, option->key, option->help);
    strcpy(out, value->text);
    return STATUS_OK;
}

static Status set_word(const Option *option, const Value *value, int *index) {
    if (value->kind != A_STRING && !value->bare) return refuse_type(option, value);
    for (*index = 0; option->words[*index] != NULL; ++*index)
        if (strcmp(option->words[*index], value->text) == 0) return STATUS_OK;
    char wanted[128];
    expected(option, wanted, sizeof wanted);
    return error_set(STATUS_USAGE, "%s: %s = \"%.200s\" is not known; it must be %s", value->where, option->key,
                     value->text, wanted);
}

// ["a", "b"] for "a,b".
static void bracketed(const char *names, char *out, size_t size) {
    size_t used = (size_t)snprintf(out, size, "[");
    for (const char *at = names; *at != '\0' && used < size;) {
        const int length = (int)strcspn(at, ",");
        used += (size_t)snprintf(out + used, size - used, "\"%.*s\"%s", length, at, at[length] == ',' ? ", " : "");
        at += length + (at[length] == ',');
    }
    if (used < size) snprintf(out + used, size - used, "]");
}

// "a,b", with or without the brackets and quotes of libconfig.
static Status set_modules(const Option *option, const Value *value, const char *const *modules, char *out) {
    if (value->kind != A_STRING && value->kind != A_LIST) return refuse_type(option, value);
    static const char between[] = "[](), \t\"";
    bool chosen[NAMES_MAX] = {0}, any = false;
    char list[512];
    for (const char *at = value->text + strspn(value->text, between); *at != '\0'; at += strspn(at, between)) {
        const size_t length = strcspn(at, between);
        const bool all = length == strlen("all-linear") && strncmp(at, "all-linear", length) == 0;
        const int index = names_find(modules, at, length);
        for (int i = 0; all && modules[i] != NULL; i++) chosen[i] = true;
        if (index >= 0) chosen[index] = true;
        if (!all && index < 0) {
            names_list(modules, ", ", list, sizeof list);
            return error_set(STATUS_USAGE,
                             "%s: %s names \"%.*s\", which is no linear layer of a Llama block; take %s or "
                             "\"all-linear\"",
                             value->where, option->key, length > 100 ? 100 : (int)length, at, list);
        }
        any = true;
        at += length;
    }
    if (!any) {
        bracketed(option->preset, list, sizeof list);
        return error_set(STATUS_USAGE, "%s: %s is empty; name at least one module, e.g. %s", value->where, option->key,
                         list);
    }
    return names_write(modules, chosen, out, CONFIG_TEXT_MAX)
               ? STATUS_OK
               : error_set(STATUS_USAGE, "%s: %s is longer than %d bytes", value->where, option->key,
                           CONFIG_TEXT_MAX - 1);
}

static Status set_option(const Reading *reading, const Option *option, const Value *value) {
    void *field = (char *)reading->config + option->offset;
    if (value->kind == A_GROUP) return refuse_type(option, value);
    switch (option->type) {
    case STRING:
    case WORD:
        return set_string(option, value, field);
    case ENUM:
        return set_word(option, value, field);
    case INT:
        return set_int(option, value, field);
    case FLOAT:
    case FLOAT_OR_AUTO:
        return set_float(option, value, field);
    case MODULES:
        return set_modules(option, value, reading->modules, field);
    case BOOL:
        if (value->kind != A_BOOL) return refuse_type(option, value);
        *(bool *)field = strcasecmp(value->text, "true") == 0;
        return STATUS_OK;
    }
    return STATUS_OK;
}

// A value as typed on the command line, or a default. `text` must stay; quotes around it are taken off in `buffer`.
static Value typed_value(const char *text, const char *where, char buffer[CONFIG_TEXT_MAX + 2]) {
    size_t length = strlen(text);
    if (length >= 2 && length < CONFIG_TEXT_MAX + 2 && text[0] == '"' && text[length - 1] == '"') {
        memcpy(buffer, text + 1, length - 2);
        buffer[length - 2] = '\0';
        return (Value){A_STRING, false, buffer, where};
    }
    Value value = {A_STRING, true, text, where};
    int64_t integer;
    double number;
    bool overflow;
    if (read_int(text, &integer, &overflow))
        value.kind = AN_INT;
    else if (read_float(text, &number))
        value.kind = A_FLOAT;
    else if (strcasecmp(text, "true") == 0 || strcasecmp(text, "false") == 0)
        value.kind = A_BOOL;
    return value;
}

static const char *skip_blanks(const char *at, int *line) {
    for (;;) {
        if (*at == '#' || (at[0] == '/' && at[1] == '/')) {
            at += strcspn(at, "\n");
        } else if (at[0] == '/' && at[1] == '*') {
            for (at += 2; *at != '\0' && !(at[0] == '*' && at[1] == '/'); at++) *line += *at == '\n';
            if (*at != '\0') at += 2;
        } else if (isspace((unsigned char)*at)) {
            *line += *at == '\n';
            at++;
        } else {
            return at;
        }
    }
}

// Past the string that starts at `at` and, as in C, those that follow it directly.
static const char *skip_strings(const char *at, int *line) {
    while (*at == '"') {
        for (at++; *at != '\0' && *at != '"'; at++) {
            *line += *at == '\n';
            if (at[0] == '\\' && at[1] != '\0') *line += *++at == '\n';
        }
        if (*at == '"') at++;
        int next_line = *line;
        const char *next = skip_blanks(at, &next_line);
        if (*next != '"') return at;
        at = next;
        *line = next_line;
    }
    return at;
}

// Lists the scalars of a file that libconfig accepts, or refuses its @include, which would break the count.
static Status list_scalars(const char *text, const char *name, Scalar *out, size_t limit, size_t *count) {
    int line = 1;
    *count = 0;
    for (const char *at = skip_blanks(text, &line); *at != '\0'; at = skip_blanks(at, &line)) {
        const char *start = at;
        int start_line = line;
        if (*at == '@')
            return error_set(STATUS_USAGE, "%s:%d: @include is not supported; put everything into one file", name,
                             line);
        if (*at == '"') {
            at = skip_strings(at, &line);
        } else {
            size_t length = strcspn(at, "=:{}()[],;\"#/ \t\r\n\f\v");
            at += length == 0 ? 1 : length;
            int next_line = line;
            const char *next = skip_blanks(at, &next_line);
            if (length == 0 || *next == '=' || *next == ':') continue; // punctuation, or a key
        }
        if (*count < limit) out[(*count)++] = (Scalar){start, (size_t)(at - start), start_line};
    }
    return STATUS_OK;
}

static size_t count_scalars(const config_setting_t *setting) {
    if (!config_setting_is_aggregate(setting)) return 1;
    size_t count = 0;
    for (int i = 0; i < config_setting_length(setting); i++)
        count += count_scalars(config_setting_get_elem(setting, (unsigned)i));
    return count;
}

// The value of a setting; takes its scalars from *next on. `buffer` holds its text.
static Value file_value(const config_setting_t *setting, const Scalar **next, const char *where, char *buffer,
                        size_t size) {
    Value value = {A_GROUP, false, buffer, where};
    buffer[0] = '\0';
    if (config_setting_is_aggregate(setting)) {
        if (!config_setting_is_group(setting)) value.kind = A_LIST;
        size_t used = 0;
        for (int i = 0; i < config_setting_length(setting); i++) {
            Value element =
                file_value(config_setting_get_elem(setting, (unsigned)i), next, where, buffer + used, size - used);
            if (element.kind == A_LIST || element.kind == A_GROUP) value.kind = A_GROUP;
            used += strlen(buffer + used);
            if (used + 2 < size) {
                buffer[used++] = ',';
                buffer[used] = '\0';
            }
        }
        if (used > 0) buffer[used - 1] = '\0';
        return value;
    }
    const Scalar *scalar = (*next)++;
    switch (config_setting_type(setting)) {
    case CONFIG_TYPE_STRING:
        value.kind = A_STRING;
        break;
    case CONFIG_TYPE_BOOL:
        value.kind = A_BOOL;
        break;
    case CONFIG_TYPE_FLOAT:
        value.kind = A_FLOAT;
        break;
    default:
        value.kind = AN_INT;
    }
    if (value.kind == A_STRING)
        snprintf(buffer, size, "%s", config_setting_get_string(setting));
    else
        snprintf(buffer, size, "%.*s", (int)scalar->length, scalar->text);
    return value;
}

static Status read_group(Reading *reading, const config_setting_t *group, const char *path, const Scalar **next) {
    for (int i = 0; i < config_setting_length(group); i++) {
        const config_setting_t *setting = config_setting_get_elem(group, (unsigned)i);
        char key[128], where[1100], text[2 * CONFIG_TEXT_MAX];
        int length_of_key =
            snprintf(key, sizeof key, "%s%s%s", path, path[0] == '\0' ? "" : ".", config_setting_name(setting));
        bool scalar = !config_setting_is_aggregate(setting);
        int line = scalar ? (*next)->line : (int)config_setting_source_line(setting);
        snprintf(where, sizeof where, "%s:%d", reading->name, line);
        // Longer than any key; this also ends the descent into groups of groups of groups.
        if (length_of_key >= (int)sizeof key) return refuse_key(where, key);
        int option = find_option(key);
        size_t length = strlen(key);
        bool is_group = false;
        for (int j = 0; j < OPTION_COUNT; j++)
            is_group |= strncmp(OPTIONS[j].key, key, length) == 0 && OPTIONS[j].key[length] == '.';
        if (option < 0 && config_setting_is_group(setting) && (is_group || config_setting_length(setting) > 0)) {
            TRY(read_group(reading, setting, key, next));
            continue;
        }
        if (is_group) return error_set(STATUS_USAGE, "%s: %s is a group; write %s: { ... }", where, key, key);
        if (option < 0) return refuse_key(where, key);
        Value value = file_value(setting, next, where, text, sizeof text);
        TRY(set_option(reading, &OPTIONS[option], &value));
        reading->set_by[option] = line;
    }
    return STATUS_OK;
}

static Status read_text(Reading *reading, const char *text) {
    config_t tree;
    Scalar *scalars = NULL;
    Status status = STATUS_OK;
    config_init(&tree);
    // Before libconfig opens the file of an @include.
    size_t count = 0;
    TRY_GOTO(list_scalars(text, reading->name, NULL, 0, &count), done);
    if (config_read_string(&tree, text) != CONFIG_TRUE) {
        const char *what = config_error_text(&tree);
        bool twice = what != NULL && strstr(what, "duplicate") != NULL;
        status = error_set(STATUS_USAGE, "%s:%d: %s; %s", reading->name, config_error_line(&tree),
                           what == NULL ? "cannot be read" : what,
                           twice ? "give each key once, and each group once" : "write key = value; in group: { ... }");
        goto done;
    }
    size_t expected_count = count_scalars(config_root_setting(&tree));
    scalars = calloc(expected_count + 1, sizeof *scalars);
    if (scalars == NULL) {
        status = error_set(STATUS_FAILED, "%s: not enough memory to read it", reading->name);
        goto done;
    }
    TRY_GOTO(list_scalars(text, reading->name, scalars, expected_count + 1, &count), done);
    if (count != expected_count) {
        status =
            error_set(STATUS_USAGE, "%s: values run into each other; put each setting on its own line", reading->name);
        goto done;
    }
    const Scalar *next = scalars;
    status = read_group(reading, config_root_setting(&tree), "", &next);
done:
    free(scalars);
    config_destroy(&tree);
    return status;
}

static Status read_words(Reading *reading, int count) {
    for (int i = 0; i < count; i++) {
        const char *word = reading->words[i], *equals = strchr(word, '=');
        char key[128], buffer[CONFIG_TEXT_MAX + 2];
        if (equals == NULL || equals == word)
            return error_set(STATUS_USAGE, "%s: is not key=value; write e.g. train.seed=42", word);
        snprintf(key, sizeof key, "%.*s", equals - word > 127 ? 127 : (int)(equals - word), word);
        int option = find_option(key);
        if (option < 0) return refuse_key(word, key);
        if (reading->set_by[option] < 0)
            return error_set(STATUS_USAGE, "%s: %s is given twice; give it once", word, key);
        Value value = typed_value(equals + 1, word, buffer);
        TRY(set_option(reading, &OPTIONS[option], &value));
        reading->set_by[option] = -i - 1;
    }
    return STATUS_OK;
}

// Where an option of a refused combination was set: the file alone for a default.
static const char *where_set(const Reading *reading, const char *key, char *out, size_t size) {
    long set_by = reading->set_by[find_option(key)];
    if (set_by < 0) return reading->words[-set_by - 1];
    if (set_by > 0)
        snprintf(out, size, "%s:%ld", reading->name, set_by);
    else
        snprintf(out, size, "%s", reading->name);
    return out;
}

bool loss_takes_pairs(LossType loss) {
    return loss == LOSS_DPO;
}

// A pair has one loss, which these two cannot weigh apart.
static Status check_pair_weights(const Reading *reading, const char *key, double weight) {
    char where[1100], text[32] = "\"auto\"";
    if (!loss_takes_pairs((LossType)reading->config->kto.loss_type) || weight == 1) return STATUS_OK;
    if (!isnan(weight)) snprintf(text, sizeof text, "%g", weight);
    return error_set(STATUS_USAGE,
                     "%s: %s = %s weighs rows of one label, and with kto.loss_type = \"%s\" a row is a pair of both; "
                     "remove it, and give single pairs a \"weight\" in their rows if that is meant",
                     where_set(reading, key, where, sizeof where), key, text,
                     config_word(reading->config, "kto.loss_type"));
}

static Status check_together(const Reading *reading) {
    const Config *c = reading->config;
    char where[1100];
    for (int i = 0; i < OPTION_COUNT; i++)
        if (OPTIONS[i].range == NEEDED && ((const char *)c)[OPTIONS[i].offset] == '\0')
            return error_set(STATUS_USAGE, "%s: %s is missing; give the %s", reading->name, OPTIONS[i].key,
                             OPTIONS[i].help);
    if (c->data.max_prompt_length >= c->data.max_length)
        return error_set(
            STATUS_USAGE,
            "%s: data.max_prompt_length = %lld is not below data.max_length = %lld, so a prompt could fill "
            "the whole length and every answer would be cut to nothing; raise max_length or lower "
            "max_prompt_length",
            where_set(reading, "data.max_prompt_length", where, sizeof where), (long long)c->data.max_prompt_length,
            (long long)c->data.max_length);
    TRY(check_pair_weights(reading, "kto.desirable_weight", c->kto.desirable_weight));
    TRY(check_pair_weights(reading, "kto.undesirable_weight", c->kto.undesirable_weight));
    if (isnan(c->kto.desirable_weight) && isnan(c->kto.undesirable_weight))
        return error_set(STATUS_USAGE,
                         "%s: kto.desirable_weight and kto.undesirable_weight are both \"auto\", and each would wait "
                         "for the other; give one of them a number, e.g. 1.0",
                         where_set(reading, "kto.undesirable_weight", where, sizeof where));
    if (c->kto.desirable_weight == 0 && c->kto.undesirable_weight == 0)
        return error_set(
            STATUS_USAGE,
            "%s: kto.desirable_weight and kto.undesirable_weight are both 0, so there is nothing to learn; "
            "raise one of them",
            where_set(reading, "kto.undesirable_weight", where, sizeof where));
    if (c->train.eval_steps > 0 && c->data.eval[0] == '\0')
        return error_set(STATUS_USAGE, "%s: train.eval_steps = %lld has no rows to evaluate; set data.eval",
                         where_set(reading, "train.eval_steps", where, sizeof where), (long long)c->train.eval_steps);
    if (c->train.sample_steps > 0 && c->train.sample_prompts[0] == '\0')
        return error_set(
            STATUS_USAGE, "%s: train.sample_steps = %lld has no prompts to answer; set train.sample_prompts",
            where_set(reading, "train.sample_steps", where, sizeof where), (long long)c->train.sample_steps);
    return STATUS_OK;
}

Status config_parse(Config *out, const char *const *modules, const char *text, const char *name, int override_count,
                    char *const *overrides) {
    Reading reading = {.config = out, .modules = modules, .name = name, .words = overrides};
    memset(out, 0, sizeof *out);
    for (int i = 0; i < OPTION_COUNT; i++) {
        char buffer[CONFIG_TEXT_MAX + 2];
        if (OPTIONS[i].preset[0] == '\0') continue;
        Value value = typed_value(OPTIONS[i].preset, OPTIONS[i].key, buffer);
        TRY(set_option(&reading, &OPTIONS[i], &value));
    }
    TRY(read_text(&reading, text));
    TRY(read_words(&reading, override_count));
    return check_together(&reading);
}

Status config_load(Config *out, const char *const *modules, const char *file, int override_count,
                   char *const *overrides) {
    char *text;
    size_t bytes;
    if (file_read(file, CONFIG_FILE_MAX, &text, &bytes) != STATUS_OK) return STATUS_USAGE;
    Status status = strlen(text) != bytes ? error_set(STATUS_USAGE, "%s: is not a text file", file)
                                          : config_parse(out, modules, text, file, override_count, overrides);
    free(text);
    return status;
}

// The fewest decimals that read back to the same bits: 15 do for what people write, 17 for all.
static void print_float(FILE *to, double value) {
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    fprintf(to, "%s%s", text, strpbrk(text, ".e") == NULL ? ".0" : "");
}

static void print_string(FILE *to, const char *text) {
    fputc('"', to);
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            fprintf(to, "\\%c", c);
        else if (c < ' ' || c == 127)
            fprintf(to, "\\x%02x", c);
        else
            fputc(c, to);
    }
    fputc('"', to);
}

static void print_value(FILE *to, const Option *option, const Config *config) {
    const void *field = (const char *)config + option->offset;
    switch (option->type) {
    case STRING:
    case WORD:
        print_string(to, field);
        break;
    case ENUM:
        print_string(to, option->words[*(const int *)field]);
        break;
    case INT: {
        int64_t value = *(const int64_t *)field;
        fprintf(to, "%lld%s", (long long)value, value == (int32_t)value ? "" : "L");
        break;
    }
    case FLOAT:
    case FLOAT_OR_AUTO:
        if (isnan(*(const double *)field))
            fputs("\"auto\"", to);
        else
            print_float(to, *(const double *)field);
        break;
    case BOOL:
        fputs(*(const bool *)field ? "true" : "false", to);
        break;
    case MODULES: {
        char list[2 * CONFIG_TEXT_MAX];
        bracketed(field, list, sizeof list);
        fputs(list, to);
    }
    }
}

char *config_text(const Config *config) {
    char *text = NULL;
    size_t size = 0;
    FILE *to = open_memstream(&text, &size);
    if (to == NULL) return NULL;
    for (int i = 0; i < OPTION_COUNT; i++) {
        const char *key = OPTIONS[i].key, *name = strchr(key, '.') + 1;
        size_t group = (size_t)(name - key);
        if (i == 0 || strncmp(OPTIONS[i - 1].key, key, group) != 0)
            fprintf(to, "%s%.*s: {\n", i == 0 ? "" : "};\n", (int)group - 1, key);
        fprintf(to, "    %s = ", name);
        print_value(to, &OPTIONS[i], config);
        fputs(";\n", to);
    }
    fputs("};\n", to);
    bool failed = ferror(to) != 0;
    if (fclose(to) != 0 || failed) {
        free(text);
        return NULL;
    }
    return text;
}

static void value_text(const Option *option, const Config *config, char *out, size_t size) {
    FILE *to = fmemopen(out, size, "w");
    if (to == NULL) {
        out[0] = '\0';
        return;
    }
    print_value(to, option, config);
    fclose(to);
    out[size - 1] = '\0';
}

const char *config_word(const Config *config, const char *key) {
    for (int i = 0; i < OPTION_COUNT; i++)
        if (OPTIONS[i].type == ENUM && strcmp(OPTIONS[i].key, key) == 0)
            return OPTIONS[i].words[*(const int *)((const char *)config + OPTIONS[i].offset)];
    return "";
}

bool config_assignment(const Config *config, int index, char *out, size_t size) {
    char text[4 * CONFIG_TEXT_MAX + 3];
    if (index >= OPTION_COUNT) return false;
    const Option *option = &OPTIONS[index];
    out[0] = '\0';
    if (option->type == STRING || option->type == WORD) return true;
    value_text(option, config, text, sizeof text);
    snprintf(out, size, "%s = %s", option->key, text);
    return true;
}

bool config_same_run(const Config *saved, const Config *now, char key[64], char a[256], char b[256]) {
    key[0] = a[0] = b[0] = '\0';
    bool constant = saved->train.lr_scheduler_type == SCHEDULER_CONSTANT;
    for (int i = 0; i < OPTION_COUNT; i++) {
        // Longer than a and b, which may be cut where the values still agree.
        char text[2][4 * CONFIG_TEXT_MAX + 3];
        bool length = OPTIONS[i].offset == AT(train.max_steps) || OPTIONS[i].offset == AT(train.num_train_epochs);
        if (!OPTIONS[i].alters || (length && constant)) continue;
        value_text(&OPTIONS[i], saved, text[0], sizeof text[0]);
        value_text(&OPTIONS[i], now, text[1], sizeof text[1]);
        if (strcmp(text[0], text[1]) == 0) continue;
        snprintf(key, 64, "%s", OPTIONS[i].key);
        snprintf(a, 256, "%.255s", text[0]);
        snprintf(b, 256, "%.255s", text[1]);
        return false;
    }
    return true;
}

// The default as a file has it.
static void preset_text(const Option *option, char *out, size_t size) {
    out[0] = '\0';
    if (option->preset[0] == '\0') return;
    if (option->type == WORD || option->type == ENUM) {
        snprintf(out, size, "\"%s\"", option->preset);
    } else if (option->type == MODULES) {
        bracketed(option->preset, out, size);
    } else {
        snprintf(out, size, "%s", option->preset);
    }
}

static void list_words(const Option *option, const char *const *modules, ConfigKey *key) {
    static const char *const truths[] = {"true", "false", NULL}, *const automatic[] = {"auto", NULL};
    const char *const *words = option->type == WORD || option->type == ENUM ? option->words
                               : option->type == BOOL                       ? truths
                               : option->type == FLOAT_OR_AUTO              ? automatic
                               : option->type == MODULES                    ? modules
                                                                            : NULL;
    int count = 0;
    for (; words != NULL && words[count] != NULL; count++) key->words[count] = words[count];
    if (option->type == MODULES) key->words[count] = "all-linear";
}

bool config_key(int index, const char *const *modules, ConfigKey *out) {
    if (index < 0 || index >= OPTION_COUNT) return false;
    const Option *option = &OPTIONS[index];
    *out = (ConfigKey){.name = option->key,
                       .group = (int)strcspn(option->key, "."),
                       .help = option->help,
                       .needed = option->range == NEEDED,
                       .path = option->type == STRING || option->type == WORD, // every free string is a path
                       .list = option->type == MODULES,
                       .alters = option->alters};
    expected(option, out->takes, sizeof out->takes);
    if (option->range != NEEDED) range_text(option, out->range, sizeof out->range);
    if (out->path) snprintf(out->takes, sizeof out->takes, "a path");
    preset_text(option, out->preset, sizeof out->preset);
    list_words(option, modules, out);
    return true;
}

bool config_help(FILE *to, const char *group, int width) {
    enum { INDENT = 27 };
    ConfigKey key;
    const char *last = NULL;
    for (int i = 0; config_key(i, NULL, &key); i++) {
        if (group != NULL && (strncmp(group, key.name, (size_t)key.group) != 0 || group[key.group] != '\0')) continue;
        if (last == NULL || strncmp(last, key.name, (size_t)key.group + 1) != 0)
            fprintf(to, "%s%.*s\n", last == NULL ? "" : "\n", key.group, key.name);
        last = key.name;
        fprintf(to, "  %-*s", INDENT - 2, key.name);
        if ((int)strlen(key.name) > INDENT - 3) fprintf(to, "\n%*s", INDENT, "");
        text_wrap(to, key.help, -1, INDENT, INDENT, width);
        char facts[512];
        snprintf(facts, sizeof facts, "(%s%s%s%s%s)", key.takes, key.range[0] == '\0' ? "" : ", ", key.range,
                 key.needed              ? "; must be given"
                 : key.preset[0] == '\0' ? ""
                                         : "; default ",
                 key.preset);
        fprintf(to, "%*s", INDENT, "");
        text_wrap(to, facts, -1, INDENT, INDENT, width);
    }
    return last != NULL;
}
