// The reference cache: values come back for the same key and length only; a damaged cache is not found, a foreign file
// is an error.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "io/checkpoint.h"
#include "io/files.h"
#include "io/reference_cache.h"
#include "src/base/log.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COUNT 300000 // several chunks

static char dir[] = "test_reference_cache-XXXXXX";
static char path[64];
static double logp[COUNT], logp_kl[COUNT], got[COUNT], got_kl[COUNT];

static void assert_empty(int64_t count) {
    for (int64_t i = 0; i < count; i++) assert_true(isnan(got[i]) && isnan(got_kl[i]));
}

static bool read_cache(const char *key, int64_t count) {
    bool found = true;
    memset(got, 0, sizeof got);
    memset(got_kl, 0, sizeof got_kl);
    assert_int_equal(reference_cache_read(path, key, got, got_kl, count, &found), STATUS_OK);
    assert_string_equal(error_text(), "");
    if (!found) assert_empty(count);
    return found;
}

static void test_keys(void **state) {
    (void)state;
    for (int i = 0; i < COUNT; i++) {
        logp[i] = -0.001 * i;
        logp_kl[i] = i % 5 == 0 ? NAN : -1.0 / (i + 1); // a killed run's cache has gaps
    }
    assert_false(read_cache("key", COUNT));
    assert_int_equal(reference_cache_write(path, "key", logp, logp_kl, COUNT), STATUS_OK);
    assert_true(read_cache("key", COUNT));
    assert_memory_equal(got, logp, sizeof logp);
    assert_memory_equal(got_kl, logp_kl, sizeof logp_kl);
    assert_false(read_cache("keys", COUNT));
    assert_false(read_cache("ke", COUNT));
    assert_false(read_cache("", COUNT));
    assert_false(read_cache("key", COUNT - 1));
    logp[0] = 4;
    assert_int_equal(reference_cache_write(path, "other", logp, logp_kl, 7), STATUS_OK); // replaces
    assert_true(read_cache("other", 7));
    assert_true(got[0] == 4);
}

static void test_damage(void **state) {
    (void)state;
    assert_int_equal(reference_cache_write(path, "key", logp, logp_kl, COUNT), STATUS_OK);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, COUNT * 8, SEEK_SET), 0);
    int byte = fgetc(file);
    assert_int_equal(fseek(file, COUNT * 8, SEEK_SET), 0);
    fputc(byte ^ 1, file);
    assert_int_equal(fclose(file), 0);
    assert_false(read_cache("key", COUNT));
    assert_int_equal(truncate(path, COUNT * 8), 0);
    assert_false(read_cache("key", COUNT));
}

static void test_foreign(void **state) {
    (void)state;
    bool found;
    assert_int_equal(file_write_durable(path, "{}", 2), STATUS_OK);
    assert_int_equal(reference_cache_read(path, "key", got, got_kl, 5, &found), STATUS_DATA);
    assert_non_null(strstr(error_text(), path));
    error_clear();

    float one[1] = {1};
    AdapterTensor tensor = {"a", 0, 1, 1};
    Checkpoint checkpoint = {
        .config = "", .count = 1, .adapter = one, .adam_m = one, .adam_v = one, .tensors = &tensor, .tensor_count = 1};
    char other[128];
    snprintf(other, sizeof other, "%s/step-000000.h5", dir);
    assert_int_equal(checkpoint_write(dir, &checkpoint, 1), STATUS_OK);
    assert_int_equal(reference_cache_read(other, "key", got, got_kl, 5, &found), STATUS_DATA);
    assert_non_null(strstr(error_text(), "is not a reference cache"));
    error_clear();
    unlink(other);
    assert_int_equal(reference_cache_write("no/such/folder/r.h5", "key", logp, logp_kl, 5), STATUS_FAILED);
    assert_non_null(strstr(error_text(), "No such file or directory"));
    error_clear();
}

static int clean(void **state) {
    (void)state;
    unlink(path);
    return 0;
}

int main(void) {
    if (mkdtemp(dir) == NULL) return 1;
    log_init(false); // the damage is meant
    snprintf(path, sizeof path, "%s/reference.h5", dir);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_keys, clean),
        cmocka_unit_test_teardown(test_damage, clean),
        cmocka_unit_test_teardown(test_foreign, clean),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(dir);
    return failed;
}
