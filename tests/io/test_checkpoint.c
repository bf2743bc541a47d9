// Checkpoints: round trip, damage at any byte, rotation, choice of the newest, and a full disk.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "io/checkpoint.h"
#include "io/files.h"
#include "src/base/log.h"

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

// HDF5 1.10 loses memory of its own when a header fails its checksum; for builds with a leak check.
const char *__lsan_default_suppressions(void) {
    return "leak:libhdf5";
}

static char dir[] = "test_checkpoint-XXXXXX";

static void fill(Checkpoint *c, int64_t step, int64_t count) {
    *c = (Checkpoint){.run_id = "20260101-0123456789abcdef",
                      .step = step,
                      .batch_in_epoch = 3,
                      .seed = -7,
                      .micro_batch_tokens = 4096,
                      .skipped = 1,
                      .epoch = 1.25,
                      .num_tokens = 1e10,
                      .best_eval = NAN,
                      .config = "train: { seed = 42; };\n# \xc3\xa9\n",
                      .dataset_hash = 0xfedcba9876543210u,
                      .model_hash = 5,
                      .count = count,
                      .tensor_count = 2};
    c->adapter = malloc((size_t)count * sizeof(float));
    c->adam_m = malloc((size_t)count * sizeof(float));
    c->adam_v = malloc((size_t)count * sizeof(float));
    c->tensors = calloc(2, sizeof *c->tensors);
    assert_true(c->adapter && c->adam_m && c->adam_v && c->tensors);
    for (int64_t i = 0; i < count; i++) {
        c->adapter[i] = (float)i + 0.5f;
        c->adam_m[i] = -(float)i;
        c->adam_v[i] = 1.0f / (float)(i + 1);
    }
    c->tensors[0] = (AdapterTensor){"model.layers.0.self_attn.q_proj.lora_A.weight", 0, 2, (int32_t)(count / 4)};
    c->tensors[1] = (AdapterTensor){"b", count / 4 * 2, 1, (int32_t)(count - count / 4 * 2)};
}

static void release(Checkpoint *c) {
    free(c->adapter);
    free(c->adam_m);
    free(c->adam_v);
    free(c->tensors);
}

static bool same(const Checkpoint *a, const Checkpoint *b) {
    size_t bytes = (size_t)a->count * sizeof(float);
    if (a->count != b->count || a->tensor_count != b->tensor_count) return false;
    bool tensors = true;
    for (int32_t i = 0; i < a->tensor_count; i++)
        tensors = tensors && strcmp(a->tensors[i].name, b->tensors[i].name) == 0 &&
                  a->tensors[i].offset == b->tensors[i].offset && a->tensors[i].rows == b->tensors[i].rows &&
                  a->tensors[i].cols == b->tensors[i].cols;
    return tensors && strcmp(a->run_id, b->run_id) == 0 && strcmp(a->config, b->config) == 0 && a->step == b->step &&
           a->batch_in_epoch == b->batch_in_epoch && a->seed == b->seed && a->skipped == b->skipped &&
           a->micro_batch_tokens == b->micro_batch_tokens && a->epoch == b->epoch && a->num_tokens == b->num_tokens &&
           memcmp(&a->best_eval, &b->best_eval, sizeof a->best_eval) == 0 && a->dataset_hash == b->dataset_hash &&
           a->model_hash == b->model_hash && memcmp(a->adapter, b->adapter, bytes) == 0 &&
           memcmp(a->adam_m, b->adam_m, bytes) == 0 && memcmp(a->adam_v, b->adam_v, bytes) == 0;
}

static void write_step(int64_t step, int64_t count, int limit) {
    Checkpoint c;
    fill(&c, step, count);
    assert_int_equal(checkpoint_write(dir, &c, limit), STATUS_OK);
    release(&c);
}

static const char *at(const char *name) {
    static char path[300];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void test_round_trip(void **state) {
    (void)state;
    const int64_t counts[] = {5, 1000, 700001}; // less than, and several chunks
    for (int i = 0; i < 3; i++) {
        Checkpoint written, read;
        fill(&written, 100 + i, counts[i]);
        assert_int_equal(checkpoint_write(dir, &written, 2), STATUS_OK);
        char *path;
        assert_int_equal(checkpoint_newest(dir, &path), STATUS_OK);
        assert_non_null(path);
        assert_int_equal(checkpoint_read(path, &read), STATUS_OK);
        assert_true(same(&written, &read));
        checkpoint_free(&read);
        free(path);
        release(&written);
    }
}

// Whatever byte flips and wherever the file ends, it is refused by name.
static void test_damage(void **state) {
    (void)state;
    write_step(7, 64, 2);
    char path[300], *bytes;
    size_t size;
    snprintf(path, sizeof path, "%s", at("step-000007.h5"));
    assert_int_equal(file_read(path, 1 << 24, &bytes, &size), STATUS_OK);
    Checkpoint read;
    for (size_t i = 0; i < size; i += 3) {
        const bool cut = i % 5 == 0;
        bytes[i] = (char)(bytes[i] ^ 0x10);
        FILE *file = fopen(path, "wb");
        assert_non_null(file);
        assert_int_equal(fwrite(bytes, 1, cut ? i : size, file), cut ? i : size);
        assert_int_equal(fclose(file), 0);
        bytes[i] = (char)(bytes[i] ^ 0x10);
        if (checkpoint_read(path, &read) != STATUS_DATA)
            fail_msg("byte %zu of %zu %s: read as if good", i, size, cut ? "is the end" : "flipped");
        assert_non_null(strstr(error_text(), "step-000007.h5"));
        error_clear();
    }
    free(bytes);
}

static void test_newest_passes_over_damage(void **state) {
    (void)state;
    char *path;
    assert_int_equal(checkpoint_newest("no_such_folder", &path), STATUS_OK);
    assert_null(path);
    assert_int_equal(checkpoint_newest(dir, &path), STATUS_OK);
    assert_null(path);
    write_step(100, 1000, 5);
    write_step(200, 1000, 5);
    write_step(300, 1000, 5);
    assert_int_equal(truncate(at("step-000300.h5"), 5000), 0);
    FILE *file = fopen(at("step-000200.h5"), "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, -2500, SEEK_END), 0); // inside a vector
    assert_int_equal(fputc(0x55, file), 0x55);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(checkpoint_newest(dir, &path), STATUS_OK);
    assert_non_null(path);
    assert_string_equal(path, at("step-000100.h5"));
    assert_string_equal(error_text(), "");
    free(path);

    // The run goes on from 100: what it writes stays, even beside newer wrecks.
    write_step(150, 1000, 1);
    assert_true(file_exists(at("step-000150.h5")));
    assert_false(file_exists(at("step-000100.h5")));
    assert_int_equal(checkpoint_newest(dir, &path), STATUS_OK);
    assert_string_equal(path, at("step-000150.h5"));
    free(path);
}

static void test_rotation_and_names(void **state) {
    (void)state;
    const char *others[] = {"step-000001.h5.backup", "step-1.h5",          "xstep-000001.h5", "step-000001.h5x",
                            "step-0000001.h5",       "step--00001.h5",     "step-000001",     "step-000001.hdf5",
                            "step-00000a.h5",        "step-000009.h5.tmp", "STEP-000001.h5",  "best.h5"};
    const size_t other_count = sizeof others / sizeof others[0];
    for (size_t i = 0; i < other_count; i++) assert_int_equal(file_write_durable(at(others[i]), "x", 1), STATUS_OK);
    const int64_t steps[] = {1, 2, 10, 999999, 1000000, 1000001};
    for (int i = 0; i < 6; i++) write_step(steps[i], 10, 2);
    assert_true(file_exists(at("step-1000001.h5")));
    assert_true(file_exists(at("step-1000000.h5")));
    assert_false(file_exists(at("step-999999.h5")));
    assert_false(file_exists(at("step-000010.h5")));
    assert_false(file_exists(at("step-000001.h5")));
    char *path;
    assert_int_equal(checkpoint_newest(dir, &path), STATUS_OK);
    assert_string_equal(path, at("step-1000001.h5")); // by number, not by letters
    free(path);
    for (size_t i = 0; i < other_count; i++) assert_true(file_exists(at(others[i])));
}

static void test_no_space(void **state) {
    (void)state;
    write_step(1, 100, 1);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) { // a limit on the file's size stands in for a full disk, full at many places
        signal(SIGXFSZ, SIG_IGN);
        Checkpoint c;
        fill(&c, 2, 1 << 18);
        bool good = true;
        for (rlim_t bytes = 0; bytes < 3 << 20; bytes += bytes < 16384 ? 400 : 200000) {
            const struct rlimit limit = {bytes, RLIM_INFINITY};
            good = good && setrlimit(RLIMIT_FSIZE, &limit) == 0;
            good = good && checkpoint_write(dir, &c, 1) == STATUS_FAILED;
            good = good && strstr(error_text(), "step-000002.h5") != NULL;
            good = good && strstr(error_text(), ": File too large") != NULL;
            if (!good) printf("%d bytes: %s\n", (int)bytes, error_text());
            error_clear();
        }
        const struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY};
        c.step = 3;
        good = good && setrlimit(RLIMIT_FSIZE, &none) == 0 && checkpoint_write(dir, &c, 2) == STATUS_OK;
        fflush(stdout);
        _exit(good ? 42 : 1);
    }
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 42);
    assert_true(file_exists(at("step-000001.h5"))); // the old one is kept, nothing half is left
    assert_false(file_exists(at("step-000002.h5")));
    assert_false(file_exists(at("step-000002.h5.tmp")));
    assert_true(file_exists(at("step-000003.h5"))); // the next one finds HDF5 unharmed
}

static void test_bad_contents(void **state) {
    (void)state;
    Checkpoint c, read;
    fill(&c, 5, 40);
    c.tensors[1].cols += 1;                                        // beyond the vector
    assert_int_equal(checkpoint_write(dir, &c, 2), STATUS_FAILED); // it is read back before old ones go
    assert_non_null(strstr(error_text(), "tensor 1 does not fit the adapter"));
    assert_false(file_exists(at("step-000005.h5")));
    error_clear();
    release(&c);
    assert_int_equal(file_write_durable(at("step-000006.h5"), "no HDF5", 7), STATUS_OK);
    assert_int_equal(checkpoint_read(at("step-000006.h5"), &read), STATUS_DATA);
    assert_non_null(strstr(error_text(), "step-000006.h5: is too short"));
    error_clear();
}

static int clean(void **state) {
    (void)state;
    DIR *folder = opendir(dir);
    if (folder == NULL) return -1;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        if (entry->d_name[0] != '.') unlink(at(entry->d_name));
    closedir(folder);
    return 0;
}

int main(void) {
    if (mkdtemp(dir) == NULL) return 1;
    log_init(false); // the files passed over are meant
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_round_trip, clean),
        cmocka_unit_test_teardown(test_damage, clean),
        cmocka_unit_test_teardown(test_newest_passes_over_damage, clean),
        cmocka_unit_test_teardown(test_rotation_and_names, clean),
        cmocka_unit_test_teardown(test_no_space, clean),
        cmocka_unit_test_teardown(test_bad_contents, clean),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(dir);
    return failed;
}
