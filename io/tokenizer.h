// The model's own tokenizer: tokenizer.model through SentencePiece, giving the ids that transformers'
// LlamaTokenizerFast (legacy = true, TinyLlama's tokenizer.json) gives.
#pragma once
#include "src/base/status.h"
#include <stddef.h>
#include <stdint.h>

typedef struct Tokenizer Tokenizer;

// Reads DIR/tokenizer.model, and DIR/tokenizer_config.json and special_tokens_map.json for add_bos_token, added tokens
// and the names of bos and eos. STATUS_DATA naming the file.
Status tokenizer_open(Tokenizer **out, const char *model_dir);
void tokenizer_close(Tokenizer *tokenizer);

int32_t tokenizer_vocab(const Tokenizer *tokenizer); // size, added tokens included
int32_t tokenizer_bos(const Tokenizer *tokenizer);   // -1 if none
int32_t tokenizer_eos(const Tokenizer *tokenizer);
const char *tokenizer_eos_text(const Tokenizer *tokenizer); // "</s>"
const char *tokenizer_bos_text(const Tokenizer *tokenizer); // "<s>"; "" if none
bool tokenizer_adds_bos(const Tokenizer *tokenizer);

// Appends the ids of text[0, bytes) to *ids (grown with realloc; *capacity and *count kept), first BOS when add_bos.
// Control tokens inside the text are recognised; each piece of text between them gets its own dummy prefix.
// Thread-safe.
Status tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t bytes, bool add_bos, int32_t **ids,
                        int32_t *count, int32_t *capacity);
// The text of ids, control tokens left out when skip_special. Caller frees.
Status tokenizer_decode(const Tokenizer *tokenizer, const int32_t *ids, int32_t count, bool skip_special, char **out);
// A hash of the vocabulary, for cache keys.
uint64_t tokenizer_hash(const Tokenizer *tokenizer);
