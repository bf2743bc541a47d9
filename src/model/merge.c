// Merging an adapter into its base model: which layers get what, and the arithmetic, a row at a time. Files and their
// names are io/safetensors's.
#include "src/model/merge.h"

#include "comm/stop.h"
#include "src/base/memory.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

// A tensor of the base, and what is added to it.
typedef struct Part {
    const Tensor *from;
    bool is_head;
    const float *a, *b; // fp32 [r, in], [out, r]; NULL: nothing
} Part;

typedef struct Merge {
    const MergeOptions *options;
    Part *parts;     // [count], in the order of the files
    Tensor *tensors; // [count], as they are written
    int count;
    const Tensor *before; // the one that was asked for last
    void *merged;         // the largest merged or converted tensor, in its stored dtype
    double *sums;         // [threads, longest row]
    float *row;           // [threads, longest row]
    size_t row_length;    // of the longest row
} Merge;

const char *merge_dtype_name(TensorType dtype) {
    static const char *const names[] = {[TENSOR_F32] = "float32", [TENSOR_F16] = "float16", [TENSOR_BF16] = "bfloat16"};
    return names[dtype];
}

// --- the list of tensors --------------------------------------------------------------------------------------------

// As the model is read: embedding, layers by number, norm, head.
static int by_place(const void *x, const void *y) {
    const Part *a = x, *b = y;
    return a->is_head != b->is_head ? a->is_head - b->is_head : strverscmp(a->from->name, b->from->name);
}

static Status list_parts(Merge *merge, const TensorFiles *base) {
    const ModelConfig *config = merge->options->config;
    const int all = tensor_files_count(base);
    char head[ARCH_NAME_MAX];
    arch_name(config, ARCH_HEAD, -1, "weight", head, sizeof head);
    TRY(MEMORY_ALLOC(merge->parts, all, "tensor table"));
    TRY(MEMORY_ALLOC(merge->tensors, all, "tensor table"));
    for (int i = 0; i < all; i++) {
        const Tensor *tensor = tensor_files_at(base, i);
        const bool is_head = strcmp(tensor->name, head) == 0;
        // Some files hold a tied head once more; what reads the model takes the embedding.
        if (config->tied_head && is_head) continue;
        merge->parts[merge->count++] = (Part){.from = tensor, .is_head = is_head};
    }
    qsort(merge->parts, (size_t)merge->count, sizeof *merge->parts, by_place);
    return STATUS_OK;
}

static Status place_adapter(Merge *merge, const TensorFiles *base) {
    const MergeOptions *options = merge->options;
    for (int32_t i = 0; i < options->table->module_count; i++) {
        const AdapterModule *module = &options->table->modules[i];
        const AdapterTensor *a = &options->table->tensors[module->a], *b = &options->table->tensors[module->b];
        const Tensor *found = NULL;
        char name[ARCH_NAME_MAX];
        arch_name(options->config, module->role, module->layer, "weight", name, sizeof name);
        TRY(tensor_files_get(base, name, 2, (int64_t[]){b->rows, a->cols}, &found));
        for (int j = 0; j < merge->count; j++) {
            if (merge->parts[j].from != found) continue;
            merge->parts[j].a = options->adapter + a->offset;
            merge->parts[j].b = options->adapter + b->offset;
        }
    }
    return STATUS_OK;
}

static bool is_copied(const Merge *merge, int index) {
    const Part *part = &merge->parts[index];
    return part->a == NULL && part->from->type == merge->tensors[index].type;
}

// What is written, and how much memory it takes.
static Status describe_tensors(Merge *merge) {
    size_t largest = 0;
    for (int i = 0; i < merge->count; i++) {
        const Tensor *from = merge->parts[i].from;
        Tensor *to = &merge->tensors[i];
        *to = *from;
        if (merge->options->dtype != MERGE_KEEP_DTYPE && from->type != TENSOR_OTHER) {
            to->type = (TensorType)merge->options->dtype;
            to->dtype = NULL;
        }
        if (is_copied(merge, i)) continue;
        const size_t bytes = tensor_bytes(to), row = from->dims > 0 ? (size_t)from->shape[from->dims - 1] : 1;
        if (bytes > largest) largest = bytes;
        if (row > merge->row_length) merge->row_length = row;
    }
    const size_t threads = (size_t)omp_get_max_threads();
    TRY(memory_alloc(&merge->merged, largest, 1, "a merged tensor"));
    TRY(MEMORY_ALLOC(merge->sums, threads * merge->row_length, "a merged tensor"));
    return MEMORY_ALLOC(merge->row, threads * merge->row_length, "a merged tensor");
}

// --- the arithmetic -------------------------------------------------------------------------------------------------

// What is smaller than this in absolute value rounds to something finite: the largest number and half a step.
static float finite_below(TensorType type) {
    return type == TENSOR_F16 ? 65520.0f : type == TENSOR_BF16 ? 0x1.ffp127f : INFINITY;
}

// row[n] += scale * b[r] a[r, n], where `a` has rows of n. Whether all of it is finite in `type`.
static bool merge_row(float *row, double *sums, size_t n, const float *b, const float *a, int32_t r, double scale,
                      TensorType type) {
    if (a != NULL) {
        memset(sums, 0, n * sizeof *sums);
        for (int32_t j = 0; j < r; j++)
            for (size_t i = 0; i < n; i++) sums[i] += (double)b[j] * (double)a[(size_t)j * n + i];
        for (size_t i = 0; i < n; i++) row[i] = (float)((double)row[i] + scale * sums[i]);
    }
    const float limit = finite_below(type);
    bool finite = true;
    for (size_t i = 0; i < n; i++) finite &= fabsf(row[i]) < limit; // false for a NaN
    return finite;
}

static Status merge_tensor(void *context, int index, const void **data) {
    Merge *merge = context;
    const Part *part = &merge->parts[index];
    const Tensor *from = part->from, *to = &merge->tensors[index];
    if (merge->before != NULL) tensor_release(merge->before);
    merge->before = from;
    if (stop_requested()) return error_set(STATUS_FAILED, "asked to stop before all weights were written");
    if (is_copied(merge, index)) {
        *data = from->data;
        return STATUS_OK;
    }
    const MergeOptions *options = merge->options;
    const double scale = options->alpha / options->r;
    const size_t n = from->dims > 0 ? (size_t)from->shape[from->dims - 1] : 1;
    const size_t from_row = n * tensor_element_bytes(from), to_row = n * tensor_element_bytes(to);
    const int64_t rows = from_row > 0 ? (int64_t)(from->bytes / from_row) : 0;
    bool finite = true;
#pragma omp parallel for reduction(&& : finite) schedule(static)
    for (int64_t o = 0; o < rows; o++) {
        const size_t thread = (size_t)omp_get_thread_num();
        float *row = merge->row + thread * merge->row_length;
        tensor_to_f32((const char *)from->data + (size_t)o * from_row, from->type, n, row);
        const float *b = part->b == NULL ? NULL : part->b + o * options->r;
        finite = merge_row(row, merge->sums + thread * merge->row_length, n, b, part->a, options->r, scale, to->type) &&
                 finite;
        tensor_from_f32(row, n, to->type, (char *)merge->merged + (size_t)o * to_row);
    }
    if (!finite)
        return error_set(STATUS_DATA, "%s: tensor %s%s is not finite in %s%s", from->file, from->name,
                         part->a == NULL ? "" : " with the adapter merged in", merge_dtype_name(to->type),
                         to->type == TENSOR_F16 ? "; try --dtype bfloat16" : "");
    *data = merge->merged;
    return STATUS_OK;
}

static void measure(const Merge *merge, MergeResult *out) {
    int64_t by_type[TENSOR_OTHER + 1] = {0};
    for (int i = 0; i < merge->count; i++) {
        const Tensor *tensor = &merge->tensors[i];
        int64_t elements = 1;
        for (int d = 0; d < tensor->dims; d++) elements *= tensor->shape[d];
        out->elements += elements;
        out->bytes += (int64_t)tensor_bytes(tensor);
        by_type[tensor->type] += (int64_t)tensor_bytes(tensor);
    }
    for (int type = 0; type < TENSOR_OTHER; type++)
        if (by_type[type] > by_type[out->dtype]) out->dtype = (TensorType)type;
}

Status merge_write(const TensorFiles *base, const MergeOptions *options, const char *dir, MergeResult *out) {
    Merge merge = {.options = options};
    *out = (MergeResult){0};
    Status status = list_parts(&merge, base);
    if (status == STATUS_OK) status = place_adapter(&merge, base);
    if (status == STATUS_OK) status = describe_tensors(&merge);
    if (status == STATUS_OK)
        status = tensor_folder_write(dir, merge.tensors, merge.count, options->shard_bytes, merge_tensor, &merge,
                                     &out->files);
    if (status == STATUS_OK) measure(&merge, out);
    free(merge.parts);
    free(merge.tensors);
    free(merge.merged);
    free(merge.sums);
    free(merge.row);
    return status;
}
