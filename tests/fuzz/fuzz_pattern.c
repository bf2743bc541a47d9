// Fuzzes regular expressions (io/pattern.c): the input is one and a text to search, parted by a NUL byte. Matches come
// in order and lie in the text.
#include "io/pattern.h"
#include "io/unicode.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

static void search(const Pattern *pattern, const char *text, size_t bytes) {
    PatternScratch *scratch;
    fuzz_end(pattern_scratch_open(&scratch));
    PatternSearch search = pattern_search(pattern, scratch, text, bytes);
    Status status = STATUS_OK;
    size_t last = 0;
    for (bool found = true; found && status == STATUS_OK;) {
        status = pattern_next(&search, &found);
        if (status != STATUS_OK || !found) break;
        FUZZ_CHECK(last <= search.start && search.start <= search.end && search.end <= bytes);
        last = search.end;
    }
    fuzz_end(status);
    pattern_scratch_close(scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    FuzzTexts texts = fuzz_texts(data, size, 2);
    // The reader's JSON is UTF-8 for certain.
    if (texts.count > 0 && unicode_valid(texts.text[0], strlen(texts.text[0])) == strlen(texts.text[0])) {
        const char *text = texts.count > 1 ? texts.text[1] : "it's 12  a\xC3\xA9\n";
        Pattern *pattern;
        Status status = pattern_open_regex(&pattern, texts.text[0], "place");
        fuzz_end(status);
        if (status == STATUS_OK) search(pattern, text, unicode_valid(text, strlen(text)));
        pattern_close(pattern);
    }
    fuzz_texts_free(&texts);
    return 0;
}
