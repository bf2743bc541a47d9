// See kv_cache.h.
#include "src/kv_cache.h"

#include "src/base/hash.h"
#include "src/base/memory.h"

#include <stdlib.h>
#include <string.h>

// --- the list of unused pages ---------------------------------------------------------------------------------------

static void unlink_unused(KvCache *cache, int32_t p) {
    KvPage *page = &cache->page[p];
    *(page->previous < 0 ? &cache->first : &cache->page[page->previous].next) = page->next;
    *(page->next < 0 ? &cache->last : &cache->page[page->next].previous) = page->previous;
    cache->unused--;
}

// Pages without contents go first, so that those with contents are kept longest.
static void link_unused(KvCache *cache, int32_t p) {
    KvPage *page = &cache->page[p];
    const bool front = page->hash == 0;
    page->previous = front ? -1 : cache->last;
    page->next = front ? cache->first : -1;
    *(page->previous < 0 ? &cache->first : &cache->page[page->previous].next) = p;
    *(page->next < 0 ? &cache->last : &cache->page[page->next].previous) = p;
    cache->unused++;
}

// --- pages by their tokens ------------------------------------------------------------------------------------------

static int32_t *bucket_of(KvCache *cache, uint64_t hash) {
    return &cache->bucket[hash & (cache->buckets - 1)];
}

static void forget(KvCache *cache, int32_t p) {
    KvPage *page = &cache->page[p];
    if (page->hash == 0) return;
    int32_t *at = bucket_of(cache, page->hash);
    while (*at != p) at = &cache->page[*at].bucket_next;
    *at = page->bucket_next;
    page->hash = 0;
}

static int32_t find(KvCache *cache, uint64_t hash, uint64_t parent, const int32_t *tokens) {
    for (int32_t p = *bucket_of(cache, hash); p >= 0; p = cache->page[p].bucket_next) {
        const KvPage *page = &cache->page[p];
        if (page->hash == hash && page->parent == parent && memcmp(page->tokens, tokens, sizeof page->tokens) == 0)
            return p;
    }
    return -1;
}

static uint64_t page_hash(uint64_t parent, const int32_t *tokens) {
    const uint64_t hash = hash_bytes(parent, tokens, KV_PAGE * sizeof *tokens);
    return hash == 0 ? 1 : hash;
}

// --- sequences ------------------------------------------------------------------------------------------------------

bool kv_cache_take(KvCache *cache, const int32_t *tokens, int32_t known, int32_t total, uint64_t variant, int32_t *page,
                   int32_t *shared) {
    const int32_t count = kv_cache_pages(total), full = known / KV_PAGE;
    int32_t found = 0, waking = 0;
    uint64_t hash = variant + 1, parent = hash; // of the tokens so far
    for (; found < full; found++) {
        parent = hash;
        hash = page_hash(parent, tokens + found * KV_PAGE);
        page[found] = find(cache, hash, parent, tokens + found * KV_PAGE);
        if (page[found] < 0) break;
        waking += cache->page[page[found]].users == 0;
    }
    if (count - found > cache->unused - waking) return false;
    for (int32_t i = 0; i < found; i++)
        if (cache->page[page[i]].users++ == 0) unlink_unused(cache, page[i]);
    for (int32_t i = found; i < count; i++) {
        const int32_t p = page[i] = cache->first;
        KvPage *fresh = &cache->page[p];
        unlink_unused(cache, p);
        forget(cache, p);
        fresh->rows = 0;
        fresh->users = 1;
        if (i >= full) continue;
        if (i > found) {
            parent = hash;
            hash = page_hash(parent, tokens + i * KV_PAGE);
        }
        fresh->hash = hash;
        fresh->parent = parent;
        memcpy(fresh->tokens, tokens + i * KV_PAGE, sizeof fresh->tokens);
        int32_t *bucket = bucket_of(cache, hash);
        fresh->bucket_next = *bucket;
        *bucket = p;
    }
    *shared = found * KV_PAGE;
    return true;
}

void kv_cache_release(KvCache *cache, const int32_t *page, int32_t count) {
    // From the end, so that a prompt's first pages, which most sequences share, are the last to go.
    for (int32_t i = count - 1; i >= 0; i--) {
        KvPage *given = &cache->page[page[i]];
        if (--given->users > 0) continue;
        if (given->rows < KV_PAGE) forget(cache, page[i]); // never completed
        link_unused(cache, page[i]);
    }
}

Status kv_cache_open(KvCache *cache, int32_t pages) {
    *cache = (KvCache){.first = -1, .last = -1, .buckets = 1};
    while (cache->buckets < (uint32_t)pages) cache->buckets *= 2;
    TRY(MEMORY_ALLOC(cache->page, pages, "pages of the key/value cache"));
    TRY(MEMORY_ALLOC(cache->bucket, cache->buckets, "pages of the key/value cache"));
    memset(cache->bucket, -1, cache->buckets * sizeof *cache->bucket);
    cache->count = pages;
    for (int32_t p = pages - 1; p >= 0; p--) link_unused(cache, p);
    return STATUS_OK;
}

void kv_cache_close(KvCache *cache) {
    free(cache->page);
    free(cache->bucket);
    *cache = (KvCache){0};
}
