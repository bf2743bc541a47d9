// The files of review pairs: rows of pairs in the order of their titles and, if wanted, the same as unpaired rows. What
// is in the files says where to go on: rows are appended durably, the paired file first, which the other is completed
// by. Which answers make a pair is review_pairs.h's.
#pragma once
#include "src/review/review.h"

typedef struct PairFiles {
    const char *paired_path, *unpaired_path; // unpaired_path NULL: not wanted
    const ReviewTemplate *plain;             // of the rows' prompts
    char *const *titles;                     // [count]
    int64_t count;
    int paired, unpaired; // -1: not open
} PairFiles;

// Opens the files, or makes them, for this process alone; the caller has set everything, both files not open. Their
// rows must have been made of the titles, in order, with `plain`; half-written last lines are cut, and the unpaired
// file gets what it lacks. *passed: how many titles were passed by the last row's. STATUS_DATA with FILE:LINE for what
// is not ours, STATUS_USAGE where another process writes.
Status pair_files_open(PairFiles *files, int64_t *passed);
void pair_files_close(PairFiles *files);
// Appends paired lines, each with its newline, and their unpaired rows. Nothing where the files are not open.
Status pair_files_append(const PairFiles *files, const char *rows, size_t bytes);
