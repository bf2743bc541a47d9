// Encodes texts with a model folder's tokenizer and says how fast, for tools/compare_tokenizers.py.
//
//     bench_tokenizer MODEL_DIR TEXTS THREADS ROUNDS [IDS DECODED]
//
// TEXTS holds texts that each end in a NUL byte. Prints the seconds to open the tokenizer and, of each round, those to
// encode all texts. IDS gets for each text their number and the ids (int32), DECODED the texts of these ids, each with
// a NUL behind it.
#include "io/files.h"
#include "io/tokenizer.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BATCH 64 // texts that a thread takes at a time

typedef struct Encoded {
    int32_t *id, count, capacity;
} Encoded;

typedef struct Work {
    const Tokenizer *tokenizer;
    const char **text; // [count]
    Encoded *encoded;  // [count]
    size_t count, next;
    pthread_mutex_t mutex;
    bool failed;
} Work;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static size_t take(Work *work) {
    pthread_mutex_lock(&work->mutex);
    const size_t first = work->next;
    work->next += BATCH;
    pthread_mutex_unlock(&work->mutex);
    return first;
}

static void *encode_some(void *context) {
    Work *work = context;
    for (size_t first; (first = take(work)) < work->count && !work->failed;) {
        for (size_t i = first; i < first + BATCH && i < work->count; i++) {
            Encoded *e = &work->encoded[i];
            e->count = 0;
            if (tokenizer_encode(work->tokenizer, work->text[i], strlen(work->text[i]), true, &e->id, &e->count,
                                 &e->capacity) != STATUS_OK)
                work->failed = true;
        }
    }
    return NULL;
}

static Status encode_all(Work *work, int threads) {
    pthread_t thread[64];
    int started = 0;
    work->next = 0;
    while (started < threads && pthread_create(&thread[started], NULL, encode_some, work) == 0) started++;
    for (int i = 0; i < started; i++) pthread_join(thread[i], NULL);
    if (started < threads) return error_set(STATUS_FAILED, "no thread can be started");
    return work->failed ? STATUS_DATA : STATUS_OK;
}

static Status write_all(const Work *work, const char *ids_path, const char *decoded_path) {
    FILE *ids = fopen(ids_path, "wb"), *decoded = fopen(decoded_path, "wb");
    if (ids == NULL || decoded == NULL) return error_set(STATUS_FAILED, "%s: cannot be written", ids_path);
    for (size_t i = 0; i < work->count; i++) {
        const Encoded *e = &work->encoded[i];
        char *text;
        TRY(tokenizer_decode(work->tokenizer, e->id, e->count, false, &text));
        fwrite(&e->count, sizeof e->count, 1, ids);
        fwrite(e->id, sizeof *e->id, (size_t)e->count, ids);
        fwrite(text, 1, strlen(text) + 1, decoded);
        free(text);
    }
    const bool failed = ferror(ids) || ferror(decoded) || fclose(ids) != 0 || fclose(decoded) != 0;
    return failed ? error_set(STATUS_FAILED, "%s: cannot be written", ids_path) : STATUS_OK;
}

static Status run(Work *work, char **argv, int argc) {
    char *texts;
    size_t bytes;
    TRY(file_read(argv[2], (size_t)1 << 32, &texts, &bytes));
    for (size_t i = 0; i < bytes; i++) work->count += texts[i] == '\0';
    work->text = calloc(work->count + 1, sizeof *work->text);
    work->encoded = calloc(work->count + 1, sizeof *work->encoded);
    if (work->text == NULL || work->encoded == NULL) return error_set(STATUS_FAILED, "not enough memory");
    const char *text = texts;
    for (size_t i = 0; i < work->count; text += strlen(text) + 1) work->text[i++] = text;
    Tokenizer *tokenizer;
    double start = now();
    TRY(tokenizer_open(&tokenizer, argv[1]));
    printf("open %.3f\n", now() - start);
    work->tokenizer = tokenizer;
    for (int round = 0; round < atoi(argv[4]); round++) {
        start = now();
        TRY(encode_all(work, atoi(argv[3])));
        printf("encode %.4f\n", now() - start);
    }
    if (argc > 6) TRY(write_all(work, argv[5], argv[6]));
    tokenizer_close(tokenizer);
    return STATUS_OK;
}

int main(int argc, char **argv) {
    Work work = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    if ((argc != 5 && argc != 7) || atoi(argv[3]) < 1 || atoi(argv[3]) > 64) {
        fprintf(stderr, "usage: bench_tokenizer MODEL_DIR TEXTS THREADS ROUNDS [IDS DECODED]\n");
        return 2;
    }
    const Status status = run(&work, argv, argc);
    if (status != STATUS_OK) fprintf(stderr, "bench_tokenizer: %s\n", error_text());
    return (int)status;
}
