// See conversation.h.
#include "src/data/conversation.h"

#include "src/base/memory.h"
#include "src/data/dataset.h"

#include <stdlib.h>
#include <string.h>

static Status copy(const char *text, char **out) {
    *out = strdup(text);
    return *out != NULL ? STATUS_OK : error_set(STATUS_FAILED, "out of memory for a conversation");
}

void conversation_free(Conversation *talk) {
    conversation_forget(talk);
    prompt_frame_free(&talk->frame);
    free(talk->messages);
    free(talk->system);
    *talk = (Conversation){0};
}

static Status add(Conversation *talk, const char *role, const char *words) {
    if (talk->count == talk->capacity) {
        const int capacity = talk->capacity == 0 ? 16 : 2 * talk->capacity;
        Message *messages = realloc(talk->messages, (size_t)capacity * sizeof *messages);
        if (messages == NULL) return error_set(STATUS_FAILED, "out of memory for a conversation");
        talk->messages = messages;
        talk->capacity = capacity;
    }
    Message message = {0};
    Status status = copy(role, &message.role);
    if (status == STATUS_OK) status = copy(words, &message.content);
    if (status == STATUS_OK)
        talk->messages[talk->count++] = message;
    else
        message_free(&message);
    return status;
}

Status conversation_ask(Conversation *talk, const char *words) {
    if (!talk->frame.chat) conversation_forget(talk);
    return add(talk, "user", words);
}

Status conversation_answer(Conversation *talk, const char *words) {
    return add(talk, "assistant", words);
}

void conversation_take_back(Conversation *talk) {
    if (talk->count > 0) message_free(&talk->messages[--talk->count]);
}

void conversation_forget(Conversation *talk) {
    while (talk->count > 0) conversation_take_back(talk);
}

Status conversation_set_system(Conversation *talk, const char *text) {
    char *own = NULL;
    if (text != NULL) TRY(copy(text, &own));
    free(talk->system);
    talk->system = own;
    return STATUS_OK;
}

static Status encode(const Conversation *talk, const Tokenizer *tokenizer, const ChatTemplate *chat, int32_t **ids,
                     int32_t *count) {
    Message *messages = NULL;
    TRY(MEMORY_ALLOC(messages, talk->count + 1, "a conversation"));
    const int lead = talk->system != NULL && talk->frame.chat;
    if (lead) messages[0] = (Message){.role = "system", .content = talk->system};
    if (talk->count > 0) memcpy(messages + lead, talk->messages, (size_t)talk->count * sizeof *messages);
    TextOrMessages prompt = {0};
    Status status = prompt_frame_converse(&talk->frame, messages, lead + talk->count, &prompt);
    if (status == STATUS_OK) status = dataset_encode_prompt(&prompt, tokenizer, chat, ids, count);
    jsonl_prompt_free(&prompt);
    free(messages);
    return status;
}

// The oldest question and its answer.
static void drop_oldest(Conversation *talk) {
    message_free(&talk->messages[0]);
    message_free(&talk->messages[1]);
    talk->count -= 2;
    memmove(talk->messages, talk->messages + 2, (size_t)talk->count * sizeof *talk->messages);
}

Status conversation_encode(Conversation *talk, const Tokenizer *tokenizer, const ChatTemplate *chat, int32_t limit,
                           int32_t **ids, int32_t *count, int *dropped) {
    *ids = NULL;
    for (*dropped = 0;; ++*dropped) {
        free(*ids);
        *ids = NULL;
        TRY(encode(talk, tokenizer, chat, ids, count));
        if (*count <= limit || talk->count < 3) return STATUS_OK;
        drop_oldest(talk);
    }
}
