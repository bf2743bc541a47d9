// `kto chat`: a person and the model of a run, in a terminal or through a pipe. Lines come from
// src/commands/line_input, prompts are made by src/data/conversation, tokens by src/decode/generate; here is what
// commands mean and what is shown when.
#include "src/commands/commands.h"

#include "io/checkpoint.h"
#include "src/base/log.h"
#include "src/base/memory.h"
#include "src/base/text.h"
#include "src/commands/line_input.h"
#include "src/commands/sampling.h"
#include "src/data/conversation.h"
#include "src/decode/generate.h"
#include "src/decode/text_stream.h"
#include "src/setup/run.h"
#include "src/setup/tuned.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define CONTEXT_MAX    16384 // tokens of the cache; models of more positions forget earlier than they had to
#define PREFILL_TOKENS 64 // between two looks at whether Ctrl-C was pressed: a second or so of a large model on a CPU

typedef struct Chat {
    SampleOptions options;
    const char *prompt_template; // --prompt-template
    bool base;                   // --base: no adapter was read
    Run run;
    LineInput *input;
    Conversation talk;
    Generator *generator;
    int32_t context; // tokens of prompt and answer together
    uint32_t asked;  // questions so far, which name their random numbers as `kto sample` names its prompts'
    bool colour, end;
} Chat;

// --- what is shown --------------------------------------------------------------------------------------------------

// A remark of the program's own: beside the answers, not among them.
__attribute__((format(printf, 2, 3))) static void say(const Chat *chat, const char *format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    text_make_printable(text);
    fflush(stdout);
    if (chat->colour)
        log_info("\033[2m%s\033[0m", text);
    else
        log_info("%s", text);
}

static Status print(const char *text) {
    char *safe = strdup(text);
    if (safe == NULL) return error_set(STATUS_FAILED, "out of memory for an answer");
    text_make_printable(safe);
    fputs(safe, stdout);
    free(safe);
    if (fflush(stdout) == 0) return STATUS_OK;
    return error_set(STATUS_FAILED, "standard output: cannot be written: %s", strerror(errno));
}

// --- one answer -----------------------------------------------------------------------------------------------------

static Status open_generator(Chat *chat) {
    generator_close(chat->generator);
    chat->generator = NULL;
    const GeneratorSize size = {.sequences = 1, .cache_tokens = chat->context, .prefill_tokens = PREFILL_TOKENS};
    return generator_open(&chat->generator, &chat->run.model, &size);
}

typedef struct Answer {
    TextStream stream;
    FILE *text; // what was said, as the model wrote it
    int32_t tokens;
    GenerateEnd end;
    bool stopped, ends_line;
} Answer;

// Shows and frees the next piece; `made` is the status of making it.
static Status tell(Answer *answer, Status made, char **piece) {
    Status status = made;
    if (made == STATUS_OK && (*piece)[0] != '\0') {
        fputs(*piece, answer->text);
        answer->ends_line = (*piece)[strlen(*piece) - 1] == '\n';
        status = print(*piece);
    }
    free(*piece);
    *piece = NULL;
    return status;
}

// Steps until the answer ends or Ctrl-C is pressed; the words are shown as they come.
static Status stream_answer(Chat *chat, Answer *answer) {
    char *piece = NULL;
    while (answer->end == GENERATE_GOES_ON && !answer->stopped) {
        GenerateEvent event;
        int32_t count = 0;
        TRY(generator_step(chat->generator, &event, &count));
        if (count > 0) {
            answer->end = event.end;
            answer->tokens += event.token >= 0;
            if (event.token >= 0) TRY(tell(answer, text_stream_add(&answer->stream, event.token, &piece), &piece));
        }
        if (answer->end == GENERATE_GOES_ON) answer->stopped = line_input_interrupted(chat->input);
    }
    TRY(tell(answer, text_stream_end(&answer->stream, &piece), &piece));
    if (!answer->stopped) return STATUS_OK;
    // What is left of a prompt would be computed before the next one is: it goes with the cache.
    if (answer->tokens == 0) return open_generator(chat);
    generator_cancel(chat->generator, answer);
    return STATUS_OK;
}

// Answers the prompt; *said gets the words (owned by the caller), NULL for an answer that was stopped before its first.
static Status answer_prompt(Chat *chat, const GeneratePrompt *prompt, char **said) {
    const int32_t room = chat->context + 1 - prompt->length;
    const SampleOptions *from = &chat->options;
    const GenerateOptions options = {.adapters = from->adapters,
                                     .greedy = from->greedy,
                                     .temperature = from->temperature,
                                     .top_p = from->top_p,
                                     .top_k = (int32_t)from->top_k,
                                     .max_tokens = from->max_tokens < room ? (int32_t)from->max_tokens : room,
                                     .seed = (uint64_t)from->seed,
                                     .ends = chat->run.ends};
    Answer answer = {.stream = {.tokenizer = chat->run.tokenizer, .skip_newline = chat->talk.frame.chat}};
    size_t bytes;
    bool taken;
    *said = NULL;
    answer.text = open_memstream(said, &bytes);
    if (answer.text == NULL) return error_set(STATUS_FAILED, "out of memory for an answer");
    Status status = generator_add(chat->generator, prompt, &options, &answer, &taken);
    if (status == STATUS_OK && !taken) status = error_set(STATUS_FAILED, "the cache has no room for a prompt");
    line_input_busy(chat->input, true);
    if (status == STATUS_OK) status = stream_answer(chat, &answer);
    const bool silent = answer.stopped && answer.tokens == 0;
    if (status == STATUS_OK && !answer.ends_line && !silent) status = print("\n");
    line_input_busy(chat->input, false);
    text_stream_free(&answer.stream);
    if (fclose(answer.text) != 0 && status == STATUS_OK)
        status = error_set(STATUS_FAILED, "out of memory for an answer");
    const bool empty = status != STATUS_OK || bytes == 0;
    if (empty && (answer.stopped || status != STATUS_OK)) {
        free(*said);
        *said = NULL;
    }
    if (status != STATUS_OK) return status;
    if (answer.stopped)
        say(chat, "(stopped%s)", empty ? " before the first word; the question is taken back" : "");
    else if (answer.end == GENERATE_LENGTH && options.max_tokens == from->max_tokens)
        say(chat, "(cut after %d tokens; /set max-tokens allows more)", answer.tokens);
    else if (answer.end == GENERATE_LENGTH)
        say(chat, "(cut: question and answer fill the %d tokens that there is room for)", chat->context);
    else if (empty)
        say(chat, "(an empty answer)");
    return STATUS_OK;
}

// Answers the last question of the conversation.
static Status answer_talk(Chat *chat) {
    int32_t *ids = NULL, count = 0;
    int dropped = 0;
    char *said = NULL;
    // A good part is kept for the answer.
    const int64_t quarter = chat->context / 4, most = chat->options.max_tokens;
    const int32_t limit = chat->context - (int32_t)(most < quarter ? most : quarter);
    Status status =
        conversation_encode(&chat->talk, chat->run.tokenizer, chat->run.chat, limit, &ids, &count, &dropped);
    if (status == STATUS_OK && dropped > 0)
        say(chat, "(the conversation has become too long for %d tokens: the oldest %d question%s forgotten)",
            chat->context, dropped, dropped == 1 ? " is" : "s are");
    if (status == STATUS_OK && count > chat->context)
        status = error_set(STATUS_USAGE, "a prompt of %d tokens does not fit the %d that there is room for", count,
                           chat->context);
    const GeneratePrompt prompt = {ids, count, chat->asked};
    if (status == STATUS_OK) {
        chat->asked++;
        status = answer_prompt(chat, &prompt, &said);
    }
    if (status == STATUS_OK && said != NULL)
        status = conversation_answer(&chat->talk, said);
    else
        conversation_take_back(&chat->talk);
    free(said);
    free(ids);
    return status;
}

// --- commands within a chat -----------------------------------------------------------------------------------------

#define SETTINGS "greedy, temperature, top-k, top-p, seed, max-tokens"

static const Flag setting_flags[] = {SAMPLING_FLAGS(Chat, options), {0}};
static const Command settings = {.name = "chat", .flags = setting_flags};

static Status set(Chat *chat, char *words) {
    SampleOptions *options = &chat->options;
    char *rest = words, *name = strsep(&rest, " \t");
    while (rest != NULL && (*rest == ' ' || *rest == '\t')) rest++;
    if (name == NULL || name[0] == '\0') {
        say(chat, "%stemperature %g, top-k %lld, top-p %g, seed %lld, max-tokens %lld",
            options->greedy ? "greedy (the likeliest token always); " : "", options->temperature,
            (long long)options->top_k, options->top_p, (long long)options->seed, (long long)options->max_tokens);
        return STATUS_OK;
    }
    bool known = false;
    for (const Flag *flag = setting_flags; flag->name != NULL; flag++) known |= strcmp(flag->name + 2, name) == 0;
    if (!known) return error_set(STATUS_USAGE, "/set knows " SETTINGS "; not \"%s\"", name);
    if (strcmp(name, "greedy") == 0) {
        const bool off = rest != NULL && strcmp(rest, "off") == 0;
        if (!off && rest != NULL && rest[0] != '\0' && strcmp(rest, "on") != 0)
            return error_set(STATUS_USAGE, "/set greedy takes on or off, not \"%s\"", rest);
        options->greedy = !off;
    } else {
        if (rest == NULL || rest[0] == '\0') return error_set(STATUS_USAGE, "/set %s needs a value", name);
        char flag[32], *arguments[] = {flag, rest};
        int count = 2;
        snprintf(flag, sizeof flag, "--%s", name);
        TRY(command_parse(&settings, &count, arguments, chat));
        // Neither would show otherwise.
        if (strcmp(name, "temperature") == 0) options->greedy = false;
        if (strcmp(name, "seed") == 0) chat->asked = 0;
    }
    return set(chat, (char[]){""});
}

static Status reset(Chat *chat, char *words) {
    (void)words;
    conversation_forget(&chat->talk);
    say(chat, "%s",
        chat->talk.frame.chat ? "(the conversation is forgotten)"
                              : "(nothing to forget: with this prompt every line stands alone)");
    return STATUS_OK;
}

static Status use_base(Chat *chat, char *words) {
    (void)words;
    chat->options.adapters = false;
    say(chat, "(the base model answers now%s)", chat->talk.count > 1 ? "; /reset forgets the conversation" : "");
    return STATUS_OK;
}

static Status use_tuned(Chat *chat, char *words) {
    (void)words;
    if (chat->base) return error_set(STATUS_USAGE, "there is no adapter, as kto chat was started with --base");
    chat->options.adapters = true;
    say(chat, "(the tuned model answers now%s)", chat->talk.count > 1 ? "; /reset forgets the conversation" : "");
    return STATUS_OK;
}

static Status set_system(Chat *chat, char *words) {
    if (!chat->talk.frame.chat)
        return error_set(STATUS_USAGE, "this prompt is one text and has no system message; see --prompt-template");
    TRY(conversation_set_system(&chat->talk, words[0] == '\0' ? NULL : words));
    say(chat, words[0] == '\0' ? "(the system message is the run's again)" : "(the system message is replaced)");
    return STATUS_OK;
}

static Status again(Chat *chat, char *words) {
    (void)words;
    Conversation *talk = &chat->talk;
    if (talk->count < 2) return error_set(STATUS_USAGE, "nothing was asked yet");
    conversation_take_back(talk);
    return answer_talk(chat);
}

static Status quit(Chat *chat, char *words) {
    (void)words;
    chat->end = true;
    return STATUS_OK;
}

static Status help(Chat *chat, char *words);

static const struct {
    const char *name, *takes, *help;
    Status (*run)(Chat *chat, char *words); // the words behind the name, "" for none
} commands[] = {
    {"/base", "", "the base model answers: adapters off", use_base},
    {"/tuned", "", "the tuned model answers", use_tuned},
    {"/again", "", "another answer to the last question", again},
    {"/reset", "", "forget the conversation", reset},
    {"/system", " [TEXT]", "replace the system message; without TEXT the run's own", set_system},
    {"/set", " [NAME VALUE]", "how to sample: " SETTINGS, set},
    {"/help", "", "this list", help},
    {"/quit", "", "end, as does Ctrl-D", quit},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static Status help(Chat *chat, char *words) {
    (void)words;
    for (int i = 0; i < COMMANDS; i++) {
        char left[32];
        snprintf(left, sizeof left, "%s%s", commands[i].name, commands[i].takes);
        say(chat, "  %-19s %s", left, commands[i].help);
    }
    say(chat, "A line that begins with // is sent with one /. A \\ at its end goes on in the next line.");
    if (line_input_screen(chat->input) != NULL) say(chat, "Ctrl-C stops an answer, or clears the line.");
    return STATUS_OK;
}

static Status obey(Chat *chat, char *line) {
    char *words = line + strcspn(line, " \t\n");
    const size_t length = (size_t)(words - line);
    while (*words == ' ' || *words == '\t' || *words == '\n') *words++ = '\0';
    for (char *end = words + strlen(words); end > words && strchr(" \t\n", end[-1]) != NULL;) *--end = '\0';
    int best = -1, distance = 3;
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(commands[i].name, line) == 0) {
            if (words[0] != '\0' && commands[i].takes[0] == '\0')
                return error_set(STATUS_USAGE, "%s takes no words", line);
            return commands[i].run(chat, words);
        }
        const int d = length < 32 ? edit_distance(line, commands[i].name) : 64;
        if (d < distance) {
            distance = d;
            best = i;
        }
    }
    if (best >= 0) return error_set(STATUS_USAGE, "unknown command %s; did you mean %s?", line, commands[best].name);
    return error_set(STATUS_USAGE, "unknown command %.40s; /help lists them, // sends a line that begins with /", line);
}

static Status take_message(Chat *chat, const char *message) {
    if (message[strspn(message, " \t\n")] == '\0') return STATUS_OK;
    char *line = strdup(message);
    if (line == NULL) return error_set(STATUS_FAILED, "out of memory for a message");
    Status status;
    if (line[0] == '/' && line[1] != '/') {
        status = obey(chat, line);
    } else {
        status = conversation_ask(&chat->talk, line[0] == '/' ? line + 1 : line);
        if (status == STATUS_OK) status = answer_talk(chat);
    }
    free(line);
    return status;
}

// --- the conversation -----------------------------------------------------------------------------------------------

static void prompt_text(const Chat *chat, const char *text, char *out, size_t size) {
    if (chat->colour)
        snprintf(out, size, "\1\033[1;36m\1%s\1\033[0m\1 ", text); // an escape at the end would be lost
    else
        snprintf(out, size, "%s ", text);
}

static Status converse(Chat *chat) {
    const bool person = line_input_screen(chat->input) != NULL;
    Status status = STATUS_OK;
    bool warned = false; // Ctrl-C once more ends
    while (!chat->end && status == STATUS_OK) {
        char prompt[64], more[64];
        prompt_text(chat, chat->options.adapters ? ">" : "base>", prompt, sizeof prompt);
        prompt_text(chat, chat->options.adapters ? "." : "    .", more, sizeof more);
        LineEvent event;
        const char *text;
        unsigned line;
        status = line_input_read(chat->input, prompt, more, &event, &text, &line);
        const bool ends = event == LINE_END || (event == LINE_EMPTIED && warned);
        warned = event == LINE_EMPTIED;
        if (status == STATUS_OK && ends) return STATUS_OK;
        if (status == STATUS_OK && warned) say(chat, "(Ctrl-C again or Ctrl-D ends)");
        if (status == STATUS_OK && event == LINE_TEXT) status = take_message(chat, text);
        if (status == STATUS_OK || status == STATUS_FAILED) continue;
        // A person tries again; a script has a mistake.
        if (!person) return error_at(status, "standard input", line);
        say(chat, "%s", error_text());
        error_clear();
        status = STATUS_OK;
    }
    return status;
}

// --- opening --------------------------------------------------------------------------------------------------------

// "step 126": of the checkpoint, or of the newest beside the final adapter; "" where that is not known.
static void describe_step(const char *from, char *out, size_t size) {
    char folder[PATH_MAX];
    const char *name = strrchr(from, '/');
    char *newest = NULL;
    long long step;
    out[0] = '\0';
    if (name == NULL) return;
    if (sscanf(name, "/step-%lld.h5", &step) == 1) {
        snprintf(out, size, " (step %lld; the run has no final adapter yet)", step);
        return;
    }
    const int length = snprintf(folder, sizeof folder, "%.*s/checkpoints", (int)(name - from), from);
    if (length < 0 || length >= (int)sizeof folder) return;
    if (checkpoint_newest(folder, &newest) == STATUS_OK && newest != NULL &&
        sscanf(strrchr(newest, '/'), "/step-%lld.h5", &step) == 1)
        snprintf(out, size, " (final, step %lld)", step);
    error_clear();
    free(newest);
}

static void describe(const Chat *chat, const char *from, const char *frame_from, const char *why) {
    const Model *model = &chat->run.model;
    const DType dtype = model->options.device.dtype;
    DeviceInfo info;
    model->options.backend->info(model->device, &info);
    char step[80], frame[256];
    say(chat, "%-8s %s: %.1f M parameters in %s, on %s", "model", chat->run.config.model.path,
        (double)model_weight_bytes(&model->config, dtype) / (double)dtype_size(dtype) / 1e6,
        dtype == DTYPE_BF16 ? "bfloat16" : "float32", info.name);
    describe_step(from, step, sizeof step);
    say(chat, "%-8s %s%s", "adapter", from[0] == '\0' ? "none: the base model" : from, step);
    prompt_frame_describe(&chat->talk.frame, frame, sizeof frame);
    say(chat, "%-8s %s%s; %s%s%s", "prompt", frame,
        chat->talk.frame.chat ? "" : ", every line alone (a plain text has no history)",
        why == NULL ? "as in " : "not ", why == NULL ? frame_from : "as in training: ", why == NULL ? "" : why);
    if (line_input_screen(chat->input) != NULL) say(chat, "/help lists the commands, Ctrl-D ends");
}

static Status open_chat(Chat *chat, const char *source) {
    Run *run = &chat->run;
    char from[PATH_MAX], *why = NULL;
    TRY(tuned_open(run, source, !chat->base, from));
    const char *rows = run->config.data.train, *file = chat->prompt_template;
    TRY(prompt_frame_open(&chat->talk.frame, file, rows, run->chat != NULL, &why));
    const int32_t positions = run->model.options.max_positions;
    chat->context = positions < CONTEXT_MAX ? positions : CONTEXT_MAX;
    Status status = open_generator(chat);
    if (status == STATUS_OK) status = line_input_open(&chat->input, "chat_history");
    if (status == STATUS_OK) {
        const char *terminal = getenv("TERM"), *without = getenv("NO_COLOR");
        chat->colour = line_input_screen(chat->input) != NULL && log_is_terminal() && terminal != NULL &&
                       strcmp(terminal, "dumb") != 0 && (without == NULL || without[0] == '\0');
        describe(chat, from, file != NULL ? file : rows, why);
    }
    free(why);
    return status;
}

static Status run_command(Comm *comm, int argc, char **argv) {
    Chat chat = {.options = sample_defaults, .run = {.comm = comm}};
    TRY(comm_agree(comm, command_parse(&command_chat, &argc, argv, &chat)));
    if (comm->size > 1)
        return comm_agree(comm, error_set(STATUS_USAGE,
                                          "kto chat is one process, and mpirun started %d; start it without mpirun",
                                          comm->size));
    chat.options.adapters = !chat.base;
    Status status = open_chat(&chat, argv[0]);
    if (status == STATUS_OK) status = converse(&chat);
    line_input_close(chat.input);
    generator_close(chat.generator);
    conversation_free(&chat.talk);
    run_close(&chat.run);
    return comm_agree(comm, status);
}

static const Flag flags[] = {{.name = "--prompt-template",
                              .value = "FILE",
                              .kind = FLAG_FILE,
                              .offset = offsetof(Chat, prompt_template),
                              .help = "a text with " PROMPT_FRAME_PLACE " where your words go"},
                             {.name = "--base",
                              .kind = FLAG_SWITCH,
                              .offset = offsetof(Chat, base),
                              .help = "the base model alone; reads no adapter"},
                             SAMPLING_FLAGS(Chat, options),
                             {0}};

const Command command_chat = {
    .name = "chat",
    .operands = "CONFIG|RUN_DIR",
    .operands_min = 1,
    .operands_max = 1,
    .summary = "talk to the model of a run in the terminal",
    .text = "RUN_DIR takes the final adapter, or the newest checkpoint of a run that still goes on. Your words are put "
            "into\n"
            "what the prompts of data.train have in common. Where standard input is no terminal, each line of it is "
            "a\n"
            "question or a command, and standard output gets the answers alone.",
    .examples = "kto chat runs/first\n"
                "kto chat runs/first --temperature 0.7 --max-tokens 200\n"
                "printf '%s\\n' 'A question' /base 'A question' | kto chat runs/first --greedy",
    .flags = flags,
    .run = run_command,
};
