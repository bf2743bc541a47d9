// Attention over segment forests for tensor cores of sm_80 and later, bf16, in the manner of FlashAttention-2 (arXiv
// 2307.08691): scores and probabilities never leave registers, the softmax is kept online and in base 2, keys and
// values (or query rows) are copied to shared memory one block ahead of their use. Sums are fp32; p and ds are rounded
// to bf16 for their second products.
//
// A warp owns 16 M rows of the sums, all of their columns and nothing of other warps, so that the only barrier is the
// one that hands over a block of shared memory. A row's sums run over its sequence from position 0, block by block;
// what it may not see adds exact zeros. So its bits depend neither on the rows that share its tile nor on packing, nor
// on how the sequence is cut into segments. No atomics: dk and dv are summed per block of keys over visits in order, in
// one or more parts that sum_parts adds in order.
#include "kernels/cuda/attention.cuh"

typedef __nv_bfloat16 bf16;

enum {
    STEP = 16, // rows and depth of one matrix instruction
    KEY_BLOCK = 64,
    VISIT_ROWS = 64,
};

static constexpr float LOG2_E = 1.44269504f;

static __device__ inline int lane_id() {
    return (int)(threadIdx.x % WARP);
}
static __device__ inline int warp_id() {
    return (int)(threadIdx.x / WARP);
}
// A lane's place in the fragments of tensor.cuh.
static __device__ inline int fragment_row() {
    return lane_id() / 4;
}
static __device__ inline int fragment_column() {
    return lane_id() % 4 * 2;
}

// Sum and maximum over the four lanes that hold a row, the same on each.
static __device__ inline float row_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}
static __device__ inline float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

// --- matrices in shared memory ---

// ROWS x HD values in chunks of 8 (16 bytes). Chunks of a row change places by the row's number, so that the same chunk
// of 8 rows lies in 8 different banks.
template <int ROWS, int HD> struct Matrix {
    static constexpr int CHUNKS = HD / 8;
    static constexpr int ROWS_OF_BANKS = CHUNKS < 8 ? 8 / CHUNKS : 1, PLACES = CHUNKS < 8 ? CHUNKS : 8;
    uint4 chunks[ROWS * CHUNKS];
    static __device__ int place(int row, int c) {
        return row * CHUNKS + (c ^ row / ROWS_OF_BANKS % PLACES);
    }
    __device__ uint4 *chunk(int row, int c) {
        return &chunks[place(row, c)];
    }
    // Where this lane points for load_matrices, to get of the rows `first`.. (a multiple of 16) and the columns 16 k..:
    // a left operand; or, loaded transposed, two right operands whose rows are the rows stored here;
    __device__ const void *left(int first, int k) {
        return &chunks[first * CHUNKS + (place(lane_id() % 16, lane_id() / 16) ^ 2 * k)];
    }
    // two right operands b[0..1], b[2..3] whose columns are the rows stored here.
    __device__ const void *right(int first, int k) {
        return &chunks[first * CHUNKS + (place(lane_id() % 8 + lane_id() / 16 * 8, lane_id() / 8 % 2) ^ 2 * k)];
    }
};

// Calls f(row, chunk) for all chunks of a matrix, each by one of THREADS threads, of which this is number `thread`:
// always the same chunk, and rows THREADS / CHUNKS apart.
template <int THREADS, int ROWS, int HD, typename F> static __device__ inline void each_chunk(unsigned thread, F f) {
    constexpr int CHUNKS = HD / 8, STRIDE = THREADS / CHUNKS;
    const int row = (int)(thread / CHUNKS), chunk = (int)(thread % CHUNKS); // unsigned: shifts and masks
#pragma unroll
    for (int first = 0; first < ROWS; first += STRIDE)
        if (ROWS % STRIDE == 0 || first + row < ROWS) f(first + row, chunk);
}

template <int M, int N> static __device__ inline void clear(float (&sum)[M][N][4]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++) sum[m][n][0] = sum[m][n][1] = sum[m][n][2] = sum[m][n][3] = 0;
}

// sum[16 M rows, N columns] = left right^T of the rows `left_row`.. of left and `right_row`.. of right.
template <int M, int N, int HD, int LEFT_ROWS, int RIGHT_ROWS>
static __device__ inline void product_of_rows(Matrix<LEFT_ROWS, HD> &left, int left_row, Matrix<RIGHT_ROWS, HD> &right,
                                              int right_row, float (&sum)[M][N / 8][4]) {
    clear(sum);
#pragma unroll
    for (int k = 0; k < HD / STEP; k++) {
        uint32_t a[M][4], b[4];
#pragma unroll
        for (int m = 0; m < M; m++) load_matrices(a[m], left.left(left_row + m * STEP, k));
#pragma unroll
        for (int n = 0; n < N / STEP; n++) {
            load_matrices(b, right.right(right_row + n * STEP, k));
#pragma unroll
            for (int m = 0; m < M; m++) {
                multiply_add(sum[m][2 * n], a[m], b[0], b[1]);
                multiply_add(sum[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// sum[16 M rows, HD] += left right, where left[16 M rows, K] is a sum of tensor.cuh rounded to bf16 and right the rows
// `first`.. of a matrix.
template <int M, int K, int HD, int ROWS>
static __device__ inline void add_product(const float (&left)[M][K / 8][4], Matrix<ROWS, HD> &right, int first,
                                          float (&sum)[M][HD / 8][4]) {
#pragma unroll
    for (int k = 0; k < K / STEP; k++) {
        uint32_t a[M][4], b[4];
#pragma unroll
        for (int m = 0; m < M; m++) {
            const float(&x)[4] = left[m][2 * k], (&y)[4] = left[m][2 * k + 1];
            a[m][0] = pack(x[0], x[1]);
            a[m][1] = pack(x[2], x[3]);
            a[m][2] = pack(y[0], y[1]);
            a[m][3] = pack(y[2], y[3]);
        }
#pragma unroll
        for (int n = 0; n < HD / STEP; n++) {
            load_matrices_transposed(b, right.left(first + k * STEP, n));
#pragma unroll
            for (int m = 0; m < M; m++) {
                multiply_add(sum[m][2 * n], a[m], b[0], b[1]);
                multiply_add(sum[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// Makes the scores -infinity whose hidden(row, column) holds; `first`: the warp's first row.
template <int M, int N, typename Hidden>
static __device__ inline void hide(float (&score)[M][N][4], int first, Hidden hidden) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (hidden(first + m * STEP + e / 2 * 8 + fragment_row(), n * 8 + fragment_column() + e % 2))
                    score[m][n][e] = -INFINITY;
}

// A warp's sums, times `factor` of their row, as bf16 to its rows `first`.. of a matrix.
template <int M, int HD, int ROWS, typename Factor>
static __device__ inline void put_rows(const float (&sum)[M][HD / 8][4], Factor factor, Matrix<ROWS, HD> &to,
                                       int first) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float f = factor(m, half);
            const int row = first + m * STEP + half * 8 + fragment_row();
#pragma unroll
            for (int n = 0; n < HD / 8; n++)
                reinterpret_cast<uint32_t *>(to.chunk(row, n))[fragment_column() / 2] =
                    pack(sum[m][n][2 * half] * f, sum[m][n][2 * half + 1] * f);
        }
}

// --- tiles ---

// Begins to copy a tile's rows; what is no row or beyond head_dim is zero. offset(m): of row m, as Rows says.
template <int THREADS, int ROWS, int HD, typename Offset>
static __device__ inline void load_rows(const AttentionPlan &plan, const Rows &rows, Offset offset, const bf16 *from,
                                        Matrix<ROWS, HD> &to) {
    const int column = (int)(threadIdx.x % (HD / 8)) * 8, count = column < plan.head_dim ? rows.count(plan) : 0;
    from += rows.base(plan) * plan.head_dim + column;
    each_chunk<THREADS, ROWS, HD>(
        threadIdx.x, [&](int m, int c) { copy_16(to.chunk(m, c), from + offset(m) * plan.head_dim, m < count); });
}

// A warp's rows `first`.. of a matrix, 16 M of them, to where the tile's rows lie in `to`.
template <int M, int ROWS, int HD>
static __device__ inline void store_rows(const AttentionPlan &plan, const Rows &rows, Matrix<ROWS, HD> &from, int first,
                                         bf16 *to) {
    to += rows.base(plan) * plan.head_dim;
    each_chunk<WARP, M * STEP, HD>((unsigned)lane_id(), [&](int row, int c) {
        const int m = first + row;
        if (m < rows.count(plan) && c * 8 < plan.head_dim)
            *reinterpret_cast<uint4 *>(to + rows.offset(plan, m) * plan.head_dim + c * 8) = *from.chunk(m, c);
    });
}

// Begins to copy keys and values of positions start.. before `end`; what is none or beyond head_dim is zero.
template <int THREADS, int BLOCK, int HD>
static __device__ inline void load_keys(const AttentionPlan &plan, KeyReader &reader, int32_t start, int32_t end,
                                        int32_t kv_head, const bf16 *k, const bf16 *v, Matrix<BLOCK, HD> &to_k,
                                        Matrix<BLOCK, HD> &to_v) {
    constexpr int CHUNKS = HD / 8;
    const int column = (int)(threadIdx.x % CHUNKS) * 8, stride = plan.kv_heads * plan.head_dim;
    reader.start_block(start);
    const bool whole = min(start + BLOCK, end) <= reader.now.end; // in one segment, as most blocks are
    if (column >= plan.head_dim) end = 0;
    int64_t at = kv_head * plan.head_dim + column;
    if (whole) {
        at += (int64_t)(start + reader.now.shift + (int)(threadIdx.x / CHUNKS)) * stride;
        each_chunk<THREADS, BLOCK, HD>(threadIdx.x, [&](int j, int c) {
            copy_16(to_k.chunk(j, c), k + at, start + j < end);
            copy_16(to_v.chunk(j, c), v + at, start + j < end);
            at += THREADS / CHUNKS * stride;
        });
    } else {
        each_chunk<THREADS, BLOCK, HD>(threadIdx.x, [&](int j, int c) {
            const bool valid = start + j < end;
            const int64_t row = valid ? (int64_t)reader.row(start + j) * stride : 0;
            copy_16(to_k.chunk(j, c), k + at + row, valid);
            copy_16(to_v.chunk(j, c), v + at + row, valid);
        });
    }
}

// --- forward ---

template <int HD, int ROWS> struct ForwardShared {
    Matrix<ROWS, HD> q;
    Matrix<KEY_BLOCK, HD> k[2], v[2];
};

// The softmax of one block of keys: p from scores, in base 2, and what came before scaled to the new maximum. A thread
// has a part of each row's total.
template <int M, int HD>
static __device__ inline void softmax_step(float (&p)[M][KEY_BLOCK / 8][4], float scale, float (&top)[M][2],
                                           float (&total)[M][2], float (&sum)[M][HD / 8][4]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float most = top[m][half];
#pragma unroll
            for (int n = 0; n < KEY_BLOCK / 8; n++) most = fmaxf(most, fmaxf(p[m][n][2 * half], p[m][n][2 * half + 1]));
            most = row_max(most);
            const float shrink = power_of_2((top[m][half] - most) * scale); // 0 at first
            const float base = most * scale;
            float added = 0;
#pragma unroll
            for (int n = 0; n < KEY_BLOCK / 8; n++)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    p[m][n][e] = power_of_2(fmaf(p[m][n][e], scale, -base));
                    added += p[m][n][e];
                }
            top[m][half] = most;
            total[m][half] = fmaf(total[m][half], shrink, added);
#pragma unroll
            for (int n = 0; n < HD / 8; n++) {
                sum[m][n][2 * half] *= shrink;
                sum[m][n][2 * half + 1] *= shrink;
            }
        }
}

template <int HD, int WARPS, int M, int BLOCKS>
KERNEL_BLOCKS(WARPS *WARP, BLOCKS)
forward(AttentionPlan plan, const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse) {
    constexpr int ROWS = WARPS * M * STEP, THREADS = WARPS * WARP;
    typedef ForwardShared<HD, ROWS> Shared;
    SHARED_BYTES(Shared, s);
    const AttentionTile tile = tile_of_block(plan);
    const int32_t kv_head = kv_head_of_block(plan), end = tile.position + tile.tokens;
    const int first = warp_id() * M * STEP; // of this warp's rows
    KeyReader reader(plan, tile);
    const Rows asked = rows_of_block(plan);
    const auto offset = [&](int m) { return asked.offset(plan, m); };
    load_rows<THREADS>(plan, asked, offset, q, s->q);
    load_keys<THREADS>(plan, reader, 0, end, kv_head, k, v, s->k[0], s->v[0]);
    copies_commit();

    float top[M][2], total[M][2], sum[M][HD / 8][4]; // of the rows this thread has a part of
    clear(sum);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            top[m][half] = -INFINITY;
            total[m][half] = 0;
        }
    for (int32_t start = 0, stage = 0; start < end; start += KEY_BLOCK, stage ^= 1) {
        copies_wait<0>();
        __syncthreads(); // this block is here, and all are done with the one before
        if (start + KEY_BLOCK < end)
            load_keys<THREADS>(plan, reader, start + KEY_BLOCK, end, kv_head, k, v, s->k[stage ^ 1], s->v[stage ^ 1]);
        copies_commit();
        float p[M][KEY_BLOCK / 8][4];
        product_of_rows<M, KEY_BLOCK>(s->q, first, s->k[stage], 0, p);
        if (start + KEY_BLOCK > tile.position + 1) // some row does not see all of the block
            hide(p, first, [&](int row, int key) { return row < (start + key - tile.position) * plan.group; });
        softmax_step<M, HD>(p, plan.scale_base_2, top, total, sum);
        add_product<M, KEY_BLOCK>(p, s->v[stage], 0, sum);
    }
    const Rows rows = rows_of_block(plan); // read again: the loop needs its registers
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = first + m * STEP + half * 8 + fragment_row();
            total[m][half] = row_sum(total[m][half]);
            if (lane_id() % 4 == 0 && row < rows.count(plan))
                lse[rows.base(plan) + rows.offset(plan, row)] = top[m][half] * plan.scale + logf(total[m][half]);
        }
    __syncwarp(); // all of the warp are done with its rows of q
    put_rows<M, HD>(
        sum, [&](int m, int half) { return 1.0f / total[m][half]; }, s->q, first);
    __syncwarp();
    store_rows<M>(plan, rows, s->q, first, out);
}

// --- backward ---

// What backward needs of a row: {lse in base 2, sum(dout * out)}.
typedef float2 Terms;

// Fills the terms of a tile's rows, in shared memory and for key_gradient. A row's lanes are neighbours.
template <int THREADS, int HD, int ROWS>
static __device__ inline void make_terms(const AttentionPlan &plan, const Rows &rows, const bf16 *out, const bf16 *dout,
                                         const float *lse, Terms *shared, Terms *terms) {
    constexpr int LANES = HD / 8; // of a row
#pragma unroll
    for (int first = 0; first < ROWS; first += THREADS / LANES) {
        const int m = first + (int)(threadIdx.x / LANES), c = (int)(threadIdx.x % LANES);
        if (ROWS % (THREADS / LANES) != 0 && m >= ROWS) break; // whole warps
        const bool valid = m < rows.count(plan);
        const int64_t row = rows.base(plan) + rows.offset(plan, m);
        float delta = 0;
        if (valid && c * 8 < plan.head_dim) {
            const int64_t at = row * plan.head_dim + c * 8;
            const uint4 x = *reinterpret_cast<const uint4 *>(out + at), y = *reinterpret_cast<const uint4 *>(dout + at);
            const uint32_t a[4] = {x.x, x.y, x.z, x.w}, b[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                delta = fmaf(__uint_as_float(a[i] << 16), __uint_as_float(b[i] << 16), delta);
                delta = fmaf(__uint_as_float(a[i] & 0xffff0000u), __uint_as_float(b[i] & 0xffff0000u), delta);
            }
        }
#pragma unroll
        for (int other = LANES / 2; other > 0; other /= 2) delta += __shfl_xor_sync(ALL_LANES, delta, other);
        if (c != 0) continue;
        const Terms of_row = {valid ? lse[row] * LOG2_E : 0.0f, delta};
        shared[m] = of_row;
        if (valid) terms[row] = of_row;
    }
}

template <int HD, int ROWS, int BLOCK> struct QueryShared {
    Matrix<ROWS, HD> q, dout;
    Matrix<BLOCK, HD> k[2], v[2];
    Terms terms[ROWS];
};

template <int HD, int WARPS, int M, int BLOCK, int BLOCKS>
KERNEL_BLOCKS(WARPS *WARP, BLOCKS)
query_gradient(AttentionPlan plan, const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *out, const float *lse,
               const bf16 *dout, bf16 *dq, Terms *terms) {
    constexpr int ROWS = WARPS * M * STEP, THREADS = WARPS * WARP;
    typedef QueryShared<HD, ROWS, BLOCK> Shared;
    SHARED_BYTES(Shared, s);
    const AttentionTile tile = tile_of_block(plan);
    const int32_t kv_head = kv_head_of_block(plan), end = tile.position + tile.tokens;
    const int first = warp_id() * M * STEP;
    KeyReader reader(plan, tile);
    const Rows asked = rows_of_block(plan);
    const auto offset = [&](int m) { return asked.offset(plan, m); };
    load_rows<THREADS>(plan, asked, offset, q, s->q);
    load_rows<THREADS>(plan, asked, offset, dout, s->dout);
    load_keys<THREADS>(plan, reader, 0, end, kv_head, k, v, s->k[0], s->v[0]);
    copies_commit();
    make_terms<THREADS, HD, ROWS>(plan, asked, out, dout, lse, s->terms, terms);

    float sum[M][HD / 8][4];
    clear(sum);
    for (int32_t start = 0, stage = 0; start < end; start += BLOCK, stage ^= 1) {
        copies_wait<0>();
        __syncthreads(); // this block is here, and all are done with the one before
        if (start + BLOCK < end)
            load_keys<THREADS>(plan, reader, start + BLOCK, end, kv_head, k, v, s->k[stage ^ 1], s->v[stage ^ 1]);
        copies_commit();
        float p[M][BLOCK / 8][4], ds[M][BLOCK / 8][4];
        product_of_rows<M, BLOCK>(s->q, first, s->k[stage], 0, p);
        product_of_rows<M, BLOCK>(s->dout, first, s->v[stage], 0, ds);
        if (start + BLOCK > tile.position + 1) // some row does not see all of the block
            hide(p, first, [&](int row, int key) { return row < (start + key - tile.position) * plan.group; });
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const Terms t = s->terms[first + m * STEP + half * 8 + fragment_row()];
#pragma unroll
                for (int n = 0; n < BLOCK / 8; n++)
#pragma unroll
                    for (int e = 2 * half; e < 2 * half + 2; e++)
                        ds[m][n][e] = power_of_2(fmaf(p[m][n][e], plan.scale_base_2, -t.x)) * (ds[m][n][e] - t.y);
            }
        add_product<M, BLOCK>(ds, s->k[stage], 0, sum);
    }
    const Rows rows = rows_of_block(plan);
    __syncwarp(); // all of the warp are done with its rows of q
    put_rows<M, HD>(
        sum, [&](int, int) { return plan.scale; }, s->q, first);
    __syncwarp();
    store_rows<M>(plan, rows, s->q, first, dq);
}

template <int HD, int BLOCK_KEYS> struct KeyShared {
    Matrix<BLOCK_KEYS, HD> k, v;
    Matrix<VISIT_ROWS, HD> q[2], dout[2];
    float4 terms[2][VISIT_ROWS / 2]; // of two rows each
    int32_t offset[VISIT_ROWS];      // of a visit's rows, as Rows says
};

// Begins to copy the block's keys and values; what is none or beyond head_dim is zero.
template <int THREADS, int HD, int BLOCK_KEYS>
static __device__ inline void load_block(const AttentionPlan &plan, const AttentionKeys &keys, int32_t kv_head,
                                         const bf16 *k, const bf16 *v, KeyShared<HD, BLOCK_KEYS> *s) {
    const int32_t stride = plan.kv_heads * plan.head_dim;
    each_chunk<THREADS, BLOCK_KEYS, HD>(threadIdx.x, [&](int j, int c) {
        const bool valid = j < keys.count && c * 8 < plan.head_dim;
        const int64_t at = (int64_t)(keys.row + j) * stride + (kv_head * plan.head_dim + c * 8);
        copy_16(s->k.chunk(j, c), k + at, valid);
        copy_16(s->v.chunk(j, c), v + at, valid);
    });
}

// Begins to copy what a visit brings.
template <int THREADS, int HD, int BLOCK_KEYS>
static __device__ inline void load_visit(const AttentionPlan &plan, const AttentionVisit &visit, const bf16 *q,
                                         const bf16 *dout, const Terms *terms, KeyShared<HD, BLOCK_KEYS> *s,
                                         int stage) {
    const Rows rows = {visit.row, visit.tokens, 0}; // offset knows the head
    const auto offset = [&](int m) { return s->offset[m]; };
    load_rows<THREADS>(plan, rows, offset, q, s->q[stage]);
    load_rows<THREADS>(plan, rows, offset, dout, s->dout[stage]);
    const int m = (int)threadIdx.x;
    if (m < VISIT_ROWS)
        copy_8(&s->terms[stage][m / 2].x + m % 2 * 2, terms + rows.base(plan) + s->offset[m], m < rows.count(plan));
}

// Adds what a visit, in stage `stage`, gives a warp's keys. Token t of it sees the block's keys up to offset + t; mask:
// some row does not see all of the warp's.
template <int M, int COLUMNS, int HD, int BLOCK_KEYS>
static __device__ inline void add_visit(const AttentionPlan &plan, KeyShared<HD, BLOCK_KEYS> *s, int stage, int first,
                                        int32_t offset, bool mask, float (&sum_k)[M][HD / 8][4],
                                        float (&sum_v)[M][HD / 8][4]) {
#pragma unroll
    for (int column = 0; column < VISIT_ROWS; column += COLUMNS) {
        float p[M][COLUMNS / 8][4], ds[M][COLUMNS / 8][4];
        product_of_rows<M, COLUMNS>(s->k, first, s->q[stage], column, p);
        if (mask) hide(p, first, [&](int key, int row) { return column + row < (key - offset) * plan.group; });
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
            const float4 two = s->terms[stage][(column + n * 8 + fragment_column()) / 2];
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    p[m][n][e] = power_of_2(fmaf(p[m][n][e], plan.scale_base_2, e % 2 == 0 ? -two.x : -two.z));
        }
        add_product<M, COLUMNS>(p, s->dout[stage], column, sum_v);
        product_of_rows<M, COLUMNS>(s->v, first, s->dout[stage], column, ds);
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
            const float4 two = s->terms[stage][(column + n * 8 + fragment_column()) / 2];
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int e = 0; e < 4; e++) ds[m][n][e] = p[m][n][e] * (ds[m][n][e] - (e % 2 == 0 ? two.y : two.w));
        }
        add_product<M, COLUMNS>(ds, s->q[stage], column, sum_k);
    }
}

// A warp's sums of the keys below `count`, as fp32[keys, head_dim] to `to` (dk) and half_slot behind it (dv).
template <int M, int HD>
static __device__ inline void put_partial(const AttentionPlan &plan, const float (&sum_k)[M][HD / 8][4],
                                          const float (&sum_v)[M][HD / 8][4], int first, int32_t count, float *to,
                                          int64_t half_slot) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int j = first + m * STEP + half * 8 + fragment_row();
            float *row = to + j * plan.head_dim;
#pragma unroll
            for (int n = 0; n < HD / 8; n++) {
                const int d = n * 8 + fragment_column();
                if (j >= count || d >= plan.head_dim) continue;
                *reinterpret_cast<float2 *>(row + d) =
                    make_float2(sum_k[m][n][2 * half] * plan.scale, sum_k[m][n][2 * half + 1] * plan.scale);
                *reinterpret_cast<float2 *>(row + half_slot + d) =
                    make_float2(sum_v[m][n][2 * half], sum_v[m][n][2 * half + 1]);
            }
        }
}

// A warp's rows `first`.. below `count` of the block, from shared memory to dk and dv.
template <int ROWS, int HD, int BLOCK_KEYS>
static __device__ inline void store_block(const AttentionPlan &plan, KeyShared<HD, BLOCK_KEYS> *s, int first,
                                          int32_t row, int32_t count, int32_t kv_head, bf16 *dk, bf16 *dv) {
    each_chunk<WARP, ROWS, HD>((unsigned)lane_id(), [&](int r, int c) {
        const int j = first + r;
        if (j >= count || c * 8 >= plan.head_dim) return;
        const int64_t at = (int64_t)(row + j) * (plan.kv_heads * plan.head_dim) + (kv_head * plan.head_dim + c * 8);
        *reinterpret_cast<uint4 *>(dk + at) = *s->k.chunk(j, c);
        *reinterpret_cast<uint4 *>(dv + at) = *s->v.chunk(j, c);
    });
}

// Scores are transposed here: a warp owns 16 M keys, and a block of columns is COLUMNS rows of a visit.
template <int HD, int WARPS, int M, int COLUMNS, int BLOCKS>
KERNEL_BLOCKS(WARPS *WARP, BLOCKS)
key_gradient(AttentionPlan plan, const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *dout, const Terms *terms,
             float *partial, bf16 *dk, bf16 *dv) {
    constexpr int BLOCK_KEYS = WARPS * M * STEP, THREADS = WARPS * WARP;
    typedef KeyShared<HD, BLOCK_KEYS> Shared;
    SHARED_BYTES(Shared, s);
    const AttentionKeys keys = keys_of_block(plan);
    const int32_t kv_head = kv_head_of_block(plan);
    const int first = warp_id() * M * STEP; // of this warp's keys
    load_block<THREADS>(plan, keys, kv_head, k, v, s);
    const AttentionVisit earliest = plan.visits[keys.begin];
    if (threadIdx.x < VISIT_ROWS) s->offset[threadIdx.x] = Rows{0, 0, kv_head}.offset(plan, (int)threadIdx.x);
    __syncthreads();
    load_visit<THREADS>(plan, earliest, q, dout, terms, s, 0);
    copies_commit();

    float sum_k[M][HD / 8][4], sum_v[M][HD / 8][4];
    clear(sum_k);
    clear(sum_v);
    for (int32_t i = keys.begin, stage = 0; i < keys.end; i++, stage ^= 1) {
        const AttentionVisit visit = plan.visits[i], next = plan.visits[i + 1 < keys.end ? i + 1 : i];
        copies_wait<0>();
        __syncthreads(); // this visit is here, and all are done with the one before
        if (i + 1 < keys.end) load_visit<THREADS>(plan, next, q, dout, terms, s, stage ^ 1);
        copies_commit();
        const int32_t offset = visit.offset - keys.start; // token t sees the block's keys up to offset + t
        if (first >= keys.count || first > offset + visit.tokens - 1) continue; // no key of this warp is seen
        const bool mask = offset < first + M * STEP - 1; // some row does not see all of the warp's keys
        add_visit<M, COLUMNS>(plan, s, stage, first, offset, mask, sum_k, sum_v);
    }

    const AttentionKeys &done = keys_of_block(plan); // read again, as the loop needs its registers
    const int32_t count = done.count, done_head = kv_head_of_block(plan);
    if (done.slot >= 0) {
        const int64_t half_slot = (int64_t)plan.kv_heads * BLOCK_KEYS * plan.head_dim;
        float *to = partial + done.slot * 2 * half_slot + (int64_t)done_head * BLOCK_KEYS * plan.head_dim;
        put_partial<M, HD>(plan, sum_k, sum_v, first, count, to, half_slot);
        return;
    }
    const int32_t row = done.row;
    __syncwarp(); // a warp's own keys are the only rows of k and v that it reads
    put_rows<M, HD>(
        sum_k, [&](int, int) { return plan.scale; }, s->k, first);
    put_rows<M, HD>(
        sum_v, [&](int, int) { return 1.0f; }, s->v, first);
    __syncwarp();
    store_block<M * STEP>(plan, s, first, row, count, done_head, dk, dv);
}

// --- launchers ---

typedef void (*ForwardKernel)(AttentionPlan, const bf16 *, const bf16 *, const bf16 *, bf16 *, float *);
typedef void (*QueryKernel)(AttentionPlan, const bf16 *, const bf16 *, const bf16 *, const bf16 *, const float *,
                            const bf16 *, bf16 *, Terms *);
typedef void (*KeyKernel)(AttentionPlan, const bf16 *, const bf16 *, const bf16 *, const bf16 *, const Terms *, float *,
                          bf16 *, bf16 *);

static cudaError_t start_forward(const AttentionInstance *instance, const AttentionPlan *plan, const void *q,
                                 const void *k, const void *v, void *out, float *lse, cudaStream_t stream) {
    if (plan->tile_count == 0) return cudaSuccess;
    const ForwardKernel kernel = reinterpret_cast<ForwardKernel>(const_cast<void *>(instance->kernel));
    LAUNCH_INSTANCE(kernel, instance, blocks_for(plan, plan->tile_count), stream, *plan, (const bf16 *)q,
                    (const bf16 *)k, (const bf16 *)v, (bf16 *)out, lse);
    return cudaGetLastError();
}

static cudaError_t start_query_gradient(const AttentionInstance *instance, const AttentionPlan *plan, const void *q,
                                        const void *k, const void *v, const void *out, const float *lse,
                                        const void *dout, void *dq, void *terms, cudaStream_t stream) {
    if (plan->tile_count == 0) return cudaSuccess;
    const QueryKernel kernel = reinterpret_cast<QueryKernel>(const_cast<void *>(instance->kernel));
    LAUNCH_INSTANCE(kernel, instance, blocks_for(plan, plan->tile_count), stream, *plan, (const bf16 *)q,
                    (const bf16 *)k, (const bf16 *)v, (const bf16 *)out, lse, (const bf16 *)dout, (bf16 *)dq,
                    (Terms *)terms);
    return cudaGetLastError();
}

static cudaError_t start_key_gradient(const AttentionInstance *instance, const AttentionPlan *plan, const void *q,
                                      const void *k, const void *v, const void *dout, const void *terms, float *partial,
                                      void *dk, void *dv, cudaStream_t stream) {
    if (plan->key_count > 0) {
        const KeyKernel kernel = reinterpret_cast<KeyKernel>(const_cast<void *>(instance->kernel));
        LAUNCH_INSTANCE(kernel, instance, blocks_for(plan, plan->key_count), stream, *plan, (const bf16 *)q,
                        (const bf16 *)k, (const bf16 *)v, (const bf16 *)dout, (const Terms *)terms, partial, (bf16 *)dk,
                        (bf16 *)dv);
        const cudaError_t error = cudaGetLastError();
        if (error != cudaSuccess) return error;
    }
    return start_sums<bf16>(instance, plan, partial, dk, dv, stream);
}

// --- the table's row ---
// Instances <head_dim, warps, 16-row steps a warp (M), keys or rows at a time, least blocks a multiprocessor>. Two
// steps a warp halve the reads of shared memory that bound one; short segments want more and smaller blocks of threads.

#define FORWARD(hd, warps, m, blocks)                                                                                  \
    {                                                                                                                  \
        "forward<" #hd ", " #warps ", " #m ", " #blocks ">",                                                           \
            reinterpret_cast<const void *>(static_cast<ForwardKernel>(forward<hd, warps, m, blocks>)), hd,             \
            warps *m *STEP, KEY_BLOCK, warps *WARP, sizeof(ForwardShared<hd, warps * m * STEP>)                        \
    }
#define QUERY(hd, warps, m, keys, blocks)                                                                              \
    {                                                                                                                  \
        "query_gradient<" #hd ", " #warps ", " #m ", " #keys ", " #blocks ">",                                         \
            reinterpret_cast<const void *>(static_cast<QueryKernel>(query_gradient<hd, warps, m, keys, blocks>)), hd,  \
            warps *m *STEP, keys, warps *WARP, sizeof(QueryShared<hd, warps * m * STEP, keys>)                         \
    }
#define KEY(hd, warps, m, columns, blocks)                                                                             \
    {                                                                                                                  \
        "key_gradient<" #hd ", " #warps ", " #m ", " #columns ", " #blocks ">",                                        \
            reinterpret_cast<const void *>(static_cast<KeyKernel>(key_gradient<hd, warps, m, columns, blocks>)), hd,   \
            VISIT_ROWS, warps *m *STEP, warps *WARP, sizeof(KeyShared<hd, warps * m * STEP>)                           \
    }

static const AttentionInstance FORWARDS[] = {
    FORWARD(64, 4, 2, 2),
    FORWARD(64, 4, 1, 3),
    FORWARD(128, 4, 2, 2),
    FORWARD(128, 4, 1, 2),
};
static const AttentionInstance QUERY_GRADIENTS[] = {
    QUERY(64, 4, 2, 32, 3),
    QUERY(64, 4, 1, 32, 4),
    QUERY(128, 4, 2, 32, 2),
    QUERY(128, 4, 1, 32, 3),
};
static const AttentionInstance KEY_GRADIENTS[] = {
    KEY(64, 4, 2, 32, 2),
    KEY(64, 4, 1, 64, 2),
    KEY(128, 4, 1, 64, 2),
};

const AttentionKernels attention_tensor = {
    "tensor cores by mma.sync",
    DTYPE_BF16,
    80,
    8, // values of a 16-byte copy
    KEY_BLOCK,
    VISIT_ROWS,
    ATTENTION_INSTANCES(FORWARDS),
    ATTENTION_INSTANCES(QUERY_GRADIENTS),
    ATTENTION_INSTANCES(KEY_GRADIENTS),
    start_forward,
    start_query_gradient,
    start_key_gradient,
};
