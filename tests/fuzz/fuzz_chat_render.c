// Fuzzes the rendering of conversations (io/chat_template.c). The first byte chooses the template; then come bos, eos
// and the roles and contents of the messages, parted by NUL bytes.
#include "io/chat_template.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

enum { TEXTS_MAX = 64, FIRST_MESSAGE = 2, TEMPLATES = CHAT_LLAMA2 + 1 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    FuzzTexts texts = fuzz_texts(data + 1, size - 1, TEXTS_MAX);
    Message messages[TEXTS_MAX];
    int count = 0;
    for (size_t i = FIRST_MESSAGE; i + 1 < texts.count; i += 2)
        messages[count++] = (Message){texts.text[i], texts.text[i + 1]};
    char *out;
    Status status = chat_template_render((ChatTemplate)(data[0] % TEMPLATES), messages, count, data[0] / TEMPLATES % 2,
                                         texts.text[0], texts.count > 1 ? texts.text[1] : "", &out);
    fuzz_end(status);
    FUZZ_CHECK((status == STATUS_OK) == (out != NULL));
    if (out != NULL) fuzz_touch(out, strlen(out));
    free(out);
    fuzz_texts_free(&texts);
    return 0;
}
