// A scathing and a kind review of each title, asked of a model, and the pairs that are well-formed. The ranks answer
// together and all know all answers; rank 0 alone has the files (pair_files.h). Titles are asked about group by group,
// and a run that goes on begins with a whole group: an answer's last bits may depend on what is computed beside it.
#pragma once
#include "src/decode/answers.h"
#include "src/review/pair_files.h"
#include "src/train/run.h"

#define REVIEW_TRIES_MAX 100 // at most, of ReviewPairsOptions.tries

enum { REVIEW_SCATHING, REVIEW_KIND, REVIEW_KINDS };
enum { REVIEW_PLAIN = REVIEW_KINDS, REVIEW_TEMPLATES };

typedef struct ReviewPairsOptions {
    const char *paired, *unpaired; // files; unpaired NULL: not wanted
    const char *templates;         // folder; NULL: those of the program
    int64_t tries;                 // answers a title and kind, until one is well-formed
    ReviewLimits limits;
    SampleOptions sampling;
} ReviewPairsOptions;

// What became of a title so far.
typedef struct ReviewTitle {
    int32_t tries;
    bool done;
    char *review[REVIEW_KINDS]; // NULL: none yet
} ReviewTitle;

typedef struct ReviewPairs {
    Run *run;
    ReviewPairsOptions options;
    ReviewTemplate templates[REVIEW_TEMPLATES];
    char **titles;       // [count]
    ReviewTitle *state;  // [count]
    int64_t count, head; // titles before head are in the files, or gave no pair
    int64_t written;     // titles before it had their chance in an earlier start
    int64_t found;       // pairs of this start
    int64_t faults[REVIEW_FAULTS];
    int64_t too_long; // titles whose prompt leaves the model no room
    EndTokens ends;
    PairFiles files;
} ReviewPairs;

// Reads templates and the file `titles`, and goes behind what is in the files. `run` stays the caller's. STATUS_DATA
// and STATUS_USAGE with FILE:LINE. Collective. review_pairs_close also after a failure.
Status review_pairs_open(ReviewPairs *pairs, Run *run, const ReviewPairsOptions *options, const char *titles);
void review_pairs_close(ReviewPairs *pairs);
// Asks about the next titles, while head < count, and appends the pairs that are complete. Collective.
Status review_pairs_round(ReviewPairs *pairs);
