// Tensors of model.safetensors, or of the shards that model.safetensors.index.json names: mapped, never read.
#pragma once
#include "src/base/status.h"
#include <stddef.h>
#include <stdint.h>

#define TENSOR_DIMS_MAX 4
typedef enum TensorType { TENSOR_F32, TENSOR_F16, TENSOR_BF16, TENSOR_OTHER } TensorType;

typedef struct Tensor {
    const char *name;
    TensorType type;
    int dims;
    int64_t shape[TENSOR_DIMS_MAX];
    const void *data; // mapped read-only, for as long as the TensorFiles is open
    size_t bytes;
    const char *file; // path of the file it is in, for messages
} Tensor;

typedef struct TensorFiles TensorFiles;

// Opens one .safetensors file, or a model folder. Headers are checked in full: lengths, offsets, overlaps, dtype
// against shape, no shard outside the folder (no "..", no absolute path). STATUS_DATA with file and what is wrong.
Status tensor_files_open(TensorFiles **out, const char *path);
void tensor_files_close(TensorFiles *files);
int tensor_files_count(const TensorFiles *files);
const Tensor *tensor_files_at(const TensorFiles *files, int index);
// Requires a tensor of this shape and of float type. STATUS_DATA naming tensor, file, the shape found and wanted.
Status tensor_files_get(const TensorFiles *files, const char *name, int dims, const int64_t *shape, const Tensor **out);
// Identity of the weights: headers, sizes, and 64 KiB samples of each tensor.
uint64_t tensor_files_hash(const TensorFiles *files);

// count elements of `type` (a float type) at `from` (any alignment) as fp32 or bf16 (round to nearest even).
void tensor_to_f32(const void *from, TensorType type, size_t count, float *to);
void tensor_to_bf16(const void *from, TensorType type, size_t count, uint16_t *to);

// Writes a file with these fp32 tensors (name, dims, shape, data used) through a temporary name, fsync and rename, with
// metadata {"format": "pt"}. STATUS_FAILED naming the file.
Status tensor_file_write(const char *path, const Tensor *tensors, int count);
