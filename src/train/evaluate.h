// Evaluation: the loss and metrics of the current adapters on data.eval.
#pragma once
#include "src/train/run.h"

// Mean metrics over the evaluation rows (TRL's way: loss over rows, others over batches). STATUS_STOPPED, on all ranks
// alike, when the run was asked to stop in the middle of it.
Status evaluate(Run *run, MetricsRow *out);
