// Fuzzes tokenizer.model (io/sentencepiece.cc, io/tokenizer.c): a model that passes encodes a text and decodes its ids.
#include "io/tokenizer.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char text[] = "Hello  world <s>\xE2\x96\x81tok\xC3\xA9n\xFF</s>\n aaaa abab";
    fuzz_file("tokenizer.model", data, size);
    Tokenizer *tokenizer;
    Status status = tokenizer_open(&tokenizer, fuzz_folder());
    fuzz_end(status);
    if (status != STATUS_OK) return 0;
    int32_t *ids = NULL, count = 0, capacity = 0;
    char *back = NULL;
    status = tokenizer_encode(tokenizer, text, sizeof text - 1, true, &ids, &count, &capacity);
    fuzz_end(status);
    for (int32_t i = 0; i < count; i++) FUZZ_CHECK(ids[i] >= 0 && ids[i] < tokenizer_vocab(tokenizer));
    if (status == STATUS_OK) fuzz_end(tokenizer_decode(tokenizer, ids, count, false, &back));
    FUZZ_CHECK(tokenizer_eos_text(tokenizer) != NULL && tokenizer_bos_text(tokenizer) != NULL);
    free(back);
    free(ids);
    tokenizer_close(tokenizer);
    return 0;
}
