// A driver of CUDA whose card is the processor, for tests on machines without a GPU: what `libcuda.so.1` and `libcublas.so.13`
// export, as far as the engine calls it. Its memory is the machine's, and a kernel has run when the call that launches it returns.
//
// Our own kernels are those of src/engine/ops/gpu, compiled as C++. candle's are written anew here, as far as they are needed;
// what is not known stops the program with its name. So this tests every call of ours, but neither candle's kernels nor
// anything that only happens when threads run at once.
//
// STUB_CUDA_VERSION, STUB_CARDS, STUB_CAPABILITY (80 is 8.0) and STUB_MEMORY (in MB) make it another driver and another card;
// with STUB_BACKWARDS the last thread of a kernel goes first; STUB_FULL_AT is the number of the one allocation that finds the memory full,
// and STUB_FULL_AGAIN that of another one.

#include "../../src/engine/ops/gpu/host.cpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <string>

typedef int Result;  // 0 is success
typedef std::uint64_t Pointer;

static const Result INVALID_VALUE = 1, OUT_OF_MEMORY = 2;

static std::uint64_t setting(const char *name, std::uint64_t otherwise) {
    const char *value = std::getenv(name);
    return value ? std::strtoull(value, nullptr, 10) : otherwise;
}

static std::mutex lock;
static std::map<Pointer, std::size_t> blocks_in_use;
static std::uint64_t used, most_used;
static void *context;

static std::uint64_t memory() { return setting("STUB_MEMORY", 16000) << 20; }

static Result allocate(Pointer *pointer, std::size_t size) {
    if (size == 0) return INVALID_VALUE;
    std::lock_guard<std::mutex> guard(lock);
    static std::uint64_t calls, full_at = setting("STUB_FULL_AT", 0), again = setting("STUB_FULL_AGAIN", 0);
    if (used + size > memory() || ++calls == full_at || calls == again) return OUT_OF_MEMORY;
    void *block = std::malloc(size);
    std::memset(block, 0xff, size);  // NaN: what is read before it is written is found out
    *pointer = reinterpret_cast<Pointer>(block);
    blocks_in_use[*pointer] = size;
    used += size;
    if (used > most_used) most_used = used;
    return 0;
}

static Result release(Pointer pointer) {
    std::lock_guard<std::mutex> guard(lock);
    auto block = blocks_in_use.find(pointer);
    if (block == blocks_in_use.end()) return INVALID_VALUE;
    used -= block->second;
    std::free(reinterpret_cast<void *>(pointer));
    blocks_in_use.erase(block);
    return 0;
}

// Whether `size` bytes from `pointer` on lie in one block.
static bool is_inside(Pointer pointer, std::size_t size) {
    std::lock_guard<std::mutex> guard(lock);
    auto block = blocks_in_use.upper_bound(pointer);
    if (block == blocks_in_use.begin()) return false;
    --block;
    return pointer + size <= block->first + block->second;
}

template <typename T>
static T argument(void **arguments, int index) {
    return *static_cast<T *>(arguments[index]);
}

// Where element `index` of a tensor of candle lies; `info` holds sizes, then strides, or is null where it lies in a row.
static std::size_t strided(std::size_t index, std::size_t dims, const std::size_t *info, int operand = 1) {
    if (!info) return index;
    std::size_t at = 0;
    for (std::size_t d = dims; d-- > 0; index /= info[d]) at += index % info[d] * info[operand * dims + d];
    return at;
}

static float from_f16(std::uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                       : exponent     ? std::ldexp(float(1024 + fraction), exponent - 25)
                                      : std::ldexp(float(fraction), -24);
    return bits >> 15 ? -size : size;
}

typedef float (*Unary)(float);
typedef float (*Binary)(float, float);

static const std::map<std::string, Unary> UNARY = {
    {"ucopy_f32", [](float x) { return x; }},
    {"usilu_f32", [](float x) { return x / (1.0f + std::exp(-x)); }},
    {"uexp_f32", [](float x) { return std::exp(x); }},
    {"uneg_f32", [](float x) { return -x; }},
    {"usqr_f32", [](float x) { return x * x; }},
    {"usqrt_f32", [](float x) { return std::sqrt(x); }},
    {"uabs_f32", [](float x) { return std::fabs(x); }},
    {"urecip_f32", [](float x) { return 1.0f / x; }},
};

static const std::map<std::string, Binary> BINARY = {
    {"badd_f32", [](float x, float y) { return x + y; }},
    {"bsub_f32", [](float x, float y) { return x - y; }},
    {"bmul_f32", [](float x, float y) { return x * y; }},
    {"bdiv_f32", [](float x, float y) { return x / y; }},
    {"bmaximum_f32", [](float x, float y) { return x > y ? x : y; }},
    {"bminimum_f32", [](float x, float y) { return x < y ? x : y; }},
};

static bool launch_of_candle(const std::string &name, void **a) {
    const std::size_t count = argument<std::size_t>(a, 0);
    if (UNARY.count(name)) {
        const std::size_t *info = argument<const std::size_t *>(a, 2), dims = argument<std::size_t>(a, 1);
        const float *x = argument<const float *>(a, 3);
        float *y = argument<float *>(a, 4);
        for (std::size_t i = 0; i < count; ++i) y[i] = UNARY.at(name)(x ? x[strided(i, dims, info)] : y[i]);
    } else if (BINARY.count(name)) {
        const std::size_t *info = argument<const std::size_t *>(a, 2), dims = argument<std::size_t>(a, 1);
        const float *x = argument<const float *>(a, 3), *y = argument<const float *>(a, 4);
        float *out = argument<float *>(a, 5);
        for (std::size_t i = 0; i < count; ++i) out[i] = BINARY.at(name)(x[strided(i, dims, info)], y[strided(i, dims, info, 2)]);
    } else if (name == "affine_f32") {
        const std::size_t *info = argument<const std::size_t *>(a, 2), dims = argument<std::size_t>(a, 1);
        const float *x = argument<const float *>(a, 3), mul = argument<float>(a, 5), add = argument<float>(a, 6);
        float *y = argument<float *>(a, 4);
        for (std::size_t i = 0; i < count; ++i) y[i] = (x ? x[strided(i, dims, info)] : y[i]) * mul + add;
    } else if (name == "cast_f32_f64") {
        const std::size_t *info = argument<const std::size_t *>(a, 2), dims = argument<std::size_t>(a, 1);
        const float *x = argument<const float *>(a, 3);
        double *y = argument<double *>(a, 4);
        for (std::size_t i = 0; i < count; ++i) y[i] = x[strided(i, dims, info)];
    } else if (name == "cast_f16_f32") {
        const std::size_t *info = argument<const std::size_t *>(a, 2), dims = argument<std::size_t>(a, 1);
        const std::uint16_t *x = argument<const std::uint16_t *>(a, 3);
        float *y = argument<float *>(a, 4);
        for (std::size_t i = 0; i < count; ++i) y[i] = from_f16(x[strided(i, dims, info)]);
    } else if (name == "const_set_f32") {
        const std::size_t *info = argument<const std::size_t *>(a, 2), dims = argument<std::size_t>(a, 1);
        const float value = argument<float>(a, 3);
        float *y = argument<float *>(a, 4);
        for (std::size_t i = 0; i < count; ++i) y[strided(i, dims, info)] = value;
    } else if (name == "copy2d_f32") {
        const float *x = argument<const float *>(a, 0);
        float *y = argument<float *>(a, 1);
        const std::uint32_t rows = argument<std::uint32_t>(a, 2), columns = argument<std::uint32_t>(a, 3);
        const std::uint32_t x_row = argument<std::uint32_t>(a, 4), y_row = argument<std::uint32_t>(a, 5);
        for (std::size_t i = 0; i < rows; ++i)
            for (std::size_t j = 0; j < columns; ++j) y[i * y_row + j] = x[i * x_row + j];
    } else if (name == "fast_sum_f32" || name == "fast_sum_small_f32" || name == "fast_max_f32") {
        const std::size_t each = argument<std::size_t>(a, 1), dims = argument<std::size_t>(a, 2);
        const std::size_t *info = argument<const std::size_t *>(a, 3);
        const float *x = argument<const float *>(a, 4);
        float *y = argument<float *>(a, 5);
        const bool is_sum = name != "fast_max_f32";
        const std::size_t results = name == "fast_sum_small_f32" ? count : count / each;
        for (std::size_t i = 0; i < results; ++i) {
            double result = is_sum ? 0.0 : -INFINITY;
            for (std::size_t j = 0; j < each; ++j) {
                const float value = x[strided(i * each + j, dims, info)];
                result = is_sum ? result + value : value > result ? value : result;
            }
            y[i] = float(result);
        }
    } else {
        return false;
    }
    return true;
}

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT Result cuInit(unsigned) { return setting("STUB_CARDS", 1) ? 0 : 100; }
EXPORT Result cuDriverGetVersion(int *version) { return *version = int(setting("STUB_CUDA_VERSION", 13000)), 0; }
EXPORT Result cuDeviceGetCount(int *count) { return *count = 1, 0; }
EXPORT Result cuDeviceGet(int *device, int ordinal) { return *device = ordinal, 0; }
EXPORT Result cuDeviceGetName(char *name, int size, int) { return std::snprintf(name, size, "a processor as a card"), 0; }
EXPORT Result cuDeviceTotalMem_v2(std::size_t *bytes, int) { return *bytes = memory(), 0; }
EXPORT Result cuDeviceGetAttribute(int *value, int attribute, int) {
    const int capability = int(setting("STUB_CAPABILITY", 80));
    // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR, _MEMORY_POOLS_SUPPORTED.
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : attribute == 115;
    return 0;
}
EXPORT Result cuDevicePrimaryCtxRetain(void **result, int) { return *result = &context, 0; }
EXPORT Result cuDevicePrimaryCtxRelease_v2(int) { return 0; }
EXPORT Result cuCtxGetCurrent(void **current) { return *current = context, 0; }
EXPORT Result cuCtxSetCurrent(void *current) { return context = current, 0; }
EXPORT Result cuCtxSynchronize() { return 0; }
EXPORT Result cuCtxDestroy_v2(void *) { return 0; }
EXPORT Result cuDeviceGetDefaultMemPool(void **pool, int) { return *pool = &used, 0; }
EXPORT Result cuMemPoolGetAttribute(void *, int attribute, void *value) {
    // CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, _USED_MEM_CURRENT, _USED_MEM_HIGH.
    *static_cast<std::uint64_t *>(value) = attribute == 5 || attribute == 7 ? used : attribute == 8 ? most_used : 0;
    return 0;
}
EXPORT Result cuMemPoolSetAttribute(void *, int, void *) { return 0; }
EXPORT Result cuMemPoolTrimTo(void *, std::size_t) { return 0; }
EXPORT Result cuMemGetInfo_v2(std::size_t *free, std::size_t *total) { return *total = memory(), *free = *total - used, 0; }
EXPORT Result cuMemAlloc_v2(Pointer *pointer, std::size_t size) { return allocate(pointer, size); }
EXPORT Result cuMemAllocAsync(Pointer *pointer, std::size_t size, void *) { return allocate(pointer, size); }
EXPORT Result cuMemFree_v2(Pointer pointer) { return release(pointer); }
EXPORT Result cuMemFreeAsync(Pointer pointer, void *) { return release(pointer); }
EXPORT Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, std::size_t size, void *) {
    if (!is_inside(to, size)) return INVALID_VALUE;
    return std::memcpy(reinterpret_cast<void *>(to), from, size), 0;
}
EXPORT Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, std::size_t size, void *) {
    if (!is_inside(from, size)) return INVALID_VALUE;
    return std::memcpy(to, reinterpret_cast<void *>(from), size), 0;
}
EXPORT Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, std::size_t size, void *) {
    if (!is_inside(to, size) || !is_inside(from, size)) return INVALID_VALUE;
    return std::memcpy(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), size), 0;
}
EXPORT Result cuMemcpyPeerAsync(Pointer, void *, Pointer, void *, std::size_t, void *) { return INVALID_VALUE; }
EXPORT Result cuMemsetD8Async(Pointer to, unsigned char value, std::size_t size, void *) {
    if (!is_inside(to, size)) return INVALID_VALUE;
    return std::memset(reinterpret_cast<void *>(to), value, size), 0;
}
EXPORT Result cuStreamCreate(void **stream, unsigned) { return *stream = &lock, 0; }
EXPORT Result cuStreamDestroy_v2(void *) { return 0; }
EXPORT Result cuStreamSynchronize(void *) { return 0; }
EXPORT Result cuStreamWaitEvent(void *, void *, unsigned) { return 0; }
EXPORT Result cuStreamIsCapturing(void *, int *status) { return *status = 0, 0; }
EXPORT Result cuEventCreate(void **event, unsigned) { return *event = &lock, 0; }
EXPORT Result cuEventRecord(void *, void *) { return 0; }
EXPORT Result cuEventDestroy_v2(void *) { return 0; }
EXPORT Result cuModuleLoad(void **, const char *) { return INVALID_VALUE; }
// A module is its text, which has the names of its kernels; candle's and ours have none in common.
EXPORT Result cuModuleLoadData(void **module, const void *image) { return *module = new std::string(static_cast<const char *>(image)), 0; }
EXPORT Result cuModuleUnload(void *) { return 0; }
EXPORT Result cuModuleGetFunction(void **function, void *module, const char *name) {
    if (static_cast<std::string *>(module)->find(".entry " + std::string(name) + "(") == std::string::npos) return 500;  // CUDA_ERROR_NOT_FOUND
    return *function = new std::string(name), 0;
}
EXPORT Result cuLaunchKernel(
    void *function, unsigned blocks, unsigned grid_y, unsigned grid_z, unsigned threads, unsigned block_y, unsigned block_z,
    unsigned, void *, void **arguments, void **
) {
    const std::string &name = *static_cast<std::string *>(function);
    if (!blocks || grid_y != 1 || grid_z != 1 || block_y != 1 || block_z != 1) return INVALID_VALUE;
    const int status = launch_kernel(name.c_str(), blocks, UNCOUNTED, arguments, setting("STUB_BACKWARDS", 0));
    if (status == 0 && threads == THREADS) return 0;
    if (status == 1 && launch_of_candle(name, arguments)) return 0;
    std::fprintf(stderr, "tests/cuda/driver.cpp: no kernel %s with %u threads\n", name.c_str(), threads);
    std::abort();
}
EXPORT Result cuGetErrorString(int error, const char **text) {
    *text = error == OUT_OF_MEMORY ? "out of memory" : error == 100 ? "no CUDA-capable device is detected" : "another error";
    return 0;
}

// The nearest of the tensor cores' 32 bit numbers, which have 10 bits behind the point.
static float tf32(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, 4);
    bits = (bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu;
    std::memcpy(&x, &bits, 4);
    return x;
}

EXPORT Result cublasCreate_v2(void **handle) { return *handle = &lock, 0; }
EXPORT Result cublasDestroy_v2(void *) { return 0; }
EXPORT Result cublasSetStream_v2(void *, void *) { return 0; }
EXPORT Result cublasDgemmStridedBatched() { return 15; }  // not supported
// Columns first, as NVIDIA's documentation defines it; refuses what that refuses, and what leaves a block.
EXPORT Result cublasGemmStridedBatchedEx(
    void *, int a_operation, int b_operation, int m, int n, int k, const float *alpha, const float *a, int a_type, int a_column,
    long long a_batch, const float *b, int b_type, int b_column, long long b_batch, const float *beta, float *c, int c_type,
    int c_column, long long c_batch, int batches, int compute, int
) {
    const int REAL = 0, F32 = 68, TF32 = 77;
    if (a_type != REAL || b_type != REAL || c_type != REAL || (compute != F32 && compute != TF32)) return 15;
    if (m < 1 || n < 1 || k < 1 || batches < 1) return 7;
    if (a_column < (a_operation ? k : m) || b_column < (b_operation ? n : k) || c_column < m) return 7;
    const auto bytes = [](long long column, int columns, int rows) { return 4 * std::size_t(column * (columns - 1) + rows); };
    for (long long batch = 0; batch < batches; ++batch) {
        const float *x = a + batch * a_batch, *y = b + batch * b_batch;
        float *out = c + batch * c_batch;
        if (!is_inside(Pointer(x), bytes(a_column, a_operation ? m : k, a_operation ? k : m)) ||
            !is_inside(Pointer(y), bytes(b_column, b_operation ? k : n, b_operation ? n : k)) || !is_inside(Pointer(out), bytes(c_column, n, m))) {
            std::fprintf(stderr, "tests/cuda/driver.cpp: a product of matrices outside of their memory\n");
            std::abort();
        }
        const long long x_row = a_operation ? a_column : 1, x_inner = a_operation ? 1 : a_column;
        const long long y_inner = b_operation ? b_column : 1, y_column = b_operation ? 1 : b_column;
        for (long long j = 0; j < n; ++j)
            for (long long i = 0; i < m; ++i) {
                double sum = 0;
                for (long long l = 0; l < k; ++l) {
                    float p = x[i * x_row + l * x_inner], q = y[l * y_inner + j * y_column];
                    if (compute == TF32) p = tf32(p), q = tf32(q);
                    sum += double(p) * q;
                }
                float &value = out[j * c_column + i];
                value = float(*alpha * sum) + (*beta == 0 ? 0.0f : *beta * value);
            }
    }
    return 0;
}
