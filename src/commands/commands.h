// The tables of the program's commands, each in the file of its name. main.c lists them.
#pragma once
#include "src/commands/command.h"

extern const Command command_train, command_check, command_reference, command_sample, command_chat, command_serve,
    command_log, command_export, command_data_unpair, command_data_split, command_data_stats, command_data_tokens,
    command_data_review_pairs, command_help, command_completion, command_man;
