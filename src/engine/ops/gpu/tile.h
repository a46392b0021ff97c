// Products of small matrices by the warps of a block: on tensor cores, or, compiled as C++, by loops.
//
// A warp multiplies 16x8 numbers by 8x16 and adds to 16x16, as CUDA's wmma does it with factors in TF32. Which lane has
// which of them is NVIDIA's secret, and nothing here needs to know it. The loops take f32 as it is, so that tests see
// the kernels' own errors and not those of 10 bits behind the point.
#pragma once
#include "kernel.h"

#define LANES 32u
#define WARPS (THREADS / LANES)

#ifdef __CUDACC__

#include <mma.h>

// For a loop whose turns differ in registers, and for one that is to take few of them.
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")

// What a warp or a thread has for itself from one phase to the next is in its registers: arrays of one, of which it
// takes the one.
#define PER_WARP 1
#define PER_THREAD 1
#define OF(index) ((index) * 0)
// A phase in which every warp works for itself, without a barrier of the block within; `continue` ends it for a warp.
#define FOR_EACH_WARP(warp) for (unsigned warp = threadIdx.x / LANES, once_ = 1; once_; __syncthreads(), once_ = 0)
// A phase of one warp, within one of those.
#define FOR_EACH_LANE(lane) for (unsigned lane = threadIdx.x % LANES, once_ = 1; once_; __syncwarp(), once_ = 0)
// What some lanes have written others may read.
#define WARP_BARRIER() __syncwarp()

typedef float4 Four;
typedef nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, 8, nvcuda::wmma::precision::tf32,
                               nvcuda::wmma::row_major>
    Left;
// The rows of the right factor lie in rows, or, transposed, in columns.
typedef nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 8, nvcuda::wmma::precision::tf32,
                               nvcuda::wmma::row_major>
    Right;
typedef nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 8, nvcuda::wmma::precision::tf32,
                               nvcuda::wmma::col_major>
    Transposed;
typedef nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 8, float> Sum;

// The nearest number that a factor can be. What is loaded as a factor has been through this.
FUNCTION float factor(float x) { return nvcuda::wmma::__float_to_tf32(x); }

// Memory of a block from a multiple of 32 bytes on, rows a multiple of 16 bytes apart: `row` counts numbers. Not by
// wmma's functions of C++, which do not say that it is a block's own: these would become loads that find out each time,
// with addresses twice as long.
#define LOAD_FACTOR(Factor, which) \
    FUNCTION void load(Factor &x, const float *from, unsigned row) { \
        unsigned bits[4]; \
        asm volatile("wmma.load." which ".m16n16k8.shared.tf32 {%0, %1, %2, %3}, [%4], %5;" \
                     : "=r"(bits[0]), "=r"(bits[1]), "=r"(bits[2]), "=r"(bits[3]) \
                     : "r"(unsigned(__cvta_generic_to_shared(from))), "r"(row) \
                     : "memory"); \
        UNROLL \
        for (int i = 0; i < 4; ++i) x.x[i] = __uint_as_float(bits[i]); \
    }
LOAD_FACTOR(Left, "a.sync.aligned.row")
LOAD_FACTOR(Right, "b.sync.aligned.row")
LOAD_FACTOR(Transposed, "b.sync.aligned.col")
FUNCTION void load_sum(Sum &x, const float *from, unsigned row) {
    asm volatile("wmma.load.c.sync.aligned.row.m16n16k8.shared.f32 {%0, %1, %2, %3, %4, %5, %6, %7}, [%8], %9;"
                 : "=f"(x.x[0]), "=f"(x.x[1]), "=f"(x.x[2]), "=f"(x.x[3]), "=f"(x.x[4]), "=f"(x.x[5]), "=f"(x.x[6]),
                   "=f"(x.x[7])
                 : "r"(unsigned(__cvta_generic_to_shared(from))), "r"(row)
                 : "memory");
}
FUNCTION void store(float *to, const Sum &x, unsigned row) {
    asm volatile("wmma.store.d.sync.aligned.row.m16n16k8.shared.f32 [%8], {%0, %1, %2, %3, %4, %5, %6, %7}, %9;"
                 :
                 : "f"(x.x[0]), "f"(x.x[1]), "f"(x.x[2]), "f"(x.x[3]), "f"(x.x[4]), "f"(x.x[5]), "f"(x.x[6]),
                   "f"(x.x[7]), "r"(unsigned(__cvta_generic_to_shared(to))), "r"(row)
                 : "memory");
}
FUNCTION void clear(Sum &x) { nvcuda::wmma::fill_fragment(x, 0.0f); }
template <typename Factor>
FUNCTION void multiply(Sum &sum, const Left &x, const Factor &y) {
    nvcuda::wmma::mma_sync(sum, x, y, sum);
}

// x times the factor of each row; `rows`, loaded as x would be, holds the number of its row at each place.
FUNCTION void scale_rows(Sum &x, const Sum &rows, const float *factors) {
    UNROLL
    for (int i = 0; i < x.num_elements; ++i) x.x[i] *= factors[int(rows.x[i])];
}

#else

#include <cstdint>
#include <cstdlib>

#define UNROLL
#define ROLLED

#define PER_WARP WARPS
#define PER_THREAD THREADS
#define OF(index) (index)
#define FOR_EACH_WARP(warp) \
    for (unsigned turn_ = 0, warp; turn_ < WARPS; ++turn_) \
        if (warp = backwards ? WARPS - 1 - turn_ : turn_; true)
#define FOR_EACH_LANE(lane) \
    for (unsigned turn_ = 0, lane; turn_ < LANES; ++turn_) \
        if (lane = backwards ? LANES - 1 - turn_ : turn_; true)
#define WARP_BARRIER()

struct alignas(16) Four {
    float x, y, z, w;
};
struct Left {
    float x[16][8];
};
struct Right {
    float x[8][16];
};
struct Transposed {
    float x[8][16];
};
struct Sum {
    float x[16][16];
};

FUNCTION float factor(float x) { return x; }

// As tensor cores do, takes only matrices at a multiple of 32 bytes whose rows are a multiple of 16 bytes apart.
FUNCTION void check(const float *matrix, unsigned row) {
    if (reinterpret_cast<std::uintptr_t>(matrix) % 32 || row % 4) std::abort();
}
template <unsigned ROWS, unsigned COLUMNS>
FUNCTION void copy(float (&x)[ROWS][COLUMNS], const float *from, unsigned down, unsigned across) {
    check(from, down == 1 ? across : down);
    for (unsigned i = 0; i < ROWS; ++i)
        for (unsigned j = 0; j < COLUMNS; ++j) x[i][j] = from[i * down + j * across];
}
FUNCTION void load(Left &x, const float *from, unsigned row) { copy(x.x, from, row, 1); }
FUNCTION void load(Right &x, const float *from, unsigned row) { copy(x.x, from, row, 1); }
FUNCTION void load(Transposed &x, const float *from, unsigned row) { copy(x.x, from, 1, row); }
FUNCTION void load_sum(Sum &x, const float *from, unsigned row) { copy(x.x, from, row, 1); }
FUNCTION void store(float *to, const Sum &x, unsigned row) {
    check(to, row);
    for (unsigned i = 0; i < 16; ++i)
        for (unsigned j = 0; j < 16; ++j) to[i * row + j] = x.x[i][j];
}
FUNCTION void clear(Sum &x) { x = Sum(); }
template <typename Factor>
FUNCTION void multiply(Sum &sum, const Left &x, const Factor &y) {
    for (unsigned i = 0; i < 16; ++i)
        for (unsigned l = 0; l < 8; ++l)
            for (unsigned j = 0; j < 16; ++j) sum.x[i][j] += x.x[i][l] * y.x[l][j];
}
FUNCTION void scale_rows(Sum &x, const Sum &rows, const float *factors) {
    for (unsigned i = 0; i < 16; ++i)
        for (unsigned j = 0; j < 16; ++j) x.x[i][j] *= factors[unsigned(rows.x[i][j])];
}

#endif
