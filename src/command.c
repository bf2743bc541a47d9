// Command lines: words to flags and operands, and the help text. It knows no command.
#include "src/command.h"

#include "src/base/text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

// --- parsing --------------------------------------------------------------------------------------------------------

static Status set_whole(const Flag *flag, const char *text, int64_t *out) {
    char *end;
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || (double)value < flag->low || (double)value > flag->high)
        return error_set(STATUS_USAGE, "%s takes a whole number from %.16g to %.16g, not \"%s\"", flag->name, flag->low,
                         flag->high, text);
    *out = value;
    return STATUS_OK;
}

static Status set_real(const Flag *flag, const char *text, double *out) {
    char *end;
    const double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value > flag->low) || !(value <= flag->high))
        return error_set(STATUS_USAGE, "%s takes a number above %g and up to %g, not \"%s\"", flag->name, flag->low,
                         flag->high, text);
    *out = value;
    return STATUS_OK;
}

static Status set_word(const Flag *flag, const char *text, int *out) {
    char all[256] = "";
    for (int i = 0; flag->words[i] != NULL; i++) {
        if (strcmp(flag->words[i], text) == 0) {
            *out = i;
            return STATUS_OK;
        }
        const size_t used = strlen(all);
        snprintf(all + used, sizeof all - used, "%s%s",
                 i == 0                       ? ""
                 : flag->words[i + 1] == NULL ? " or "
                                              : ", ",
                 flag->words[i]);
    }
    return error_set(STATUS_USAGE, "%s takes %s, not \"%s\"", flag->name, all, text);
}

static Status set_flag(const Flag *flag, const char *text, void *options) {
    void *to = (char *)options + flag->offset;
    switch (flag->kind) {
    case FLAG_SWITCH:
        *(bool *)to = true;
        return STATUS_OK;
    case FLAG_TEXT:
        *(const char **)to = text;
        return STATUS_OK;
    case FLAG_FILE:
    case FLAG_FOLDER:
        if (*text == '\0') return error_set(STATUS_USAGE, "%s is empty; it needs a path", flag->name);
        *(const char **)to = text;
        return STATUS_OK;
    case FLAG_WORD:
        return set_word(flag, text, to);
    case FLAG_WHOLE:
        return set_whole(flag, text, to);
    case FLAG_REAL:
        return set_real(flag, text, to);
    }
    return STATUS_OK;
}

static const Flag *find_flag(const Command *command, const char *word, size_t length) {
    for (const Flag *flag = command->flags; flag != NULL && flag->name != NULL; flag++)
        if (strlen(flag->name) == length && strncmp(flag->name, word, length) == 0) return flag;
    return NULL;
}

static Status refuse_flag(const Command *command, const char *word) {
    const Flag *best = NULL;
    int distance = 4; // farther ones are no help
    for (const Flag *flag = command->flags; flag != NULL && flag->name != NULL; flag++) {
        const int d = edit_distance(word, flag->name);
        if (d < distance) {
            distance = d;
            best = flag;
        }
    }
    if (best != NULL)
        return error_set(STATUS_USAGE, "unknown option %s of kto %s; did you mean %s?", word, command->name,
                         best->name);
    return error_set(STATUS_USAGE, "unknown option %s of kto %s; see kto help %s", word, command->name, command->name);
}

// Bit i: flag i of the table was given.
static Status missing_flag(const Command *command, uint64_t given) {
    for (int i = 0; command->flags != NULL && command->flags[i].name != NULL; i++)
        if (command->flags[i].required && !(given >> i & 1))
            return error_set(STATUS_USAGE, "kto %s needs %s %s; see kto help %s", command->name, command->flags[i].name,
                             command->flags[i].value, command->name);
    return STATUS_OK;
}

Status command_parse(const Command *command, int *argc, char **argv, void *options) {
    int operands = 0;
    bool flags = true;
    uint64_t given = 0;
    for (int i = 0; i < *argc; i++) {
        char *word = argv[i];
        if (flags && strcmp(word, "--") == 0) {
            flags = false;
            continue;
        }
        if (!flags || word[0] != '-' || word[1] == '\0') {
            argv[operands++] = word;
            continue;
        }
        const char *equals = strchr(word, '=');
        const Flag *flag = find_flag(command, word, equals == NULL ? strlen(word) : (size_t)(equals - word));
        if (flag == NULL) return refuse_flag(command, word);
        const char *value = equals == NULL ? NULL : equals + 1;
        if (flag->kind == FLAG_SWITCH && value != NULL) return error_set(STATUS_USAGE, "%s takes no value", flag->name);
        if (flag->kind != FLAG_SWITCH && value == NULL) {
            if (i + 1 == *argc) return error_set(STATUS_USAGE, "%s needs a value: %s", flag->name, flag->value);
            value = argv[++i];
        }
        TRY(set_flag(flag, value, options));
        given |= (uint64_t)1 << (flag - command->flags);
    }
    *argc = operands;
    if (operands < command->operands_min)
        return error_set(STATUS_USAGE, "kto %s needs: %s", command->name, command->operands);
    if (command->operands_max >= 0 && operands > command->operands_max)
        return error_set(STATUS_USAGE, "kto %s takes %s; \"%s\" is too much", command->name, command->operands,
                         argv[command->operands_max]);
    return missing_flag(command, given);
}

// How many of the leading words are the command's name; 0: it is another.
static int name_words(const char *name, int argc, char **argv) {
    const char *space = strchr(name, ' ');
    const size_t first = space == NULL ? strlen(name) : (size_t)(space - name);
    if (strlen(argv[0]) != first || strncmp(argv[0], name, first) != 0) return 0;
    if (space == NULL) return 1;
    return argc > 1 && strcmp(argv[1], space + 1) == 0 ? 2 : 0;
}

// The names, of those alone that begin with the word `family` unless it is NULL.
static void list_names(const Command *const *commands, const char *family, char *out, size_t size) {
    size_t used = 0;
    out[0] = '\0';
    for (int i = 0; commands[i] != NULL; i++) {
        const char *name = commands[i]->name;
        const size_t length = family == NULL ? 0 : strlen(family);
        if (family != NULL && (strncmp(name, family, length) != 0 || name[length] != ' ')) continue;
        used += (size_t)snprintf(out + used, size - used, "%s%s", used == 0 ? "" : ", ", name);
        if (used >= size) return;
    }
}

Status command_find(const Command *const *commands, int argc, char **argv, const Command **out, int *words) {
    char names[512];
    if (argc > 0) {
        for (int i = 0; commands[i] != NULL; i++) {
            *words = name_words(commands[i]->name, argc, argv);
            if (*words == 0) continue;
            *out = commands[i];
            return STATUS_OK;
        }
        list_names(commands, argv[0], names, sizeof names);
        if (names[0] != '\0') return error_set(STATUS_USAGE, "which of %s? see kto help", names);
    }
    list_names(commands, NULL, names, sizeof names);
    if (argc == 0) return error_set(STATUS_USAGE, "which command? %s; see kto help", names);
    return error_set(STATUS_USAGE, "unknown command \"%s\"; there are %s", argv[0], names);
}

// --- help -----------------------------------------------------------------------------------------------------------

static void print_lines(const char *text, const char *indent, FILE *to) {
    while (*text != '\0') {
        const size_t length = strcspn(text, "\n");
        fprintf(to, "%s%.*s\n", length == 0 ? "" : indent, (int)length, text);
        text += length + (text[length] == '\n');
    }
}

void command_help(const Command *command, FILE *to) {
    const bool flags = command->flags != NULL;
    fprintf(to, "kto %s %s%s\n\n", command->name, command->operands, flags ? " [OPTION ...]" : "");
    print_lines(command->summary, "", to);
    if (command->text != NULL) {
        fputc('\n', to);
        print_lines(command->text, "", to);
    }
    if (flags) fprintf(to, "\nOptions:\n");
    for (const Flag *flag = command->flags; flag != NULL && flag->name != NULL; flag++) {
        char left[64];
        snprintf(left, sizeof left, "%s%s%s", flag->name, flag->value == NULL ? "" : " ",
                 flag->value == NULL ? "" : flag->value);
        fprintf(to, "  %-24s %s%s\n", left, flag->help, flag->required ? " (needed)" : "");
    }
    if (command->takes_keys)
        fprintf(to, "\nkey=value words replace keys of CONFIG, e.g. train.learning_rate=1e-4; kto help keys lists "
                    "them.\n");
    fprintf(to, "\nExamples:\n");
    print_lines(command->examples, "  ", to);
}

void command_help_all(const Command *const *commands, FILE *to) {
    for (int i = 0; commands[i] != NULL; i++) fprintf(to, "  %-18s %s\n", commands[i]->name, commands[i]->summary);
}
