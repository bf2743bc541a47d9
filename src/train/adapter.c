#include "src/train/adapter.h"

#include "src/base/hash.h"
#include "src/base/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

Status adapter_peft_tensors(const Model *model, float *host, PeftTensor **out) {
    PeftTensor *tensors = NULL;
    TRY(MEMORY_ALLOC(tensors, model->tensor_count, "an adapter"));
    for (int32_t i = 0; i < model->tensor_count; i++) {
        const AdapterTensor *from = &model->tensors[i];
        snprintf(tensors[i].name, sizeof tensors[i].name, "base_model.model.%s", from->name);
        tensors[i].rows = from->rows;
        tensors[i].cols = from->cols;
        tensors[i].data = host + from->offset;
    }
    *out = tensors;
    return STATUS_OK;
}

Status adapter_read(Model *model, const char *folder) {
    float *host = NULL;
    PeftTensor *tensors = NULL;
    Status status = MEMORY_ALLOC(host, model->adapter_count, "an adapter");
    if (status == STATUS_OK) status = adapter_peft_tensors(model, host, &tensors);
    if (status == STATUS_OK) status = peft_read_tensors(folder, tensors, model->tensor_count);
    if (status == STATUS_OK) status = model_set(model, model->adapter, host);
    if (status == STATUS_OK) status = model_adapter_changed(model);
    free(tensors);
    free(host);
    return status;
}

static Status check_init(const Config *config) {
    PeftConfig found;
    TRY(peft_read_config(config->lora.init, &found));
    if (found.r != config->lora.r)
        return error_set(STATUS_USAGE, "lora.init: %s has r = %d but lora.r = %lld; make them equal", config->lora.init,
                         found.r, (long long)config->lora.r);
    if (found.alpha != config->lora.alpha)
        return error_set(STATUS_USAGE, "lora.init: %s has lora_alpha = %g but lora.alpha = %g; make them equal",
                         config->lora.init, found.alpha, config->lora.alpha);
    for (int target = 0; target < CONFIG_TARGETS_MAX; target++)
        if (found.target[target] != config->lora.target[target])
            return error_set(STATUS_USAGE, "lora.init: %s %s %s but lora.target_modules %s; make them equal",
                             config->lora.init, found.target[target] ? "adapts" : "does not adapt",
                             config_target_names[target], found.target[target] ? "does not" : "does");
    return STATUS_OK;
}

Status adapter_first(Model *model, const Config *config) {
    if (config->lora.init[0] == '\0') return model_init_adapter(model, (uint64_t)config->train.seed);
    TRY(check_init(config));
    return adapter_read(model, config->lora.init);
}

Status adapter_write(Model *model, const Config *config, const char *folder, uint64_t *hash) {
    float *host = NULL;
    PeftTensor *tensors = NULL;
    Status status = MEMORY_ALLOC(host, model->adapter_count, "the adapter");
    if (status == STATUS_OK) status = adapter_peft_tensors(model, host, &tensors);
    if (status == STATUS_OK) status = model_get(model, model->adapter, host);
    if (status == STATUS_OK) {
        PeftConfig peft = {.r = (int32_t)config->lora.r,
                           .alpha = config->lora.alpha,
                           .dropout = config->lora.dropout,
                           .base_model = config->model.path};
        memcpy(peft.target, config->lora.target, sizeof peft.target);
        status = peft_write(folder, &peft, tensors, model->tensor_count);
        *hash = hash_bytes(0, host, (size_t)model->adapter_count * sizeof(float));
    }
    free(tensors);
    free(host);
    return status;
}
