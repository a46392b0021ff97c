// What the kernels are written in: CUDA, or C++ for the processor, so that a test can run the same source without a GPU.
//
// A kernel is a sequence of phases. Within a phase every thread of a block works for itself; between two phases all of them
// wait for each other. What stands outside of a phase is the same for all threads. On the processor a phase is a loop.
#pragma once

// Threads of every block.
#define THREADS 256u

#ifdef __CUDACC__

#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)
#define FUNCTION static __device__ __forceinline__
#define SHARED __shared__
#define BLOCK blockIdx.x
#define BARRIER() __syncthreads()
// One phase; it ends with a barrier, so no thread may leave the kernel in it.
#define FOR_EACH_THREAD(thread) for (unsigned thread = threadIdx.x, once = 1; once; __syncthreads(), once = 0)

#else

#include <cmath>

static thread_local unsigned current_block;

// Whether the last thread goes first. What threads of one phase do must not depend on it: on a GPU they run at once.
static thread_local bool backwards;

#define KERNEL static void
#define FUNCTION static inline
#define SHARED
#define BLOCK current_block
#define BARRIER()
#define FOR_EACH_THREAD(thread)                                \
    for (unsigned turn = 0, thread; turn < THREADS; ++turn) \
        if (thread = backwards ? THREADS - 1 - turn : turn; true)

#endif

// A phase in which every thread has one of `count` numbers.
#define FOR_EACH(index, count)                                                             \
    FOR_EACH_THREAD(thread_)                                                               \
    for (unsigned index = BLOCK * THREADS + thread_, index##_once = 1; index##_once && index < (count); index##_once = 0)

// Sum of THREADS values, always taken in the same order. Not to be called in a phase; uses up `values`.
FUNCTION float block_sum(float *values) {
    for (unsigned half = THREADS / 2; half; half /= 2)
        FOR_EACH_THREAD(thread) {
            if (thread < half) values[thread] += values[thread + half];
        }
    const float sum = values[0];
    BARRIER();
    return sum;
}

// The largest of THREADS values, as block_sum.
FUNCTION float block_max(float *values) {
    for (unsigned half = THREADS / 2; half; half /= 2)
        FOR_EACH_THREAD(thread) {
            if (thread < half) values[thread] = fmaxf(values[thread], values[thread + half]);
        }
    const float largest = values[0];
    BARRIER();
    return largest;
}
