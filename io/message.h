// A message of a conversation, as rows and the bodies of OpenAI's API write it: {"role", "content"}, and what else a
// chat template may look at.
#pragma once
#include "src/base/status.h"
#include <jansson.h>
#include <stdbool.h>

typedef struct Message {
    char *role, *content; // UTF-8, may hold any character but NUL
    json_t *fields;       // the whole object, where it has others (tool calls, thinking); NULL: it has these two alone
} Message;

Status message_copy(const Message *from, Message *out);
void message_free(Message *message);
bool message_same(const Message *a, const Message *b);

#define MESSAGE_CONTENT_FORMS "text or a list of parts {\"type\": \"text\", \"text\"}, without \\u0000"

// A message's content in *out, which the caller frees: the text, or those of its parts one behind the other. False if
// it has none of these forms or holds NUL; *out is NULL then, and when out of memory.
bool message_content(const json_t *content, char **out);
