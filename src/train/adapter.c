#include "src/train/adapter.h"

#include "src/base/hash.h"
#include "src/base/memory.h"
#include "src/base/names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

Status adapter_read(Model *model, const char *folder) {
    float *host = NULL;
    TRY(MEMORY_ALLOC(host, model->table.count, "an adapter"));
    Status status = peft_read_tensors(folder, model->table.tensors, model->table.tensor_count, host);
    if (status == STATUS_OK) status = model_set(model, model->adapter, host);
    if (status == STATUS_OK) status = model_adapter_changed(model);
    free(host);
    return status;
}

static Status check_init(const Config *config) {
    PeftConfig found;
    TRY(peft_read_config(config->lora.init, arch_modules, &found));
    if (found.r != config->lora.r)
        return error_set(STATUS_USAGE, "lora.init: %s has r = %d but lora.r = %lld; make them equal", config->lora.init,
                         found.r, (long long)config->lora.r);
    if (found.alpha != config->lora.alpha)
        return error_set(STATUS_USAGE, "lora.init: %s has lora_alpha = %g but lora.alpha = %g; make them equal",
                         config->lora.init, found.alpha, config->lora.alpha);
    bool has[ARCH_MODULES], wanted[ARCH_MODULES];
    names_read(arch_modules, found.target_modules, has);
    names_read(arch_modules, config->lora.target_modules, wanted);
    for (int i = 0; i < ARCH_MODULES; i++)
        if (has[i] != wanted[i])
            return error_set(STATUS_USAGE, "lora.init: %s %s %s but lora.target_modules %s; make them equal",
                             config->lora.init, has[i] ? "adapts" : "does not adapt", arch_modules[i],
                             has[i] ? "does not" : "does");
    return STATUS_OK;
}

Status adapter_first(Model *model, const Config *config) {
    if (config->lora.init[0] == '\0') return model_init_adapter(model, (uint64_t)config->train.seed);
    TRY(check_init(config));
    return adapter_read(model, config->lora.init);
}

Status adapter_write(Model *model, const Config *config, const char *folder, uint64_t *hash) {
    float *host = NULL;
    Status status = MEMORY_ALLOC(host, model->table.count, "the adapter");
    if (status == STATUS_OK) status = model_get(model, model->adapter, host);
    if (status == STATUS_OK) {
        PeftConfig peft = {.r = (int32_t)config->lora.r,
                           .alpha = config->lora.alpha,
                           .dropout = config->lora.dropout,
                           .base_model = config->model.path};
        strcpy(peft.target_modules, config->lora.target_modules);
        status = peft_write(folder, &peft, model->table.tensors, model->table.tensor_count, host);
        *hash = hash_bytes(0, host, (size_t)model->table.count * sizeof(float));
    }
    free(host);
    return status;
}
