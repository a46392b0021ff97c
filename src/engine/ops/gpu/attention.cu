// Attention whose scores never leave a block, forward and backward, as in FlashAttention-2 (Dao, ICLR 2024).
//
// q, out, dq, dout: (b, n, c); k, v, dk, dv: (b, m, c); c = heads * d, d <= D. A block has some rows of one head in its
// registers and goes through the rows of the other side in steps, which it lays into shared memory, rounded to what
// tensor cores multiply. Scores of a step are a few rows for each warp, in shared memory too. Sums are taken in the
// order of the steps, so a result is the same bytes every time: unlike in the paper no block adds to what another one
// adds to, at the price of scores that two kernels compute.
//
// For d = 40 and n = m = 4096 of one head, D = 40 and steps of 32 (H100: 132 SMs, 3.35 TB/s, 2100 operations of TF32 a
// clock and SM):
//
// | kernel | products of 16x16x8 | operations | read from the L2 cache | shared memory | blocks |
// |---|---|---|---|---|---|
// | forward | 5 + 6 for 16x16 scores | 3.0 G | 42 MB | 35 KB | 32 |
// | statistics | 5 | 1.3 G | 21 MB | 27 KB | 32 |
// | gradient of q | 5 + 5 + 6 | 4.3 G | 84 MB | 32 KB | 64 |
// | gradients of k, v | 5 + 5 + 6 + 6 | 5.9 G | 84 MB | 32 KB | 64 |
//
// All of them together with 8 heads are 116 G operations, and 1.8 GB from the L2 cache. Written out, the same scores
// would go 14 times through 537 MB of memory that no cache holds, 7.5 GB. What limits these kernels is shared memory: a
// product of 16x16x8 takes 2 clocks of the tensor cores, and its right factor 4 clocks of 128 bytes. With what scores
// take there, a quarter to a third of the tensor cores' speed is what can be expected, about a millisecond for all.
//
// Occupancy, as ptxas says it: with D up to 80 at most 128 registers and 44 KB of shared memory, so that a
// multiprocessor has two blocks or three, and one computes while another one waits for its step; with 160 one block.
// Loops that are rolled keep it so.
//
// T is what tensors are stored in. TF32 has all bits of f16 and bf16, whose tensors can be read by the same kernels;
// what would be left for them is to multiply them as such, in half of the time.
//
// Banks: 8 lanes read 8 rows at a time, 4 numbers of each. Where rows are factors transposed (k in q k^T), and where
// lanes read scores by fours, they must lie an odd number of fours apart; where rows are rows (v in p v), an odd number
// of eights. A tile that is both (k in the gradient of q) has the first and takes up to twice the time in the second.
#include "tile.h"

// Four numbers as they lie in memory.
template <typename T>
struct alignas(4 * sizeof(T)) Stored {
    T x, y, z, w;
};

// Rows of one head of a tensor (b, length, c).
template <typename T>
struct Head {
    const T *values;
    unsigned length, d, row;
    // Whether four numbers of a row can be read at once.
    bool in_fours;
};

template <typename T>
FUNCTION Head<T> head_of(const T *x, unsigned index, unsigned length, unsigned heads, unsigned d) {
    const unsigned c = heads * d;
    const T *values = x + (unsigned long long)(index / heads) * length * c + index % heads * d;
    return {values, length, d, c, ((unsigned long long)values % sizeof(Stored<T>) | c % 4 | d % 4) == 0};
}

// Numbers `column` to `column` + 3 of a row, as factors; 0 outside of the head.
template <typename T>
FUNCTION Four factors_of(const Head<T> &x, unsigned row, unsigned column) {
    Four four = {0, 0, 0, 0};
    if (row >= x.length || column >= x.d) return four;
    const T *from = x.values + (unsigned long long)row * x.row + column;
    if (x.in_fours) {
        const Stored<T> stored = *reinterpret_cast<const Stored<T> *>(from);
        four = {float(stored.x), float(stored.y), float(stored.z), float(stored.w)};
    } else {
        four.x = float(from[0]);
        if (column + 1 < x.d) four.y = float(from[1]);
        if (column + 2 < x.d) four.z = float(from[2]);
        if (column + 3 < x.d) four.w = float(from[3]);
    }
    return {factor(four.x), factor(four.y), factor(four.z), factor(four.w)};
}

// In a phase: rows from `first` on into shared memory, (ROWS, COLUMNS), ROW apart.
template <unsigned ROWS, unsigned COLUMNS, unsigned ROW, typename T>
FUNCTION void load_rows(float *tile, const Head<T> &x, unsigned first, unsigned thread) {
    ROLLED
    for (unsigned i = thread; i < ROWS * (COLUMNS / 4); i += THREADS) {
        const unsigned row = i / (COLUMNS / 4), column = i % (COLUMNS / 4) * 4;
        *reinterpret_cast<Four *>(tile + row * ROW + column) = factors_of(x, first + row, column);
    }
}

// Of one warp: 16 rows from `first` on into its registers, through `own`, (16, 8), ROW apart.
template <unsigned D, unsigned ROW, typename T>
FUNCTION void load_left(Left (&left)[D / 8], const Head<T> &x, unsigned first, float *own) {
    UNROLL
    for (unsigned i = 0; i < D / 8; ++i) {
        FOR_EACH_LANE(lane) {
            const unsigned row = lane % 16, column = lane / 16 * 4;
            *reinterpret_cast<Four *>(own + row * ROW + column) = factors_of(x, first + row, 8 * i + column);
        }
        load(left[i], own, ROW);
        WARP_BARRIER();
    }
}

// Of one warp: `own`, (16, STEP), ROW apart, becomes left times the transpose of the tile, (STEP, D), TILE_ROW apart.
template <unsigned D, unsigned STEP, unsigned ROW, unsigned TILE_ROW>
FUNCTION void scores(float *own, const Left (&left)[D / 8], const float *tile) {
    UNROLL
    for (unsigned j = 0; j < STEP; j += 16) {
        Sum sum;
        clear(sum);
        UNROLL
        for (unsigned i = 0; i < D / 8; ++i) {
            Transposed right;
            load(right, tile + j * TILE_ROW + 8 * i, TILE_ROW);
            multiply(sum, left[i], right);
        }
        store(own + j, sum, ROW);
    }
    WARP_BARRIER();
}

// Of one warp: 16x16 numbers into rows from `first` on of a head, from `column` on; what lies outside of the head is
// left out.
template <unsigned ROW, typename R, typename T>
FUNCTION void write_out(R *to, const Head<T> &shape, unsigned first, unsigned column, const Sum &sum, float *own) {
    store(own, sum, ROW);
    WARP_BARRIER();
    FOR_EACH_LANE(lane) {
        ROLLED
        for (unsigned i = lane; i < 256; i += LANES) {
            const unsigned row = first + i / 16;
            if (row < shape.length && column + i % 16 < shape.d)
                to[(unsigned long long)row * shape.row + column + i % 16] = own[i / 16 * ROW + i % 16];
        }
    }
}

// Of one lane: half a row of scores, x, becomes numbers over the largest of the row so far, and their sum joins `sum`.
// Both lanes of a row have the same `before` and `now`; `scale` is log2(e) / sqrt(d), as all exponents are of 2.
template <unsigned COUNT>
FUNCTION float softmax_step(float *x, unsigned valid, float before, float now, float scale, float &sum) {
    const float factor_before = exp2f((before - now) * scale);
    float here = 0;
    UNROLL
    for (unsigned i = 0; i < COUNT; i += 4) {
        Four four = *reinterpret_cast<const Four *>(x + i);
        four.x = i < valid ? factor(exp2f((four.x - now) * scale)) : 0.0f;
        four.y = i + 1 < valid ? factor(exp2f((four.y - now) * scale)) : 0.0f;
        four.z = i + 2 < valid ? factor(exp2f((four.z - now) * scale)) : 0.0f;
        four.w = i + 3 < valid ? factor(exp2f((four.w - now) * scale)) : 0.0f;
        here += four.x + four.y + four.z + four.w;
        *reinterpret_cast<Four *>(x + i) = four;
    }
    sum = sum * factor_before + here;
    return factor_before;
}

// The largest of the first `valid` numbers.
template <unsigned COUNT>
FUNCTION float largest_of(const float *x, unsigned valid) {
    float largest = -INFINITY;
    UNROLL
    for (unsigned i = 0; i < COUNT; i += 4) {
        const Four four = *reinterpret_cast<const Four *>(x + i);
        if (i < valid) largest = fmaxf(largest, four.x);
        if (i + 1 < valid) largest = fmaxf(largest, four.y);
        if (i + 2 < valid) largest = fmaxf(largest, four.z);
        if (i + 3 < valid) largest = fmaxf(largest, four.w);
    }
    return largest;
}

// Numbers of a step from `first` on, as far as there are.
FUNCTION unsigned valid_of(unsigned length, unsigned first) { return first < length ? length - first : 0; }

#define LOG2_E 1.44269504f

// Queries of a block of the forward pass: 16 for each warp.
#define QUERIES (16 * WARPS)

// A block for each 128 queries of each head. `statistics` instead of `out` gets the logarithm of 2 of the sum of each
// row's exponentials, and out * dout summed over the row: (b, heads, n, 2). Nothing else reads `dout`.
template <unsigned D, unsigned STEP, bool STATISTICS, typename T, typename R>
FUNCTION void forward(R *result, const T *q, const T *k, const T *v_or_out, const T *dout, float scale, unsigned n,
                      unsigned m, unsigned heads, unsigned d) {
    constexpr unsigned TILES = (D + 15) / 16, ROW = STEP + 4, K_ROW = D + 4, V_ROW = 16 * TILES + 8, HALF = STEP / 2;
    SHARED alignas(32) float keys[STEP * K_ROW], values[STATISTICS ? 1 : STEP * V_ROW], own_rows[QUERIES * ROW];
    SHARED float largest[THREADS], largest_here[THREADS], sums[THREADS], factors[QUERIES];
    const unsigned blocks = (n + QUERIES - 1) / QUERIES, index = BLOCK / blocks, start = BLOCK % blocks * QUERIES;
    const Head<T> of_q = head_of(q, index, n, heads, d), of_k = head_of(k, index, m, heads, d);
    const Head<T> of_v = head_of(v_or_out, index, STATISTICS ? n : m, heads, d);
    Left queries[PER_WARP][D / 8];
    Sum rows[PER_WARP], sum[PER_WARP][TILES];
    scale *= LOG2_E;

    FOR_EACH_WARP(warp) {
        float *own = own_rows + warp * 16 * ROW;
        load_left<D, ROW>(queries[OF(warp)], of_q, start + 16 * warp, own);
        FOR_EACH_LANE(lane) {
            for (unsigned i = lane; i < 256; i += LANES) own[i / 16 * ROW + i % 16] = i / 16;
            largest[warp * LANES + lane] = -INFINITY;
            sums[warp * LANES + lane] = 0;
        }
        load_sum(rows[OF(warp)], own, ROW);
        if (!STATISTICS) {
            UNROLL
            for (unsigned i = 0; i < TILES; ++i) clear(sum[OF(warp)][i]);
        }
    }
    for (unsigned first = 0; first < m; first += STEP) {
        FOR_EACH_THREAD(thread) {
            load_rows<STEP, D, K_ROW>(keys, of_k, first, thread);
            if (!STATISTICS) load_rows<STEP, 16 * TILES, V_ROW>(values, of_v, first, thread);
        }
        FOR_EACH_WARP(warp) {
            if (start + 16 * warp >= n) continue;
            float *own = own_rows + warp * 16 * ROW;
            scores<D, STEP, ROW, K_ROW>(own, queries[OF(warp)], keys);
            FOR_EACH_LANE(lane) {
                const unsigned row = lane % 16, half = lane / 16;
                const unsigned valid = valid_of(m, first + half * HALF);
                largest_here[warp * LANES + lane] = largest_of<HALF>(own + row * ROW + half * HALF, valid);
            }
            FOR_EACH_LANE(lane) {
                const unsigned row = lane % 16, half = lane / 16, at = warp * LANES + lane;
                const float before = largest[at];
                const float here = fmaxf(largest_here[warp * LANES + row], largest_here[warp * LANES + 16 + row]);
                const float now = fmaxf(before, here);
                largest[at] = now;
                const unsigned valid = valid_of(m, first + half * HALF);
                float *scores_of_lane = own + row * ROW + half * HALF;
                const float shrunk = softmax_step<HALF>(scores_of_lane, valid, before, now, scale, sums[at]);
                if (half == 0) factors[warp * 16 + row] = shrunk;
            }
            if constexpr (!STATISTICS) {
                UNROLL
                for (unsigned i = 0; i < TILES; ++i) scale_rows(sum[OF(warp)][i], rows[OF(warp)], factors + warp * 16);
                ROLLED
                for (unsigned l = 0; l < STEP; l += 8) {
                    Left p;
                    load(p, own + l, ROW);
                    UNROLL
                    for (unsigned i = 0; i < TILES; ++i) {
                        Right right;
                        load(right, values + l * V_ROW + 16 * i, V_ROW);
                        multiply(sum[OF(warp)][i], p, right);
                    }
                }
            }
        }
    }
    FOR_EACH_WARP(warp) {
        if (start + 16 * warp >= n) continue;
        float *own = own_rows + warp * 16 * ROW;
        if constexpr (STATISTICS) {
            const Head<T> of_dout = head_of(dout, index, n, heads, d);
            FOR_EACH_LANE(lane) {
                const unsigned row = lane % 16, query = start + 16 * warp + row;
                float delta = 0;
                for (unsigned i = lane / 16; query < n && i < d; i += 2) {
                    const unsigned long long at = (unsigned long long)query * of_v.row + i;
                    delta += float(of_v.values[at]) * float(of_dout.values[at]);
                }
                largest_here[warp * LANES + lane] = delta;
            }
            FOR_EACH_LANE(lane) {
                const unsigned at = warp * LANES + lane, query = start + 16 * warp + lane;
                if (lane < 16 && query < n) {
                    float *to = result + 2 * ((unsigned long long)index * n + query);
                    to[0] = largest[at] * scale + log2f(sums[at] + sums[at + 16]);
                    to[1] = largest_here[at] + largest_here[at + 16];
                }
            }
        } else {
            FOR_EACH_LANE(lane) {
                const unsigned at = warp * LANES + lane;
                if (lane < 16) factors[warp * 16 + lane] = 1.0f / (sums[at] + sums[at + 16]);
            }
            R *to = result + (of_q.values - q);
            UNROLL
            for (unsigned i = 0; i < TILES; ++i) {
                scale_rows(sum[OF(warp)][i], rows[OF(warp)], factors + warp * 16);
                write_out<ROW>(to, of_q, start + 16 * warp, 16 * i, sum[OF(warp)][i], own);
            }
        }
    }
}

// In the backward pass two warps have 16 rows together: one the scores, the other what the gradient of the result makes
// of them.
#define PAIRS (WARPS / 2)
#define ROWS_OF_PAIRS (16 * PAIRS)

// Of one lane in the middle of a step, for some scores in 8 rows: where scores were in `ds`, their gradient, and where
// the gradient of p was in `p`, p itself if rows are keys, which need it. Statistics are the queries', of the columns
// if rows are keys, else of the rows.
template <unsigned STEP, unsigned ROW, bool ROWS_ARE_KEYS>
FUNCTION void score_gradients(float *p, float *ds, unsigned half, unsigned lane, const float *statistics,
                              unsigned valid, float scale) {
    const unsigned row = 8 * half + lane % 8;
    UNROLL
    for (unsigned i = 0; i < STEP; i += 16) {
        const unsigned column = i + lane / 8 * 4;
        float *s_at = ds + row * ROW + column, *dp_at = p + row * ROW + column;
        const Four s = *reinterpret_cast<const Four *>(s_at), dp = *reinterpret_cast<const Four *>(dp_at);
        const float scores_here[4] = {s.x, s.y, s.z, s.w}, dp_here[4] = {dp.x, dp.y, dp.z, dp.w};
        float p_here[4], ds_here[4];
        UNROLL
        for (unsigned j = 0; j < 4; ++j) {
            const float *of = statistics + 2 * (ROWS_ARE_KEYS ? column + j : row);
            p_here[j] = column + j < valid ? exp2f(scores_here[j] * (scale * LOG2_E) - of[0]) : 0.0f;
            ds_here[j] = factor(p_here[j] * (dp_here[j] - of[1]) * scale);
        }
        *reinterpret_cast<Four *>(s_at) = {ds_here[0], ds_here[1], ds_here[2], ds_here[3]};
        if (ROWS_ARE_KEYS)
            *reinterpret_cast<Four *>(dp_at) = {factor(p_here[0]), factor(p_here[1]), factor(p_here[2]),
                                                factor(p_here[3])};
    }
}

// In a phase: the statistics of `count` rows from `first` on; zeros where there are none.
FUNCTION void load_statistics(float *to, const float *statistics, unsigned index, unsigned n, unsigned first,
                              unsigned count, unsigned thread) {
    for (unsigned i = thread; i < 2 * count; i += THREADS)
        to[i] = first + i / 2 < n ? statistics[2 * ((unsigned long long)index * n + first) + i] : 0.0f;
}

// A block for each 64 queries of each head. The pair's second product is shared between its warps by columns.
template <unsigned D, unsigned STEP, typename T>
FUNCTION void query_gradient(T *dq, const T *q, const T *k, const T *v, const T *dout, const float *statistics,
                             float scale, unsigned n, unsigned m, unsigned heads, unsigned d) {
    constexpr unsigned TILES = (D + 15) / 16, ROW = STEP + 4, TILE_ROW = 16 * TILES + 4;
    SHARED alignas(32) float tiles[2][STEP * TILE_ROW], own_rows[2][ROWS_OF_PAIRS * ROW];
    SHARED float of_rows[2 * ROWS_OF_PAIRS];
    const unsigned blocks = (n + ROWS_OF_PAIRS - 1) / ROWS_OF_PAIRS, index = BLOCK / blocks;
    const unsigned start = BLOCK % blocks * ROWS_OF_PAIRS;
    const Head<T> of_q = head_of(q, index, n, heads, d);
    const Head<T> of_k = head_of(k, index, m, heads, d), of_v = head_of(v, index, m, heads, d);
    Left left[PER_WARP][D / 8];
    Sum sum[PER_WARP][(TILES + 1) / 2];

    FOR_EACH_WARP(warp) {
        const unsigned pair = warp % PAIRS, half = warp / PAIRS;
        float *own = own_rows[half] + pair * 16 * ROW;
        const Head<T> mine = head_of(half ? dout : q, index, n, heads, d);
        load_left<D, ROW>(left[OF(warp)], mine, start + 16 * pair, own);
        UNROLL
        for (unsigned i = 0; i < (TILES + 1) / 2; ++i) clear(sum[OF(warp)][i]);
    }
    FOR_EACH_THREAD(thread) load_statistics(of_rows, statistics, index, n, start, ROWS_OF_PAIRS, thread);
    for (unsigned first = 0; first < m; first += STEP) {
        FOR_EACH_THREAD(thread) {
            load_rows<STEP, 16 * TILES, TILE_ROW>(tiles[0], of_k, first, thread);
            load_rows<STEP, 16 * TILES, TILE_ROW>(tiles[1], of_v, first, thread);
        }
        FOR_EACH_WARP(warp) {
            const unsigned pair = warp % PAIRS, half = warp / PAIRS;
            scores<D, STEP, ROW, TILE_ROW>(own_rows[half] + pair * 16 * ROW, left[OF(warp)], tiles[half]);
        }
        FOR_EACH_THREAD(thread) {
            const unsigned warp = thread / LANES, pair = warp % PAIRS, half = warp / PAIRS;
            float *ds = own_rows[0] + pair * 16 * ROW, *p = own_rows[1] + pair * 16 * ROW;
            const unsigned valid = valid_of(m, first);
            score_gradients<STEP, ROW, false>(p, ds, half, thread % LANES, of_rows + 32 * pair, valid, scale);
        }
        FOR_EACH_WARP(warp) {
            const unsigned pair = warp % PAIRS, half = warp / PAIRS;
            ROLLED
            for (unsigned l = 0; l < STEP; l += 8) {
                Left ds;
                load(ds, own_rows[0] + pair * 16 * ROW + l, ROW);
                UNROLL
                for (unsigned i = 0; i < (TILES + 1) / 2; ++i) {
                    if (2 * i + half >= TILES) continue;
                    Right right;
                    load(right, tiles[0] + l * TILE_ROW + 16 * (2 * i + half), TILE_ROW);
                    multiply(sum[OF(warp)][i], ds, right);
                }
            }
        }
    }
    FOR_EACH_WARP(warp) {
        const unsigned pair = warp % PAIRS, half = warp / PAIRS;
        T *to = dq + (of_q.values - q);
        UNROLL
        for (unsigned i = 0; i < (TILES + 1) / 2; ++i) {
            if (2 * i + half >= TILES) continue;
            float *own = own_rows[half] + pair * 16 * ROW;
            write_out<ROW>(to, of_q, start + 16 * pair, 16 * (2 * i + half), sum[OF(warp)][i], own);
        }
    }
}

// A block for each 64 keys of each head and each of `parts` parts of the queries: (parts, b, m, c), `count` numbers in
// a part. One warp of a pair has k and its gradient, the other v and its.
template <unsigned D, unsigned STEP, typename T>
FUNCTION void key_gradients(float *dk, float *dv, const T *q, const T *k, const T *v, const T *dout,
                            const float *statistics, float scale, unsigned n, unsigned m, unsigned heads, unsigned d,
                            unsigned parts, unsigned count) {
    constexpr unsigned TILES = (D + 15) / 16, ROW = STEP + 4, TILE_ROW = 16 * TILES + 4;
    SHARED alignas(32) float tiles[2][STEP * TILE_ROW], own_rows[2][ROWS_OF_PAIRS * ROW];
    SHARED float of_columns[2 * STEP];
    const unsigned part = BLOCK % parts, blocks = (m + ROWS_OF_PAIRS - 1) / ROWS_OF_PAIRS;
    const unsigned index = BLOCK / parts / blocks, start = BLOCK / parts % blocks * ROWS_OF_PAIRS;
    const unsigned in_part = ((n + STEP - 1) / STEP + parts - 1) / parts * STEP;
    const unsigned end = (part + 1) * in_part < n ? (part + 1) * in_part : n;
    const Head<T> of_q = head_of(q, index, n, heads, d), of_dout = head_of(dout, index, n, heads, d);
    const Head<T> of_k = head_of(k, index, m, heads, d);
    Left left[PER_WARP][D / 8];
    Sum sum[PER_WARP][TILES];

    FOR_EACH_WARP(warp) {
        const unsigned pair = warp % PAIRS, half = warp / PAIRS;
        float *own = own_rows[half] + pair * 16 * ROW;
        const Head<T> mine = head_of(half ? v : k, index, m, heads, d);
        load_left<D, ROW>(left[OF(warp)], mine, start + 16 * pair, own);
        UNROLL
        for (unsigned i = 0; i < TILES; ++i) clear(sum[OF(warp)][i]);
    }
    for (unsigned first = part * in_part; first < end; first += STEP) {
        FOR_EACH_THREAD(thread) {
            load_rows<STEP, 16 * TILES, TILE_ROW>(tiles[0], of_q, first, thread);
            load_rows<STEP, 16 * TILES, TILE_ROW>(tiles[1], of_dout, first, thread);
            load_statistics(of_columns, statistics, index, n, first, STEP, thread);
        }
        FOR_EACH_WARP(warp) {
            const unsigned pair = warp % PAIRS, half = warp / PAIRS;
            scores<D, STEP, ROW, TILE_ROW>(own_rows[half] + pair * 16 * ROW, left[OF(warp)], tiles[half]);
        }
        FOR_EACH_THREAD(thread) {
            const unsigned warp = thread / LANES, pair = warp % PAIRS, half = warp / PAIRS;
            float *ds = own_rows[0] + pair * 16 * ROW, *p = own_rows[1] + pair * 16 * ROW;
            score_gradients<STEP, ROW, true>(p, ds, half, thread % LANES, of_columns, valid_of(n, first), scale);
        }
        FOR_EACH_WARP(warp) {
            const unsigned pair = warp % PAIRS, half = warp / PAIRS;
            ROLLED
            for (unsigned l = 0; l < STEP; l += 8) {
                Left scores_of_half;
                load(scores_of_half, own_rows[half] + pair * 16 * ROW + l, ROW);
                UNROLL
                for (unsigned i = 0; i < TILES; ++i) {
                    Right right;
                    load(right, tiles[half] + l * TILE_ROW + 16 * i, TILE_ROW);
                    multiply(sum[OF(warp)][i], scores_of_half, right);
                }
            }
        }
    }
    FOR_EACH_WARP(warp) {
        const unsigned pair = warp % PAIRS, half = warp / PAIRS;
        float *to = (half ? dv : dk) + (unsigned long long)part * count + (of_k.values - k);
        UNROLL
        for (unsigned i = 0; i < TILES; ++i) {
            float *own = own_rows[half] + pair * 16 * ROW;
            write_out<ROW>(to, of_k, start + 16 * pair, 16 * i, sum[OF(warp)][i], own);
        }
    }
}
