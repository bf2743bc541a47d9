// The weights' files: random files written by the definition of the format are read back, each broken one is refused
// with its own message, and conversions agree with the definition of the number formats.
#include "io/safetensors.h"
#include "src/base/rng.h"
#include "tests/io/temporary_folder.h"

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Writes length, header and data_bytes of data; the length is the header's unless `lie` is given.
static void put_file(const char *path, const char *header, uint64_t lie, const void *data, size_t data_bytes) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    uint64_t length = lie != 0 ? lie : strlen(header);
    for (int i = 0; i < 8; i++) fputc((int)(length >> 8 * i & 255), file);
    fputs(header, file);
    for (size_t i = 0; i < data_bytes; i++)
        fputc(data == NULL ? (int)(i & 255) : ((const unsigned char *)data)[i], file);
    assert_int_equal(fclose(file), 0);
}

static void put_text(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static TensorFiles *opened(const char *path) {
    TensorFiles *files = NULL;
    error_clear();
    if (tensor_files_open(&files, path) != STATUS_OK) fail_msg("%s", error_text());
    return files;
}

static void expect_refused(const char *path, const char *message) {
    TensorFiles *files = NULL;
    error_clear();
    assert_int_equal(tensor_files_open(&files, path), STATUS_DATA);
    assert_null(files);
    assert_string_equal(error_text(), message);
}

#define ENTRY(name, dtype, shape, begin, end)                                                                          \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static void broken_files(void **state) {
    (void)state;
    static const struct {
        const char *header;
        uint64_t lie;
        size_t bytes;
        const char *message;
    } cases[] = {
        {"{" ENTRY("a", "F32", "[2]", "0", "8") "}", 0, 4,
         "f: header says 70 bytes but the file has 66; the download is incomplete, fetch it again"},
        {"{}", 9000, 0, "f: header says 9008 bytes but the file has 10; the download is incomplete, fetch it again"},
        {"{}", UINT64_MAX, 0,
         "f: header length 18446744073709551615 is over the limit of 100000000; this is no safetensors file"},
        {"{}", UINT64_MAX - 7, 0,
         "f: header length 18446744073709551608 is over the limit of 100000000; this is no safetensors file"},
        {"{\"a\":", 0, 0, "f: header is broken JSON: unexpected token near end of file"},
        {"[]", 0, 0, "f: header is not a JSON object"},
        {"{" ENTRY("a", "F32", "[1]", "0", "4") "," ENTRY("a", "F32", "[1]", "4", "8") "}", 0, 8,
         "f: header is broken JSON: duplicate object key near '\"a\"'"},
        {"{" ENTRY("a", "F32", "[1]", "0", "18446744073709551620") "}", 0, 4,
         "f: tensor a needs dtype, shape and two data_offsets"},
        {"{" ENTRY("a", "F32", "[NaN]", "0", "4") "}", 0, 4,
         "f: tensor a: a size in its shape is not a natural number"},
        {"{" ENTRY("a", "F32\\u0000", "[1]", "0", "4") "}", 0, 4,
         "f: tensor a needs dtype, shape and two data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 0, 4, "f: tensor a needs dtype, shape and two data_offsets"},
        {"{\"a\":7}", 0, 4, "f: tensor a needs dtype, shape and two data_offsets"},
        {"{" ENTRY("a", "F7", "[1]", "0", "4") "}", 0, 4, "f: tensor a has the unknown dtype F7"},
        {"{" ENTRY("a", "F32", "[1,1,1,1,1]", "0", "4") "}", 0, 4,
         "f: tensor a has 5 dimensions; at most 4 are supported"},
        {"{" ENTRY("a", "F32", "[-1]", "0", "4") "}", 0, 4, "f: tensor a: a size in its shape is not a natural number"},
        {"{" ENTRY("a", "F32", "[1.0]", "0", "4") "}", 0, 4,
         "f: tensor a: a size in its shape is not a natural number"},
        {"{" ENTRY("a", "F32", "[4611686018427387904,4]", "0", "0") "}", 0, 0,
         "f: tensor a: its shape is larger than memory"},
        {"{" ENTRY("a", "F32", "[1]", "8", "4") "}", 0, 8, "f: tensor a: data_offsets [8, 4] are not in order"},
        {"{" ENTRY("a", "F32", "[1]", "-4", "0") "}", 0, 8, "f: tensor a: data_offsets [-4, 0] are not in order"},
        {"{" ENTRY("a", "F32", "[3]", "0", "8") "}", 0, 8,
         "f: tensor a: data_offsets hold 8 bytes but dtype and shape need 12"},
        {"{" ENTRY("a", "F32", "[2]", "0", "8") "," ENTRY("b", "F32", "[2]", "4", "12") "}", 0, 12,
         "f: tensor b: data starts at 4 where 8 was expected (it overlaps another tensor)"},
        {"{" ENTRY("a", "F32", "[1]", "0", "4") "," ENTRY("b", "F32", "[1]", "8", "12") "}", 0, 12,
         "f: tensor b: data starts at 8 where 4 was expected (a hole)"},
        {"{" ENTRY("a", "F32", "[1]", "4", "8") "}", 0, 8,
         "f: tensor a: data starts at 4 where 0 was expected (a hole)"},
        {"{" ENTRY("a", "F32", "[1]", "0", "4") "}", 0, 5,
         "f: header says 66 bytes but the file has 67; the file is damaged, fetch it again"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_file("f", cases[i].header, cases[i].lie, NULL, cases[i].bytes);
        expect_refused("f", cases[i].message);
    }
    put_text("f", "1234");
    expect_refused("f", "f: has 4 bytes, too few for a safetensors file; the download is incomplete, fetch it again");
    put_text("f", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
    expect_refused("f", "f: is a Git LFS pointer, not the weights; run `git lfs pull` in the model's folder");
    expect_refused("none", "none: No such file or directory");
    assert_int_equal(mkdir("bare", 0777), 0);
    expect_refused("bare", "bare: holds neither model.safetensors nor model.safetensors.index.json; fetch the model's "
                           "safetensors weights (pytorch_model.bin is not read)");
}

// Every prefix of a good file is refused, and no changed byte of it makes the reader step outside the mapping.
static void cut_and_changed_files(void **state) {
    (void)state;
    const char *header = "{\"__metadata__\":{\"format\":\"pt\"}," ENTRY("a", "BF16", "[2,3]", "0", "12") "," ENTRY(
        "b", "F32", "[2]", "12", "20") "}";
    put_file("good", header, 0, NULL, 20);
    unsigned char bytes[512];
    FILE *file = fopen("good", "rb");
    assert_non_null(file);
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    TensorFiles *files = NULL;
    for (size_t cut = 0; cut < size; cut++) {
        file = fopen("cut", "wb");
        assert_int_equal(fwrite(bytes, 1, cut, file), cut);
        fclose(file);
        error_clear();
        assert_int_equal(tensor_files_open(&files, "cut"), STATUS_DATA);
    }
    Rng rng = rng_make(7, RNG_SAMPLE, 0);
    for (int i = 0; i < 2000; i++) {
        unsigned char changed[512];
        memcpy(changed, bytes, size);
        for (int n = 0; n < 3; n++) changed[rng_below(&rng, (uint32_t)size)] = (unsigned char)rng_u32(&rng);
        file = fopen("cut", "wb");
        assert_int_equal(fwrite(changed, 1, size, file), size);
        fclose(file);
        error_clear();
        if (tensor_files_open(&files, "cut") != STATUS_OK) continue;
        for (int t = 0; t < tensor_files_count(files); t++) {
            const Tensor *tensor = tensor_files_at(files, t);
            volatile unsigned char sum = 0;
            for (size_t b = 0; b < tensor->bytes; b++)
                sum = (unsigned char)(sum + ((const unsigned char *)tensor->data)[b]);
        }
        tensor_files_close(files);
    }
}

// Random files by the format's definition, entries in random order, odd header lengths.
static void random_files(void **state) {
    (void)state;
    static const char *const names[] = {"F32", "F16", "BF16", "I64", "U8"};
    static const size_t sizes[] = {4, 2, 2, 8, 1};
    static const TensorType types[] = {TENSOR_F32, TENSOR_F16, TENSOR_BF16, TENSOR_OTHER, TENSOR_OTHER};
    Rng rng = rng_make(11, RNG_SAMPLE, 0);
    for (int round = 0; round < 100; round++) {
        int count = (int)rng_below(&rng, 9), kind[8], dims[8];
        int64_t shape[8][4];
        size_t first[9] = {0};
        int32_t order[8];
        for (int i = 0; i < count; i++) {
            kind[i] = (int)rng_below(&rng, 5);
            dims[i] = (int)rng_below(&rng, 5);
            size_t bytes = sizes[kind[i]];
            for (int d = 0; d < dims[i]; d++) {
                shape[i][d] = rng_below(&rng, 5); // sizes of 0 too
                bytes *= (size_t)shape[i][d];
            }
            first[i + 1] = first[i] + bytes;
            order[i] = i;
        }
        rng_shuffle(&rng, order, count);
        char header[2048] = "{";
        int used = 1;
        for (int n = 0; n < count; n++) {
            int i = order[n];
            used +=
                sprintf(header + used, "%s\"t%d\":{\"dtype\":\"%s\",\"shape\":[", n == 0 ? "" : ",", i, names[kind[i]]);
            for (int d = 0; d < dims[i]; d++)
                used += sprintf(header + used, "%s%" PRId64, d == 0 ? "" : ",", shape[i][d]);
            used += sprintf(header + used, "],\"data_offsets\":[%zu,%zu]}", first[i], first[i + 1]);
        }
        sprintf(header + used, "}%*s", (int)rng_below(&rng, 9), "");
        put_file("random", header, 0, NULL, first[count]);
        TensorFiles *files = opened("random");
        assert_int_equal(tensor_files_count(files), count);
        for (int i = 0; i < count; i++) {
            const Tensor *t = tensor_files_at(files, i); // by name: t0, t1, ...
            assert_int_equal(t->name[1] - '0', i);
            assert_int_equal(t->type, types[kind[i]]);
            assert_int_equal(t->dims, dims[i]);
            assert_memory_equal(t->shape, shape[i], (size_t)dims[i] * sizeof(int64_t));
            assert_int_equal(t->bytes, first[i + 1] - first[i]);
            for (size_t b = 0; b < t->bytes; b++)
                assert_int_equal(((const unsigned char *)t->data)[b], (first[i] + b) & 255);
        }
        tensor_files_close(files);
    }
}

static void get_checks(void **state) {
    (void)state;
    put_file("f", "{" ENTRY("a", "BF16", "[2,3]", "0", "12") "," ENTRY("i", "I32", "[2]", "12", "20") "}", 0, NULL, 20);
    TensorFiles *files = opened("f");
    const Tensor *found = NULL;
    const int64_t right[] = {2, 3}, wrong[] = {3, 2}, two[] = {2};
    assert_int_equal(tensor_files_get(files, "a", 2, right, &found), STATUS_OK);
    assert_string_equal(found->name, "a");
    assert_string_equal(found->file, "f");
    assert_int_equal(tensor_files_get(files, "a", 2, wrong, &found), STATUS_DATA);
    assert_string_equal(error_text(), "f: tensor a has shape [2, 3], but config.json asks for [3, 2]");
    error_clear();
    assert_int_equal(tensor_files_get(files, "a", 1, two, &found), STATUS_DATA);
    assert_string_equal(error_text(), "f: tensor a has shape [2, 3], but config.json asks for [2]");
    error_clear();
    assert_int_equal(tensor_files_get(files, "b", 1, two, &found), STATUS_DATA);
    assert_string_equal(error_text(), "f: tensor b is missing; the file does not fit config.json");
    error_clear();
    assert_int_equal(tensor_files_get(files, "i", 1, two, &found), STATUS_DATA);
    assert_string_equal(error_text(), "f: tensor i is not of type F32, F16 or BF16, the supported ones");
    tensor_files_close(files);
}

static void shards(void **state) {
    (void)state;
    static const char index[] = "s/model.safetensors.index.json";
    static const float a[] = {1, 2}, b[] = {3};
    assert_int_equal(mkdir("s", 0777), 0);
    assert_int_equal(mkdir("blobs", 0777), 0);
    put_file("s/1.safetensors", "{" ENTRY("a", "F32", "[2]", "0", "8") "}", 0, a, sizeof a);
    // The folders of the Hub's cache are made of links into a folder of blobs: they are followed.
    put_file("blobs/2", "{" ENTRY("b", "F32", "[1]", "0", "4") "}", 0, b, sizeof b);
    assert_int_equal(symlink("../blobs/2", "s/2.safetensors"), 0);
    put_text(index, "{\"weight_map\": {\"b\": \"2.safetensors\", \"a\": \"1.safetensors\"}}");
    TensorFiles *files = opened("s");
    assert_int_equal(tensor_files_count(files), 2);
    const Tensor *found = NULL;
    const int64_t one[] = {1}, two[] = {2};
    assert_int_equal(tensor_files_get(files, "b", 1, one, &found), STATUS_OK);
    assert_string_equal(found->file, "s/2.safetensors");
    assert_memory_equal(found->data, b, sizeof b);
    assert_int_equal(tensor_files_get(files, "a", 1, two, &found), STATUS_OK);
    assert_memory_equal(found->data, a, sizeof a);
    uint64_t hash = tensor_files_hash(files);
    tensor_files_close(files);
    // The same weights in one file have the same identity; other weights have another.
    put_file("one", "{" ENTRY("b", "F32", "[1]", "0", "4") "," ENTRY("a", "F32", "[2]", "4", "12") "}", 0,
             (const float[]){3, 1, 2}, 12);
    files = opened("one");
    assert_true(tensor_files_hash(files) == hash);
    tensor_files_close(files);
    put_file("one", "{" ENTRY("b", "F32", "[1]", "0", "4") "," ENTRY("a", "F32", "[2]", "4", "12") "}", 0,
             (const float[]){3, 1, 2.5f}, 12);
    files = opened("one");
    assert_true(tensor_files_hash(files) != hash);
    tensor_files_close(files);

    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{\"weight_map\": {\"a\": \"1.safetensors\", \"c\": \"1.safetensors\"}}",
         "s/model.safetensors.index.json: tensor c is not in 1.safetensors; the download is incomplete, fetch it "
         "again"},
        {"{\"weight_map\": {\"a\": \"2.safetensors\"}}", "s/model.safetensors.index.json: tensor a is not in "
                                                         "2.safetensors; the download is incomplete, fetch it again"},
        {"{\"weight_map\": {\"b\": \"../blobs/2\"}}", "s/model.safetensors.index.json: weight_map puts b into "
                                                      "\"../blobs/2\"; a shard is a file in the model's folder"},
        {"{\"weight_map\": {\"b\": \"/etc/passwd\"}}", "s/model.safetensors.index.json: weight_map puts b into "
                                                       "\"/etc/passwd\"; a shard is a file in the model's folder"},
        {"{\"weight_map\": {\"b\": \"..\"}}",
         "s/model.safetensors.index.json: weight_map puts b into \"..\"; a shard is a file in the model's folder"},
        {"{\"weight_map\": {\"b\": 3}}",
         "s/model.safetensors.index.json: weight_map puts b into \"\"; a shard is a file in the model's folder"},
        {"{\"weight_map\": {}}", "s/model.safetensors.index.json: weight_map is missing or empty"},
        {"{\"weight_map\": [\"a\"]}", "s/model.safetensors.index.json: weight_map is missing or empty"},
        {"{", "s/model.safetensors.index.json:1: broken JSON: string or '}' expected near end of file"},
        {"{\"weight_map\": {\"a\": \"3.safetensors\"}}", "s/3.safetensors: No such file or directory"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_text(index, cases[i].text);
        expect_refused("s", cases[i].message);
    }
}

static float f32(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// binary16 by its definition: (-1)^s 2^(e-15) (1 + m/1024), or (-1)^s 2^-14 m/1024 where e is 0.
static double half_value(unsigned half) {
    double sign = half & 0x8000 ? -1 : 1, mantissa = half & 1023;
    int exponent = half >> 10 & 31;
    if (exponent == 31) return mantissa != 0 ? (double)NAN : sign * (double)INFINITY;
    return exponent == 0 ? sign * ldexp(mantissa, -24) : sign * ldexp(1024 + mantissa, exponent - 25);
}

static void from_half(void **state) {
    (void)state;
    static unsigned char bytes[2 * 65536 + 1];
    static float out[65536];
    for (unsigned h = 0; h < 65536; h++) {
        bytes[1 + 2 * h] = (unsigned char)h; // at an odd address
        bytes[2 + 2 * h] = (unsigned char)(h >> 8);
    }
    tensor_to_f32(bytes + 1, TENSOR_F16, 65536, out);
    for (unsigned h = 0; h < 65536; h++) {
        double want = half_value(h);
        if (isnan(want))
            assert_true(isnan(out[h]));
        else
            assert_true(out[h] == want && (signbit(out[h]) != 0) == (h >= 0x8000));
    }
}

static void bf16_rounding(void **state) {
    (void)state;
    static const struct {
        uint32_t in;
        uint16_t out;
    } cases[] = {
        {0x00000000, 0x0000}, {0x80000000, 0x8000}, {0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, // a tie, to even
        {0x3f818000, 0x3f82}, {0x3f808001, 0x3f81}, {0x3f807fff, 0x3f80}, {0x7f7fffff, 0x7f80}, // overflows to infinity
        {0x7f800000, 0x7f80}, {0xff800000, 0xff80}, {0x7f800001, 0x7fc0}, {0xffffffff, 0xffff}, {0x00008001, 0x0001},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        float in = f32(cases[i].in);
        uint16_t out;
        tensor_to_bf16(&in, TENSOR_F32, 1, &out);
        assert_int_equal(out, cases[i].out);
    }
    Rng rng = rng_make(3, RNG_SAMPLE, 0);
    static uint16_t kept[3000], got[3000];
    static float wide[3000];
    for (int i = 0; i < 3000; i++) kept[i] = (uint16_t)(rng_u32(&rng) & 0xff7f); // no infinity, no NaN
    tensor_to_f32(kept, TENSOR_BF16, 3000, wide);
    for (int i = 0; i < 3000; i++) assert_true(wide[i] == f32((uint32_t)kept[i] << 16));
    tensor_to_bf16(wide, TENSOR_F32, 3000, got);
    assert_memory_equal(kept, got, sizeof kept);
    tensor_to_bf16(kept, TENSOR_BF16, 3000, got);
    assert_memory_equal(kept, got, sizeof kept);
    // One third of 2^-14 in binary16 (0x0155) is 341 * 2^-24; 8 bits of it: 170.5 -> 170 (even) * 2^-23.
    uint16_t half = 0x0155, want;
    float third = 170.0f * 0x1p-23f;
    tensor_to_bf16(&half, TENSOR_F16, 1, &got[0]);
    tensor_to_bf16(&third, TENSOR_F32, 1, &want);
    assert_int_equal(got[0], want);
}

static void written_file(void **state) {
    (void)state;
    float x[6] = {1, -2, 3.5f, 0, 5, 6}, y[1] = {9};
    Tensor list[] = {{.name = "z\"quoted\"", .dims = 2, .shape = {2, 3}, .data = x},
                     {.name = "a", .dims = 1, .shape = {1}, .data = y}};
    assert_int_equal(tensor_file_write("out.safetensors", list, 2), STATUS_OK);
    TensorFiles *files = opened("out.safetensors");
    assert_int_equal(tensor_files_count(files), 2);
    const Tensor *found = NULL;
    const int64_t shape[] = {2, 3};
    assert_int_equal(tensor_files_get(files, "z\"quoted\"", 2, shape, &found), STATUS_OK);
    assert_int_equal(found->type, TENSOR_F32);
    assert_memory_equal(found->data, x, sizeof x);
    assert_int_equal((uintptr_t)found->data % 8, 0); // padded as the reference writer pads
    tensor_files_close(files);
    error_clear();
    assert_int_equal(tensor_file_write("none/out", list, 2), STATUS_FAILED);
    char text[128];
    snprintf(text, sizeof text, "none/out.%ld.tmp: cannot be written: No such file or directory", (long)getpid());
    assert_string_equal(error_text(), text);
}

// To binary16 by its definition: the nearest of the two neighbours, the even one of a tie.
static void to_half(void **state) {
    (void)state;
    static uint16_t halves[65536];
    static float wide[65536];
    for (unsigned h = 0; h < 65536; h++) halves[h] = (uint16_t)h;
    tensor_to_f32(halves, TENSOR_F16, 65536, wide);
    for (unsigned h = 0; h < 65536; h++) {
        uint16_t got;
        tensor_from_f32(&wide[h], 1, TENSOR_F16, &got);
        if (isnan(wide[h]))
            assert_true((got & 0x7c00) == 0x7c00 && (got & 0x3ff) != 0 && got >> 15 == h >> 15);
        else
            assert_int_equal(got, h);
    }
    for (unsigned h = 0; h < 0x7bff; h++) { // positive and finite, and its upper neighbour
        const float low = wide[h], high = wide[h + 1],
                    middle = (float)(((double)low + high) / 2); // exact: one bit more
        const float in[] = {nextafterf(middle, 0), middle, nextafterf(middle, INFINITY), -middle};
        const unsigned even = h % 2 == 0 ? h : h + 1, want[] = {h, even, h + 1, even | 0x8000};
        uint16_t got[4];
        tensor_from_f32(in, 4, TENSOR_F16, got);
        for (int i = 0; i < 4; i++) assert_int_equal(got[i], want[i]);
    }
    const float large[] = {65519.996f, 65520.0f, 1e30f, -1e30f, 1e-30f, -0x1p-25f};
    const unsigned want[] = {0x7bff, 0x7c00, 0x7c00, 0xfc00, 0, 0x8000};
    uint16_t got[6];
    tensor_from_f32(large, 6, TENSOR_F16, got);
    for (int i = 0; i < 6; i++) assert_int_equal(got[i], want[i]);
    float copied[6];
    tensor_from_f32(large, 6, TENSOR_F32, copied);
    assert_memory_equal(copied, large, sizeof large);
    uint16_t narrow[6], same[6];
    tensor_from_f32(large, 6, TENSOR_BF16, narrow);
    tensor_to_bf16(large, TENSOR_F32, 6, same);
    assert_memory_equal(narrow, same, sizeof same);
}

// --- folders of weights ---------------------------------------------------------------------------------------------

#define FOLDER_TENSORS 7
static int folder_asked, folder_fails_at;

// Byte `i` of tensor `index`.
static unsigned char folder_byte(size_t i, int index) {
    return (unsigned char)(i * 37 + (size_t)index * 101 + 11);
}

// Each tensor once, its bytes in a buffer that the next call overwrites.
static Status folder_source(void *context, int index, const void **data) {
    static unsigned char buffer[64];
    if (folder_asked++ == folder_fails_at) return error_set(STATUS_DATA, "the source failed");
    for (size_t i = 0; i < sizeof buffer; i++) buffer[i] = folder_byte(i, index);
    *data = buffer;
    assert_ptr_equal(context, &folder_asked);
    return STATUS_OK;
}

static const Tensor folder_list[FOLDER_TENSORS] = {
    {.name = "b", .type = TENSOR_BF16, .dims = 2, .shape = {3, 5}},                 // 30 bytes
    {.name = "a", .type = TENSOR_F32, .dims = 1, .shape = {2}},                     // 8
    {.name = "flag", .type = TENSOR_OTHER, .dtype = "U8", .dims = 1, .shape = {1}}, // 1
    {.name = "ids", .type = TENSOR_OTHER, .dtype = "I64", .dims = 1, .shape = {2}}, // 16
    {.name = "half", .type = TENSOR_F16, .dims = 1, .shape = {4}},                  // 8
    {.name = "one", .type = TENSOR_F32, .dims = 0},                                 // 4
    {.name = "none", .type = TENSOR_BF16, .dims = 2, .shape = {0, 4}},              // 0
};

static void check_folder(const char *dir) {
    TensorFiles *files = opened(dir);
    assert_int_equal(tensor_files_count(files), FOLDER_TENSORS);
    for (int i = 0; i < FOLDER_TENSORS; i++) {
        const Tensor *want = &folder_list[i], *found = NULL;
        for (int j = 0; j < FOLDER_TENSORS; j++)
            if (strcmp(tensor_files_at(files, j)->name, want->name) == 0) found = tensor_files_at(files, j);
        assert_non_null(found);
        assert_int_equal(found->type, want->type);
        assert_int_equal(found->dims, want->dims);
        assert_memory_equal(found->shape, want->shape, (size_t)want->dims * sizeof(int64_t));
        if (want->dtype != NULL) assert_string_equal(found->dtype, want->dtype);
        assert_int_equal(found->bytes, tensor_bytes(want));
        for (size_t b = 0; b < found->bytes; b++)
            assert_int_equal(((const unsigned char *)found->data)[b], folder_byte(b, i));
        const size_t width = want->type == TENSOR_F32                                 ? 4
                             : want->dtype != NULL && strcmp(want->dtype, "I64") == 0 ? 8
                             : want->dtype != NULL                                    ? 1
                                                                                      : 2;
        assert_int_equal((uintptr_t)found->data % width, 0); // torch views it as it lies
    }
    tensor_files_close(files);
}

static int write_folder(const char *dir, size_t shard_bytes) {
    int files = 0;
    folder_asked = 0;
    folder_fails_at = -1;
    error_clear();
    assert_int_equal(mkdir(dir, 0777), 0);
    if (tensor_folder_write(dir, folder_list, FOLDER_TENSORS, shard_bytes, folder_source, &folder_asked, &files) !=
        STATUS_OK)
        fail_msg("%s", error_text());
    assert_int_equal(folder_asked, FOLDER_TENSORS);
    return files;
}

static char *text_of(const char *path) {
    static char text[4096];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    return text;
}

static void written_folder(void **state) {
    (void)state;
    assert_int_equal(write_folder("whole", 67), 1); // all of its bytes: one file, no index
    assert_true(access("whole/model.safetensors", F_OK) == 0);
    assert_true(access("whole/model.safetensors.index.json", F_OK) != 0);
    check_folder("whole");

    assert_int_equal(write_folder("halves", 38), 2); // b and a: 38 bytes; the rest: 29
    assert_true(access("halves/model.safetensors", F_OK) != 0);
    assert_string_equal(text_of("halves/model.safetensors.index.json"),
                        "{\n"
                        "  \"metadata\": {\n"
                        "    \"total_parameters\": 25,\n"
                        "    \"total_size\": 67\n"
                        "  },\n"
                        "  \"weight_map\": {\n"
                        "    \"a\": \"model-00001-of-00002.safetensors\",\n"
                        "    \"b\": \"model-00001-of-00002.safetensors\",\n"
                        "    \"flag\": \"model-00002-of-00002.safetensors\",\n"
                        "    \"half\": \"model-00002-of-00002.safetensors\",\n"
                        "    \"ids\": \"model-00002-of-00002.safetensors\",\n"
                        "    \"none\": \"model-00002-of-00002.safetensors\",\n"
                        "    \"one\": \"model-00002-of-00002.safetensors\"\n"
                        "  }\n"
                        "}\n");
    check_folder("halves");

    assert_int_equal(write_folder("single", 1), 6); // one tensor a file, the empty one with the last
    check_folder("single");
}

// Every size from one byte to more than all: only a file of a single tensor is larger.
static void shard_sizes(void **state) {
    (void)state;
    for (size_t limit = 1; limit <= 70; limit++) {
        char dir[32], path[96];
        snprintf(dir, sizeof dir, "limit-%zu", limit);
        const int files = write_folder(dir, limit);
        check_folder(dir);
        size_t total = 0;
        for (int f = 0; f < files; f++) {
            if (files == 1)
                snprintf(path, sizeof path, "%s/model.safetensors", dir);
            else
                snprintf(path, sizeof path, "%s/model-%05d-of-%05d.safetensors", dir, f + 1, files);
            TensorFiles *one = opened(path);
            size_t bytes = 0;
            for (int i = 0; i < tensor_files_count(one); i++) bytes += tensor_files_at(one, i)->bytes;
            int filled = 0; // tensors that take room
            for (int i = 0; i < tensor_files_count(one); i++) filled += tensor_files_at(one, i)->bytes > 0;
            assert_true(bytes <= limit || filled == 1);
            total += bytes;
            tensor_files_close(one);
        }
        assert_int_equal(total, 67);
        assert_true((files == 1) == (limit >= 67));
    }
}

static void folder_failures(void **state) {
    (void)state;
    int files = 0;
    assert_int_equal(mkdir("broken", 0777), 0);
    folder_asked = 0;
    folder_fails_at = 3;
    error_clear();
    assert_int_equal(
        tensor_folder_write("broken", folder_list, FOLDER_TENSORS, 1000, folder_source, &folder_asked, &files),
        STATUS_DATA);
    assert_string_equal(error_text(), "the source failed");
    assert_int_equal(rmdir("broken"), 0); // nothing was left in it
    folder_asked = 0;
    folder_fails_at = -1;
    error_clear();
    assert_int_equal(
        tensor_folder_write("broken", folder_list, FOLDER_TENSORS, 1000, folder_source, &folder_asked, &files),
        STATUS_FAILED);
    char text[128];
    snprintf(text, sizeof text, "broken/model.safetensors.%ld.tmp: cannot be written: No such file or directory",
             (long)getpid());
    assert_string_equal(error_text(), text);
    error_clear();
    assert_int_equal(mkdir("full", 0777), 0);
    snprintf(text, sizeof text, "full/model.safetensors.%ld.tmp", (long)getpid());
    assert_int_equal(symlink("/dev/full", text), 0);
    assert_int_equal(
        tensor_folder_write("full", folder_list, FOLDER_TENSORS, 1000, folder_source, &folder_asked, &files),
        STATUS_FAILED);
    assert_non_null(strstr(error_text(), "No space left on device"));
    assert_int_equal(rmdir("full"), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broken_files),  cmocka_unit_test(cut_and_changed_files),
        cmocka_unit_test(random_files),  cmocka_unit_test(get_checks),
        cmocka_unit_test(shards),        cmocka_unit_test(from_half),
        cmocka_unit_test(bf16_rounding), cmocka_unit_test(written_file),
        cmocka_unit_test(to_half),       cmocka_unit_test(written_folder),
        cmocka_unit_test(shard_sizes),   cmocka_unit_test(folder_failures),
    };
    return cmocka_run_group_tests(tests, enter_temporary_folder, remove_temporary_folder);
}
