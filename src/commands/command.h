// A command of the program as a table: what it takes, and what each flag means. Parsing, `kto help`, shell completion
// and man pages all come from it. Each command's table stands in its own file; src/commands/main.c lists them.
#pragma once
#include "comm/comm.h"
#include <stddef.h>
#include <stdio.h>

typedef enum FlagKind {
    FLAG_SWITCH, // bool: true when given
    FLAG_TEXT,   // const char *
    FLAG_FILE,   // const char *; completed as a file
    FLAG_FOLDER, // const char *; completed as a folder
    FLAG_WORD,   // int: index in `words`
    FLAG_WHOLE,  // int64_t, low to high
    FLAG_REAL    // double, above low and up to high
} FlagKind;

typedef struct Flag {
    const char *name;  // "--temperature"; NULL ends a table
    const char *value; // what stands for its value in help, "T"; NULL of a switch
    FlagKind kind;
    bool required;
    size_t offset; // in the command's struct of options, which holds the defaults before parsing
    double low, high;
    const char *const *words; // FLAG_WORD: ends with NULL
    const char *help;         // one line
} Flag;

typedef struct Command {
    const char *name;                 // "train"; of a family two words, "data split"
    const char *operands;             // as help writes them: "CONFIG [key=value ...]"
    int operands_min;                 //
    int operands_max;                 // -1: any number
    bool takes_keys;                  // operands after the first are key=value words of the configuration
    bool takes_command;               // the operands are words of a command's name, or one of operand_words
    const char *const *operand_words; // what an operand may be, ends with NULL; NULL: a file or folder
    bool alone;                       // works in one process without MPI, and gets NULL for comm
    bool stops_on_request;            // SIGUSR1, SIGTERM and SIGINT ask it to stop (comm/stop.h)
    const char *summary;              // one line
    const char *text;                 // what a person should know more, or NULL
    const char *examples;             // lines of shell, without indent
    const Flag *flags;                // NULL: none
    Status (*run)(Comm *comm, int argc, char **argv); // argv: the words after the command's name; may be reordered
} Command;

// Reads the flags among argv[0 .. *argc) into `options` and leaves the operands in argv[0 .. *argc). A flag's value is
// the next word, or follows "="; "--" ends the flags. STATUS_USAGE names an unknown flag's nearest, a value out of
// range, what is missing.
Status command_parse(const Command *command, int *argc, char **argv, void *options);

// The one that argv's first word or two words name; *words gets how many.
Status command_find(const Command *const *commands, int argc, char **argv, const Command **out, int *words);

void command_print(const Command *command, FILE *to); // usage, flags, examples
// Names and summaries; `family`: of "family word" alone, NULL: of all. False: there is none.
bool command_print_names(const Command *const *commands, const char *family, FILE *to);

// Whether command `index` is the first of the list with this first word, whose length *length gets.
bool command_new_word(const Command *const *commands, int index, int *length);
// What follows the word of `length` bytes in the name, "split" of "data split"; NULL: the name has another first word,
// or no second one.
const char *command_second_word(const Command *command, const char *word, int length);
