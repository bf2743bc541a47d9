// The adapter folder of PEFT: adapter_config.json and adapter_model.safetensors. Written with the keys that every PEFT
// since 0.5 knows, so that older ones load it too; read as PEFT 0.21 writes it. What an adapter means is src/model's.
#include "io/peft.h"

#include "io/files.h"
#include "io/json_file.h"
#include "io/safetensors.h"
#include "src/base/memory.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_BYTES_MAX (1 << 20)
#define RANK_MAX         1024

// An alpha that is a whole number is written as one: LoraConfig declares it int.
static json_t *number(double value) {
    return value == floor(value) && fabs(value) < 1e15 ? json_integer((json_int_t)value) : json_real(value);
}

static char *adapter_config_text(const PeftConfig *config) {
    json_t *targets = json_array();
    for (int i = 0; i < CONFIG_TARGETS_MAX; i++)
        if (config->target[i]) json_array_append_new(targets, json_string(config_target_names[i]));
    json_t *root =
        json_pack("{s:{}, s:n, s:s?, s:s, s:b, s:b, s:b}", "alpha_pattern", "auto_mapping", "base_model_name_or_path",
                  config->base_model, "bias", "none", "fan_in_fan_out", 0, "inference_mode", 1, "init_lora_weights", 1);
    json_t *rest =
        json_pack("{s:n, s:n, s:o, s:f, s:n, s:s, s:i, s:{}, s:n, s:o, s:s, s:b}", "layers_pattern",
                  "layers_to_transform", "lora_alpha", number(config->alpha), "lora_dropout", config->dropout,
                  "modules_to_save", "peft_type", "LORA", "r", (int)config->r, "rank_pattern", "revision",
                  "target_modules", targets, "task_type", "CAUSAL_LM", "use_rslora", 0);
    bool built = root != NULL && rest != NULL && json_object_update(root, rest) == 0;
    char *text = built ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(15)) : NULL;
    json_decref(root);
    json_decref(rest);
    return text;
}

Status peft_write(const char *dir, const PeftConfig *config, const PeftTensor *tensors, int count) {
    char path[PATH_MAX];
    TRY(folder_make(dir));
    Tensor *list = NULL;
    TRY(MEMORY_ALLOC(list, count, "adapter tensor table"));
    for (int i = 0; i < count; i++)
        list[i] = (Tensor){.name = tensors[i].name,
                           .type = TENSOR_F32,
                           .dims = 2,
                           .shape = {tensors[i].rows, tensors[i].cols},
                           .data = tensors[i].data};
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir);
    Status status = tensor_file_write(path, list, count);
    free(list);
    TRY(status);
    char *text = adapter_config_text(config);
    if (text == NULL) return error_set(STATUS_FAILED, "%s: out of memory while writing adapter_config.json", dir);
    snprintf(path, sizeof path, "%s/adapter_config.json", dir); // last: a folder that has it is complete
    status = file_write_durable(path, text, strlen(text));
    free(text);
    return status;
}

static bool is_one_of(const char *key, const char *const *names) {
    for (; *names != NULL; names++)
        if (strcmp(key, *names) == 0) return true;
    return false;
}

// Keys that say something about the numbers of an adapter are read by name; of the others, those below change nothing
// here, and any that PEFT has or will have beside them must be off, or the adapter would be read as something else.
static Status check_keys(const char *path, json_t *root) {
    static const char *const harmless[] = {
        "peft_type",
        "task_type",
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "bias",
        "auto_mapping",
        "peft_version",
        "revision",
        "inference_mode",
        "base_model_name_or_path",
        "megatron_core",
        "loftq_config",
        "eva_config",
        "corda_config",
        "qalora_group_size",
        "layers_pattern",
        "init_lora_weights",
        "runtime_config",
        NULL,
    };
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value) {
        bool off = json_is_null(value) || json_is_false(value) ||
                   (json_is_array(value) && json_array_size(value) == 0) ||
                   (json_is_object(value) && json_object_size(value) == 0);
        if (!off && !is_one_of(key, harmless))
            return error_set(STATUS_DATA, "%s: %s is set; only plain LoRA adapters are supported", path, key);
    }
    return STATUS_OK;
}

static Status check_kind(const char *path, const json_t *root) {
    const char *type = json_text(json_object_get(root, "peft_type"));
    if (type == NULL || strcmp(type, "LORA") != 0)
        return error_set(STATUS_DATA, "%s: peft_type \"%s\" is not supported; supported is \"LORA\"", path,
                         type == NULL ? "" : type);
    const json_t *task = json_object_get(root, "task_type");
    const char *task_text = json_text(task);
    if (task != NULL && !json_is_null(task) && (task_text == NULL || strcmp(task_text, "CAUSAL_LM") != 0))
        return error_set(STATUS_DATA, "%s: task_type \"%s\" is not supported; supported is \"CAUSAL_LM\"", path,
                         task_text == NULL ? "" : task_text);
    const json_t *bias = json_object_get(root, "bias");
    const char *bias_text = json_text(bias);
    if (bias != NULL && (bias_text == NULL || strcmp(bias_text, "none") != 0))
        return error_set(STATUS_DATA, "%s: bias \"%s\" is not supported; supported is \"none\"", path,
                         bias_text == NULL ? "" : bias_text);
    // The other starts (PiSSA, OLoRA, CorDA, LoftQ, ...) change the base weights, so the adapter alone is not the
    // model.
    static const char *const fine[] = {"gaussian", "eva", "orthogonal", NULL};
    const json_t *init = json_object_get(root, "init_lora_weights");
    const char *init_text = json_text(init);
    if (json_is_string(init) && (init_text == NULL || !is_one_of(init_text, fine)))
        return error_set(
            STATUS_DATA,
            "%s: init_lora_weights \"%s\" is not supported, as it changes the base model; convert the adapter "
            "to a plain LoRA with PEFT (path_initial_model_for_weight_conversion)",
            path, init_text == NULL ? "" : init_text);
    return STATUS_OK;
}

static Status read_targets(const char *path, const json_t *root, PeftConfig *out) {
    const json_t *targets = json_object_get(root, "target_modules");
    if (json_is_string(targets)) {
        const char *pattern = json_text(targets);
        if (pattern == NULL || strcmp(pattern, "all-linear") != 0)
            return error_set(
                STATUS_DATA,
                "%s: target_modules is the pattern \"%s\"; supported are \"all-linear\" and a list of module names",
                path, pattern == NULL ? "" : pattern);
        for (int i = 0; i < CONFIG_TARGETS_MAX; i++) out->target[i] = true;
        return STATUS_OK;
    }
    if (json_array_size(targets) == 0)
        return error_set(STATUS_DATA, "%s: target_modules must be a list of module names", path);
    for (size_t i = 0; i < json_array_size(targets); i++) {
        const char *name = json_text(json_array_get(targets, i));
        int known = 0;
        while (known < CONFIG_TARGETS_MAX && (name == NULL || strcmp(name, config_target_names[known]) != 0)) known++;
        if (known == CONFIG_TARGETS_MAX)
            return error_set(
                STATUS_DATA,
                "%s: target_modules names \"%s\"; supported are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj "
                "and down_proj",
                path, name == NULL ? "" : name);
        out->target[known] = true;
    }
    return STATUS_OK;
}

static Status read_numbers(const char *path, const json_t *root, PeftConfig *out) {
    const json_t *r = json_object_get(root, "r"), *alpha = json_object_get(root, "lora_alpha");
    const json_t *dropout = json_object_get(root, "lora_dropout");
    json_int_t rank = json_integer_value(r);
    if (!json_is_integer(r) || rank < 1 || rank > RANK_MAX)
        return error_set(STATUS_DATA, "%s: r must be an integer from 1 to %d", path, RANK_MAX);
    out->r = (int32_t)rank;
    out->alpha = json_number_value(alpha);
    if (!json_is_number(alpha) || !(out->alpha > 0))
        return error_set(STATUS_DATA, "%s: lora_alpha must be a number above 0", path);
    out->dropout = json_number_value(dropout); // 0 when missing, PEFT's default
    if ((dropout != NULL && !json_is_number(dropout)) || !(out->dropout >= 0 && out->dropout < 1))
        return error_set(STATUS_DATA, "%s: lora_dropout must be a number from 0 to below 1", path);
    return STATUS_OK;
}

Status peft_read_config(const char *dir, PeftConfig *out) {
    *out = (PeftConfig){0};
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/adapter_config.json", dir);
    if (!file_exists(path))
        return error_set(STATUS_DATA, "%s: holds no adapter_config.json; name the folder of a PEFT adapter", dir);
    json_t *root = NULL;
    TRY(json_file_object(path, CONFIG_BYTES_MAX, &root));
    Status status;
    TRY_GOTO(check_kind(path, root), done);
    TRY_GOTO(check_keys(path, root), done);
    TRY_GOTO(read_numbers(path, root, out), done);
    TRY_GOTO(read_targets(path, root, out), done);
done:
    json_decref(root);
    return status;
}

// Every tensor of the file must be asked for: one left over means that the adapter does more than the caller would
// apply.
static Status check_left_over(const TensorFiles *files, const PeftTensor *tensors, int count) {
    for (int i = 0; i < tensor_files_count(files); i++) {
        const Tensor *found = tensor_files_at(files, i);
        int known = 0;
        while (known < count && strcmp(tensors[known].name, found->name) != 0) known++;
        if (known == count)
            return error_set(STATUS_DATA, "%s: tensor %s belongs to no target module of this model", found->file,
                             found->name);
    }
    return STATUS_OK;
}

static Status read_all(const char *path, const TensorFiles *files, PeftTensor *tensors, int count) {
    for (int i = 0; i < count; i++) {
        const Tensor *found = NULL;
        int64_t shape[2] = {tensors[i].rows, tensors[i].cols};
        for (int j = 0; j < tensor_files_count(files) && found == NULL; j++)
            if (strcmp(tensor_files_at(files, j)->name, tensors[i].name) == 0) found = tensor_files_at(files, j);
        if (found == NULL) return error_set(STATUS_DATA, "%s: tensor %s is missing", path, tensors[i].name);
        if (found->dims != 2 || found->shape[0] != shape[0] || found->shape[1] != shape[1])
            return error_set(
                STATUS_DATA,
                "%s: tensor %s has shape [%" PRId64 ", %" PRId64 "], but the model and adapter_config.json ask "
                "for [%" PRId64 ", %" PRId64 "]",
                path, tensors[i].name, found->shape[0], found->dims > 1 ? found->shape[1] : 1, shape[0], shape[1]);
        TRY(tensor_files_get(files, tensors[i].name, 2, shape, &found)); // refuses what is not a float
        tensor_to_f32(found->data, found->type, (size_t)(shape[0] * shape[1]), tensors[i].data);
    }
    return check_left_over(files, tensors, count);
}

Status peft_read_tensors(const char *dir, PeftTensor *tensors, int count) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir);
    if (!file_exists(path))
        return error_set(
            STATUS_DATA,
            "%s: holds no adapter_model.safetensors; save the adapter as safetensors (adapter_model.bin is not read)",
            dir);
    TensorFiles *files = NULL;
    TRY(tensor_files_open(&files, path));
    Status status = read_all(path, files, tensors, count);
    tensor_files_close(files);
    return status;
}
