// The program: which command, one error message, one exit code on every rank.
#include "src/commands/commands.h"

#include "comm/comm.h"
#include "comm/stop.h"
#include "src/base/log.h"
#include "src/base/version.h"
#include "src/commands/help.h"
#include "src/data/rows.h"
#include "src/setup/run.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

// clang-format off
const Command *const commands[] = {
    &command_train,
    &command_check,
    &command_reference,
    &command_sample,
    &command_chat,
    &command_serve,
    &command_log,
    &command_export,
    &command_data_unpair,
    &command_data_split,
    &command_data_stats,
    &command_data_tokens,
    &command_data_review_pairs,
    &command_help,
    &command_completion,
    &command_man,
    NULL,
};
// clang-format on

// Without MPI, in this process alone.
static int end_alone(Status status) {
    if (status != STATUS_OK) log_error(error_text());
    return status;
}

static Status run_ranks(const Command *command, Status found, int words, int argc, char **argv) {
    if (command != NULL && command->stops_on_request) stop_install();
    Comm comm;
    if (comm_open(&comm, &argc, &argv) != STATUS_OK) {
        log_error(error_text());
        return STATUS_FAILED;
    }
    log_init(comm.rank == 0);
    Status status = comm_agree(&comm, found);
    if (status == STATUS_OK) status = command->run(&comm, argc - 1 - words, argv + 1 + words);
    if (status != STATUS_OK && status != STATUS_STOPPED) {
        // A failure that all ranks agreed on is said by rank 0. One of this rank alone is said by it, and ends the job:
        // the others may be waiting for it.
        if (!error_is_shared()) log_init(true);
        log_error(error_text());
        if (!error_is_shared()) comm_abort(&comm, status);
    }
    comm_close(&comm);
    return status;
}

static bool asks_for_help(int argc, char **argv) {
    for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0) return true;
    return false;
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN); // a closed pipe is a failed write, with a message
    signal(SIGXFSZ, SIG_IGN); // so is one beyond the limit on a file's size
    const char *first = argc > 1 ? argv[1] : "";
    if (strcmp(first, "--version") == 0) {
        printf("kto %s (%s)\n", KTO_VERSION, KTO_GIT_COMMIT);
        return 0;
    }
    if (strcmp(first, "--help") == 0) return end_alone(help_print(0, NULL));
    const Command *command = NULL;
    int words = 0;
    const Status found = command_find(commands, argc - 1, argv + 1, &command, &words);
    if (asks_for_help(argc, argv)) return end_alone(help_print(command == NULL ? 1 : words, argv + 1));
    if (command == NULL || !command->alone) return run_ranks(command, found, words, argc, argv);
    return end_alone(command->run(NULL, argc - 1 - words, argv + 1 + words));
}
