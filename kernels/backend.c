// The backends by name.
#include "kernels/backend.h"
#include "src/base/module.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

const char *backend_missing(const Backend *backend) {
    static const struct {
        const char *name;
        size_t offset;
        bool optional; // NULL where the device needs none
    } ops[] = {
#define OP(name) {#name, offsetof(Backend, name), false}
#define OPTIONAL(name)                                                                                                 \
    { #name, offsetof(Backend, name), true }
        OP(open),
        OP(close),
        OP(info),
        OP(reserve),
        OP(scratch_bytes),
        OP(alloc),
        OP(alloc_paged),
        OP(release),
        OP(map),
        OP(upload),
        OP(download),
        OP(zero),
        OP(sync),
        OP(stream),
        OPTIONAL(warm),
        OP(embed),
        OP(rmsnorm),
        OP(rmsnorm_backward),
        OP(rope),
        OP(swiglu),
        OP(swiglu_backward),
        OP(scale_rows),
        OP(scatter_rows),
        OP(scale_add),
        OP(linear),
        OP(linear_backward),
        OP(lora),
        OP(lora_backward),
        OP(lora_weight_backward),
        OP(attention),
        OP(attention_backward),
        OP(head),
        OP(head_logits),
        OP(cast),
        OP(sum_squares),
        OP(adamw)
#undef OP
#undef OPTIONAL
    };
    typedef void (*Op)(void);
    static_assert(sizeof ops / sizeof *ops == (sizeof(Backend) - offsetof(Backend, open)) / sizeof(Op),
                  "every op of the table stands here");
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        Op op;
        memcpy(&op, (const char *)backend + ops[i].offset, sizeof op);
        if (op == NULL && !ops[i].optional) return ops[i].name;
    }
    return NULL;
}

static const Backend *find_cuda(char *text, size_t size) {
    const char *advice = module_exists("cuda")
                             ? "install what it needs of CUDA and the driver"
                             : "build with the CUDA Toolkit (cmake -DKTO_CUDA=ON) or install the package kto-cuda";
    void *module;
    if (module_symbol("cuda", "backend_cuda", &module) != STATUS_OK) {
        snprintf(text, size, "the CUDA device: %.300s; %s", error_text(), advice);
        error_clear();
        return NULL;
    }
    const char *missing = backend_missing(module);
    if (missing != NULL)
        snprintf(text, size, "the CUDA device does not support %s; build it and kto together", missing);
    return missing == NULL ? module : NULL;
}

const Backend *backend_find(const char *name, const char **why) {
    static char text[ERROR_TEXT_MAX];
    if (strcmp(name, "cpu") == 0) return &backend_cpu;
    *why = text;
    if (strcmp(name, "cuda") == 0) return find_cuda(text, sizeof text);
    snprintf(text, sizeof text, "there is no device \"%.40s\"; use \"cpu\" or \"cuda\"", name);
    return NULL;
}
