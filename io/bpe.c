// The merge engine. Short words are merged by scanning the ranks of their pairs, long ones by a heap, with the same
// result; words of up to WORD_BYTES are remembered with their ids. Which words a text has is io/pretokenizer.c's, where
// vocabulary and merges come from the readers'.
#include "io/bpe.h"

#include "io/unicode.h"
#include "src/base/hash.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define SCAN_MAX    96 // symbols; above it the heap is faster
#define NO_MERGE    INT32_MAX
#define SYMBOL_DEAD (-2) // an id: the symbol was merged into its left neighbour

static const char mark[] = "\xE2\x96\x81"; // "▁", U+2581
#define MARK_BYTES 3

// A remembered word, one cache line.
#define WORD_BYTES 30
#define WORD_IDS   8
typedef struct CachedWord {
    uint8_t bytes, ids; // bytes 0: free
    char text[WORD_BYTES];
    int32_t id[WORD_IDS];
} CachedWord;
#define CACHE_WORDS 32768

// One symbol of a long word; a list by index, -1 at its ends.
typedef struct Symbol {
    int32_t id, previous, next;
} Symbol;

typedef struct Candidate {
    int32_t rank, position, id; // id: what the symbols at position and behind it merge into
} Candidate;

struct BpeScratch {
    CachedWord *cache; // [CACHE_WORDS]
    Symbol *symbol;    // [room]
    Candidate *heap;   // [3 * room]: n - 1 at first and two a merge
    size_t room;
    int32_t heap_count;
};

static Status no_memory(void) {
    return error_set(STATUS_FAILED, "not enough memory for the tokenizer");
}

// ---- tables ----

static uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static uint64_t pair_hash(uint64_t pair) {
    return pair * 0x9E3779B97F4A7C15u; // Fibonacci hashing: the upper bits are the good ones
}

static uint32_t pair_slot(uint64_t hash, uint32_t mask) {
    return (uint32_t)(hash >> 32) & mask;
}

// The pair's bit of the filter. Most pairs that are looked for do not merge, and the table is too large for the caches.
static uint32_t filter_bit(uint64_t hash, uint32_t mask) {
    return (uint32_t)(hash >> 30) & (4 * mask + 3);
}

Status merge_table_init(MergeTable *table, size_t merges) {
    if (merges > (size_t)1 << 28) return no_memory();
    uint32_t size = 16;
    while (size < 2 * merges) size *= 2;
    table->mask = size - 1;
    table->slot = malloc((size_t)size * sizeof *table->slot);
    table->filter = calloc(size / 16, sizeof *table->filter);
    if (table->slot == NULL || table->filter == NULL) return no_memory();
    for (uint32_t i = 0; i < size; i++) table->slot[i].pair = UINT64_MAX;
    return STATUS_OK;
}

void merge_table_free(MergeTable *table) {
    free(table->slot);
    free(table->filter);
    *table = (MergeTable){0};
}

void merge_table_put(MergeTable *table, int32_t left, int32_t right, int32_t rank, int32_t id) {
    const uint64_t pair = pair_of(left, right), hash = pair_hash(pair);
    const uint32_t bit = filter_bit(hash, table->mask);
    uint32_t i = pair_slot(hash, table->mask);
    while (table->slot[i].pair != UINT64_MAX && table->slot[i].pair != pair) i = (i + 1) & table->mask;
    table->slot[i] = (Merge){pair, rank, id};
    table->filter[bit / 64] |= (uint64_t)1 << bit % 64;
}

static const Merge *merge_find(const MergeTable *table, int32_t left, int32_t right) {
    const uint64_t pair = pair_of(left, right), hash = pair_hash(pair);
    const uint32_t bit = filter_bit(hash, table->mask);
    if ((table->filter[bit / 64] >> bit % 64 & 1) == 0) return NULL;
    for (uint32_t i = pair_slot(hash, table->mask);; i = (i + 1) & table->mask) {
        if (table->slot[i].pair == pair) return &table->slot[i];
        if (table->slot[i].pair == UINT64_MAX) return NULL;
    }
}

static bool is_mark(const char *text, size_t bytes) {
    return bytes >= MARK_BYTES && memcmp(text, mark, MARK_BYTES) == 0;
}

static bool mark_behind_other(const char *text, size_t bytes) {
    bool other = false;
    for (size_t i = 0; i < bytes;) {
        const bool here = is_mark(text + i, bytes - i);
        if (here && other) return true;
        other = other || !here;
        i += here ? MARK_BYTES : 1;
    }
    return false;
}

static Status index_pairs_of_bytes(Bpe *bpe) {
    bpe->pair_of_bytes = malloc(65536 * sizeof *bpe->pair_of_bytes);
    if (bpe->pair_of_bytes == NULL) return no_memory();
    for (int pair = 0; pair < 65536; pair++) {
        const int32_t left = bpe->byte_symbol[pair >> 8], right = bpe->byte_symbol[pair & 255];
        const Merge *merge = left == NO_TOKEN || right == NO_TOKEN ? NULL : merge_find(&bpe->merges, left, right);
        bpe->pair_of_bytes[pair] = merge == NULL ? NO_TOKEN : (int32_t)(merge - bpe->merges.slot);
    }
    return STATUS_OK;
}

Status bpe_finish(Bpe *bpe) {
    if (bpe->by_bytes) return index_pairs_of_bytes(bpe);
    // A run of unknown characters, which may be one token, ends at a mark that is a token itself.
    bpe->mark_parts_words = !bpe->ignore_merges && vocabulary_find(&bpe->words, mark, MARK_BYTES) != NO_TOKEN;
    for (int32_t id = 0; id < bpe->words.count && bpe->mark_parts_words; id++)
        if (bpe->words.token[id].text != NULL &&
            mark_behind_other(bpe->words.token[id].text, bpe->words.token[id].bytes))
            bpe->mark_parts_words = false;
    return STATUS_OK;
}

void bpe_free(Bpe *bpe) {
    vocabulary_free(&bpe->words);
    merge_table_free(&bpe->merges);
    free(bpe->pair_of_bytes);
    *bpe = (Bpe){0};
}

Status ids_add(Ids *ids, const int32_t *id, int32_t count) {
    if (count > ids->capacity - ids->count) {
        if (ids->count > INT32_MAX / 2 - count - 64) return no_memory();
        const int32_t capacity = 2 * (ids->count + count) + 64;
        int32_t *grown = realloc(ids->id, (size_t)capacity * sizeof *grown);
        if (grown == NULL) return no_memory();
        ids->id = grown;
        ids->capacity = capacity;
    }
    if (count > 0) memcpy(ids->id + ids->count, id, (size_t)count * sizeof *id);
    ids->count += count;
    return STATUS_OK;
}

Status bpe_scratch_open(BpeScratch **out) {
    *out = calloc(1, sizeof **out);
    if (*out == NULL || ((*out)->cache = calloc(CACHE_WORDS, sizeof *(*out)->cache)) == NULL) return no_memory();
    return STATUS_OK;
}

void bpe_scratch_close(BpeScratch *scratch) {
    if (scratch == NULL) return;
    free(scratch->cache);
    free(scratch->symbol);
    free(scratch->heap);
    free(scratch);
}

static Status reserve(BpeScratch *s, size_t symbols) {
    if (symbols <= s->room) return STATUS_OK;
    const size_t room = symbols + symbols / 2 + 256;
    Symbol *symbol = realloc(s->symbol, room * sizeof *symbol);
    if (symbol == NULL) return no_memory();
    s->symbol = symbol;
    Candidate *heap = realloc(s->heap, 3 * room * sizeof *heap);
    if (heap == NULL) return no_memory();
    s->heap = heap;
    s->room = room;
    return STATUS_OK;
}

// ---- a word's first symbols ----

// The tokens that spell a character in bytes, which must all be there.
static bool spell(const Bpe *bpe, const char *text, size_t length, Symbol *to, int32_t *n) {
    if (!bpe->byte_fallback) return false;
    for (size_t i = 0; i < length; i++)
        if (bpe->byte_symbol[(unsigned char)text[i]] == NO_TOKEN) return false;
    for (size_t i = 0; i < length; i++) to[(*n)++].id = bpe->byte_symbol[(unsigned char)text[i]];
    return true;
}

// An unknown token waits until a known character or the end, as the tokenizers library has it.
static int32_t put_characters(const Bpe *bpe, const char *word, size_t bytes, Symbol *to) {
    int32_t n = 0;
    bool waiting = false;
    for (size_t i = 0, length; i < bytes; i += length) {
        length = unicode_length(word[i]);
        const int32_t id = vocabulary_find(&bpe->words, word + i, length);
        if (id == NO_TOKEN && spell(bpe, word + i, length, to, &n)) continue;
        if (id == NO_TOKEN && bpe->unknown == NO_TOKEN) continue;
        if (waiting && (id != NO_TOKEN || !bpe->fuse_unknown)) to[n++].id = bpe->unknown;
        waiting = id == NO_TOKEN;
        if (id != NO_TOKEN) to[n++].id = id;
    }
    if (waiting) to[n++].id = bpe->unknown;
    return n;
}

static int32_t put_symbols(const Bpe *bpe, const char *word, size_t bytes, Symbol *to) {
    if (!bpe->by_bytes) return put_characters(bpe, word, bytes, to);
    int32_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        const int32_t id = bpe->byte_symbol[(unsigned char)word[i]];
        if (id != NO_TOKEN) to[n++].id = id;
    }
    return n;
}

// ---- merging ----

// By scanning: rank[i] and into[i] say what symbols i and i + 1 merge into. Returns how many are left.
static int32_t merge_by_scan(const Bpe *bpe, int32_t *id, int32_t *rank, int32_t *into, int32_t n) {
    while (n > 1) {
        int32_t lowest = NO_MERGE, best = 0;
        for (int32_t i = 0; i < n - 1; i++) lowest = rank[i] < lowest ? rank[i] : lowest; // in vectors
        if (lowest == NO_MERGE) break;
        while (rank[best] != lowest) best++;
        id[best] = into[best];
        n--;
        const size_t behind = (size_t)(n - best - 1) * sizeof *id;
        memmove(id + best + 1, id + best + 2, behind);
        memmove(rank + best, rank + best + 1, behind);
        memmove(into + best, into + best + 1, behind);
        for (int32_t i = best == 0 ? 0 : best - 1; i <= best && i < n - 1; i++) {
            const Merge *merge = merge_find(&bpe->merges, id[i], id[i + 1]);
            rank[i] = merge == NULL ? NO_MERGE : merge->rank;
            into[i] = merge == NULL ? NO_TOKEN : merge->id;
        }
    }
    return n;
}

static Status merge_short(const Bpe *bpe, BpeScratch *s, const char *word, size_t bytes, Ids *ids) {
    int32_t id[SCAN_MAX], rank[SCAN_MAX], into[SCAN_MAX];
    int32_t n = put_symbols(bpe, word, bytes, s->symbol);
    const bool pairs_by_byte = bpe->by_bytes && (size_t)n == bytes;
    for (int32_t i = 0; i < n; i++) id[i] = s->symbol[i].id;
    for (int32_t i = 0; i + 1 < n; i++) {
        const Merge *merge;
        if (pairs_by_byte) {
            const int32_t slot = bpe->pair_of_bytes[(unsigned char)word[i] << 8 | (unsigned char)word[i + 1]];
            merge = slot == NO_TOKEN ? NULL : &bpe->merges.slot[slot];
        } else {
            merge = merge_find(&bpe->merges, id[i], id[i + 1]);
        }
        rank[i] = merge == NULL ? NO_MERGE : merge->rank;
        into[i] = merge == NULL ? NO_TOKEN : merge->id;
    }
    n = merge_by_scan(bpe, id, rank, into, n);
    return ids_add(ids, id, n);
}

static bool candidate_before(const Candidate *a, const Candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->position < b->position;
}

static void heap_push(const Bpe *bpe, BpeScratch *s, int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    const Merge *merge = merge_find(&bpe->merges, s->symbol[left].id, s->symbol[right].id);
    if (merge == NULL) return;
    const Candidate candidate = {merge->rank, left, merge->id};
    int32_t i = s->heap_count++;
    for (; i > 0 && candidate_before(&candidate, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = candidate;
}

static Candidate heap_pop(BpeScratch *s) {
    const Candidate top = s->heap[0], last = s->heap[--s->heap_count];
    int32_t i = 0;
    for (int32_t child; (child = 2 * i + 1) < s->heap_count; i = child) {
        if (child + 1 < s->heap_count && candidate_before(&s->heap[child + 1], &s->heap[child])) child++;
        if (!candidate_before(&s->heap[child], &last)) break;
        s->heap[i] = s->heap[child];
    }
    s->heap[i] = last;
    return top;
}

static Status merge_long(const Bpe *bpe, BpeScratch *s, const char *word, size_t bytes, Ids *ids) {
    Symbol *symbol = s->symbol;
    const int32_t n = put_symbols(bpe, word, bytes, symbol);
    s->heap_count = 0;
    for (int32_t i = 0; i < n; i++) {
        symbol[i].previous = i - 1;
        symbol[i].next = i + 1 < n ? i + 1 : -1;
    }
    for (int32_t i = 0; i + 1 < n; i++) heap_push(bpe, s, i, i + 1);
    while (s->heap_count > 0) {
        const Candidate top = heap_pop(s);
        Symbol *left = &symbol[top.position];
        if (left->id == SYMBOL_DEAD || left->next < 0) continue;
        Symbol *right = &symbol[left->next];
        const Merge *merge = merge_find(&bpe->merges, left->id, right->id);
        if (merge == NULL || merge->id != top.id) continue; // one of the two has been merged otherwise since
        left->id = top.id;
        right->id = SYMBOL_DEAD;
        left->next = right->next;
        if (left->next >= 0) symbol[left->next].previous = top.position;
        heap_push(bpe, s, left->previous, top.position);
        heap_push(bpe, s, top.position, left->next);
    }
    for (int32_t i = n > 0 ? 0 : -1; i >= 0; i = symbol[i].next) TRY(ids_add(ids, &symbol[i].id, 1));
    return STATUS_OK;
}

// ---- words ----

static Status encode_unseen(const Bpe *bpe, BpeScratch *s, const char *word, size_t bytes, Ids *ids) {
    if (bpe->ignore_merges) {
        const int32_t id = vocabulary_find(&bpe->words, word, bytes);
        if (id != NO_TOKEN) return ids_add(ids, &id, 1);
    }
    TRY(reserve(s, bytes));
    return bytes <= SCAN_MAX ? merge_short(bpe, s, word, bytes, ids) : merge_long(bpe, s, word, bytes, ids);
}

static Status encode_word(const Bpe *bpe, BpeScratch *s, const char *word, size_t bytes, Ids *ids) {
    if (bytes > WORD_BYTES) return encode_unseen(bpe, s, word, bytes, ids);
    CachedWord *cached = &s->cache[hash_bytes(0, word, bytes) % CACHE_WORDS];
    if (cached->bytes == bytes && memcmp(cached->text, word, bytes) == 0) return ids_add(ids, cached->id, cached->ids);
    const int32_t before = ids->count;
    TRY(encode_unseen(bpe, s, word, bytes, ids));
    const int32_t count = ids->count - before;
    if (count > WORD_IDS) return STATUS_OK;
    cached->bytes = (uint8_t)bytes;
    cached->ids = (uint8_t)count;
    memcpy(cached->text, word, bytes);
    memcpy(cached->id, ids->id + before, (size_t)count * sizeof *cached->id);
    return STATUS_OK;
}

Status bpe_encode(const Bpe *bpe, BpeScratch *scratch, const char *word, size_t bytes, Ids *ids) {
    if (!bpe->mark_parts_words) return encode_word(bpe, scratch, word, bytes, ids);
    for (size_t from = 0; from < bytes;) {
        size_t to = from;
        while (is_mark(word + to, bytes - to)) to += MARK_BYTES;
        while (to < bytes && !is_mark(word + to, bytes - to)) to += unicode_length(word[to]);
        TRY(encode_word(bpe, scratch, word + from, to - from, ids));
        from = to;
    }
    return STATUS_OK;
}
