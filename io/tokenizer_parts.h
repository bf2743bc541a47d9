// What a tokenizer is made of, whichever file it came from: for io/tokenizer*.c alone.
#pragma once
#include "io/bpe.h"
#include "io/detokenizer.h"
#include "io/normalizer.h"
#include "io/pretokenizer.h"
#include "io/token_trie.h"
#include "io/tokenizer.h"

#include <stdbool.h>

#define TOKEN_BYTES_MAX 8192
#define VOCAB_MAX       (1 << 24)
#define ADDED_IDS_MAX   (1 << 16) // ids behind the model's own: a table of all ids is made
#define PREFIX_MAX      8

// How an added token is found in text. All false for a token of the model alone.
typedef struct TokenFlags {
    bool added;
    bool special;     // left out when text is made of ids
    bool normalized;  // looked for in normalised text, as its own text is when it is normalised
    bool lstrip;      // takes the whitespace before it along
    bool rstrip;      // and behind it
    bool single_word; // found between characters of no word only
} TokenFlags;

typedef struct Workspace Workspace; // what one thread tokenises with

struct Tokenizer {
    Vocabulary names;  // of all tokens
    TokenFlags *flags; // [flag_room], at least of the added tokens
    int32_t flag_room, model_count;
    bool from_json; // of tokenizer.json, whose added tokens are numbered behind its vocabulary without a gap
    Normalizer normalizer;
    Pretokenizer pretokenizer;
    Bpe bpe;
    Detokenizer detokenizer;
    TokenTrie raw, normalized;  // of the added tokens
    Vocabulary heard;           // the texts of added tokens that normalisation changes
    Pattern *word;              // one character of a word
    int32_t prefix[PREFIX_MAX]; // what plain text begins with
    int prefix_count;
    int32_t bos, eos;
    uint64_t hash;
    struct Pool *pool;
};

// tokenizer_json.c: DIR/tokenizer.json. tokenizer_spm.c: DIR/tokenizer.model. Each gives everything but bos and eos
// (tokenizer_spm.c those of the model) and what is made of the parts.
Status tokenizer_read_json(Tokenizer *t, const char *path);
Status tokenizer_read_spm(Tokenizer *t, const char *path);
// tokenizer_config.c: what tokenizer_config.json and its neighbours add.
Status tokenizer_read_config(Tokenizer *t, const char *dir);

// Makes `text` the added token `id`; a token that is there gets the flags. `place` begins an error.
Status tokenizer_add(Tokenizer *t, int64_t id, const char *text, TokenFlags flags, const char *place);
TokenFlags tokenizer_flags(const Tokenizer *t, int32_t id);
