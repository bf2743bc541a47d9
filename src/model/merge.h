// The weights of a base model with an adapter merged in: W + alpha/r B A for each adapted layer, everything else as it
// is, written as the weights of a model folder while one tensor is in memory.
#pragma once
#include "io/safetensors.h"
#include "src/model/model.h"

#define MERGE_KEEP_DTYPE (-1)

typedef struct MergeOptions {
    const ModelConfig *config;
    const AdapterTable *table;
    const float *adapter; // host, fp32 [table->count], as the table cuts it
    int32_t r;
    double alpha;
    int dtype; // TensorType of every float tensor; MERGE_KEEP_DTYPE: each keeps the base's
    size_t shard_bytes;
} MergeOptions;

typedef struct MergeResult {
    TensorType dtype; // the one that most bytes have
    int64_t elements, bytes;
    int files;
} MergeResult;

// Into `dir`, which is there. Sums in fp64, the result taken to fp32 and rounded once to the stored dtype. STATUS_DATA
// for a base without the adapted layers, or a merged weight that is not finite in the stored dtype; STATUS_FAILED for
// what cannot be written.
Status merge_write(const TensorFiles *base, const MergeOptions *options, const char *dir, MergeResult *out);
const char *merge_dtype_name(TensorType dtype); // config.json's word: "bfloat16"
