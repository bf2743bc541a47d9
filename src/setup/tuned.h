// The model of a run that was trained, or is being trained, for the commands that ask it.
#pragma once
#include "src/train/run.h"

// Opens the model of a finished or going run (a run directory) or of a configuration, with the run's final adapter or
// its newest checkpoint; !adapters: the base model alone. Collective like run_open; run_close after a failure too.
// `from` (NULL: not wanted; PATH_MAX bytes) gets the adapter folder or checkpoint that was read, "" for the base model.
Status tuned_open(Run *run, const char *source, bool adapters, char *from);

// Another model like run->model, with the same adapter, on a device of its own.
Status tuned_copy_model(Run *run, Model *out);
