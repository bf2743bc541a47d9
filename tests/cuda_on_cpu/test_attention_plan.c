// Plans of attention on random forests: links lead every position to its row, tiles cover every query, visits show each
// key to the tokens that see it and to no other, every row of dk and dv is written once, no table is longer than what
// was counted, and no call takes more slots than reserve() has room for.
#include "kernels/cuda/attention.h"
#include "src/base/rng.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>

enum { SEGMENTS_MAX = 24, ROWS_MAX = 4000, MULTIPROCESSORS = 4, ROUNDS = 300 };

static const AttentionInstance TILES[] = {{.name = "large", .head_dim = 64, .rows = 128, .keys = 64},
                                          {.name = "small", .head_dim = 64, .rows = 64, .keys = 64},
                                          {.name = "wide", .head_dim = 128, .rows = 64, .keys = 64}};
static const AttentionInstance BLOCKS[] = {{.name = "large", .head_dim = 64, .rows = 64, .keys = 128},
                                           {.name = "small", .head_dim = 64, .rows = 64, .keys = 64},
                                           {.name = "wide", .head_dim = 128, .rows = 64, .keys = 64}};
static const AttentionKernels KERNELS = {.key_block = 64,
                                         .visit_rows = 64,
                                         .forward = {TILES, 3},
                                         .query_gradient = {TILES, 3},
                                         .key_gradient = {BLOCKS, 3}};

typedef struct Forest {
    AttentionShape shape;
    Segment segment[SEGMENTS_MAX];
    QueryRange query[SEGMENTS_MAX];
    int32_t query_rows;
} Forest;

static void random_forest(Forest *f, Rng *rng) {
    static const int32_t GROUPS[] = {1, 3, 4, 7, 8, 16}, LENGTHS[] = {1, 6, 70, 160};
    const int32_t kv_heads = 1 + (int32_t)rng_below(rng, 4), group = GROUPS[rng_below(rng, 6)];
    *f = (Forest){.shape = {.backward = rng_below(rng, 4) > 0}};
    Attention *a = &f->shape.attention;
    *a = (Attention){.heads = kv_heads * group,
                     .kv_heads = kv_heads,
                     .head_dim = rng_below(rng, 2) > 0 ? 64 : 80,
                     .scale = 1,
                     .segments = f->segment,
                     .queries = f->query};
    const uint32_t longest = (uint32_t)LENGTHS[rng_below(rng, 4)];
    for (int32_t s = 0, count = 1 + (int32_t)rng_below(rng, SEGMENTS_MAX); s < count; s++) {
        const int32_t parent = (int32_t)rng_below(rng, (uint32_t)s + 1) - 1;
        const int32_t gap = rng_below(rng, 4) == 0 ? (int32_t)rng_below(rng, 200) : 0;
        const int32_t length = 1 + (int32_t)rng_below(rng, longest);
        const int32_t position = parent < 0 ? 0 : f->segment[parent].position + f->segment[parent].length;
        f->segment[s] = (Segment){f->shape.key_rows + gap, length, position, parent};
        f->shape.key_rows += gap + length;
        a->segment_count++;
        if (rng_below(rng, 4) == 0) continue;
        const int32_t offset = (int32_t)rng_below(rng, (uint32_t)length);
        const int32_t queries = 1 + (int32_t)rng_below(rng, (uint32_t)(length - offset));
        f->query[a->query_count++] = (QueryRange){s, offset, queries, f->query_rows};
        f->query_rows += queries;
    }
}

typedef struct Made {
    AttentionDraft draft;
    AttentionPlan plan; // on the host
    void *space, *memory;
} Made;

static Made make(const Forest *f) {
    Made m;
    m.space = malloc(attention_plan_space(f->shape.attention.segment_count, f->shape.key_rows) + 1);
    attention_plan_draft(&f->shape, &KERNELS, MULTIPROCESSORS, m.space, &m.draft);
    m.memory = aligned_alloc(16, m.draft.bytes + 16);
    attention_plan_fill(&f->shape, &m.draft, m.space, m.memory, m.memory, &m.plan);
    return m;
}

static void free_made(Made *m) {
    free(m->space);
    free(m->memory);
}

// Segment and offset of a query row; -1: the row is no query.
static int32_t segment_of(const Forest *f, int32_t row, int32_t *offset) {
    const Attention *a = &f->shape.attention;
    for (int32_t i = 0; i < a->query_count; i++) {
        const QueryRange *r = &a->queries[i];
        if (row < r->row || row >= r->row + r->length) continue;
        *offset = r->offset + row - r->row;
        return r->segment;
    }
    return -1;
}

// Each query is in one tile, whose links lead to the rows of its chain.
static void check_tiles(const Forest *f, const Made *m, int32_t tile_rows) {
    int32_t covered[ROWS_MAX] = {0};
    for (int32_t i = 0; i < m->plan.tile_count; i++) {
        const AttentionTile *tile = &m->plan.tiles[i];
        int32_t offset = 0, segment = -1;
        for (int32_t t = 0; t < tile->tokens; t++) {
            covered[tile->row + t]++;
            segment = segment_of(f, tile->row + t, &offset);
            assert_true(segment >= 0);
            assert_int_equal(tile->position + t, f->segment[segment].position + offset);
        }
        assert_true(tile->tokens >= 1 && tile->tokens * m->plan.group <= tile_rows);
        assert_memory_equal(&tile->first_link, &m->plan.links[tile->link], sizeof tile->first_link);
        int32_t row_at[ROWS_MAX];
        for (int32_t s = segment; s >= 0; s = f->segment[s].parent)
            for (int32_t j = 0; j < f->segment[s].length; j++)
                row_at[f->segment[s].position + j] = f->segment[s].first + j;
        const AttentionLink *link = &m->plan.links[tile->link];
        for (int32_t position = 0; position < tile->position + tile->tokens; position++) {
            while (position >= link->end) link++;
            assert_int_equal(position + link->shift, row_at[position]);
        }
    }
    for (int32_t row = 0; row < f->query_rows; row++) assert_int_equal(covered[row], 1);
}

// How many query tokens see each key row.
static void count_seen(const Forest *f, int32_t *seen) {
    for (int32_t row = 0; row < f->query_rows; row++) {
        int32_t offset = 0;
        const int32_t own = segment_of(f, row, &offset);
        for (int32_t s = own; s >= 0; s = f->segment[s].parent) {
            const int32_t end = s == own ? offset + 1 : f->segment[s].length;
            for (int32_t j = 0; j < end; j++) seen[f->segment[s].first + j]++;
        }
    }
}

static void check_keys(const Forest *f, const Made *m) {
    static int32_t want[ROWS_MAX], got[ROWS_MAX], written[ROWS_MAX], slot_used[ROWS_MAX];
    memset(want, 0, sizeof want);
    memset(got, 0, sizeof got);
    memset(written, 0, sizeof written);
    memset(slot_used, 0, sizeof slot_used);
    count_seen(f, want);
    int32_t slots = 0;
    for (int32_t i = 0; i < m->plan.key_count; i++) {
        const AttentionKeys *keys = &m->plan.keys[i];
        assert_true(keys->begin < keys->end && keys->count >= 1 && keys->count <= m->draft.key_gradient->keys);
        for (int32_t v = keys->begin; v < keys->end; v++)
            for (int32_t t = 0; t < m->plan.visits[v].tokens; t++)
                for (int32_t j = 0; j < keys->count; j++)
                    got[keys->row + j] += keys->start + j <= m->plan.visits[v].offset + t;
        if (keys->slot >= 0) {
            slot_used[keys->slot]++;
            slots = keys->slot >= slots ? keys->slot + 1 : slots;
        } else {
            for (int32_t j = 0; j < keys->count; j++) written[keys->row + j]++;
        }
    }
    for (int32_t i = 0; i < m->plan.sum_count; i++) {
        const AttentionSum *sum = &m->plan.sums[i];
        for (int32_t j = 0; j < sum->count; j++) written[sum->row + j]++;
        for (int32_t part = 0; part < sum->parts; part++) slot_used[sum->slot + part]++;
    }
    for (int32_t row = 0; row < f->shape.key_rows; row++) {
        assert_int_equal(got[row], want[row]);
        assert_int_equal(written[row], 1);
    }
    for (int32_t slot = 0; slot < slots; slot++) assert_int_equal(slot_used[slot], 2); // written and summed
    assert_true((int64_t)slots * m->draft.key_gradient->keys <= attention_plan_slot_keys(f->query_rows));
    assert_true(m->plan.key_count <= m->draft.keys && m->plan.sum_count <= m->draft.sums);
}

static void test_random(void **state) {
    (void)state;
    Rng rng = rng_make(1, 0, 0);
    for (int round = 0; round < ROUNDS; round++) {
        Forest f;
        random_forest(&f, &rng);
        assert_true(f.shape.key_rows + 200 <= ROWS_MAX && f.query_rows <= ROWS_MAX);
        Made m = make(&f);
        const AttentionInstance *tiled = f.shape.backward ? m.draft.query_gradient : m.draft.forward;
        check_tiles(&f, &m, tiled->rows);
        if (f.shape.backward) check_keys(&f, &m);
        free_made(&m);
    }
}

// The largest shapes of a kind: room for a plan is what attention_plan_room says, and the instances are the large ones.
static void test_sizes(void **state) {
    (void)state;
    Forest f = {
        .shape = {.attention = {.heads = 16, .kv_heads = 2, .head_dim = 64, .segment_count = 3, .query_count = 3},
                  .key_rows = 2400,
                  .backward = true},
        .segment = {{0, 800, 0, -1}, {800, 800, 800, 0}, {1600, 800, 800, 0}},
        .query = {{0, 0, 800, 0}, {1, 0, 800, 800}, {2, 0, 800, 1600}},
        .query_rows = 2400};
    f.shape.attention.segments = f.segment;
    f.shape.attention.queries = f.query;
    Made m = make(&f);
    assert_string_equal(m.draft.query_gradient->name, "large");
    assert_string_equal(m.draft.key_gradient->name, "large");
    check_tiles(&f, &m, 128);
    check_keys(&f, &m);
    free_made(&m);
    f.shape.attention.segment_count = f.shape.attention.query_count = 1;
    f.segment[0].length = f.query[0].length = f.shape.key_rows = f.query_rows = 40;
    m = make(&f);
    assert_string_equal(m.draft.query_gradient->name, "small");
    assert_string_equal(m.draft.key_gradient->name, "small");
    free_made(&m);
    Forest one = {.shape = {.attention = {.heads = 16, .kv_heads = 1, .head_dim = 64}, .backward = true}};
    Attention *a = &one.shape.attention;
    a->segments = one.segment;
    a->queries = one.query;
    for (int32_t s = 0; s < SEGMENTS_MAX; s++) { // a token each, in chains of three
        one.segment[s] = (Segment){s, 1, s % 3, s % 3 == 0 ? -1 : s - 1};
        one.query[s] = (QueryRange){s, 0, 1, s};
    }
    a->segment_count = a->query_count = one.shape.key_rows = one.query_rows = SEGMENTS_MAX;
    m = make(&one);
    assert_true(m.draft.bytes <= attention_plan_room(SEGMENTS_MAX) + 5 * 16); // each table begins at 16 bytes
    check_keys(&one, &m);
    free_made(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_sizes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
