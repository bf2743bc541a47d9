// Fuzzes the Jinja interpreter (io/jinja.h): the input is a template and, behind a NUL byte, a JSON object of its
// variables.
#include "io/jinja.h"
#include "tests/fuzz/fuzz.h"

#include <jansson.h>
#include <string.h>

enum { VARIABLES_MAX = 16 };

static int take_variables(JinjaScratch *scratch, json_t *object, JinjaVariable *out) {
    const char *name;
    json_t *value;
    int count = 0;
    json_object_foreach(object, name, value) {
        if (count == VARIABLES_MAX) break;
        out[count].name = name;
        if (jinja_from_json(scratch, value, &out[count].value) == STATUS_OK) count++;
        error_clear();
    }
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    FuzzTexts texts = fuzz_texts(data, size, 2);
    JinjaTemplate *template;
    const Status parsed = jinja_parse(&template, "template", texts.text[0], strlen(texts.text[0]));
    fuzz_end(parsed);
    FUZZ_CHECK((parsed == STATUS_OK) == (template != NULL));
    if (template != NULL) {
        JinjaScratch scratch = {.bytes_max = (size_t)16 << 20, .steps_max = 300000};
        JinjaVariable variables[VARIABLES_MAX];
        json_t *object = texts.count > 1 ? json_loads(texts.text[1], 0, NULL) : NULL;
        for (int i = 0; i < 2; i++) { // the second finds the memory of the first
            const char *text = NULL;
            size_t bytes = 0;
            jinja_scratch_reset(&scratch);
            const int count = take_variables(&scratch, object, variables);
            const Status status = jinja_render(template, &scratch, variables, count, 0, &text, &bytes);
            fuzz_end(status);
            if (status == STATUS_OK) {
                fuzz_touch(text, bytes + 1);
                FUZZ_CHECK(text[bytes] == '\0');
            }
        }
        json_decref(object);
        jinja_scratch_free(&scratch);
    }
    jinja_free(template);
    fuzz_texts_free(&texts);
    return 0;
}
