// Where a training run begins: a new one, or where its newest checkpoint ends.
#pragma once
#include "src/train/training.h"

// STATUS_USAGE, naming the key, when `saved`, found at `where`, is the configuration of another run than t's.
Status resuming_refuse_other(const Training *t, const Config *saved, const char *where);
// Rank 0 reads the newest checkpoint, before memory is planned: *micro_batch_tokens gets the budget that it was made
// with, 0 without one. STATUS_USAGE when it is of another run. Collective.
Status resuming_find(Training *t, int64_t *micro_batch_tokens);
// All ranks get the state that was found, if rows and model are still the same (STATUS_USAGE), or that of a new run.
// Collective.
Status resuming_restore(Training *t);
void resuming_close(Training *t); // what was found and not restored
