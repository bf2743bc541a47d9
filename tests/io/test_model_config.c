// config.json: what is read from the layouts of transformers 4 and 5, the defaults, and what is refused and how.
#include "io/model_config.h"
#include "tests/io/temporary_folder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIZES                                                                                                          \
    "\"hidden_size\": 64, \"intermediate_size\": 160, \"num_hidden_layers\": 2, \"num_attention_heads\": 8, "          \
    "\"num_key_value_heads\": 4, \"vocab_size\": 100"
#define LLAMA "{\"model_type\": \"llama\", " SIZES

static int enter_folder(void **state) {
    return enter_temporary_folder(state) != 0 || mkdir("m", 0777) != 0;
}

static Status read_text(const char *text, ModelConfig *out) {
    FILE *file = fopen("m/config.json", "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
    error_clear();
    return model_config_read(out, "m");
}

static ModelConfig accepted(const char *text) {
    ModelConfig c;
    if (read_text(text, &c) != STATUS_OK) fail_msg("%s", error_text());
    return c;
}

static void defaults(void **state) {
    (void)state;
    ModelConfig c = accepted("{\"model_type\": \"llama\", \"hidden_size\": 64, \"intermediate_size\": 160, "
                             "\"num_hidden_layers\": 2, \"num_attention_heads\": 8, \"vocab_size\": 100}");
    assert_int_equal(c.hidden, 64);
    assert_int_equal(c.intermediate, 160);
    assert_int_equal(c.layers, 2);
    assert_int_equal(c.heads, 8);
    assert_int_equal(c.kv_heads, 8);
    assert_int_equal(c.head_dim, 8);
    assert_int_equal(c.vocab, 100);
    assert_int_equal(c.max_position, 2048);
    assert_true(c.rms_norm_eps == 1e-6f && c.rope_theta == 10000.0);
    assert_false(c.rope_llama3 || c.tied_head || c.attention_bias);
    // A key that nobody reads may hold what Python writes.
    accepted(LLAMA ", \"x\": 1000000000000000019884624838656, \"y\": [NaN, -Infinity], \"z\": \"\\u0000\"}");
}

static void transformers_4(void **state) {
    (void)state;
    ModelConfig c =
        accepted(LLAMA ", \"architectures\": [\"LlamaForCausalLM\"], \"hidden_act\": \"silu\", \"head_dim\": 16, "
                       "\"rms_norm_eps\": 1e-05, \"rope_theta\": 500000, \"rope_scaling\": {\"type\": \"llama3\", "
                       "\"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
                       "\"original_max_position_embeddings\": 8192}, \"max_position_embeddings\": 131072, "
                       "\"tie_word_embeddings\": true, \"attention_bias\": true, \"mlp_bias\": false, "
                       "\"pretraining_tp\": 4}");
    assert_int_equal(c.kv_heads, 4);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(c.max_position, 131072);
    assert_true(c.rms_norm_eps == 1e-5f && c.rope_theta == 500000.0 && c.rope_llama3);
    assert_true(c.rope_factor == 8.0 && c.rope_low_freq_factor == 1.0 && c.rope_high_freq_factor == 4.0);
    assert_int_equal(c.rope_original_max_position, 8192);
    assert_true(c.tied_head && c.attention_bias);
    c = accepted(LLAMA ", \"rope_scaling\": null, \"head_dim\": null}");
    assert_false(c.rope_llama3);
    c = accepted(LLAMA ", \"rope_scaling\": {\"rope_type\": \"default\"}}");
    assert_false(c.rope_llama3);
}

static void transformers_5(void **state) {
    (void)state;
    ModelConfig c = accepted(LLAMA ", \"rope_parameters\": {\"rope_theta\": 20000.0, \"rope_type\": \"default\"}}");
    assert_true(c.rope_theta == 20000.0 && !c.rope_llama3);
    c = accepted(LLAMA
                 ", \"rope_parameters\": {\"rope_theta\": 500000.0, \"rope_type\": \"llama3\", \"factor\": 32.0, "
                 "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}}");
    assert_true(c.rope_llama3 && c.rope_factor == 32.0 && c.rope_theta == 500000.0);
    c = accepted(
        "{\"model_type\": \"mistral\", \"architectures\": [\"MistralForCausalLM\"], \"sliding_window\": null, " SIZES
        "}");
    assert_int_equal(c.hidden, 64);
}

static void refusals(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "m/config.json:1: broken JSON: '[' or '{' expected near end of file"},
        {"{\n\"model_type\": }", "m/config.json:2: broken JSON: unexpected token near '}'"},
        {"[1]", "m/config.json:1: holds no JSON object"},
        {"{}", "m/config.json: key model_type is missing; supported are \"llama\" and \"mistral\""},
        {"{\"model_type\": \"qwen2\"}",
         "m/config.json: model_type \"qwen2\" is not supported; supported are \"llama\" and \"mistral\""},
        {LLAMA ", \"architectures\": [\"LlamaForSequenceClassification\"]}",
         "m/config.json: architectures names \"LlamaForSequenceClassification\"; supported is \"LlamaForCausalLM\""},
        {"{\"model_type\": \"mistral\", \"sliding_window\": 4096, " SIZES "}",
         "m/config.json: sliding_window is not null; sliding-window attention is not supported, choose a model "
         "without"},
        {"{\"model_type\": \"mistral\", " SIZES "}", "m/config.json: sliding_window is not null; sliding-window "
                                                     "attention is not supported, choose a model without"},
        {LLAMA ", \"hidden_act\": \"gelu\"}",
         "m/config.json: hidden_act \"gelu\" is not supported; supported is \"silu\""},
        {LLAMA ", \"mlp_bias\": true}", "m/config.json: mlp_bias is true; MLP layers with biases are not supported"},
        {LLAMA ", \"quantization_config\": {\"bits\": 4}}", "m/config.json: quantization_config is present; quantized "
                                                            "weights are not supported, take the model's bfloat16, "
                                                            "float16 or float32 weights"},
        {LLAMA ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}}",
         "m/config.json: rope_scaling of type \"linear\" is not supported; supported are \"default\" and \"llama3\""},
        {LLAMA ", \"rope_parameters\": {\"rope_type\": \"yarn\"}}",
         "m/config.json: rope_parameters of type \"yarn\" is not supported; supported are \"default\" and \"llama3\""},
        {LLAMA ", \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8.0}}",
         "m/config.json: key low_freq_factor is missing"},
        {LLAMA
         ", \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4}}",
         "m/config.json: rope_scaling: low_freq_factor must be smaller than high_freq_factor"},
        {LLAMA ", \"rope_scaling\": 2}", "m/config.json: rope_scaling must be an object or null"},
        {LLAMA ", \"rope_theta\": -1}", "m/config.json: rope_theta must be a number from 1 to 1e+12"},
        {LLAMA ", \"partial_rotary_factor\": 0.5}", "m/config.json: partial_rotary_factor is 0.5; supported is 1"},
        {LLAMA ", \"tie_word_embeddings\": 1}", "m/config.json: tie_word_embeddings must be true or false"},
        {LLAMA ", \"hidden_size\": 9999999999}", "m/config.json: hidden_size must be an integer from 1 to 65536"},
        {LLAMA ", \"num_hidden_layers\": 0}", "m/config.json: num_hidden_layers must be an integer from 1 to 1024"},
        {LLAMA ", \"vocab_size\": 100.5}", "m/config.json: vocab_size must be an integer from 1 to 4194304"},
        {LLAMA ", \"num_attention_heads\": 7}",
         "m/config.json: hidden_size 64 is not a multiple of num_attention_heads 7 and head_dim is missing"},
        {LLAMA ", \"num_key_value_heads\": 3}",
         "m/config.json: num_attention_heads 8 is not a multiple of num_key_value_heads 3"},
        {LLAMA ", \"head_dim\": 5}", "m/config.json: head_dim 5 must be an even number from 2 to 1024"},
        {"{\"model_type\": \"llama\"}",
         "m/config.json: key hidden_size is missing; is this the folder of a Llama-family model?"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ModelConfig c;
        assert_int_equal(read_text(cases[i].text, &c), STATUS_DATA);
        assert_string_equal(error_text(), cases[i].message);
    }
}

static void folders(void **state) {
    (void)state;
    ModelConfig c;
    error_clear();
    assert_int_equal(model_config_read(&c, "missing"), STATUS_DATA);
    assert_string_equal(error_text(), "missing: no such folder; model.path must be the folder of a Hugging Face model");
    assert_int_equal(mkdir("empty", 0777), 0);
    error_clear();
    assert_int_equal(model_config_read(&c, "empty"), STATUS_DATA);
    assert_string_equal(error_text(),
                        "empty: holds no config.json; model.path must be the folder of a Hugging Face model");
}

static char *text_of(const char *path) {
    static char text[1024];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    return text;
}

// A copy says the dtype that the weights have; nothing else of it changes.
static void copies(void **state) {
    (void)state;
    static const struct {
        const char *from, *dtype, *to;
    } cases[] = {
        {"{\"b\":1, \"dtype\" : \"bfloat16\",\"a\": 1e-05}", "bfloat16",
         "{\"b\":1, \"dtype\" : \"bfloat16\",\"a\": 1e-05}"}, // byte for byte
        {"{\"b\":1, \"torch_dtype\" : \"bfloat16\",\"a\": 0.02}", "float32",
         "{\n  \"b\": 1,\n  \"torch_dtype\": \"float32\",\n  \"a\": 0.02\n}\n"},
        {"{\"dtype\": \"float16\", \"x\": {\"y\": [1, null]}}", "bfloat16",
         "{\n  \"dtype\": \"bfloat16\",\n  \"x\": {\n    \"y\": [\n      1,\n      null\n    ]\n  }\n}\n"},
        {"{\"x\": true, \"dtype\": null}", "float16",
         "{\n  \"x\": true,\n  \"dtype\": null,\n  \"torch_dtype\": \"float16\"\n}\n"},
        {"{\"dtype\": \"float16\", \"time_step_limit\": [0.0, Infinity]}", "float32",
         "{\n  \"dtype\": \"float32\",\n  \"time_step_limit\": [\n    0.0,\n    Infinity\n  ]\n}\n"},
        {"{\"torch_dtype\": \"float32\", \"dtype\": \"bfloat16\"}", "float32",
         "{\n  \"torch_dtype\": \"float32\",\n  \"dtype\": \"float32\"\n}\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        FILE *file = fopen("config.json", "w");
        assert_non_null(file);
        fputs(cases[i].from, file);
        fclose(file);
        error_clear();
        assert_int_equal(model_config_copy(".", cases[i].dtype, "copy.json"), STATUS_OK);
        assert_string_equal(text_of("copy.json"), cases[i].to);
    }
    assert_int_equal(model_config_copy("nowhere", "float32", "copy.json"), STATUS_DATA);
    assert_string_equal(error_text(), "nowhere/config.json: No such file or directory");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults), cmocka_unit_test(transformers_4), cmocka_unit_test(transformers_5),
        cmocka_unit_test(refusals), cmocka_unit_test(folders),        cmocka_unit_test(copies),
    };
    return cmocka_run_group_tests(tests, enter_folder, remove_temporary_folder);
}
