// PEFT folders: what is written is read back, what PEFT 0.21 writes is read, and anything but plain LoRA is refused.
#include "io/peft.h"
#include "io/safetensors.h"
#include "tests/io/temporary_folder.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int enter_folder(void **state) {
    return enter_temporary_folder(state) != 0 || mkdir("d", 0777) != 0;
}

static void put_text(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

#define PREFIX "base_model.model.model.layers.0.self_attn.q_proj."

static void round_trip(void **state) {
    (void)state;
    float a[6] = {1, 2, 3, 4, 5, 6}, b[8] = {-1, -2, -3, -4, -5, -6, -7, 0.1f}, got_a[6], got_b[8];
    PeftTensor tensors[] = {{PREFIX "lora_A.weight", 2, 3, a}, {PREFIX "lora_B.weight", 4, 2, b}};
    PeftConfig config = {
        .r = 2, .alpha = 16, .dropout = 0.05, .target = {[0] = true, [4] = true}, .base_model = "a \"b\""};
    assert_int_equal(peft_write("x/adapter", &config, tensors, 2), STATUS_OK);
    PeftConfig back;
    if (peft_read_config("x/adapter", &back) != STATUS_OK) fail_msg("%s", error_text());
    assert_int_equal(back.r, 2);
    assert_true(back.alpha == 16 && back.dropout == 0.05);
    assert_memory_equal(back.target, config.target, sizeof config.target);
    assert_null(back.base_model);
    tensors[0].data = got_a;
    tensors[1].data = got_b;
    if (peft_read_tensors("x/adapter", tensors, 2) != STATUS_OK) fail_msg("%s", error_text());
    assert_memory_equal(got_a, a, sizeof a);
    assert_memory_equal(got_b, b, sizeof b);

    json_t *root = json_load_file("x/adapter/adapter_config.json", 0, NULL);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "base_model_name_or_path")), "a \"b\"");
    assert_true(json_is_integer(json_object_get(root, "lora_alpha")));
    assert_true(json_is_true(json_object_get(root, "inference_mode")));
    json_decref(root);

    config.base_model = NULL;
    config.alpha = 0.5;
    assert_int_equal(peft_write("x/adapter", &config, tensors, 2), STATUS_OK);
    assert_int_equal(peft_read_config("x/adapter", &back), STATUS_OK);
    assert_true(back.alpha == 0.5);
}

static void tensors_that_differ(void **state) {
    (void)state;
    float data[8] = {0};
    PeftTensor one[] = {{PREFIX "lora_A.weight", 2, 3, data}};
    PeftConfig config = {.r = 2, .alpha = 16, .target = {[0] = true}};
    PeftTensor both[] = {{PREFIX "lora_A.weight", 2, 3, data}, {PREFIX "lora_B.weight", 4, 2, data}};
    assert_int_equal(peft_write("y", &config, both, 2), STATUS_OK);
    assert_int_equal(peft_read_tensors("y", one, 1), STATUS_DATA);
    assert_string_equal(error_text(), "y/adapter_model.safetensors: tensor " PREFIX
                                      "lora_B.weight belongs to no target module of this model");
    error_clear();
    both[1].rows = 5;
    assert_int_equal(peft_read_tensors("y", both, 2), STATUS_DATA);
    assert_string_equal(error_text(),
                        "y/adapter_model.safetensors: tensor " PREFIX
                        "lora_B.weight has shape [4, 2], but the model and adapter_config.json ask for [5, 2]");
    error_clear();
    assert_int_equal(peft_write("y", &config, one, 1), STATUS_OK);
    assert_int_equal(peft_read_tensors("y", both, 2), STATUS_DATA);
    assert_string_equal(error_text(), "y/adapter_model.safetensors: tensor " PREFIX "lora_B.weight is missing");
    error_clear();
    assert_int_equal(peft_read_tensors("d", one, 1), STATUS_DATA);
    assert_string_equal(error_text(), "d: holds no adapter_model.safetensors; save the adapter as safetensors "
                                      "(adapter_model.bin is not read)");
}

// The keys and values of PEFT 0.21.2's save_pretrained, with one part left open.
#define WRITTEN_BY_PEFT(targets)                                                                                       \
    "{\"alora_invocation_tokens\": null, \"alpha_pattern\": {}, \"arrow_config\": null, \"auto_mapping\": null,"       \
    "\"base_model_name_or_path\": \"m\", \"bias\": \"none\", \"corda_config\": null, \"ensure_weight_tying\": false,"  \
    "\"eva_config\": null, \"exclude_modules\": null, \"fan_in_fan_out\": false, \"inference_mode\": true,"            \
    "\"init_lora_weights\": true, \"kasa_config\": null, \"layer_replication\": null, \"layers_pattern\": null,"       \
    "\"layers_to_transform\": null, \"loftq_config\": {}, \"lora_alpha\": 16, \"lora_bias\": false,"                   \
    "\"lora_dropout\": 0.05, \"lora_ga_config\": null, \"megatron_config\": null, \"megatron_core\": "                 \
    "\"megatron.core\", \"modules_to_save\": null, \"monteclora_config\": null, \"peft_type\": \"LORA\","              \
    "\"peft_version\": \"0.21.2\", \"qalora_group_size\": 16, \"r\": 8, \"rank_pattern\": {}, \"revision\": null,"     \
    "\"target_modules\": " targets ", \"target_parameters\": null, \"task_type\": \"CAUSAL_LM\","                      \
    "\"trainable_token_indices\": null, \"use_bdlora\": null, \"use_dora\": false, \"use_qalora\": false,"             \
    "\"use_rslora\": false, \"velora_config\": null}"

static void written_by_peft(void **state) {
    (void)state;
    PeftConfig c;
    put_text("d/adapter_config.json", WRITTEN_BY_PEFT("[\"v_proj\", \"q_proj\"]"));
    if (peft_read_config("d", &c) != STATUS_OK) fail_msg("%s", error_text());
    assert_int_equal(c.r, 8);
    assert_true(c.alpha == 16 && c.dropout == 0.05);
    for (int i = 0; i < CONFIG_TARGETS_MAX; i++) assert_int_equal(c.target[i], i == 0 || i == 2);
    put_text("d/adapter_config.json", WRITTEN_BY_PEFT("\"all-linear\""));
    assert_int_equal(peft_read_config("d", &c), STATUS_OK);
    for (int i = 0; i < CONFIG_TARGETS_MAX; i++) assert_true(c.target[i]);
}

#define PLAIN "{\"peft_type\": \"LORA\", \"r\": 8, \"lora_alpha\": 16, \"target_modules\": [\"q_proj\"]"

static void refusals(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{", "d/adapter_config.json:1: broken JSON: string or '}' expected near end of file"},
        {"{\"peft_type\": \"IA3\"}",
         "d/adapter_config.json: peft_type \"IA3\" is not supported; supported is \"LORA\""},
        {"{}", "d/adapter_config.json: peft_type \"\" is not supported; supported is \"LORA\""},
        {PLAIN ", \"task_type\": \"SEQ_CLS\"}",
         "d/adapter_config.json: task_type \"SEQ_CLS\" is not supported; supported is \"CAUSAL_LM\""},
        {PLAIN ", \"bias\": \"all\"}", "d/adapter_config.json: bias \"all\" is not supported; supported is \"none\""},
        {PLAIN ", \"use_rslora\": true}",
         "d/adapter_config.json: use_rslora is set; only plain LoRA adapters are supported"},
        {PLAIN ", \"use_dora\": true}",
         "d/adapter_config.json: use_dora is set; only plain LoRA adapters are supported"},
        {PLAIN ", \"rank_pattern\": {\"q_proj\": 4}}",
         "d/adapter_config.json: rank_pattern is set; only plain LoRA adapters are supported"},
        {PLAIN ", \"alpha_pattern\": {\"q_proj\": 4}}",
         "d/adapter_config.json: alpha_pattern is set; only plain LoRA adapters are supported"},
        {PLAIN ", \"modules_to_save\": [\"lm_head\"]}",
         "d/adapter_config.json: modules_to_save is set; only plain LoRA adapters are supported"},
        {PLAIN ", \"layers_to_transform\": [0]}",
         "d/adapter_config.json: layers_to_transform is set; only plain LoRA adapters are supported"},
        {PLAIN ", \"layers_to_transform\": 0}",
         "d/adapter_config.json: layers_to_transform is set; only plain LoRA adapters are supported"},
        {PLAIN ", \"a_later_invention\": {\"x\": 1}}",
         "d/adapter_config.json: a_later_invention is set; only plain LoRA adapters are supported"},
        {PLAIN ", \"init_lora_weights\": \"pissa\"}",
         "d/adapter_config.json: init_lora_weights \"pissa\" is not supported, as it changes the base model; convert "
         "the "
         "adapter to a plain LoRA with PEFT (path_initial_model_for_weight_conversion)"},
        {PLAIN ", \"a_later_invention\": NaN}",
         "d/adapter_config.json: a_later_invention is set; only plain LoRA adapters are supported"},
        {PLAIN ", \"peft_type\": \"LORA\\u0000\"}",
         "d/adapter_config.json: peft_type \"\" is not supported; supported is \"LORA\""},
        {PLAIN ", \"task_type\": \"CAUSAL_LM\\u0000\"}",
         "d/adapter_config.json: task_type \"\" is not supported; supported is \"CAUSAL_LM\""},
        {PLAIN ", \"bias\": \"none\\u0000\"}",
         "d/adapter_config.json: bias \"\" is not supported; supported is \"none\""},
        {PLAIN ", \"init_lora_weights\": \"gaussian\\u0000\"}",
         "d/adapter_config.json: init_lora_weights \"\" is not supported, as it changes the base model; convert the "
         "adapter to a plain LoRA with PEFT (path_initial_model_for_weight_conversion)"},
        {PLAIN ", \"lora_alpha\": Infinity}", "d/adapter_config.json: lora_alpha must be a number above 0"},
        {PLAIN ", \"r\": 18446744073709551620}", "d/adapter_config.json: r must be an integer from 1 to 1024"},
        {PLAIN ", \"r\": 0}", "d/adapter_config.json: r must be an integer from 1 to 1024"},
        {PLAIN ", \"lora_alpha\": \"16\"}", "d/adapter_config.json: lora_alpha must be a number above 0"},
        {PLAIN ", \"lora_dropout\": 1}", "d/adapter_config.json: lora_dropout must be a number from 0 to below 1"},
        {PLAIN ", \"target_modules\": \".*_proj\"}",
         "d/adapter_config.json: target_modules is the pattern \".*_proj\"; supported are \"all-linear\" and a list of "
         "module names"},
        {PLAIN ", \"target_modules\": []}", "d/adapter_config.json: target_modules must be a list of module names"},
        {PLAIN ", \"target_modules\": [\"lm_head\"]}", "d/adapter_config.json: target_modules names \"lm_head\"; "
                                                       "supported are q_proj, k_proj, v_proj, o_proj, gate_proj, "
                                                       "up_proj and down_proj"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        PeftConfig c;
        put_text("d/adapter_config.json", cases[i].text);
        error_clear();
        assert_int_equal(peft_read_config("d", &c), STATUS_DATA);
        assert_string_equal(error_text(), cases[i].message);
    }
    PeftConfig c;
    error_clear();
    assert_int_equal(peft_read_config("missing", &c), STATUS_DATA);
    assert_string_equal(error_text(), "missing: holds no adapter_config.json; name the folder of a PEFT adapter");
}

// Half-precision adapters are read as well.
static void bf16_tensors(void **state) {
    (void)state;
    float data[2] = {0};
    PeftTensor tensor = {"x", 1, 2, data};
    static const char header[] = "{\"x\":{\"dtype\":\"BF16\",\"shape\":[1,2],\"data_offsets\":[0,4]}}";
    assert_int_equal(mkdir("b", 0777), 0);
    FILE *file = fopen("b/adapter_model.safetensors", "wb");
    assert_non_null(file);
    const unsigned char length[8] = {sizeof header - 1}, values[4] = {0x80, 0x3f, 0x00, 0xc0};
    fwrite(length, 1, sizeof length, file);
    fwrite(header, 1, sizeof header - 1, file);
    fwrite(values, 1, sizeof values, file);
    assert_int_equal(fclose(file), 0);
    error_clear();
    if (peft_read_tensors("b", &tensor, 1) != STATUS_OK) fail_msg("%s", error_text());
    assert_true(data[0] == 1.0f && data[1] == -2.0f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip), cmocka_unit_test(tensors_that_differ), cmocka_unit_test(written_by_peft),
        cmocka_unit_test(refusals),   cmocka_unit_test(bf16_tensors),
    };
    return cmocka_run_group_tests(tests, enter_folder, remove_temporary_folder);
}
