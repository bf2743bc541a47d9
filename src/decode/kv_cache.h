// Pages of the key/value cache: which rows of model_decode's cache a sequence has, and what of its prompt stands there
// already. Full pages are shared by all prompts that begin alike (as vLLM's prefix cache, arXiv 2309.06180); of the
// page where a prompt leaves the others, the rows before that are copied. A page that nobody uses keeps its contents
// until its place is needed, the longest unused first. Integers only.
#pragma once
#include "src/base/status.h"
#include <stdint.h>

typedef struct KvPage {
    int32_t rows;           // written so far, or about to be; kept by the caller
    int32_t users;          // sequences that have it
    int32_t known;          // leading tokens[] that others may share; 0: none
    int32_t next, previous; // among the unused, -1: none
    int32_t bucket_next;    // among those of its parent
    uint64_t parent;        // hash of the tokens before the page
    int32_t *tokens;        // [known] of [page_rows]
} KvPage;

typedef struct KvCache {
    KvPage *page; // [count]
    int32_t count, page_rows;
    int32_t unused, first, last; // pages without users; the next to be taken is the first
    int32_t *bucket;             // [buckets] pages by their parent
    uint32_t buckets;            // a power of two
    int32_t *tokens;             // [count, page_rows]
} KvCache;

// Rows of a page on a device whose DeviceInfo.key_block is this: a multiple of it, so that paging changes no bits of an
// attention.
int32_t kv_page_rows(int32_t key_block);
static inline int32_t kv_pages(int64_t tokens, int32_t page_rows) {
    return (int32_t)((tokens + page_rows - 1) / page_rows);
}

Status kv_cache_open(KvCache *cache, int32_t pages, int32_t page_rows);
void kv_cache_close(KvCache *cache);

// What a sequence finds. Rows of shared pages may still have to be written (KvPage.rows).
typedef struct KvShare {
    int32_t pages;     // leading pages that it has together with others
    int32_t copy_rows; // of the next page: to be copied from the first rows of page copy_page, which stand there; or 0
    int32_t copy_page; // held for the caller, who gives it back by kv_cache_release when it has copied
} KvShare;

// Takes pages for `total` tokens, of which tokens[0 .. known) are given; page[kv_pages(total, page_rows)] gets them.
// What is shared comes from sequences of the same `variant` (adapters on or off). Returns false and takes nothing when
// there is no room now.
bool kv_cache_take(KvCache *cache, const int32_t *tokens, int32_t known, int32_t total, uint64_t variant, int32_t *page,
                   KvShare *share);
// Gives pages back.
void kv_cache_release(KvCache *cache, const int32_t *page, int32_t count);
