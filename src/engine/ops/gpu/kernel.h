// What the kernels are written in: CUDA, or C++ for the processor, so that a test can run the same source without a
// GPU.
//
// A kernel is a sequence of phases. Within a phase every thread of a block works for itself; between two phases all of
// them wait for each other. What stands outside of a phase is the same for all threads. On the processor a phase is a
// loop.
#pragma once

// Threads of every block.
#define THREADS 256u

#ifdef __CUDACC__

#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)
#define FUNCTION static __device__ __forceinline__
#define MEMBER __device__ __forceinline__
#define SHARED __shared__
#define BLOCK blockIdx.x
#define BARRIER() __syncthreads()
// One phase; it ends with a barrier, so no thread may leave the kernel in it.
#define FOR_EACH_THREAD(thread) for (unsigned thread = threadIdx.x, once = 1; once; __syncthreads(), once = 0)

#else

#include <cmath>
#include <cstring>

static thread_local unsigned current_block;

// Whether the last thread goes first. What threads of one phase do must not depend on it: on a GPU they run at once.
static thread_local bool backwards;

#define KERNEL static void
#define FUNCTION static inline
#define MEMBER inline
#define SHARED
#define BLOCK current_block
#define BARRIER()
#define FOR_EACH_THREAD(thread) \
    for (unsigned turn = 0, thread; turn < THREADS; ++turn) \
        if (thread = backwards ? THREADS - 1 - turn : turn; true)

#endif

// Numbers of 16 bits, which only lie in memory: they become f32 where they are read, and f32 is rounded to the nearest
// of them, of two equally near ones to the even one.

FUNCTION float bits_as_float(unsigned bits) {
#ifdef __CUDACC__
    return __uint_as_float(bits);
#else
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
#endif
}

// 8 bits of exponent, as f32 has, and 7 behind the point.
struct bf16 {
    unsigned short bits;

    MEMBER operator float() const { return bits_as_float((unsigned)bits << 16); }

    MEMBER bf16 &operator=(float x) {
#ifdef __CUDACC__
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#else
        unsigned whole;
        std::memcpy(&whole, &x, 4);
        bits = x == x ? (whole + 0x7fff + (whole >> 16 & 1)) >> 16 : 0x7fff;
#endif
        return *this;
    }
};

// 5 bits of exponent and 10 behind the point: up to 65504, and from 6e-5 down in even steps of 6e-8.
struct f16 {
    unsigned short bits;

    MEMBER operator float() const {
#ifdef __CUDACC__
        float x;
        asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
        return x;
#else
        const int exponent = bits >> 10 & 31, fraction = bits & 1023;
        const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                           : exponent     ? std::ldexp(float(1024 + fraction), exponent - 25)
                                          : std::ldexp(float(fraction), -24);
        return bits >> 15 ? -size : size;
#endif
    }

    MEMBER f16 &operator=(float x) {
#ifdef __CUDACC__
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#else
        const float size = std::fabs(x);
        unsigned short without_sign = 0x7fff;         // NaN
        if (size >= 65520.0f) without_sign = 0x7c00;  // infinity; 65520 is in the middle to the next power of two
        else if (size == size) {
            int exponent;
            std::frexp(size, &exponent);
            // Up to `size` there are at most 2048 steps of 2^step; 1024 of them are one of the exponent.
            const int step = size < 0x1p-14f ? -24 : exponent - 11;
            without_sign = (unsigned short)(((step + 24) << 10) + int(std::nearbyint(std::ldexp(size, -step))));
        }
        bits = without_sign | (std::signbit(x) ? 0x8000 : 0);
#endif
        return *this;
    }
};

// A phase in which every thread has one of `count` numbers.
#define FOR_EACH(index, count) \
    FOR_EACH_THREAD(thread_) \
    for (unsigned index = BLOCK * THREADS + thread_, index##_once = 1; index##_once && index < (count); \
         index##_once = 0)

// Sum of THREADS values, always taken in the same order. Not to be called in a phase; uses up `values`.
FUNCTION float block_sum(float *values) {
    for (unsigned half = THREADS / 2; half; half /= 2) FOR_EACH_THREAD(thread) {
            if (thread < half) values[thread] += values[thread + half];
        }
    const float sum = values[0];
    BARRIER();
    return sum;
}

// The largest of THREADS values, as block_sum.
FUNCTION float block_max(float *values) {
    for (unsigned half = THREADS / 2; half; half /= 2) FOR_EACH_THREAD(thread) {
            if (thread < half) values[thread] = fmaxf(values[thread], values[thread + half]);
        }
    const float largest = values[0];
    BARRIER();
    return largest;
}
