// Folders that get their name when they are complete, and copies.
#include "io/files.h"
#include "tests/io/temporary_folder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>
#include <sys/stat.h>

static void fill(const char *folder, const char *name, const char *text) {
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(file_write_durable(path, text, strlen(text)), STATUS_OK);
}

static void expect_refused(const char *path, const char *message) {
    char temporary[PATH_MAX];
    error_clear();
    assert_int_equal(folder_begin(path, temporary), STATUS_USAGE);
    assert_string_equal(error_text(), message);
}

static void folders(void **state) {
    (void)state;
    char temporary[PATH_MAX], other[PATH_MAX];
    assert_int_equal(folder_begin("deep/er/out//", temporary), STATUS_OK);
    snprintf(other, sizeof other, "deep/er/out.%ld.tmp", (long)getpid());
    assert_string_equal(temporary, other);
    fill(temporary, "a", "text");
    assert_false(file_exists("deep/er/out"));
    // What this process left once, e.g. under the same number in another container, is not taken over.
    assert_int_equal(folder_begin("deep/er/out", temporary), STATUS_OK);
    fill(temporary, "b", "text");
    assert_int_equal(folder_publish(temporary, "deep/er/out//"), STATUS_OK);
    assert_true(file_exists("deep/er/out/b"));
    assert_false(file_exists("deep/er/out/a"));
    assert_false(file_exists(temporary));

    expect_refused("deep/er/out", "deep/er/out: is not empty; name a new folder, or remove it");
    expect_refused("deep/er/out/b", "deep/er/out/b: is there and no folder; name another");
    expect_refused("", ": not a usable folder name");
    assert_int_equal(symlink("deep", "link"), 0);
    expect_refused("link", "link: is there and no folder; name another");

    assert_int_equal(mkdir("empty", 0777), 0);
    assert_int_equal(folder_begin("empty", temporary), STATUS_OK);
    fill(temporary, "c", "text");
    assert_int_equal(folder_publish(temporary, "empty"), STATUS_OK);
    assert_true(file_exists("empty/c"));

    // Filled by another meanwhile: that stays, ours goes.
    assert_int_equal(folder_begin("race", temporary), STATUS_OK);
    fill(temporary, "d", "text");
    assert_int_equal(mkdir("race", 0777), 0);
    fill("race", "theirs", "text");
    error_clear();
    assert_int_equal(folder_publish(temporary, "race"), STATUS_FAILED);
    assert_false(file_exists(temporary));
    assert_true(file_exists("race/theirs"));

    assert_int_equal(folder_begin("dropped", temporary), STATUS_OK);
    fill(temporary, "e", "text");
    folder_discard(temporary);
    assert_false(file_exists(temporary));
    assert_false(file_exists("dropped"));
}

static void copies(void **state) {
    (void)state;
    static const char bytes[] = {'a', 0, 'b', '\n', 0};
    assert_int_equal(file_write_durable("from", bytes, sizeof bytes), STATUS_OK);
    assert_int_equal(symlink("from", "from-link"), 0);
    assert_int_equal(file_copy("from-link", "to", 100), STATUS_OK);
    char *text = NULL;
    size_t size = 0;
    assert_int_equal(file_read("to", 100, &text, &size), STATUS_OK);
    assert_int_equal(size, sizeof bytes);
    assert_memory_equal(text, bytes, size);
    free(text);
    struct stat info;
    assert_int_equal(lstat("to", &info), 0);
    assert_true(S_ISREG(info.st_mode)); // the file, not the link to it
    error_clear();
    assert_int_equal(file_copy("from", "to", 4), STATUS_DATA);
    assert_string_equal(error_text(), "from: is larger than such a file can be");
    error_clear();
    assert_int_equal(file_copy("none", "to", 4), STATUS_DATA);
    assert_string_equal(error_text(), "none: No such file or directory");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(folders), cmocka_unit_test(copies)};
    return cmocka_run_group_tests(tests, enter_temporary_folder, remove_temporary_folder);
}
