// metrics.h5: one file a run, one row a step. The columns are made with the file, because nothing may be added once
// readers follow (SWMR: single writer, multiple readers). What a metric means is decided in src/train/kto.c; here are
// its words only.
#include "io/metrics.h"
#include "io/files.h"
#include "io/hdf5_util.h"
#include "src/base/log.h"
#include "src/base/memory.h"

#include <errno.h>
#include <hdf5_hl.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

// units, TRL's name, description: one line a column, or the table below does not compile.
#define INFO_step               "1", "step", "optimizer step, 1-based, after the update"
#define INFO_epoch              "1", "epoch", "passes over the training rows so far"
#define INFO_time               "s", "", "end of the step, seconds since 1970-01-01 UTC"
#define INFO_loss               "1", "loss", "mean of the losses of rows or pairs"
#define INFO_kl                 "nat", "kl", "reference point z0 = max(0, mean log-ratio of the mismatched completions)"
#define INFO_grad_norm          "1", "grad_norm", "L2 norm of the adapter gradient before clipping"
#define INFO_learning_rate      "1", "learning_rate", "rate that this update used"
#define INFO_entropy            "nat", "entropy", "entropy of the policy's next-token distribution, mean over scored tokens"
#define INFO_num_tokens         "1", "num_tokens", "prompt and completion tokens seen so far"
#define INFO_rewards_chosen     "1", "rewards/chosen", "mean of beta * log-ratio, desirable or chosen"
#define INFO_rewards_rejected   "1", "rewards/rejected", "mean of beta * log-ratio, undesirable or rejected"
#define INFO_rewards_margins    "1", "rewards/margins", "rewards_chosen - rewards_rejected"
#define INFO_rewards_accuracies "1", "rewards/accuracies", "share of rows on their side of z0; of pairs in order"
#define INFO_logps_chosen       "nat", "logps/chosen", "mean log-probability, desirable or chosen"
#define INFO_logps_rejected     "nat", "logps/rejected", "mean log-probability, undesirable or rejected"
#define INFO_logits_chosen      "1", "logits/chosen", "mean logit over vocabulary and tokens, desirable or chosen"
#define INFO_logits_rejected    "1", "logits/rejected", "mean logit over vocabulary and tokens, undesirable or rejected"
#define INFO_rows               "1", "", "rows or pairs of the global batch"
#define INFO_rows_chosen        "1", "", "desirable rows of the global batch, or its pairs"
#define INFO_scored_tokens      "1", "", "completion tokens of the global batch that carry loss"
#define INFO_computed_tokens    "1", "", "tokens that went through the model, on all ranks"
#define INFO_step_seconds       "s", "", "time between the ends of consecutive steps, everything included"
#define INFO_reference_seconds  "s", "", "of these, computing reference log-probabilities"
#define INFO_comm_seconds       "s", "", "of these, in collectives"
#define INFO_wait_seconds       "s", "", "of these, waiting for other ranks"
#define INFO_tokens_per_second  "1/s", "", "prompt and completion tokens of the step by step_seconds"
#define INFO_skipped            "1", "", "1 where the update was left out because a number was not finite"

#define METRICS_COLUMN(name) {#name, offsetof(MetricsRow, name), INFO_##name},
const MetricsColumn metrics_columns[METRICS_COLUMN_COUNT] = {METRICS_COLUMN(step) METRICS_COLUMNS(METRICS_COLUMN)};
#undef METRICS_COLUMN
#define GROUP_COUNT   2
#define CHUNK_ROWS    512
#define RETRY_SECONDS 2
#define STEP_FILL     ((int64_t)-1) // a length that was extended and not written; floats have NaN

const char *const metrics_group_names[GROUP_COUNT + 1] = {"train", "eval", NULL};

struct Metrics {
    char *path;
    MetricsRun run; // with texts of its own
    bool swmr;
    hid_t file; // invalid between rows without swmr
    hid_t columns[GROUP_COUNT][METRICS_COLUMN_COUNT];
    int64_t rows[GROUP_COUNT], last_step[GROUP_COUNT];
    ino_t inode;
};

// The rows of a file, and when its run began.
typedef struct Rows {
    MetricsRow *rows[GROUP_COUNT];
    int64_t count[GROUP_COUNT];
    double start_time;
} Rows;

static hid_t column_type(int column) {
    return column == METRICS_STEP_COLUMN ? H5T_NATIVE_INT64 : H5T_NATIVE_DOUBLE;
}

static Status create_column(hid_t group, const char *path, int column, hid_t *out) {
    const MetricsColumn *info = &metrics_columns[column];
    hid_t type = column == METRICS_STEP_COLUMN ? H5T_STD_I64LE : H5T_IEEE_F64LE;
    hsize_t length = 0, limit = H5S_UNLIMITED, chunk = CHUNK_ROWS;
    double nan_fill = NAN;
    int64_t step_fill = STEP_FILL;
    const void *fill = column == METRICS_STEP_COLUMN ? (const void *)&step_fill : (const void *)&nan_fill;
    hid_t space = H5Screate_simple(1, &length, &limit), list = H5Pcreate(H5P_DATASET_CREATE);
    *out = H5I_INVALID_HID;
    if (space >= 0 && list >= 0 && H5Pset_chunk(list, 1, &chunk) >= 0 &&
        H5Pset_fill_value(list, column_type(column), fill) >= 0)
        *out = H5Dcreate2(group, info->name, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    Status status = *out < 0 ? hdf5_error(STATUS_FAILED, path, "cannot be written") : STATUS_OK;
    if (list >= 0) H5Pclose(list);
    if (space >= 0) H5Sclose(space);
    TRY(status);
    TRY(hdf5_put_text(*out, path, "units", info->units, false));
    TRY(hdf5_put_text(*out, path, "description", info->description, false));
    return info->trl_name[0] == '\0' ? STATUS_OK : hdf5_put_text(*out, path, "trl_name", info->trl_name, false);
}

// Leaves the columns open.
static Status create_group(hid_t file, const char *path, const char *name, hid_t *columns) {
    // Tracked, so that readers list the columns in our order.
    hid_t list = H5Pcreate(H5P_GROUP_CREATE), group = H5I_INVALID_HID;
    if (list >= 0 && H5Pset_link_creation_order(list, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED) >= 0)
        group = H5Gcreate2(file, name, H5P_DEFAULT, list, H5P_DEFAULT);
    Status status = group < 0 ? hdf5_error(STATUS_FAILED, path, "cannot be written") : STATUS_OK;
    if (list >= 0) H5Pclose(list);
    TRY(status);
    for (int c = 0; c < METRICS_COLUMN_COUNT; c++) {
        TRY(create_column(group, path, c, &columns[c]));
        const hid_t step = columns[METRICS_STEP_COLUMN];
        if ((c == METRICS_STEP_COLUMN ? H5DSset_scale(step, metrics_columns[c].name)
                                      : H5DSattach_scale(columns[c], step, 0)) < 0)
            return hdf5_error(STATUS_FAILED, path, "cannot be written");
    }
    return H5Gclose(group) < 0 ? hdf5_error(STATUS_FAILED, path, "cannot be written") : STATUS_OK;
}

enum { RUN_TEXTS = 5 };

static const char **run_text(MetricsRun *run, int i, const char **name) {
    static const char *const names[RUN_TEXTS] = {"version", "git_commit", "config", "hosts", "devices"};
    const char **const texts[RUN_TEXTS] = {&run->version, &run->git_commit, &run->config, &run->hosts, &run->devices};
    *name = names[i];
    return texts[i];
}

void metrics_run_free(MetricsRun *run) {
    for (int i = 0; i < RUN_TEXTS; i++) {
        const char *name;
        free((char *)*run_text(run, i, &name));
    }
    *run = (MetricsRun){0};
}

static Status copy_run(MetricsRun *out, const MetricsRun *run) {
    MetricsRun from = *run;
    *out = (MetricsRun){.ranks = run->ranks, .start_time = run->start_time};
    for (int i = 0; i < RUN_TEXTS; i++) {
        const char *name;
        if ((*run_text(out, i, &name) = strdup(*run_text(&from, i, &name))) == NULL)
            return error_set(STATUS_FAILED, "out of memory for the log's %s", name);
    }
    return STATUS_OK;
}

static Status put_run(hid_t file, const char *path, const MetricsRun *run) {
    MetricsRun copy = *run;
    for (int i = 0; i < RUN_TEXTS; i++) {
        const char *name, *text = *run_text(&copy, i, &name);
        TRY(hdf5_put_text(file, path, name, text, false));
    }
    TRY(hdf5_put(file, path, "ranks", H5T_NATIVE_INT, &run->ranks));
    return hdf5_put(file, path, "start_time", H5T_NATIVE_DOUBLE, &run->start_time);
}

static Status close_file(hid_t file, const char *path, Status status) {
    if (H5Fclose(file) < 0 && status == STATUS_OK) return hdf5_error(STATUS_FAILED, path, "cannot be written");
    return status;
}

// Opens the columns of a group; *rows is the length of the shortest (a killed writer leaves them uneven).
static Status open_group(hid_t file, const char *path, int group, hid_t *columns, int64_t *rows) {
    *rows = INT64_MAX;
    for (int c = 0; c < METRICS_COLUMN_COUNT; c++) {
        char name[64];
        int64_t length;
        snprintf(name, sizeof name, "%s/%s", metrics_group_names[group], metrics_columns[c].name);
        TRY(hdf5_open_vector(file, path, name, &columns[c]));
        hid_t space = H5Dget_space(columns[c]);
        if (space < 0) return hdf5_error(STATUS_FAILED, path, name);
        bool flat = H5Sget_simple_extent_ndims(space) == 1;
        length = H5Sget_simple_extent_npoints(space);
        H5Sclose(space);
        if (!flat || length < 0) return error_set(STATUS_FAILED, "%s: %s is not one of our columns", path, name);
        if (length < *rows) *rows = length;
    }
    return STATUS_OK;
}

// `count` > 0 values of 8 bytes each from row `first` on; in memory they lie `stride` values apart.
static Status access_rows(hid_t column, const char *path, int c, int64_t first, int64_t count, bool write, void *values,
                          hsize_t stride) {
    const hsize_t start = (hsize_t)first, length = (hsize_t)count, zero = 0, span = (length - 1) * stride + 1;
    hid_t space = H5Dget_space(column), memory = H5Screate_simple(1, &span, NULL);
    bool good = space >= 0 && memory >= 0 &&
                H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, NULL, &length, NULL) >= 0 &&
                H5Sselect_hyperslab(memory, H5S_SELECT_SET, &zero, &stride, &length, NULL) >= 0 &&
                (write ? H5Dwrite(column, column_type(c), memory, space, H5P_DEFAULT, values)
                       : H5Dread(column, column_type(c), memory, space, H5P_DEFAULT, values)) >= 0;
    Status status = good ? STATUS_OK : hdf5_error(STATUS_FAILED, path, write ? "cannot be written" : "cannot be read");
    if (memory >= 0) H5Sclose(memory);
    if (space >= 0) H5Sclose(space);
    return status;
}

#define ROW_VALUES (sizeof(MetricsRow) / 8)

// Appends rows[count] behind row `at`. The step comes last: a reader that goes by its length finds the others there.
static Status write_rows(const hid_t *columns, const char *path, int64_t at, const MetricsRow *rows, int64_t count) {
    const hsize_t length = (hsize_t)(at + count);
    for (int c = METRICS_COLUMN_COUNT - 1; c >= 0; c--) { // (without rows there may be no array to point into)
        if (H5Dset_extent(columns[c], &length) < 0) return hdf5_error(STATUS_FAILED, path, "cannot be written");
        if (count == 0) continue;
        TRY(access_rows(columns[c], path, c, at, count, true, (char *)rows + metrics_columns[c].offset, ROW_VALUES));
    }
    return STATUS_OK;
}

static Status close_columns(const hid_t *columns, const char *path) {
    for (int c = 0; c < METRICS_COLUMN_COUNT; c++)
        if (H5Dclose(columns[c]) < 0) return hdf5_error(STATUS_FAILED, path, "cannot be written");
    return STATUS_OK;
}

static Status fill_file(hid_t file, const char *path, const MetricsRun *run, const Rows *rows) {
    TRY(put_run(file, path, run));
    for (int g = 0; g < GROUP_COUNT; g++) {
        hid_t columns[METRICS_COLUMN_COUNT];
        TRY(create_group(file, path, metrics_group_names[g], columns));
        TRY(write_rows(columns, path, 0, rows->rows[g], rows->count[g]));
        TRY(close_columns(columns, path));
    }
    return STATUS_OK;
}

// Under a temporary name, so that neither a kill nor a full disk leaves less than there was.
static Status create_file(const char *path, const MetricsRun *run, const Rows *rows) {
    char temporary[PATH_MAX];
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    hid_t file = hdf5_create_growing(temporary);
    if (file < 0) return hdf5_error(STATUS_FAILED, path, "cannot be made");
    Status status = close_file(file, path, fill_file(file, path, run, rows));
    if (status == STATUS_OK) return file_publish(temporary, path);
    unlink(temporary);
    return status;
}

// Works beside a live writer, and after one that was killed or has closed; the plain form beside none.
static Status open_to_read(const char *path, hid_t *file) {
    *file = hdf5_open(path, H5F_ACC_RDONLY | H5F_ACC_SWMR_READ);
    if (*file < 0) *file = hdf5_open(path, H5F_ACC_RDONLY);
    return *file < 0 ? hdf5_error(STATUS_FAILED, path, "cannot be read") : STATUS_OK;
}

// Of rows [first, first + length) those that are written in full and not after last_step. Steps rise, so nothing
// beyond last_step is read: what a power cut left there may be unreadable. Nor does a length that lies keep us for
// long.
static Status count_rows(hid_t step_column, const char *path, int64_t first, int64_t length, int64_t last_step,
                         int64_t *count) {
    int64_t steps[CHUNK_ROWS], before = STEP_FILL;
    *count = 0;
    while (*count < length) {
        const int64_t at = first + *count, room = CHUNK_ROWS - at % CHUNK_ROWS;
        const int64_t part = length - *count < room ? length - *count : room;
        TRY(access_rows(step_column, path, METRICS_STEP_COLUMN, at, part, false, steps, 1));
        for (int64_t i = 0; i < part; i++) {
            if (steps[i] == STEP_FILL || steps[i] > last_step) return STATUS_OK;
            if (steps[i] <= before)
                return error_set(STATUS_FAILED, "%s: row %lld has a step not after the one before", path,
                                 (long long)(at + i));
            before = steps[i];
            ++*count;
            if (steps[i] == last_step) return STATUS_OK;
        }
    }
    return STATUS_OK;
}

// Caller frees *rows.
static Status read_rows(const hid_t *columns, const char *path, int64_t first, int64_t count, MetricsRow **rows) {
    TRY(MEMORY_ALLOC(*rows, count, path));
    for (int c = 0; c < METRICS_COLUMN_COUNT && count > 0; c++)
        TRY(access_rows(columns[c], path, c, first, count, false, (char *)*rows + metrics_columns[c].offset,
                        ROW_VALUES));
    return STATUS_OK;
}

static void free_rows(Rows *rows) {
    for (int g = 0; g < GROUP_COUNT; g++) free(rows->rows[g]);
    *rows = (Rows){0};
}

static Status read_group(hid_t file, const char *path, int group, int64_t last_step, Rows *out) {
    hid_t columns[METRICS_COLUMN_COUNT];
    int64_t length;
    TRY(open_group(file, path, group, columns, &length));
    int64_t *count = &out->count[group];
    const Status status = count_rows(columns[METRICS_STEP_COLUMN], path, 0, length, last_step, count);
    // The first evaluation in a part of the file comes after last_step where that part has not reached the disk.
    if (status != STATUS_OK && group == METRICS_TRAIN) return status;
    if (status != STATUS_OK) {
        log_warning("%s; evaluations after the first %lld are left out", error_text(), (long long)*count);
        error_clear();
    }
    return read_rows(columns, path, 0, *count, &out->rows[group]);
}

// The rows up to last_step of a file whose writer is gone, however it went. The caller frees *out, also on failure.
static Status read_kept(const char *path, int64_t last_step, Rows *out) {
    hid_t file;
    TRY(open_to_read(path, &file));
    Status status = hdf5_get(file, path, "start_time", H5T_NATIVE_DOUBLE, &out->start_time);
    for (int g = 0; g < GROUP_COUNT && status == STATUS_OK; g++) status = read_group(file, path, g, last_step, out);
    H5Fclose(file);
    return status;
}

static Status open_columns(Metrics *metrics) {
    metrics->file = hdf5_open_growing(metrics->path);
    if (metrics->file < 0) return hdf5_error(STATUS_FAILED, metrics->path, "cannot be opened for writing");
    Status status = STATUS_OK;
    for (int g = 0; g < GROUP_COUNT && status == STATUS_OK; g++) {
        int64_t shortest;
        status = open_group(metrics->file, metrics->path, g, metrics->columns[g], &shortest);
    }
    if (status == STATUS_OK) return STATUS_OK;
    H5Fclose(metrics->file);
    metrics->file = H5I_INVALID_HID;
    return status;
}

static Status note_inode(Metrics *metrics) {
    struct stat info;
    if (stat(metrics->path, &info) != 0) return error_set(STATUS_FAILED, "%s: %s", metrics->path, strerror(errno));
    metrics->inode = info.st_ino;
    return STATUS_OK;
}

// A file that could not be written is left to itself, open: HDF5 1.10 fails to close it too, keeps what it has freed in
// its tables, and crashes when the next file is closed.
static Status close_all(Metrics *metrics, Status status) {
    const hid_t file = metrics->file;
    if (file < 0) return status;
    metrics->file = H5I_INVALID_HID;
    for (int g = 0; g < GROUP_COUNT && status == STATUS_OK; g++)
        status = close_columns(metrics->columns[g], metrics->path);
    return status == STATUS_OK ? close_file(file, metrics->path, STATUS_OK) : status;
}

// What the file there says up to resume_step, where the run goes on.
static Status take_rows(Metrics *metrics, int64_t resume_step, Rows *rows) {
    if (resume_step == 0 || !file_exists(metrics->path)) return STATUS_OK;
    hdf5_restore_length(metrics->path);
    if (read_kept(metrics->path, resume_step, rows) != STATUS_OK)
        return error_advise(STATUS_FAILED, "move it away to go on without its rows");
    metrics->run.start_time = rows->start_time;
    const int64_t count = rows->count[METRICS_TRAIN];
    const int64_t last = count == 0 ? resume_step : rows->rows[METRICS_TRAIN][count - 1].step;
    if (last < resume_step)
        log_warning("%s: the rows of steps %lld to %lld are missing", metrics->path, (long long)last + 1,
                    (long long)resume_step);
    return STATUS_OK;
}

// A file of these rows in the place of the one there.
static Status put_rows(Metrics *metrics, const Rows *rows) {
    TRY(create_file(metrics->path, &metrics->run, rows));
    for (int g = 0; g < GROUP_COUNT; g++) {
        const int64_t count = metrics->rows[g] = rows->count[g];
        metrics->last_step[g] = count == 0 ? 0 : rows->rows[g][count - 1].step;
    }
    if (metrics->swmr) TRY(open_columns(metrics));
    return note_inode(metrics);
}

static void free_metrics(Metrics *metrics) {
    metrics_run_free(&metrics->run);
    free(metrics->path);
    free(metrics);
}

Status metrics_open(Metrics **out, const char *path, const MetricsRun *run, int64_t resume_step, bool swmr) {
    *out = NULL;
    Metrics *metrics = NULL;
    Rows rows = {0};
    TRY(MEMORY_ALLOC(metrics, 1, "metrics"));
    metrics->file = H5I_INVALID_HID;
    metrics->swmr = swmr;
    metrics->path = strdup(path);
    Status status = metrics->path == NULL ? error_set(STATUS_FAILED, "%s: out of memory", path) : STATUS_OK;
    if (status == STATUS_OK) status = copy_run(&metrics->run, run);
    if (status == STATUS_OK) status = take_rows(metrics, resume_step, &rows);
    if (status == STATUS_OK) status = put_rows(metrics, &rows);
    free_rows(&rows);
    if (status == STATUS_OK) {
        *out = metrics;
        return STATUS_OK;
    }
    if (metrics->file >= 0) H5Fclose(metrics->file);
    free_metrics(metrics);
    return status;
}

static Status append_row(Metrics *metrics, int group, const MetricsRow *row) {
    TRY(write_rows(metrics->columns[group], metrics->path, metrics->rows[group], row, 1));
    // The file, not the datasets: only this brings the length in the header up to date, which other readers go by.
    if (H5Fflush(metrics->file, H5F_SCOPE_GLOBAL) < 0)
        return hdf5_error(STATUS_FAILED, metrics->path, "cannot be written");
    metrics->rows[group]++;
    metrics->last_step[group] = row->step;
    return STATUS_OK;
}

// Rows written to a file that has lost its name would be rows that nobody finds.
static Status check_name(const Metrics *metrics) {
    struct stat info;
    if (stat(metrics->path, &info) == 0 && info.st_ino == metrics->inode) return STATUS_OK;
    return error_set(STATUS_FAILED, "%s: was removed or replaced while the run writes to it", metrics->path);
}

static Status append_once(Metrics *metrics, int group, const MetricsRow *row) {
    TRY(check_name(metrics));
    if (metrics->swmr) return append_row(metrics, group, row);
    Status status = open_columns(metrics);
    if (status == STATUS_OK) status = append_row(metrics, group, row);
    return close_all(metrics, status);
}

// After a failed write: the rows that were written in full, in a new file. They are read from a copy, as HDF5 still has
// the file itself open.
static Status reopen(Metrics *metrics) {
    metrics->file = H5I_INVALID_HID;
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s.tmp", metrics->path);
    TRY(file_copy(metrics->path, copy, SIZE_MAX - 1));
    Rows rows = {0};
    Status status = read_kept(copy, INT64_MAX, &rows);
    unlink(copy);
    for (int g = 0; g < GROUP_COUNT && status == STATUS_OK; g++) {
        if (rows.count[g] < metrics->rows[g]) status = error_set(STATUS_FAILED, "%s: has lost rows", metrics->path);
        rows.count[g] = metrics->rows[g];
    }
    if (status == STATUS_OK) status = put_rows(metrics, &rows);
    free_rows(&rows);
    return status;
}

Status metrics_append(Metrics *metrics, MetricsGroup group, const MetricsRow *row) {
    if (append_once(metrics, (int)group, row) == STATUS_OK) return STATUS_OK;
    TRY(check_name(metrics));
    char reason[ERROR_TEXT_MAX];
    snprintf(reason, sizeof reason, "%s", error_text());
    error_clear();
    log_warning("%s; trying once more in %d s", reason, RETRY_SECONDS);
    sleep(RETRY_SECONDS);
    if (reopen(metrics) == STATUS_OK && append_once(metrics, (int)group, row) == STATUS_OK) return STATUS_OK;
    error_clear();
    return error_set(STATUS_FAILED, "%s", reason);
}

Status metrics_close(Metrics *metrics) {
    if (metrics == NULL) return STATUS_OK;
    Status status = metrics->swmr ? close_all(metrics, STATUS_OK) : STATUS_OK;
    free_metrics(metrics);
    return status;
}

int64_t metrics_last_step(const Metrics *metrics, MetricsGroup group) {
    return metrics->last_step[group];
}

Status metrics_read_from(const char *path, MetricsGroup group, int64_t first, MetricsRow **rows, int64_t *count) {
    *rows = NULL;
    *count = 0;
    hid_t file, columns[METRICS_COLUMN_COUNT];
    TRY(open_to_read(path, &file));
    int64_t length;
    MetricsRow *read = NULL;
    Status status = open_group(file, path, (int)group, columns, &length);
    TRY_GOTO(status, done);
    length -= first;
    if (length > 0) {
        TRY_GOTO(count_rows(columns[METRICS_STEP_COLUMN], path, first, length, INT64_MAX, &length), done);
        TRY_GOTO(read_rows(columns, path, first, length, &read), done);
    }
    *rows = read;
    *count = length;
    read = NULL;
done:
    free(read);
    H5Fclose(file);
    return status;
}

Status metrics_read(const char *path, MetricsGroup group, MetricsRow **rows, int64_t *count) {
    return metrics_read_from(path, group, 0, rows, count);
}

enum { RUN_TEXT_MAX = 1 << 20 };

static Status read_run(const char *path, MetricsRun *run) {
    hid_t file;
    TRY(open_to_read(path, &file));
    Status status = hdf5_get(file, path, "ranks", H5T_NATIVE_INT, &run->ranks);
    if (status == STATUS_OK) status = hdf5_get(file, path, "start_time", H5T_NATIVE_DOUBLE, &run->start_time);
    for (int i = 0; i < RUN_TEXTS && status == STATUS_OK; i++) {
        const char *name, **text = run_text(run, i, &name);
        status = hdf5_get_variable_text(file, path, name, (char **)text);
    }
    H5Fclose(file);
    return status;
}

// A shell shows what a file says; it must not be able to say more than text.
static void drop_control_characters(char *text) {
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < ' ' && *text != '\n') *text = '?';
}

static void send_run(FILE *to, const MetricsRun *run) {
    MetricsRun copy = *run;
    fwrite(&copy.ranks, sizeof copy.ranks, 1, to);
    fwrite(&copy.start_time, sizeof copy.start_time, 1, to);
    for (int i = 0; i < RUN_TEXTS; i++) {
        const char *name, *text = *run_text(&copy, i, &name);
        const size_t length = strlen(text);
        fwrite(&length, sizeof length, 1, to);
        fwrite(text, 1, length, to);
    }
}

static bool receive_run(FILE *from, MetricsRun *run) {
    bool good = fread(&run->ranks, sizeof run->ranks, 1, from) == 1 &&
                fread(&run->start_time, sizeof run->start_time, 1, from) == 1;
    for (int i = 0; i < RUN_TEXTS && good; i++) {
        const char *name, **text = run_text(run, i, &name);
        size_t length;
        char *got = NULL;
        good = fread(&length, sizeof length, 1, from) == 1 && length <= RUN_TEXT_MAX &&
               (got = calloc(length + 1, 1)) != NULL && fread(got, 1, length, from) == length;
        if (good) drop_control_characters(got);
        *text = got;
    }
    return good;
}

// HDF5 1.10 believes the sizes in a heap of texts, which carries no checksum: H5HG_read copies what a damaged one says
// and crashes. So another process reads them.
Status metrics_read_run(const char *path, MetricsRun *run) {
    int ends[2];
    *run = (MetricsRun){0};
    if (pipe(ends) != 0) return error_set(STATUS_FAILED, "%s: %s", path, strerror(errno));
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        const struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        signal(SIGSEGV, SIG_DFL); // whoever handles a crash of the parent has nothing to do here
        signal(SIGBUS, SIG_DFL);
        signal(SIGABRT, SIG_DFL);
        close(ends[0]);
        FILE *to = fdopen(ends[1], "w");
        const bool good = to != NULL && read_run(path, run) == STATUS_OK;
        if (good) send_run(to, run);
        _exit(good && fclose(to) == 0 ? 0 : 1);
    }
    close(ends[1]);
    FILE *from = child < 0 ? NULL : fdopen(ends[0], "r");
    bool good = from != NULL && receive_run(from, run);
    if (from == NULL)
        close(ends[0]);
    else
        fclose(from);
    int how = 1;
    if (child > 0)
        while (waitpid(child, &how, 0) < 0 && errno == EINTR) continue;
    good = good && how == 0;
    if (good) return STATUS_OK;
    metrics_run_free(run);
    return error_set(STATUS_FAILED, "%s: its attributes cannot be read", path);
}

double metrics_value(const MetricsRow *row, int column) {
    double value;
    memcpy(&value, (const char *)row + metrics_columns[column].offset, sizeof value);
    return value;
}
