// Fuzzes checkpoints (io/checkpoint.c): their bytes or, as checkpoint_made, well-formed HDF5 with contents that the
// input chooses. What passes must keep the promises of io/checkpoint.h.
#include "io/checkpoint.h"
#include "tests/fuzz/hdf5_check.h"

#include <string.h>

static void check(const char *path) {
    Checkpoint c;
    Status status = checkpoint_read(path, &c);
    fuzz_end(status);
    hdf5_check_closed();
    if (status != STATUS_OK) return;
    size_t bytes = (size_t)c.count * sizeof(float);
    fuzz_touch(c.adapter, bytes);
    fuzz_touch(c.adam_m, bytes);
    fuzz_touch(c.adam_v, bytes);
    FUZZ_CHECK(strlen(c.run_id) < sizeof c.run_id && c.config != NULL);
    fuzz_touch(c.config, strlen(c.config));
    for (int32_t i = 0; i < c.tensor_count; i++)
        FUZZ_CHECK(c.tensors[i].offset + (int64_t)c.tensors[i].rows * c.tensors[i].cols <= c.count);
    // The file that a link or an external dataset of hdf5_make names.
    for (int64_t i = 0; i < c.count; i++) FUZZ_CHECK(memcmp(&c.adapter[i], "\xA5\xA5\xA5\xA5", sizeof(float)) != 0);
    checkpoint_free(&c);
}

#ifdef FUZZ_MADE
static hid_t tensor_type(void) {
    hid_t name = H5Tcopy(H5T_C_S1), type = H5Tcreate(H5T_COMPOUND, 144);
    H5Tset_size(name, 128);
    H5Tinsert(type, "name", 0, name);
    H5Tinsert(type, "offset", 128, H5T_STD_I64LE);
    H5Tinsert(type, "rows", 136, H5T_STD_I32LE);
    H5Tinsert(type, "cols", 140, H5T_STD_I32LE);
    H5Tclose(name);
    return type;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static hid_t tensors = H5I_INVALID_HID;
    static const char *path, *outside;
    if (path == NULL) {
        char secret[256];
        memset(secret, 0xA5, sizeof secret);
        outside = fuzz_file("outside", secret, sizeof secret);
        path = fuzz_file("step-000001.h5", "", 0);
        tensors = tensor_type();
    }
    const int32_t version = 1;
    static const AdapterTensor tensor = {.name = "a", .offset = 0, .rows = 3, .cols = 4};
    const Expected expected[] = {
        {.name = "format_version", .kind = NUMBER, .type = H5T_STD_I32LE, .good = &version},
        {.name = "run_id", .kind = TEXT, .text = "a-run"},
        {.name = "config", .kind = TEXT, .text = "model: { path = \"m\"; };"},
        {.name = "step", .kind = NUMBER, .type = H5T_STD_I64LE},
        {.name = "epoch", .kind = NUMBER, .type = H5T_IEEE_F64LE},
        {.name = "batch_in_epoch", .kind = NUMBER, .type = H5T_STD_I64LE},
        {.name = "num_tokens", .kind = NUMBER, .type = H5T_IEEE_F64LE},
        {.name = "seed", .kind = NUMBER, .type = H5T_STD_I64LE},
        {.name = "micro_batch_tokens", .kind = NUMBER, .type = H5T_STD_I64LE},
        {.name = "best_eval", .kind = NUMBER, .type = H5T_IEEE_F64LE},
        {.name = "skipped", .kind = NUMBER, .type = H5T_STD_I64LE},
        {.name = "dataset_hash", .kind = NUMBER, .type = H5T_STD_U64LE},
        {.name = "model_hash", .kind = NUMBER, .type = H5T_STD_U64LE},
        {.name = "adapter", .kind = VECTOR, .type = H5T_IEEE_F32LE, .length = 12},
        {.name = "adam_m", .kind = VECTOR, .type = H5T_IEEE_F32LE, .length = 12},
        {.name = "adam_v", .kind = VECTOR, .type = H5T_IEEE_F32LE, .length = 12},
        {.name = "tensors", .kind = VECTOR, .type = tensors, .length = 1, .good = &tensor},
    };
    hdf5_make(path, outside, expected, sizeof expected / sizeof *expected, data, size);
    check(path);
    return 0;
}
#else
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *path = fuzz_file("step-000001.h5", data, size);
    hdf5_seal_again(path);
    check(path);
    return 0;
}
#endif
