// The batch layout and plan against brute force on random row sets: what a scored token sees is exactly its prompt and
// the completion before it, whatever is shared; and no plan of contiguous ranges has a smaller largest cost.
#include "tests/src/random_rows.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
// cmocka needs the three above first
#include <cmocka.h>

// SPLIT_SAVES_MIN of batch.c: a branching that is not made a segment wastes fewer tokens than this.
enum { WASTE_MAX = 7 };

static RowSet set;
static int32_t scratch[2 * (ROWS_MAX + 1)];

// The linker gives these to what is tested in the place of malloc and realloc. Counts down to the one that fails.
static int allocations_left = -1;
void *__real_malloc(size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__wrap_malloc(size_t bytes) {
    return allocations_left-- == 0 ? NULL : __real_malloc(bytes);
}
void *__wrap_realloc(void *old, size_t bytes) {
    return allocations_left-- == 0 ? NULL : __real_realloc(old, bytes);
}

// Nodes of the trie of the prefixes of rows[slot[..]]: for each row what no row before it has.
static int64_t trie_size(const BatchRow *rows, const int32_t *slot, int32_t count, bool share) {
    int64_t size = 0;
    for (int32_t i = 0; i < count; i++) {
        const BatchRow *row = &rows[slot[i]];
        int32_t known = 0;
        for (int32_t j = 0; share && j < i; j++) {
            int32_t common = common_start(&rows[slot[j]], row, rows[slot[j]].prompt_length - 1, row->prompt_length - 1);
            if (common > known) known = common;
        }
        size += row->prompt_length - 1 - known;
    }
    return size;
}

static bool has_any(const BatchRow *row, unsigned roles) {
    for (int32_t c = 0; c < row->completion_count; c++)
        if (roles & 1u << row->completion[c].role) return true;
    return false;
}

static void check_segments(const MicroBatch *m) {
    bool used[4 * ROWS_MAX] = {false};
    int32_t at = 0;
    for (int32_t s = 0; s < m->segment_count; s++) {
        const Segment *segment = &m->segment[s];
        if (s == m->prefix_segments) assert_int_equal(at, m->n_prefix);
        if (s == m->grad_segments) assert_int_equal(at, m->n_grad);
        assert_int_equal(segment->first, at);
        assert_true(segment->length >= 1);
        at += segment->length;
        int32_t position = 0;
        if (segment->parent >= 0) {
            assert_true(segment->parent < s && segment->parent < m->prefix_segments);
            used[segment->parent] = true;
            const Segment *parent = &m->segment[segment->parent];
            position = parent->position + parent->length;
        }
        assert_int_equal(segment->position, position);
        for (int32_t i = 0; i < segment->length; i++)
            assert_int_equal(m->position[segment->first + i], segment->position + i);
    }
    assert_int_equal(at, m->n_total);
    assert_true(0 <= m->n_prefix && m->n_prefix <= m->n_grad && m->n_grad <= m->n_total);
    for (int32_t s = 0; s < m->prefix_segments; s++) assert_true(used[s]); // none computed for nothing
}

// The chain of segment s up to its end, root first: tokens and owners. Returns its length.
static int32_t spell(const MicroBatch *m, int32_t s, int32_t *token, int32_t *owner) {
    int32_t length = 0;
    if (m->segment[s].parent >= 0) length = spell(m, m->segment[s].parent, token, owner);
    for (int32_t i = 0; i < m->segment[s].length; i++) {
        token[length] = m->token[m->segment[s].first + i];
        owner[length++] = m->owner[m->segment[s].first + i];
    }
    return length;
}

static void check_scored(const BatchRow *rows, const MicroBatch *m, int32_t index) {
    const Scored *scored = &m->scored[index];
    const BatchRow *row = &rows[scored->slot];
    const Completion *completion = &row->completion[scored->completion];
    const Segment *segment = &m->segment[m->prefix_segments + index];
    assert_int_equal(scored->first + m->n_prefix, segment->first);
    assert_int_equal(scored->length, segment->length);
    assert_int_equal(scored->length, completion->length);
    assert_true((completion->role == ROLE_KL) == (index >= m->scored_grad));
    int32_t token[PROMPT_MAX + COMPLETION_MAX], owner[PROMPT_MAX + COMPLETION_MAX];
    const int32_t length = spell(m, m->prefix_segments + index, token, owner), p = row->prompt_length;
    assert_int_equal(length, p + completion->length - 1);
    for (int32_t i = 0; i < length; i++) {
        assert_int_equal(token[i], i < p ? row->prompt[i] : completion->tokens[i - p]);
        const int32_t own = completion->role == ROLE_KL         ? -1
                            : completion->role == ROLE_REJECTED ? row->rejected_row
                                                                : row->row;
        assert_int_equal(owner[i], i >= p - 1 ? own : row->owner == NULL ? -1 : row->owner[i]);
    }
    for (int32_t i = 0; i < scored->length; i++) assert_int_equal(m->target[scored->first + i], completion->tokens[i]);
}

// `exact`: every saving is large, so that the prefixes are the trie itself.
static void check_layout(const BatchRow *rows, const int32_t *slot, int32_t count, unsigned roles, bool share,
                         bool exact, MicroBatch *m) {
    assert_int_equal(batch_layout(rows, slot, count, roles, share, m), STATUS_OK);
    check_segments(m);
    int32_t kept[ROWS_MAX], n = 0, wanted[2] = {0}; // index 1: without gradient
    int64_t unshared = 0, scored_tokens[2] = {0};
    for (int32_t i = 0; i < count; i++) {
        const BatchRow *row = &rows[slot[i]];
        if (has_any(row, roles)) {
            kept[n++] = slot[i];
            unshared += row->prompt_length - 1;
        }
        for (int32_t c = 0; c < row->completion_count; c++) {
            if (!(roles & 1u << row->completion[c].role)) continue;
            wanted[row->completion[c].role == ROLE_KL]++;
            scored_tokens[row->completion[c].role == ROLE_KL] += row->completion[c].length;
        }
    }
    assert_int_equal(m->scored_grad, wanted[0]);
    assert_int_equal(m->scored_count, wanted[0] + wanted[1]);
    assert_int_equal(m->segment_count, m->prefix_segments + m->scored_count);
    assert_int_equal(m->grad_segments, m->prefix_segments + m->scored_grad);
    bool seen[ROWS_MAX][BATCH_COMPLETIONS_MAX] = {{false}};
    for (int32_t s = 0; s < m->scored_count; s++) {
        check_scored(rows, m, s);
        assert_false(seen[m->scored[s].slot][m->scored[s].completion]);
        seen[m->scored[s].slot][m->scored[s].completion] = true;
    }
    assert_int_equal(m->n_grad - m->n_prefix, scored_tokens[0]);
    assert_int_equal(m->n_total - m->n_grad, scored_tokens[1]);
    TokenCount tokens = batch_count(rows, slot, count, roles, share, scratch);
    assert_int_equal(tokens.prefix, m->n_prefix);
    assert_int_equal(tokens.policy, scored_tokens[0]);
    assert_int_equal(tokens.kl, scored_tokens[1]);

    const int64_t trie = trie_size(rows, kept, n, share);
    assert_true(m->n_prefix >= trie && m->n_prefix <= unshared);
    if (!share) assert_int_equal(m->n_prefix, unshared);
    if (exact) assert_int_equal(m->n_prefix, trie);
    // Each pair of different neighbours in prompt order is one branch at most.
    int32_t branches = 0;
    for (int32_t i = 1; i < n; i++) {
        const BatchRow *a = &rows[kept[i - 1]], *b = &rows[kept[i]];
        const int32_t la = a->prompt_length - 1, lb = b->prompt_length - 1;
        branches += la != lb || common_start(a, b, la, lb) < la;
    }
    if (share) assert_true(m->n_prefix <= trie + WASTE_MAX * branches);
}

// y' of a row becomes the rejected completion of a pair.
static void make_pairs(RowSet *rows) {
    for (int32_t i = 0; i < rows->count; i++) {
        rows->rows[i].rejected_row = 500 + i;
        if (rows->rows[i].completion_count == 2) rows->rows[i].completion[1].role = ROLE_REJECTED;
    }
}

static void plan_alone(const BatchRow *rows, int32_t count, bool share, BatchPlan *plan) {
    BatchOptions options = {.ranks = 1, .share = share};
    assert_int_equal(batch_plan(rows, count, &options, plan), STATUS_OK);
}

static void test_layout(void **state) {
    (void)state;
    static const unsigned roles[] = {ROLES_ALL, ROLES_POLICY, ROLES_KL_ONLY};
    MicroBatch m = {0};
    BatchPlan plan = {0};
    Rng rng = rng_make(1, 0, 0);
    for (int round = 0; round < 600; round++) {
        const int32_t count = 1 + (int32_t)rng_below(&rng, ROWS_MAX);
        random_rows(&set, &rng, count, round % 3 == 0 ? 2 : 50, 1 + (int32_t)rng_below(&rng, PROMPT_MAX),
                    round % 4 != 0);
        if (round % 5 == 0)
            for (int32_t i = 0; i < count; i++) set.rows[i].owner = NULL;
        if (round % 7 == 0) set.rows[0].completion_count = 1; // a row without y' among rows that have it
        if (round % 2 == 0) make_pairs(&set);
        for (int share = 0; share < 2; share++) {
            plan_alone(set.rows, count, share, &plan);
            const int32_t from = (int32_t)rng_below(&rng, (uint32_t)count);
            for (int r = 0; r < 3; r++) {
                check_layout(set.rows, plan.slot, count, roles[r], share, false, &m);
                check_layout(set.rows, plan.slot + from, count - from, roles[r], share, false, &m);
            }
        }
    }
    batch_plan_free(&plan);
    micro_batch_free(&m);
}

// Prompts of whole blocks of eight tokens, each block told by its first token: every shared piece is worth a segment.
static void test_exact_trie(void **state) {
    (void)state;
    enum { BLOCK = 8 };
    MicroBatch m = {0};
    BatchPlan plan = {0};
    Rng rng = rng_make(2, 0, 0);
    for (int round = 0; round < 300; round++) {
        const int32_t count = 1 + (int32_t)rng_below(&rng, ROWS_MAX);
        random_rows(&set, &rng, count, 50, 4, true);
        for (int32_t i = 0; i < count; i++) {
            const int32_t blocks = (int32_t)rng_below(&rng, (PROMPT_MAX - 1) / BLOCK + 1);
            for (int32_t b = 0; b < blocks; b++) {
                const int32_t symbol = 10 * (int32_t)rng_below(&rng, 2);
                for (int32_t t = 0; t < BLOCK; t++) set.prompt[i][b * BLOCK + t] = 100 + symbol + t;
            }
            set.prompt[i][blocks * BLOCK] = 5; // opens the scored segments
            set.rows[i].prompt_length = blocks * BLOCK + 1;
            set.rows[i].owner = NULL;
        }
        plan_alone(set.rows, count, true, &plan);
        check_layout(set.rows, plan.slot, count, ROLES_ALL, true, true, &m);
    }
    batch_plan_free(&plan);
    micro_batch_free(&m);
}

// Two pairs by hand: the prompt once, both answers of all pairs with gradient and their own dropout owners; a plan
// never takes a pair apart.
static void test_pairs_by_hand(void **state) {
    (void)state;
    static const int32_t a[] = {1, 2, 3}, b[] = {4, 5}, y[] = {40, 41, 42};
    const BatchRow rows[] = {
        {.row = 0,
         .rejected_row = 2,
         .prompt = b,
         .prompt_length = 2,
         .completion_count = 2,
         .completion = {{y, 1, ROLE_POLICY}, {y, 3, ROLE_REJECTED}}},
        {.row = 1,
         .rejected_row = 3,
         .prompt = a,
         .prompt_length = 3,
         .completion_count = 2,
         .completion = {{y, 2, ROLE_POLICY}, {y + 1, 1, ROLE_REJECTED}}},
    };
    BatchPlan plan = {0};
    plan_alone(rows, 2, true, &plan);
    MicroBatch m = {0};
    check_layout(rows, plan.slot, 2, ROLES_ALL, true, true, &m);
    static const Segment want[] = {{0, 2, 0, -1}, {2, 1, 0, -1}, {3, 2, 2, 0},
                                   {5, 1, 1, 1},  {6, 1, 2, 0},  {7, 3, 1, 1}};
    static const int32_t tokens[] = {1, 2, 4, 3, 40, 5, 3, 5, 40, 41}, owners[] = {-1, -1, -1, 1, 1, 0, 3, 2, 2, 2};
    assert_int_equal(m.segment_count, 6);
    assert_memory_equal(m.segment, want, sizeof want);
    assert_int_equal(m.n_total, 10);
    assert_int_equal(m.n_grad, 10);
    assert_memory_equal(m.token, tokens, sizeof tokens);
    assert_memory_equal(m.owner, owners, sizeof owners);
    for (int32_t ranks = 1; ranks <= 3; ranks++) {
        BatchOptions options = {.ranks = ranks, .micro_batch_tokens = 1, .share = true};
        int32_t seen = 0;
        for (options.rank = 0; options.rank < ranks; options.rank++) {
            assert_int_equal(batch_plan(rows, 2, &options, &plan), STATUS_OK);
            assert_false(plan.two_pass);
            for (int32_t k = 0; k < plan.micro_count; k++, seen++) {
                assert_int_equal(plan.micro_first[k + 1] - plan.micro_first[k], 1);
                assert_int_equal(batch_layout(rows, plan.slot + plan.micro_first[k], 1, ROLES_ALL, true, &m),
                                 STATUS_OK);
                assert_int_equal(m.scored_grad, 2);
            }
        }
        assert_int_equal(seen, 2);
    }
    batch_plan_free(&plan);
    micro_batch_free(&m);
}

// One header of 10 and two tails; small by hand.
static void test_by_hand(void **state) {
    (void)state;
    static const int32_t a[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 21, 22}, b[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 30};
    static const int32_t y[] = {40, 41, 42};
    const BatchRow rows[] = {
        {.row = 0,
         .prompt = a,
         .prompt_length = 13,
         .completion_count = 2,
         .completion = {{y, 3, ROLE_POLICY}, {y, 1, ROLE_KL}}},
        {.row = 1,
         .prompt = b,
         .prompt_length = 11,
         .completion_count = 2,
         .completion = {{y, 2, ROLE_POLICY}, {y, 3, ROLE_KL}}},
        {.row = 2, .prompt = b, .prompt_length = 11, .completion_count = 1, .completion = {{y, 1, ROLE_POLICY}}},
    };
    BatchPlan plan = {0};
    plan_alone(rows, 3, true, &plan);
    static const int32_t order[] = {1, 2, 0}; // a prefix comes before what it begins
    assert_memory_equal(plan.slot, order, sizeof order);
    MicroBatch m = {0};
    check_layout(rows, plan.slot, 3, ROLES_ALL, true, true, &m);
    // header [0, 10), the rest of a's prefix [10, 12); y of rows 1, 2, 0; y' of rows 1, 0
    static const Segment want[] = {{0, 10, 0, -1}, {10, 2, 10, 0}, {12, 2, 10, 0}, {14, 1, 10, 0},
                                   {15, 3, 12, 1}, {18, 3, 10, 0}, {21, 1, 12, 1}};
    assert_int_equal(m.segment_count, 7);
    assert_memory_equal(m.segment, want, sizeof want);
    static const int32_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 21, 30, 40, 30, 22, 40, 41, 30, 40, 41, 22};
    assert_int_equal(m.n_total, 22);
    assert_memory_equal(m.token, tokens, sizeof tokens);
    batch_plan_free(&plan);
    micro_batch_free(&m);
}

// A forward token costs 1, one with gradient 2; what a range shares is computed once.
static int64_t range_cost(const BatchRow *rows, const int32_t *slot, int32_t count, bool share) {
    int64_t cost = 2 * trie_size(rows, slot, count, share);
    for (int32_t i = 0; i < count; i++)
        for (int32_t c = 0; c < rows[slot[i]].completion_count; c++)
            cost += (rows[slot[i]].completion[c].role == ROLE_KL ? 1 : 2) * rows[slot[i]].completion[c].length;
    return cost;
}

// The smallest possible largest cost of `ranks` contiguous ranges of slot[begin .. count), by trying all.
static int64_t best_cost(const BatchRow *rows, const int32_t *slot, int32_t begin, int32_t count, int32_t ranks,
                         bool share) {
    int64_t best = range_cost(rows, slot + begin, count - begin, share);
    for (int32_t end = begin; ranks > 1 && end < count; end++) {
        int64_t mine = range_cost(rows, slot + begin, end - begin, share);
        int64_t others = best_cost(rows, slot, end, count, ranks - 1, share);
        int64_t largest = mine > others ? mine : others;
        if (largest < best) best = largest;
    }
    return best;
}

static void check_prompt_order(const BatchRow *rows, const BatchPlan *plan) {
    bool seen[ROWS_MAX] = {false};
    for (int32_t i = 0; i < plan->count; i++) {
        const int32_t s = plan->slot[i];
        assert_in_range(s, 0, plan->count - 1);
        assert_false(seen[s]);
        seen[s] = true;
        if (i == 0) continue;
        const BatchRow *a = &rows[plan->slot[i - 1]], *b = &rows[s];
        const int32_t la = a->prompt_length - 1, lb = b->prompt_length - 1, common = common_start(a, b, la, lb);
        if (common < la && common < lb)
            assert_true(a->prompt[common] < b->prompt[common]);
        else
            assert_true(la < lb || (la == lb && plan->slot[i - 1] < s));
    }
}

static void test_plan(void **state) {
    (void)state;
    BatchPlan plans[6] = {{0}};
    Rng rng = rng_make(4, 0, 0);
    int several_seen = 0, idle_seen = 0, two_pass_seen = 0;
    for (int round = 0; round < 700; round++) {
        const int32_t count = 1 + (int32_t)rng_below(&rng, round % 10 == 0 ? ROWS_MAX : 7);
        const int32_t ranks = 1 + (int32_t)rng_below(&rng, 6);
        const bool two = round % 3 != 0, pairs = two && round % 7 < 2, with_kl = two && !pairs;
        random_rows(&set, &rng, count, round % 2 ? 2 : 50, 1 + (int32_t)rng_below(&rng, PROMPT_MAX), two);
        if (pairs) make_pairs(&set);
        BatchOptions options = {.ranks = ranks,
                                .micro_batch_tokens = round % 4 == 0 ? 0 : 1 + (int64_t)rng_below(&rng, 150),
                                .share = round % 5 != 0};
        for (options.rank = 0; options.rank < ranks; options.rank++)
            assert_int_equal(batch_plan(set.rows, count, &options, &plans[options.rank]), STATUS_OK);
        const BatchPlan *first = &plans[0];
        check_prompt_order(set.rows, first);
        int64_t largest = 0;
        bool several = false;
        TokenCount computed = {0};
        int32_t next = 0; // every row in one range and one micro-batch
        for (int32_t rank = 0; rank < ranks; rank++) {
            const BatchPlan *plan = &plans[rank];
            assert_int_equal(plan->count, count);
            assert_int_equal(plan->ranks, ranks);
            assert_memory_equal(plan->slot, first->slot, sizeof(int32_t) * (size_t)count);
            assert_memory_equal(plan->rank_first, first->rank_first, sizeof(int32_t) * ((size_t)ranks + 1));
            assert_int_equal(plan->two_pass, first->two_pass);
            assert_int_equal(plan->rank_first[rank], next);
            const int32_t end = plan->rank_first[rank + 1];
            assert_int_equal(plan->micro_first[0], next);
            int64_t cost = range_cost(set.rows, plan->slot + next, end - next, options.share);
            if (cost > largest) largest = cost;
            idle_seen += end == next;
            several |= plan->micro_count > 1;
            for (int32_t k = 0; k < plan->micro_count; k++) {
                const int32_t from = plan->micro_first[k], to = plan->micro_first[k + 1];
                assert_true(from == next && to > from);
                TokenCount tokens =
                    batch_count(set.rows, plan->slot + from, to - from, ROLES_ALL, options.share, scratch);
                computed.prefix += tokens.prefix;
                computed.policy += tokens.policy;
                computed.kl += tokens.kl;
                assert_true(options.micro_batch_tokens == 0 || to - from == 1 ||
                            tokens.prefix + tokens.policy + tokens.kl <= options.micro_batch_tokens);
                next = to;
            }
            assert_int_equal(next, end);
            if (options.micro_batch_tokens == 0) assert_true(plan->micro_count <= 1);
        }
        assert_int_equal(next, count);
        assert_int_equal(first->two_pass, several && with_kl);
        several_seen += several;
        two_pass_seen += first->two_pass;
        TokenCount said = batch_computed(set.rows, first, &options);
        assert_int_equal(said.prefix, computed.prefix * (first->two_pass ? 2 : 1));
        assert_int_equal(said.policy, computed.policy);
        assert_int_equal(said.kl, computed.kl);
        if (count <= 7) assert_int_equal(largest, best_cost(set.rows, first->slot, 0, count, ranks, options.share));
    }
    assert_true(several_seen > 50 && two_pass_seen > 50 && idle_seen > 50); // the cases did come up
    for (int i = 0; i < 6; i++) batch_plan_free(&plans[i]);
}

// Whichever allocation fails, in a first batch or a later, larger one, it is said, and nothing is laid out by what is
// not there.
static void test_no_memory(void **state) {
    (void)state;
    Rng rng = rng_make(5, 0, 0);
    bool failed = true;
    for (int failing = 0; failed; failing++) {
        BatchPlan plan = {0};
        MicroBatch layout = {0};
        Status status = STATUS_OK;
        allocations_left = failing;
        for (int32_t count = 3; count <= ROWS_MAX && status == STATUS_OK; count += ROWS_MAX - 3) {
            const BatchOptions options = {.ranks = 1, .micro_batch_tokens = 100, .share = true};
            random_rows(&set, &rng, count, 2, PROMPT_MAX, true);
            status = batch_plan(set.rows, count, &options, &plan);
            if (status == STATUS_OK) status = batch_layout(set.rows, plan.slot, count, ROLES_ALL, true, &layout);
            if (status != STATUS_OK) continue;
            check_segments(&layout);
            assert_int_equal(layout.scored_count, 2 * count);
        }
        failed = allocations_left < 0;
        assert_int_equal(status, failed ? STATUS_FAILED : STATUS_OK);
        assert_true(failed || failing > 10); // allocations did fail
        batch_plan_free(&plan);
        micro_batch_free(&layout);
        error_clear();
    }
    allocations_left = -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),    cmocka_unit_test(test_pairs_by_hand), cmocka_unit_test(test_layout),
        cmocka_unit_test(test_exact_trie), cmocka_unit_test(test_plan),          cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
