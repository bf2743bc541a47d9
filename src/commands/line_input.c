// See line_input.h. libedit's own reading of characters is replaced, so that signals are noticed at one place, where
// the editor can be left or redrawn; its own handlers would send each signal again to the whole process group.
#include "src/commands/line_input.h"

#include "io/files.h"
#include "src/base/memory.h"
#include "src/base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <histedit.h>
#include <limits.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>
#include <wctype.h>

#define HISTORY_ENTRIES    1000
#define HISTORY_BYTES      ((off_t)1 << 20) // a longer file is cut to HISTORY_ENTRIES
#define MESSAGE_BYTES_MAX  ((size_t)1 << 24)
#define PASTE_MARKS_ON     "\033[?2004h" // the terminal puts \e[200~ and \e[201~ around what is pasted
#define PASTE_MARKS_OFF    "\033[?2004l"
#define PROMPT_ESCAPE_MARK '\1'

struct LineInput {
    FILE *screen;      // NULL: no terminal
    EditLine *editor;  // NULL: plain lines
    History *history;  //
    char *path;        // of the history file; NULL: none
    const char *shown; // the prompt
    mbstate_t partial; // of a character of several bytes
    bool cancelled;    // by Ctrl-C, during this read
    bool was_empty;    // then: nothing had been typed
    char *line;        // of getline
    size_t line_room;
    unsigned line_number;
    char *message; // [message_bytes], NUL-terminated
    size_t message_bytes;
};

// --- signals --------------------------------------------------------------------------------------------------------

static volatile sig_atomic_t interrupted, resized, continued;
static int wake[2] = {-1, -1}; // a pipe: whichever thread takes a signal, the one that waits for input wakes
static struct termios saved;   // the terminal's modes before us

static void note(int number) {
    const int error = errno;
    if (number == SIGINT) interrupted = 1;
    if (number == SIGWINCH) resized = 1;
    if (number == SIGCONT) continued = 1;
    if (write(wake[1], "", 1) < 0) errno = 0; // full: it wakes anyhow
    errno = error;
}

// Ends as it would have without a handler, but leaves the terminal usable.
static void end_terminal(int number) {
    tcsetattr(STDIN_FILENO, TCSANOW, &saved);
    if (write(STDOUT_FILENO, PASTE_MARKS_OFF, strlen(PASTE_MARKS_OFF)) < 0) errno = 0;
    raise(number); // SA_RESETHAND
}

static const int noted[] = {SIGINT, SIGWINCH, SIGCONT};
enum { NOTED = sizeof noted / sizeof *noted };
static struct sigaction before[NOTED], before_term;

static Status catch_signals(void) {
    if (pipe2(wake, O_NONBLOCK | O_CLOEXEC) != 0)
        return error_set(STATUS_FAILED, "a pipe for signals: %s", strerror(errno));
    // On a stack of their own: what the system puts on a computing thread's to call a handler can overwrite oneDNN's
    // data (comm/stop.c). The kernel gives a process's signals to its first thread, which is this one.
    static char stack[1 << 16];
    const stack_t handlers = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&handlers, NULL);
    // With SA_RESTART an answer that is being written to the terminal loses nothing; who waits for input waits in
    // poll(), which is never restarted.
    struct sigaction action = {.sa_handler = note, .sa_flags = SA_ONSTACK | SA_RESTART};
    for (int i = 0; i < NOTED; i++) sigaction(noted[i], &action, &before[i]);
    action = (struct sigaction){.sa_handler = end_terminal, .sa_flags = (int)SA_RESETHAND | SA_NODEFER | SA_ONSTACK};
    sigaction(SIGTERM, &action, &before_term);
    return STATUS_OK;
}

static void release_signals(void) {
    if (wake[0] < 0) return;
    for (int i = 0; i < NOTED; i++) sigaction(noted[i], &before[i], NULL);
    sigaction(SIGTERM, &before_term, NULL);
    close(wake[0]);
    close(wake[1]);
    wake[0] = wake[1] = -1;
}

static bool take(volatile sig_atomic_t *flag) {
    const bool was = *flag;
    *flag = 0;
    return was;
}

// Until something was typed (*ready) or a signal came; false: neither ever will.
static bool wait_for_input(bool *ready) {
    struct pollfd wait[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = wake[0], .events = POLLIN}};
    const int count = poll(wait, 2, -1);
    const bool waits = count >= 0 || errno == EINTR;
    char byte;
    while (read(wake[0], &byte, 1) == 1) continue;
    *ready = count > 0 && wait[0].revents != 0;
    return waits;
}

// --- the editor -----------------------------------------------------------------------------------------------------

static char *shown_prompt(EditLine *editor) {
    LineInput *input = NULL;
    el_get(editor, EL_CLIENTDATA, &input);
    return (char *)input->shown;
}

static void prepare_terminal(LineInput *input) {
    el_set(input->editor, EL_PREP_TERM, 0); // or it thinks that the modes are still its own
    el_set(input->editor, EL_PREP_TERM, 1);
    fputs(PASTE_MARKS_ON, input->screen);
    fflush(input->screen);
    el_set(input->editor, EL_REFRESH);
}

// Ends the line as its owner would, which leaves the cursor below all that was typed.
static int cancel(LineInput *input, wchar_t *out) {
    const LineInfo *line = el_line(input->editor);
    input->cancelled = true;
    input->was_empty &= line->lastchar == line->buffer;
    *out = L'\n';
    return 1;
}

// libedit's contract: 1 and a character, 0 at the end, -1 to give up.
static int read_character(EditLine *editor, wchar_t *out) {
    LineInput *input = NULL;
    el_get(editor, EL_CLIENTDATA, &input);
    for (;;) {
        bool ready;
        if (!wait_for_input(&ready)) return -1;
        if (take(&interrupted)) return cancel(input, out);
        if (take(&continued)) prepare_terminal(input);
        if (take(&resized)) {
            fputs("\r\033[J", input->screen); // of a line in several rows the upper ones stay
            fflush(input->screen);
            el_resize(editor);
            el_set(editor, EL_REFRESH);
        }
        if (!ready) continue;
        char byte;
        const ssize_t got = read(STDIN_FILENO, &byte, 1);
        if (got == 0) return 0;
        if (got < 0 && errno != EINTR && errno != EAGAIN) return -1;
        if (got < 0) continue;
        switch (mbrtowc(out, &byte, 1, &input->partial)) {
        case (size_t)-2:
            break; // more bytes are to come
        case (size_t)-1:
            memset(&input->partial, 0, sizeof input->partial);
            break; // no character: it is left out
        default:
            return 1;
        }
    }
}

// What stands between the terminal's marks goes into the line as it is, newlines and all.
static unsigned char take_paste(EditLine *editor, int key) {
    (void)key;
    LineInput *input = NULL;
    el_get(editor, EL_CLIENTDATA, &input);
    static const wchar_t end[] = L"\033[201~";
    const size_t end_length = sizeof end / sizeof *end - 1;
    wchar_t *text = NULL;
    size_t count = 0, room = 0;
    unsigned char result = CC_REFRESH;
    for (;;) {
        if (count + 2 > room) {
            wchar_t *larger = realloc(text, (room = 2 * room + 256) * sizeof *text);
            if (larger == NULL) {
                result = CC_ERROR;
                break;
            }
            text = larger;
        }
        if (el_wgetc(editor, &text[count]) != 1 || input->cancelled) {
            result = CC_EOF;
            break;
        }
        count++;
        if (count >= end_length && wmemcmp(text + count - end_length, end, end_length) == 0) break;
        if (count > MESSAGE_BYTES_MAX) break;
    }
    size_t kept = 0;
    for (size_t i = 0; result == CC_REFRESH && i + end_length < count; i++) {
        if (text[i] == L'\r' && text[i + 1] == L'\n') continue;
        const wchar_t c = text[i] == L'\r' ? L'\n' : text[i];
        if (c == L'\n' || c == L'\t' || !iswcntrl((wint_t)c)) text[kept++] = c;
    }
    if (kept > 0) {
        text[kept] = L'\0';
        if (el_winsertstr(editor, text) != 0) result = CC_ERROR;
    }
    free(text);
    return result;
}

static const char *const keys[][2] = {
    {"\\e[200~", "kto-paste"},         {"^R", "em-inc-search-prev"}, {"^W", "ed-delete-prev-word"},
    {"\\e[3~", "ed-delete-next-char"}, {"\\e[H", "ed-move-to-beg"},  {"\\e[F", "ed-move-to-end"},
    {"\\e[1~", "ed-move-to-beg"},      {"\\e[4~", "ed-move-to-end"}, {"\\e[1;5D", "ed-prev-word"},
    {"\\e[1;5C", "em-next-word"},
};

static Status open_editor(LineInput *input) {
    HistEvent event;
    input->editor = el_init("kto", stdin, input->screen, stderr);
    input->history = history_init();
    if (input->editor == NULL || input->history == NULL)
        return error_set(STATUS_FAILED, "the terminal's line editor (libedit) cannot be started");
    history(input->history, &event, H_SETSIZE, HISTORY_ENTRIES);
    history(input->history, &event, H_SETUNIQUE, 1);
    if (input->path != NULL) {
        struct stat file;
        history(input->history, &event, H_LOAD, input->path);
        if (stat(input->path, &file) == 0 && file.st_size > HISTORY_BYTES)
            history(input->history, &event, H_SAVE, input->path);
    }
    EditLine *editor = input->editor;
    el_set(editor, EL_CLIENTDATA, input);
    el_set(editor, EL_EDITOR, "emacs");
    el_set(editor, EL_PROMPT_ESC, shown_prompt, PROMPT_ESCAPE_MARK);
    el_set(editor, EL_HIST, history, input->history);
    el_set(editor, EL_GETCFN, read_character);
    el_set(editor, EL_ADDFN, "kto-paste", "Take a paste", take_paste);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) el_set(editor, EL_BIND, keys[i][0], keys[i][1], NULL);
    // Between two lines, too: a Ctrl-D that comes while the terminal cooks lines is a NUL to who then reads characters.
    el_set(editor, EL_SETTY, "-x", "-icanon", "-echo", NULL);
    el_source(editor, NULL); // the person's own ~/.editrc
    return STATUS_OK;
}

// --- history --------------------------------------------------------------------------------------------------------

static void find_history(LineInput *input, const char *name) {
    char folder[PATH_MAX - 64];
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int length = -1;
    if (state != NULL && state[0] == '/')
        length = snprintf(folder, sizeof folder, "%s/kto", state);
    else if (home != NULL && home[0] == '/')
        length = snprintf(folder, sizeof folder, "%s/.local/state/kto", home);
    if (length < 0 || length >= (int)sizeof folder) return;
    if (folder_make(folder) != STATUS_OK) { // history then ends with the process
        error_clear();
        return;
    }
    if (asprintf(&input->path, "%s/%s", folder, name) < 0) input->path = NULL;
}

// At once and at the file's end, so that programs side by side lose nothing. By way of a history of this entry alone:
// how many H_NSAVE_FP takes of a longer one differs between releases.
static void remember(LineInput *input) {
    HistEvent event;
    if (input->history == NULL || history(input->history, &event, H_ENTER, input->message) < 0) return;
    FILE *file = input->path == NULL ? NULL : fopen(input->path, "a");
    History *alone = file == NULL ? NULL : history_init();
    if (alone != NULL) {
        history(alone, &event, H_SETSIZE, 1);
        history(alone, &event, H_ENTER, input->message);
        fseek(file, 0, SEEK_END);
        history(alone, &event, H_SAVE_FP, file);
        history_end(alone);
    }
    if (file != NULL) fclose(file);
}

// --- messages -------------------------------------------------------------------------------------------------------

static Status append(LineInput *input, const char *text, size_t bytes) {
    if (bytes > MESSAGE_BYTES_MAX - input->message_bytes)
        return error_set(STATUS_DATA, "a message of more than %zu bytes", MESSAGE_BYTES_MAX);
    char *larger = realloc(input->message, input->message_bytes + bytes + 1);
    if (larger == NULL) return error_set(STATUS_FAILED, "out of memory for a message");
    input->message = larger;
    memcpy(larger + input->message_bytes, text, bytes);
    input->message_bytes += bytes;
    larger[input->message_bytes] = '\0';
    return STATUS_OK;
}

// One line with its newline, or several of a paste; NULL: none, see `cancelled`.
static const char *next_line(LineInput *input, size_t *bytes) {
    if (input->editor != NULL) {
        int count = 0;
        fputs(PASTE_MARKS_ON, input->screen);
        const char *line = el_gets(input->editor, &count);
        fputs(PASTE_MARKS_OFF, input->screen);
        *bytes = line == NULL || count < 0 ? 0 : strlen(line);
        if (*bytes == 0) fputs("\n", input->screen);
        fflush(input->screen);
        return input->cancelled || *bytes == 0 ? NULL : line;
    }
    if (input->screen != NULL) {
        for (const char *c = input->shown; *c != '\0'; c++)
            if (*c != PROMPT_ESCAPE_MARK) fputc(*c, input->screen);
        fflush(input->screen);
    }
    // A terminal gives a line at once, so that stdio keeps none back while we wait.
    for (bool ready = input->screen == NULL; !ready && !input->cancelled; input->cancelled = take(&interrupted))
        if (!wait_for_input(&ready)) break;
    const ssize_t got = input->cancelled ? -1 : getline(&input->line, &input->line_room, stdin);
    if (got < 0 && input->screen != NULL) {
        fputs("\n", input->screen);
        clearerr(stdin);
    }
    *bytes = got < 0 ? 0 : (size_t)got;
    return got < 0 ? NULL : input->line;
}

// Takes a line up; *more: it ends in a backslash.
static Status take_line(LineInput *input, const char *line, size_t bytes, bool *more) {
    input->line_number++;
    if (!utf8_valid(line, bytes)) return error_set(STATUS_DATA, "invalid UTF-8; write the words as UTF-8");
    while (bytes > 0 && (line[bytes - 1] == '\n' || line[bytes - 1] == '\r')) bytes--;
    *more = bytes > 0 && line[bytes - 1] == '\\';
    TRY(append(input, line, *more ? bytes - 1 : bytes));
    return *more ? append(input, "\n", 1) : STATUS_OK;
}

Status line_input_read(LineInput *input, const char *prompt, const char *more_prompt, LineEvent *event,
                       const char **text, unsigned *line) {
    bool more = true;
    input->cancelled = false;
    input->was_empty = true;
    input->message_bytes = 0;
    input->shown = prompt;
    take(&interrupted);
    Status status = append(input, "", 0);
    while (more && status == STATUS_OK) {
        size_t bytes;
        const char *got = next_line(input, &bytes);
        if (got == NULL) break;
        input->shown = more_prompt;
        input->was_empty = false;
        status = take_line(input, got, bytes, &more);
    }
    *text = input->message;
    *line = input->line_number;
    *event = input->cancelled                    ? input->was_empty ? LINE_EMPTIED : LINE_CLEARED
             : more && input->message_bytes == 0 ? LINE_END
                                                 : LINE_TEXT;
    if (status == STATUS_OK && *event == LINE_TEXT && input->message_bytes > 0) remember(input);
    return status;
}

// --- opening, closing, working --------------------------------------------------------------------------------------

static void set_locale(void) {
    // Without a locale of UTF-8, the editor would take each byte for a character.
    setlocale(LC_CTYPE, "");
    if (MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
}

Status line_input_open(LineInput **out, const char *name) {
    LineInput *input = NULL;
    TRY(MEMORY_ALLOC(input, 1, "the input"));
    *out = input;
    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &saved) != 0) return STATUS_OK;
    input->screen = isatty(STDOUT_FILENO) ? stdout : isatty(STDERR_FILENO) ? stderr : NULL;
    if (input->screen == NULL) return STATUS_OK;
    TRY(catch_signals());
    const char *terminal = getenv("TERM");
    if (terminal == NULL || terminal[0] == '\0' || strcmp(terminal, "dumb") == 0) return STATUS_OK;
    set_locale();
    find_history(input, name);
    return open_editor(input);
}

void line_input_close(LineInput *input) {
    if (input == NULL) return;
    if (input->editor != NULL) el_end(input->editor);
    if (input->history != NULL) history_end(input->history);
    if (input->screen != NULL) tcsetattr(STDIN_FILENO, TCSADRAIN, &saved);
    release_signals();
    free(input->path);
    free(input->line);
    free(input->message);
    free(input);
}

FILE *line_input_screen(const LineInput *input) {
    return input->screen;
}

void line_input_busy(LineInput *input, bool busy) {
    if (input->screen == NULL) return;
    if (busy) take(&interrupted);
    if (input->editor != NULL) return; // what it leaves is the same
    struct termios modes = saved;
    if (busy) modes.c_lflag &= ~(tcflag_t)(ECHO | ICANON);
    tcsetattr(STDIN_FILENO, TCSADRAIN, &modes);
}

bool line_input_interrupted(LineInput *input) {
    return input->screen != NULL && take(&interrupted);
}
