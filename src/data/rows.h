// Files of rows as text, which `kto data` makes and judges before training: written at once, unpaired, split.
#pragma once
#include "io/jsonl.h"

#include <limits.h>
#include <stdio.h>

// --- a file that is written at once ---------------------------------------------------------------------------------

// Lines go to a temporary name beside `path`, which becomes `path` when all is there.
typedef struct Output {
    const char *path;
    char temporary[PATH_MAX];
    FILE *file; // NULL: not open
    int64_t lines;
} Output;

// STATUS_USAGE when `path` exists, unless `force` allows to replace a file.
Status output_open(Output *out, const char *path, bool force);
Status output_line(Output *out, const char *line, size_t bytes); // and a newline
// Publishes the file when `status` is STATUS_OK, and takes it away otherwise; gives back the worse of both.
Status output_close(Output *out, Status status);

// --- rows -----------------------------------------------------------------------------------------------------------

// The bytes of a line of the file, without its newline; *bytes gets how many.
const char *data_line(const JsonlFile *file, int64_t index, size_t *bytes);

// A hash of what the trainer reads of a prompt or completion: the text, or each message's role and content. How JSON
// writes it (escapes, order of keys, blanks) and other fields do not count. Chained by `seed`.
uint64_t data_hash(uint64_t seed, const TextOrMessages *value);

// A paired line as the unpaired line of its chosen (which 0) or rejected (1) answer, without newline: prompt,
// completion, label, then every other field as it was. The line must be one that jsonl_row takes. Caller frees *out.
Status data_unpair_line(const char *line, size_t bytes, int which, char **out);

// Chooses whole groups of lines with equal prompt[i], in an order drawn by `seed`, while they fit into `wanted` lines,
// and at least one group. eval[count] gets whether a line was chosen; *chosen how many were.
Status data_split_choose(const uint64_t *prompt, int64_t count, int64_t wanted, uint64_t seed, bool *eval,
                         int64_t *chosen);
