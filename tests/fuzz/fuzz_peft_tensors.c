// Fuzzes adapter_model.safetensors of a PEFT folder (io/peft.c), as header and data with the right length in front, for
// an adapter of two small tensors.
#include "io/peft.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

#define LAYER "model.layers.0.self_attn.q_proj."

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const AdapterTensor tensors[2] = {{LAYER "lora_A.weight", 0, 2, 3}, {LAYER "lora_B.weight", 6, 3, 2}};
    float *adapter = malloc(12 * sizeof *adapter); // from the heap, where a value too many is seen
    FUZZ_CHECK(adapter != NULL);
    fuzz_tensor_file("adapter_model.safetensors", data, size);
    Status status = peft_read_tensors(fuzz_folder(), tensors, 2, adapter);
    fuzz_end(status);
    if (status == STATUS_OK) fuzz_touch(adapter, 12 * sizeof *adapter);
    free(adapter);
    return 0;
}
