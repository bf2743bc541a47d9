// The content of a message, whose two forms mean the same: a text, and a list of parts that are texts. Parts that are
// pictures or sounds are not for the models here.
#include "io/message.h"

#include "io/json_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

Status message_copy(const Message *from, Message *out) {
    *out = (Message){strdup(from->role), strdup(from->content), json_incref(from->fields)};
    if (out->role != NULL && out->content != NULL) return STATUS_OK;
    message_free(out);
    return error_set(STATUS_FAILED, "out of memory for a message");
}

void message_free(Message *message) {
    free(message->role);
    free(message->content);
    json_decref(message->fields);
    *message = (Message){0};
}

bool message_same(const Message *a, const Message *b) {
    return strcmp(a->role, b->role) == 0 && strcmp(a->content, b->content) == 0 &&
           (a->fields == b->fields || json_equal(a->fields, b->fields));
}

// The text of a part; NULL if it is no part of type text.
static const char *part_text(const json_t *part) {
    const char *type = json_text(json_object_get(part, "type"));
    return type != NULL && strcmp(type, "text") == 0 ? json_text(json_object_get(part, "text")) : NULL;
}

bool message_content(const json_t *content, char **out) {
    *out = NULL;
    const char *text = json_text(content);
    if (text != NULL) {
        *out = strdup(text);
        return true;
    }
    if (!json_is_array(content)) return false;
    size_t i, size;
    const json_t *part;
    json_array_foreach(content, i, part) if (part_text(part) == NULL) return false;
    FILE *to = open_memstream(out, &size);
    if (to == NULL) return true;
    json_array_foreach(content, i, part) fputs(part_text(part), to);
    if (fclose(to) != 0) {
        free(*out);
        *out = NULL;
    }
    return true;
}
