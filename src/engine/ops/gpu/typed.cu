// Kernels over tensors that are stored as T, read as f32 and rounded to the nearest T where they are written.
// kernels.cu includes this once for each T. What is not a tensor of the network is f32: statistics, sums, weights of
// normalizations, biases, and what the time embedding adds.

#define KERNEL_OF_T(name) KERNEL OF_T(name)

// y, (..., channels, plane), becomes bias, (channels), at every position.
KERNEL_OF_T(spread_bias)(T *y, const float *bias, unsigned channels, unsigned plane, unsigned count) {
    FOR_EACH(i, count) y[i] = bias[i / plane % channels];
}

// y = x + e; x: (channels, plane), e: (channels), where channels counts through the batch.
KERNEL_OF_T(add_per_channel)(T *y, const T *x, const float *e, unsigned plane, unsigned count) {
    FOR_EACH(i, count) y[i] = x[i] + e[i / plane];
}

// Sums of the rows of x, (rows, length), one for each block.
KERNEL_OF_T(row_sums)(float *sums, const T *x, unsigned length) {
    SHARED float partial[THREADS];
    const T *row = x + (unsigned long long)BLOCK * length;
    FOR_EACH_THREAD(thread) {
        float sum = 0;
        for (unsigned i = thread; i < length; i += THREADS) sum += row[i];
        partial[thread] = sum;
    }
    const float sum = block_sum(partial);
    FOR_EACH_THREAD(thread) {
        if (thread == 0) sums[BLOCK] = sum;
    }
}

// The same for x, (rows, columns), in parts of `part` rows: (parts, columns).
KERNEL_OF_T(column_part_sums)(float *sums, const T *x, unsigned rows, unsigned columns, unsigned part, unsigned count) {
    FOR_EACH(i, count) {
        const unsigned column = i % columns, first = i / columns * part;
        float sum = 0;
        for (unsigned row = first; row < first + part && row < rows; ++row)
            sum += x[(unsigned long long)row * columns + column];
        sums[i] = sum;
    }
}

// Convolution.

// Patches of x, (items, c, h, w), under `rows` output rows from `first` on, as columns: (items, c k k, rows out_w).
KERNEL_OF_T(gather_columns)(T *columns, const T *x, unsigned h, unsigned w, unsigned k, unsigned out_w, unsigned stride,
                            unsigned before, unsigned first, unsigned rows, unsigned count) {
    FOR_EACH(i, count) {
        const unsigned out_x = i % out_w;
        unsigned rest = i / out_w;
        const unsigned out_y = rest % rows + first;
        rest /= rows;
        const unsigned kx = rest % k, ky = rest / k % k;
        const unsigned plane = rest / (k * k);  // item * c + channel
        // What lies before the picture wraps around and is too large.
        const unsigned y = out_y * stride + ky - before, x_ = out_x * stride + kx - before;
        columns[i] = y < h && x_ < w ? x[((unsigned long long)plane * h + y) * w + x_] : 0.0f;
    }
}

// Sums up what gather_columns copied of each place of dx, (items, c, h, w); `add` to what is there, or in its place.
KERNEL_OF_T(scatter_columns)(T *dx, const T *columns, unsigned h, unsigned w, unsigned k, unsigned out_w,
                             unsigned stride, unsigned before, unsigned first, unsigned rows, unsigned add,
                             unsigned count) {
    FOR_EACH(i, count) {
        const unsigned x = i % w, y = i / w % h;
        const unsigned plane = i / (w * h);  // item * c + channel
        float sum = add ? dx[i] : 0.0f;
        for (unsigned ky = 0; ky < k; ++ky) {
            const unsigned down = y + before - ky;
            if (y + before < ky || down % stride) continue;
            const unsigned row = down / stride - first;
            if (down / stride < first || row >= rows) continue;
            for (unsigned kx = 0; kx < k; ++kx) {
                const unsigned right = x + before - kx;
                if (x + before < kx || right % stride || right / stride >= out_w) continue;
                const unsigned long long tap = (unsigned long long)plane * k * k + ky * k + kx;
                sum += columns[(tap * rows + row) * out_w + right / stride];
            }
        }
        dx[i] = sum;
    }
}

// Normalization.

// Mean and 1 / sqrt(variance + eps) of each row of x, (rows, length), one for each block: (rows, 2).
KERNEL_OF_T(statistics)(float *stats, const T *x, unsigned length, float eps) {
    SHARED float partial[THREADS];
    const T *row = x + (unsigned long long)BLOCK * length;
    FOR_EACH_THREAD(thread) {
        float sum = 0;
        for (unsigned i = thread; i < length; i += THREADS) sum += row[i];
        partial[thread] = sum;
    }
    const float mean = block_sum(partial) / length;
    FOR_EACH_THREAD(thread) {
        float sum = 0;
        for (unsigned i = thread; i < length; i += THREADS) sum += (row[i] - mean) * (row[i] - mean);
        partial[thread] = sum;
    }
    const float variance = block_sum(partial) / length;
    FOR_EACH_THREAD(thread) {
        if (thread == 0) {
            stats[2 * BLOCK] = mean;
            stats[2 * BLOCK + 1] = 1.0f / sqrtf(variance + eps);
        }
    }
}

// x, (..., channels, plane), normalized in groups of `in_group` numbers that lie in a row, and SiLU of it.
KERNEL_OF_T(normalize)(T *y, const T *x, const float *stats, const float *weight, const float *bias, unsigned channels,
                       unsigned plane, unsigned in_group, unsigned silu, unsigned count) {
    FOR_EACH(i, count) {
        const unsigned channel = i / plane % channels, group = i / in_group;
        const float z = (x[i] - stats[2 * group]) * stats[2 * group + 1] * weight[channel] + bias[channel];
        y[i] = silu ? z * sigmoid(z) : z;
    }
}

// Sums of dz x_hat and of dz for each plane of each item, one for each block: (b channels, 2).
KERNEL_OF_T(group_norm_sums)(float *sums, const T *x, const T *dy, const float *stats, const float *weight,
                             const float *bias, unsigned channels, unsigned plane, unsigned in_group, unsigned silu) {
    SHARED float partial_dx[THREADS], partial_d[THREADS];
    const unsigned long long start = (unsigned long long)BLOCK * plane;
    const unsigned channel = BLOCK % channels, group = (unsigned)(start / in_group);
    const float mean = stats[2 * group], rstd = stats[2 * group + 1];
    FOR_EACH_THREAD(thread) {
        float sum_dx = 0, sum_d = 0;
        for (unsigned i = thread; i < plane; i += THREADS) {
            const float x_hat = (x[start + i] - mean) * rstd;
            const float dz = before_silu(dy[start + i], x_hat * weight[channel] + bias[channel], silu);
            sum_dx += dz * x_hat;
            sum_d += dz;
        }
        partial_dx[thread] = sum_dx;
        partial_d[thread] = sum_d;
    }
    const float sum_dx = block_sum(partial_dx), sum_d = block_sum(partial_d);
    FOR_EACH_THREAD(thread) {
        if (thread == 0) {
            sums[2 * BLOCK] = sum_dx;
            sums[2 * BLOCK + 1] = sum_d;
        }
    }
}

KERNEL_OF_T(group_norm_backward)(T *dx, const T *x, const T *dy, const float *stats, const float *means,
                                 const float *weight, const float *bias, unsigned channels, unsigned plane,
                                 unsigned in_group, unsigned silu, unsigned count) {
    FOR_EACH(i, count) {
        const unsigned channel = i / plane % channels, group = i / in_group;
        const float rstd = stats[2 * group + 1], x_hat = (x[i] - stats[2 * group]) * rstd;
        const float dz = before_silu(dy[i], x_hat * weight[channel] + bias[channel], silu);
        dx[i] = rstd * (dz * weight[channel] - means[2 * group + 1] - x_hat * means[2 * group]);
    }
}

// One row of x, (rows, columns), for each block.
KERNEL_OF_T(layer_norm_backward)(T *dx, const T *x, const T *dy, const float *stats, const float *weight,
                                 unsigned columns) {
    SHARED float partial_dx[THREADS], partial_d[THREADS];
    const unsigned long long start = (unsigned long long)BLOCK * columns;
    const float mean = stats[2 * BLOCK], rstd = stats[2 * BLOCK + 1];
    FOR_EACH_THREAD(thread) {
        float sum_dx = 0, sum_d = 0;
        for (unsigned i = thread; i < columns; i += THREADS) {
            const float d = dy[start + i] * weight[i];
            sum_dx += d * ((x[start + i] - mean) * rstd);
            sum_d += d;
        }
        partial_dx[thread] = sum_dx;
        partial_d[thread] = sum_d;
    }
    const float mean_dx = block_sum(partial_dx) / columns, mean_d = block_sum(partial_d) / columns;
    FOR_EACH_THREAD(thread) {
        for (unsigned i = thread; i < columns; i += THREADS) {
            const float x_hat = (x[start + i] - mean) * rstd;
            dx[start + i] = rstd * (dy[start + i] * weight[i] - mean_d - x_hat * mean_dx);
        }
    }
}

// Sums of dy x_hat and of dy over parts of `part` rows: (parts, columns, 2).
KERNEL_OF_T(layer_norm_part_sums)(float *sums, const T *x, const T *dy, const float *stats, unsigned rows,
                                  unsigned columns, unsigned part, unsigned count) {
    FOR_EACH(i, count) {
        const unsigned column = i % columns, first = i / columns * part;
        float sum_dx = 0, sum_d = 0;
        for (unsigned row = first; row < first + part && row < rows; ++row) {
            const unsigned long long at = (unsigned long long)row * columns + column;
            sum_dx += dy[at] * ((x[at] - stats[2 * row]) * stats[2 * row + 1]);
            sum_d += dy[at];
        }
        sums[2 * i] = sum_dx;
        sums[2 * i + 1] = sum_d;
    }
}

// Attention.

#ifdef NARROW
// As softmax, into p.
KERNEL_OF_T(softmax)(T *p, float *scores, unsigned columns) { softmax_of(p, scores, columns); }
#endif

// p, (rows, columns), becomes the gradient of the scores over `scale`: scale p (dp - sum(p dp)); one row for each
// block.
KERNEL_OF_T(softmax_backward)(T *p, const float *dp, float scale, unsigned columns) {
    SHARED float partial[THREADS];
    const unsigned long long start = (unsigned long long)BLOCK * columns;
    FOR_EACH_THREAD(thread) {
        float sum = 0;
        for (unsigned i = thread; i < columns; i += THREADS) sum += p[start + i] * dp[start + i];
        partial[thread] = sum;
    }
    const float delta = block_sum(partial);
    FOR_EACH_THREAD(thread) {
        for (unsigned i = thread; i < columns; i += THREADS)
            p[start + i] = p[start + i] * (scale * (dp[start + i] - delta));
    }
}

// Attention whose scores never leave a block, see attention.cu: for heads of at most D numbers, in steps of STEP rows.

#define ATTENTION(D, STEP) \
    KERNEL_OF_T(attention_##D)(T * out, const T *q, const T *k, const T *v, float scale, unsigned n, unsigned m, \
                               unsigned heads, unsigned d) { \
        forward<D, STEP, false>(out, q, k, v, q, scale, n, m, heads, d); \
    }
ATTENTION(40, 32)
ATTENTION(64, 32)
ATTENTION(80, 32)
ATTENTION(160, 16)
#undef ATTENTION

#ifdef TRAINING
#define ATTENTION_GRADIENTS(D, STEP) \
    KERNEL_OF_T(attention_statistics_##D)(float *statistics, const T *q, const T *k, const T *out, const T *dout, \
                                          float scale, unsigned n, unsigned m, unsigned heads, unsigned d) { \
        forward<D, STEP, true>(statistics, q, k, out, dout, scale, n, m, heads, d); \
    } \
    KERNEL_OF_T(attention_query_gradient_##D)(T * dq, const T *q, const T *k, const T *v, const T *dout, \
                                              const float *statistics, float scale, unsigned n, unsigned m, \
                                              unsigned heads, unsigned d) { \
        query_gradient<D, STEP>(dq, q, k, v, dout, statistics, scale, n, m, heads, d); \
    } \
    KERNEL_OF_T(attention_key_gradients_##D)(float *dk, float *dv, const T *q, const T *k, const T *v, const T *dout, \
                                             const float *statistics, float scale, unsigned n, unsigned m, \
                                             unsigned heads, unsigned d, unsigned parts, unsigned count) { \
        key_gradients<D, STEP>(dk, dv, q, k, v, dout, statistics, scale, n, m, heads, d, parts, count); \
    }
ATTENTION_GRADIENTS(40, 32)
ATTENTION_GRADIENTS(64, 32)
ATTENTION_GRADIENTS(80, 32)
ATTENTION_GRADIENTS(160, 16)
#undef ATTENTION_GRADIENTS
#endif

// Small operations.

#ifdef NARROW
// A weight as a factor of a product, or sums.
KERNEL_OF_T(narrow)(T *y, const float *x, unsigned count) { FOR_EACH(i, count) y[i] = x[i]; }
#endif

// y, (..., d), of x, (..., 2 d): the first half times gelu of the second.
KERNEL_OF_T(geglu)(T *y, const T *x, unsigned d, unsigned count) {
    FOR_EACH(i, count) {
        const unsigned long long at = (unsigned long long)(i / d) * 2 * d + i % d;
        const float gate = x[at + d];
        y[i] = x[at] * gate * normal_cdf(gate);
    }
}

KERNEL_OF_T(geglu_backward)(T *dx, const T *x, const T *dy, unsigned d, unsigned count) {
    FOR_EACH(i, count) {
        const unsigned long long at = (unsigned long long)(i / d) * 2 * d + i % d;
        const float h = x[at], gate = x[at + d], cdf = normal_cdf(gate);
        dx[at] = dy[i] * gate * cdf;
        // 1 / sqrt(2 pi) of the normal density.
        dx[at + d] = dy[i] * h * (cdf + gate * 0.39894228f * expf(-0.5f * gate * gate));
    }
}

// y, (planes, 2 h, 2 w), of x, (planes, h, w).
KERNEL_OF_T(upsample)(T *y, const T *x, unsigned h, unsigned w, unsigned count) {
    FOR_EACH(i, count) {
        const unsigned column = i % (2 * w), row = i / (2 * w) % (2 * h), plane = i / (4 * w * h);
        y[i] = x[((unsigned long long)plane * h + row / 2) * w + column / 2];
    }
}

KERNEL_OF_T(upsample_backward)(T *dx, const T *dy, unsigned w, unsigned count) {
    FOR_EACH(i, count) {
        const unsigned column = i % w, row = i / w;  // through all planes
        const T *first = dy + (unsigned long long)row * 4 * w + 2 * column, *second = first + 2 * w;
        dx[i] = first[0] + first[1] + second[0] + second[1];
    }
}

// Layouts, for which candle copies sizes from the processor to the GPU.

// y, (b, n, m), of x, (b, m, n); a square for each block, counted along n, then m, then b.
KERNEL_OF_T(transpose)(T *y, const T *x, unsigned m, unsigned n) {
    // One more, so that a column lies in as many banks as a row.
    SHARED T tile[TILE][TILE + 1];
    const unsigned across = (n + TILE - 1) / TILE, down = (m + TILE - 1) / TILE;
    const unsigned first_n = BLOCK % across * TILE, first_m = BLOCK / across % down * TILE;
    const unsigned long long start = (unsigned long long)(BLOCK / across / down) * m * n;
    FOR_EACH_THREAD(thread) {
        const unsigned j = first_n + thread % TILE;
        for (unsigned row = thread / TILE; row < TILE; row += THREADS / TILE)
            if (j < n && first_m + row < m)
                tile[row][thread % TILE] = x[start + (unsigned long long)(first_m + row) * n + j];
    }
    FOR_EACH_THREAD(thread) {
        const unsigned i = first_m + thread % TILE;
        for (unsigned row = thread / TILE; row < TILE; row += THREADS / TILE)
            if (i < m && first_n + row < n)
                y[start + (unsigned long long)(first_n + row) * m + i] = tile[thread % TILE][row];
    }
}

// Rows of `columns` numbers: from one that has x_row numbers a row into one that has y_row.
KERNEL_OF_T(copy_rows)(T *y, const T *x, unsigned columns, unsigned y_row, unsigned x_row, unsigned count) {
    FOR_EACH(i, count) {
        const unsigned row = i / columns, column = i % columns;
        y[(unsigned long long)row * y_row + column] = x[(unsigned long long)row * x_row + column];
    }
}

#undef KERNEL_OF_T
