// Pages of the key/value cache: which rows of model_decode's cache a sequence has, and which full pages of a prompt it
// shares with sequences before it (as vLLM's prefix cache, arXiv 2309.06180, keyed by the tokens up to the page's end).
// A page that nobody uses keeps its contents until its place is needed, the longest unused first. Integers only.
#pragma once
#include "src/base/status.h"
#include <stdint.h>

#define KV_PAGE 64 // rows; a multiple of every device's key block, so that paging changes no bits of an attention

typedef struct KvPage {
    int32_t rows;            // written so far, or about to be; kept by the caller
    int32_t users;           // sequences that have it
    int32_t next, previous;  // among the unused, -1: none
    int32_t bucket_next;     // among those of its hash
    uint64_t hash, parent;   // of the tokens up to its end, and up to its start; 0: not to be shared
    int32_t tokens[KV_PAGE]; // of a page to be shared
} KvPage;

typedef struct KvCache {
    KvPage *page; // [count]
    int32_t count;
    int32_t unused, first, last; // pages without users; the next to be taken is the first
    int32_t *bucket;             // [buckets]
    uint32_t buckets;            // a power of two
} KvCache;

Status kv_cache_open(KvCache *cache, int32_t pages);
void kv_cache_close(KvCache *cache);

static inline int32_t kv_cache_pages(int32_t tokens) {
    return (tokens + KV_PAGE - 1) / KV_PAGE;
}

// Takes pages for `total` tokens, of which tokens[0 .. known) are given; page[kv_cache_pages(total)] gets them. Leading
// pages that tokens[] fills are shared with a sequence of the same `variant` (adapters on or off) that began with the
// same tokens; *shared gets how many tokens those hold (they may still have to be written: KvPage.rows). Returns false
// and takes nothing when there is no room now.
bool kv_cache_take(KvCache *cache, const int32_t *tokens, int32_t known, int32_t total, uint64_t variant, int32_t *page,
                   int32_t *shared);
// Gives pages back.
void kv_cache_release(KvCache *cache, const int32_t *page, int32_t count);
