// Fuzzes adapter_config.json of a PEFT folder (io/peft.c).
#include "io/peft.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_file("adapter_config.json", data, size);
    PeftConfig config;
    Status status = peft_read_config(fuzz_folder(), fuzz_modules, &config);
    fuzz_end(status);
    if (status != STATUS_OK) return 0;
    FUZZ_CHECK(config.r >= 1 && config.r <= 1024 && config.alpha > 0 && config.dropout >= 0 && config.dropout < 1);
    FUZZ_CHECK(config.target_modules[0] != '\0');
    return 0;
}
