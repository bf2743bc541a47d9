// Writes a Llama of a chosen shape with random weights, for timings and tests of size. A million normal numbers are
// drawn, and matrices are cut from them at random places, piece by piece, so that 22 layers take seconds and little
// memory. The same arguments give the same bytes. The default shape is that of TinyLlama-1.1B; `make_random_model`
// alone lists the options.
#include "io/files.h"
#include "io/json_file.h"
#include "io/safetensors.h"
#include "src/base/memory.h"
#include "src/base/rng.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POOL = 1 << 20, PIECE = 1 << 16 }; // numbers drawn; elements that are cut from the pool at a time
enum { TENSORS_A_LAYER = 9, TENSORS_BESIDE = 3, LAYERS_MAX = 1000, NAME_SIZE = 64, TOKENIZER_MAX = 64 << 20 };
static const double deviation = 0.02; // as initializer_range

// TinyLlama-1.1B-Chat-v1.0's template.
static const char chat_template[] =
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}";

typedef struct Shape {
    long layers, hidden, intermediate, heads, kv_heads, vocab, max_position, seed, shard_mb;
    const char *dtype, *tokenizer, *folder;
} Shape;

typedef struct Writer {
    const Shape *shape;
    TensorType type;
    size_t element;
    Tensor *tensors;
    char (*names)[NAME_SIZE];
    int count;
    char *pool;   // [POOL] normal numbers in the type
    char *ones;   // [PIECE]
    char *buffer; // the tensor that is written
} Writer;

static void add(Writer *writer, const char *name, int64_t rows, int64_t columns) { // columns 0: a vector
    snprintf(writer->names[writer->count], NAME_SIZE, "%s", name);
    writer->tensors[writer->count] = (Tensor){.name = writer->names[writer->count],
                                              .type = writer->type,
                                              .dims = columns > 0 ? 2 : 1,
                                              .shape = {rows, columns}};
    writer->count++;
}

static void add_layer(Writer *writer, const Shape *s, int layer) {
    const long kv = s->hidden / s->heads * s->kv_heads;
    const struct {
        const char *name;
        long rows, columns;
    } tensors[TENSORS_A_LAYER] = {{"input_layernorm", s->hidden, 0},
                                  {"self_attn.q_proj", s->hidden, s->hidden},
                                  {"self_attn.k_proj", kv, s->hidden},
                                  {"self_attn.v_proj", kv, s->hidden},
                                  {"self_attn.o_proj", s->hidden, s->hidden},
                                  {"post_attention_layernorm", s->hidden, 0},
                                  {"mlp.gate_proj", s->intermediate, s->hidden},
                                  {"mlp.up_proj", s->intermediate, s->hidden},
                                  {"mlp.down_proj", s->hidden, s->intermediate}};
    for (int i = 0; i < TENSORS_A_LAYER; i++) {
        char name[NAME_SIZE];
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, tensors[i].name);
        add(writer, name, tensors[i].rows, tensors[i].columns);
    }
}

// Box and Muller 1958.
static Status fill_pool(Writer *writer) {
    float *normal = NULL;
    const float one = 1;
    TRY(MEMORY_ALLOC(normal, POOL, "random numbers"));
    Rng rng = rng_make((uint64_t)writer->shape->seed, 0, 0);
    for (int i = 0; i < POOL; i += 2) {
        const double radius = deviation * sqrt(-2 * log(1 - rng_uniform(&rng)));
        const double angle = 2 * M_PI * rng_uniform(&rng);
        normal[i] = (float)(radius * cos(angle));
        normal[i + 1] = (float)(radius * sin(angle));
    }
    tensor_from_f32(normal, POOL, writer->type, writer->pool);
    for (size_t i = 0; i < PIECE; i++) tensor_from_f32(&one, 1, writer->type, writer->ones + i * writer->element);
    free(normal);
    return STATUS_OK;
}

// TensorSource: a matrix is pieces of the pool, a vector (of a norm) ones.
static Status give(void *context, int index, const void **data) {
    const Writer *writer = context;
    const Tensor *tensor = &writer->tensors[index];
    Rng rng = rng_make((uint64_t)writer->shape->seed, 1, (uint32_t)index);
    const size_t bytes = tensor_bytes(tensor), most = PIECE * writer->element;
    for (size_t at = 0; at < bytes; at += most) {
        const size_t piece = bytes - at < most ? bytes - at : most;
        const char *from = writer->pool + rng_below(&rng, POOL - PIECE) * writer->element;
        memcpy(writer->buffer + at, tensor->dims == 1 ? writer->ones : from, piece);
    }
    *data = writer->buffer;
    return STATUS_OK;
}

static Status write_weights(const Shape *s, double *bytes) {
    static const TensorType types[] = {TENSOR_BF16, TENSOR_F16, TENSOR_F32};
    static const char *const words[] = {"bfloat16", "float16", "float32"};
    Writer writer = {.shape = s};
    for (int i = 0; i < 3; i++)
        if (strcmp(s->dtype, words[i]) == 0) writer.type = types[i];
    writer.element = writer.type == TENSOR_F32 ? 4 : 2;
    const size_t count = (size_t)s->layers * TENSORS_A_LAYER + TENSORS_BESIDE;
    TRY(MEMORY_ALLOC(writer.tensors, count, "tensors"));
    TRY(MEMORY_ALLOC(writer.names, count, "names"));
    add(&writer, "model.embed_tokens.weight", s->vocab, s->hidden);
    for (int layer = 0; layer < s->layers; layer++) add_layer(&writer, s, layer);
    add(&writer, "model.norm.weight", s->hidden, 0);
    add(&writer, "lm_head.weight", s->vocab, s->hidden);
    size_t largest = 0;
    for (int i = 0; i < writer.count; i++) {
        const size_t size = tensor_bytes(&writer.tensors[i]);
        largest = size > largest ? size : largest;
        *bytes += (double)size;
    }
    TRY(MEMORY_ALLOC(writer.pool, POOL * writer.element, "random numbers"));
    TRY(MEMORY_ALLOC(writer.ones, PIECE * writer.element, "ones"));
    TRY(MEMORY_ALLOC(writer.buffer, largest, "a tensor"));
    TRY(fill_pool(&writer));
    int files;
    const Status status =
        tensor_folder_write(s->folder, writer.tensors, writer.count,
                            s->shard_mb > 0 ? (size_t)s->shard_mb * 1000000 : SIZE_MAX, give, &writer, &files);
    free(writer.tensors);
    free(writer.names);
    free(writer.pool);
    free(writer.ones);
    free(writer.buffer);
    return status;
}

static Status write_json(const Shape *s, const char *name, json_t *root) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", s->folder, name);
    return json_file_write(path, root, JSON_INDENT(2));
}

static Status write_folder(const Shape *s, double *bytes) {
    TRY(folder_make(s->folder));
    TRY(write_weights(s, bytes));
    TRY(write_json(
        s, "config.json",
        json_pack("{s:[s], s:s, s:b, s:i, s:i, s:s, s:I, s:f, s:I, s:I, s:I, s:I, s:I, s:i, s:f, s:n, s:f, s:b, "
                  "s:s, s:b, s:I}",
                  "architectures", "LlamaForCausalLM", "model_type", "llama", "attention_bias", 0, "bos_token_id", 1,
                  "eos_token_id", 2, "hidden_act", "silu", "hidden_size", (json_int_t)s->hidden, "initializer_range",
                  deviation, "intermediate_size", (json_int_t)s->intermediate, "max_position_embeddings",
                  (json_int_t)s->max_position, "num_attention_heads", (json_int_t)s->heads, "num_hidden_layers",
                  (json_int_t)s->layers, "num_key_value_heads", (json_int_t)s->kv_heads, "pretraining_tp", 1,
                  "rms_norm_eps", 1e-5, "rope_scaling", "rope_theta", 10000.0, "tie_word_embeddings", 0, "torch_dtype",
                  s->dtype, "use_cache", 1, "vocab_size", (json_int_t)s->vocab)));
    if (s->tokenizer == NULL) return STATUS_OK;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/tokenizer.model", s->folder);
    TRY(file_copy(s->tokenizer, path, TOKENIZER_MAX));
    return write_json(s, "tokenizer_config.json",
                      json_pack("{s:b, s:b, s:s, s:s, s:b, s:s, s:b, s:I, s:s, s:s, s:{}, s:s, s:s, s:b}",
                                "add_bos_token", 1, "add_eos_token", 0, "bos_token", "<s>", "chat_template",
                                chat_template, "clean_up_tokenization_spaces", 0, "eos_token", "</s>", "legacy", 0,
                                "model_max_length", (json_int_t)s->max_position, "pad_token", "</s>", "padding_side",
                                "right", "sp_model_kwargs", "tokenizer_class", "LlamaTokenizer", "unk_token", "<unk>",
                                "use_default_system_prompt", 0));
}

static _Noreturn void refuse(const char *what) {
    fprintf(stderr,
            "make_random_model: %s\nusage: make_random_model FOLDER [--tokenizer TOKENIZER.MODEL] [--layers 22] "
            "[--hidden 2048] [--intermediate 5632] [--heads 32] [--kv-heads 4] [--vocab 32000] [--max-position 2048] "
            "[--dtype bfloat16|float16|float32] [--seed 1] [--shard-mb 0]\n",
            what);
    exit(STATUS_USAGE);
}

static long number(const char *word, long least, long most) {
    char *end;
    const long value = strtol(word, &end, 10);
    if (end == word || *end != '\0' || value < least || value > most) refuse("a number is wrong or out of range");
    return value;
}

int main(int argc, char **argv) {
    Shape s = {.layers = 22,
               .hidden = 2048,
               .intermediate = 5632,
               .heads = 32,
               .kv_heads = 4,
               .vocab = 32000,
               .max_position = 2048,
               .seed = 1,
               .dtype = "bfloat16"};
    struct {
        const char *name;
        long *value, least, most;
    } numbers[] = {{"layers", &s.layers, 1, LAYERS_MAX},          {"hidden", &s.hidden, 1, 1 << 20},
                   {"intermediate", &s.intermediate, 1, 1 << 20}, {"heads", &s.heads, 1, 1 << 16},
                   {"kv-heads", &s.kv_heads, 1, 1 << 16},         {"vocab", &s.vocab, 1, 1 << 24},
                   {"max-position", &s.max_position, 1, 1 << 24}, {"seed", &s.seed, 0, 1L << 40},
                   {"shard-mb", &s.shard_mb, 0, 1 << 20}};
    enum { NUMBERS = sizeof numbers / sizeof *numbers };
    struct option flags[NUMBERS + 3] = {{"dtype", 1, NULL, NUMBERS}, {"tokenizer", 1, NULL, NUMBERS + 1}};
    for (int i = 0; i < NUMBERS; i++) flags[i + 2] = (struct option){numbers[i].name, 1, NULL, i};
    for (int flag; (flag = getopt_long(argc, argv, "", flags, NULL)) >= 0;) {
        if (flag == NUMBERS)
            s.dtype = optarg;
        else if (flag == NUMBERS + 1)
            s.tokenizer = optarg;
        else if (flag < NUMBERS)
            *numbers[flag].value = number(optarg, numbers[flag].least, numbers[flag].most);
        else
            refuse("an unknown option");
    }
    if (optind + 1 != argc) refuse("which folder?");
    s.folder = argv[optind];
    if (strcmp(s.dtype, "bfloat16") != 0 && strcmp(s.dtype, "float16") != 0 && strcmp(s.dtype, "float32") != 0)
        refuse("--dtype must be bfloat16, float16 or float32");
    if (s.hidden % s.heads != 0 || s.heads % s.kv_heads != 0)
        refuse("hidden must be a multiple of heads, and heads of kv-heads");
    double bytes = 0;
    const Status status = write_folder(&s, &bytes);
    if (status != STATUS_OK) {
        fprintf(stderr, "make_random_model: %s\n", error_text());
        return (int)status;
    }
    printf("%s: %ld layers, %.0f MB of weights\n", s.folder, s.layers, bytes / 1e6);
    return 0;
}
