// Fuzzes the configuration (io/config.c): the file and, behind NUL bytes, key=value words. What passes must come back
// the same from the text that config_text makes of it.
#include "io/config.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

enum { TEXTS_MAX = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    FuzzTexts texts = fuzz_texts(data, size, TEXTS_MAX);
    static Config config, again;
    Status status = config_parse(&config, fuzz_modules, texts.text[0], "run.cfg", (int)texts.count - 1, texts.text + 1);
    fuzz_end(status);
    if (status == STATUS_OK) {
        char key[64], a[256], b[256];
        char *text = config_text(&config);
        FUZZ_CHECK(text != NULL);
        status = config_parse(&again, fuzz_modules, text, "again.cfg", 0, NULL);
        FUZZ_CHECK(status == STATUS_OK);
        FUZZ_CHECK(config_same_run(&config, &again, key, a, b));
        char *second = config_text(&again);
        FUZZ_CHECK(second != NULL && strcmp(text, second) == 0);
        free(second);
        free(text);
    }
    fuzz_texts_free(&texts);
    return 0;
}
