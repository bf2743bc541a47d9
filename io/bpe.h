// Byte-pair encoding of one word: its symbols are merged, the pair of the lowest rank first, then the leftmost.
#pragma once
#include "io/vocabulary.h"

typedef struct Merge {
    uint64_t pair; // left << 32 | right
    int32_t rank, id;
} Merge;

// (left, right) -> rank and id of what they merge into.
typedef struct MergeTable {
    Merge *slot; // [mask + 1], open addressing
    uint32_t mask;
    uint64_t *filter; // [(mask + 1) / 16], 4 bits a slot: where one is 0 there is no such pair
} MergeTable;

typedef struct Bpe {
    // By bytes a word's symbols are its bytes; else its characters, and those that `words` lacks are spelt in bytes
    // (with byte_fallback, as far as byte_symbol has them all) or unknown (NO_TOKEN: left out).
    bool by_bytes, byte_fallback;
    bool fuse_unknown;  // a run of unknown characters is one token
    bool ignore_merges; // a word that `words` has is its token, however it would merge
    int32_t unknown;
    int32_t byte_symbol[256]; // NO_TOKEN where there is none
    Vocabulary words;         // what whole words and characters are looked up in
    MergeTable merges;
    int32_t *pair_of_bytes; // [65536], by bytes only: the slot of two bytes' merge, or NO_TOKEN
    bool mark_parts_words;  // words are cut before each run of "▁", across which nothing merges
} Bpe;

// A table of merges, its order the ranks; a pair that comes twice has the later rank. At most INT32_MAX merges.
Status merge_table_init(MergeTable *table, size_t merges);
void merge_table_free(MergeTable *table);
void merge_table_put(MergeTable *table, int32_t left, int32_t right, int32_t rank, int32_t id);
// After everything else is set: what makes encoding fast.
Status bpe_finish(Bpe *bpe);
void bpe_free(Bpe *bpe);

typedef struct Ids {
    int32_t *id; // [capacity], grown by realloc
    int32_t count, capacity;
} Ids;
Status ids_add(Ids *ids, const int32_t *id, int32_t count);

// What one thread encodes with; among it the words it met last.
typedef struct BpeScratch BpeScratch;
Status bpe_scratch_open(BpeScratch **out);
void bpe_scratch_close(BpeScratch *scratch); // NULL is allowed

// Appends the ids of word[0, bytes), which is well-formed and at most TEXT_BYTES_MAX long. One scratch serves one Bpe.
#define TEXT_BYTES_MAX ((size_t)256 << 20)
Status bpe_encode(const Bpe *bpe, BpeScratch *scratch, const char *word, size_t bytes, Ids *ids);
