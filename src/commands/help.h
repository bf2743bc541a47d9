// What the program says of itself: help, shell completion and manual pages, all made from the tables of commands
// (src/commands/command.h) and of the configuration's keys (io/config.h). Nothing about a single command stands here.
#pragma once
#include "src/commands/command.h"

extern const Command
    *const commands[]; // all of the program, in the order of its help; NULL ends them (src/commands/main.c)

typedef struct ExitCode {
    int code;
    const char *meaning;
} ExitCode;
extern const ExitCode exit_codes[]; // ends with a NULL meaning

// To standard output: of no word the overview, of a command's name its help, of a family's name its commands, of "keys"
// and perhaps a group the configuration's keys.
Status help_print(int argc, char **argv);

// The script that completes the words of kto's command line.
void completion_bash(FILE *to);
void completion_zsh(FILE *to);
