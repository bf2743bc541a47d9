// config.json of a model folder: reads what the families of Llama's kind say and refuses, by name, whatever src/model
// does not compute. Names and defaults are those of transformers' configuration classes. The weights are
// io/safetensors.h's.
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
        return error_set(STATUS_DATA, "%s: key %s is missing; is this the folder of a language model?", in->path, key);
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

static Status read_bool(const Reader *in, const char *key, bool fallback, bool *out) {
    const json_t *value = value_of(in->root, key);
    if (value != NULL && !json_is_boolean(value))
        return error_set(STATUS_DATA, "%s: %s must be true or false", in->path, key);
    *out = value == NULL ? fallback : json_is_true(value);
    return STATUS_OK;
}

// What a missing key means, as the defaults of transformers' configuration classes (5.24) are.
typedef struct Family {
    const char *model_type, *architecture;
    int32_t kv_heads; // 0: as many as heads
    int32_t head_dim; // 0: hidden_size / heads
    double rope_theta, rms_norm_eps;
    int32_t sliding_window; // 0: none
    bool window_is_asked;   // by use_sliding_window; else a window is there unless it is null
    bool tied_head;
    bool qkv_bias;       // always
    bool attention_bias; // the key counts, and gives q, k, v and o a bias or none
} Family;

static const Family families[MODEL_FAMILIES] = {
    [MODEL_LLAMA] = {"llama", "LlamaForCausalLM", .rope_theta = 1e4, .rms_norm_eps = 1e-6, .attention_bias = true},
    [MODEL_MISTRAL] = {"mistral", "MistralForCausalLM", .kv_heads = 8, .rope_theta = 1e4, .rms_norm_eps = 1e-6,
                       .sliding_window = 4096},
    [MODEL_QWEN2] = {"qwen2", "Qwen2ForCausalLM", .kv_heads = 32, .rope_theta = 1e4, .rms_norm_eps = 1e-6,
                     .sliding_window = 4096, .window_is_asked = true, .qkv_bias = true},
    [MODEL_QWEN3] = {"qwen3", "Qwen3ForCausalLM", .kv_heads = 32, .head_dim = 128, .rope_theta = 1e4,
                     .rms_norm_eps = 1e-6, .sliding_window = 4096, .window_is_asked = true, .attention_bias = true},
    [MODEL_GRANITE] = {"granite", "GraniteForCausalLM", .rope_theta = 1e4, .rms_norm_eps = 1e-6,
                       .attention_bias = true},
    [MODEL_SMOLLM3] = {"smollm3", "SmolLM3ForCausalLM", .kv_heads = 4, .rope_theta = 2e6, .rms_norm_eps = 1e-6,
                       .window_is_asked = true, .tied_head = true, .attention_bias = true},
    [MODEL_OLMO2] = {"olmo2", "Olmo2ForCausalLM", .rope_theta = 1e4, .rms_norm_eps = 1e-5, .attention_bias = true},
};

// Families that people ask for, and what computing them would need.
static const struct {
    const char *model_type, *needs;
} others[] = {
    {"gemma", "an MLP with GELU, norms of 1 + weight and scaled embeddings"},
    {"gemma2", "an MLP with GELU, norms of 1 + weight, capped logits and attention in windows"},
    {"gemma3", "an MLP with GELU, norms of 1 + weight and attention in windows"},
    {"gemma3_text", "an MLP with GELU, norms of 1 + weight and attention in windows"},
    {"phi", "layer norms, parallel sublayers and an MLP with GELU"},
    {"phi3", "weights of q, k, v and of gate, up that are stored as one"},
    {"gpt2", "layer norms and learned positions"},
    {"gpt_neox", "layer norms and parallel sublayers"},
    {"falcon", "layer norms and parallel sublayers"},
    {"stablelm", "layer norms and rotation of a part of each head"},
    {"cohere", "layer norms and parallel sublayers"},
    {"cohere2", "layer norms, parallel sublayers and attention in windows"},
    {"olmo", "layer norms without weights"},
    {"olmo3", "attention in windows"},
    {"ministral", "attention in windows"},
    {"glm4", "rotation of a part of each head"},
    {"gpt_oss", "a mixture of experts"},
    {"mixtral", "a mixture of experts"},
    {"qwen2_moe", "a mixture of experts"},
    {"qwen3_moe", "a mixture of experts"},
    {"olmoe", "a mixture of experts"},
    {"granitemoe", "a mixture of experts"},
    {"llama4", "a mixture of experts"},
    {"llama4_text", "a mixture of experts"},
    {"deepseek_v2", "a mixture of experts and latent attention"},
    {"deepseek_v3", "a mixture of experts and latent attention"},
    {"qwen3_next", "a mixture of experts and linear attention"},
    {"qwen3_5", "linear attention"},
    {"granitemoehybrid", "state-space layers"},
    {"falcon_h1", "state-space layers"},
    {"lfm2", "convolutions between the layers"},
};

// "\"llama\" and \"mistral\""
static void list_families(char *out, size_t size) {
    size_t used = 0;
    for (int i = 0; i < MODEL_FAMILIES && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s\"%s\"",
                                 i == 0                   ? ""
                                 : i + 1 < MODEL_FAMILIES ? ", "
                                                          : " and ",
                                 families[i].model_type);
}

static Status refuse_family(const Reader *in, const char *type) {
    char known[256];
    list_families(known, sizeof known);
    if (type == NULL) return error_set(STATUS_DATA, "%s: key model_type is missing; supported are %s", in->path, known);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(type, others[i].model_type) == 0)
            return error_set(STATUS_DATA, "%s: model_type \"%s\" is not supported: it needs %s; supported are %s",
                             in->path, type, others[i].needs, known);
    return error_set(STATUS_DATA, "%s: model_type \"%s\" is not supported; supported are %s", in->path, type, known);
}

static Status read_family(const Reader *in, ModelConfig *out) {
    const char *type = json_text(json_object_get(in->root, "model_type"));
    int found = 0;
    while (type != NULL && found < MODEL_FAMILIES && strcmp(type, families[found].model_type) != 0) found++;
    if (type == NULL || found == MODEL_FAMILIES) return refuse_family(in, type);
    out->family = (ModelFamily)found;
    const json_t *architectures = value_of(in->root, "architectures");
    const char *architecture = json_text(json_array_get(architectures, 0));
    const char *wanted = families[found].architecture;
    if (architectures != NULL && (architecture == NULL || strcmp(architecture, wanted) != 0))
        return error_set(STATUS_DATA, "%s: architectures names \"%s\"; supported is \"%s\"", in->path,
                         architecture == NULL ? "" : architecture, wanted);
    return STATUS_OK;
}

// Whether any of the layers that layer_types lists has a window; without the list, all may.
static Status read_layer_types(const Reader *in, bool *sliding) {
    const json_t *types = value_of(in->root, "layer_types");
    *sliding = types == NULL;
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (type != NULL && strcmp(type, "sliding_attention") == 0)
            *sliding = true;
        else if (type == NULL || strcmp(type, "full_attention") != 0)
            return error_set(STATUS_DATA,
                             "%s: layer_types names \"%s\"; supported are \"full_attention\" and "
                             "\"sliding_attention\"",
                             in->path, type == NULL ? "" : type);
    }
    return STATUS_OK;
}

// Attention in windows is not computed, but a sequence that fits into one window does not feel it.
static Status read_window(const Reader *in, ModelConfig *out) {
    const Family *family = &families[out->family];
    bool asked = family->sliding_window > 0, sliding = true;
    if (family->window_is_asked) {
        TRY(read_layer_types(in, &sliding));
        TRY(read_bool(in, "use_sliding_window", false, &asked));
    }
    // A missing key is transformers' default, an explicit null no window.
    const json_t *value = json_object_get(in->root, "sliding_window");
    if (!asked || !sliding || json_is_null(value) || (value == NULL && family->sliding_window == 0)) return STATUS_OK;
    int32_t window;
    TRY(read_int(in, in->root, "sliding_window", POSITION_MAX, family->sliding_window, &window));
    out->windowed = window < out->max_position;
    if (out->windowed) out->max_position = window;
    return STATUS_OK;
}

// SmolLM3: every fourth layer knows no positions, unless the list says otherwise.
static Status read_no_rope(const Reader *in, ModelConfig *out) {
    if (out->family != MODEL_SMOLLM3) return STATUS_OK;
    const json_t *list = value_of(in->root, "no_rope_layers");
    int32_t interval;
    TRY(read_int(in, in->root, "no_rope_layer_interval", MODEL_LAYERS_MAX, 4, &interval));
    if (list != NULL && json_array_size(list) < (size_t)out->layers)
        return error_set(STATUS_DATA, "%s: no_rope_layers must have a number for each of the %d layers", in->path,
                         out->layers);
    for (int32_t l = 0; l < out->layers; l++) {
        const json_t *uses = json_array_get(list, (size_t)l);
        if (list != NULL && (!json_is_integer(uses) || json_integer_value(uses) < 0 || json_integer_value(uses) > 1))
            return error_set(STATUS_DATA, "%s: no_rope_layers holds something else than 0 and 1", in->path);
        out->no_rope[l] = list != NULL ? json_integer_value(uses) == 0 : (l + 1) % interval == 0;
    }
    return STATUS_OK;
}

static Status read_multipliers(const Reader *in, ModelConfig *out) {
    const struct {
        const char *key;
        float *to;
    } all[] = {{"embedding_multiplier", &out->embedding_multiplier},
               {"residual_multiplier", &out->residual_multiplier},
               {"attention_multiplier", &out->attention_scale},
               {"logits_scaling", &out->logits_scaling}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        double value = 1;
        if (out->family == MODEL_GRANITE) TRY(read_number(in, in->root, all[i].key, 1e-6, 1e6, 1, &value));
        *all[i].to = (float)value;
    }
    if (out->family != MODEL_GRANITE) out->attention_scale = 1 / sqrtf((float)out->head_dim);
    return STATUS_OK;
}

// Things of other members of the family that would change the numbers silently.
static Status check_unsupported(const Reader *in) {
    const char *act = json_text(json_object_get(in->root, "hidden_act"));
    if (value_of(in->root, "hidden_act") != NULL && (act == NULL || strcmp(act, "silu") != 0))
        return error_set(STATUS_DATA, "%s: hidden_act \"%s\" is not supported; supported is \"silu\"", in->path,
                         act == NULL ? "" : act);
    bool mlp_bias = false;
    TRY(read_bool(in, "mlp_bias", false, &mlp_bias));
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
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)scaling, name, value) {
        if (json_is_object(value))
            return error_set(STATUS_DATA, "%s: %s has an object for \"%s\"; supported is one rotation for all layers",
                             in->path, key, name);
    }
    const json_t *theta_in = value_of(parameters, "rope_theta") != NULL ? parameters : in->root;
    TRY(read_number(in, theta_in, "rope_theta", 1.0, 1e12, families[out->family].rope_theta, &out->rope_theta));
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
    const Family *family = &families[out->family];
    TRY(read_int(in, in->root, "hidden_size", HIDDEN_MAX, 0, &out->hidden));
    TRY(read_int(in, in->root, "intermediate_size", INTERMEDIATE_MAX, 0, &out->intermediate));
    TRY(read_int(in, in->root, "num_hidden_layers", MODEL_LAYERS_MAX, 0, &out->layers));
    TRY(read_int(in, in->root, "num_attention_heads", HEADS_MAX, 0, &out->heads));
    const bool missing = json_object_get(in->root, "num_key_value_heads") == NULL;
    const int32_t kv_heads = missing && family->kv_heads > 0 ? family->kv_heads : out->heads; // null: as many as heads
    TRY(read_int(in, in->root, "num_key_value_heads", HEADS_MAX, kv_heads, &out->kv_heads));
    TRY(read_int(in, in->root, "vocab_size", VOCAB_MAX, 0, &out->vocab));
    TRY(read_int(in, in->root, "max_position_embeddings", POSITION_MAX, 2048, &out->max_position));
    if (value_of(in->root, "head_dim") == NULL && family->head_dim == 0 && out->hidden % out->heads != 0)
        return error_set(STATUS_DATA,
                         "%s: hidden_size %d is not a multiple of num_attention_heads %d and head_dim is missing",
                         in->path, out->hidden, out->heads);
    const int32_t head_dim = family->head_dim > 0 ? family->head_dim : out->hidden / out->heads;
    TRY(read_int(in, in->root, "head_dim", HEAD_DIM_MAX, head_dim, &out->head_dim));
    if (out->head_dim < 2 || out->head_dim > HEAD_DIM_MAX || out->head_dim % 2 != 0)
        return error_set(STATUS_DATA, "%s: head_dim %d must be an even number from 2 to %d", in->path, out->head_dim,
                         HEAD_DIM_MAX);
    if (out->heads % out->kv_heads != 0)
        return error_set(STATUS_DATA, "%s: num_attention_heads %d is not a multiple of num_key_value_heads %d",
                         in->path, out->heads, out->kv_heads);
    double eps;
    TRY(read_number(in, in->root, "rms_norm_eps", 0.0, 1.0, family->rms_norm_eps, &eps));
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
    TRY_GOTO(read_family(&in, out), done);
    TRY_GOTO(check_unsupported(&in), done);
    TRY_GOTO(read_sizes(&in, out), done);
    TRY_GOTO(read_rope(&in, out), done);
    TRY_GOTO(read_window(&in, out), done);
    TRY_GOTO(read_no_rope(&in, out), done);
    TRY_GOTO(read_multipliers(&in, out), done);
    const Family *family = &families[out->family];
    bool attention_bias = false;
    TRY_GOTO(read_bool(&in, "tie_word_embeddings", family->tied_head, &out->tied_head), done);
    if (family->attention_bias) TRY_GOTO(read_bool(&in, "attention_bias", false, &attention_bias), done);
    out->qkv_bias = attention_bias || family->qkv_bias;
    out->o_bias = attention_bias;
done:
    json_decref(root);
    return status;
}

const char *model_config_limit(const ModelConfig *config) {
    return config->windowed ? "sliding_window" : "max_position_embeddings";
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
