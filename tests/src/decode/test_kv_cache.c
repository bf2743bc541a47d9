// Pages of the key/value cache: sharing, room, and what is forgotten first; then many random sequences against a plain
// account of who has what.
#include "src/decode/kv_cache.h"
#include "src/base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { PAGE = 64, LONG = 6 * PAGE };

static void fill(int32_t *tokens, int32_t from, int32_t value) {
    for (int32_t i = from; i < LONG; i++) tokens[i] = value;
}

// As the caller does when a prompt has been computed.
static void write_pages(KvCache *cache, const int32_t *page, int32_t known) {
    for (int32_t i = 0; i < kv_pages(known, PAGE); i++)
        cache->page[page[i]].rows = known - i * PAGE < PAGE ? known - i * PAGE : PAGE;
}

static void shares(void **state) {
    (void)state;
    KvCache cache;
    KvShare share;
    assert_int_equal(kv_cache_open(&cache, 10, PAGE), STATUS_OK);
    int32_t a[LONG], b[LONG], pages_a[6], pages_b[6], pages_c[6];
    fill(a, 0, 1);
    memcpy(b, a, sizeof a);
    fill(b, 2 * PAGE + 20, 2); // alike for two pages and 20 tokens
    assert_true(kv_cache_take(&cache, a, 3 * PAGE, 4 * PAGE, 0, pages_a, &share));
    assert_int_equal(share.pages, 0);
    assert_true(kv_cache_take(&cache, b, 3 * PAGE, 3 * PAGE, 0, pages_b, &share));
    assert_int_equal(share.pages, 2);     // though they are not written yet
    assert_int_equal(share.copy_rows, 0); // what is not written cannot be copied
    assert_int_equal(pages_b[0], pages_a[0]);
    assert_int_equal(pages_b[1], pages_a[1]);
    assert_int_not_equal(pages_b[2], pages_a[2]);
    assert_true(kv_cache_take(&cache, a, 3 * PAGE - 1, 3 * PAGE, 1, pages_c, &share));
    assert_int_equal(share.pages, 0); // another variant
    assert_int_equal(cache.unused, 2);
    assert_false(kv_cache_take(&cache, b + 1, 0, 3 * PAGE, 0, (int32_t[6]){0}, &share)); // no room
    write_pages(&cache, pages_a, 3 * PAGE);
    write_pages(&cache, pages_b, 3 * PAGE);
    write_pages(&cache, pages_c, PAGE); // cut short
    kv_cache_release(&cache, pages_a, 4);
    kv_cache_release(&cache, pages_b, 3);
    kv_cache_release(&cache, pages_c, 3);
    assert_int_equal(cache.unused, 10);
    // Written pages are found again when nobody has them, unwritten ones are not.
    assert_true(kv_cache_take(&cache, b, 3 * PAGE + 7, 4 * PAGE, 0, pages_b, &share));
    assert_int_equal(share.pages, 3);
    assert_true(kv_cache_take(&cache, a, 3 * PAGE, 3 * PAGE, 1, pages_c, &share));
    assert_int_equal(share.pages, 1);
    kv_cache_release(&cache, pages_c, 3);
    // What takes all that is left takes empty pages first and the first pages of prompts last.
    int32_t other[LONG];
    fill(other, 0, 9);
    assert_true(kv_cache_take(&cache, other, 0, 5 * PAGE, 0, pages_a, &share));
    assert_int_equal(cache.unused, 1);
    kv_cache_release(&cache, pages_a, 5);
    kv_cache_release(&cache, pages_b, 4);
    assert_true(kv_cache_take(&cache, b, 3 * PAGE, 3 * PAGE, 0, pages_b, &share));
    assert_int_equal(share.pages, 3);
    kv_cache_release(&cache, pages_b, 3);
    kv_cache_close(&cache);
}

// The page where two prompts part is copied from, up to there and as far as it is written, and held until it is given
// back.
static void copies(void **state) {
    (void)state;
    KvCache cache;
    KvShare share;
    assert_int_equal(kv_cache_open(&cache, 4, PAGE), STATUS_OK);
    int32_t a[LONG], b[LONG], page_a[6], page_b[6], page_c[6];
    fill(a, 0, 1);
    fill(b, 0, 1);
    fill(b, 30, 2);
    assert_true(kv_cache_take(&cache, a, 40, PAGE, 0, page_a, &share)); // 40 tokens, then an answer
    cache.page[page_a[0]].rows = 12;
    assert_true(kv_cache_take(&cache, b, 50, PAGE, 0, page_b, &share));
    assert_true(share.copy_rows == 12 && share.copy_page == page_a[0]);
    kv_cache_release(&cache, &share.copy_page, 1);
    cache.page[page_a[0]].rows = PAGE; // the answer too, which nobody shares
    kv_cache_release(&cache, page_a, 1);
    kv_cache_release(&cache, page_b, 1); // never written
    assert_true(kv_cache_take(&cache, b, 50, 2 * PAGE, 0, page_b, &share));
    assert_true(share.copy_rows == 30 && share.copy_page == page_a[0]);
    assert_int_equal(cache.page[page_a[0]].users, 1);
    // While it is held its place is not taken: two pages are in use, one is held, one is left.
    assert_false(kv_cache_take(&cache, b + 40, 0, 2 * PAGE, 0, page_c, &(KvShare){0}));
    kv_cache_release(&cache, &share.copy_page, 1);
    // Where every place is needed nothing is copied.
    assert_true(kv_cache_take(&cache, a, 40, 2 * PAGE, 0, page_c, &share));
    assert_int_equal(share.copy_rows, 0);
    kv_cache_release(&cache, page_b, 2);
    kv_cache_release(&cache, page_c, 2);
    assert_int_equal(cache.unused, 4);
    kv_cache_close(&cache);
}

// Sequences of few kinds of tokens come and go. Every page in use has as many users as sequences have it, no sequence
// has the page of another unless both have the same tokens up to its end, and room is refused only where there is none.
static void many(void **state) {
    (void)state;
    enum { PAGES = 24, SEQUENCES = 12, ROUNDS = 20000 };
    static struct {
        bool used;
        int32_t tokens[LONG], known, total, page[6];
        uint64_t variant;
    } all[SEQUENCES];
    static int32_t shared_pages, refused, copied;
    KvCache cache;
    assert_int_equal(kv_cache_open(&cache, PAGES, PAGE), STATUS_OK);
    Rng rng = rng_make(5, 0, 0);
    for (int round = 0; round < ROUNDS; round++) {
        const uint32_t i = rng_below(&rng, SEQUENCES);
        if (all[i].used) {
            write_pages(&cache, all[i].page, all[i].known);
            kv_cache_release(&cache, all[i].page, kv_pages(all[i].total, PAGE));
            all[i].used = false;
        } else {
            KvShare share;
            for (int32_t p = 0; p < 6; p++) {
                const int32_t value = (int32_t)rng_below(&rng, p == 0 ? 2 : 3);
                const int32_t change = (int32_t)rng_below(&rng, 2 * PAGE); // within the page, in half of them
                for (int32_t t = 0; t < PAGE; t++) all[i].tokens[p * PAGE + t] = value + (t >= change);
            }
            all[i].total = 1 + (int32_t)rng_below(&rng, LONG);
            all[i].known = (int32_t)rng_below(&rng, (uint32_t)all[i].total + 1);
            all[i].variant = rng_below(&rng, 2);
            all[i].used =
                kv_cache_take(&cache, all[i].tokens, all[i].known, all[i].total, all[i].variant, all[i].page, &share);
            if (all[i].used) {
                const int32_t shared = share.pages * PAGE;
                assert_true(shared + share.copy_rows <= all[i].known);
                shared_pages += share.pages;
                if (share.copy_rows > 0) {
                    const KvPage *from = &cache.page[share.copy_page];
                    assert_true(from->users > 0 && from->rows >= share.copy_rows && from->known >= share.copy_rows);
                    assert_memory_equal(from->tokens, all[i].tokens + shared,
                                        sizeof(int32_t) * (size_t)share.copy_rows);
                    for (int32_t p = 0; p < kv_pages(all[i].total, PAGE); p++)
                        assert_int_not_equal(all[i].page[p], share.copy_page);
                    kv_cache_release(&cache, &share.copy_page, 1);
                    copied++;
                }
                write_pages(&cache, all[i].page, all[i].known);
            } else {
                refused++;
                assert_true(cache.unused < kv_pages(all[i].total, PAGE));
            }
        }
        int32_t users[PAGES] = {0}, unused = 0;
        for (int s = 0; s < SEQUENCES; s++)
            for (int32_t p = 0; all[s].used && p < kv_pages(all[s].total, PAGE); p++) users[all[s].page[p]]++;
        for (int32_t p = 0; p < PAGES; p++) {
            assert_int_equal(cache.page[p].users, users[p]);
            unused += users[p] == 0;
        }
        assert_int_equal(cache.unused, unused);
        if (!all[i].used) continue;
        for (int s = 0; s < SEQUENCES; s++)
            for (int32_t p = 0; s != (int)i && all[s].used && p < kv_pages(all[s].total, PAGE); p++)
                for (int32_t q = 0; q < kv_pages(all[i].total, PAGE); q++) {
                    if (all[s].page[p] != all[i].page[q]) continue;
                    const size_t bytes = sizeof(int32_t) * (size_t)(p + 1) * PAGE;
                    assert_int_equal(p, q);
                    assert_int_equal(all[s].variant, all[i].variant);
                    assert_memory_equal(all[s].tokens, all[i].tokens, bytes);
                    assert_true((p + 1) * PAGE <= all[s].known && (p + 1) * PAGE <= all[i].known);
                }
    }
    assert_true(shared_pages > ROUNDS / 20 && refused > ROUNDS / 100 && copied > ROUNDS / 20);
    kv_cache_close(&cache);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(shares), cmocka_unit_test(copies), cmocka_unit_test(many)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
