// The architecture's tables: every tensor of the models of tests/golden is a row and no other, the counts agree with
// the files, the adapter vector is cut as runs have it on disk, and rows do not contradict each other.
#include "src/model/arch.h"
#include "io/safetensors.h"
#include "src/base/names.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
// cmocka needs the three above first
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static void must(Status status) {
    if (status != STATUS_OK) fail_msg("%s", error_text());
}

static void models_of_files(void **state) {
    (void)state;
    static const char *const folders[] = {"tiny-model",  "model/bias",    "model/llama3",  "model/qwen2",
                                          "model/qwen3", "model/granite", "model/smollm3", "model/olmo2"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        char path[1024];
        ModelConfig config;
        TensorFiles *files = NULL;
        snprintf(path, sizeof path, TEST_DATA "/%s", folders[i]);
        must(model_config_read(&config, path));
        must(tensor_files_open(&files, path));
        int count = 0;
        int64_t elements = 0;
        for (ArchWeight weight = {0}; arch_next(&config, &weight); count++) {
            const Tensor *found = NULL;
            must(tensor_files_get(files, weight.name, weight.dims, (int64_t[]){weight.rows, weight.cols}, &found));
            elements += weight.rows * weight.cols;
        }
        assert_int_equal(count, tensor_files_count(files));
        assert_true(arch_elements(&config) == elements);
        tensor_files_close(files);
    }
}

// Names, order and offsets as every checkpoint has them.
static void adapter_layout(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int64_t offset;
        int32_t rows, cols;
    } want[] = {
        {"model.layers.0.self_attn.q_proj.lora_A.weight", 0, 2, 8},
        {"model.layers.0.self_attn.v_proj.lora_A.weight", 16, 2, 8},
        {"model.layers.0.self_attn.q_proj.lora_B.weight", 32, 12, 2},
        {"model.layers.0.self_attn.v_proj.lora_B.weight", 56, 4, 2},
        {"model.layers.0.self_attn.o_proj.lora_A.weight", 64, 2, 12},
        {"model.layers.0.self_attn.o_proj.lora_B.weight", 88, 8, 2},
        {"model.layers.0.mlp.gate_proj.lora_A.weight", 104, 2, 8},
        {"model.layers.0.mlp.up_proj.lora_A.weight", 120, 2, 8},
        {"model.layers.0.mlp.gate_proj.lora_B.weight", 136, 10, 2},
        {"model.layers.0.mlp.up_proj.lora_B.weight", 156, 10, 2},
        {"model.layers.0.mlp.down_proj.lora_A.weight", 176, 2, 10},
        {"model.layers.0.mlp.down_proj.lora_B.weight", 196, 8, 2},
        {"model.layers.1.self_attn.q_proj.lora_A.weight", 212, 2, 8},
    };
    const ModelConfig config = {
        .hidden = 8, .intermediate = 10, .layers = 2, .heads = 3, .kv_heads = 1, .head_dim = 4, .vocab = 7};
    const bool targets[ARCH_MODULES] = {1, 0, 1, 1, 1, 1, 1};
    AdapterTable table;
    must(adapter_table_make(&config, 2, targets, &table));
    assert_int_equal(table.tensor_count, 24);
    assert_int_equal(table.module_count, 12);
    assert_true(table.count == 2 * 212);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        assert_string_equal(table.tensors[i].name, want[i].name);
        assert_true(table.tensors[i].offset == want[i].offset);
        assert_int_equal(table.tensors[i].rows, want[i].rows);
        assert_int_equal(table.tensors[i].cols, want[i].cols);
    }
    for (int32_t i = 0; i < table.module_count; i++) {
        const AdapterModule *module = &table.modules[i];
        char name[ARCH_NAME_MAX];
        arch_name(&config, module->role, module->layer, "lora_A.weight", name, sizeof name);
        assert_string_equal(table.tensors[module->a].name, name);
        arch_name(&config, module->role, module->layer, "lora_B.weight", name, sizeof name);
        assert_string_equal(table.tensors[module->b].name, name);
    }
    adapter_table_free(&table);
    must(adapter_table_make(&config, 0, targets, &table));
    assert_int_equal(table.tensor_count, 0);
    adapter_table_free(&table);
}

// Dropout's masks are drawn by these numbers.
static void module_numbers(void **state) {
    (void)state;
    static const char *const want[] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
    assert_int_equal(ARCH_MODULES, sizeof want / sizeof *want);
    for (int i = 0; i < ARCH_MODULES; i++) assert_string_equal(arch_modules[i], want[i]);
}

// Every family has each module once, under the name that target_modules takes, with a group; every role at most once.
static void rows_of_families(void **state) {
    (void)state;
    for (int family = 0; family < MODEL_FAMILIES; family++) {
        const ModelConfig config = {.family = (ModelFamily)family};
        const Arch *arch = arch_of(&config);
        int seen[ARCH_ROLES] = {0};
        for (int i = 0; i < arch->count; i++) {
            const ArchTensor *row = &arch->tensors[i];
            seen[row->role]++;
            assert_int_equal(row->role < ARCH_MODULES, row->group != ARCH_NO_GROUP);
            if (row->role >= ARCH_MODULES) continue;
            assert_string_equal(strrchr(row->name, '.') + 1, arch_modules[row->role]);
            assert_true(row->per_layer && row->cols != ARCH_ONE);
        }
        for (int role = 0; role < ARCH_ROLES; role++)
            assert_true(role <= ARCH_HEAD ? seen[role] == 1 : seen[role] <= 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(models_of_files), cmocka_unit_test(adapter_layout),
                                       cmocka_unit_test(module_numbers), cmocka_unit_test(rows_of_families)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
