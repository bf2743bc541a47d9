// HDF5 as our files use it (1.10.7 and later). Every call is checked, closing included: on a full disk H5Dwrite and
// H5Fclose can both succeed while H5Dclose fails.
#include "io/hdf5_util.h"
#include "src/base/hash.h"
#include "src/base/log.h"
#include "src/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// A reader beside a live writer tries again when it meets a half-written block, waiting twice as long each time from 1
// ns on; HDF5's default of 100 tries never ends on a damaged file. This is a quarter of a second a block.
#define READ_ATTEMPTS 28
// A writer that grows a file overwrites blocks in place. Blocks smaller than a page cross none, and Linux looks for a
// kill between pages only, so that a killed write leaves such a block as it was or as it shall be.
#define PAGE_BYTES  4096
#define LOST_BYTES  ((uint64_t)1 << 30) // more than a file grows between two fsyncs
#define CHUNK_BYTES ((hsize_t)1 << 20)  // the default chunk cache holds one
#define HASH_PIECE  ((size_t)1 << 20)   // a digest is chained over pieces of this size
#define SEAL_FORMAT "kto.c: HDF5 from byte %d on, %lld bytes, chained XXH3 of 1 MiB pieces %016llx"

// Keeps the innermost description, and rather the one with the system's own words.
static herr_t pick_reason(unsigned depth, const H5E_error2_t *error, void *out) {
    (void)depth;
    const char *text = error->desc != NULL ? error->desc : "";
    char *reason = out;
    const char *system = strstr(text, "error message = '");
    if (system != NULL) {
        system += strlen("error message = '");
        snprintf(reason, 256, "%.*s", (int)strcspn(system, "'"), system);
    } else if (reason[0] == '\0') {
        snprintf(reason, 256, "%s", text);
    }
    return 0;
}

Status hdf5_error(Status status, const char *path, const char *what) {
    char reason[256] = "";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, pick_reason, reason);
    return error_set(status, "%s: %s%s%s", path, what, reason[0] != '\0' ? ": " : "", reason);
}

static herr_t find_lock(unsigned depth, const H5E_error2_t *error, void *found) {
    (void)depth;
    if (error->desc != NULL && strstr(error->desc, "unable to lock file") != NULL) *(bool *)found = true;
    return 0;
}

bool hdf5_was_locked(void) {
    bool found = false;
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, find_lock, &found);
    return found;
}

// SWMR needs the 1.10 format; not the newest, so that older readers can follow.
static hid_t access_list(bool lock) {
    // No clean-up by HDF5 when the program ends: after a failed close (a full disk) it crashes in there, and the exit
    // code with it. All files are closed by then. Counts only before the library's first use.
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    if (access < 0 || H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_LATEST) < 0 ||
        H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) < 0 || H5Pset_file_locking(access, lock, true) < 0) {
        if (access >= 0) H5Pclose(access);
        return H5I_INVALID_HID;
    }
    return access;
}

// Closing a property list does not fail and, under this guard, does not clear the reason of what failed before it.
static void close_keeping_errors(hid_t list) {
    hid_t stack = H5Eget_current_stack();
    H5Pclose(list);
    if (stack >= 0) H5Eset_current_stack(stack);
}

static hid_t create_file(const char *path, hsize_t head_bytes, hsize_t page_bytes) {
    hid_t access = access_list(true), creation = H5Pcreate(H5P_FILE_CREATE), file = H5I_INVALID_HID;
    bool good = access >= 0 && creation >= 0 && H5Pset_userblock(creation, head_bytes) >= 0;
    if (good && page_bytes > 0)
        good = H5Pset_file_space_strategy(creation, H5F_FSPACE_STRATEGY_PAGE, false, 1) >= 0 &&
               H5Pset_file_space_page_size(creation, page_bytes) >= 0;
    if (good) file = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
    if (creation >= 0) close_keeping_errors(creation);
    if (access >= 0) close_keeping_errors(access);
    return file;
}

hid_t hdf5_create_growing(const char *path) {
    return create_file(path, 0, PAGE_BYTES);
}

hid_t hdf5_create_sealed(const char *path) {
    return create_file(path, HDF5_SEAL_BYTES, 0);
}

// The seal that belongs to what follows it in the file; the bytes that stand there now.
static Status make_seal(int fd, const char *path, char seal[HDF5_SEAL_BYTES], char found[HDF5_SEAL_BYTES]) {
    char *buffer = NULL;
    TRY(MEMORY_ALLOC(buffer, HASH_PIECE, "a file's digest"));
    uint64_t digest = 0;
    off_t at = HDF5_SEAL_BYTES;
    ssize_t got = pread(fd, found, HDF5_SEAL_BYTES, 0);
    bool good = got == HDF5_SEAL_BYTES;
    while (good && (got = pread(fd, buffer, HASH_PIECE, at)) > 0) { // short reads are rare and would change the pieces
        for (ssize_t more;
             got < (ssize_t)HASH_PIECE && (more = pread(fd, buffer + got, HASH_PIECE - (size_t)got, at + got)) > 0;)
            got += more;
        digest = hash_bytes(digest, buffer, (size_t)got);
        at += got;
    }
    const int error = got < 0 ? errno : 0;
    free(buffer);
    if (error != 0) return error_set(STATUS_DATA, "%s: cannot be read: %s", path, strerror(error));
    if (!good) return error_set(STATUS_DATA, "%s: is too short", path);
    memset(seal, '\n', HDF5_SEAL_BYTES);
    const int length = snprintf(seal, HDF5_SEAL_BYTES, SEAL_FORMAT, HDF5_SEAL_BYTES, (long long)(at - HDF5_SEAL_BYTES),
                                (unsigned long long)digest);
    seal[length] = '\n';
    return STATUS_OK;
}

Status hdf5_seal(const char *path) {
    char seal[HDF5_SEAL_BYTES], found[HDF5_SEAL_BYTES];
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return error_set(STATUS_FAILED, "%s: %s", path, strerror(errno));
    Status status = make_seal(fd, path, seal, found);
    if (status == STATUS_OK && pwrite(fd, seal, sizeof seal, 0) != sizeof seal)
        status = error_set(STATUS_FAILED, "%s: cannot be written: %s", path, strerror(errno));
    if (close(fd) != 0 && status == STATUS_OK)
        status = error_set(STATUS_FAILED, "%s: cannot be written: %s", path, strerror(errno));
    return status == STATUS_OK ? STATUS_OK : STATUS_FAILED;
}

Status hdf5_check_seal(const char *path) {
    char seal[HDF5_SEAL_BYTES], found[HDF5_SEAL_BYTES];
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return error_set(STATUS_DATA, "%s: %s", path, strerror(errno));
    Status status = make_seal(fd, path, seal, found);
    close(fd);
    TRY(status);
    if (memcmp(seal, found, sizeof seal) == 0) return STATUS_OK;
    return error_set(STATUS_DATA, "%s: is damaged: its contents do not have the digest that it was written with", path);
}

static hid_t open_file(const char *path, unsigned flags, bool lock) {
    hid_t access = access_list(lock);
    if (access < 0) return access;
    bool follows = (flags & H5F_ACC_SWMR_READ) != 0;
    hid_t file = H5I_INVALID_HID;
    if (!follows || H5Pset_metadata_read_attempts(access, READ_ATTEMPTS) >= 0) file = H5Fopen(path, flags, access);
    close_keeping_errors(access);
    return file;
}

hid_t hdf5_open(const char *path, unsigned flags) {
    return open_file(path, flags, true);
}

hid_t hdf5_open_growing(const char *path) {
    const unsigned flags = H5F_ACC_RDWR | H5F_ACC_SWMR_WRITE;
    hid_t file = open_file(path, flags, true);
    return file < 0 && hdf5_was_locked() ? open_file(path, flags, false) : file;
}

// HDF5 opens nothing shorter than its header says, unless that says that a writer is at it. Superblock versions 2 and 3
// (HDF5 File Format Specification 3.0, II.A) have that length at byte 28, after "\211HDF".
void hdf5_restore_length(const char *path) {
    unsigned char head[36];
    struct stat info;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0 && pread(fd, head, sizeof head, 0) == sizeof head && memcmp(head, "\211HDF\r\n\032\n", 8) == 0 &&
        (head[8] == 2 || head[8] == 3) && head[9] == 8 && fstat(fd, &info) == 0) {
        uint64_t length = 0;
        for (int i = 7; i >= 0; i--) length = length << 8 | head[28 + i];
        bool short_of_it = length > (uint64_t)info.st_size && length - (uint64_t)info.st_size <= LOST_BYTES;
        if (short_of_it && ftruncate(fd, (off_t)length) != 0) log_warning("%s: cannot be lengthened", path);
    }
    if (fd >= 0) close(fd);
}

Status hdf5_write_vector(hid_t file, const char *path, const char *name, hid_t file_type, hid_t memory_type,
                         const void *data, int64_t count) {
    hsize_t length = (hsize_t)count, chunk = CHUNK_BYTES / H5Tget_size(file_type);
    if (chunk > length) chunk = length;
    hid_t space = H5Screate_simple(1, &length, NULL), list = H5Pcreate(H5P_DATASET_CREATE), data_set = H5I_INVALID_HID;
    // The data follow at once, so the chunks need no filling first.
    bool good = space >= 0 && list >= 0 && H5Pset_chunk(list, 1, &chunk) >= 0 && H5Pset_fletcher32(list) >= 0 &&
                H5Pset_fill_time(list, H5D_FILL_TIME_NEVER) >= 0;
    if (good) data_set = H5Dcreate2(file, name, file_type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    good = data_set >= 0 && H5Dwrite(data_set, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0;
    good = good && H5Dclose(data_set) >= 0;
    Status status = good ? STATUS_OK : hdf5_error(STATUS_FAILED, path, "cannot be written");
    if (list >= 0) H5Pclose(list);
    if (space >= 0) H5Sclose(space);
    return status;
}

// Negative on failure, with *foreign set where the dataset is there but not one of ours.
static hid_t open_vector(hid_t file, const char *name, bool *foreign) {
    H5L_info_t link;
    hsize_t chunk = 0;
    *foreign = false;
    if (H5Lget_info(file, name, &link, H5P_DEFAULT) < 0) return H5I_INVALID_HID;
    *foreign = link.type != H5L_TYPE_HARD;
    hid_t data_set = *foreign ? H5I_INVALID_HID : H5Dopen2(file, name, H5P_DEFAULT);
    if (data_set < 0) return data_set;
    hid_t list = H5Dget_create_plist(data_set), type = H5Dget_type(data_set);
    size_t size = type < 0 ? 0 : H5Tget_size(type);
    *foreign = list < 0 || size == 0 || H5Pget_layout(list) != H5D_CHUNKED || H5Pget_chunk(list, 1, &chunk) != 1 ||
               chunk > CHUNK_BYTES / size;
    if (type >= 0) H5Tclose(type);
    if (list >= 0) H5Pclose(list);
    if (!*foreign) return data_set;
    H5Dclose(data_set);
    return H5I_INVALID_HID;
}

// A forged file can name another one: by an external link, or as the place of a dataset's contents (external storage,
// virtual datasets). Ours have neither, so only what lies in the file itself, in chunks no larger than we write, is
// opened.
Status hdf5_open_vector(hid_t file, const char *path, const char *name, hid_t *data_set) {
    bool foreign;
    *data_set = open_vector(file, name, &foreign);
    if (*data_set >= 0) return STATUS_OK;
    if (foreign) return error_set(STATUS_DATA, "%s: %s is not stored as this program does", path, name);
    return hdf5_error(STATUS_DATA, path, name);
}

Status hdf5_vector_length(hid_t file, const char *path, const char *name, int64_t *count) {
    *count = 0;
    hid_t data_set;
    TRY(hdf5_open_vector(file, path, name, &data_set));
    hid_t space = H5Dget_space(data_set), type = H5Dget_type(data_set);
    hsize_t length = 0;
    struct stat info;
    Status status = STATUS_OK;
    if (space < 0 || type < 0) {
        status = hdf5_error(STATUS_DATA, path, name);
    } else if (H5Sget_simple_extent_ndims(space) != 1 || H5Sget_simple_extent_dims(space, &length, NULL) != 1 ||
               stat(path, &info) != 0 || length > (hsize_t)info.st_size / H5Tget_size(type)) {
        status = error_set(STATUS_DATA, "%s: %s has a length that the file does not hold", path, name);
    }
    *count = (int64_t)length;
    if (type >= 0) H5Tclose(type);
    if (space >= 0) H5Sclose(space);
    H5Dclose(data_set);
    return status;
}

Status hdf5_read_vector(hid_t file, const char *path, const char *name, hid_t memory_type, void *data) {
    hid_t data_set;
    TRY(hdf5_open_vector(file, path, name, &data_set));
    Status status = STATUS_OK;
    if (H5Dread(data_set, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
        status = hdf5_error(STATUS_DATA, path, name);
    H5Dclose(data_set);
    return status;
}

Status hdf5_put(hid_t object, const char *path, const char *name, hid_t type, const void *value) {
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attribute = space < 0 ? space : H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool good = attribute >= 0 && H5Awrite(attribute, type, value) >= 0 && H5Aclose(attribute) >= 0;
    Status status = good ? STATUS_OK : hdf5_error(STATUS_FAILED, path, "cannot be written");
    if (space >= 0) H5Sclose(space);
    return status;
}

Status hdf5_get(hid_t object, const char *path, const char *name, hid_t type, void *value) {
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    hid_t space = attribute < 0 ? attribute : H5Aget_space(attribute);
    Status status = STATUS_OK;
    if (space < 0)
        status = hdf5_error(STATUS_DATA, path, name);
    else if (H5Sget_simple_extent_npoints(space) != 1)
        status = error_set(STATUS_DATA, "%s: attribute %s is not one value", path, name);
    else if (H5Aread(attribute, type, value) < 0)
        status = hdf5_error(STATUS_DATA, path, name);
    if (space >= 0) H5Sclose(space);
    if (attribute >= 0) H5Aclose(attribute);
    return status;
}

Status hdf5_put_text(hid_t object, const char *path, const char *name, const char *text, bool plain) {
    hid_t type = H5Tcopy(H5T_C_S1);
    bool good = type >= 0 && H5Tset_size(type, plain ? strlen(text) + 1 : H5T_VARIABLE) >= 0 &&
                H5Tset_cset(type, H5T_CSET_UTF8) >= 0;
    Status status = good ? hdf5_put(object, path, name, type, plain ? (const void *)text : (const void *)&text)
                         : hdf5_error(STATUS_FAILED, path, name);
    if (type >= 0) H5Tclose(type);
    return status;
}

Status hdf5_get_text(hid_t object, const char *path, const char *name, char **text) {
    *text = NULL;
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    hid_t type = attribute < 0 ? attribute : H5Aget_type(attribute);
    Status status = STATUS_OK;
    struct stat info;
    size_t size = type < 0 ? 0 : H5Tget_size(type);
    if (type < 0)
        status = hdf5_error(STATUS_DATA, path, name);
    else if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0 || stat(path, &info) != 0 ||
             size > (size_t)info.st_size || H5Aget_storage_size(attribute) != size)
        status = error_set(STATUS_DATA, "%s: attribute %s is not text", path, name);
    else if ((status = memory_alloc((void **)text, size + 1, 1, name)) == STATUS_OK &&
             H5Aread(attribute, type, *text) < 0)
        status = hdf5_error(STATUS_DATA, path, name);
    if (status != STATUS_OK) {
        free(*text);
        *text = NULL;
    }
    if (type >= 0) H5Tclose(type);
    if (attribute >= 0) H5Aclose(attribute);
    return status;
}

// The library allocates it, by a length that it checks against the heap in the file.
Status hdf5_get_variable_text(hid_t object, const char *path, const char *name, char **text) {
    *text = NULL;
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    hid_t space = attribute < 0 ? attribute : H5Aget_space(attribute);
    hid_t stored = attribute < 0 ? attribute : H5Aget_type(attribute), type = H5Tcopy(H5T_C_S1);
    char *read = NULL;
    Status status = STATUS_OK;
    if (space < 0 || stored < 0 || type < 0 || H5Tset_size(type, H5T_VARIABLE) < 0 ||
        H5Tset_cset(type, H5T_CSET_UTF8) < 0)
        status = hdf5_error(STATUS_DATA, path, name);
    else if (H5Tis_variable_str(stored) <= 0 || H5Sget_simple_extent_npoints(space) != 1)
        status = error_set(STATUS_DATA, "%s: attribute %s is not one text", path, name);
    else if (H5Aread(attribute, type, &read) < 0)
        status = hdf5_error(STATUS_DATA, path, name);
    else if ((*text = strdup(read == NULL ? "" : read)) == NULL)
        status = error_set(STATUS_FAILED, "%s: out of memory", path);
    if (read != NULL) H5free_memory(read);
    if (type >= 0) H5Tclose(type);
    if (stored >= 0) H5Tclose(stored);
    if (space >= 0) H5Sclose(space);
    if (attribute >= 0) H5Aclose(attribute);
    return status;
}
