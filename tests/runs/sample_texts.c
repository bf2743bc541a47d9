// sample_texts FILE: the completions of `kto sample`, as `kto chat` shows them: control characters replaced, each ended
// by a newline.
#include "src/base/text.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    FILE *file = argc == 2 ? fopen(argv[1], "r") : NULL;
    if (file == NULL) return 2;
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, file) > 0) {
        json_t *row = json_loads(line, 0, NULL);
        const char *text = json_string_value(json_object_get(row, "completion"));
        if (text == NULL) return 1;
        char *shown = strdup(text);
        text_make_printable(shown);
        const size_t length = strlen(shown);
        printf("%s%s", shown, length > 0 && shown[length - 1] == '\n' ? "" : "\n");
        free(shown);
        json_decref(row);
    }
    free(line);
    return fclose(file) == 0 ? 0 : 1;
}
