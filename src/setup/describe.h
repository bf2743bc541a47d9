// What a person reads of a run before it starts, on rank 0.
#pragma once
#include "src/train/run.h"

// The start-up summary and warnings: model, adapter, rows, device, memory.
void describe_run(const Run *run);
// Rows of the data section: counts, labels, weights, what sharing saves. Part of describe_run, and for `kto check`.
void describe_rows(const Run *run);
