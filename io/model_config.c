// config.json of a model folder: reads the sizes of a Llama-family model and refuses, by name, whatever src/model does
// not compute. Names and defaults are those of transformers' LlamaConfig. The weights are io/safetensors.h's.
#include "io/model_config.h"

#include "io/files.h"
#include "io/json_file.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

// Far above any model of the family; products of two of them stay within int64 and of a size with a head count in
// int32.
#define CONFIG_BYTES_MAX (1 << 20)
#define HIDDEN_MAX       (1 << 16)
#define INTERMEDIATE_MAX (1 << 18)
#define LAYERS_MAX       1024
#define HEADS_MAX        1024
#define HEAD_DIM_MAX     1024
#define VOCAB_MAX        (1 << 22)
#define POSITION_MAX     (1 << 24)

#define SUPPORTED_ROPE "supported are \"default\" and \"llama3\""

typedef struct Reader {
    const char *path;
    const json_t *root;
} Reader;

// The value of a key; NULL when it is missing or null, which mean the same to transformers.
static const json_t *value_of(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

// fallback 0: the key is required.
static Status read_int(const Reader *in, const json_t *object, const char *key, int32_t max, int32_t fallback,
                       int32_t *out) {
    const json_t *value = value_of(object, key);
    if (value == NULL && fallback > 0) {
        *out = fallback;
        return STATUS_OK;
    }
    if (value == NULL)
        return error_set(STATUS_DATA, "%s: key %s is missing; is this the folder of a Llama-family model?", in->path,
                         key);
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < 1 || number > max)
        return error_set(STATUS_DATA, "%s: %s must be an integer from 1 to %d", in->path, key, max);
    *out = (int32_t)number;
    return STATUS_OK;
}

// A finite number in [min, max]; fallback NaN: the key is required.
static Status read_number(const Reader *in, const json_t *object, const char *key, double min, double max,
                          double fallback, double *out) {
    const json_t *value = value_of(object, key);
    *out = value == NULL ? fallback : json_number_value(value);
    if (value == NULL && isnan(fallback)) return error_set(STATUS_DATA, "%s: key %s is missing", in->path, key);
    if (value != NULL && (!json_is_number(value) || !(*out >= min && *out <= max)))
        return error_set(STATUS_DATA, "%s: %s must be a number from %g to %g", in->path, key, min, max);
    return STATUS_OK;
}

static Status read_bool(const Reader *in, const char *key, bool *out) {
    const json_t *value = value_of(in->root, key);
    if (value != NULL && !json_is_boolean(value))
        return error_set(STATUS_DATA, "%s: %s must be true or false", in->path, key);
    *out = json_is_true(value);
    return STATUS_OK;
}

// Mistral's arithmetic is Llama's as long as its attention has no window.
static Status check_family(const Reader *in) {
    const char *type = json_text(json_object_get(in->root, "model_type"));
    if (type == NULL)
        return error_set(STATUS_DATA, "%s: key model_type is missing; supported are \"llama\" and \"mistral\"",
                         in->path);
    bool mistral = strcmp(type, "mistral") == 0;
    if (!mistral && strcmp(type, "llama") != 0)
        return error_set(STATUS_DATA, "%s: model_type \"%s\" is not supported; supported are \"llama\" and \"mistral\"",
                         in->path, type);
    const json_t *architectures = value_of(in->root, "architectures");
    const char *architecture = json_text(json_array_get(architectures, 0));
    const char *wanted = mistral ? "MistralForCausalLM" : "LlamaForCausalLM";
    if (architectures != NULL && (architecture == NULL || strcmp(architecture, wanted) != 0))
        return error_set(STATUS_DATA, "%s: architectures names \"%s\"; supported is \"%s\"", in->path,
                         architecture == NULL ? "" : architecture, wanted);
    // transformers takes a missing sliding_window for 4096, so only an explicit null means that there is none.
    if (mistral && !json_is_null(json_object_get(in->root, "sliding_window")))
        return error_set(
            STATUS_DATA,
            "%s: sliding_window is not null; sliding-window attention is not supported, choose a model without",
            in->path);
    return STATUS_OK;
}

// Things of other members of the family that would change the numbers silently.
static Status check_unsupported(const Reader *in) {
    const char *act = json_text(json_object_get(in->root, "hidden_act"));
    if (value_of(in->root, "hidden_act") != NULL && (act == NULL || strcmp(act, "silu") != 0))
        return error_set(STATUS_DATA, "%s: hidden_act \"%s\" is not supported; supported is \"silu\"", in->path,
                         act == NULL ? "" : act);
    bool mlp_bias = false;
    TRY(read_bool(in, "mlp_bias", &mlp_bias));
    if (mlp_bias)
        return error_set(STATUS_DATA, "%s: mlp_bias is true; MLP layers with biases are not supported", in->path);
    if (value_of(in->root, "quantization_config") != NULL)
        return error_set(STATUS_DATA,
                         "%s: quantization_config is present; quantized weights are not supported, take the model's "
                         "bfloat16, float16 or float32 weights",
                         in->path);
    return STATUS_OK;
}

// transformers 4 writes rope_theta beside rope_scaling; transformers 5 writes both into rope_parameters.
static Status read_rope(const Reader *in, ModelConfig *out) {
    const json_t *parameters = value_of(in->root, "rope_parameters");
    const char *key = parameters != NULL ? "rope_parameters" : "rope_scaling";
    const json_t *scaling = parameters != NULL ? parameters : value_of(in->root, "rope_scaling");
    if (scaling != NULL && !json_is_object(scaling))
        return error_set(STATUS_DATA, "%s: %s must be an object or null", in->path, key);
    const json_t *theta_in = value_of(parameters, "rope_theta") != NULL ? parameters : in->root;
    TRY(read_number(in, theta_in, "rope_theta", 1.0, 1e12, 10000.0, &out->rope_theta));
    double partial;
    TRY(read_number(in, value_of(parameters, "partial_rotary_factor") != NULL ? parameters : in->root,
                    "partial_rotary_factor", 0.0, 1.0, 1.0, &partial));
    if (partial != 1.0)
        return error_set(STATUS_DATA, "%s: partial_rotary_factor is %g; supported is 1", in->path, partial);
    if (scaling == NULL) return STATUS_OK;

    const json_t *type_value = value_of(scaling, "rope_type");
    if (type_value == NULL) type_value = value_of(scaling, "type");
    const char *type = type_value == NULL ? "default" : json_text(type_value);
    if (type == NULL) return error_set(STATUS_DATA, "%s: %s: rope_type must be a string", in->path, key);
    if (strcmp(type, "default") == 0) return STATUS_OK;
    if (strcmp(type, "llama3") != 0)
        return error_set(STATUS_DATA, "%s: %s of type \"%s\" is not supported; " SUPPORTED_ROPE, in->path, key, type);
    out->rope_llama3 = true;
    TRY(read_number(in, scaling, "factor", 1.0, 1e6, NAN, &out->rope_factor));
    TRY(read_number(in, scaling, "low_freq_factor", 1e-6, 1e6, NAN, &out->rope_low_freq_factor));
    TRY(read_number(in, scaling, "high_freq_factor", 1e-6, 1e6, NAN, &out->rope_high_freq_factor));
    if (!(out->rope_low_freq_factor < out->rope_high_freq_factor))
        return error_set(STATUS_DATA, "%s: %s: low_freq_factor must be smaller than high_freq_factor", in->path, key);
    return read_int(in, scaling, "original_max_position_embeddings", POSITION_MAX, 0, &out->rope_original_max_position);
}

static Status read_sizes(const Reader *in, ModelConfig *out) {
    TRY(read_int(in, in->root, "hidden_size", HIDDEN_MAX, 0, &out->hidden));
    TRY(read_int(in, in->root, "intermediate_size", INTERMEDIATE_MAX, 0, &out->intermediate));
    TRY(read_int(in, in->root, "num_hidden_layers", LAYERS_MAX, 0, &out->layers));
    TRY(read_int(in, in->root, "num_attention_heads", HEADS_MAX, 0, &out->heads));
    TRY(read_int(in, in->root, "num_key_value_heads", HEADS_MAX, out->heads, &out->kv_heads));
    TRY(read_int(in, in->root, "vocab_size", VOCAB_MAX, 0, &out->vocab));
    TRY(read_int(in, in->root, "max_position_embeddings", POSITION_MAX, 2048, &out->max_position));
    if (value_of(in->root, "head_dim") == NULL && out->hidden % out->heads != 0)
        return error_set(STATUS_DATA,
                         "%s: hidden_size %d is not a multiple of num_attention_heads %d and head_dim is missing",
                         in->path, out->hidden, out->heads);
    int32_t head_dim = out->hidden / out->heads;
    TRY(read_int(in, in->root, "head_dim", HEAD_DIM_MAX, head_dim, &out->head_dim));
    if (out->head_dim < 2 || out->head_dim > HEAD_DIM_MAX || out->head_dim % 2 != 0)
        return error_set(STATUS_DATA, "%s: head_dim %d must be an even number from 2 to %d", in->path, out->head_dim,
                         HEAD_DIM_MAX);
    if (out->heads % out->kv_heads != 0)
        return error_set(STATUS_DATA, "%s: num_attention_heads %d is not a multiple of num_key_value_heads %d",
                         in->path, out->heads, out->kv_heads);
    double eps;
    TRY(read_number(in, in->root, "rms_norm_eps", 0.0, 1.0, 1e-6, &eps));
    out->rms_norm_eps = (float)eps;
    return STATUS_OK;
}

Status model_config_read(ModelConfig *out, const char *model_dir) {
    *out = (ModelConfig){0};
    char path[PATH_MAX];
    struct stat info;
    if (stat(model_dir, &info) != 0 || !S_ISDIR(info.st_mode))
        return error_set(STATUS_DATA, "%s: no such folder; model.path must be the folder of a Hugging Face model",
                         model_dir);
    snprintf(path, sizeof path, "%s/config.json", model_dir);
    if (!file_exists(path))
        return error_set(STATUS_DATA, "%s: holds no config.json; model.path must be the folder of a Hugging Face model",
                         model_dir);
    json_t *root = NULL;
    TRY(json_file_object(path, CONFIG_BYTES_MAX, &root));
    Reader in = {.path = path, .root = root};
    Status status;
    TRY_GOTO(check_family(&in), done);
    TRY_GOTO(check_unsupported(&in), done);
    TRY_GOTO(read_sizes(&in, out), done);
    TRY_GOTO(read_rope(&in, out), done);
    TRY_GOTO(read_bool(&in, "tie_word_embeddings", &out->tied_head), done);
    TRY_GOTO(read_bool(&in, "attention_bias", &out->attention_bias), done);
done:
    json_decref(root);
    return status;
}

// Whether the object says so already; if not, it does afterwards.
static bool set_dtype(json_t *root, const char *dtype) {
    static const char *const keys[] = {"torch_dtype", "dtype"};
    bool found = false, right = true;
    for (int i = 0; i < 2; i++) {
        const char *value = json_text(value_of(root, keys[i]));
        if (value == NULL) continue;
        found = true;
        if (strcmp(value, dtype) == 0) continue;
        json_object_set_new(root, keys[i], json_string(dtype));
        right = false;
    }
    if (found) return right;
    json_object_set_new(root, keys[0], json_string(dtype));
    return false;
}

Status model_config_copy(const char *model_dir, const char *dtype, const char *to) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/config.json", model_dir);
    json_t *root = NULL;
    TRY(json_file_object(path, CONFIG_BYTES_MAX, &root));
    if (set_dtype(root, dtype)) {
        json_decref(root);
        return file_copy(path, to, CONFIG_BYTES_MAX);
    }
    return json_file_write(to, root, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
}
