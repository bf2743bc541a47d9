// What a training run leaves on disk: checkpoints while it goes, the adapter at its end.
#pragma once
#include "src/train/training.h"

// A checkpoint of the step that was done last, after all that belongs to it (reference cache, samples, metrics) is on
// disk. Collective. With `must` a failure ends the run; else it is said, older checkpoints stay, and t->save_again.
Status saving_checkpoint(Training *t, bool must);
// adapter/, a PEFT folder. Collective.
Status saving_adapter(Training *t);
