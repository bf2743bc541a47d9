// Fuzzes the rows of a dataset (io/jsonl.c): every line as a training row and as a prompt, and what is written of it.
#include "io/jsonl.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    JsonlFile file;
    Status status = jsonl_open(&file, fuzz_file("rows.jsonl", data, size));
    fuzz_end(status);
    if (status != STATUS_OK) return 0;
    for (int64_t i = 0; i < file.line_count; i++) {
        JsonlRow row;
        fuzz_end(jsonl_row(&file, i, &row));
        jsonl_row_free(&row);
        TextOrMessages prompt;
        status = jsonl_prompt(&file, i, &prompt);
        fuzz_end(status);
        if (status == STATUS_OK) {
            char *line = jsonl_sample_line(&prompt, "an answer", i);
            FUZZ_CHECK(line != NULL);
            free(line);
        }
        jsonl_prompt_free(&prompt);
    }
    jsonl_close(&file);
    return 0;
}
