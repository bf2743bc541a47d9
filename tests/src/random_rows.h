// Random batches whose prompts share beginnings in every way that matters: headers, equal prompts, prompts that begin
// others, prompts of one token.
#pragma once
#include "src/base/rng.h"
#include "src/data/batch.h"
#include <string.h>

enum { ROWS_MAX = 24, PROMPT_MAX = 48, COMPLETION_MAX = 12 };

typedef struct RowSet {
    BatchRow rows[ROWS_MAX];
    int32_t count;
    int32_t prompt[ROWS_MAX][PROMPT_MAX], owner[ROWS_MAX][PROMPT_MAX], completion[ROWS_MAX][COMPLETION_MAX];
} RowSet;

// Tokens that two rows' prompts begin with, of the first `limit` each.
static inline int32_t common_start(const BatchRow *a, const BatchRow *b, int32_t limit_a, int32_t limit_b) {
    int32_t n = 0;
    while (n < limit_a && n < limit_b && a->prompt[n] == b->prompt[n]) n++;
    return n;
}

// Tokens are in [3, 3 + symbols); few symbols make short accidental headers.
static inline void random_rows(RowSet *set, Rng *rng, int32_t count, int32_t symbols, int32_t prompt_max,
                               bool with_kl) {
    memset(set, 0, sizeof *set);
    set->count = count;
    for (int32_t i = 0; i < count; i++) {
        BatchRow *row = &set->rows[i];
        *row = (BatchRow){.row = 100 + i, .prompt = set->prompt[i], .owner = set->owner[i], .completion_count = 1};
        int32_t length = 0, kind = (int32_t)rng_below(rng, 5);
        if (i > 0 && kind > 0) { // begins as an earlier row does: all of it (1), all and more (2), a part and more
            const BatchRow *like = &set->rows[rng_below(rng, (uint32_t)i)];
            length = kind <= 2 ? like->prompt_length : (int32_t)rng_below(rng, (uint32_t)like->prompt_length + 1);
            memcpy(set->prompt[i], like->prompt, sizeof(int32_t) * (size_t)length);
        }
        row->prompt_length =
            kind == 1 && length > 0 ? length : length + 1 + (int32_t)rng_below(rng, (uint32_t)prompt_max);
        if (row->prompt_length > prompt_max) row->prompt_length = prompt_max;
        if (rng_below(rng, 12) == 0) row->prompt_length = 1;
        for (int32_t t = length; t < row->prompt_length; t++)
            set->prompt[i][t] = 3 + (int32_t)rng_below(rng, (uint32_t)symbols);
        for (int32_t t = 0; t < COMPLETION_MAX; t++)
            set->completion[i][t] = 3 + (int32_t)rng_below(rng, (uint32_t)symbols);
        row->completion[0] = (Completion){set->completion[i], 1 + (int32_t)rng_below(rng, COMPLETION_MAX), ROLE_POLICY};
    }
    for (int32_t i = 0; i < count; i++) {
        BatchRow *row = &set->rows[i];
        if (with_kl)
            row->completion[row->completion_count++] = (Completion){
                set->completion[(i + count - 1) % count], 1 + (int32_t)rng_below(rng, COMPLETION_MAX), ROLE_KL};
        for (int32_t t = 0; t < row->prompt_length; t++) { // the first row with this prefix
            int32_t first = 0;
            while (common_start(&set->rows[first], row, set->rows[first].prompt_length, t + 1) <= t) first++;
            set->owner[i][t] = set->rows[first].row;
        }
    }
}
