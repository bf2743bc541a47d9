// The command completion: a script for bash and one for zsh, made from the tables. The scripts stand alone: they do not
// call kto, and need no other completion package.
#include "src/commands/commands.h"

#include "io/config.h"
#include "src/base/version.h"
#include "src/commands/help.h"
#include "src/model/arch.h"

#include <string.h>

// Text for the inside of a shell's single quotes, with a backslash before the characters in `special`.
static void put_quoted(FILE *to, const char *text, const char *special) {
    for (; *text != '\0'; text++) {
        if (strchr(special, *text) != NULL) fputc('\\', to);
        if (*text == '\'')
            fputs("'\\''", to);
        else
            fputc(*text == '\n' ? ' ' : *text, to);
    }
}

static void put_words(FILE *to, const char *const *words) {
    for (int i = 0; words != NULL && words[i] != NULL; i++) fprintf(to, "%s%s", i == 0 ? "" : " ", words[i]);
}

// --- bash -----------------------------------------------------------------------------------------------------------

static const char bash_head[] =
    "_kto_words() { # WORDS CURRENT\n"
    "    mapfile -t COMPREPLY < <(compgen -W \"$1\" -- \"$2\")\n"
    "}\n"
    "\n"
    "_kto_paths() { # file|folder CURRENT\n"
    "    local kind=-f\n"
    "    [[ $1 == folder ]] && kind=-d\n"
    "    mapfile -t COMPREPLY < <(compgen \"$kind\" -- \"$2\")\n"
    "    compopt -o filenames 2>/dev/null\n"
    "}\n"
    "\n"
    "# Where = does not part words, what stands before a value is a part of what is completed.\n"
    "_kto_value() { # HEAD\n"
    "    [[ $COMP_WORDBREAKS == *=* ]] || COMPREPLY=(\"${COMPREPLY[@]/#/$1}\")\n"
    "}\n"
    "\n"
    "_kto_list() { # WORDS CURRENT: words with commas between them\n"
    "    local head=\n"
    "    [[ $2 == *,* ]] && head=${2%,*},\n"
    "    _kto_words \"$1\" \"${2#\"$head\"}\"\n"
    "    COMPREPLY=(\"${COMPREPLY[@]/#/$head}\")\n"
    "    compopt -o nospace 2>/dev/null\n"
    "}\n"
    "\n";

static const char bash_line[] =
    "_kto() {\n"
    "    local IFS=$' \\t\\n' i n word command first operands=0 most=-1 flags= with_value= flag= head= end=\n"
    "    local -a words=()\n"
    "    COMPREPLY=()\n"
    "    # bash parts words at =; put them together again\n"
    "    for ((i = 0; i <= COMP_CWORD; i++)); do\n"
    "        word=${COMP_WORDS[i]}\n"
    "        if ((i > 1)) && [[ $word == = || ${COMP_WORDS[i - 1]} == = ]]; then\n"
    "            words[${#words[@]} - 1]+=$word\n"
    "        else\n"
    "            words+=(\"$word\")\n"
    "        fi\n"
    "    done\n"
    "    n=${#words[@]} word=${words[n - 1]}\n";

static const char bash_operands[] = "    # operands before the current word; i ends at n where that is a flag's value\n"
                                    "    for ((i = first; i < n - 1; i++)); do\n"
                                    "        if [[ $end ]]; then\n"
                                    "            operands=$((operands + 1))\n"
                                    "        elif [[ ${words[i]} == -- ]]; then\n"
                                    "            end=1\n"
                                    "        elif [[ \" $with_value \" == *\" ${words[i]} \"* ]]; then\n"
                                    "            i=$((i + 1))\n"
                                    "        elif [[ ${words[i]} != -* ]]; then\n"
                                    "            operands=$((operands + 1))\n"
                                    "        fi\n"
                                    "    done\n"
                                    "    if ((i == n)); then\n"
                                    "        flag=${words[n - 2]}\n"
                                    "    elif [[ ! $end && $word == --*=* ]]; then\n"
                                    "        flag=${word%%=*} head=${word%%=*}= word=${word#*=}\n"
                                    "    fi\n";

static void bash_keys(FILE *to) {
    ConfigKey key;
    fputs("_kto_keys() { # CURRENT\n"
          "    local value=${1#*=}\n"
          "    if [[ $1 != *=* ]]; then\n"
          "        _kto_words '",
          to);
    for (int i = 0; config_key(i, arch_modules, &key); i++) fprintf(to, "%s%s=", i == 0 ? "" : " ", key.name);
    fputs("' \"$1\"\n"
          "        compopt -o nospace 2>/dev/null\n"
          "        return\n"
          "    fi\n"
          "    case ${1%%=*} in\n",
          to);
    for (int i = 0; config_key(i, arch_modules, &key); i++) {
        if (!key.path && key.words[0] == NULL) continue;
        fprintf(to, "    %s) ", key.name);
        if (key.path) {
            fputs("_kto_paths file \"$value\" ;;\n", to);
            continue;
        }
        fprintf(to, "%s '", key.list ? "_kto_list" : "_kto_words");
        put_words(to, key.words);
        fputs("' \"$value\" ;;\n", to);
    }
    fputs("    esac\n"
          "    _kto_value \"${1%%=*}=\"\n"
          "}\n"
          "\n",
          to);
}

// The first words of all names.
static void bash_first_words(FILE *to) {
    int length;
    for (int i = 0; commands[i] != NULL; i++)
        if (command_new_word(commands, i, &length)) fprintf(to, "%s%.*s", i == 0 ? "" : " ", length, commands[i]->name);
}

// case branches, one a family: its word, then `before`, its second words, `after`.
static void bash_families(FILE *to, const char *indent, const char *before, const char *after) {
    int length;
    for (int i = 0; commands[i] != NULL; i++) {
        const char *name = commands[i]->name, *between = "";
        if (!command_new_word(commands, i, &length)) continue;
        for (int k = i; commands[k] != NULL; k++) {
            const char *second = command_second_word(commands[k], name, length);
            if (second == NULL) continue;
            if (between[0] == '\0') fprintf(to, "%s%.*s) %s", indent, length, name, before);
            fprintf(to, "%s%s", between, second);
            between = " ";
        }
        if (between[0] != '\0') fputs(after, to);
    }
}

static void bash_flags(FILE *to, const Command *command) {
    const char *between = "";
    fprintf(to, "    '%s')\n        most=%d flags='", command->name, command->operands_max);
    for (const Flag *flag = command->flags; flag != NULL && flag->name != NULL; flag++) fprintf(to, "%s ", flag->name);
    fputs("--help' with_value='", to);
    for (const Flag *flag = command->flags; flag != NULL && flag->name != NULL; flag++) {
        if (flag->kind == FLAG_SWITCH) continue;
        fprintf(to, "%s%s", between, flag->name);
        between = " ";
    }
    fputs("' ;;\n", to);
}

static void bash_flag_value(FILE *to, const Command *command, const Flag *flag) {
    if (flag->kind != FLAG_FILE && flag->kind != FLAG_FOLDER && flag->kind != FLAG_WORD) return;
    fprintf(to, "        '%s %s') ", command->name, flag->name);
    if (flag->kind == FLAG_WORD) {
        fputs("_kto_words '", to);
        put_words(to, flag->words);
        fputs("' \"$word\" ;;\n", to);
    } else {
        fprintf(to, "_kto_paths %s \"$word\" ;;\n", flag->kind == FLAG_FILE ? "file" : "folder");
    }
}

static void bash_operand(FILE *to, const Command *command) {
    if (command->takes_keys) {
        fprintf(to, "    '%s') if ((operands > 0)); then _kto_keys \"$word\"; else _kto_paths file \"$word\"; fi ;;\n",
                command->name);
    } else if (command->takes_command) {
        fprintf(to, "    '%s')\n        if ((operands == 0)); then\n            _kto_words \"$commands ",
                command->name);
        put_words(to, command->operand_words);
        fputs("\" \"$word\"\n"
              "        else\n"
              "            case ${words[n - 2]} in\n",
              to);
        bash_families(to, "            ", "_kto_words '", "' \"$word\" ;;\n");
        fputs("            esac\n"
              "        fi ;;\n",
              to);
    } else if (command->operand_words != NULL) {
        fprintf(to, "    '%s') _kto_words '", command->name);
        put_words(to, command->operand_words);
        fputs("' \"$word\" ;;\n", to);
    }
}

void completion_bash(FILE *to) {
    fprintf(to, "# Completion of kto %s for bash, made by: kto completion bash\n\n", KTO_VERSION);
    fputs(bash_head, to);
    bash_keys(to);
    fputs(bash_line, to);
    fputs("    local commands='", to);
    bash_first_words(to);
    fputs("'\n"
          "    if ((n == 2)); then\n"
          "        _kto_words \"$commands --help --version\" \"$word\"\n"
          "        return\n"
          "    fi\n"
          "    command=${words[1]} first=2\n"
          "    local family=\n"
          "    case $command in\n",
          to);
    bash_families(to, "    ", "family='", "' ;;\n");
    fputs("    esac\n"
          "    if [[ $family ]]; then\n"
          "        if ((n == 3)); then\n"
          "            _kto_words \"$family\" \"$word\"\n"
          "            return\n"
          "        fi\n"
          "        command+=\" ${words[2]}\" first=3\n"
          "    fi\n"
          "    case $command in\n",
          to);
    for (int i = 0; commands[i] != NULL; i++) bash_flags(to, commands[i]);
    fputs("    *) return ;;\n"
          "    esac\n",
          to);
    fputs(bash_operands, to);
    fputs("    if [[ $flag ]]; then\n"
          "        case \"$command $flag\" in\n",
          to);
    for (int i = 0; commands[i] != NULL; i++)
        for (const Flag *flag = commands[i]->flags; flag != NULL && flag->name != NULL; flag++)
            bash_flag_value(to, commands[i], flag);
    fputs("        esac\n"
          "        [[ $head ]] && _kto_value \"$head\"\n"
          "        return\n"
          "    fi\n"
          "    if [[ ! $end && $word == -* ]]; then\n"
          "        _kto_words \"$flags\" \"$word\"\n"
          "        return\n"
          "    fi\n"
          "    ((most >= 0 && operands >= most)) && return\n"
          "    case $command in\n",
          to);
    for (int i = 0; commands[i] != NULL; i++) bash_operand(to, commands[i]);
    fputs("    *) _kto_paths file \"$word\" ;;\n"
          "    esac\n"
          "}\n"
          "\n"
          "complete -F _kto kto\n",
          to);
}

// --- zsh ------------------------------------------------------------------------------------------------------------

// Where zsh's _arguments gives a meaning to : [ ] and backslash.
static void put_spec(FILE *to, const char *text) {
    put_quoted(to, text, ":[]\\");
}

// 'word:description'
static void put_described(FILE *to, const char *word, int length, const char *description) {
    fprintf(to, "        '%.*s:", length, word);
    put_quoted(to, description, "");
    fputs("'\n", to);
}

static void zsh_keys(FILE *to) {
    ConfigKey key;
    fputs("_kto_keys() {\n"
          "    local -a keys\n"
          "    if ! compset -P 1 '*='; then\n"
          "        keys=(\n",
          to);
    for (int i = 0; config_key(i, arch_modules, &key); i++)
        put_described(to, key.name, (int)strlen(key.name), key.help);
    fputs("        )\n"
          "        _describe -t keys key keys -S = -q\n"
          "        return\n"
          "    fi\n"
          "    case ${IPREFIX%=} in\n",
          to);
    for (int i = 0; config_key(i, arch_modules, &key); i++) {
        if (!key.path && key.words[0] == NULL) continue;
        fprintf(to, "    %s) ", key.name);
        if (key.path)
            fputs("_files ;;\n", to);
        else {
            fprintf(to, "%s ", key.list ? "_values -s , word" : "compadd --");
            put_words(to, key.words);
            fputs(" ;;\n", to);
        }
    }
    fputs("    *) _message ${IPREFIX%=} ;;\n"
          "    esac\n"
          "}\n"
          "\n",
          to);
}

static void zsh_words(FILE *to) {
    int length;
    fputs("_kto_commands() {\n"
          "    local -a all=(\n",
          to);
    for (int i = 0; commands[i] != NULL; i++) {
        char seconds[256] = "";
        size_t used = 0;
        if (!command_new_word(commands, i, &length)) continue;
        for (int k = i; commands[k] != NULL && used < sizeof seconds; k++) {
            const char *second = command_second_word(commands[k], commands[i]->name, length);
            if (second == NULL) continue;
            used += (size_t)snprintf(seconds + used, sizeof seconds - used, "%s%s", used == 0 ? "" : ", ", second);
        }
        put_described(to, commands[i]->name, length, used > 0 ? seconds : commands[i]->summary);
    }
    fputs("    )\n"
          "    _describe -t commands command all\n"
          "}\n"
          "\n"
          "_kto_second_words() { # FIRST\n"
          "    local -a all\n"
          "    case $1 in\n",
          to);
    for (int i = 0; commands[i] != NULL; i++) {
        bool any = false;
        if (!command_new_word(commands, i, &length)) continue;
        for (int k = i; commands[k] != NULL; k++) {
            const char *second = command_second_word(commands[k], commands[i]->name, length);
            if (second == NULL) continue;
            if (!any) fprintf(to, "    %.*s) all=(\n", length, commands[i]->name);
            put_described(to, second, (int)strlen(second), commands[k]->summary);
            any = true;
        }
        if (any) fputs("    ) ;;\n", to);
    }
    fputs("    *) return 1 ;;\n"
          "    esac\n"
          "    _describe -t commands command all\n"
          "}\n"
          "\n",
          to);
}

static void zsh_flag(FILE *to, const Flag *flag) {
    fprintf(to, " \\\n            '%s%s[", flag->name, flag->kind == FLAG_SWITCH ? "" : "=");
    put_spec(to, flag->help);
    fputc(']', to);
    if (flag->kind != FLAG_SWITCH) {
        fputc(':', to);
        put_spec(to, flag->value);
        fputc(':', to);
    }
    if (flag->kind == FLAG_FILE) fputs("_files", to);
    if (flag->kind == FLAG_FOLDER) fputs("_files -/", to);
    if (flag->kind == FLAG_WORD) {
        fputc('(', to);
        put_words(to, flag->words);
        fputc(')', to);
    }
    fputc('\'', to);
}

static void zsh_command(FILE *to, const Command *command) {
    fprintf(to, "    '%s')\n        _arguments -S '(- *)--help[explain the command]'", command->name);
    for (const Flag *flag = command->flags; flag != NULL && flag->name != NULL; flag++) zsh_flag(to, flag);
    if (command->takes_keys) {
        fputs(" \\\n            '1:configuration:_files' '*:key=value:_kto_keys'", to);
    } else if (command->takes_command) {
        fputs(" \\\n            '1: :{_alternative \"commands:command:_kto_commands\"", to);
        if (command->operand_words != NULL) {
            fputs(" \"words:word:(", to);
            put_words(to, command->operand_words);
            fputs(")\"", to);
        }
        fputs("}' '2: :{_kto_second_words $line[1]}'", to);
    } else {
        // One spec for each place that an operand may have, or one for all.
        const bool any = command->operands_max < 0;
        for (int i = 1; any ? i == 1 : i <= command->operands_max; i++) {
            fputs(" \\\n            '", to);
            if (any)
                fputc('*', to);
            else
                fprintf(to, "%d%s", i, i > command->operands_min ? ":" : "");
            fputs(":", to);
            put_spec(to, command->operands);
            fputs(":", to);
            if (command->operand_words == NULL) {
                fputs("_files'", to);
            } else {
                fputc('(', to);
                put_words(to, command->operand_words);
                fputs(")'", to);
            }
        }
    }
    fputs(" ;;\n", to);
}

void completion_zsh(FILE *to) {
    fprintf(to, "#compdef kto\n# Completion of kto %s for zsh, made by: kto completion zsh\n\n", KTO_VERSION);
    zsh_keys(to);
    zsh_words(to);
    fputs("_kto() {\n"
          "    local curcontext=$curcontext state line command\n"
          "    typeset -A opt_args\n"
          "    _arguments -C '(- *)--help[explain kto]' '(- *)--version[print the version]' \\\n"
          "        '1: :_kto_commands' '*:: :->rest'\n"
          "    [[ $state == rest ]] || return\n"
          "    command=$words[1]\n"
          "    case $command in\n"
          "    ",
          to);
    int length;
    const char *between = "";
    for (int i = 0; commands[i] != NULL; i++) {
        if (strchr(commands[i]->name, ' ') == NULL || !command_new_word(commands, i, &length)) continue;
        fprintf(to, "%s%.*s", between, length, commands[i]->name);
        between = " | ";
    }
    fprintf(to,
            "%s)\n"
            "        if ((CURRENT == 2)); then\n"
            "            _kto_second_words $command\n"
            "            return\n"
            "        fi\n"
            "        command+=\" $words[2]\"\n"
            "        shift words\n"
            "        ((CURRENT--)) ;;\n"
            "    esac\n"
            "    case $command in\n",
            between[0] == '\0' ? "''" : "");
    for (int i = 0; commands[i] != NULL; i++) zsh_command(to, commands[i]);
    fputs("    esac\n"
          "}\n"
          "\n"
          "_kto \"$@\"\n",
          to);
}

// --- the command ----------------------------------------------------------------------------------------------------

static const char *const shells[] = {"bash", "zsh", NULL};

static Status run_completion(Comm *comm, int argc, char **argv) {
    (void)comm;
    TRY(command_parse(&command_completion, &argc, argv, NULL));
    if (strcmp(argv[0], "bash") == 0)
        completion_bash(stdout);
    else if (strcmp(argv[0], "zsh") == 0)
        completion_zsh(stdout);
    else
        return error_set(STATUS_USAGE, "there is completion for bash and zsh, not for \"%s\"", argv[0]);
    return STATUS_OK;
}

const Command command_completion = {
    .name = "completion",
    .operands = "bash|zsh",
    .operands_min = 1,
    .operands_max = 1,
    .operand_words = shells,
    .alone = true,
    .summary = "print the script that completes kto's words in bash or zsh",
    .text = "An installed kto brings both scripts to where the shells look for them. For one that is not installed,\n"
            "read the script by ~/.bashrc, or put it into a folder of zsh's fpath as _kto.",
    .examples = "source <(kto completion bash)\n"
                "kto completion zsh >~/.zfunc/_kto",
    .run = run_completion,
};
