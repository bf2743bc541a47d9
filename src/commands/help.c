// The command help, and what --help says.
#include "src/commands/help.h"

#include "io/config.h"
#include "src/base/version.h"
#include "src/base/wrap.h"
#include "src/commands/commands.h"
#include "src/model/arch.h"

#include <string.h>

const ExitCode exit_codes[] = {
    {STATUS_OK, "done"},
    {STATUS_FAILED, "failed while running: memory, disk, a lost rank, numbers gone bad"},
    {STATUS_USAGE, "bad command line or configuration"},
    {STATUS_DATA, "bad rows or model files"},
    {STATUS_STOPPED, "asked to stop, and stopped after a checkpoint was written; the same command goes on"},
    {0}};

static void print_overview(void) {
    printf("kto %s: KTO fine-tuning of language models with LoRA, on one process or many\n\n"
           "Usage: kto COMMAND [WORD ...]\n\nCommands:\n",
           KTO_VERSION);
    command_print_names(commands, NULL, stdout);
    printf("\nMore:\n"
           "  kto help COMMAND   what a command takes, with examples; also kto COMMAND --help\n"
           "  kto help keys      the keys of a configuration; kto help keys GROUP those of a group\n"
           "  kto --version      the version\n"
           "\nExit codes:\n");
    for (const ExitCode *exit = exit_codes; exit->meaning != NULL; exit++)
        printf("  %-3d %s\n", exit->code, exit->meaning);
}

// The groups of the configuration, "data, train".
static void list_groups(char *out, size_t size) {
    ConfigKey key;
    size_t used = 0;
    const char *last = NULL;
    out[0] = '\0';
    for (int i = 0; config_key(i, arch_modules, &key) && used < size; last = key.name, i++)
        if (last == NULL || strncmp(last, key.name, (size_t)key.group + 1) != 0)
            used += (size_t)snprintf(out + used, size - used, "%s%.*s", i == 0 ? "" : ", ", key.group, key.name);
}

static Status print_keys(const char *group) {
    char groups[256];
    if (group == NULL)
        printf(
            "Keys of a configuration. In a file:  group: { key = value; };  on the command line:  group.key=value\n\n");
    if (config_help(stdout, group, text_columns())) return STATUS_OK;
    list_groups(groups, sizeof groups);
    return error_set(STATUS_USAGE, "no key has the group \"%s\"; there are %s", group, groups);
}

Status help_print(int argc, char **argv) {
    const Command *command = NULL;
    int words;
    if (argc == 0) {
        print_overview();
    } else if (strcmp(argv[0], "keys") == 0) {
        TRY(print_keys(argc > 1 ? argv[1] : NULL));
    } else if (argc > 1 || !command_print_names(commands, argv[0], stdout)) {
        TRY(command_find(commands, argc, argv, &command, &words));
        command_print(command, stdout);
    }
    return STATUS_OK;
}

static Status run_help(Comm *comm, int argc, char **argv) {
    (void)comm;
    TRY(command_parse(&command_help, &argc, argv, NULL));
    return help_print(argc, argv);
}

static const char *const help_words[] = {"keys", NULL};

const Command command_help = {
    .name = "help",
    .operands = "[COMMAND | keys [GROUP]]",
    .operands_max = 2,
    .takes_command = true,
    .operand_words = help_words,
    .alone = true,
    .summary = "explain a command, or the keys of a configuration",
    .examples = "kto help\n"
                "kto help train\n"
                "kto help keys\n"
                "kto help keys data",
    .run = run_help,
};
