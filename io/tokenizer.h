// The model's own tokenizer: tokenizer.json, giving the ids that Hugging Face's tokenizers gives; or tokenizer.model
// through SentencePiece, giving those of the tokenizer.json that transformers made of such models (legacy = true).
#pragma once
#include "src/base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Tokenizer Tokenizer;

// Reads DIR/tokenizer.json, or DIR/tokenizer.model where that is missing; and DIR/tokenizer_config.json,
// special_tokens_map.json and added_tokens.json for added tokens and the names of bos and eos. STATUS_DATA naming the
// file.
Status tokenizer_open(Tokenizer **out, const char *model_dir);
void tokenizer_close(Tokenizer *tokenizer);

int32_t tokenizer_vocab(const Tokenizer *tokenizer); // size, added tokens included
int32_t tokenizer_bos(const Tokenizer *tokenizer);   // -1 if none
int32_t tokenizer_eos(const Tokenizer *tokenizer);
const char *tokenizer_eos_text(const Tokenizer *tokenizer); // "</s>"
const char *tokenizer_bos_text(const Tokenizer *tokenizer); // "<s>"; "" if none

// Appends the ids of text[0, bytes) to *ids (grown with realloc; *capacity and *count kept). With `plain` they begin as
// the tokenizer begins plain text (mostly with bos), without it they are the text's alone: what transformers calls
// add_special_tokens. Added tokens inside the text are recognised. Bytes that are no UTF-8 count as U+FFFD. STATUS_DATA
// when a regular expression of tokenizer.json runs away on the text. Thread-safe.
Status tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t bytes, bool plain, int32_t **ids,
                        int32_t *count, int32_t *capacity);
// The text of ids, special tokens left out when skip_special; ids that are no token are passed over. Thread-safe.
// Caller frees.
Status tokenizer_decode(const Tokenizer *tokenizer, const int32_t *ids, int32_t count, bool skip_special, char **out);
// The token as the vocabulary has it ("Ġthe", "<0x0A>"; transformers' convert_ids_to_tokens), *bytes long; NULL for
// an id that is no token.
const char *tokenizer_piece(const Tokenizer *tokenizer, int32_t id, size_t *bytes);
// The bytes that the token adds inside a text (" the", "\n"), which may be a part of a character. Caller frees *out.
Status tokenizer_piece_text(const Tokenizer *tokenizer, int32_t id, char **out, size_t *bytes);
// Whether it is an added token, which stands for its whole text, as special ones are.
bool tokenizer_is_added(const Tokenizer *tokenizer, int32_t id);
// A hash of the tokenizer's files, for cache keys.
uint64_t tokenizer_hash(const Tokenizer *tokenizer);
