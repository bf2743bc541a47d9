// What the tests of the model and of sampling share: a model and an adapter of tests/golden, open on one rank.
#pragma once
#include "comm/comm.h"
#include "io/peft.h"
#include "src/base/names.h"
#include "src/model/model.h"
#include "tests/kernels/ops.h" // CHECK, expect_close

static Comm comm;
static const Backend *backend;

typedef struct FixtureOptions {
    DType dtype;
    double dropout;
    bool recompute;
    int32_t max_positions; // 0: the model's
} FixtureOptions;

// `folder` and `adapter` are relative to tests/golden. The adapter's weights are loaded. One thread: models this small
// gain nothing from more, and the op tests compare thread counts.
static inline void fixture_open(Model *model, const char *folder, const char *adapter, const FixtureOptions *options) {
    char path[1024];
    PeftConfig peft;
    ModelConfig config;
    snprintf(path, sizeof path, TEST_DATA "/%s", adapter);
    CHECK(peft_read_config(path, arch_modules, &peft));
    snprintf(path, sizeof path, TEST_DATA "/%s", folder);
    CHECK(model_config_read(&config, path));
    ModelOptions model_options = {.backend = backend,
                                  .device = {.dtype = options->dtype, .threads = 1},
                                  .lora_r = peft.r,
                                  .lora_alpha = peft.alpha,
                                  .lora_dropout = options->dropout,
                                  .recompute = options->recompute,
                                  .max_positions =
                                      options->max_positions > 0 ? options->max_positions : config.max_position};
    names_read(arch_modules, peft.target_modules, model_options.lora_target);
    CHECK(model_open(model, path, &model_options, &comm));
    float *host = ops_host((size_t)model->table.count * sizeof *host);
    snprintf(path, sizeof path, TEST_DATA "/%s", adapter);
    CHECK(peft_read_tensors(path, model->table.tensors, model->table.tensor_count, host));
    CHECK(model_set(model, model->adapter, host));
    CHECK(model_adapter_changed(model));
    free(host);
}

// Takes the backend's name from the command line, as the op tests do.
static inline void fixture_main(int argc, char **argv) {
    backend = ops_backend(argc, argv);
    if (comm_open(&comm, &argc, &argv) != STATUS_OK) {
        fprintf(stderr, "%s\n", error_text());
        exit(1);
    }
}
