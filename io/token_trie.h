// Finding added tokens in text: the leftmost, of those the longest.
#pragma once
#include "src/base/status.h"
#include <stddef.h>
#include <stdint.h>

typedef struct TrieNode {
    int32_t token, child, sibling; // indices, -1 where none; token: what ends here
    unsigned char byte;
} TrieNode;

typedef struct TokenTrie {
    TrieNode *node; // [count]
    int32_t count, capacity;
    int32_t root[256]; // by the first byte
} TokenTrie;

void token_trie_init(TokenTrie *trie);
void token_trie_free(TokenTrie *trie);
// Enters text[0, bytes), not empty, as `token`; a text that is there stays.
Status token_trie_add(TokenTrie *trie, const char *text, size_t bytes, int32_t token);
// The first token in text[from, bytes) and where it stands; -1 when there is none.
int32_t token_trie_find(const TokenTrie *trie, const char *text, size_t from, size_t bytes, size_t *start, size_t *end);
