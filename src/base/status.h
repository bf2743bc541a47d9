// Status codes and the one error message of a process.
//
// A function that can fail returns a Status. Where a failure is found, error_set() stores the message (the text after
// "kto: error: ") and returns the code; callers pass it up with TRY. Only main prints it, on rank 0, once.
#pragma once
#include <stdbool.h>

// The values are the program's exit codes.
typedef enum Status {
    STATUS_OK = 0,
    STATUS_FAILED = 1,  // failed while running (memory, disk, a lost rank, numbers gone bad)
    STATUS_USAGE = 2,   // bad command line or configuration
    STATUS_DATA = 3,    // bad rows or model files
    STATUS_STOPPED = 75 // asked to stop, and stopped after a checkpoint was written
} Status;

#define ERROR_TEXT_MAX 1024

// Stores the printf-formatted message as this process's error and returns `status`. The form of a message is
// "FILE:LINE: what is wrong; what to do" (FILE and LINE of the user's input, where there is one), one line: control
// characters in what it quotes become '?'. The first message wins until error_clear(). Safe to call from several
// threads.
Status error_set(Status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Puts "PATH:LINE: " before the stored message; for callers that know where the text came from. Returns `status`.
Status error_at(Status status, const char *path, unsigned line);

// Puts "; ADVICE" behind the stored message; for callers that know what to do about it. Returns `status`.
Status error_advise(Status status, const char *advice);

// Marks the stored message as one that every rank of the job has (comm_agree did it), and whether it is: then rank 0
// alone says it, and no rank waits for another. error_clear() takes the mark away. error_share returns `status`, and
// marks nothing where that is no failure.
Status error_share(Status status);
bool error_is_shared(void);

// The stored message, "" if none. Stays valid until error_clear().
const char *error_text(void);
void error_clear(void);

// Passes a failing status up.
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        Status try_status_ = (call);                                                                                   \
        if (try_status_ != STATUS_OK) return try_status_;                                                              \
    } while (0)

// Passes a failing status to a clean-up label; needs `Status status` in scope.
#define TRY_GOTO(call, label)                                                                                          \
    do {                                                                                                               \
        status = (call);                                                                                               \
        if (status != STATUS_OK) goto label;                                                                           \
    } while (0)
