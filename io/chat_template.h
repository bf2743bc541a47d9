// Chat templates: from the messages of a row to the text that the model is asked, as transformers' apply_chat_template
// writes it. Which template a folder has, and what it gets to see; the language is io/jinja's.
#pragma once
#include "io/jinja.h"
#include "io/jsonl.h"
#include "src/base/status.h"
#include <time.h>

typedef struct ChatTemplate ChatTemplate; // never changes once opened: any number of threads may render it

// `setting` is data.chat_template: "auto" takes the folder's own (chat_template.jinja, additional_chat_templates/, or
// chat_template in tokenizer_config.json; a folder without one gives NULL), the name of a built-in one, or a file. bos
// and eos are the texts that templates know as bos_token and eos_token ("": none), `now` is what strftime_now tells.
// STATUS_USAGE for a setting that is neither, STATUS_DATA naming file and line for a template that is not supported.
// Close with chat_template_close.
Status chat_template_open(ChatTemplate **out, const char *model_dir, const char *setting, const char *bos,
                          const char *eos, time_t now);
void chat_template_close(ChatTemplate *chat);
bool chat_template_tells_time(const ChatTemplate *chat); // its texts may differ from day to day
bool chat_template_is_there(const char *model_dir);      // whether "auto" finds one, of whatever kind

// The text of the prompt's messages and, where `answer` is not NULL, the answer's behind them; with
// add_generation_prompt the opening of the assistant's turn. *text is the scratch's, until it is used again, with a NUL
// behind its *bytes bytes. STATUS_DATA, naming the template's line but not the row's, for a conversation that the
// template refuses, or where there is no template (chat is NULL).
Status chat_template_render(const ChatTemplate *chat, JinjaScratch *scratch, const TextOrMessages *prompt,
                            const TextOrMessages *answer, bool add_generation_prompt, const char **text, size_t *bytes);
