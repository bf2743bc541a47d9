// The lines that a person types or a script sends to a command on standard input. On a terminal: line editing, history
// kept from one start to the next, pastes of several lines, and Ctrl-C as an event (libedit). Elsewhere plain lines.
// What a line means is the caller's business. One at a time a process: terminal and signals are the process's.
#pragma once
#include "src/base/status.h"
#include <stdio.h>

typedef struct LineInput LineInput;

typedef enum LineEvent {
    LINE_TEXT,
    LINE_CLEARED, // Ctrl-C on a line that was not empty, which is gone
    LINE_EMPTIED, // Ctrl-C on an empty line
    LINE_END      // Ctrl-D on an empty line, or the end of the input
} LineEvent;

// `name` is that of the history file in $XDG_STATE_HOME/kto or ~/.local/state/kto; where it cannot be kept, history
// lasts as long as the process. On a terminal SIGINT no longer ends the process: line_input_interrupted tells of it.
Status line_input_open(LineInput **out, const char *name);
void line_input_close(LineInput *input); // gives terminal and signals back; NULL is allowed

// The stream of the terminal that a person sees; NULL: nobody types here.
FILE *line_input_screen(const LineInput *input);

// Waits for a message: a line, with those that follow it while each ends in a backslash, or a paste; without the
// backslashes and the last newline. *text is UTF-8 and lives until the next call; *line is the number of its last line.
// `more` is shown for a prompt after a backslash; both may hold escape sequences, each between two \1, but not at their
// end. STATUS_DATA for input that is no UTF-8.
Status line_input_read(LineInput *input, const char *prompt, const char *more, LineEvent *event, const char **text,
                       unsigned *line);

// While the caller works: what is typed is not shown, and kept for the next read.
void line_input_busy(LineInput *input, bool busy);
// Whether there was a Ctrl-C since this was last asked, or since line_input_busy began.
bool line_input_interrupted(LineInput *input);
