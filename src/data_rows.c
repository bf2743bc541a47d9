// What the `kto data` commands share: output files, hashes of prompts, single lines as JSON, the choice of a split.
#include "src/data.h"

#include "io/files.h"
#include "io/json_file.h"
#include "src/base/hash.h"
#include "src/base/memory.h"
#include "src/base/rng.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// --- output ---------------------------------------------------------------------------------------------------------

Status output_open(Output *out, const char *path, bool force) {
    struct stat info;
    *out = (Output){.path = path};
    if (stat(path, &info) == 0) {
        if (!S_ISREG(info.st_mode))
            return error_set(STATUS_USAGE, "%s: is there and is not a file; name another", path);
        if (!force)
            return error_set(STATUS_USAGE, "%s: is there already; name another, or replace it by --force", path);
    }
    if (snprintf(out->temporary, sizeof out->temporary, "%s.%ld.tmp", path, (long)getpid()) >=
        (int)sizeof out->temporary)
        return error_set(STATUS_USAGE, "%s: the path is too long", path);
    out->file = fopen(out->temporary, "wb");
    if (out->file == NULL)
        return error_set(STATUS_FAILED, "%s: cannot be written: %s", out->temporary, strerror(errno));
    return STATUS_OK;
}

static Status refuse_write(const Output *out) {
    return error_set(STATUS_FAILED, "%s: cannot be written: %s", out->temporary, strerror(errno));
}

Status output_line(Output *out, const char *line, size_t bytes) {
    if (fwrite(line, 1, bytes, out->file) != bytes || fputc('\n', out->file) == EOF) return refuse_write(out);
    out->lines++;
    return STATUS_OK;
}

Status output_close(Output *out, Status status) {
    if (out->file == NULL) return status;
    if (fclose(out->file) != 0 && status == STATUS_OK) status = refuse_write(out);
    out->file = NULL;
    if (status == STATUS_OK) return file_publish(out->temporary, out->path);
    unlink(out->temporary);
    return status;
}

// --- lines ----------------------------------------------------------------------------------------------------------

const char *data_line(const JsonlFile *file, int64_t index, size_t *bytes) {
    const char *line = file->bytes + file->line_first[index];
    const size_t most = file->line_first[index + 1] - file->line_first[index];
    const char *end = memchr(line, '\n', most);
    *bytes = end == NULL ? most : (size_t)(end - line);
    return line;
}

// Texts hold no NUL, so their ends keep neighbours apart.
static uint64_t hash_text(uint64_t seed, const char *text) {
    return hash_bytes(seed, text, strlen(text) + 1);
}

uint64_t data_hash(uint64_t seed, const TextOrMessages *value) {
    if (value->text != NULL) return hash_text(hash_text(seed, "text"), value->text);
    seed = hash_text(seed, "messages");
    for (int i = 0; i < value->message_count; i++)
        seed = hash_text(hash_text(seed, value->messages[i].role), value->messages[i].content);
    return hash_bytes(seed, &value->message_count, sizeof value->message_count);
}

// The shortest of the two precisions that reads back to the same numbers: 0.1 stays 0.1.
static char *dump(const json_t *row) {
    json_error_t error;
    char *text = json_foreign_dump(row, JSON_REAL_PRECISION(15));
    json_t *back = text == NULL ? NULL : json_foreign_load(text, strlen(text), 0, &error);
    if (back == NULL || !json_equal(row, back)) {
        free(text);
        text = json_foreign_dump(row, JSON_REAL_PRECISION(17));
    }
    json_decref(back);
    return text;
}

Status data_unpair_line(const char *line, size_t bytes, int which, char **out) {
    *out = NULL;
    json_error_t error;
    json_t *row = json_foreign_load(line, bytes, 0, &error);
    json_t *unpaired = row == NULL ? NULL : json_object();
    int failed = unpaired == NULL;
    if (!failed) {
        failed |= json_object_set(unpaired, "prompt", json_object_get(row, "prompt"));
        failed |= json_object_set(unpaired, "completion", json_object_get(row, which == 0 ? "chosen" : "rejected"));
        failed |= json_object_set_new(unpaired, "label", json_boolean(which == 0));
        for (const char *gone[] = {"completion", "label", "chosen", "rejected", NULL}, **name = gone; *name; name++)
            json_object_del(row, *name);
        failed |= json_object_update_missing(unpaired, row);
    }
    if (!failed) *out = dump(unpaired);
    json_decref(unpaired);
    json_decref(row);
    return *out == NULL ? error_set(STATUS_FAILED, "out of memory for a row of %zu bytes", bytes) : STATUS_OK;
}

// --- split ----------------------------------------------------------------------------------------------------------

typedef struct Keyed {
    uint64_t key;
    int32_t line;
} Keyed;

static int by_key(const void *a, const void *b) {
    const Keyed *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->line < y->line ? -1 : x->line > y->line;
}

static int by_line(const void *a, const void *b) {
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return x < y ? -1 : x > y;
}

Status data_split_choose(const uint64_t *prompt, int64_t count, int64_t wanted, uint64_t seed, bool *eval,
                         int64_t *chosen) {
    Keyed *keyed = NULL;
    int32_t *group = NULL,
            *place = NULL; // a group is named by its first line; place[first line] is where it stands in keyed
    *chosen = 0;
    if (count > INT32_MAX) return error_set(STATUS_DATA, "more than %d lines are not split; cut the file", INT32_MAX);
    Status status = MEMORY_ALLOC(keyed, count, "lines");
    if (status == STATUS_OK) status = MEMORY_ALLOC(group, count, "prompts");
    if (status == STATUS_OK) status = MEMORY_ALLOC(place, count, "prompts");
    if (status == STATUS_OK) {
        int32_t groups = 0;
        for (int32_t i = 0; i < count; i++) keyed[i] = (Keyed){prompt[i], i};
        qsort(keyed, (size_t)count, sizeof *keyed, by_key);
        for (int32_t i = 0; i < count; i++) {
            eval[i] = false;
            if (i > 0 && keyed[i].key == keyed[i - 1].key) continue;
            group[groups++] = keyed[i].line;
            place[keyed[i].line] = i;
        }
        // In the order of the file, so that the draw does not depend on the hash.
        qsort(group, (size_t)groups, sizeof *group, by_line);
        Rng rng = rng_make(seed, RNG_SPLIT, 0);
        rng_shuffle(&rng, group, groups);
        for (int32_t g = 0; g < groups && *chosen < wanted; g++) {
            const int32_t first = place[group[g]];
            int32_t end = first;
            while (end < count && keyed[end].key == keyed[first].key) end++;
            if (*chosen + end - first > wanted) continue;
            for (int32_t i = first; i < end; i++) eval[keyed[i].line] = true;
            *chosen += end - first;
        }
        if (*chosen == 0) // all are larger than what is wanted
            for (int32_t i = 0; i < count; i++)
                if (prompt[i] == prompt[group[0]]) {
                    eval[i] = true;
                    ++*chosen;
                }
    }
    free(keyed);
    free(group);
    free(place);
    return status;
}
