// Fuzzes tokenizer.json (io/tokenizer_json.c, tokenizer_tables.cc) and all that it drives. The input is tokenizer.json,
// tokenizer_config.json and a text to encode, parted by NUL bytes; a configuration that does not come names token "a"
// as eos.
#include "io/tokenizer.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

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
    static const char text[] = "a  ab<s> abc, it's 123 \xE4\xBD\xA0\xE2\x96\x81 e\xCC\x81 \xFF\n b";
    FuzzTexts texts = fuzz_texts(data, size, 3);
    const char *config = texts.count > 1 ? texts.text[1] : "{\"eos_token\": \"a\"}";
    if (texts.count > 0) {
        fuzz_file("tokenizer.json", texts.text[0], strlen(texts.text[0]));
        fuzz_file("tokenizer_config.json", config, strlen(config));
        Tokenizer *tokenizer;
        Status status = tokenizer_open(&tokenizer, fuzz_folder());
        fuzz_end(status);
        if (status == STATUS_OK) {
            FUZZ_CHECK(tokenizer_eos_text(tokenizer) != NULL && tokenizer_bos_text(tokenizer) != NULL);
            round_trip(tokenizer, text);
            if (texts.count > 2) round_trip(tokenizer, texts.text[2]);
            tokenizer_close(tokenizer);
        }
    }
    fuzz_texts_free(&texts);
    return 0;
}
