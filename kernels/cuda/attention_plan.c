// Plans of attention (attention.h), made on the host: tables that the kernels read, cut from one piece of memory. It
// knows no device and allocates nothing; attention.c keeps the plans.
//
// Whatever a sum's order depends on (where tiles, blocks of keys and parts begin) follows from a segment's own chain
// and descendants, never from what else is in the batch. The order in which blocks of threads start does not touch the
// sums: the longest go first, so that none is left over at the end.
#include "kernels/cuda/attention.h"
#include <string.h>

enum {
    PART_KEYS = 64,   // a segment's visits are cut into parts of PART_VISITS for each so many of its keys: its many
    PART_VISITS = 16, // blocks fill the device without parts where it is long
    PART_VISITS_MAX = 1024,
    LEAST_BLOCKS = 8,     // blocks of threads a multiprocessor, from which on large tiles are faster than small ones
    LEAST_KEY_BLOCKS = 2, // the same of dk and dv,
    PADDING_MAX = 5,      // whose blocks may hold at most 5/4 as many rows as the smaller ones
    CHAIN = 3,            // segments of a chain that attention_plan_room thinks of
    RANKS = 64,           // of lengths, where the longest go first
};

// By segment, but for `covered`.
typedef struct Work {
    int32_t *start; // position of its first token in its sequence
    int32_t *depth; // segments in its chain, itself included
    int32_t *link;  // where its chain's links begin; -1: no query needs them
    int32_t *own;   // visits by its own queries
    int32_t *all;   // and by its descendants' too
    int32_t *first; // where its visits begin
    int32_t *share; // slots of partial sums, times their keys, that it may have
    int32_t *written_own, *written_other;
    unsigned char *covered; // by key row: some block of keys writes it
} Work;
enum { WORK_FIELDS = 9 };

static Work work_in(void *space, int64_t segments) {
    int32_t *at = space;
    Work w;
    int32_t **fields[WORK_FIELDS] = {&w.start, &w.depth, &w.link,        &w.own,          &w.all,
                                     &w.first, &w.share, &w.written_own, &w.written_other};
    for (int i = 0; i < WORK_FIELDS; i++, at += segments) *fields[i] = at;
    w.covered = (unsigned char *)at;
    return w;
}

size_t attention_plan_space(int64_t segments, int64_t key_rows) {
    return (size_t)segments * WORK_FIELDS * sizeof(int32_t) + (size_t)key_rows;
}

static int32_t ceil_div(int32_t a, int32_t b) {
    return (a + b - 1) / b;
}

static int32_t group_of(const Attention *a) {
    return a->heads / a->kv_heads;
}

// --- choosing instances ---

static int64_t tiles_of(const Attention *a, int32_t tile_rows) {
    int64_t tiles = 0;
    for (int32_t i = 0; i < a->query_count; i++) tiles += ceil_div(a->queries[i].length, tile_rows / group_of(a));
    return tiles;
}

// Blocks of keys that somebody sees a part of.
static int64_t key_blocks_of(const Attention *a, const Work *w, int32_t block_keys) {
    int64_t blocks = 0;
    for (int32_t s = 0; s < a->segment_count; s++)
        if (w->all[s] > 0) blocks += ceil_div(a->segments[s].length, block_keys);
    return blocks;
}

// The instances for the narrowest width that holds head_dim.
static AttentionInstances of_width(const AttentionInstances *all, int32_t head_dim) {
    AttentionInstances found = *all;
    while (found.instance->head_dim < head_dim) found.instance++, found.count--;
    int32_t count = 1;
    while (count < found.count && found.instance[count].head_dim == found.instance->head_dim) count++;
    found.count = count;
    return found;
}

// The largest tiles of which there are enough; the smallest where there are few.
static const AttentionInstance *choose_tiles(const AttentionInstances *all, const Attention *a,
                                             int32_t multiprocessors) {
    const AttentionInstances of = of_width(all, a->head_dim);
    const AttentionInstance *last = of.instance + of.count - 1, *chosen = of.instance;
    while (chosen < last && tiles_of(a, chosen->rows) * a->kv_heads < (int64_t)LEAST_BLOCKS * multiprocessors) chosen++;
    return chosen;
}

static const AttentionInstance *choose_keys(const AttentionInstances *all, const Attention *a, const Work *w,
                                            int32_t multiprocessors) {
    const AttentionInstances of = of_width(all, a->head_dim);
    const AttentionInstance *last = of.instance + of.count - 1, *chosen = of.instance;
    const int64_t least_rows = key_blocks_of(a, w, last->keys) * last->keys;
    for (; chosen < last; chosen++) {
        const int64_t blocks = key_blocks_of(a, w, chosen->keys);
        if (blocks * a->kv_heads >= (int64_t)LEAST_KEY_BLOCKS * multiprocessors &&
            blocks * chosen->keys * (PADDING_MAX - 1) <= least_rows * PADDING_MAX)
            break;
    }
    return chosen;
}

// --- counting ---

static void count_chains(const Attention *a, Work *w) {
    for (int32_t s = 0; s < a->segment_count; s++) {
        const int32_t parent = a->segments[s].parent;
        w->start[s] = parent < 0 ? 0 : w->start[parent] + a->segments[parent].length;
        w->depth[s] = parent < 0 ? 1 : w->depth[parent] + 1;
        w->link[s] = -1;
    }
}

// A query token gives each of its chain's segments 2 / depth of a slot's key, so that all slots together have at most
// two for each token, and a segment's share depends on its descendants alone.
static void count_visits(const Attention *a, int32_t visit_tokens, Work *w) {
    for (int32_t i = 0; i < a->query_count; i++) {
        const QueryRange *range = &a->queries[i];
        const int32_t visits = ceil_div(range->length, visit_tokens);
        const int32_t share = (int32_t)((int64_t)2 * range->length / w->depth[range->segment]);
        w->own[range->segment] += visits;
        for (int32_t s = range->segment; s >= 0; s = a->segments[s].parent) {
            w->all[s] += visits;
            w->share[s] += share;
        }
    }
}

int64_t attention_plan_slot_keys(int64_t tokens) {
    return 2 * tokens;
}

// Parts begin at multiples of so many visits of a segment: more, until their slots fit its share.
static int32_t part_visits(const Attention *a, const Work *w, int32_t s, int32_t block_keys) {
    const int32_t length = a->segments[s].length;
    const int64_t wanted = (int64_t)PART_VISITS * ceil_div(length, PART_KEYS);
    int32_t visits = wanted < PART_VISITS_MAX ? (int32_t)wanted : PART_VISITS_MAX;
    const int64_t keys = (int64_t)ceil_div(length, block_keys) * block_keys;
    while (visits < w->all[s] && ceil_div(w->all[s], visits) * keys > w->share[s]) visits *= 2;
    return visits;
}

static void count_keys(const AttentionShape *shape, const Work *w, AttentionDraft *draft) {
    const Attention *a = &shape->attention;
    const int32_t block_keys = draft->key_gradient->keys;
    for (int32_t s = 0; s < a->segment_count; s++) {
        w->first[s] = (int32_t)draft->visits;
        draft->visits += w->all[s];
        if (w->all[s] == 0) continue;
        const int32_t blocks = ceil_div(a->segments[s].length, block_keys);
        const int32_t visits = part_visits(a, w, s, block_keys);
        draft->keys += (int64_t)blocks * ceil_div(w->all[s], visits);
        draft->sums += blocks;
        const int32_t longest = visits < w->all[s] ? visits : w->all[s];
        draft->longest_keys = longest > draft->longest_keys ? longest : draft->longest_keys;
    }
    // Rows that nothing reaches: before, between and behind segments, and whole segments.
    draft->sums += shape->key_rows / block_keys + a->segment_count + 1;
}

// The tables' places behind `base` (NULL: counts only); returns their bytes.
static size_t cut_tables(const AttentionDraft *draft, char *base, AttentionPlan *out) {
    size_t at = 0;
#define CUT(field, type)                                                                                               \
    do {                                                                                                               \
        out->field = (const type *)(base + at);                                                                        \
        at += ((size_t)draft->field * sizeof(type) + 15) / 16 * 16;                                                    \
    } while (0)
    CUT(links, AttentionLink);
    CUT(tiles, AttentionTile);
    CUT(visits, AttentionVisit);
    CUT(keys, AttentionKeys);
    CUT(sums, AttentionSum);
#undef CUT
    return at;
}

size_t attention_plan_room(int64_t tokens) {
    // A token is a segment with a tile and as many links and visits as its chain has segments, each of which is cut
    // into at most as many parts as it has visits; two sums a segment, and those of rows that nothing reaches.
    const size_t token = sizeof(AttentionTile) + CHAIN * (sizeof(AttentionLink) + sizeof(AttentionVisit)) +
                         CHAIN * sizeof(AttentionKeys) / PART_VISITS + sizeof(AttentionKeys) + 3 * sizeof(AttentionSum);
    return (size_t)tokens * token;
}

void attention_plan_draft(const AttentionShape *shape, const AttentionKernels *kernels, int32_t multiprocessors,
                          void *space, AttentionDraft *draft) {
    const Attention *a = &shape->attention;
    Work w = work_in(space, a->segment_count);
    memset(space, 0, attention_plan_space(a->segment_count, shape->key_rows));
    *draft = (AttentionDraft){.kernels = kernels};
    count_chains(a, &w);
    for (int32_t i = 0; i < a->query_count; i++) {
        const QueryRange *range = &a->queries[i];
        if (range->length == 0) continue;
        const int32_t s = range->segment, end = w.start[s] + range->offset + range->length;
        const int32_t longest = ceil_div(end, kernels->key_block);
        draft->longest_tile = longest > draft->longest_tile ? longest : draft->longest_tile;
        if (w.link[s] >= 0) continue;
        w.link[s] = (int32_t)draft->links;
        draft->links += w.depth[s];
    }
    const AttentionInstance *tiled;
    if (shape->backward) {
        count_visits(a, kernels->visit_rows / group_of(a), &w);
        tiled = draft->query_gradient = choose_tiles(&kernels->query_gradient, a, multiprocessors);
        draft->key_gradient = choose_keys(&kernels->key_gradient, a, &w, multiprocessors);
        count_keys(shape, &w, draft);
    } else {
        tiled = draft->forward = choose_tiles(&kernels->forward, a, multiprocessors);
    }
    draft->tiles = tiles_of(a, tiled->rows);
    draft->bytes = cut_tables(draft, NULL, &(AttentionPlan){0});
}

// --- filling ---

// Places by falling cost, in RANKS steps; equal ranks in their order. First every cost is counted, then placed.
typedef struct Order {
    int32_t place[RANKS + 1], most;
} Order;

static int32_t rank_of(const Order *order, int32_t cost) {
    return (int32_t)((int64_t)(order->most - cost) * (RANKS - 1) / order->most);
}
static void order_count(Order *order, int32_t cost) {
    order->place[rank_of(order, cost) + 1]++;
}
static void order_counted(Order *order) {
    for (int i = 0; i < RANKS; i++) order->place[i + 1] += order->place[i];
}
static int32_t order_place(Order *order, int32_t cost) {
    return order->place[rank_of(order, cost)]++;
}

static void fill_links(const Attention *a, const Work *w, AttentionLink *links) {
    for (int32_t s = 0; s < a->segment_count; s++) {
        if (w->link[s] < 0) continue;
        AttentionLink *link = links + w->link[s] + w->depth[s];
        for (int32_t up = s; up >= 0; up = a->segments[up].parent)
            *--link = (AttentionLink){w->start[up] + a->segments[up].length, a->segments[up].first - w->start[up]};
    }
}

static void fill_tiles(const Attention *a, const AttentionDraft *draft, int32_t tokens, const Work *w,
                       const AttentionLink *links, AttentionTile *tiles) {
    Order order = {.most = draft->longest_tile};
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t i = 0; i < a->query_count; i++) {
            const QueryRange *range = &a->queries[i];
            const int32_t link = w->link[range->segment];
            for (int32_t done = 0; done < range->length; done += tokens) {
                const int32_t left = range->length - done, count = left < tokens ? left : tokens;
                const int32_t position = w->start[range->segment] + range->offset + done;
                const int32_t cost = ceil_div(position + count, draft->kernels->key_block);
                if (pass == 0)
                    order_count(&order, cost);
                else
                    tiles[order_place(&order, cost)] =
                        (AttentionTile){range->row + done, count, position, link, links[link], {0, 0}};
            }
        }
        order_counted(&order);
    }
}

static void fill_visits(const Attention *a, int32_t tokens, const Work *w, AttentionVisit *visits) {
    for (int32_t i = 0; i < a->query_count; i++) {
        const QueryRange *range = &a->queries[i];
        for (int32_t done = 0; done < range->length; done += tokens) {
            const int32_t left = range->length - done;
            AttentionVisit visit = {range->row + done, left < tokens ? left : tokens, range->offset + done, 0};
            visits[w->first[range->segment] + w->written_own[range->segment]++] = visit;
            for (int32_t s = a->segments[range->segment].parent; s >= 0; s = a->segments[s].parent) {
                visit.offset = a->segments[s].length; // sees all
                visits[w->first[s] + w->own[s] + w->written_other[s]++] = visit;
            }
        }
    }
}

// What is filled of keys and sums: once to count costs, then for good.
typedef struct Filled {
    AttentionKeys *keys;
    AttentionSum *sums;
    int32_t key_count, sum_count, slots;
    Order order;
    int pass;
} Filled;

// One block of keys in its parts; `first` and `end` bound the segment's visits, before `begin` none sees the block.
static void fill_block(AttentionKeys block, int32_t first, int32_t begin, int32_t end, int32_t per_part, Filled *f) {
    const int32_t parts = ceil_div(end - first, per_part) - (begin - first) / per_part;
    if (parts > 1 && f->pass == 1) f->sums[f->sum_count++] = (AttentionSum){block.row, block.count, f->slots, parts};
    for (block.begin = begin; block.begin < end; block.begin = block.end) {
        const int32_t stop = first + ((block.begin - first) / per_part + 1) * per_part;
        block.end = stop < end ? stop : end;
        if (f->pass == 0) {
            order_count(&f->order, block.end - block.begin);
            continue;
        }
        block.slot = parts > 1 ? f->slots++ : -1;
        f->keys[order_place(&f->order, block.end - block.begin)] = block;
        f->key_count++;
    }
}

static void fill_keys(const Attention *a, int32_t block_keys, const Work *w, const AttentionVisit *visits, Filled *f) {
    for (int32_t s = 0; s < a->segment_count; s++) {
        if (w->all[s] == 0) continue;
        const Segment *segment = &a->segments[s];
        const int32_t first = w->first[s], own_end = first + w->own[s], end = first + w->all[s];
        const int32_t per_part = part_visits(a, w, s, block_keys);
        int32_t begin = first;
        for (int32_t start = 0; start < segment->length; start += block_keys) {
            while (begin < own_end && visits[begin].offset + visits[begin].tokens <= start) begin++; // all before
            if (begin == end) break; // nobody sees these keys, nor those behind
            const int32_t left = segment->length - start, count = left < block_keys ? left : block_keys;
            fill_block((AttentionKeys){.row = segment->first + start, .start = start, .count = count}, first, begin,
                       end, per_part, f);
            memset(w->covered + segment->first + start, 1, (size_t)count);
        }
    }
    order_counted(&f->order);
}

// Sums without parts, for the rows that no block of keys writes.
static void fill_unreached(int32_t key_rows, int32_t block_keys, const Work *w, Filled *f) {
    for (int32_t row = 0, end; row < key_rows; row = end) {
        for (end = row; end < key_rows && end - row < block_keys && !w->covered[end];) end++;
        if (end == row)
            end++;
        else
            f->sums[f->sum_count++] = (AttentionSum){row, end - row, 0, 0};
    }
}

void attention_plan_fill(const AttentionShape *shape, const AttentionDraft *draft, void *space, char *host,
                         char *device, AttentionPlan *plan) {
    const Attention *a = &shape->attention;
    const int32_t group = group_of(a);
    const Work w = work_in(space, a->segment_count);
    *plan = (AttentionPlan){.tile_count = (int32_t)draft->tiles,
                            .heads = a->heads,
                            .kv_heads = a->kv_heads,
                            .head_dim = a->head_dim,
                            .group = group,
                            .group_inverse = ((1 << 16) + group - 1) / group,
                            .scale = a->scale,
                            .scale_base_2 = a->scale * 1.44269504f};
    cut_tables(draft, host, plan); // the kernels do not write them: the plan holds them as const, this file fills them
    fill_links(a, &w, (AttentionLink *)plan->links);
    const AttentionInstance *tiled = shape->backward ? draft->query_gradient : draft->forward;
    fill_tiles(a, draft, tiled->rows / group, &w, plan->links, (AttentionTile *)plan->tiles);
    if (shape->backward) {
        Filled f = {.keys = (AttentionKeys *)plan->keys,
                    .sums = (AttentionSum *)plan->sums,
                    .order = {.most = draft->longest_keys}};
        fill_visits(a, draft->kernels->visit_rows / group, &w, (AttentionVisit *)plan->visits);
        for (f.pass = 0; f.pass < 2; f.pass++) fill_keys(a, draft->key_gradient->keys, &w, plan->visits, &f);
        fill_unreached(shape->key_rows, draft->key_gradient->keys, &w, &f);
        plan->key_count = f.key_count;
        plan->sum_count = f.sum_count;
    }
    cut_tables(draft, device, plan);
}
