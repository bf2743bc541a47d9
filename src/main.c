// The program: which command, one error message, one exit code on every rank.
#include "comm/comm.h"
#include "io/config.h"
#include "src/base/log.h"
#include "src/run.h"
#include "src/stop.h"
#include "src/version.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

typedef struct Command {
    const char *name, *arguments, *help;
    Status (*run)(Comm *comm, int argc, char **argv);
} Command;

static const Command commands[] = {
    {"train", "CONFIG [key=value ...]", "train; resumes by itself when train.output_dir holds this run's checkpoint",
     command_train},
    {"check", "CONFIG [--device NAME] [key=value ...]",
     "read configuration, rows and model header; print what training would do", command_check},
    {"reference", "CONFIG [key=value ...]", "fill the cache of reference log-probs ahead of training",
     command_reference},
    {"sample",
     "CONFIG|RUN_DIR --prompts FILE.jsonl [--base] [--greedy] [--temperature T] [--top-k K] [--top-p P] [--seed S] "
     "[--max-tokens N] [--n N]",
     "answer prompts, one JSON line each on standard output", command_sample},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void help(void) {
    printf("kto %s: KTO fine-tuning with LoRA, on one rank or many\n\n", KTO_VERSION);
    for (int i = 0; i < COMMANDS; i++)
        printf("  kto %s %s\n      %s\n", commands[i].name, commands[i].arguments, commands[i].help);
    printf("\nExit codes: 0 done, 1 failed while running, 2 bad usage or configuration, 3 bad rows or model files,\n"
           "75 stopped on request after a checkpoint.\n\nConfiguration keys:\n");
    config_help(stdout);
}

static Status find_command(int argc, char **argv, const Command **out) {
    if (argc < 2) return error_set(STATUS_USAGE, "which command? train, check, reference or sample; see kto --help");
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(argv[1], commands[i].name) != 0) continue;
        if (argc < 3) return error_set(STATUS_USAGE, "kto %s needs: %s", commands[i].name, commands[i].arguments);
        *out = &commands[i];
        return STATUS_OK;
    }
    return error_set(STATUS_USAGE, "unknown command \"%s\"; there are train, check, reference and sample", argv[1]);
}

int main(int argc, char **argv) {
    if (argc > 1 &&
        (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--version") == 0)) {
        if (strcmp(argv[1], "--version") == 0)
            printf("kto %s (%s)\n", KTO_VERSION, KTO_GIT_COMMIT);
        else
            help();
        return 0;
    }
    signal(SIGPIPE, SIG_IGN); // a closed pipe is a failed write, with a message
    signal(SIGXFSZ, SIG_IGN); // so is one beyond the limit on a file's size
    if (argc > 1 && (strcmp(argv[1], "train") == 0 || strcmp(argv[1], "reference") == 0)) stop_install();
    Comm comm;
    if (comm_open(&comm, &argc, &argv) != STATUS_OK) {
        log_error(error_text());
        return STATUS_FAILED;
    }
    log_init(comm.rank == 0);
    const Command *command = NULL;
    Status status = comm_agree(&comm, find_command(argc, argv, &command));
    if (status == STATUS_OK) status = command->run(&comm, argc - 2, argv + 2);
    if (status != STATUS_OK && status != STATUS_STOPPED) {
        // A failure that all ranks agreed on is said by rank 0. One of this rank alone is said by it, and ends the job:
        // the others may be waiting for it.
        if (!comm.agreed_failure) log_init(true);
        log_error(error_text());
        if (!comm.agreed_failure) comm_abort(&comm, status);
    }
    comm_close(&comm);
    return status;
}
