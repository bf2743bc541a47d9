// Parts of the program that are loaded when first asked for, because what they link to is not on every machine: the
// CUDA device and NCCL. A module is the shared library kto_NAME.so beside the program, as built, or in ../lib/kto from
// there, as installed; or in the folder named by the environment variable KTO_MODULE_DIR, and nowhere else.
#pragma once
#include "src/base/status.h"
#include <stdbool.h>

// Whether this build has module `name`: its file is there. (It may still not load on this machine.)
bool module_exists(const char *name);

// Loads module `name` (once a process) and sets *out to its `symbol`. STATUS_FAILED when the file is missing, cannot be
// loaded (a library that it needs is not here: the text says which), was built with other headers than this program
// (CMakeLists.txt names those that count), so that its tables are laid out otherwise, or lacks the symbol.
Status module_symbol(const char *name, const char *symbol, void **out);
