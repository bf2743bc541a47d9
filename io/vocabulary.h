// Texts and their ids, found in both directions.
#pragma once
#include "src/base/status.h"
#include <stddef.h>
#include <stdint.h>

#define NO_TOKEN (-1)

typedef struct VocabularySlot {
    uint32_t tag; // the hash's other half: most texts that differ are told apart without being read
    int32_t id;   // NO_TOKEN where free
} VocabularySlot;

typedef struct VocabularyBlock VocabularyBlock;

typedef struct VocabularyText {
    const char *text; // NUL-terminated; NULL for an id that no text has
    uint32_t bytes;
} VocabularyText;

typedef struct Vocabulary {
    VocabularyText *token; // [count]
    int32_t count, capacity, used;
    int32_t twice;        // an id whose text another has, too; NO_TOKEN if none
    VocabularySlot *slot; // [mask + 1], open addressing
    uint32_t mask;
    VocabularyBlock *blocks; // that the texts stand in
} Vocabulary;

// An empty vocabulary with room for `expected` texts; it grows beyond. Zeroed memory may be freed, too.
Status vocabulary_init(Vocabulary *v, size_t expected);
void vocabulary_free(Vocabulary *v);
// Copies a text in under `id`, in [0, INT32_MAX), which no text has yet; a text that is there already keeps its first
// id when it is looked for.
Status vocabulary_add(Vocabulary *v, int32_t id, const char *text, size_t bytes);
int32_t vocabulary_find(const Vocabulary *v, const char *text, size_t bytes); // NO_TOKEN if none
// Whether id has a text.
static inline bool vocabulary_has(const Vocabulary *v, int64_t id) {
    return id >= 0 && id < v->count && v->token[id].text != NULL;
}
