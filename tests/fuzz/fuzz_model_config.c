// Fuzzes config.json of a model folder (io/model_config.c). Sizes that pass must be ones that src/model can
// multiply.
#include "io/model_config.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_file("config.json", data, size);
    ModelConfig config;
    Status status = model_config_read(&config, fuzz_folder());
    fuzz_end(status);
    if (status != STATUS_OK) return 0;
    FUZZ_CHECK(config.hidden > 0 && config.intermediate > 0 && config.layers > 0 && config.vocab > 0);
    FUZZ_CHECK(config.heads > 0 && config.kv_heads > 0 && config.heads % config.kv_heads == 0);
    FUZZ_CHECK(config.head_dim >= 2 && config.head_dim % 2 == 0 && config.max_position > 0);
    FUZZ_CHECK((int64_t)config.heads * config.head_dim <= INT32_MAX && config.rope_theta >= 1);
    FUZZ_CHECK(config.rms_norm_eps >= 0 && config.rms_norm_eps <= 1);
    return 0;
}
