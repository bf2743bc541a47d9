// A trie over bytes, its children as lists: tokens are few and begin alike. What a token that was found takes with it
// (whitespace, whole words) is io/tokenizer.c's.
#include "io/token_trie.h"

#include <stdlib.h>
#include <string.h>

void token_trie_init(TokenTrie *trie) {
    *trie = (TokenTrie){0};
    for (int i = 0; i < 256; i++) trie->root[i] = -1;
}

void token_trie_free(TokenTrie *trie) {
    free(trie->node);
    token_trie_init(trie);
}

// The node for `byte` in the list that begins at *list, made when it is missing.
static int32_t enter(TokenTrie *trie, int32_t list, unsigned char byte) {
    for (int32_t i = list; i >= 0; i = trie->node[i].sibling)
        if (trie->node[i].byte == byte) return i;
    if (trie->count == trie->capacity) {
        const int32_t capacity = 2 * trie->capacity + 256;
        TrieNode *grown = capacity < 0 ? NULL : realloc(trie->node, (size_t)capacity * sizeof *grown);
        if (grown == NULL) return -1;
        trie->node = grown;
        trie->capacity = capacity;
    }
    trie->node[trie->count] = (TrieNode){.token = -1, .child = -1, .sibling = list, .byte = byte};
    return trie->count++;
}

Status token_trie_add(TokenTrie *trie, const char *text, size_t bytes, int32_t token) {
    int32_t at = -1;
    for (size_t i = 0; i < bytes; i++) {
        const unsigned char byte = (unsigned char)text[i];
        const int32_t list = i == 0 ? trie->root[byte] : trie->node[at].child, before = trie->count;
        const int32_t node = enter(trie, list, byte);
        if (node < 0) return error_set(STATUS_FAILED, "not enough memory for the tokenizer's added tokens");
        if (trie->count != before) { // a new node leads its list
            if (i == 0)
                trie->root[byte] = node;
            else
                trie->node[at].child = node;
        }
        at = node;
    }
    if (at >= 0 && trie->node[at].token < 0) trie->node[at].token = token;
    return STATUS_OK;
}

static int32_t child(const TokenTrie *trie, int32_t node, unsigned char byte) {
    int32_t i = trie->node[node].child;
    while (i >= 0 && trie->node[i].byte != byte) i = trie->node[i].sibling;
    return i;
}

int32_t token_trie_find(const TokenTrie *trie, const char *text, size_t from, size_t bytes, size_t *start,
                        size_t *end) {
    if (trie->count == 0) return -1;
    for (size_t i = from; i < bytes; i++) {
        int32_t found = -1;
        int32_t node = trie->root[(unsigned char)text[i]];
        for (size_t k = i + 1; node >= 0; k++) {
            if (trie->node[node].token >= 0) {
                found = trie->node[node].token;
                *end = k;
            }
            if (k == bytes) break;
            node = child(trie, node, (unsigned char)text[k]);
        }
        if (found >= 0) {
            *start = i;
            return found;
        }
    }
    return -1;
}
