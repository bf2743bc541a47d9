// Merged weights, bit for bit: the models of tests/golden with a random adapter, against W + alpha/r B A by a plain
// loop in fp64, taken to fp32 and rounded once.
#include "src/model/merge.h"
#include "src/base/rng.h"
#include "tests/io/temporary_folder.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include <sys/stat.h>

#define R     3
#define ALPHA 5.0

typedef struct Case {
    ModelConfig config;
    AdapterTable table;
    float *adapter;
    TensorFiles *base;
} Case;

static void must(Status status) {
    if (status != STATUS_OK) fail_msg("%s", error_text());
}

// `folder` is relative to tests/golden, or absolute.
static Case open_case(const char *folder, const bool *targets) {
    Case c;
    char path[1024];
    snprintf(path, sizeof path, "%s%s", folder[0] == '/' ? "" : TEST_DATA "/", folder);
    error_clear();
    must(model_config_read(&c.config, path));
    must(tensor_files_open(&c.base, path));
    must(adapter_table_make(&c.config, R, targets, &c.table));
    c.adapter = calloc((size_t)c.table.count, sizeof *c.adapter);
    assert_non_null(c.adapter);
    Rng rng = rng_make(5, RNG_SAMPLE, 0);
    for (int64_t i = 0; i < c.table.count; i++) c.adapter[i] = (float)rng_uniform(&rng) - 0.5f;
    return c;
}

static void close_case(Case *c) {
    tensor_files_close(c->base);
    adapter_table_free(&c->table);
    free(c->adapter);
}

static Status merge(const Case *c, int dtype, size_t shard_bytes, const char *dir, MergeResult *result) {
    const MergeOptions options = {.config = &c->config,
                                  .table = &c->table,
                                  .adapter = c->adapter,
                                  .r = R,
                                  .alpha = ALPHA,
                                  .dtype = dtype,
                                  .shard_bytes = shard_bytes};
    assert_int_equal(mkdir(dir, 0777), 0);
    return merge_write(c->base, &options, dir, result);
}

static const Tensor *by_name(const TensorFiles *files, const char *name) {
    for (int i = 0; i < tensor_files_count(files); i++)
        if (strcmp(tensor_files_at(files, i)->name, name) == 0) return tensor_files_at(files, i);
    return NULL;
}

static const float *adapter_matrix(const Case *c, const char *weight, char letter) {
    char name[160];
    snprintf(name, sizeof name, "%.*s.lora_%c.weight", (int)(strlen(weight) - strlen(".weight")), weight, letter);
    for (int32_t i = 0; i < c->table.tensor_count; i++)
        if (strcmp(c->table.tensors[i].name, name) == 0) return c->adapter + c->table.tensors[i].offset;
    return NULL;
}

// Every tensor of the merged folder is what the definition says. Returns how many an adapter changed.
static int check_merged(const Case *c, int dtype, const char *dir) {
    TensorFiles *files = NULL;
    must(tensor_files_open(&files, dir));
    int changed = 0;
    for (int i = 0; i < tensor_files_count(files); i++) {
        const Tensor *got = tensor_files_at(files, i), *from = by_name(c->base, got->name);
        assert_non_null(from);
        assert_int_equal(got->type, dtype == MERGE_KEEP_DTYPE ? (int)from->type : dtype);
        assert_int_equal(got->dims, from->dims);
        assert_memory_equal(got->shape, from->shape, (size_t)from->dims * sizeof(int64_t));
        const float *a = adapter_matrix(c, got->name, 'A'), *b = adapter_matrix(c, got->name, 'B');
        if (a == NULL && got->type == from->type) {
            assert_memory_equal(got->data, from->data, from->bytes);
            continue;
        }
        const int64_t cols = from->shape[from->dims - 1], rows = from->dims == 2 ? from->shape[0] : 1;
        const size_t count = (size_t)(rows * cols);
        float *want = malloc(count * sizeof *want);
        void *rounded = malloc(count * sizeof *want);
        assert_true(want != NULL && rounded != NULL);
        tensor_to_f32(from->data, from->type, count, want);
        for (int64_t o = 0; o < rows && a != NULL; o++)
            for (int64_t n = 0; n < cols; n++) {
                double sum = 0;
                for (int j = 0; j < R; j++) sum += (double)b[o * R + j] * (double)a[j * cols + n];
                want[o * cols + n] = (float)((double)want[o * cols + n] + ALPHA / R * sum);
            }
        tensor_from_f32(want, count, got->type, rounded);
        assert_memory_equal(got->data, rounded, got->bytes);
        free(want);
        free(rounded);
        changed += a != NULL;
    }
    tensor_files_close(files);
    return changed;
}

static void definition(void **state) {
    (void)state;
    static const char *const models[] = {"tiny-model", "model/bias", "model/llama3"};
    static const bool all[] = {1, 1, 1, 1, 1, 1, 1}, some[] = {1, 0, 1, 0, 0, 0, 1}; // q, v, down
    int number = 0;
    for (int m = 0; m < 3; m++)
        for (int t = 0; t < 2; t++) {
            Case c = open_case(models[m], t == 0 ? all : some);
            for (int dtype = MERGE_KEEP_DTYPE; dtype < TENSOR_OTHER; dtype++) {
                char dir[32];
                snprintf(dir, sizeof dir, "merged-%d", number++);
                MergeResult result;
                must(merge(&c, dtype, 20000, dir, &result));
                assert_int_equal(check_merged(&c, dtype, dir), (t == 0 ? 7 : 3) * c.config.layers);
                assert_true(result.files > 1);
                if (dtype != MERGE_KEEP_DTYPE) {
                    assert_int_equal(result.dtype, dtype);
                    assert_int_equal(result.bytes, result.elements * (dtype == TENSOR_F32 ? 4 : 2));
                }
            }
            close_case(&c);
        }
}

// Embedding, layers by number, norm, head.
static void order(void **state) {
    (void)state;
    static const bool q[] = {1, 0, 0, 0, 0, 0, 0};
    Case c = open_case("tiny-model", q);
    MergeResult result;
    must(merge(&c, MERGE_KEEP_DTYPE, 1u << 30, "ordered", &result));
    assert_int_equal(result.files, 1);
    TensorFiles *files = NULL;
    must(tensor_files_open(&files, "ordered"));
    static const char *const names[] = {"model.embed_tokens.weight",
                                        "model.layers.0.input_layernorm.weight",
                                        "model.layers.1.self_attn.q_proj.weight",
                                        "model.layers.2.mlp.up_proj.weight",
                                        "model.norm.weight",
                                        "lm_head.weight"};
    const char *last = NULL;
    for (int i = 0; i < 6; i++) {
        const char *data = by_name(files, names[i])->data;
        assert_true(last == NULL || data > last);
        last = data;
    }
    tensor_files_close(files);
    close_case(&c);
}

static Status give(void *context, int index, const void **data) {
    *data = ((const Tensor *)context)[index].data;
    return STATUS_OK;
}

// A tied model whose file holds its head once more, layers beyond ten, and a tensor that is no float: the head goes,
// the rest stays as it is.
static void tied_head(void **state) {
    (void)state;
    static const bool q[] = {1, 0, 0, 0, 0, 0, 0};
    Case c = open_case("model/llama3", q);
    assert_true(c.config.tied_head);
    assert_null(by_name(c.base, "lm_head.weight"));
    const int count = tensor_files_count(c.base);
    Tensor list[64];
    assert_true(count + 2 <= 64);
    for (int i = 0; i < count; i++) list[i] = *tensor_files_at(c.base, i);
    list[count] = *by_name(c.base, "model.embed_tokens.weight");
    list[count].name = "lm_head.weight";
    static const int64_t ids[] = {7, 8};
    list[count + 1] =
        (Tensor){.name = "model.ids", .type = TENSOR_OTHER, .dtype = "I64", .dims = 1, .shape = {2}, .data = ids};
    int files;
    assert_int_equal(mkdir("tied-base", 0777), 0);
    must(tensor_folder_write("tied-base", list, count + 2, 1u << 30, give, list, &files));
    tensor_files_close(c.base);
    must(tensor_files_open(&c.base, "tied-base"));
    for (int dtype = MERGE_KEEP_DTYPE; dtype < TENSOR_OTHER; dtype++) {
        char dir[32];
        snprintf(dir, sizeof dir, "tied-%d", dtype + 1);
        MergeResult result;
        must(merge(&c, dtype, 1u << 30, dir, &result));
        TensorFiles *merged = NULL;
        must(tensor_files_open(&merged, dir));
        assert_int_equal(tensor_files_count(merged), count + 1);
        assert_null(by_name(merged, "lm_head.weight"));
        const Tensor *kept = by_name(merged, "model.ids");
        assert_non_null(kept);
        assert_string_equal(kept->dtype, "I64");
        assert_memory_equal(kept->data, ids, sizeof ids);
        tensor_files_close(merged);
    }
    close_case(&c);
}

static void refusals(void **state) {
    (void)state;
    static const bool q[] = {1, 0, 0, 0, 0, 0, 0};
    Case c = open_case("tiny-model", q);
    MergeResult result;
    const float kept = c.adapter[0];
    c.adapter[0] = NAN;
    assert_int_equal(merge(&c, MERGE_KEEP_DTYPE, 1u << 30, "nan", &result), STATUS_DATA);
    assert_non_null(strstr(error_text(), "tensor model.layers.0.self_attn.q_proj.weight with the adapter merged in is "
                                         "not finite in bfloat16"));
    c.adapter[0] = 1e7f; // beyond binary16 only
    error_clear();
    assert_int_equal(merge(&c, TENSOR_F16, 1u << 30, "large", &result), STATUS_DATA);
    assert_non_null(strstr(error_text(), "in float16; try --dtype bfloat16"));
    error_clear();
    must(merge(&c, TENSOR_BF16, 1u << 30, "fits", &result));
    c.adapter[0] = kept;
    // Another model's layers.
    c.table.tensors[1].rows++;
    assert_int_equal(merge(&c, MERGE_KEEP_DTYPE, 1u << 30, "other", &result), STATUS_DATA);
    assert_non_null(strstr(error_text(), "tensor model.layers.0.self_attn.q_proj.weight has shape [64, 64], but "
                                         "config.json asks for [65, 64]"));
    assert_int_equal(rmdir("nan"), 0); // nothing half-written
    assert_int_equal(rmdir("other"), 0);
    close_case(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(definition), cmocka_unit_test(order),
                                       cmocka_unit_test(tied_head), cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, enter_temporary_folder, remove_temporary_folder);
}
