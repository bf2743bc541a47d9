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
    const char *file;  // path of the file it is in, for messages
    const char *dtype; // the format's word of its type, "BF16"; NULL: that of `type`
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
// Lets go of the memory that a mapped tensor has come to take; it is read again where it is used again.
void tensor_release(const Tensor *tensor);
// Identity of the weights: headers, sizes, and 64 KiB samples of each tensor.
uint64_t tensor_files_hash(const TensorFiles *files);

// count elements of `type` (a float type) at `from` (any alignment) as fp32 or bf16 (round to nearest even).
void tensor_to_f32(const void *from, TensorType type, size_t count, float *to);
void tensor_to_bf16(const void *from, TensorType type, size_t count, uint16_t *to);

// The other way, from fp32 (round to nearest even; what is too large becomes infinite).
void tensor_from_f32(const float *from, size_t count, TensorType type, void *to);

// Writes a file with these fp32 tensors (name, dims, shape, data used) through a temporary name, fsync and rename, with
// metadata {"format": "pt"}. STATUS_FAILED naming the file.
Status tensor_file_write(const char *path, const Tensor *tensors, int count);

// Gives the bytes of tensor `index`, which stay until the next call.
typedef Status (*TensorSource)(void *context, int index, const void **data);
// Writes a model folder's weights one tensor at a time (name, dtype or type, dims and shape used): model.safetensors,
// or, where they have more than shard_bytes, files of at most so many (or of one tensor) under the names that
// transformers' save_pretrained gives them, and their index. Tensors stay in this order, but within a file those of
// wider dtypes stand first, so that all are aligned. *files gets the number of files of weights. STATUS_FAILED naming
// the file, or what `source` returns.
Status tensor_folder_write(const char *dir, const Tensor *tensors, int count, size_t shard_bytes, TensorSource source,
                           void *context, int *files);
// Bytes of a tensor's data, and of one element, by its dtype or type, and shape.
size_t tensor_bytes(const Tensor *tensor);
size_t tensor_element_bytes(const Tensor *tensor);
