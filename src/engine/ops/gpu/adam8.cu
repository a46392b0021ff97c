// Adam with moments of 8 bits: blocks of 256 values and their largest one, as in Dettmers et al., "8-bit Optimizers via
// Block-wise Quantization", ICLR 2022, section 2, with the blocks and the sizes of code books of its authors' library
// bitsandbytes.
//
// A step reads and writes 16 bytes for each number where f32 moments are 28: 4.1 ms instead of 7.2 for Stable
// Diffusion 1.5's 860 million on an H100 (3.35 TB/s), if memory is what limits it.
#include "tile.h"

// Values of a block, for which there are their codes of the first and of the second moment and the largest of each. As
// in `adam8.rs`.
#define CODED 256u
#define BYTES_OF_CODED (2 * CODED + 2 * 4)
#define EACH_LANE (CODED / LANES)

// A value of the paper's dynamic tree: `place` of 2^bits means of even parts of 0.1 to 1, over 10^(6 - level).
FUNCTION float tree_value(unsigned place, unsigned bits, unsigned level) {
    float power = 1;
    for (unsigned i = level; i < 6; ++i) power *= 10;
    return (0.1f + 0.9f * (place + 0.5f) / (1u << bits)) / power;
}

// The greatest power of 2 in a number above 0.
FUNCTION unsigned greatest_bit(unsigned x) {
    unsigned bit = 0;
    while (x >> (bit + 1)) ++bit;
    return bit;
}

// What code `code` of a first moment means, -0.99 to 1; 127 is 0.
FUNCTION float signed_value(unsigned code) {
    if (code == 127) return 0;
    if (code == 255) return 1;
    const unsigned number = code > 127 ? code - 127 : 127 - code, level = greatest_bit(number);
    const float size = tree_value(number - (1u << level), level, level);
    return code > 127 ? size : -size;
}

// What code `code` of a second moment means, 0 to 1.
FUNCTION float unsigned_value(unsigned code) {
    if (code == 0) return 0;
    if (code == 255) return 1;
    const unsigned bits = greatest_bit(code + 1);
    return tree_value(code + 1 - (1u << bits), bits, bits - 1);
}

// The code whose value is next to x; `values` ascend.
FUNCTION unsigned char nearest(const float *values, float x) {
    unsigned low = 0, high = 255;
    while (high - low > 1) {
        const unsigned middle = (low + high) / 2;
        if (values[middle] <= x) low = middle;
        else high = middle;
    }
    return (unsigned char)(x - values[low] <= values[high] - x ? low : high);
}

// A step of Adam, as `adam` in kernels.cu; the parameters change by moments of f32, which are then coded. A warp for
// each block.
//
// Unlike in bitsandbytes no second moment but 0 is coded as 0, the fate of those below 1.6e-7 of their block's largest:
// the next step would be over the last gradient alone, many times too large where that one happens to be small. As code
// 1 it is too small at worst.
KERNEL adam8(float *p, const float *g, float *moments, const float *numbers, float beta_1, float beta_2, float eps,
             unsigned count) {
    const float size = numbers[0], root_of_bias_2 = numbers[1];
    SHARED float values_1[256], values_2[256], largest_1[THREADS], largest_2[THREADS];
    float first[PER_THREAD][EACH_LANE], second[PER_THREAD][EACH_LANE];
    FOR_EACH_THREAD(thread) {
        values_1[thread] = signed_value(thread);
        values_2[thread] = unsigned_value(thread);
    }
    FOR_EACH_WARP(warp) {
        const unsigned start = (BLOCK * WARPS + warp) * CODED;
        if (start >= count) continue;
        unsigned char *codes_1 =
            reinterpret_cast<unsigned char *>(moments) + (unsigned long long)(BLOCK * WARPS + warp) * BYTES_OF_CODED;
        unsigned char *codes_2 = codes_1 + CODED;
        float *scales = reinterpret_cast<float *>(codes_2 + CODED);
        float *here_1 = largest_1 + warp * LANES, *here_2 = largest_2 + warp * LANES;
        FOR_EACH_LANE(lane) {
            float (&m)[EACH_LANE] = first[OF(warp * LANES + lane)], (&v)[EACH_LANE] = second[OF(warp * LANES + lane)];
            float most_1 = 0, most_2 = 0;
            UNROLL
            for (unsigned i = 0; i < EACH_LANE; ++i) {
                const unsigned at = lane + LANES * i;
                m[i] = v[i] = 0;
                if (start + at >= count) continue;
                const float gradient = g[start + at];
                m[i] = beta_1 * (values_1[codes_1[at]] * scales[0]) + (1.0f - beta_1) * gradient;
                v[i] = beta_2 * (values_2[codes_2[at]] * scales[1]) + (1.0f - beta_2) * gradient * gradient;
                p[start + at] -= size * m[i] / (sqrtf(v[i]) / root_of_bias_2 + eps);
                most_1 = fmaxf(most_1, fabsf(m[i]));
                most_2 = fmaxf(most_2, v[i]);
            }
            here_1[lane] = most_1;
            here_2[lane] = most_2;
        }
        for (unsigned half = LANES / 2; half; half /= 2) {
            FOR_EACH_LANE(lane) {
                if (lane < half) {
                    here_1[lane] = fmaxf(here_1[lane], here_1[lane + half]);
                    here_2[lane] = fmaxf(here_2[lane], here_2[lane + half]);
                }
            }
        }
        FOR_EACH_LANE(lane) {
            const float (&m)[EACH_LANE] = first[OF(warp * LANES + lane)],
                        (&v)[EACH_LANE] = second[OF(warp * LANES + lane)];
            UNROLL
            for (unsigned i = 0; i < EACH_LANE; ++i) {
                const unsigned at = lane + LANES * i;
                codes_1[at] = nearest(values_1, here_1[0] > 0 ? m[i] / here_1[0] : 0.0f);
                const unsigned char code_2 = nearest(values_2, here_2[0] > 0 ? v[i] / here_2[0] : 0.0f);
                codes_2[at] = v[i] > 0 && code_2 == 0 ? 1 : code_2;
            }
            if (lane == 0) {
                scales[0] = here_1[0];
                scales[1] = here_2[0];
            }
        }
    }
}
