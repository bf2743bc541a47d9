// metrics.h5: columns and attributes, resume, readers beside a live writer, and a writer that is killed.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "io/files.h"
#include "io/metrics.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "test_metrics-XXXXXX";
static char path[64];

static const MetricsRun RUN = {.version = "0.1",
                               .git_commit = "abc",
                               .config = "train: { seed = 1; };\n",
                               .hosts = "a,b",
                               .devices = "cpu",
                               .ranks = 2,
                               .start_time = 1e9};

// Every column another value, so that a mix-up shows.
static MetricsRow make_row(int64_t step) {
    MetricsRow row = {.step = step};
    double at = 0;
#define METRICS_FIELD(name) row.name = (double)step + 0.01 * ++at;
    METRICS_COLUMNS(METRICS_FIELD)
#undef METRICS_FIELD
    if (step % 3 == 0) row.rewards_chosen = NAN; // no desirable row in that step
    return row;
}

static void assert_same(double got, double wanted) {
    assert_true(isnan(wanted) ? isnan(got) : got == wanted);
}

static void assert_rows(MetricsGroup group, int64_t first, int64_t every, int64_t wanted) {
    MetricsRow *rows;
    int64_t count;
    assert_int_equal(metrics_read(path, group, &rows, &count), STATUS_OK);
    assert_int_equal(count, wanted);
    for (int64_t i = 0; i < count; i++) {
        MetricsRow row = make_row(first + i * every);
        assert_int_equal(rows[i].step, row.step);
#define METRICS_FIELD(name) assert_same(rows[i].name, row.name);
        METRICS_COLUMNS(METRICS_FIELD)
#undef METRICS_FIELD
    }
    free(rows);
}

static void append(Metrics *metrics, MetricsGroup group, int64_t step) {
    MetricsRow row = make_row(step);
    assert_int_equal(metrics_append(metrics, group, &row), STATUS_OK);
}

static void write_and_resume(bool swmr) {
    Metrics *metrics;
    assert_int_equal(metrics_open(&metrics, path, &RUN, 0, swmr), STATUS_OK);
    assert_rows(METRICS_TRAIN, 1, 1, 0);
    for (int64_t step = 1; step <= 700; step++) { // more than a chunk
        append(metrics, METRICS_TRAIN, step);
        if (step % 100 == 0) append(metrics, METRICS_EVAL, step);
        if (step % 350 == 0) assert_rows(METRICS_TRAIN, 1, 1, step); // the writer has it open
    }
    assert_int_equal(metrics_close(metrics), STATUS_OK);
    assert_rows(METRICS_TRAIN, 1, 1, 700);
    assert_rows(METRICS_EVAL, 100, 100, 7);

    // The evaluation at the resumed step stays, what came after goes.
    assert_int_equal(metrics_open(&metrics, path, &RUN, 300, swmr), STATUS_OK);
    assert_rows(METRICS_TRAIN, 1, 1, 300);
    assert_rows(METRICS_EVAL, 100, 100, 3);
    for (int64_t step = 301; step <= 400; step++) append(metrics, METRICS_TRAIN, step);
    append(metrics, METRICS_EVAL, 400);
    assert_int_equal(metrics_close(metrics), STATUS_OK);
    assert_rows(METRICS_TRAIN, 1, 1, 400);
    assert_rows(METRICS_EVAL, 100, 100, 4);

    // A new run starts anew.
    assert_int_equal(metrics_open(&metrics, path, &RUN, 0, swmr), STATUS_OK);
    assert_int_equal(metrics_close(metrics), STATUS_OK);
    assert_rows(METRICS_TRAIN, 1, 1, 0);
}

static void test_swmr(void **state) {
    (void)state;
    write_and_resume(true);
}

static void test_plain(void **state) {
    (void)state;
    write_and_resume(false);
}

// What a killed writer leaves to others, before the run goes on: the rows that were done, and at most one more.
static void assert_readable(int64_t done) {
    MetricsRow *rows;
    int64_t count;
    assert_int_equal(metrics_read(path, METRICS_TRAIN, &rows, &count), STATUS_OK);
    assert_in_range(count, done, done + 1);
    free(rows);
}

// A child writes until it is killed in the middle; the parent knows from a pipe which rows were done.
static void killed_writer(bool swmr) {
    for (int round = 0; round < 4; round++) {
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            close(ends[0]);
            Metrics *metrics;
            if (metrics_open(&metrics, path, &RUN, 0, swmr) != STATUS_OK) _exit(1);
            for (int64_t step = 1;; step++) {
                MetricsRow row = make_row(step);
                if (metrics_append(metrics, METRICS_TRAIN, &row) != STATUS_OK) _exit(1);
                if (write(ends[1], &step, sizeof step) != sizeof step) _exit(1);
            }
        }
        close(ends[1]);
        int64_t done = 0, step;
        while (done < 40 + 17 * round && read(ends[0], &step, sizeof step) == sizeof step) done = step;
        assert_true(done >= 40);
        usleep((useconds_t)(300 * round));
        kill(child, SIGKILL);
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how));
        while (read(ends[0], &step, sizeof step) == sizeof step) done = step;
        close(ends[0]);

        if (swmr) assert_readable(done);
        Metrics *metrics;
        assert_int_equal(metrics_open(&metrics, path, &RUN, done, swmr), STATUS_OK);
        assert_rows(METRICS_TRAIN, 1, 1, done);
        append(metrics, METRICS_TRAIN, done + 1);
        append(metrics, METRICS_EVAL, done + 1);
        assert_int_equal(metrics_close(metrics), STATUS_OK);
        assert_rows(METRICS_TRAIN, 1, 1, done + 1);
        assert_rows(METRICS_EVAL, done + 1, 1, 1);
    }
}

enum { PAGE = 4096 };

// How many pages HDF5 may still write before the process kills itself; negative: no end. A kill leaves of a write any
// number of whole pages from its start (Linux looks for the signal between them).
static int pages_left = -1;

// What HDF5 writes while `recording`: the page as it is after each write.
typedef struct Written {
    off_t page;
    char bytes[PAGE];
} Written;
static bool recording;
static Written *written;
static size_t written_count;

static void record(int fd, off_t at) {
    written = realloc(written, (written_count + 1) * sizeof *written);
    assert_non_null(written);
    Written *last = &written[written_count++];
    *last = (Written){.page = at / PAGE};
    assert_true(pread(fd, last->bytes, PAGE, last->page * PAGE) > 0);
}

// In HDF5's place of the C library's.
ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
    size_t done = 0;
    while (done < size) {
        if (pages_left == 0) kill(getpid(), SIGKILL);
        if (pages_left > 0) pages_left--;
        size_t part = PAGE - ((size_t)at + done) % PAGE;
        if (part > size - done) part = size - done;
        const ssize_t wrote = syscall(SYS_pwrite64, fd, (const char *)bytes + done, part, at + (off_t)done);
        if (wrote < 0) return done > 0 ? (ssize_t)done : wrote;
        if (recording) record(fd, at + (off_t)done);
        done += (size_t)wrote;
        if ((size_t)wrote < part) break;
    }
    return (ssize_t)done;
}

// Appends row `rows` + 1 and is killed after so many pages; false where the row took fewer.
static bool killed_after(int pages, int64_t rows, bool swmr) {
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        Metrics *metrics;
        const MetricsRow row = make_row(rows + 1);
        if (metrics_open(&metrics, path, &RUN, rows, swmr) != STATUS_OK) _exit(1);
        pages_left = pages;
        _exit(metrics_append(metrics, METRICS_TRAIN, &row) == STATUS_OK ? 0 : 1);
    }
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFSIGNALED(how) || WEXITSTATUS(how) == 0);
    return WIFSIGNALED(how);
}

// Killed after every page of a row: the first of the file but one, the first of a chunk, the first that needs a block
// of the chunks' index.
static void killed_everywhere(bool swmr) {
    static const int64_t lengths[] = {1, 512, 2048};
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
        const int64_t rows = lengths[l];
        Metrics *metrics;
        assert_int_equal(metrics_open(&metrics, path, &RUN, 0, true), STATUS_OK);
        for (int64_t step = 1; step <= rows; step++) append(metrics, METRICS_TRAIN, step);
        assert_int_equal(metrics_close(metrics), STATUS_OK);
        int pages = 0;
        while (killed_after(pages++, rows, swmr)) {
            if (swmr) assert_readable(rows);
            assert_int_equal(metrics_open(&metrics, path, &RUN, rows, swmr), STATUS_OK);
            assert_int_equal(metrics_close(metrics), STATUS_OK);
            assert_rows(METRICS_TRAIN, 1, 1, rows);
        }
        assert_true(pages > METRICS_COLUMN_COUNT);
    }
}

static void test_killed_everywhere_swmr(void **state) {
    (void)state;
    killed_everywhere(true);
}

static void test_killed_everywhere_plain(void **state) {
    (void)state;
    killed_everywhere(false);
}

// What a power cut leaves of what was written since the last fsync: of each page any state that it had, and any length.
static void power_cut(int64_t synced, bool swmr) {
    enum { TRIALS = 20, MORE = 4 };
    Metrics *metrics;
    assert_int_equal(metrics_open(&metrics, path, &RUN, 0, swmr), STATUS_OK);
    for (int64_t step = 1; step <= synced; step++) append(metrics, METRICS_TRAIN, step);
    char *before;
    size_t size;
    assert_int_equal(file_read(path, SIZE_MAX - 1, &before, &size), STATUS_OK);
    written_count = 0;
    recording = true;
    for (int64_t step = synced + 1; step <= synced + MORE; step++) append(metrics, METRICS_TRAIN, step);
    append(metrics, METRICS_EVAL, synced + MORE);
    recording = false;
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(metrics_close(metrics), STATUS_OK);
    assert_true(written_count > MORE * METRICS_COLUMN_COUNT);

    const size_t after = (size_t)info.st_size, pages = (after + PAGE - 1) / PAGE;
    assert_true(after >= size);
    char *image = malloc(pages * PAGE);
    size_t *last = malloc(pages * sizeof *last); // of each page: how many of all writes came before its state
    assert_true(image != NULL && last != NULL);
    unsigned seed = (unsigned)synced;
    for (int trial = 0; trial < TRIALS; trial++) {
        memset(image, 0, pages * PAGE);
        memcpy(image, before, size);
        for (size_t p = 0; p < pages; p++) last[p] = (size_t)rand_r(&seed) % (written_count + 1);
        for (size_t w = 0; w < written_count; w++)
            if (w < last[written[w].page]) memcpy(image + written[w].page * PAGE, written[w].bytes, PAGE);
        const size_t length = size + (size_t)rand_r(&seed) % (after - size + 1);
        assert_int_equal(file_write_durable(path, image, length), STATUS_OK);
        assert_int_equal(metrics_open(&metrics, path, &RUN, synced, swmr), STATUS_OK);
        assert_int_equal(metrics_close(metrics), STATUS_OK);
        assert_rows(METRICS_TRAIN, 1, 1, synced);
        assert_rows(METRICS_EVAL, 1, 1, 0);
    }
    free(last);
    free(image);
    free(before);
}

// In a chunk, before a new one, before a new block of the chunks' index.
static void test_power_cut(void **state) {
    (void)state;
    for (int swmr = 0; swmr <= 1; swmr++) {
        power_cut(100, swmr);
        power_cut(510, swmr);
        power_cut(2047, swmr);
    }
}

static void test_killed_swmr(void **state) {
    (void)state;
    killed_writer(true);
}

static void test_killed_plain(void **state) {
    (void)state;
    killed_writer(false);
}

// A limit on the file's size stands in for a full disk.
static void test_no_space(void **state) {
    (void)state;
    for (int swmr = 0; swmr <= 1; swmr++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            Metrics *metrics;
            struct rlimit limit = {600000, 600000};
            signal(SIGXFSZ, SIG_IGN); // write() returns EFBIG instead
            if (metrics_open(&metrics, path, &RUN, 0, swmr) != STATUS_OK) _exit(1);
            if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(1);
            Status status = STATUS_OK;
            for (int64_t step = 1; step <= 20000 && status == STATUS_OK; step++) {
                MetricsRow row = make_row(step);
                status = metrics_append(metrics, METRICS_TRAIN, &row);
            }
            bool named = strstr(error_text(), path) != NULL && strstr(error_text(), "File too large") != NULL;
            _exit(status == STATUS_FAILED && named ? 42 : 1);
        }
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 42);
        Metrics *metrics; // what was written before is still there
        for (int64_t resume = 200; resume >= 100; resume -= 100) {
            assert_int_equal(metrics_open(&metrics, path, &RUN, resume, swmr), STATUS_OK);
            assert_int_equal(metrics_close(metrics), STATUS_OK);
            assert_rows(METRICS_TRAIN, 1, 1, resume);
        }
        assert_int_equal(metrics_open(&metrics, path, &RUN, 100, swmr), STATUS_OK);
        assert_int_equal(metrics_close(metrics), STATUS_OK);
        assert_rows(METRICS_TRAIN, 1, 1, 100);
    }
}

static void test_bad_files(void **state) {
    (void)state;
    MetricsRow *rows;
    int64_t count;
    Metrics *metrics;
    assert_int_equal(metrics_read("nowhere.h5", METRICS_TRAIN, &rows, &count), STATUS_FAILED);
    assert_string_equal(error_text(), "nowhere.h5: cannot be read: No such file or directory");
    error_clear();
    assert_int_equal(file_write_durable(path, "this is no metrics file", 23), STATUS_OK);
    assert_int_equal(metrics_open(&metrics, path, &RUN, 5, true), STATUS_FAILED);
    assert_non_null(strstr(error_text(), path));
    assert_non_null(strstr(error_text(), "; move it away to go on without its rows"));
    error_clear();
    assert_int_equal(metrics_open(&metrics, path, &RUN, 0, true), STATUS_OK); // a new run does not look at it
    append(metrics, METRICS_TRAIN, 1);
    append(metrics, METRICS_TRAIN, 2);
    assert_int_equal(metrics_close(metrics), STATUS_OK);
    assert_int_equal(metrics_open(&metrics, path, &RUN, 9, true), STATUS_OK); // warns, and keeps what is there
    assert_int_equal(metrics_last_step(metrics, METRICS_TRAIN), 2);
    assert_int_equal(metrics_last_step(metrics, METRICS_EVAL), 0);
    append(metrics, METRICS_TRAIN, 2);
    assert_int_equal(metrics_close(metrics), STATUS_OK);
    assert_int_equal(metrics_read(path, METRICS_TRAIN, &rows, &count), STATUS_FAILED);
    assert_non_null(strstr(error_text(), ": row 2 has a step not after the one before"));
    error_clear();
    assert_int_equal(metrics_open(&metrics, "no/such/folder/m.h5", &RUN, 0, true), STATUS_FAILED);
    assert_non_null(strstr(error_text(), "No such file or directory"));
    error_clear();
    assert_int_equal(metrics_close(NULL), STATUS_OK);
}

// What a reader that follows asks for: rows from one on, and how many a resume has cut.
static void test_read_from(void **state) {
    (void)state;
    Metrics *metrics;
    MetricsRow *rows;
    int64_t count;
    assert_int_equal(metrics_open(&metrics, path, &RUN, 0, true), STATUS_OK);
    for (int64_t step = 1; step <= 600; step++) append(metrics, METRICS_TRAIN, step);
    assert_int_equal(metrics_read_from(path, METRICS_TRAIN, 597, &rows, &count), STATUS_OK);
    assert_int_equal(count, 3);
    assert_int_equal(rows[0].step, 598);
    for (int c = METRICS_STEP_COLUMN + 1; c < METRICS_COLUMN_COUNT; c++) {
        const MetricsRow wanted = make_row(600);
        assert_same(metrics_value(&rows[2], c), metrics_value(&wanted, c));
    }
    free(rows);
    assert_int_equal(metrics_read_from(path, METRICS_TRAIN, 600, &rows, &count), STATUS_OK);
    assert_int_equal(count, 0);
    free(rows);
    assert_int_equal(metrics_read_from(path, METRICS_TRAIN, 640, &rows, &count), STATUS_OK);
    assert_int_equal(count, -40);
    free(rows);
    assert_int_equal(metrics_close(metrics), STATUS_OK);
}

static void test_columns(void **state) {
    (void)state;
    assert_string_equal(metrics_columns[METRICS_STEP_COLUMN].name, "step");
    assert_string_equal(metrics_columns[METRICS_kl].name, "kl");
    assert_string_equal(metrics_columns[METRICS_skipped].name, "skipped");
    const MetricsRow row = {.kl = 3, .skipped = 4};
    assert_true(metrics_value(&row, METRICS_kl) == 3 && metrics_value(&row, METRICS_skipped) == 4);
}

static long find_bytes(const char *bytes, long size, const char *what) {
    for (long i = 0; i + (long)strlen(what) <= size; i++)
        if (memcmp(bytes + i, what, strlen(what)) == 0) return i;
    return -1;
}

// HDF5 itself crashes on a heap of texts whose sizes lie, as it carries no checksum; the reader says so and lives.
static void test_read_run(void **state) {
    (void)state;
    static char bytes[1 << 20];
    Metrics *metrics;
    MetricsRun run;
    assert_int_equal(metrics_open(&metrics, path, &RUN, 0, true), STATUS_OK);
    assert_int_equal(metrics_read_run(path, &run), STATUS_OK); // the writer has it open
    assert_string_equal(run.version, RUN.version);
    assert_string_equal(run.git_commit, RUN.git_commit);
    assert_string_equal(run.config, RUN.config);
    assert_string_equal(run.hosts, RUN.hosts);
    assert_string_equal(run.devices, RUN.devices);
    assert_int_equal(run.ranks, RUN.ranks);
    assert_true(run.start_time == RUN.start_time);
    metrics_run_free(&run);
    assert_int_equal(metrics_close(metrics), STATUS_OK);

    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    const long size = (long)fread(bytes, 1, sizeof bytes, file), heap = find_bytes(bytes, size, "GCOL");
    assert_true(heap > 0);
    int refused = 0;
    for (int i = 0; i < 64; i++) { // numbers and sizes of the first objects
        const long at = heap + 16 + i;
        const char damaged = (char)(bytes[at] ^ 0x5a);
        assert_int_equal(fseek(file, at, SEEK_SET), 0);
        assert_int_equal(fwrite(&damaged, 1, 1, file), 1);
        assert_int_equal(fflush(file), 0);
        if (metrics_read_run(path, &run) != STATUS_OK) {
            assert_non_null(strstr(error_text(), path));
            error_clear();
            refused++;
        }
        metrics_run_free(&run);
        assert_int_equal(fseek(file, at, SEEK_SET), 0);
        assert_int_equal(fwrite(&bytes[at], 1, 1, file), 1);
    }
    assert_int_equal(fclose(file), 0);
    assert_true(refused > 0);
    assert_int_equal(metrics_read_run("nowhere.h5", &run), STATUS_FAILED);
    error_clear();
}

static int clean(void **state) {
    (void)state;
    error_clear(); // a failed test shall fail alone
    unlink(path);
    return 0;
}

int main(void) {
    if (mkdtemp(dir) == NULL) return 1;
    snprintf(path, sizeof path, "%s/metrics.h5", dir);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_swmr, clean),
        cmocka_unit_test_teardown(test_plain, clean),
        cmocka_unit_test_teardown(test_killed_swmr, clean),
        cmocka_unit_test_teardown(test_killed_plain, clean),
        cmocka_unit_test_teardown(test_killed_everywhere_swmr, clean),
        cmocka_unit_test_teardown(test_killed_everywhere_plain, clean),
        cmocka_unit_test_teardown(test_power_cut, clean),
        cmocka_unit_test_teardown(test_no_space, clean),
        cmocka_unit_test_teardown(test_bad_files, clean),
        cmocka_unit_test_teardown(test_read_from, clean),
        cmocka_unit_test(test_columns),
        cmocka_unit_test_teardown(test_read_run, clean),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(written);
    rmdir(dir);
    return failed;
}
