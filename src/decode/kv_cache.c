// See kv_cache.h.
#include "src/decode/kv_cache.h"

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
    const bool front = page->known == 0;
    page->previous = front ? -1 : cache->last;
    page->next = front ? cache->first : -1;
    *(page->previous < 0 ? &cache->first : &cache->page[page->previous].next) = p;
    *(page->next < 0 ? &cache->last : &cache->page[page->next].previous) = p;
    cache->unused++;
}

// --- pages by their tokens ------------------------------------------------------------------------------------------

enum {
    COPY_MIN = 8,       // rows that are worth a copy
    PAGE_ROWS_MIN = 64, // below, pages are more work than what they share is worth
};

static int32_t *bucket_of(KvCache *cache, uint64_t parent) {
    return &cache->bucket[parent & (cache->buckets - 1)];
}

static void forget(KvCache *cache, int32_t p) {
    KvPage *page = &cache->page[p];
    if (page->known == 0) return;
    int32_t *at = bucket_of(cache, page->parent);
    while (*at != p) at = &cache->page[*at].bucket_next;
    *at = page->bucket_next;
    page->known = 0;
}

static void remember(KvCache *cache, int32_t p, uint64_t parent, const int32_t *tokens, int32_t known) {
    KvPage *page = &cache->page[p];
    page->known = known;
    page->parent = parent;
    memcpy(page->tokens, tokens, (size_t)known * sizeof *tokens);
    int32_t *bucket = bucket_of(cache, parent);
    page->bucket_next = *bucket;
    *bucket = p;
}

// The page behind `parent` that has the most of tokens[count] at its start; *alike gets how many. A full one that is
// wanted whole counts before it is written, else what is written counts.
static int32_t find(const KvCache *cache, uint64_t parent, const int32_t *tokens, int32_t count, int32_t *alike) {
    const int32_t rows = cache->page_rows;
    int32_t best = -1;
    *alike = 0;
    for (int32_t p = *bucket_of((KvCache *)cache, parent); p >= 0; p = cache->page[p].bucket_next) {
        const KvPage *page = &cache->page[p];
        if (page->parent != parent) continue;
        int32_t same = 0;
        while (same < count && same < page->known && page->tokens[same] == tokens[same]) same++;
        if (same < rows && same > page->rows) same = page->rows;
        if (same <= *alike) continue;
        best = p;
        *alike = same;
    }
    return best;
}

// --- sequences ------------------------------------------------------------------------------------------------------

static void use(KvCache *cache, int32_t p) {
    if (cache->page[p].users++ == 0) unlink_unused(cache, p);
}

bool kv_cache_take(KvCache *cache, const int32_t *tokens, int32_t known, int32_t total, uint64_t variant, int32_t *page,
                   KvShare *share) {
    const int32_t rows = cache->page_rows, count = kv_pages(total, rows);
    *share = (KvShare){0};
    uint64_t parent = variant + 1; // hash of the tokens so far
    for (int32_t at = 0; at < known; at += rows) {
        int32_t alike;
        const int32_t left = known - at < rows ? known - at : rows;
        const int32_t p = find(cache, parent, tokens + at, left, &alike);
        if (alike < rows) {
            if (alike >= COPY_MIN) *share = (KvShare){share->pages, alike, p};
            break;
        }
        page[share->pages++] = p;
        parent = hash_bytes(parent, tokens + at, rows * sizeof *tokens);
    }
    const int32_t found = share->pages;
    for (int32_t i = 0; i < found; i++) use(cache, page[i]);
    if (share->copy_rows > 0) use(cache, share->copy_page);
    if (share->copy_rows > 0 && cache->unused < count - found) { // its place is needed
        kv_cache_release(cache, &share->copy_page, 1);
        share->copy_rows = 0;
    }
    if (cache->unused < count - found) {
        kv_cache_release(cache, page, found);
        return false;
    }
    for (int32_t i = found; i < count; i++) {
        const int32_t p = page[i] = cache->first, at = i * rows;
        use(cache, p);
        forget(cache, p);
        cache->page[p].rows = 0;
        if (at >= known) continue;
        const int32_t left = known - at < rows ? known - at : rows;
        remember(cache, p, parent, tokens + at, left);
        if (left == rows) parent = hash_bytes(parent, tokens + at, rows * sizeof *tokens);
    }
    return true;
}

void kv_cache_release(KvCache *cache, const int32_t *page, int32_t count) {
    // From the end, so that a prompt's first pages, which most sequences share, are the last to go.
    for (int32_t i = count - 1; i >= 0; i--) {
        KvPage *given = &cache->page[page[i]];
        if (--given->users > 0) continue;
        if (given->rows < given->known) forget(cache, page[i]); // never completed
        link_unused(cache, page[i]);
    }
}

int32_t kv_page_rows(int32_t key_block) {
    return (PAGE_ROWS_MIN + key_block - 1) / key_block * key_block;
}

Status kv_cache_open(KvCache *cache, int32_t pages, int32_t page_rows) {
    *cache = (KvCache){.first = -1, .last = -1, .buckets = 1, .page_rows = page_rows};
    while (cache->buckets < (uint32_t)pages) cache->buckets *= 2;
    TRY(MEMORY_ALLOC(cache->page, pages, "pages of the key/value cache"));
    TRY(MEMORY_ALLOC(cache->bucket, cache->buckets, "pages of the key/value cache"));
    TRY(MEMORY_ALLOC(cache->tokens, (size_t)pages * (size_t)page_rows, "pages of the key/value cache"));
    memset(cache->bucket, -1, cache->buckets * sizeof *cache->bucket);
    cache->count = pages;
    for (int32_t p = pages - 1; p >= 0; p--) {
        cache->page[p].tokens = cache->tokens + (size_t)p * (size_t)page_rows;
        link_unused(cache, p);
    }
    return STATUS_OK;
}

void kv_cache_close(KvCache *cache) {
    free(cache->page);
    free(cache->bucket);
    free(cache->tokens);
    *cache = (KvCache){0};
}
