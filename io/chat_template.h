// Chat templates by name. The Jinja text of a model folder is recognised as one of those we know; any other is refused.
#pragma once
#include "io/jsonl.h"
#include "src/base/status.h"

typedef enum ChatTemplate { CHAT_NONE = 0, CHAT_ZEPHYR, CHAT_CHATML, CHAT_LLAMA2 } ChatTemplate;

// `setting` is data.chat_template: "auto" recognises the template in DIR/chat_template.jinja or tokenizer_config.json
// (a folder without one gives CHAT_NONE; an unknown one STATUS_DATA, naming the file and what is supported), or a name.
Status chat_template_find(const char *model_dir, const char *setting, ChatTemplate *out);
const char *chat_template_name(ChatTemplate chat);

// The text of the messages, byte for byte what the Jinja template renders; with add_generation_prompt the opening of
// the assistant's turn. bos/eos as text. STATUS_DATA for a conversation the template refuses (roles that do not
// alternate in llama-2, unknown roles) or CHAT_NONE; the message has no FILE:LINE, the caller adds it. Caller frees
// *out.
Status chat_template_render(ChatTemplate chat, const Message *messages, int count, bool add_generation_prompt,
                            const char *bos, const char *eos, char **out);
