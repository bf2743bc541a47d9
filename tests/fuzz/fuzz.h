// What the fuzz targets share: a folder in memory to put the input's bytes into, cutting an input into texts, and what
// must hold after every call of a reader. A target is one fuzz_NAME.c with LLVMFuzzerTestOneInput, run by libFuzzer
// (-DKTO_FUZZ=ON) or over stored inputs by replay.c.
#pragma once
#include "src/base/status.h"
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Aborts, which the fuzzer takes for a crash, naming what does not hold.
#define FUZZ_CHECK(condition) fuzz_check((condition), #condition, __FILE__, __LINE__)
void fuzz_check(bool holds, const char *condition, const char *file, int line);

// A folder of this process alone, in /dev/shm or $TMPDIR; gone with the process.
const char *fuzz_folder(void);
// Writes FOLDER/NAME (NAME may begin with one folder, which is made) and gives its path, valid for the process's life.
const char *fuzz_file(const char *name, const void *data, size_t size);
// The same as a safetensors file with the right length in front: the header is the input up to its first NUL byte, the
// data are what follows it.
const char *fuzz_tensor_file(const char *name, const uint8_t *data, size_t size);

// After a reader returned `status`: a failure has a message of one line in printable characters. Clears it.
void fuzz_end(Status status);

// The input cut at its NUL bytes into at most `limit` texts; the last is the rest. Frees with fuzz_texts_free.
typedef struct FuzzTexts {
    char **text; // [count], NUL-terminated
    size_t count;
} FuzzTexts;
FuzzTexts fuzz_texts(const uint8_t *data, size_t size, size_t limit);
void fuzz_texts_free(FuzzTexts *texts);

// Names that an adapter's modules may have.
extern const char *const fuzz_modules[];

// Reads every byte, so that a sanitizer sees what lies behind a pointer.
void fuzz_touch(const void *bytes, size_t size);
