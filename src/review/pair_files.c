// Reading what the files hold, cutting what was half-written, and appending. A process that is killed between two
// writes leaves a paired file that is whole but for its last line, and an unpaired one that lacks rows of it.
#include "src/review/pair_files.h"

#include "src/base/log.h"
#include "src/data/rows.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static Status refuse_file(const char *path, const char *what) {
    return error_set(STATUS_FAILED, "%s: cannot be %s: %s", path, what, strerror(errno));
}

static Status open_file(const char *path, int *fd, char **text, size_t *bytes) {
    struct stat info;
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_APPEND, 0666);
    if (*fd < 0 || fstat(*fd, &info) != 0) return refuse_file(path, "opened");
    if (!S_ISREG(info.st_mode)) return error_set(STATUS_USAGE, "%s: is not a file; name another", path);
    if (flock(*fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) // some file systems have no locks
        return error_set(STATUS_USAGE, "%s: another process writes to it; wait for it or name another file", path);
    *bytes = (size_t)info.st_size;
    *text = malloc(*bytes + 1);
    if (*text == NULL) return error_set(STATUS_FAILED, "%s: out of memory to read it", path);
    for (size_t done = 0; done < *bytes;) {
        const ssize_t got = pread(*fd, *text + done, *bytes - done, (off_t)done);
        if (got <= 0) return refuse_file(path, "read in full");
        done += (size_t)got;
    }
    (*text)[*bytes] = '\0';
    return STATUS_OK;
}

static Status append(int fd, const char *path, const char *text, size_t bytes) {
    while (bytes > 0) {
        const ssize_t put = write(fd, text, bytes);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return refuse_file(path, "written");
        text += put;
        bytes -= (size_t)put;
    }
    return fdatasync(fd) != 0 && errno != EINVAL ? refuse_file(path, "made durable") : STATUS_OK;
}

// The unpaired rows of the whole lines in a paired text, two a line. Caller frees *out, also after an error.
static Status unpaired_rows(const char *text, size_t bytes, char **out, size_t *out_bytes) {
    FILE *to = open_memstream(out, out_bytes);
    if (to == NULL) return error_set(STATUS_FAILED, "out of memory for rows");
    Status status = STATUS_OK;
    for (const char *end; status == STATUS_OK && (end = memchr(text, '\n', bytes)) != NULL;) {
        const size_t length = (size_t)(end - text);
        for (int which = 0; which < 2 && status == STATUS_OK; which++) {
            char *row = NULL;
            status = data_unpair_line(text, length, which, &row);
            if (status == STATUS_OK) fprintf(to, "%s\n", row);
            free(row);
        }
        text += length + 1;
        bytes -= length + 1;
    }
    if (fclose(to) != 0 && status == STATUS_OK) status = error_set(STATUS_FAILED, "out of memory for rows");
    return status;
}

// Moves *passed behind the title of a row, which must have been made of one of the titles from *passed on.
static Status pass_row(const PairFiles *files, int64_t *passed, const char *line, size_t bytes, int64_t number) {
    const char *path = files->paired_path;
    json_t *row = json_loadb(line, bytes, 0, NULL);
    const char *title = json_string_value(json_object_get(row, "title"));
    const char *prompt = json_string_value(json_object_get(row, "prompt"));
    Status status = STATUS_OK;
    if (title == NULL || prompt == NULL || !json_is_string(json_object_get(row, "chosen")) ||
        !json_is_string(json_object_get(row, "rejected")))
        status = error_set(STATUS_DATA, "%s:%lld: is no row of kto data review-pairs; name another file by --paired",
                           path, (long long)number);
    while (status == STATUS_OK && *passed < files->count && strcmp(files->titles[*passed], title) != 0) ++*passed;
    if (status == STATUS_OK && *passed == files->count)
        status = error_set(STATUS_DATA,
                           "%s:%lld: its title is not among the titles, or not in their order; go on with the titles "
                           "that the file was begun with, or name another file by --paired",
                           path, (long long)number);
    if (status == STATUS_OK) {
        ReviewPrompt plain;
        status = review_prompt(files->plain, title, &plain);
        if (status == STATUS_OK && strcmp(plain.text, prompt) != 0)
            status = error_set(STATUS_DATA,
                               "%s:%lld: was made with another plain.txt; go on with that one, or name another file by "
                               "--paired",
                               path, (long long)number);
        review_prompt_free(&plain);
        ++*passed;
    }
    json_decref(row);
    return status;
}

static Status pass_rows(const PairFiles *files, const char *text, size_t bytes, int64_t *passed, int64_t *rows) {
    for (const char *end; (end = memchr(text, '\n', bytes)) != NULL;) {
        const size_t length = (size_t)(end - text);
        TRY(pass_row(files, passed, text, length, ++*rows));
        text += length + 1;
        bytes -= length + 1;
    }
    return STATUS_OK;
}

// Whether `text` could be the beginning of a row that was not written to its end.
static bool begins_row(const char *text, size_t bytes) {
    static const char begin[] = "{\"prompt\": ";
    return strncmp(text, begin, bytes < sizeof begin - 1 ? bytes : sizeof begin - 1) == 0;
}

// Cuts a half-written last line from the text and the file.
static Status cut_half_line(int fd, const char *path, char *text, size_t *bytes) {
    size_t whole = *bytes;
    while (whole > 0 && text[whole - 1] != '\n') whole--;
    if (whole == *bytes) return STATUS_OK;
    if (!begins_row(text + whole, *bytes - whole))
        return error_set(STATUS_DATA, "%s: ends in a line that is no row of kto data review-pairs; name another file",
                         path);
    log_info("%s: a half-written line at its end is cut", path);
    if (ftruncate(fd, (off_t)whole) != 0) return refuse_file(path, "cut");
    text[whole] = '\0';
    *bytes = whole;
    return STATUS_OK;
}

// Gives the unpaired file what it lacks of the rows in the paired one.
static Status complete_unpaired(const PairFiles *files, const char *expected, size_t expected_bytes, char *text,
                                size_t bytes) {
    if (bytes > expected_bytes || memcmp(text, expected, bytes) != 0) {
        const size_t both = bytes < expected_bytes ? bytes : expected_bytes;
        size_t same = 0;
        int64_t line = 1;
        for (; same < both && text[same] == expected[same]; same++) line += text[same] == '\n';
        return error_set(STATUS_DATA,
                         "%s:%lld: is not what the rows of %s give; name another file by --unpaired, or take this one "
                         "away",
                         files->unpaired_path, (long long)line, files->paired_path);
    }
    return append(files->unpaired, files->unpaired_path, expected + bytes, expected_bytes - bytes);
}

Status pair_files_open(PairFiles *files, int64_t *passed) {
    char *text[2] = {NULL, NULL}, *expected = NULL;
    size_t bytes[2] = {0, 0}, expected_bytes = 0;
    int64_t rows = 0;
    *passed = 0;
    Status status = open_file(files->paired_path, &files->paired, &text[0], &bytes[0]);
    if (status == STATUS_OK && files->unpaired_path != NULL)
        status = open_file(files->unpaired_path, &files->unpaired, &text[1], &bytes[1]);
    if (status == STATUS_OK) status = pass_rows(files, text[0], bytes[0], passed, &rows);
    if (status == STATUS_OK) status = unpaired_rows(text[0], bytes[0], &expected, &expected_bytes);
    // Nothing is cut before all the rest is known to be ours.
    if (status == STATUS_OK) status = cut_half_line(files->paired, files->paired_path, text[0], &bytes[0]);
    if (status == STATUS_OK && files->unpaired >= 0) {
        status = cut_half_line(files->unpaired, files->unpaired_path, text[1], &bytes[1]);
        if (status == STATUS_OK) status = complete_unpaired(files, expected, expected_bytes, text[1], bytes[1]);
    }
    if (status == STATUS_OK && rows > 0)
        log_info("%-8s %s holds %lld pairs; going on behind title %lld of %lld", "resumed", files->paired_path,
                 (long long)rows, (long long)*passed, (long long)files->count);
    free(text[0]);
    free(text[1]);
    free(expected);
    return status;
}

void pair_files_close(PairFiles *files) {
    if (files->paired >= 0) close(files->paired);
    if (files->unpaired >= 0) close(files->unpaired);
}

Status pair_files_append(const PairFiles *files, const char *rows, size_t bytes) {
    char *unpaired = NULL;
    size_t unpaired_bytes = 0;
    if (files->paired < 0) return STATUS_OK;
    Status status = unpaired_rows(rows, bytes, &unpaired, &unpaired_bytes);
    if (status == STATUS_OK) status = append(files->paired, files->paired_path, rows, bytes);
    if (status == STATUS_OK && files->unpaired >= 0)
        status = append(files->unpaired, files->unpaired_path, unpaired, unpaired_bytes);
    free(unpaired);
    return status;
}
