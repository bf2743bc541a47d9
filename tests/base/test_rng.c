// Random numbers: Philox against the known answers of Random123, bounded numbers without bias, shuffles that are
// permutations.
#include "src/base/rng.h"
#include "tests/base/chi_square.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
// cmocka needs the three above first
#include <cmocka.h>
#include <math.h>

// Random123's kat_vectors, philox4x32 with 10 rounds: counter, key, output.
static void test_known_answers(void **state) {
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const uint32_t *c = known[i].counter, *k = known[i].key;
        Philox4 got = philox((uint64_t)k[1] << 32 | k[0], c[0], c[1], c[2], c[3]);
        assert_memory_equal(got.v, known[i].out, sizeof got.v);
    }
}

// A sequence is the blocks of its counter, and its block number can be set.
static void test_sequence(void **state) {
    (void)state;
    const uint64_t seed = 0x123456789abcdef0u;
    Rng rng = rng_make(seed, RNG_DROPOUT, 77);
    for (uint32_t block = 0; block < 5; block++) {
        Philox4 want = philox(seed, block, 0, RNG_DROPOUT, 77);
        for (int i = 0; i < 4; i++) assert_int_equal(rng_u32(&rng), want.v[i]);
    }
    rng = rng_make(seed, RNG_SAMPLE, 3);
    rng.block = (uint64_t)1 << 32; // the high word of the block counts too
    assert_int_equal(rng_u32(&rng), philox(seed, 0, 1, RNG_SAMPLE, 3).v[0]);
}

static void test_uniform(void **state) {
    (void)state;
    enum { DRAWS = 200000 };
    Rng rng = rng_make(5, 0, 0);
    double sum = 0;
    for (int i = 0; i < DRAWS; i++) {
        double x = rng_uniform(&rng);
        assert_true(x >= 0 && x < 1);
        sum += x;
    }
    // The mean's standard deviation is sqrt(1/12/DRAWS); six of them is one chance in 5e8.
    assert_true(fabs(sum / DRAWS - 0.5) <= 6 * sqrt(1.0 / 12 / DRAWS));
}

static void test_below(void **state) {
    (void)state;
    static const uint32_t bounds[] = {1, 2, 3, 7, 10, 96, 1000};
    enum { PER_BIN = 200 };
    for (size_t b = 0; b < sizeof bounds / sizeof *bounds; b++) {
        const uint32_t n = bounds[b];
        Rng rng = rng_make(9, 1, n);
        int count[1000] = {0};
        for (uint32_t i = 0; i < n * PER_BIN; i++) {
            uint32_t x = rng_below(&rng, n);
            assert_true(x < n);
            count[x]++;
        }
        double chi = 0;
        for (uint32_t i = 0; i < n; i++) chi += (double)(count[i] - PER_BIN) * (count[i] - PER_BIN) / PER_BIN;
        assert_true(chi <= chi_square_bound(n - 1));
    }
    // n = 3 * 2^30: without rejection, one third of the range would come up twice as often.
    const uint32_t n = 3u << 30;
    enum { DRAWS = 30000 };
    int third[3] = {0};
    Rng rng = rng_make(10, 0, 0);
    for (int i = 0; i < DRAWS; i++) third[rng_below(&rng, n) % 3]++;
    double chi = 0;
    for (int i = 0; i < 3; i++) chi += pow(third[i] - DRAWS / 3.0, 2) / (DRAWS / 3.0);
    assert_true(chi <= chi_square_bound(2));
}

static void test_shuffle(void **state) {
    (void)state;
    for (int32_t n = 0; n <= 50; n++) {
        int32_t v[50], seen[50] = {0};
        for (int32_t i = 0; i < n; i++) v[i] = i;
        Rng rng = rng_make(11, 0, (uint32_t)n);
        rng_shuffle(&rng, v, n);
        for (int32_t i = 0; i < n; i++) {
            assert_in_range(v[i], 0, n - 1);
            assert_int_equal(seen[v[i]]++, 0);
        }
    }
    // All 24 orders of four come up equally often.
    enum { ORDERS = 24, PER_ORDER = 200 };
    int count[256] = {0};
    Rng rng = rng_make(12, 0, 0);
    for (int i = 0; i < ORDERS * PER_ORDER; i++) {
        int32_t v[4] = {0, 1, 2, 3};
        rng_shuffle(&rng, v, 4);
        count[v[0] << 6 | v[1] << 4 | v[2] << 2 | v[3]]++;
    }
    double chi = 0;
    int orders = 0;
    for (int i = 0; i < 256; i++) {
        if (count[i] == 0) continue;
        orders++;
        chi += (double)(count[i] - PER_ORDER) * (count[i] - PER_ORDER) / PER_ORDER;
    }
    assert_int_equal(orders, ORDERS);
    assert_true(chi <= chi_square_bound(ORDERS - 1));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers), cmocka_unit_test(test_sequence), cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_below),         cmocka_unit_test(test_shuffle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
