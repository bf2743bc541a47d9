// Texts and their ids: a hash table of ids over texts that are copied into large blocks. What a token means is
// io/tokenizer.c's.
#include "io/vocabulary.h"

#include "src/base/hash.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES ((size_t)1 << 18)

struct VocabularyBlock {
    VocabularyBlock *next;
    size_t used, room;
    char text[];
};

static Status no_memory(void) {
    return error_set(STATUS_FAILED, "not enough memory for a vocabulary");
}

static Status make_slots(Vocabulary *v, size_t texts) {
    uint32_t size = 64;
    while (size < 2 * texts) size *= 2;
    VocabularySlot *slot = malloc((size_t)size * sizeof *slot);
    if (slot == NULL) return no_memory();
    for (uint32_t i = 0; i < size; i++) slot[i].id = NO_TOKEN;
    free(v->slot);
    v->slot = slot;
    v->mask = size - 1;
    return STATUS_OK;
}

Status vocabulary_init(Vocabulary *v, size_t expected) {
    *v = (Vocabulary){.twice = NO_TOKEN};
    if (expected > (size_t)1 << 28) return no_memory();
    return make_slots(v, expected);
}

void vocabulary_free(Vocabulary *v) {
    for (VocabularyBlock *block = v->blocks, *next; block != NULL; block = next) {
        next = block->next;
        free(block);
    }
    free(v->token);
    free(v->slot);
    *v = (Vocabulary){0};
}

static Status reserve_ids(Vocabulary *v, int32_t id) {
    if (id < v->capacity) return STATUS_OK;
    const size_t capacity = (size_t)id + (size_t)id / 2 + 1024;
    VocabularyText *grown = realloc(v->token, capacity * sizeof *grown);
    if (grown == NULL) return no_memory();
    v->token = grown;
    v->capacity = capacity > INT32_MAX ? INT32_MAX : (int32_t)capacity;
    return STATUS_OK;
}

static char *store(Vocabulary *v, const char *text, size_t bytes) {
    VocabularyBlock *block = v->blocks;
    if (block == NULL || block->room - block->used <= bytes) {
        const size_t room = bytes < BLOCK_BYTES ? BLOCK_BYTES : bytes + 1;
        block = malloc(sizeof *block + room);
        if (block == NULL) return NULL;
        *block = (VocabularyBlock){.next = v->blocks, .room = room};
        v->blocks = block;
    }
    char *to = block->text + block->used;
    memcpy(to, text, bytes);
    to[bytes] = '\0';
    block->used += bytes + 1;
    return to;
}

static void insert(Vocabulary *v, int32_t id) {
    const uint64_t hash = hash_bytes(0, v->token[id].text, v->token[id].bytes);
    uint32_t i = (uint32_t)hash & v->mask;
    for (int32_t other; (other = v->slot[i].id) != NO_TOKEN; i = (i + 1) & v->mask)
        if (v->slot[i].tag == (uint32_t)(hash >> 32) && v->token[other].bytes == v->token[id].bytes &&
            memcmp(v->token[other].text, v->token[id].text, v->token[id].bytes) == 0)
            v->twice = id;
    v->slot[i] = (VocabularySlot){(uint32_t)(hash >> 32), id};
}

Status vocabulary_add(Vocabulary *v, int32_t id, const char *text, size_t bytes) {
    TRY(reserve_ids(v, id));
    char *own = bytes > UINT32_MAX ? NULL : store(v, text, bytes);
    if (own == NULL) return no_memory();
    while (v->count <= id) v->token[v->count++] = (VocabularyText){0};
    v->token[id] = (VocabularyText){own, (uint32_t)bytes};
    if ((size_t)++v->used * 2 > (size_t)v->mask + 1) {
        TRY(make_slots(v, 2 * (size_t)v->used));
        for (int32_t i = 0; i < v->count; i++)
            if (v->token[i].text != NULL) insert(v, i);
        return STATUS_OK;
    }
    insert(v, id);
    return STATUS_OK;
}

int32_t vocabulary_find(const Vocabulary *v, const char *text, size_t bytes) {
    if (v->slot == NULL) return NO_TOKEN;
    const uint64_t hash = hash_bytes(0, text, bytes);
    for (uint32_t i = (uint32_t)hash & v->mask;; i = (i + 1) & v->mask) {
        const int32_t id = v->slot[i].id;
        if (id == NO_TOKEN) return NO_TOKEN;
        if (v->slot[i].tag != (uint32_t)(hash >> 32)) continue;
        const VocabularyText *token = &v->token[id];
        if (token->bytes == bytes && memcmp(token->text, text, bytes) == 0) return id;
    }
}
