// The training loop: steps, and after each what is due: evaluation, samples, a checkpoint.
#pragma once
#include "src/train/training.h"

// From t->progress.step to t->total_steps, then the adapter. STATUS_STOPPED, on all ranks alike, when the run was asked
// to stop; a checkpoint was written then. Collective.
Status loop_run(Training *t);
