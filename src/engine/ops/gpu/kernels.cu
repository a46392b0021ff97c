// The engine's operations on the GPU, but for matrix products; `gpu.rs` calls them and says what they are good for.
//
// All tensors lie in a row. Counts are less than 2^31, which `gpu.rs` checks. Sums are taken in a fixed order. All
// arithmetic is of f32; typed.cu has the kernels whose tensors may be stored in 16 bits.
#include "kernel.h"

#include "adam8.cu"
#include "attention.cu"

// Sums over the first dimension of x, (rows, columns, stride), at one place of the last: (columns).
KERNEL column_sums(float *sums, const float *x, unsigned rows, unsigned columns, unsigned stride, unsigned place) {
    FOR_EACH(column, columns) {
        float sum = 0;
        for (unsigned row = 0; row < rows; ++row)
            sum += x[((unsigned long long)row * columns + column) * stride + place];
        sums[column] = sum;
    }
}

// Means of dz weight x_hat and of dz weight over each group, from the sums of its planes: (groups, 2), counted through
// the batch.
KERNEL group_norm_means(float *means, const float *sums, const float *weight, unsigned channels,
                        unsigned channels_in_group, unsigned in_group, unsigned count) {
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

// A step of Adam, as in optimizer.rs. What differs between steps, the step's size and the root of the second bias, is
// read from memory, so that a launch is the same in every step.
KERNEL adam(float *p, const float *g, float *m, float *v, const float *numbers, float beta_1, float beta_2, float eps,
            unsigned count) {
    const float size = numbers[0], root_of_bias_2 = numbers[1];
    FOR_EACH(i, count) {
        m[i] = beta_1 * m[i] + (1.0f - beta_1) * g[i];
        v[i] = beta_2 * v[i] + (1.0f - beta_2) * g[i] * g[i];
        p[i] -= size * m[i] / (sqrtf(v[i]) / root_of_bias_2 + eps);
    }
}

// What an example of a step is made of and compared with.

// y = a x + sign b z, where a and b have a number for each `item` numbers, and x begins anew after x_count.
KERNEL weighted_sum(float *y, const float *x, const float *a, const float *z, const float *b, float sign, unsigned item,
                    unsigned x_count, unsigned z_count, unsigned count) {
    FOR_EACH(i, count) y[i] = a[i / item] * x[i % x_count] + sign * (b[i / item] * z[i % z_count]);
}

// Sums of `scale` (x - y)^2 over parts of `part` numbers, one for each block.
KERNEL squared_error_sums(float *sums, const float *x, const float *y, float scale, unsigned part, unsigned count) {
    SHARED float partial[THREADS];
    const unsigned first = BLOCK * part, last = first + part < count ? first + part : count;
    FOR_EACH_THREAD(thread) {
        float sum = 0;
        for (unsigned i = first + thread; i < last; i += THREADS) sum += (x[i] - y[i]) * (x[i] - y[i]);
        partial[thread] = sum;
    }
    const float sum = block_sum(partial);
    FOR_EACH_THREAD(thread) {
        if (thread == 0) sums[BLOCK] = scale * sum;
    }
}

// Gradient of x in `scale` (x - y)^2, where that of the sum is `dsum`.
KERNEL squared_error_backward(float *dx, const float *x, const float *y, const float *dsum, float scale,
                              unsigned count) {
    const float d = 2.0f * scale * dsum[0];
    FOR_EACH(i, count) dx[i] = d * (x[i] - y[i]);
}

FUNCTION float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Gradient of the normalized number before SiLU.
FUNCTION float before_silu(float dy, float z, unsigned silu) {
    if (!silu) return dy;
    const float s = sigmoid(z);
    return dy * s * (1.0f + z * (1.0f - s));
}

// Probability that a standard normal number is below x.
FUNCTION float normal_cdf(float x) { return 0.5f * (1.0f + erff(x * 0.70710678f)); }

// Softmax of each row of scores, (rows, columns), as p, which may be the same place; uses up scores. One row for each
// block.
template <typename T>
FUNCTION void softmax_of(T *p, float *scores, unsigned columns) {
    SHARED float partial[THREADS];
    const unsigned long long start = (unsigned long long)BLOCK * columns;
    float *row = scores + start;
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
        for (unsigned i = thread; i < columns; i += THREADS) p[start + i] = row[i] * norm;
    }
}

// In place.
KERNEL softmax(float *scores, unsigned columns) { softmax_of(scores, scores, columns); }

// Side of the squares in which transpose goes.
#define TILE 32u

// What tensors are stored in, and what the names of its kernels end with.
#define TRAINING

#define T float
#define OF_T(kernel) kernel
#include "typed.cu"
#undef T
#undef OF_T

#define NARROW

#define T bf16
#define OF_T(kernel) kernel##_bf16
#include "typed.cu"
#undef T
#undef OF_T

// f16 is for sampling alone.
#undef TRAINING

#define T f16
#define OF_T(kernel) kernel##_f16
#include "typed.cu"
#undef T
#undef OF_T
