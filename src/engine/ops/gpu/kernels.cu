// The engine's operations on the GPU, but for matrix products; `gpu.rs` calls them and says what they are good for.
//
// All numbers are f32, all tensors lie in a row. Counts are less than 2^31, which `gpu.rs` checks. Sums are taken in a fixed order.
#include "kernel.h"

#include "adam8.cu"
#include "attention.cu"

// y, (..., channels, plane), becomes bias, (channels), at every position.
KERNEL spread_bias(float *y, const float *bias, unsigned channels, unsigned plane, unsigned count) {
    FOR_EACH(i, count) y[i] = bias[i / plane % channels];
}

// y = x + e; x: (channels, plane), e: (channels), where channels counts through the batch.
KERNEL add_per_channel(float *y, const float *x, const float *e, unsigned plane, unsigned count) {
    FOR_EACH(i, count) y[i] = x[i] + e[i / plane];
}

// Sums of the rows of x, (rows, length), one for each block.
KERNEL row_sums(float *sums, const float *x, unsigned length) {
    SHARED float partial[THREADS];
    const float *row = x + (unsigned long long)BLOCK * length;
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

// Sums over the first dimension of x, (rows, columns, stride), at one place of the last: (columns).
KERNEL column_sums(float *sums, const float *x, unsigned rows, unsigned columns, unsigned stride, unsigned place) {
    FOR_EACH(column, columns) {
        float sum = 0;
        for (unsigned row = 0; row < rows; ++row) sum += x[((unsigned long long)row * columns + column) * stride + place];
        sums[column] = sum;
    }
}

// The same for x, (rows, columns), in parts of `part` rows: (parts, columns).
KERNEL column_part_sums(float *sums, const float *x, unsigned rows, unsigned columns, unsigned part, unsigned count) {
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
KERNEL gather_columns(
    float *columns, const float *x, unsigned h, unsigned w, unsigned k, unsigned out_w, unsigned stride,
    unsigned before, unsigned first, unsigned rows, unsigned count
) {
    FOR_EACH(i, count) {
        const unsigned out_x = i % out_w;
        unsigned rest = i / out_w;
        const unsigned out_y = rest % rows + first;
        rest /= rows;
        const unsigned kx = rest % k, ky = rest / k % k;
        const unsigned plane = rest / (k * k); // item * c + channel
        // What lies before the picture wraps around and is too large.
        const unsigned y = out_y * stride + ky - before, x_ = out_x * stride + kx - before;
        columns[i] = y < h && x_ < w ? x[((unsigned long long)plane * h + y) * w + x_] : 0.0f;
    }
}

// Sums up what gather_columns copied of each place of dx, (items, c, h, w); `add` to what is there, or in its place.
KERNEL scatter_columns(
    float *dx, const float *columns, unsigned h, unsigned w, unsigned k, unsigned out_w, unsigned stride,
    unsigned before, unsigned first, unsigned rows, unsigned add, unsigned count
) {
    FOR_EACH(i, count) {
        const unsigned x = i % w, y = i / w % h;
        const unsigned plane = i / (w * h); // item * c + channel
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
KERNEL statistics(float *stats, const float *x, unsigned length, float eps) {
    SHARED float partial[THREADS];
    const float *row = x + (unsigned long long)BLOCK * length;
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

FUNCTION float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// x, (..., channels, plane), normalized in groups of `in_group` numbers that lie in a row, and SiLU of it.
KERNEL normalize(
    float *y, const float *x, const float *stats, const float *weight, const float *bias, unsigned channels,
    unsigned plane, unsigned in_group, unsigned silu, unsigned count
) {
    FOR_EACH(i, count) {
        const unsigned channel = i / plane % channels, group = i / in_group;
        const float z = (x[i] - stats[2 * group]) * stats[2 * group + 1] * weight[channel] + bias[channel];
        y[i] = silu ? z * sigmoid(z) : z;
    }
}

// Gradient of the normalized number before SiLU.
FUNCTION float before_silu(float dy, float z, unsigned silu) {
    if (!silu) return dy;
    const float s = sigmoid(z);
    return dy * s * (1.0f + z * (1.0f - s));
}

// Sums of dz x_hat and of dz for each plane of each item, one for each block: (b channels, 2).
KERNEL group_norm_sums(
    float *sums, const float *x, const float *dy, const float *stats, const float *weight, const float *bias,
    unsigned channels, unsigned plane, unsigned in_group, unsigned silu
) {
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

// Means of dz weight x_hat and of dz weight over each group, from the sums of its planes: (groups, 2), counted through the batch.
KERNEL group_norm_means(
    float *means, const float *sums, const float *weight, unsigned channels, unsigned channels_in_group,
    unsigned in_group, unsigned count
) {
    FOR_EACH(group, count) {
        float mean_dx = 0, mean_d = 0;
        for (unsigned i = 0; i < channels_in_group; ++i) {
            const unsigned at = group * channels_in_group + i;
            mean_dx += sums[2 * at] * weight[at % channels];
            mean_d += sums[2 * at + 1] * weight[at % channels];
        }
        means[2 * group] = mean_dx / in_group;
        means[2 * group + 1] = mean_d / in_group;
    }
}

KERNEL group_norm_backward(
    float *dx, const float *x, const float *dy, const float *stats, const float *means, const float *weight,
    const float *bias, unsigned channels, unsigned plane, unsigned in_group, unsigned silu, unsigned count
) {
    FOR_EACH(i, count) {
        const unsigned channel = i / plane % channels, group = i / in_group;
        const float rstd = stats[2 * group + 1], x_hat = (x[i] - stats[2 * group]) * rstd;
        const float dz = before_silu(dy[i], x_hat * weight[channel] + bias[channel], silu);
        dx[i] = rstd * (dz * weight[channel] - means[2 * group + 1] - x_hat * means[2 * group]);
    }
}

// One row of x, (rows, columns), for each block.
KERNEL layer_norm_backward(
    float *dx, const float *x, const float *dy, const float *stats, const float *weight, unsigned columns
) {
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
KERNEL layer_norm_part_sums(
    float *sums, const float *x, const float *dy, const float *stats, unsigned rows, unsigned columns, unsigned part,
    unsigned count
) {
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

// Softmax of each row of scores, (rows, columns), in place, one for each block.
KERNEL softmax(float *scores, unsigned columns) {
    SHARED float partial[THREADS];
    float *row = scores + (unsigned long long)BLOCK * columns;
    FOR_EACH_THREAD(thread) {
        float largest = -INFINITY;
        for (unsigned i = thread; i < columns; i += THREADS) largest = fmaxf(largest, row[i]);
        partial[thread] = largest;
    }
    const float largest = block_max(partial);
    FOR_EACH_THREAD(thread) {
        float sum = 0;
        for (unsigned i = thread; i < columns; i += THREADS) sum += row[i] = expf(row[i] - largest);
        partial[thread] = sum;
    }
    const float norm = 1.0f / block_sum(partial);
    FOR_EACH_THREAD(thread) {
        for (unsigned i = thread; i < columns; i += THREADS) row[i] *= norm;
    }
}

// p, (rows, columns), becomes the gradient of the scores over `scale`: scale p (dp - sum(p dp)); one row for each block.
KERNEL softmax_backward(float *p, const float *dp, float scale, unsigned columns) {
    SHARED float partial[THREADS];
    const unsigned long long start = (unsigned long long)BLOCK * columns;
    FOR_EACH_THREAD(thread) {
        float sum = 0;
        for (unsigned i = thread; i < columns; i += THREADS) sum += p[start + i] * dp[start + i];
        partial[thread] = sum;
    }
    const float delta = block_sum(partial);
    FOR_EACH_THREAD(thread) {
        for (unsigned i = thread; i < columns; i += THREADS) p[start + i] *= scale * (dp[start + i] - delta);
    }
}

// Small operations.

// Probability that a standard normal number is below x.
FUNCTION float normal_cdf(float x) { return 0.5f * (1.0f + erff(x * 0.70710678f)); }

// y, (..., d), of x, (..., 2 d): the first half times gelu of the second.
KERNEL geglu(float *y, const float *x, unsigned d, unsigned count) {
    FOR_EACH(i, count) {
        const unsigned long long at = (unsigned long long)(i / d) * 2 * d + i % d;
        const float gate = x[at + d];
        y[i] = x[at] * gate * normal_cdf(gate);
    }
}

KERNEL geglu_backward(float *dx, const float *x, const float *dy, unsigned d, unsigned count) {
    FOR_EACH(i, count) {
        const unsigned long long at = (unsigned long long)(i / d) * 2 * d + i % d;
        const float h = x[at], gate = x[at + d], cdf = normal_cdf(gate);
        dx[at] = dy[i] * gate * cdf;
        // 1 / sqrt(2 pi) of the normal density.
        dx[at + d] = dy[i] * h * (cdf + gate * 0.39894228f * expf(-0.5f * gate * gate));
    }
}

// y, (planes, 2 h, 2 w), of x, (planes, h, w).
KERNEL upsample(float *y, const float *x, unsigned h, unsigned w, unsigned count) {
    FOR_EACH(i, count) {
        const unsigned column = i % (2 * w), row = i / (2 * w) % (2 * h), plane = i / (4 * w * h);
        y[i] = x[((unsigned long long)plane * h + row / 2) * w + column / 2];
    }
}

KERNEL upsample_backward(float *dx, const float *dy, unsigned w, unsigned count) {
    FOR_EACH(i, count) {
        const unsigned column = i % w, row = i / w; // through all planes
        const float *first = dy + (unsigned long long)row * 4 * w + 2 * column, *second = first + 2 * w;
        dx[i] = first[0] + first[1] + second[0] + second[1];
    }
}

// A step of Adam, as in optimizer.rs.
KERNEL adam(
    float *p, const float *g, float *m, float *v, float beta_1, float beta_2, float size, float root_of_bias_2, float eps,
    unsigned count
) {
    FOR_EACH(i, count) {
        m[i] = beta_1 * m[i] + (1.0f - beta_1) * g[i];
        v[i] = beta_2 * v[i] + (1.0f - beta_2) * g[i] * g[i];
        p[i] -= size * m[i] / (sqrtf(v[i]) / root_of_bias_2 + eps);
    }
}
