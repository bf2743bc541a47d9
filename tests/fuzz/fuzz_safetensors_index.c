// Fuzzes model.safetensors.index.json (io/safetensors.c) in a folder with two shards, beside a file outside of it that
// no index may reach.
#include "io/safetensors.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static void write_shard(const char *name, const char *tensor) {
    const float values[2] = {1, 2};
    Tensor content = {.name = tensor, .type = TENSOR_F32, .dims = 1, .shape = {2}, .data = values};
    fuzz_end(tensor_file_write(fuzz_file(name, "", 0), &content, 1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char folder[4096];
    if (folder[0] == '\0') {
        write_shard("model/1.safetensors", "a");
        write_shard("model/2.safetensors", "b");
        write_shard("outside.safetensors", "a");
        strcat(strcpy(folder, fuzz_folder()), "/model");
    }
    fuzz_file("model/model.safetensors.index.json", data, size);
    TensorFiles *files;
    Status status = tensor_files_open(&files, folder);
    fuzz_end(status);
    if (status != STATUS_OK) return 0;
    FUZZ_CHECK(tensor_files_count(files) >= 1 && tensor_files_count(files) <= 2);
    for (int i = 0; i < tensor_files_count(files); i++) {
        const Tensor *tensor = tensor_files_at(files, i);
        size_t length = strlen(folder);
        FUZZ_CHECK(strncmp(tensor->file, folder, length) == 0 && tensor->file[length] == '/');
        FUZZ_CHECK(strchr(tensor->file + length + 1, '/') == NULL);
        fuzz_touch(tensor->data, tensor->bytes);
    }
    tensor_files_close(files);
    return 0;
}
