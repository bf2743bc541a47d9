// Fuzzes one safetensors file (io/safetensors.c): the input as it is, and as header and data with the right length in
// front. Tensors that pass are read to their last byte.
#include "io/safetensors.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

static void read_tensors(const char *path) {
    TensorFiles *files;
    Status status = tensor_files_open(&files, path);
    fuzz_end(status);
    if (status != STATUS_OK) return;
    tensor_files_hash(files);
    for (int i = 0; i < tensor_files_count(files); i++) {
        const Tensor *tensor = tensor_files_at(files, i), *found;
        fuzz_touch(tensor->data, tensor->bytes);
        fuzz_end(tensor_files_get(files, tensor->name, tensor->dims, tensor->shape, &found));
        fuzz_end(tensor_files_get(files, tensor->name, 2, (int64_t[]){3, 5}, &found));
        if (tensor->type == TENSOR_OTHER) continue;
        size_t count = tensor->bytes / (tensor->type == TENSOR_F32 ? 4 : 2);
        float *wide = malloc(count * sizeof *wide + 1);
        uint16_t *narrow = malloc(count * sizeof *narrow + 1);
        tensor_to_f32(tensor->data, tensor->type, count, wide);
        tensor_to_bf16(tensor->data, tensor->type, count, narrow);
        free(wide);
        free(narrow);
    }
    tensor_files_close(files);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    read_tensors(fuzz_file("raw.safetensors", data, size));
    read_tensors(fuzz_tensor_file("wrapped.safetensors", data, size));
    return 0;
}
