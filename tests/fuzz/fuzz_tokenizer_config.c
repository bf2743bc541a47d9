// Fuzzes the JSON files beside a good tokenizer.model (io/tokenizer.c). The input is tokenizer_config.json,
// special_tokens_map.json, added_tokens.json and a text to encode, parted by NUL bytes; files that do not come are not
// there.
#include "io/files.h"
#include "io/tokenizer.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILES = 3, TEXT = FILES };

static void round_trip(const Tokenizer *tokenizer, const char *text) {
    int32_t *ids = NULL, count = 0, capacity = 0;
    Status status = tokenizer_encode(tokenizer, text, strlen(text), true, &ids, &count, &capacity);
    fuzz_end(status);
    for (int32_t i = 0; i < count; i++) FUZZ_CHECK(ids[i] >= 0 && ids[i] < tokenizer_vocab(tokenizer));
    for (int skip = 0; skip < 2 && status == STATUS_OK; skip++) {
        char *back;
        fuzz_end(tokenizer_decode(tokenizer, ids, count, skip == 1, &back));
        free(back);
    }
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const names[FILES] = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"};
    static bool ready;
    if (!ready) {
        char *model;
        size_t bytes;
        fuzz_end(file_read(FUZZ_MODEL, SIZE_MAX - 1, &model, &bytes));
        fuzz_file("tokenizer.model", model, bytes);
        free(model);
        ready = true;
    }
    FuzzTexts texts = fuzz_texts(data, size, FILES + 1);
    for (size_t i = 0; i < FILES; i++) {
        const char *text = i < texts.count ? texts.text[i] : "";
        const char *path = fuzz_file(names[i], text, strlen(text));
        if (i >= texts.count) unlink(path);
    }
    Tokenizer *tokenizer;
    Status status = tokenizer_open(&tokenizer, fuzz_folder());
    fuzz_end(status);
    if (status == STATUS_OK) {
        FUZZ_CHECK(tokenizer_eos_text(tokenizer) != NULL && tokenizer_bos_text(tokenizer) != NULL);
        round_trip(tokenizer, "a <s> token</s>");
        if (texts.count > TEXT) round_trip(tokenizer, texts.text[TEXT]);
        tokenizer_close(tokenizer);
    }
    fuzz_texts_free(&texts);
    return 0;
}
