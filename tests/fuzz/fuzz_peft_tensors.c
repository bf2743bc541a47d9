// Fuzzes adapter_model.safetensors of a PEFT folder (io/peft.c), as header and data with the right length in front, for
// an adapter of two small tensors.
#include "io/peft.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

#define LAYER "base_model.model.model.layers.0.self_attn.q_proj."

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    PeftTensor tensors[2] = {{LAYER "lora_A.weight", 2, 3, NULL}, {LAYER "lora_B.weight", 3, 2, NULL}};
    for (int i = 0; i < 2; i++) { // from the heap, where a value too many is seen
        tensors[i].data = malloc(6 * sizeof *tensors[i].data);
        FUZZ_CHECK(tensors[i].data != NULL);
    }
    fuzz_tensor_file("adapter_model.safetensors", data, size);
    Status status = peft_read_tensors(fuzz_folder(), tensors, 2);
    fuzz_end(status);
    for (int i = 0; i < 2; i++) {
        if (status == STATUS_OK) fuzz_touch(tensors[i].data, 6 * sizeof *tensors[i].data);
        free(tensors[i].data);
    }
    return 0;
}
