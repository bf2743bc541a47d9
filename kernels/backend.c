// The backends by name. A device that is not built in stays known and says how to get it.
#include "kernels/backend.h"
#include <string.h>

const Backend *backend_find(const char *name, const char **why) {
    if (strcmp(name, "cpu") == 0) return &backend_cpu;
    *why = strcmp(name, "cuda") == 0 ? "device.backend = \"cuda\": this build has no CUDA device; use \"cpu\""
                                     : "device.backend: unknown device; use \"cpu\"";
    return NULL;
}
