// Runs a fuzz target once over each stored input: the seeds and the inputs that once broke it. Needs no libFuzzer, so
// that every build has these as tests.
//
//     fuzz_NAME FILE|FOLDER ...
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int ran;

static bool run_file(const char *path) {
    FILE *file = fopen(path, "rb");
    struct stat info;
    if (file == NULL || stat(path, &info) != 0) {
        perror(path);
        return false;
    }
    size_t size = (size_t)info.st_size;
    uint8_t *bytes = malloc(size > 0 ? size : 1); // of the very size, so that a sanitizer sees the first byte too many
    bool good = bytes != NULL && fread(bytes, 1, size, file) == size;
    fclose(file);
    if (good) {
        fprintf(stderr, "%s\n", path); // before it: the last line names what crashed
        LLVMFuzzerTestOneInput(bytes, size);
        ran++;
    }
    free(bytes);
    return good;
}

static bool run_folder(const char *path) {
    DIR *folder = opendir(path);
    if (folder == NULL) return true; // a target that never crashed has no folder of crashes
    bool good = true;
    for (struct dirent *entry; good && (entry = readdir(folder)) != NULL;) {
        char name[PATH_MAX];
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (entry->d_name[0] != '.') good = run_file(name);
    }
    closedir(folder);
    return good;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        struct stat info;
        bool file = stat(argv[i], &info) == 0 && S_ISREG(info.st_mode);
        if (!(file ? run_file(argv[i]) : run_folder(argv[i]))) return 1;
    }
    printf("%d inputs\n", ran);
    return ran == 0;
}
