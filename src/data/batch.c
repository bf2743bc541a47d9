// The batch layout: planning rows onto ranks and micro-batches, and laying a micro-batch out as a segment forest.
// Everything here is integers; what the segments mean to attention stands in kernels/backend.h.
#include "src/data/batch.h"

#include <stdlib.h>
#include <string.h>

// A shared piece of prompts becomes a segment of its own when that saves at least this many tokens; below it the extra
// segment costs attention more than it saves.
#define SPLIT_SAVES_MIN 8

// --- the token trie -------------------------------------------------------------------------------------------------

static int32_t prefix_length(const BatchRow *row) {
    return row->prompt_length - 1; // the last prompt token opens each scored segment
}

static int32_t min32(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static int32_t common_prefix(const BatchRow *a, const BatchRow *b) {
    int32_t limit = min32(prefix_length(a), prefix_length(b)), i = 0;
    while (i < limit && a->prompt[i] == b->prompt[i]) i++;
    return i;
}

// One walk over the trie of rows[slot[0 .. count)] (in prompt order) serves counting and laying out: `segment` is
// called for every prefix segment, parents first, and `row` for every row with the segment its completions hang under.
typedef struct TrieWalk {
    const BatchRow *rows;
    const int32_t *slot;
    const int32_t *shared; // [count] shared[i] = common prefix of rows i-1 and i; NULL: share nothing
    int64_t prefix_tokens;
    MicroBatch *out; // NULL: count only
    int32_t *leaf;   // [count] the prefix segment of each row, -1 if none; with out
} TrieWalk;

static int32_t add_segment(TrieWalk *walk, int32_t row, int32_t from, int32_t to, int32_t parent) {
    if (to == from) return parent;
    int32_t first = (int32_t)walk->prefix_tokens;
    walk->prefix_tokens += to - from;
    MicroBatch *out = walk->out;
    if (out == NULL) return -1;
    const BatchRow *source = &walk->rows[walk->slot[row]];
    for (int32_t i = from; i < to; i++) {
        out->token[first + i - from] = source->prompt[i];
        out->position[first + i - from] = i;
        out->owner[first + i - from] = source->owner == NULL ? -1 : source->owner[i];
    }
    out->segment[out->segment_count] = (Segment){first, to - from, from, parent};
    return out->segment_count++;
}

// Rows [begin, end) agree on tokens [0, depth), which stand in segment `parent` and above.
static void walk_range(TrieWalk *walk, int32_t begin, int32_t end, int32_t depth, int32_t parent) {
    while (true) {
        const int32_t last_length = prefix_length(&walk->rows[walk->slot[end - 1]]);
        int32_t common = last_length, parts = 1;
        for (int32_t i = begin + 1; i < end; i++) {
            if (walk->shared[i] < common) {
                common = walk->shared[i];
                parts = 1;
            }
            parts += walk->shared[i] == common;
        }
        // In prompt order the last row is the longest of those that agree, so this says that all are equal.
        if (common == last_length) {
            int32_t leaf = add_segment(walk, begin, depth, common, parent);
            if (walk->out != NULL)
                for (int32_t i = begin; i < end; i++) walk->leaf[i] = leaf;
            return;
        }
        if ((int64_t)(parts - 1) * (common - depth) >= SPLIT_SAVES_MIN) {
            parent = add_segment(walk, begin, depth, common, parent);
            depth = common;
        }
        for (int32_t i = begin + 1; i < end; i++) {
            if (walk->shared[i] != common) continue;
            walk_range(walk, begin, i, depth, parent);
            begin = i;
        }
    }
}

static bool has_role(unsigned roles, Role role) {
    return (roles & 1u << role) != 0;
}

// Rows without a completion in `roles` are left out: `kept` gets the others.
static int32_t keep_rows(const BatchRow *rows, const int32_t *slot, int32_t count, unsigned roles, int32_t *kept) {
    int32_t n = 0;
    for (int32_t i = 0; i < count; i++) {
        const BatchRow *row = &rows[slot[i]];
        bool wanted = false;
        for (int32_t c = 0; c < row->completion_count; c++) wanted |= has_role(roles, row->completion[c].role);
        if (wanted) kept[n++] = slot[i];
    }
    return n;
}

static void walk_rows(TrieWalk *walk, int32_t count, bool share, int32_t *shared) {
    if (count == 0) return;
    if (!share) {
        walk->shared = shared;
        for (int32_t i = 0; i < count; i++) walk_range(walk, i, i + 1, 0, -1);
        return;
    }
    for (int32_t i = 1; i < count; i++)
        shared[i] = common_prefix(&walk->rows[walk->slot[i - 1]], &walk->rows[walk->slot[i]]);
    walk->shared = shared;
    walk_range(walk, 0, count, 0, -1);
}

TokenCount batch_count(const BatchRow *rows, const int32_t *slot, int32_t count, unsigned roles, bool share,
                       int32_t *scratch) {
    TokenCount tokens = {0};
    TrieWalk walk = {.rows = rows, .slot = scratch};
    int32_t kept = keep_rows(rows, slot, count, roles, scratch);
    walk_rows(&walk, kept, share, scratch + kept);
    tokens.prefix = walk.prefix_tokens;
    for (int32_t i = 0; i < kept; i++) {
        const BatchRow *row = &rows[scratch[i]];
        for (int32_t c = 0; c < row->completion_count; c++) {
            if (!has_role(roles, row->completion[c].role)) continue;
            *(row->completion[c].role == ROLE_KL ? &tokens.kl : &tokens.policy) += row->completion[c].length;
        }
    }
    return tokens;
}

// --- the plan -------------------------------------------------------------------------------------------------------

static int compare_prompts(const void *a, const void *b, void *rows_) {
    const BatchRow *rows = rows_;
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    int32_t common = common_prefix(&rows[i], &rows[j]);
    int32_t left = prefix_length(&rows[i]), right = prefix_length(&rows[j]);
    if (common < left && common < right) return rows[i].prompt[common] < rows[j].prompt[common] ? -1 : 1;
    if (left != right) return left < right ? -1 : 1;
    return i < j ? -1 : i > j; // equal prefixes keep the order of the batch
}

// What a row adds to the cost of a range in prompt order: a token with gradient is computed forward and backward, one
// of y' forward only. `saved` tokens of its prefix are the ones the row before it already has.
static int64_t row_cost(const BatchRow *row, int32_t saved) {
    int64_t cost = 2 * (int64_t)(prefix_length(row) - saved);
    for (int32_t c = 0; c < row->completion_count; c++)
        cost += (row->completion[c].role == ROLE_KL ? 1 : 2) * (int64_t)row->completion[c].length;
    return cost;
}

// Fills ranges greedily up to `limit` each; returns whether `ranks` ranges suffice.
static bool cut_ranges(const BatchRow *rows, const int32_t *slot, const int32_t *shared, int32_t count, int32_t ranks,
                       int64_t limit, int32_t *first) {
    int32_t rank = 0;
    int64_t cost = 0;
    first[0] = 0;
    for (int32_t i = 0; i < count; i++) {
        int64_t alone = row_cost(&rows[slot[i]], 0), joined = row_cost(&rows[slot[i]], shared[i]);
        if (i > first[rank] && cost + joined > limit) {
            if (++rank == ranks) return false;
            first[rank] = i;
        }
        cost = i == first[rank] ? alone : cost + joined;
        if (cost > limit) return false;
    }
    while (++rank <= ranks) first[rank] = count;
    return true;
}

static void balance(const BatchRow *rows, const int32_t *slot, const int32_t *shared, int32_t count, int32_t ranks,
                    int32_t *first) {
    int64_t low = 0, high = 0;
    for (int32_t i = 0; i < count; i++) high += row_cost(&rows[slot[i]], 0);
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (cut_ranges(rows, slot, shared, count, ranks, middle, first))
            high = middle;
        else
            low = middle + 1;
    }
    cut_ranges(rows, slot, shared, count, ranks, low, first);
}

// The end of the longest micro-batch that starts at slot[begin]: rows are added while the laid out tokens fit.
static int32_t micro_end(const BatchRow *rows, const BatchPlan *plan, int32_t begin, int32_t end,
                         const BatchOptions *options) {
    if (options->micro_batch_tokens == 0) return end;
    int32_t fits = begin + 1, fails = end + 1; // tokens grow with the rows but for a late split
    while (fails - fits > 1) {
        int32_t middle = fits + (fails - fits) / 2;
        const TokenCount tokens =
            batch_count(rows, plan->slot + begin, middle - begin, ROLES_ALL, options->share, plan->scratch);
        if (tokens.prefix + tokens.policy + tokens.kl <= options->micro_batch_tokens)
            fits = middle;
        else
            fails = middle;
    }
    return fits;
}

static int32_t count_micro_batches(const BatchRow *rows, const BatchOptions *options, const BatchPlan *plan,
                                   int32_t rank, int32_t *first) {
    int32_t n = 0;
    for (int32_t i = plan->rank_first[rank]; i < plan->rank_first[rank + 1]; n++) {
        if (first != NULL) first[n] = i;
        i = micro_end(rows, plan, i, plan->rank_first[rank + 1], options);
    }
    if (first != NULL) first[n] = plan->rank_first[rank + 1];
    return n;
}

TokenCount batch_computed(const BatchRow *rows, const BatchPlan *plan, const BatchOptions *options) {
    TokenCount sum = {0};
    for (int32_t rank = 0; rank < plan->ranks; rank++)
        for (int32_t i = plan->rank_first[rank], end; i < plan->rank_first[rank + 1]; i = end) {
            end = micro_end(rows, plan, i, plan->rank_first[rank + 1], options);
            TokenCount tokens = batch_count(rows, plan->slot + i, end - i, ROLES_ALL, options->share, plan->scratch);
            sum.prefix += tokens.prefix * (plan->two_pass ? 2 : 1);
            sum.policy += tokens.policy;
            sum.kl += tokens.kl;
        }
    return sum;
}

static Status resize(int32_t **v, size_t count) {
    int32_t *grown = realloc(*v, count * sizeof **v);
    if (grown == NULL) return error_set(STATUS_FAILED, "the plan of a batch: cannot allocate %zu entries", count);
    *v = grown;
    return STATUS_OK;
}

Status batch_plan(const BatchRow *rows, int32_t count, const BatchOptions *options, BatchPlan *plan) {
    TRY(resize(&plan->slot, (size_t)count + 1));
    TRY(resize(&plan->rank_first, (size_t)options->ranks + 1));
    TRY(resize(&plan->micro_first, (size_t)count + 1));
    TRY(resize(&plan->scratch, 2 * ((size_t)count + 1)));
    int32_t *shared = plan->scratch; // until the micro-batches are cut
    plan->count = count;
    plan->ranks = options->ranks;
    bool kl = false;
    for (int32_t i = 0; i < count; i++) {
        plan->slot[i] = i;
        for (int32_t c = 0; c < rows[i].completion_count; c++) kl |= rows[i].completion[c].role == ROLE_KL;
    }
    qsort_r(plan->slot, (size_t)count, sizeof *plan->slot, compare_prompts, (void *)rows);
    shared[0] = 0;
    for (int32_t i = 1; i < count; i++)
        shared[i] = options->share ? common_prefix(&rows[plan->slot[i - 1]], &rows[plan->slot[i]]) : 0;
    balance(rows, plan->slot, shared, count, options->ranks, plan->rank_first);
    bool several = false;
    for (int32_t rank = 0; rank < options->ranks && !several; rank++)
        several = micro_end(rows, plan, plan->rank_first[rank], plan->rank_first[rank + 1], options) <
                  plan->rank_first[rank + 1];
    plan->two_pass = several && kl;
    plan->micro_count = count_micro_batches(rows, options, plan, options->rank, plan->micro_first);
    return STATUS_OK;
}

void batch_plan_free(BatchPlan *plan) {
    free(plan->slot);
    free(plan->rank_first);
    free(plan->micro_first);
    free(plan->scratch);
    *plan = (BatchPlan){0};
}

// --- the layout -----------------------------------------------------------------------------------------------------

static Status reserve(MicroBatch *batch, int64_t tokens, int32_t segments, int32_t scored) {
    if (tokens > INT32_MAX)
        return error_set(STATUS_USAGE, "a micro-batch of %lld tokens is too large; set train.micro_batch_tokens",
                         (long long)tokens);
    if (tokens > batch->capacity[0]) {
        TRY(resize(&batch->token, (size_t)tokens));
        TRY(resize(&batch->position, (size_t)tokens));
        TRY(resize(&batch->owner, (size_t)tokens));
        TRY(resize(&batch->target, (size_t)tokens));
        batch->capacity[0] = (int32_t)tokens;
    }
    const size_t segment_words = sizeof(Segment) / sizeof(int32_t), scored_words = sizeof(Scored) / sizeof(int32_t);
    if (segments > batch->capacity[1]) {
        TRY(resize((int32_t **)&batch->segment, segment_words * (size_t)segments));
        batch->capacity[1] = segments;
    }
    if (scored > batch->capacity[2]) {
        TRY(resize((int32_t **)&batch->scored, scored_words * (size_t)scored));
        batch->capacity[2] = scored;
    }
    return STATUS_OK;
}

// Appends completion c of rows[slot] under prefix segment `parent`.
static void add_scored(MicroBatch *out, const BatchRow *rows, int32_t slot, int32_t c, int32_t parent) {
    const BatchRow *row = &rows[slot];
    const Completion *completion = &row->completion[c];
    const int32_t owner = completion->role == ROLE_POLICY     ? row->row
                          : completion->role == ROLE_REJECTED ? row->rejected_row
                                                              : -1;
    int32_t first = out->n_total;
    for (int32_t i = 0; i < completion->length; i++) {
        out->token[first + i] = i == 0 ? row->prompt[row->prompt_length - 1] : completion->tokens[i - 1];
        out->position[first + i] = row->prompt_length - 1 + i;
        out->owner[first + i] = owner;
        out->target[first + i - out->n_prefix] = completion->tokens[i];
    }
    out->segment[out->segment_count++] = (Segment){first, completion->length, row->prompt_length - 1, parent};
    out->scored[out->scored_count++] = (Scored){slot, c, first - out->n_prefix, completion->length};
    out->n_total += completion->length;
}

Status batch_layout(const BatchRow *rows, const int32_t *slot, int32_t count, unsigned roles, bool share,
                    MicroBatch *out) {
    int32_t *scratch = NULL;
    TRY(resize(&scratch, 3 * ((size_t)count + 1)));
    TokenCount tokens = batch_count(rows, slot, count, roles, share, scratch);
    // A trie of `count` strings has fewer than 2 * count nodes.
    Status status = reserve(out, tokens.prefix + tokens.policy + tokens.kl, (2 + BATCH_COMPLETIONS_MAX) * count + 1,
                            BATCH_COMPLETIONS_MAX * count + 1);
    if (status != STATUS_OK) {
        free(scratch);
        return status;
    }
    out->segment_count = out->scored_count = 0;
    int32_t kept = keep_rows(rows, slot, count, roles, scratch);
    TrieWalk walk = {.rows = rows, .slot = scratch, .out = out, .leaf = scratch + 2 * (count + 1)};
    walk_rows(&walk, kept, share, scratch + count + 1);
    out->n_prefix = out->n_total = (int32_t)walk.prefix_tokens;
    out->prefix_segments = out->segment_count;
    for (Role role = ROLE_POLICY; role <= ROLE_KL; role++) {
        for (int32_t i = 0; i < kept; i++)
            for (int32_t c = 0; c < rows[scratch[i]].completion_count; c++)
                if (rows[scratch[i]].completion[c].role == role && has_role(roles, role))
                    add_scored(out, rows, scratch[i], c, walk.leaf[i]);
        if (role == ROLE_REJECTED) { // the last with gradient
            out->n_grad = out->n_total;
            out->grad_segments = out->segment_count;
            out->scored_grad = out->scored_count;
        }
    }
    free(scratch);
    return STATUS_OK;
}

void micro_batch_free(MicroBatch *batch) {
    free(batch->token);
    free(batch->position);
    free(batch->owner);
    free(batch->target);
    free(batch->segment);
    free(batch->scored);
    *batch = (MicroBatch){0};
}
