// A group's setup and teardown: an empty folder as the current directory, removed with all that is in it at the end.
#pragma once
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char temporary_folder[] = "/tmp/kto-test-XXXXXX";

static int enter_temporary_folder(void **state) {
    (void)state;
    return mkdtemp(temporary_folder) == NULL || chdir(temporary_folder) != 0;
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *where) {
    (void)info;
    (void)type;
    (void)where;
    return remove(path);
}

static int remove_temporary_folder(void **state) {
    (void)state;
    return chdir("/") != 0 || nftw(temporary_folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS) != 0;
}
