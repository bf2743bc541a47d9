// Fuzzes metrics.h5 (io/metrics.c): read for a report, then opened as after a kill, cut, appended to and read again.
// The input is the file's bytes or, as metrics_made, chooses the contents of well-formed HDF5.
#include "io/metrics.h"
#include "tests/fuzz/hdf5_check.h"

#include <stdlib.h>
#include <string.h>

enum { RESUME_STEP = 2 };

static void check_rows(const char *path) {
    for (int group = METRICS_TRAIN; group <= METRICS_EVAL; group++) {
        MetricsRow *rows;
        int64_t count;
        Status status = metrics_read(path, (MetricsGroup)group, &rows, &count);
        fuzz_end(status);
        if (status == STATUS_OK) fuzz_touch(rows, (size_t)count * sizeof *rows);
        free(rows);
    }
}

static void check(const char *path, bool swmr) {
    const MetricsRun run = {
        .version = "1", .git_commit = "c", .config = "", .hosts = "h", .devices = "cpu", .ranks = 1};
    const MetricsRow row = {.step = RESUME_STEP + 1};
    Metrics *metrics;
    check_rows(path);
    hdf5_check_closed();
    Status status = metrics_open(&metrics, path, &run, RESUME_STEP, swmr);
    fuzz_end(status);
    if (status != STATUS_OK) return;
    fuzz_end(metrics_append(metrics, METRICS_TRAIN, &row));
    fuzz_end(metrics_close(metrics));
    check_rows(path);
    hdf5_check_closed();
}

#ifdef FUZZ_MADE
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *path, *outside;
    if (path == NULL) {
        char secret[256];
        memset(secret, 0xA5, sizeof secret);
        outside = fuzz_file("outside", secret, sizeof secret);
        path = fuzz_file("metrics.h5", "", 0);
    }
    if (size == 0) return 0;
    static const int64_t steps[3] = {1, 2, 3};
    Expected expected[64];
    int count = 0;
#define COLUMN_OF(group, column, of) (Expected){.name = group "/" #column, .kind = VECTOR, .type = of, .length = 3}
#define TRAIN_COLUMN(column)         expected[count++] = COLUMN_OF("train", column, H5T_IEEE_F64LE);
#define EVAL_COLUMN(column)          expected[count++] = COLUMN_OF("eval", column, H5T_IEEE_F64LE);
    expected[count++] = COLUMN_OF("train", step, H5T_STD_I64LE);
    METRICS_COLUMNS(TRAIN_COLUMN)
    expected[count++] = COLUMN_OF("eval", step, H5T_STD_I64LE);
    METRICS_COLUMNS(EVAL_COLUMN)
    for (int i = 0; i < count; i++)
        if (strstr(expected[i].name, "/step") != NULL && expected[i].type == H5T_STD_I64LE) expected[i].good = steps;
    hdf5_make(path, outside, expected, count, data + 1, size - 1);
    check(path, data[0] % 2 == 1);
    return 0;
}
#else
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    check(fuzz_file("metrics.h5", data, size), size % 2 == 1);
    return 0;
}
#endif
