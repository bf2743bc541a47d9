// The safetensors format (https://github.com/huggingface/safetensors, "Format"): u64 header length, JSON header, data.
// Checks are those of the reference implementation, so that a file it refuses is refused here too. What tensors a model
// needs is src/model's business.
#include "io/safetensors.h"

#include "io/files.h"
#include "io/json_file.h"
#include "src/base/hash.h"
#include "src/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_BYTES_MAX  100000000u // the reference implementation's limit
#define INDEX_BYTES_MAX   (64u << 20)
#define HASH_SAMPLE_BYTES (16u << 10) // four of them a tensor
#define HASH_SAMPLES      4
#define CONVERT_BLOCK     1024

typedef struct Shard {
    char *path;
    unsigned char *bytes; // mapped
    size_t size;
    json_t *header;
    size_t data_first; // offset of the data in the file
} Shard;

struct TensorFiles {
    Shard *shards; // [shard_count]
    int shard_count;
    Tensor *tensors; // [count], sorted by name
    int count;
    json_t *index; // owns the names of shards; NULL for a single file
};

static const struct {
    const char *name;
    unsigned bytes;
    TensorType type;
} dtypes[] = {
    {"F32", 4, TENSOR_F32},    {"F16", 2, TENSOR_F16},       {"BF16", 2, TENSOR_BF16},     {"F64", 8, TENSOR_OTHER},
    {"I64", 8, TENSOR_OTHER},  {"I32", 4, TENSOR_OTHER},     {"I16", 2, TENSOR_OTHER},     {"I8", 1, TENSOR_OTHER},
    {"U64", 8, TENSOR_OTHER},  {"U32", 4, TENSOR_OTHER},     {"U16", 2, TENSOR_OTHER},     {"U8", 1, TENSOR_OTHER},
    {"C64", 8, TENSOR_OTHER},  {"F8_E4M3", 1, TENSOR_OTHER}, {"F8_E5M2", 1, TENSOR_OTHER}, {"F8_E8M0", 1, TENSOR_OTHER},
    {"BOOL", 1, TENSOR_OTHER},
};

static Status shard_map(Shard *shard) {
    int fd = open(shard->path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) {
        Status status = error_set(STATUS_DATA, "%s: %s", shard->path, strerror(errno));
        if (fd >= 0) close(fd);
        return status;
    }
    void *bytes = MAP_FAILED;
    if (S_ISREG(info.st_mode) && info.st_size >= 8) {
        shard->size = (size_t)info.st_size;
        // Shared: the ranks of a node then read the same physical pages.
        bytes = mmap(NULL, shard->size, PROT_READ, MAP_SHARED, fd, 0);
    }
    int error = errno;
    close(fd);
    if (!S_ISREG(info.st_mode)) return error_set(STATUS_DATA, "%s: is not a file", shard->path);
    if (info.st_size < 8)
        return error_set(
            STATUS_DATA,
            "%s: has %lld bytes, too few for a safetensors file; the download is incomplete, fetch it again",
            shard->path, (long long)info.st_size);
    if (bytes == MAP_FAILED) return error_set(STATUS_DATA, "%s: cannot be mapped: %s", shard->path, strerror(error));
    shard->bytes = bytes;
    return STATUS_OK;
}

static Status incomplete(const Shard *shard, uint64_t wanted) {
    return error_set(STATUS_DATA,
                     "%s: header says %" PRIu64
                     " bytes but the file has %zu; the download is incomplete, fetch it again",
                     shard->path, wanted, shard->size);
}

static Status shard_open(Shard *shard) {
    TRY(shard_map(shard));
    static const char lfs[] = "version https://git-lfs";
    if (shard->size >= sizeof lfs && memcmp(shard->bytes, lfs, sizeof lfs - 1) == 0)
        return error_set(STATUS_DATA,
                         "%s: is a Git LFS pointer, not the weights; run `git lfs pull` in the model's folder",
                         shard->path);
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--) length = length << 8 | shard->bytes[i];
    if (length > HEADER_BYTES_MAX)
        return error_set(STATUS_DATA,
                         "%s: header length %" PRIu64 " is over the limit of %u; this is no safetensors file",
                         shard->path, length, HEADER_BYTES_MAX);
    if (length > shard->size - 8) return incomplete(shard, 8 + length);
    json_error_t error;
    shard->header = json_foreign_load((const char *)shard->bytes + 8, length, JSON_REJECT_DUPLICATES, &error);
    if (shard->header == NULL) return error_set(STATUS_DATA, "%s: header is broken JSON: %s", shard->path, error.text);
    if (!json_is_object(shard->header)) return error_set(STATUS_DATA, "%s: header is not a JSON object", shard->path);
    shard->data_first = 8 + length;
    return STATUS_OK;
}

// One entry of the header; offsets are checked against each other by shard_check_layout.
static Status read_entry(const Shard *shard, const char *name, const json_t *entry, Tensor *out) {
    const char *dtype = json_text(json_object_get(entry, "dtype"));
    const json_t *shape = json_object_get(entry, "shape");
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (dtype == NULL || !json_is_array(shape) || json_array_size(offsets) != 2 || !json_is_integer(first) ||
        !json_is_integer(last))
        return error_set(STATUS_DATA, "%s: tensor %s needs dtype, shape and two data_offsets", shard->path, name);
    *out = (Tensor){.name = name, .type = TENSOR_OTHER, .file = shard->path, .dtype = dtype};
    uint64_t bytes = 0;
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (strcmp(dtype, dtypes[i].name) == 0) {
            bytes = dtypes[i].bytes;
            out->type = dtypes[i].type;
        }
    if (bytes == 0) return error_set(STATUS_DATA, "%s: tensor %s has the unknown dtype %s", shard->path, name, dtype);
    if (json_array_size(shape) > TENSOR_DIMS_MAX)
        return error_set(STATUS_DATA, "%s: tensor %s has %zu dimensions; at most %d are supported", shard->path, name,
                         json_array_size(shape), TENSOR_DIMS_MAX);
    out->dims = (int)json_array_size(shape);
    for (int i = 0; i < out->dims; i++) {
        const json_t *size = json_array_get(shape, (size_t)i);
        out->shape[i] = json_integer_value(size);
        if (!json_is_integer(size) || out->shape[i] < 0)
            return error_set(STATUS_DATA, "%s: tensor %s: a size in its shape is not a natural number", shard->path,
                             name);
        if (__builtin_mul_overflow(bytes, (uint64_t)out->shape[i], &bytes))
            return error_set(STATUS_DATA, "%s: tensor %s: its shape is larger than memory", shard->path, name);
    }
    json_int_t from = json_integer_value(first), to = json_integer_value(last);
    if (from < 0 || to < from)
        return error_set(STATUS_DATA, "%s: tensor %s: data_offsets [%lld, %lld] are not in order", shard->path, name,
                         (long long)from, (long long)to);
    if ((uint64_t)(to - from) != bytes)
        return error_set(STATUS_DATA, "%s: tensor %s: data_offsets hold %lld bytes but dtype and shape need %" PRIu64,
                         shard->path, name, (long long)(to - from), bytes);
    if ((uint64_t)to > shard->size - shard->data_first) return incomplete(shard, shard->data_first + (uint64_t)to);
    out->data = shard->bytes + shard->data_first + from;
    out->bytes = bytes;
    return STATUS_OK;
}

static int by_data(const void *a, const void *b) {
    const Tensor *x = a, *y = b;
    if (x->data != y->data) return (const char *)x->data < (const char *)y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; // an empty tensor comes before the one that starts there
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const Tensor *)a)->name, ((const Tensor *)b)->name);
}

// The data must be covered exactly once: no overlap, no hole, nothing after the end.
static Status shard_check_layout(const Shard *shard, Tensor *tensors, int count) {
    qsort(tensors, (size_t)count, sizeof *tensors, by_data);
    const unsigned char *data = shard->bytes + shard->data_first, *end = data;
    for (int i = 0; i < count; i++) {
        const unsigned char *begin = tensors[i].data;
        if (begin != end)
            return error_set(STATUS_DATA, "%s: tensor %s: data starts at %td where %td was expected (%s)", shard->path,
                             tensors[i].name, begin - data, end - data,
                             begin < end ? "it overlaps another tensor" : "a hole");
        end += tensors[i].bytes;
    }
    if ((size_t)(end - shard->bytes) != shard->size)
        return error_set(STATUS_DATA,
                         "%s: header says %td bytes but the file has %zu; the file is damaged, fetch it again",
                         shard->path, end - shard->bytes, shard->size);
    return STATUS_OK;
}

// Adds the shard's tensors; with weight_map only those that it assigns to this shard (`file`).
static Status shard_add_tensors(TensorFiles *files, const Shard *shard, const json_t *weight_map, const char *file) {
    Tensor *found = NULL;
    TRY(MEMORY_ALLOC(found, json_object_size(shard->header), "tensor table"));
    int count = 0;
    Status status = STATUS_OK;
    const char *name;
    json_t *entry;
    json_object_foreach(shard->header, name, entry) {
        if (strcmp(name, "__metadata__") == 0) continue;
        TRY_GOTO(read_entry(shard, name, entry, &found[count]), done);
        count++;
    }
    TRY_GOTO(shard_check_layout(shard, found, count), done);
    for (int i = 0; i < count; i++) {
        const char *assigned = weight_map == NULL ? NULL : json_text(json_object_get(weight_map, found[i].name));
        if (weight_map != NULL && (assigned == NULL || strcmp(assigned, file) != 0)) continue;
        files->tensors[files->count++] = found[i];
    }
done:
    free(found);
    return status;
}

static Status open_single(TensorFiles *files, const char *path) {
    TRY(MEMORY_ALLOC(files->shards, 1, "shard table"));
    files->shard_count = 1;
    files->shards[0].path = strdup(path);
    if (files->shards[0].path == NULL) return error_set(STATUS_FAILED, "%s: out of memory", path);
    TRY(shard_open(&files->shards[0]));
    TRY(MEMORY_ALLOC(files->tensors, json_object_size(files->shards[0].header), "tensor table"));
    return shard_add_tensors(files, &files->shards[0], NULL, NULL);
}

// A shard lies in the folder itself. (The file may be a link: the folders of the Hub's cache are made of links.)
static bool safe_file_name(const char *name) {
    return name[0] != '\0' && strchr(name, '/') == NULL && strcmp(name, "..") != 0 && strcmp(name, ".") != 0;
}

static Status open_sharded(TensorFiles *files, const char *dir, const char *index_path) {
    TRY(json_file_object(index_path, INDEX_BYTES_MAX, &files->index));
    const json_t *weight_map = json_object_get(files->index, "weight_map");
    if (json_object_size(weight_map) == 0)
        return error_set(STATUS_DATA, "%s: weight_map is missing or empty", index_path);
    size_t names = json_object_size(weight_map);
    TRY(MEMORY_ALLOC(files->tensors, names, "tensor table"));
    json_t *seen = json_object(); // file names, in the order of their first tensor
    const char *name, *file;
    json_t *value;
    Status status = seen == NULL ? error_set(STATUS_FAILED, "%s: out of memory", index_path) : STATUS_OK;
    if (status != STATUS_OK) goto done;
    json_object_foreach((json_t *)weight_map, name, value) {
        file = json_text(value);
        if (file == NULL || !safe_file_name(file)) {
            status =
                error_set(STATUS_DATA, "%s: weight_map puts %s into \"%s\"; a shard is a file in the model's folder",
                          index_path, name, file == NULL ? "" : file);
            goto done;
        }
        json_object_set(seen, file, value);
    }
    TRY_GOTO(MEMORY_ALLOC(files->shards, json_object_size(seen), "shard table"), done);
    json_object_foreach(seen, file, value) {
        Shard *shard = &files->shards[files->shard_count++];
        if (asprintf(&shard->path, "%s/%s", dir, file) < 0) {
            shard->path = NULL;
            status = error_set(STATUS_FAILED, "%s: out of memory", index_path);
            goto done;
        }
        TRY_GOTO(shard_open(shard), done);
        TRY_GOTO(shard_add_tensors(files, shard, weight_map, file), done);
    }
    if ((size_t)files->count == names) goto done;
    qsort(files->tensors, (size_t)files->count, sizeof *files->tensors, by_name);
    json_object_foreach((json_t *)weight_map, name, value) {
        Tensor key = {.name = name};
        if (bsearch(&key, files->tensors, (size_t)files->count, sizeof key, by_name) != NULL) continue;
        status = error_set(STATUS_DATA, "%s: tensor %s is not in %s; the download is incomplete, fetch it again",
                           index_path, name, json_text(value));
        break;
    }
done:
    json_decref(seen);
    return status;
}

static Status open_folder(TensorFiles *files, const char *dir) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    if (file_exists(path)) return open_single(files, path);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    if (file_exists(path)) return open_sharded(files, dir, path);
    return error_set(
        STATUS_DATA,
        "%s: holds neither model.safetensors nor model.safetensors.index.json; fetch the model's safetensors "
        "weights (pytorch_model.bin is not read)",
        dir);
}

Status tensor_files_open(TensorFiles **out, const char *path) {
    TensorFiles *files = NULL;
    *out = NULL;
    TRY(MEMORY_ALLOC(files, 1, "tensor files"));
    struct stat info;
    Status status = STATUS_OK;
    if (stat(path, &info) != 0)
        status = error_set(STATUS_DATA, "%s: %s", path, strerror(errno));
    else
        status = S_ISDIR(info.st_mode) ? open_folder(files, path) : open_single(files, path);
    if (status != STATUS_OK) {
        tensor_files_close(files);
        return status;
    }
    qsort(files->tensors, (size_t)files->count, sizeof *files->tensors, by_name);
    *out = files;
    return STATUS_OK;
}

void tensor_files_close(TensorFiles *files) {
    if (files == NULL) return;
    for (int i = 0; i < files->shard_count; i++) {
        Shard *shard = &files->shards[i];
        if (shard->bytes != NULL) munmap(shard->bytes, shard->size);
        json_decref(shard->header);
        free(shard->path);
    }
    json_decref(files->index);
    free(files->shards);
    free(files->tensors);
    free(files);
}

int tensor_files_count(const TensorFiles *files) {
    return files->count;
}

const Tensor *tensor_files_at(const TensorFiles *files, int index) {
    return &files->tensors[index];
}

static const char *shape_text(char text[96], int dims, const int64_t *shape) {
    int length = snprintf(text, 96, "[");
    for (int i = 0; i < dims; i++)
        length += snprintf(text + length, 96 - (size_t)length, "%s%" PRId64, i == 0 ? "" : ", ", shape[i]);
    snprintf(text + length, 96 - (size_t)length, "]");
    return text;
}

Status tensor_files_get(const TensorFiles *files, const char *name, int dims, const int64_t *shape,
                        const Tensor **out) {
    Tensor key = {.name = name};
    *out = bsearch(&key, files->tensors, (size_t)files->count, sizeof key, by_name);
    if (*out == NULL)
        return error_set(STATUS_DATA, "%s: tensor %s is missing; the file does not fit config.json",
                         files->shard_count > 0 ? files->shards[0].path : "", name);
    const Tensor *found = *out;
    if (found->dims != dims || memcmp(found->shape, shape, (size_t)dims * sizeof *shape) != 0) {
        char has[96], wants[96];
        return error_set(STATUS_DATA, "%s: tensor %s has shape %s, but config.json asks for %s", found->file, name,
                         shape_text(has, found->dims, found->shape), shape_text(wants, dims, shape));
    }
    if (found->type == TENSOR_OTHER)
        return error_set(STATUS_DATA, "%s: tensor %s is not of type F32, F16 or BF16, the supported ones", found->file,
                         name);
    return STATUS_OK;
}

void tensor_release(const Tensor *tensor) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)tensor->data / page * page;
    // Of a mapped file this only forgets pages; those of neighbours come back as they were.
    madvise((void *)first, (uintptr_t)tensor->data + tensor->bytes - first, MADV_DONTNEED);
}

uint64_t tensor_files_hash(const TensorFiles *files) {
    uint64_t hash = 0;
    for (int i = 0; i < files->count; i++) {
        const Tensor *tensor = &files->tensors[i];
        int64_t facts[3] = {tensor->type, tensor->dims, (int64_t)tensor->bytes};
        hash = hash_bytes(hash, tensor->name, strlen(tensor->name) + 1);
        hash = hash_bytes(hash, facts, sizeof facts);
        hash = hash_bytes(hash, tensor->shape, (size_t)tensor->dims * sizeof tensor->shape[0]);
        if (tensor->bytes <= HASH_SAMPLES * HASH_SAMPLE_BYTES) {
            hash = hash_bytes(hash, tensor->data, tensor->bytes);
            continue;
        }
        for (size_t s = 0; s < HASH_SAMPLES; s++) { // evenly spread, from the first byte to the last
            size_t first = (tensor->bytes - HASH_SAMPLE_BYTES) / (HASH_SAMPLES - 1) * s;
            if (s == HASH_SAMPLES - 1) first = tensor->bytes - HASH_SAMPLE_BYTES;
            hash = hash_bytes(hash, (const char *)tensor->data + first, HASH_SAMPLE_BYTES);
        }
    }
    return hash;
}

static float bits_to_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t float_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

// IEEE 754 binary16 by integer arithmetic, in selects rather than branches so that the loop is vectorised on any
// x86-64.
static float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, magnitude = half & 0x7fffu;
    uint32_t normal = (magnitude << 13) + ((127u - 15u) << 23);
    uint32_t special = normal + ((127u - 15u) << 23); // exponent 31 (infinity, NaN) becomes 255
    uint32_t subnormal = float_to_bits((float)(int32_t)magnitude * 0x1p-24f);
    uint32_t bits = magnitude >= 0x7c00u ? special : magnitude >= 0x400u ? normal : subnormal;
    return bits_to_float(sign | bits);
}

static uint16_t float_to_bf16(float value) {
    uint32_t bits = float_to_bits(value);
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16; // to nearest, ties to even
    uint32_t nan = bits >> 16 | 0x40u;                             // stays a NaN, made quiet
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

void tensor_to_f32(const void *from, TensorType type, size_t count, float *to) {
    if (type == TENSOR_F32) {
        memcpy(to, from, count * sizeof *to);
        return;
    }
    const char *bytes = from;
    for (size_t first = 0; first < count; first += CONVERT_BLOCK) {
        uint16_t block[CONVERT_BLOCK]; // aligned, whatever the file's alignment
        size_t n = count - first < CONVERT_BLOCK ? count - first : CONVERT_BLOCK;
        memcpy(block, bytes + first * sizeof block[0], n * sizeof block[0]);
        if (type == TENSOR_F16)
            for (size_t i = 0; i < n; i++) to[first + i] = half_to_float(block[i]);
        else
            for (size_t i = 0; i < n; i++) to[first + i] = bits_to_float((uint32_t)block[i] << 16);
    }
}

void tensor_to_bf16(const void *from, TensorType type, size_t count, uint16_t *to) {
    if (type == TENSOR_BF16) {
        memcpy(to, from, count * sizeof *to);
        return;
    }
    size_t size = type == TENSOR_F16 ? 2 : 4;
    for (size_t first = 0; first < count; first += CONVERT_BLOCK) {
        float block[CONVERT_BLOCK];
        size_t n = count - first < CONVERT_BLOCK ? count - first : CONVERT_BLOCK;
        tensor_to_f32((const char *)from + first * size, type, n, block);
        for (size_t i = 0; i < n; i++) to[first + i] = float_to_bf16(block[i]);
    }
}

// IEEE 754 binary16. Below 2^-14 its steps are 2^-24, which is fp32's step from 0.5 on: the addition rounds.
static uint16_t float_to_half(float value) {
    uint32_t bits = float_to_bits(value), magnitude = bits & 0x7fffffffu, half;
    if (magnitude > 0x7f800000u)
        half = 0x7e00u; // NaN
    else if (magnitude >= 0x477ff000u)
        half = 0x7c00u; // 65520, half a step above the largest, and more
    else if (magnitude >= 0x38800000u)
        half = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - ((127u - 15u) << 23)) >> 13; // to nearest, ties to even
    else
        half = float_to_bits(bits_to_float(magnitude) + 0.5f) - float_to_bits(0.5f);
    return (uint16_t)(bits >> 16 & 0x8000u) | (uint16_t)half;
}

void tensor_from_f32(const float *from, size_t count, TensorType type, void *to) {
    uint16_t *narrow = to;
    if (type == TENSOR_F32)
        memcpy(to, from, count * sizeof *from);
    else if (type == TENSOR_BF16)
        for (size_t i = 0; i < count; i++) narrow[i] = float_to_bf16(from[i]);
    else
        for (size_t i = 0; i < count; i++) narrow[i] = float_to_half(from[i]);
}

// --- writing --------------------------------------------------------------------------------------------------------

static const char *dtype_of(const Tensor *tensor) {
    static const char *const words[] = {[TENSOR_F32] = "F32", [TENSOR_F16] = "F16", [TENSOR_BF16] = "BF16"};
    return tensor->dtype != NULL ? tensor->dtype : words[tensor->type];
}

static size_t element_bytes(const Tensor *tensor) {
    const char *dtype = dtype_of(tensor);
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (strcmp(dtype, dtypes[i].name) == 0) return dtypes[i].bytes;
    return 0;
}

static int64_t element_count(const Tensor *tensor) {
    int64_t elements = 1;
    for (int d = 0; d < tensor->dims; d++) elements *= tensor->shape[d];
    return elements;
}

size_t tensor_bytes(const Tensor *tensor) {
    return (size_t)element_count(tensor) * element_bytes(tensor);
}

// What goes into one file: tensors[order[0 .. count)].
typedef struct Contents {
    const Tensor *tensors;
    const int *order;
    int count;
    TensorSource source;
    void *context;
} Contents;

// The header's text, padded with spaces to a multiple of 8 as the reference writer does. Caller frees; NULL: no memory.
static char *header_text(const Contents *contents, size_t *length) {
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    int64_t end = 0;
    bool failed = root == NULL;
    for (int i = 0; i < contents->count && !failed; i++) {
        const Tensor *tensor = &contents->tensors[contents->order[i]];
        int64_t begin = end;
        json_t *shape = json_array();
        for (int d = 0; d < tensor->dims; d++)
            failed = json_array_append_new(shape, json_integer(tensor->shape[d])) != 0 || failed;
        end += (int64_t)tensor_bytes(tensor);
        failed = json_object_set_new(root, tensor->name,
                                     json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_of(tensor), "shape", shape,
                                               "data_offsets", (json_int_t)begin, (json_int_t)end)) != 0 ||
                 failed;
    }
    char *text = failed ? NULL : json_dumps(root, JSON_COMPACT);
    json_decref(root);
    if (text == NULL) return NULL;
    size_t used = strlen(text);
    *length = (used + 7) / 8 * 8;
    char *padded = realloc(text, *length + 1);
    if (padded == NULL) {
        free(text);
        return NULL;
    }
    memset(padded + used, ' ', *length - used);
    padded[*length] = '\0';
    return padded;
}

static Status put(FILE *file, const char *path, const void *bytes, size_t size) {
    if (fwrite(bytes, 1, size, file) == size) return STATUS_OK;
    return error_set(STATUS_FAILED, "%s: cannot be written: %s", path, strerror(errno));
}

static Status put_all(FILE *file, const char *path, const Contents *contents, const char *header, size_t length) {
    unsigned char prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (unsigned char)((uint64_t)length >> 8 * i);
    TRY(put(file, path, prefix, sizeof prefix));
    TRY(put(file, path, header, length));
    for (int i = 0; i < contents->count; i++) {
        const void *data = NULL;
        TRY(contents->source(contents->context, contents->order[i], &data));
        TRY(put(file, path, data, tensor_bytes(&contents->tensors[contents->order[i]])));
    }
    return STATUS_OK;
}

// Through a temporary name, fsync and rename.
static Status write_file(const char *path, const Contents *contents) {
    size_t length = 0;
    char *header = header_text(contents, &length);
    if (header == NULL) return error_set(STATUS_FAILED, "%s: out of memory while writing the header", path);
    char temporary[PATH_MAX];
    snprintf(temporary, sizeof temporary, "%s.%ld.tmp", path, (long)getpid());
    FILE *file = fopen(temporary, "wb");
    if (file == NULL) {
        free(header);
        return error_set(STATUS_FAILED, "%s: cannot be written: %s", temporary, strerror(errno));
    }
    Status status = put_all(file, temporary, contents, header, length);
    if (fclose(file) != 0 && status == STATUS_OK)
        status = error_set(STATUS_FAILED, "%s: cannot be written: %s", temporary, strerror(errno));
    free(header);
    if (status == STATUS_OK) return file_publish(temporary, path);
    unlink(temporary);
    return status;
}

static Status data_at_hand(void *context, int index, const void **data) {
    *data = ((const Tensor *)context)[index].data;
    return STATUS_OK;
}

Status tensor_file_write(const char *path, const Tensor *tensors, int count) {
    int *order = NULL;
    TRY(MEMORY_ALLOC(order, count, "tensor table"));
    for (int i = 0; i < count; i++) order[i] = i;
    const Contents contents = {tensors, order, count, data_at_hand, (void *)tensors};
    Status status = write_file(path, &contents);
    free(order);
    return status;
}

static void shard_name(char name[64], int shard, int shards) {
    if (shards == 1)
        strcpy(name, "model.safetensors");
    else
        snprintf(name, 64, "model-%05d-of-%05d.safetensors", shard + 1, shards);
}

// first[shard .. shards] gets where each file begins in the list of tensors.
static int cut_shards(const Tensor *tensors, int count, size_t shard_bytes, int *first) {
    int shards = 0;
    size_t used = 0;
    for (int i = 0; i < count; i++) {
        const size_t bytes = tensor_bytes(&tensors[i]);
        if (i == 0 || (used > 0 && bytes > 0 && used + bytes > shard_bytes)) {
            first[shards++] = i;
            used = 0;
        }
        used += bytes;
    }
    if (shards == 0) first[shards++] = 0; // a file of nothing
    first[shards] = count;
    return shards;
}

// Widest first; otherwise as they stand.
static void order_shard(const Tensor *tensors, int first, int end, int *order) {
    int n = 0;
    for (size_t width = 8; width > 0; width /= 2)
        for (int i = first; i < end; i++)
            if (element_bytes(&tensors[i]) == width) order[n++] = i;
}

static Status write_index(const char *dir, const Tensor *tensors, const int *first, int shards) {
    json_int_t elements = 0, bytes = 0;
    json_t *map = json_object();
    bool failed = map == NULL;
    for (int s = 0; s < shards; s++) {
        char name[64];
        shard_name(name, s, shards);
        for (int i = first[s]; i < first[s + 1]; i++) {
            elements += element_count(&tensors[i]);
            bytes += (json_int_t)tensor_bytes(&tensors[i]);
            failed = json_object_set_new(map, tensors[i].name, json_string(name)) != 0 || failed;
        }
    }
    json_t *root = json_pack("{s:{s:I, s:I}, s:o}", "metadata", "total_parameters", elements, "total_size", bytes,
                             "weight_map", map);
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    if (failed) {
        json_decref(root);
        root = NULL;
    }
    return json_file_write(path, root, JSON_INDENT(2) | JSON_SORT_KEYS);
}

Status tensor_folder_write(const char *dir, const Tensor *tensors, int count, size_t shard_bytes, TensorSource source,
                           void *context, int *files) {
    int *first = NULL, *order = NULL;
    Status status;
    TRY_GOTO(MEMORY_ALLOC(first, count + 2, "shard table"), done);
    TRY_GOTO(MEMORY_ALLOC(order, count, "tensor table"), done);
    const int shards = cut_shards(tensors, count, shard_bytes, first);
    for (int s = 0; s < shards; s++) {
        char name[64], path[PATH_MAX];
        shard_name(name, s, shards);
        snprintf(path, sizeof path, "%s/%s", dir, name);
        order_shard(tensors, first[s], first[s + 1], order);
        const Contents contents = {tensors, order, first[s + 1] - first[s], source, context};
        TRY_GOTO(write_file(path, &contents), done);
    }
    if (shards > 1) TRY_GOTO(write_index(dir, tensors, first, shards), done);
    *files = shards;
done:
    free(first);
    free(order);
    return status;
}
