// The targets' common parts, see fuzz.h. Files go to memory: a target writes some with every input.
#include "tests/fuzz/fuzz.h"
#include "src/base/log.h"

#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *const fuzz_modules[] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", NULL};

#define NAMES_MAX 16 // different files a target writes

static char folder[PATH_MAX / 2];
static char *paths[NAMES_MAX];

void fuzz_check(bool holds, const char *condition, const char *file, int line) {
    if (holds) return;
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, condition);
    abort();
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *where) {
    (void)info;
    (void)type;
    (void)where;
    return remove(path);
}

static void remove_folder(void) {
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    for (int i = 0; i < NAMES_MAX; i++) free(paths[i]);
}

const char *fuzz_folder(void) {
    if (folder[0] != '\0') return folder;
    const char *base = getenv("TMPDIR");
    if (base == NULL) base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(folder, sizeof folder, "%s/kto-fuzz-XXXXXX", base);
    FUZZ_CHECK(mkdtemp(folder) != NULL);
    atexit(remove_folder);
    log_init(false);
    return folder;
}

static const char *path_of(const char *name) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    int i = 0;
    while (paths[i] != NULL && strcmp(paths[i], path) != 0) i++;
    FUZZ_CHECK(i < NAMES_MAX - 1);
    if (paths[i] != NULL) return paths[i];
    paths[i] = strdup(path);
    FUZZ_CHECK(paths[i] != NULL);
    char *slash = strrchr(path, '/');
    *slash = '\0';
    mkdir(path, 0777);
    return paths[i];
}

// A new file each time: a reader that maps the last one may not see its bytes change.
static int create(const char *path) {
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    FUZZ_CHECK(fd >= 0);
    return fd;
}

const char *fuzz_file(const char *name, const void *data, size_t size) {
    const char *path = path_of(name);
    int fd = create(path);
    FUZZ_CHECK(write(fd, data, size) == (ssize_t)size);
    close(fd);
    return path;
}

const char *fuzz_tensor_file(const char *name, const uint8_t *data, size_t size) {
    const char *path = path_of(name);
    const uint8_t *end = size == 0 ? NULL : memchr(data, '\0', size);
    size_t header = end == NULL ? size : (size_t)(end - data), rest = end == NULL ? 0 : size - header - 1;
    unsigned char prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (unsigned char)((uint64_t)header >> 8 * i);
    int fd = create(path);
    FUZZ_CHECK(write(fd, prefix, 8) == 8 && write(fd, data, header) == (ssize_t)header);
    FUZZ_CHECK(rest == 0 || write(fd, end + 1, rest) == (ssize_t)rest);
    close(fd);
    return path;
}

void fuzz_end(Status status) {
    const char *text = error_text();
    FUZZ_CHECK((status == STATUS_OK) == (text[0] == '\0'));
    for (; *text != '\0'; text++) FUZZ_CHECK((unsigned char)*text >= ' ' && *text != 127);
    error_clear();
}

FuzzTexts fuzz_texts(const uint8_t *data, size_t size, size_t limit) {
    FuzzTexts out = {calloc(limit, sizeof *out.text), 0};
    FUZZ_CHECK(out.text != NULL);
    for (size_t from = 0; out.count < limit;) {
        const uint8_t *end = from == size || out.count + 1 == limit ? NULL : memchr(data + from, '\0', size - from);
        size_t bytes = end == NULL ? size - from : (size_t)(end - data) - from;
        char *text = malloc(bytes + 1);
        FUZZ_CHECK(text != NULL);
        if (bytes > 0) memcpy(text, data + from, bytes);
        text[bytes] = '\0';
        out.text[out.count++] = text;
        if (end == NULL) break;
        from += bytes + 1;
    }
    return out;
}

void fuzz_texts_free(FuzzTexts *texts) {
    for (size_t i = 0; i < texts->count; i++) free(texts->text[i]);
    free(texts->text);
}

void fuzz_touch(const void *bytes, size_t size) {
    static volatile unsigned char sum;
    const unsigned char *at = bytes;
    unsigned char total = 0;
    for (size_t i = 0; i < size; i++) total = (unsigned char)(total + at[i]);
    sum = total;
    (void)sum;
}
