// What was said in a chat, and the prompt that the model gets for it.
#pragma once
#include "io/chat_template.h"
#include "io/tokenizer.h"
#include "src/data/prompt_frame.h"

typedef struct Conversation {
    PromptFrame frame;
    char *system;      // takes the place of the frame's messages before the person's; NULL: theirs
    Message *messages; // [count] user and assistant by turns; of a frame without chat the last question alone
    int count, capacity;
} Conversation;

void conversation_free(Conversation *talk);

// The person asks; a frame without chat forgets what was before.
Status conversation_ask(Conversation *talk, const char *words);
Status conversation_answer(Conversation *talk, const char *words);
void conversation_take_back(Conversation *talk); // the last message
void conversation_forget(Conversation *talk);    // all of them
// NULL: the frame's own again.
Status conversation_set_system(Conversation *talk, const char *text);

// The prompt for the last question as ids. While it has more than `limit`, the oldest question and its answer are
// forgotten; *dropped gets how many times. It may still be longer when nothing is left to drop. Caller frees *ids.
Status conversation_encode(Conversation *talk, const Tokenizer *tokenizer, const ChatTemplate *chat, int32_t limit,
                           int32_t **ids, int32_t *count, int *dropped);
