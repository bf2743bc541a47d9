// Command lines: words to flags and operands, and the help text. It knows no command.
#include "src/commands/command.h"

#include "src/base/text.h"
#include "src/base/wrap.h"

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

// --- names ----------------------------------------------------------------------------------------------------------

bool command_new_word(const Command *const *commands, int index, int *length) {
    const char *name = commands[index]->name;
    *length = (int)strcspn(name, " ");
    for (int i = 0; i < index; i++)
        if (strncmp(commands[i]->name, name, (size_t)*length) == 0 && strchr(" ", commands[i]->name[*length]) != NULL)
            return false;
    return true;
}

const char *command_second_word(const Command *command, const char *word, int length) {
    const bool follows = strncmp(command->name, word, (size_t)length) == 0 && command->name[length] == ' ';
    return follows ? command->name + length + 1 : NULL;
}

// --- help -----------------------------------------------------------------------------------------------------------

static void print_lines(const char *text, FILE *to) {
    while (*text != '\0') {
        const size_t length = strcspn(text, "\n");
        fprintf(to, "%s%.*s\n", length == 0 ? "" : "  ", (int)length, text);
        text += length + (text[length] == '\n');
    }
}

static void print_blocks(const char *text, FILE *to) {
    TextBlock block;
    for (const char *rest = text; text_block(&rest, &block);) {
        if (block.gap) fputc('\n', to);
        if (block.verbatim)
            fprintf(to, "%.*s\n", block.length, block.start);
        else
            text_wrap(to, block.start, block.length, 0, 0, text_columns());
    }
}

// "  LEFT    right", the right side in lines of its own column.
static void print_row(const char *left, int column, const char *right, FILE *to) {
    fprintf(to, "  %-*s", column - 2, left);
    if ((int)strlen(left) > column - 4) fprintf(to, "\n%*s", column, "");
    text_wrap(to, right, -1, column, column, text_columns());
}

static void print_flag(const Flag *flag, int column, FILE *to) {
    char left[64], right[1024];
    snprintf(left, sizeof left, "%s%s%s", flag->name, flag->value == NULL ? "" : " ",
             flag->value == NULL ? "" : flag->value);
    snprintf(right, sizeof right, "%s%s", flag->help, flag->required ? " (must be given)" : "");
    print_row(left, column, right, to);
}

void command_print(const Command *command, FILE *to) {
    const bool flags = command->flags != NULL;
    int column = 16;
    fprintf(to, "Usage: kto %s%s%s", command->name, command->operands[0] == '\0' ? "" : " ", command->operands);
    for (const Flag *flag = command->flags; flag != NULL && flag->name != NULL; flag++) {
        const int wide = (int)strlen(flag->name) + (flag->value == NULL ? 0 : 1 + (int)strlen(flag->value)) + 4;
        if (wide > column && wide <= 28) column = wide;
        if (flag->required) fprintf(to, " %s %s", flag->name, flag->value);
    }
    fprintf(to, "%s\n\n", flags ? " [OPTION ...]" : "");
    char summary[512];
    text_sentence(command->summary, summary, sizeof summary);
    text_wrap(to, summary, -1, 0, 0, text_columns());
    if (command->text != NULL) {
        fputc('\n', to);
        print_blocks(command->text, to);
    }
    if (flags) fprintf(to, "\nOptions:\n");
    for (const Flag *flag = command->flags; flag != NULL && flag->name != NULL; flag++) print_flag(flag, column, to);
    if (command->takes_keys)
        print_blocks(
            "\n\nWords key=value replace keys of CONFIG, as in train.learning_rate=1e-4; \"kto help keys\" lists "
            "them.",
            to);
    fprintf(to, "\nExamples:\n");
    print_lines(command->examples, to);
}

bool command_print_names(const Command *const *commands, const char *family, FILE *to) {
    const int length = family == NULL ? 0 : (int)strlen(family);
    int column = 0, count = 0;
    for (int i = 0; commands[i] != NULL; i++)
        if ((int)strlen(commands[i]->name) + 4 > column) column = (int)strlen(commands[i]->name) + 4;
    for (int i = 0; commands[i] != NULL; i++) {
        if (family != NULL && command_second_word(commands[i], family, length) == NULL) continue;
        print_row(commands[i]->name, column, commands[i]->summary, to);
        count++;
    }
    return count > 0;
}
