// The backends by name.
#include "kernels/backend.h"
#include "src/base/module.h"
#include <stdio.h>
#include <string.h>

const Backend *backend_find(const char *name, const char **why) {
    static char text[ERROR_TEXT_MAX];
    if (strcmp(name, "cpu") == 0) return &backend_cpu;
    *why = text;
    if (strcmp(name, "cuda") != 0) {
        snprintf(text, sizeof text, "device.backend: unknown device \"%.40s\"; use \"cpu\" or \"cuda\"", name);
        return NULL;
    }
    void *backend;
    if (module_symbol("cuda", "backend_cuda", &backend) == STATUS_OK) return backend;
    const char *advice = module_exists("cuda")
                             ? "install what it needs of CUDA and the driver"
                             : "build with the CUDA Toolkit (cmake -DKTO_CUDA=ON) or install the package kto-cuda";
    snprintf(text, sizeof text, "device.backend = \"cuda\": %.300s; %s, or use \"cpu\"", error_text(), advice);
    error_clear();
    return NULL;
}
