// Checkpoints as HDF5 files. A file appears under its name only when it is complete and on the disk, every byte of it
// is under a checksum, and one is trusted only after it was read in full. When to save is decided elsewhere.
#include "io/checkpoint.h"
#include "io/files.h"
#include "io/hdf5_util.h"
#include "src/base/log.h"
#include "src/base/memory.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FORMAT_VERSION 2

// The attributes that are one number each.
typedef struct Number {
    const char *name;
    size_t offset; // in Checkpoint
    enum { INTEGER, REAL, HASH } kind;
} Number;

static const Number NUMBERS[] = {
    {"step", offsetof(Checkpoint, step), INTEGER},
    {"epoch", offsetof(Checkpoint, epoch), REAL},
    {"batch_in_epoch", offsetof(Checkpoint, batch_in_epoch), INTEGER},
    {"num_tokens", offsetof(Checkpoint, num_tokens), REAL},
    {"seed", offsetof(Checkpoint, seed), INTEGER},
    {"micro_batch_tokens", offsetof(Checkpoint, micro_batch_tokens), INTEGER},
    {"best_eval", offsetof(Checkpoint, best_eval), REAL},
    {"skipped", offsetof(Checkpoint, skipped), INTEGER},
    {"dataset_hash", offsetof(Checkpoint, dataset_hash), HASH},
    {"model_hash", offsetof(Checkpoint, model_hash), HASH},
};
#define NUMBER_COUNT (sizeof NUMBERS / sizeof NUMBERS[0])

static hid_t number_type(const Number *number) {
    return number->kind == INTEGER ? H5T_NATIVE_INT64 : number->kind == REAL ? H5T_NATIVE_DOUBLE : H5T_NATIVE_UINT64;
}

// AdapterTensor, as it lies in memory or packed for the file. Negative on failure.
static hid_t tensor_type(bool packed) {
    AdapterTensor t;
    hid_t name = H5Tcopy(H5T_C_S1), type = H5Tcreate(H5T_COMPOUND, sizeof t);
    bool good = name >= 0 && type >= 0 && H5Tset_size(name, sizeof t.name) >= 0 &&
                H5Tinsert(type, "name", offsetof(AdapterTensor, name), name) >= 0 &&
                H5Tinsert(type, "offset", offsetof(AdapterTensor, offset), H5T_NATIVE_INT64) >= 0 &&
                H5Tinsert(type, "rows", offsetof(AdapterTensor, rows), H5T_NATIVE_INT32) >= 0 &&
                H5Tinsert(type, "cols", offsetof(AdapterTensor, cols), H5T_NATIVE_INT32) >= 0 &&
                (!packed || H5Tpack(type) >= 0);
    if (name >= 0) H5Tclose(name);
    if (good) return type;
    if (type >= 0) H5Tclose(type);
    return H5I_INVALID_HID;
}

static Status write_contents(hid_t file, const char *path, const Checkpoint *c) {
    int version = FORMAT_VERSION;
    TRY(hdf5_put(file, path, "format_version", H5T_NATIVE_INT, &version));
    TRY(hdf5_put_text(file, path, "run_id", c->run_id, true));
    TRY(hdf5_put_text(file, path, "config", c->config != NULL ? c->config : "", true));
    for (size_t i = 0; i < NUMBER_COUNT; i++)
        TRY(hdf5_put(file, path, NUMBERS[i].name, number_type(&NUMBERS[i]), (const char *)c + NUMBERS[i].offset));
    TRY(hdf5_write_vector(file, path, "adapter", H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, c->adapter, c->count));
    TRY(hdf5_write_vector(file, path, "adam_m", H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, c->adam_m, c->count));
    TRY(hdf5_write_vector(file, path, "adam_v", H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, c->adam_v, c->count));
    hid_t stored = tensor_type(true), memory = tensor_type(false);
    Status status = stored < 0 || memory < 0
                        ? hdf5_error(STATUS_FAILED, path, "cannot be written")
                        : hdf5_write_vector(file, path, "tensors", stored, memory, c->tensors, c->tensor_count);
    if (stored >= 0) H5Tclose(stored);
    if (memory >= 0) H5Tclose(memory);
    return status;
}

// The step of a name of the exact form step-%06d.h5, or -1.
static int64_t name_step(const char *name) {
    if (strncmp(name, "step-", 5) != 0) return -1;
    size_t digits = strspn(name + 5, "0123456789");
    if (digits < 6 || digits > 18 || (digits > 6 && name[5] == '0') || strcmp(name + 5 + digits, ".h5") != 0) return -1;
    return strtoll(name + 5, NULL, 10);
}

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

Status checkpoint_steps(const char *dir, int64_t **steps, size_t *count) {
    *steps = NULL;
    *count = 0;
    DIR *folder = opendir(dir);
    if (folder == NULL && errno == ENOENT) return STATUS_OK;
    if (folder == NULL) return error_set(STATUS_FAILED, "%s: %s", dir, strerror(errno));
    size_t room = 0;
    Status status = STATUS_OK;
    for (struct dirent *entry; status == STATUS_OK && (entry = readdir(folder)) != NULL;) {
        int64_t step = name_step(entry->d_name);
        if (step < 0) continue;
        if (*count == room) {
            room = 2 * room + 16;
            int64_t *grown = realloc(*steps, room * sizeof **steps);
            if (grown == NULL) {
                status = error_set(STATUS_FAILED, "%s: out of memory", dir);
                break;
            }
            *steps = grown;
        }
        (*steps)[(*count)++] = step;
    }
    closedir(folder);
    if (*count > 0) qsort(*steps, *count, sizeof **steps, newest_first);
    return status;
}

void checkpoint_path(char path[PATH_MAX], const char *dir, int64_t step) {
    snprintf(path, PATH_MAX, "%s/step-%06" PRId64 ".h5", dir, step);
}

// Newer files than the one just written are what a resume had to pass over: they neither count nor go.
static void rotate(const char *dir, int64_t written, int limit) {
    int64_t *steps;
    size_t count;
    char path[PATH_MAX];
    if (checkpoint_steps(dir, &steps, &count) != STATUS_OK) {
        log_warning("%s; old checkpoints stay", error_text());
        error_clear();
    }
    int kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (steps[i] > written || kept++ < limit) continue;
        checkpoint_path(path, dir, steps[i]);
        if (unlink(path) != 0) log_warning("%s: cannot be removed: %s", path, strerror(errno));
    }
    free(steps);
}

// Old checkpoints go only after the new one has proven to be readable.
static Status read_back(const char *path) {
    Checkpoint read;
    const Status status = checkpoint_read(path, &read);
    if (status == STATUS_OK) checkpoint_free(&read);
    return status == STATUS_OK ? STATUS_OK : STATUS_FAILED;
}

Status checkpoint_write(const char *dir, const Checkpoint *checkpoint, int save_total_limit) {
    char path[PATH_MAX], temporary[PATH_MAX + 4];
    TRY(folder_make(dir));
    checkpoint_path(path, dir, checkpoint->step);
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    hid_t file = hdf5_create_sealed(temporary);
    if (file < 0) return hdf5_error(STATUS_FAILED, path, "cannot be made");
    Status status = write_contents(file, path, checkpoint);
    if (H5Fclose(file) < 0 && status == STATUS_OK) status = hdf5_error(STATUS_FAILED, path, "cannot be written");
    if (status == STATUS_OK) status = hdf5_seal(temporary);
    if (status == STATUS_OK) status = read_back(temporary);
    if (status != STATUS_OK) {
        unlink(temporary);
        return status;
    }
    TRY(file_publish(temporary, path));
    rotate(dir, checkpoint->step, save_total_limit);
    return STATUS_OK;
}

static Status read_vector(hid_t file, const char *path, const char *name, int64_t count, float **out) {
    int64_t length;
    TRY(hdf5_vector_length(file, path, name, &length));
    if (length != count)
        return error_set(STATUS_DATA, "%s: %s has %" PRId64 " values, adapter %" PRId64, path, name, length, count);
    TRY(MEMORY_ALLOC(*out, count, name));
    return hdf5_read_vector(file, path, name, H5T_NATIVE_FLOAT, *out);
}

static Status read_tensors(hid_t file, const char *path, Checkpoint *c) {
    int64_t length;
    TRY(hdf5_vector_length(file, path, "tensors", &length));
    if (length > INT32_MAX) return error_set(STATUS_DATA, "%s: tensors: too many", path);
    TRY(MEMORY_ALLOC(c->tensors, length, "checkpoint"));
    hid_t type = tensor_type(false);
    if (type < 0) return hdf5_error(STATUS_FAILED, path, "tensors");
    Status status = hdf5_read_vector(file, path, "tensors", type, c->tensors);
    H5Tclose(type);
    TRY(status);
    c->tensor_count = (int32_t)length;
    for (int32_t i = 0; i < c->tensor_count; i++) {
        const AdapterTensor *t = &c->tensors[i];
        bool named = memchr(t->name, '\0', sizeof t->name) != NULL;
        if (!named || t->rows < 1 || t->cols < 1 || t->offset < 0 || t->offset > c->count ||
            (int64_t)t->rows * t->cols > c->count - t->offset)
            return error_set(STATUS_DATA, "%s: tensor %d does not fit the adapter", path, (int)i);
    }
    return STATUS_OK;
}

static Status read_contents(hid_t file, const char *path, Checkpoint *c) {
    int version = 0;
    TRY(hdf5_get(file, path, "format_version", H5T_NATIVE_INT, &version));
    if (version != FORMAT_VERSION)
        return error_set(STATUS_DATA, "%s: format_version %d; this program reads %d", path, version, FORMAT_VERSION);
    char *run_id = NULL;
    TRY(hdf5_get_text(file, path, "run_id", &run_id));
    bool fits = strlen(run_id) < sizeof c->run_id;
    if (fits) strcpy(c->run_id, run_id);
    free(run_id);
    if (!fits) return error_set(STATUS_DATA, "%s: run_id is too long", path);
    TRY(hdf5_get_text(file, path, "config", &c->config));
    for (size_t i = 0; i < NUMBER_COUNT; i++)
        TRY(hdf5_get(file, path, NUMBERS[i].name, number_type(&NUMBERS[i]), (char *)c + NUMBERS[i].offset));
    TRY(hdf5_vector_length(file, path, "adapter", &c->count));
    TRY(read_vector(file, path, "adapter", c->count, &c->adapter));
    TRY(read_vector(file, path, "adam_m", c->count, &c->adam_m));
    TRY(read_vector(file, path, "adam_v", c->count, &c->adam_v));
    return read_tensors(file, path, c);
}

Status checkpoint_read(const char *path, Checkpoint *out) {
    *out = (Checkpoint){0};
    TRY(hdf5_check_seal(path));
    hid_t file = hdf5_open(path, H5F_ACC_RDONLY);
    if (file < 0) return hdf5_error(STATUS_DATA, path, "cannot be read");
    Status status = read_contents(file, path, out);
    H5Fclose(file);
    if (status != STATUS_OK) checkpoint_free(out);
    return status;
}

void checkpoint_free(Checkpoint *checkpoint) {
    free(checkpoint->config);
    free(checkpoint->adapter);
    free(checkpoint->adam_m);
    free(checkpoint->adam_v);
    free(checkpoint->tensors);
    *checkpoint = (Checkpoint){0};
}

Status checkpoint_newest(const char *dir, char **path) {
    *path = NULL;
    int64_t *steps;
    size_t count;
    Status status = checkpoint_steps(dir, &steps, &count);
    for (size_t i = 0; i < count && status == STATUS_OK && *path == NULL; i++) {
        char candidate[PATH_MAX];
        Checkpoint checkpoint;
        checkpoint_path(candidate, dir, steps[i]);
        Status read = checkpoint_read(candidate, &checkpoint);
        if (read == STATUS_DATA) {
            log_warning("%s; passed over for an older checkpoint", error_text());
            error_clear();
        } else if (read != STATUS_OK) {
            status = read;
        } else {
            checkpoint_free(&checkpoint);
            *path = strdup(candidate);
            if (*path == NULL) status = error_set(STATUS_FAILED, "%s: out of memory", candidate);
        }
    }
    free(steps);
    return status;
}
