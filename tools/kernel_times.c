// Times every kernel, copy and memset of a CUDA program without changing it, and how long the GPU waits between them: a
// library that CUDA itself loads, over CUPTI's activity records. For machines where Nsight Systems makes no report.
//
//     CUDA_INJECTION64_PATH=$PWD/kernel_times.so KERNEL_TIMES=FILE [KERNEL_TIMES_LAST=SECONDS] PROGRAM ...
//
// FILE gets, at exit: "span MS", "busy MS", "waits MS", "launches N", and a line "kernel MS CALLS NAME" a name, the
// longest first. KERNEL_TIMES_LAST counts what began in the last so many seconds of the GPU's work, and leaves the
// start out.
#include <cupti.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER_BYTES = 8 << 20, NAME_SIZE = 128 };

// Nanoseconds of CUPTI's clock.
typedef struct Span {
    char name[NAME_SIZE];
    uint64_t begin, end;
} Span;

typedef struct Total {
    const char *name;
    double ms;
    long calls;
} Total;

static struct {
    pthread_mutex_t lock; // CUPTI hands over buffers on a thread of its own
    Span *spans;
    size_t count, capacity;
} times = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void add(const char *name, uint64_t begin, uint64_t end) {
    if (begin == 0 || end < begin) return; // CUPTI's sign for "not known"
    pthread_mutex_lock(&times.lock);
    if (times.count == times.capacity) {
        times.capacity = times.capacity ? 2 * times.capacity : 1 << 16;
        times.spans = realloc(times.spans, times.capacity * sizeof *times.spans);
        if (times.spans == NULL) abort();
    }
    Span *span = &times.spans[times.count++];
    snprintf(span->name, sizeof span->name, "%s", name);
    span->begin = begin;
    span->end = end;
    pthread_mutex_unlock(&times.lock);
}

static void CUPTIAPI give_buffer(uint8_t **buffer, size_t *size, size_t *records_max) {
    *buffer = aligned_alloc(8, BUFFER_BYTES);
    *size = *buffer != NULL ? BUFFER_BYTES : 0;
    *records_max = 0;
}

static void CUPTIAPI take_buffer(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
    (void)context, (void)stream, (void)size;
    static const char *const copies[] = {[CUPTI_ACTIVITY_MEMCPY_KIND_HTOD] = "copy to the device",
                                         [CUPTI_ACTIVITY_MEMCPY_KIND_DTOH] = "copy from the device",
                                         [CUPTI_ACTIVITY_MEMCPY_KIND_DTOD] = "copy in the device"};
    CUpti_Activity *record = NULL;
    while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
        if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
            const CUpti_ActivityKernel9 *kernel = (void *)record;
            add(kernel->name, kernel->start, kernel->end);
        } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
            const CUpti_ActivityMemcpy5 *copy = (void *)record;
            const char *name = copy->copyKind < sizeof copies / sizeof *copies ? copies[copy->copyKind] : NULL;
            add(name != NULL ? name : "copy", copy->start, copy->end);
        } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
            const CUpti_ActivityMemset4 *set = (void *)record;
            add("memset", set->start, set->end);
        }
    }
    free(buffer);
}

static int by_begin(const void *a, const void *b) {
    const uint64_t x = ((const Span *)a)->begin, y = ((const Span *)b)->begin;
    return (x > y) - (x < y);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const Span *)a)->name, ((const Span *)b)->name);
}

static int by_ms(const void *a, const void *b) {
    const double x = ((const Total *)a)->ms, y = ((const Total *)b)->ms;
    return (x < y) - (x > y);
}

// Of spans in order of their begin: kernels of several streams may overlap.
static void write_waits(FILE *file, const Span *spans, size_t count) {
    const uint64_t begin = spans[0].begin;
    uint64_t reach = begin, busy = 0;
    for (size_t i = 0; i < count; i++) {
        const uint64_t from = spans[i].begin > reach ? spans[i].begin : reach;
        if (spans[i].end <= from) continue;
        busy += spans[i].end - from;
        reach = spans[i].end;
    }
    fprintf(file, "span %.3f\nbusy %.3f\nwaits %.3f\nlaunches %zu\n", (double)(reach - begin) * 1e-6,
            (double)busy * 1e-6, (double)(reach - begin - busy) * 1e-6, count);
}

static void write_totals(FILE *file, Span *spans, size_t count) {
    Total *totals = calloc(count, sizeof *totals);
    size_t names = 0;
    if (totals == NULL) abort();
    qsort(spans, count, sizeof *spans, by_name);
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || by_name(&spans[i], &spans[i - 1]) != 0) totals[names++].name = spans[i].name;
        totals[names - 1].ms += (double)(spans[i].end - spans[i].begin) * 1e-6;
        totals[names - 1].calls++;
    }
    qsort(totals, names, sizeof *totals, by_ms);
    for (size_t i = 0; i < names; i++)
        fprintf(file, "kernel %.3f %ld %s\n", totals[i].ms, totals[i].calls, totals[i].name);
    free(totals);
}

static void report(void) {
    const char *path = getenv("KERNEL_TIMES"), *last = getenv("KERNEL_TIMES_LAST");
    cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
    FILE *file = path != NULL ? fopen(path, "w") : stderr;
    if (file == NULL || times.count == 0) return;
    qsort(times.spans, times.count, sizeof *times.spans, by_begin);
    uint64_t end = 0;
    for (size_t i = 0; i < times.count; i++)
        if (times.spans[i].end > end) end = times.spans[i].end;
    size_t first = 0;
    if (last != NULL)
        while (first + 1 < times.count && (double)(end - times.spans[first].begin) > atof(last) * 1e9) first++;
    write_waits(file, times.spans + first, times.count - first);
    write_totals(file, times.spans + first, times.count - first);
    if (file != stderr) fclose(file);
}

// CUDA calls this when it starts.
int InitializeInjection(void);
int InitializeInjection(void) {
    cuptiActivityRegisterCallbacks(give_buffer, take_buffer);
    cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
    cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY);
    cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMSET);
    atexit(report);
    return 1;
}
