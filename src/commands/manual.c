// The command man: manual pages in roff, one for kto, one for each command and kto.cfg(5), made from the tables.
#include "src/commands/commands.h"

#include "io/config.h"
#include "src/base/version.h"
#include "src/base/wrap.h"
#include "src/commands/help.h"
#include "src/model/arch.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

// --- roff -----------------------------------------------------------------------------------------------------------

// One line's text without its end. `start`: it begins the line, where . and ' are roff's own.
static void put_text(FILE *to, const char *text, int length, bool start) {
    if (start && length > 0 && strchr(".'", text[0]) != NULL) fputs("\\&", to);
    for (int i = 0; i < length; i++) {
        switch (text[i]) {
        case '\\':
            fputs("\\e", to);
            break;
        case '-': // a hyphen would break lines and not be found by search
            fputs("\\-", to);
            break;
        case '\'':
            fputs("\\(aq", to);
            break;
        case '"':
            fputs("\\(dq", to);
            break;
        case '`':
            fputs("\\(ga", to);
            break;
        case '^':
            fputs("\\(ha", to);
            break;
        case '~':
            fputs("\\(ti", to);
            break;
        default:
            fputc(text[i], to);
        }
    }
}

// Lines as they are, or broken anew.
static void put_lines(FILE *to, const char *text, int length, bool wrap) {
    char *lines = NULL;
    size_t size;
    FILE *wrapped = wrap ? open_memstream(&lines, &size) : NULL;
    if (wrapped != NULL) {
        text_wrap(wrapped, text, length, 0, 0, 72);
        if (fclose(wrapped) == 0) text = lines;
        length = (int)strlen(text);
    }
    for (const char *end = text + length; text < end;) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        const int line = (int)((stop == NULL ? end : stop) - text);
        if (line > 0) put_text(to, text, line, true);
        fputc('\n', to);
        text += line + 1;
    }
    free(lines);
}

static void put_paragraph(FILE *to, const char *text) {
    if (text[0] == '\0') return;
    put_lines(to, text, (int)strlen(text), true);
}

static void put_sentence(FILE *to, const char *text) {
    char sentence[1024];
    text_sentence(text, sentence, sizeof sentence);
    put_paragraph(to, sentence);
}

static void put_blocks(FILE *to, const char *text) {
    TextBlock block;
    bool open = false;
    for (const char *rest = text; text_block(&rest, &block);) {
        if (open && !block.verbatim) fputs(".fi\n", to);
        if (block.gap && !(open && block.verbatim)) fputs(".PP\n", to);
        if (!open && block.verbatim) fputs(".nf\n", to);
        open = block.verbatim;
        put_lines(to, block.start, block.length, !block.verbatim);
    }
    if (open) fputs(".fi\n", to);
}

// .TP with "left" in bold and "value" in italics.
static void put_tag(FILE *to, const char *left, const char *value) {
    fputs(".TP\n\\fB", to);
    put_text(to, left, (int)strlen(left), false);
    fputs("\\fR", to);
    if (value != NULL && value[0] != '\0') {
        fputs(" \\fI", to);
        put_text(to, value, (int)strlen(value), false);
        fputs("\\fR", to);
    }
    fputc('\n', to);
}

static void put_row(FILE *to, const char *left, const char *text) {
    put_tag(to, left, NULL);
    put_paragraph(to, text);
}

static void put_shell(FILE *to, const char *lines) {
    fputs(".nf\n.RS 4\n", to);
    put_lines(to, lines, (int)strlen(lines), false);
    fputs(".RE\n.fi\n", to);
}

// --- parts of pages -------------------------------------------------------------------------------------------------

// "kto-data-split" of the command data split.
static void page_name(const Command *command, char *out, size_t size) {
    snprintf(out, size, "kto-%s", command->name);
    for (char *c = out; *c != '\0'; c++)
        if (*c == ' ') *c = '-';
}

static void put_title(FILE *to, const char *name, int section) {
    fputs(".TH ", to);
    for (; *name != '\0'; name++) {
        const char upper = *name >= 'a' && *name <= 'z' ? (char)(*name - 'a' + 'A') : *name;
        fputc(upper, to);
    }
    fprintf(to, " %d \"%s\" \"kto %s\" \"%s\"\n", section, KTO_DATE, KTO_VERSION,
            section == 1 ? "User Commands" : "File Formats");
}

static void put_name(FILE *to, const char *name, const char *summary) {
    fputs(".SH NAME\n", to);
    put_text(to, name, (int)strlen(name), true);
    fputs(" \\- ", to);
    put_text(to, summary, (int)strlen(summary), false);
    fputc('\n', to);
}

static const struct {
    const char *path, *what;
} run_files[] = {
    {"config.cfg", "the configuration, every key written out"},
    {"metrics.h5", "metrics (HDF5): a row a step in /train, one an evaluation in /eval; can be read while it grows"},
    {"samples.jsonl", "answers made while training (train.sample_prompts)"},
    {"reference-HASH.h5", "the cache of reference log-probabilities, unless data.reference_cache names a folder"},
    {"checkpoints/step-N.h5", "what training goes on from"},
    {"adapter/", "the result, a PEFT folder; that it is there means that the run is finished"},
    {"lock", "held while a run is going"},
};

static void put_run_files(FILE *to) {
    put_paragraph(to, "In a run directory (train.output_dir):");
    for (size_t i = 0; i < sizeof run_files / sizeof *run_files; i++) put_row(to, run_files[i].path, run_files[i].what);
}

static void put_exit_status(FILE *to, bool stops) {
    fputs(".SH EXIT STATUS\n", to);
    for (const ExitCode *exit = exit_codes; exit->meaning != NULL; exit++) {
        char code[16];
        if (exit->code == STATUS_STOPPED && !stops) continue;
        snprintf(code, sizeof code, "%d", exit->code);
        put_row(to, code, exit->meaning);
    }
}

static void put_reference(FILE *to, const char *name, int section, bool *first) {
    if (!*first) fputs(",\n", to);
    *first = false;
    fputs(".BR ", to);
    put_text(to, name, (int)strlen(name), false);
    fprintf(to, " (%d)", section);
}

static void put_flag(FILE *to, const Flag *flag) {
    char range[128] = "";
    put_tag(to, flag->name, flag->value);
    put_sentence(to, flag->help);
    if (flag->kind == FLAG_WHOLE && flag->high < INT32_MAX)
        snprintf(range, sizeof range, "A whole number from %.16g to %.16g.", flag->low, flag->high);
    if (flag->kind == FLAG_REAL)
        snprintf(range, sizeof range, "A number above %.16g and up to %.16g.", flag->low, flag->high);
    put_paragraph(to, range);
    if (flag->required) fputs("It must be given.\n", to);
    if (flag->kind != FLAG_WORD) return;
    fputs("One of\n", to);
    for (int i = 0; flag->words[i] != NULL; i++) {
        fputs(".BR ", to);
        put_text(to, flag->words[i], (int)strlen(flag->words[i]), false);
        fprintf(to, "%s\n", flag->words[i + 1] != NULL ? " ," : " .");
    }
}

// --- pages ----------------------------------------------------------------------------------------------------------

static void command_page(const Command *command, FILE *to) {
    char name[64];
    page_name(command, name, sizeof name);
    put_title(to, name, 1);
    put_name(to, name, command->summary);

    fputs(".SH SYNOPSIS\n.B kto ", to);
    put_text(to, command->name, (int)strlen(command->name), false);
    fputc('\n', to);
    if (command->operands[0] != '\0') put_paragraph(to, command->operands);
    for (const Flag *flag = command->flags; flag != NULL && flag->name != NULL; flag++) {
        if (!flag->required) continue;
        fputs(".B ", to);
        put_text(to, flag->name, (int)strlen(flag->name), false);
        fputs("\n.I ", to);
        put_text(to, flag->value, (int)strlen(flag->value), false);
        fputc('\n', to);
    }
    if (command->flags != NULL) fputs("[OPTION ...]\n", to);

    fputs(".SH DESCRIPTION\n", to);
    put_sentence(to, command->summary);
    if (command->text != NULL) {
        fputs(".PP\n", to);
        put_blocks(to, command->text);
    }
    if (command->takes_keys) {
        fputs(".PP\n", to);
        put_paragraph(to, "Words key=value replace keys of CONFIG, as in train.learning_rate=1e-4.");
        fputs(".BR kto.cfg (5)\nlists them all.\n", to);
    }
    fputs(".SH OPTIONS\n", to);
    for (const Flag *flag = command->flags; flag != NULL && flag->name != NULL; flag++) put_flag(to, flag);
    put_row(to, "--help", "Print a summary of this page.");
    put_exit_status(to, command->stops_on_request);
    if (command->takes_keys || strstr(command->operands, "RUN_DIR") != NULL) {
        fputs(".SH FILES\n", to);
        put_run_files(to);
    }
    fputs(".SH EXAMPLES\n", to);
    put_shell(to, command->examples);

    fputs(".SH SEE ALSO\n", to);
    bool first = true;
    put_reference(to, "kto", 1, &first);
    const int length = (int)strcspn(command->name, " ");
    for (int i = 0; commands[i] != NULL; i++) { // the others of its family
        if (commands[i] == command || command_second_word(commands[i], command->name, length) == NULL) continue;
        page_name(commands[i], name, sizeof name);
        put_reference(to, name, 1, &first);
    }
    if (!command->alone) put_reference(to, "mpirun", 1, &first);
    if (command->takes_keys) put_reference(to, "kto.cfg", 5, &first);
    fputc('\n', to);
}

static void program_page(FILE *to) {
    char name[64];
    bool first = true;
    put_title(to, "kto", 1);
    put_name(to, "kto", "KTO fine-tuning of language models with LoRA, on one process or many");
    fputs(".SH SYNOPSIS\n.B kto\n.I COMMAND\n[WORD ...]\n"
          ".br\n.B mpirun \\-n\n.I RANKS\n.B kto\n.I COMMAND\n[WORD ...]\n"
          ".SH DESCRIPTION\n",
          to);
    put_paragraph(to,
                  "Trains models of the Llama family on answers that are labelled desirable or undesirable (KTO), and "
                  "writes a LoRA adapter as PEFT takes it. A run is one configuration file, kto.cfg(5). Started by "
                  "mpirun or srun, the ranks of a job share the rows of each batch; their number changes the speed and "
                  "not the run.");
    fputs(".PP\n", to);
    put_paragraph(to, "Messages go to standard error, results to files and standard output.");
    fputs(".SH COMMANDS\n", to);
    for (int i = 0; commands[i] != NULL; i++) put_row(to, commands[i]->name, commands[i]->summary);
    fputs(".SH OPTIONS\n", to);
    put_row(to, "--help", "List the commands.");
    put_row(to, "--version", "Print version and commit.");
    put_exit_status(to, true);
    fputs(".SH ENVIRONMENT\n", to);
    put_row(to, "KTO_MODULE_DIR",
            "The folder with the modules kto_cuda.so and kto_nccl.so. Without it they are looked for beside the "
            "program, then in ../lib/kto from there.");
    put_row(to, "OMP_NUM_THREADS", "Threads of a rank on the CPU.");
    fputs(".SH FILES\n", to);
    put_paragraph(to, "Beside the bin folder of an installed kto:");
    put_row(to, "share/kto/configs/", "configurations to start from; demo/demo.cfg trains a model that comes with it");
    put_row(to, "share/kto/slurm/", "batch scripts for Slurm");
    put_row(to, "share/doc/kto/", "the documentation");
    fputs(".PP\n", to);
    put_run_files(to);
    fputs(".SH EXAMPLES\n", to);
    put_shell(to, "kto check run.cfg\n"
                  "kto train run.cfg\n"
                  "OMP_NUM_THREADS=8 mpirun -n 2 --bind-to none kto train run.cfg train.learning_rate=1e-4\n"
                  "kto help keys");
    fputs(".SH SEE ALSO\n", to);
    for (int i = 0; commands[i] != NULL; i++) {
        page_name(commands[i], name, sizeof name);
        put_reference(to, name, 1, &first);
    }
    put_reference(to, "kto.cfg", 5, &first);
    fputc('\n', to);
}

static void put_key(FILE *to, const ConfigKey *key) {
    char facts[512];
    put_tag(to, key->name, NULL);
    put_sentence(to, key->help);
    fputs(".br\n", to);
    snprintf(facts, sizeof facts, "%s%s%s; %s%s.", key->takes, key->range[0] == '\0' ? "" : ", ", key->range,
             key->needed              ? "must be given"
             : key->preset[0] == '\0' ? "default: empty"
                                      : "default: ",
             key->preset);
    if (facts[0] == 'a') facts[0] = 'A';
    size_t used = strlen(facts);
    for (int i = 0; key->list && key->words[i] != NULL && used < sizeof facts; i++)
        used += (size_t)snprintf(facts + used, sizeof facts - used, "%s%s%s", i == 0 ? " Modules: " : "", key->words[i],
                                 key->words[i + 1] == NULL ? "." : ", ");
    put_paragraph(to, facts);
    if (!key->alters) put_paragraph(to, "A run may go on with another value.");
}

static void keys_page(FILE *to) {
    ConfigKey key;
    const char *last = NULL;
    bool first = true;
    put_title(to, "kto.cfg", 5);
    put_name(to, "kto.cfg", "configuration of a kto run");
    fputs(".SH DESCRIPTION\n", to);
    put_paragraph(to, "The file that kto's commands take as CONFIG; its name is free. It is a libconfig file of groups "
                      "of keys; # and // begin comments. A key that is not there has its default, an unknown one is an "
                      "error. Relative paths start at the folder that kto is started in.");
    fputs(".PP\n", to);
    put_paragraph(to, "On the command line a key is given as group.key=value, which wins over the file; text needs no "
                      "quotes there, and the parts of a list are separated by commas.");
    fputs(".PP\n", to);
    put_paragraph(to, "A run goes on from its checkpoint only while the keys that its result depends on keep their "
                      "values; the others are marked below.");
    fputs(".SH KEYS\n", to);
    for (int i = 0; config_key(i, arch_modules, &key); i++) {
        if (last == NULL || strncmp(last, key.name, (size_t)key.group + 1) != 0) {
            fputs(".SS ", to);
            put_text(to, key.name, key.group, false);
            fputc('\n', to);
        }
        put_key(to, &key);
        last = key.name;
    }
    fputs(".SH FILES\n", to);
    put_run_files(to);
    fputs(".SH EXAMPLES\n", to);
    put_paragraph(to, "The least:");
    put_shell(to, "model: { path = \"models/TinyLlama-1.1B-Chat-v1.0\"; };\n"
                  "data:  { train = \"rows.jsonl\"; };\n"
                  "train: { output_dir = \"runs/first\"; };");
    fputs(".SH SEE ALSO\n", to);
    put_reference(to, "kto", 1, &first);
    for (int i = 0; commands[i] != NULL; i++) {
        char name[64];
        if (!commands[i]->takes_keys) continue;
        page_name(commands[i], name, sizeof name);
        put_reference(to, name, 1, &first);
    }
    fputc('\n', to);
}

// --- the command ----------------------------------------------------------------------------------------------------

typedef struct ManOptions {
    const char *dir;
} ManOptions;

// The page of `command`; NULL: kto(1).
static void print_page(const Command *command, FILE *to) {
    if (command == NULL)
        program_page(to);
    else
        command_page(command, to);
}

static Status open_page(const char *folder, const char *name, int section, FILE **out, char path[PATH_MAX]) {
    if (snprintf(path, PATH_MAX, "%s/%s.%d", folder, name, section) >= PATH_MAX)
        return error_set(STATUS_USAGE, "--dir: the path is too long");
    *out = fopen(path, "w");
    return *out != NULL ? STATUS_OK : error_set(STATUS_FAILED, "%s: cannot be written: %s", path, strerror(errno));
}

static Status close_page(FILE *file, const char *path) {
    const bool failed = ferror(file) != 0;
    if (fclose(file) == 0 && !failed) return STATUS_OK;
    return error_set(STATUS_FAILED, "%s: cannot be written: %s", path, strerror(errno));
}

static Status write_all(const char *folder) {
    char path[PATH_MAX], name[64] = "kto";
    FILE *file = NULL;
    for (int i = -1; i < 0 || commands[i] != NULL; i++) {
        if (i >= 0) page_name(commands[i], name, sizeof name);
        TRY(open_page(folder, name, 1, &file, path));
        print_page(i < 0 ? NULL : commands[i], file);
        TRY(close_page(file, path));
    }
    TRY(open_page(folder, "kto.cfg", 5, &file, path));
    keys_page(file);
    return close_page(file, path);
}

static Status run_man(Comm *comm, int argc, char **argv) {
    (void)comm;
    ManOptions options = {0};
    const Command *command = NULL;
    int words;
    TRY(command_parse(&command_man, &argc, argv, &options));
    if (options.dir != NULL) return write_all(options.dir);
    if (argc > 0 && strcmp(argv[0], "kto.cfg") == 0) {
        keys_page(stdout);
        return STATUS_OK;
    }
    if (argc > 0) TRY(command_find(commands, argc, argv, &command, &words));
    print_page(command, stdout);
    return STATUS_OK;
}

static const char *const man_words[] = {"kto.cfg", NULL};
static const Flag flags[] = {{.name = "--dir",
                              .value = "FOLDER",
                              .kind = FLAG_FOLDER,
                              .offset = offsetof(ManOptions, dir),
                              .help = "write all pages there, as kto.1, kto-train.1, ... and kto.cfg.5"},
                             {0}};

const Command command_man = {
    .name = "man",
    .operands = "[COMMAND | kto.cfg]",
    .operands_max = 2,
    .takes_command = true,
    .operand_words = man_words,
    .alone = true,
    .summary = "print a manual page, for man -l or to be installed",
    .examples = "kto man | man -l -\n"
                "kto man train | man -l -\n"
                "kto man --dir pages",
    .flags = flags,
    .run = run_man,
};
