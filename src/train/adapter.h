// The model's adapters as files hold them: PEFT folders, to start from and to publish.
#pragma once
#include "io/config.h"
#include "io/peft.h"
#include "src/model/model.h"

// Fills the model's adapter vector from a PEFT folder written for the same layers.
Status adapter_read(Model *model, const char *folder);
// Writes the model's adapter as a PEFT folder; *hash gets that of its vector.
Status adapter_write(Model *model, const Config *config, const char *folder, uint64_t *hash);
// Sets the model's adapters to lora.init, which must be of the configuration's r, alpha and targets (STATUS_USAGE), or
// to a fresh adapter.
Status adapter_first(Model *model, const Config *config);
