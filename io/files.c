// Files and folders: reading in full, and writing so that a crash leaves the old file or the new one.
#include "io/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_TRIES              10
#define LOCK_PAUSE_MICROSECONDS 5000

Status file_read(const char *path, size_t limit, char **text, size_t *bytes) {
    *text = NULL;
    FILE *file = fopen(path, "rb");
    struct stat info;
    if (file == NULL || fstat(fileno(file), &info) != 0) {
        if (file != NULL) fclose(file);
        return error_set(STATUS_DATA, "%s: %s", path, strerror(errno));
    }
    if (S_ISDIR(info.st_mode) || (size_t)info.st_size > limit) {
        fclose(file);
        return error_set(STATUS_DATA, "%s: %s", path,
                         S_ISDIR(info.st_mode) ? "is a folder; give a file" : "is larger than such a file can be");
    }
    size_t size = (size_t)info.st_size;
    char *buffer = malloc(size + 1);
    size_t got = buffer == NULL ? 0 : fread(buffer, 1, size, file);
    fclose(file);
    if (buffer == NULL || got != size) {
        free(buffer);
        return error_set(STATUS_DATA, "%s: cannot be read in full", path);
    }
    buffer[size] = '\0';
    *text = buffer;
    if (bytes != NULL) *bytes = size;
    return STATUS_OK;
}

bool file_exists(const char *path) {
    return access(path, F_OK) == 0;
}

Status folder_make(const char *path) {
    char part[PATH_MAX];
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof part) return error_set(STATUS_FAILED, "%s: not a usable folder name", path);
    memcpy(part, path, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (part[i] != '/' && part[i] != '\0') continue;
        char kept = part[i];
        part[i] = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return error_set(STATUS_FAILED, "%s: cannot make the folder: %s", part, strerror(errno));
        part[i] = kept;
    }
    struct stat info;
    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode))
        return error_set(STATUS_FAILED, "%s: is not a folder; name another", path);
    return STATUS_OK;
}

Status file_sync(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int failed = fd < 0 || fsync(fd) != 0;
    int error = errno;
    if (fd >= 0) close(fd);
    // Some file systems cannot fsync a folder (EINVAL); the rename is then as durable as they make it.
    if (failed && error != EINVAL)
        return error_set(STATUS_FAILED, "%s: cannot be made durable: %s", path, strerror(error));
    return STATUS_OK;
}

Status file_publish(const char *temporary, const char *path) {
    Status status = file_sync(temporary);
    if (status == STATUS_OK && rename(temporary, path) != 0)
        status = error_set(STATUS_FAILED, "%s: cannot be renamed to %s: %s", temporary, path, strerror(errno));
    if (status != STATUS_OK) {
        unlink(temporary);
        return status;
    }
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash == NULL) return file_sync(".");
    slash[slash == folder ? 1 : 0] = '\0';
    return file_sync(folder);
}

Status file_write_durable(const char *path, const void *bytes, size_t size) {
    char temporary[PATH_MAX];
    snprintf(temporary, sizeof temporary, "%s.%ld.tmp", path, (long)getpid());
    FILE *file = fopen(temporary, "wb");
    if (file == NULL) return error_set(STATUS_FAILED, "%s: cannot be written: %s", temporary, strerror(errno));
    bool written = fwrite(bytes, 1, size, file) == size;
    written = fclose(file) == 0 && written;
    if (!written) {
        Status status = error_set(STATUS_FAILED, "%s: cannot be written: %s", temporary, strerror(errno));
        unlink(temporary);
        return status;
    }
    return file_publish(temporary, path);
}

Status file_copy(const char *from, const char *to, size_t limit) {
    char *bytes = NULL;
    size_t size = 0;
    TRY(file_read(from, limit, &bytes, &size));
    Status status = file_write_durable(to, bytes, size);
    free(bytes);
    return status;
}

// `path` without slashes at its end, as far as it fits.
static Status clean_name(char out[PATH_MAX], const char *path) {
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    if (length == 0 || length >= PATH_MAX - 32) return error_set(STATUS_USAGE, "%s: not a usable folder name", path);
    memcpy(out, path, length);
    out[length] = '\0';
    return STATUS_OK;
}

// The folder that `path`, a clean name, lies in.
static void parent_of(char out[PATH_MAX], const char *path) {
    snprintf(out, PATH_MAX, "%s", path);
    char *slash = strrchr(out, '/');
    if (slash == NULL)
        strcpy(out, ".");
    else
        slash[slash == out ? 1 : 0] = '\0';
}

static Status check_vacant(const char *path) {
    struct stat info;
    if (lstat(path, &info) != 0) return STATUS_OK; // a link could not be replaced by a folder
    if (!S_ISDIR(info.st_mode)) return error_set(STATUS_USAGE, "%s: is there and no folder; name another", path);
    DIR *folder = opendir(path);
    if (folder == NULL) return error_set(STATUS_FAILED, "%s: %s", path, strerror(errno));
    int entries = 0;
    while (readdir(folder) != NULL) entries++;
    closedir(folder);
    if (entries > 2) return error_set(STATUS_USAGE, "%s: is not empty; name a new folder, or remove it", path);
    return STATUS_OK;
}

Status folder_begin(const char *path, char temporary[PATH_MAX]) {
    char name[PATH_MAX], parent[PATH_MAX];
    TRY(clean_name(name, path));
    TRY(check_vacant(name));
    parent_of(parent, name);
    TRY(folder_make(parent));
    const int length = snprintf(temporary, PATH_MAX, "%s.%ld.tmp", name, (long)getpid());
    folder_discard(temporary); // of an earlier process of this number
    if (length >= PATH_MAX || mkdir(temporary, 0777) != 0)
        return error_set(STATUS_FAILED, "%s: cannot make the folder: %s", temporary, strerror(errno));
    return STATUS_OK;
}

Status folder_publish(const char *temporary, const char *path) {
    char name[PATH_MAX], parent[PATH_MAX];
    Status status = clean_name(name, path);
    if (status == STATUS_OK) status = file_sync(temporary);
    if (status == STATUS_OK && rename(temporary, name) != 0)
        status = error_set(STATUS_FAILED, "%s: cannot be renamed to %s: %s", temporary, name, strerror(errno));
    if (status != STATUS_OK) {
        folder_discard(temporary);
        return status;
    }
    parent_of(parent, name);
    return file_sync(parent);
}

void folder_discard(const char *path) {
    DIR *folder = opendir(path);
    if (folder == NULL) return;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlinkat(dirfd(folder), entry->d_name, 0);
    closedir(folder);
    rmdir(path);
}

// Whoever looks (run_locked) holds it for an instant.
static bool take_lock(int fd) {
    for (int i = 0; i < LOCK_TRIES; i++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0) return true;
        usleep(LOCK_PAUSE_MICROSECONDS);
    }
    return false;
}

Status run_lock(const char *dir, int *fd) {
    char path[PATH_MAX], owner[256] = "";
    snprintf(path, sizeof path, "%s/lock", dir);
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*fd < 0) return error_set(STATUS_FAILED, "%s: cannot be opened: %s", path, strerror(errno));
    if (!take_lock(*fd)) {
        ssize_t got = read(*fd, owner, sizeof owner - 1);
        owner[got > 0 ? got : 0] = '\0';
        owner[strcspn(owner, "\n")] = '\0';
        close(*fd);
        *fd = -1;
        return error_set(STATUS_FAILED,
                         "%s: another run is writing to this folder (%s); wait for it or choose another "
                         "train.output_dir",
                         path, owner);
    }
    char host[128] = "";
    gethostname(host, sizeof host - 1);
    const char *job = getenv("SLURM_JOB_ID");
    int length = snprintf(owner, sizeof owner, "host %s, process %ld%s%.20s\n", host, (long)getpid(),
                          job != NULL ? ", Slurm job " : "", job != NULL ? job : "");
    if (ftruncate(*fd, 0) != 0 || pwrite(*fd, owner, (size_t)length, 0) != length)
        return error_set(STATUS_FAILED, "%s: cannot be written: %s", path, strerror(errno));
    return STATUS_OK;
}

bool run_locked(const char *dir) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/lock", dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    bool held = flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    close(fd);
    return held;
}

void run_unlock(int fd) {
    if (fd >= 0) close(fd);
}
