// A driver of CUDA whose card is the processor, for tests on machines without a GPU: what `libcuda.so.1` and
// `libcublas.so.13` export, as far as the engine calls it. Its memory is the machine's, and a kernel has run when the
// call that launches it returns.
//
// Our own kernels are those of src/engine/ops/gpu, compiled as C++. candle's are written anew here, as far as they are
// needed; what is not known stops the program with its name. So this tests every call of ours, but neither candle's
// kernels nor anything that only happens when threads run at once.
//
// STUB_CUDA_VERSION, STUB_CARDS, STUB_CAPABILITY (80 is 8.0) and STUB_MEMORY (in MB) make it another driver and another
// card; with STUB_BACKWARDS the last thread of a kernel goes first; STUB_FULL_AT is the number of the one allocation
// that finds the memory full, and STUB_FULL_AGAIN that of another one. Products in TF32 round their factors to it,
// unless STUB_EXACT is 1.
//
// A stream that is captured runs nothing: launches, products, copies, allocations become nodes of a graph, with their
// arguments by value, and run when the graph is launched. Memory that a graph allocates is NaN before and after;
// waiting for the stream, copies from and to the host, and freeing memory that was there before end a capture as they
// do with NVIDIA's driver. STUB_NO_GRAPHS is a driver that refuses to capture, at the beginning (1) or in the middle
// (2), STUB_GRAPHS_FULL one whose memory is full when a graph is made (1) or launched (2). Whenever the host waits, a
// line is added to the file STUB_LOG that counts what it asked for since it waited last.

#include "../../src/engine/ops/gpu/host.cpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

typedef int Result;  // 0 is success
typedef std::uint64_t Pointer;

static const Result INVALID_VALUE = 1, OUT_OF_MEMORY = 2, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901;

static std::uint64_t setting(const char *name, std::uint64_t otherwise) {
    const char *value = std::getenv(name);
    return value ? std::strtoull(value, nullptr, 10) : otherwise;
}

// What a captured stream was asked for.
struct Graph {
    std::vector<std::function<Result()>> nodes;
    // Bytes of each piece of memory that it allocates.
    std::map<Pointer, std::size_t> memory;
    // Pieces that are free again at this point of the capture, by their size: as in NVIDIA's graphs, the next ones lie
    // in their place.
    std::multimap<std::size_t, Pointer> free;
    bool instantiated = false;
};

static std::mutex lock;
static std::map<Pointer, std::size_t> blocks_in_use;
static std::uint64_t used, most_used, of_graphs;
static void *context;

// The graph that the stream's work goes to, and whether something was asked for in between that cannot be captured.
static Graph *capturing;
static bool invalidated;

// What was asked for since the host waited last.
static struct {
    std::uint64_t launches, copies, allocations, graphs, nodes;
} asked;

static void waited(const char *why) {
    if (const char *path = std::getenv("STUB_LOG")) {
        std::FILE *file = std::fopen(path, "a");
        std::fprintf(file, "%s launches %lu copies %lu allocations %lu graphs %lu nodes %lu\n", why, asked.launches,
                     asked.copies, asked.allocations, asked.graphs, asked.nodes);
        std::fclose(file);
    }
    asked = {};
}

// Whether this call ends a capture: the stream goes on recording nothing, and says so at its end.
static Result not_in_capture() {
    if (!capturing) return 0;
    invalidated = true;
    return CAPTURE_UNSUPPORTED;
}

// Runs `work`, or leaves that to the graph.
static Result now_or_later(std::function<Result()> work) {
    if (!capturing) return work();
    if (invalidated) return CAPTURE_INVALIDATED;
    if (capturing->nodes.size() == 500 && setting("STUB_NO_GRAPHS", 0) == 2) return not_in_capture();
    capturing->nodes.push_back(std::move(work));
    return 0;
}

static std::uint64_t memory() { return setting("STUB_MEMORY", 16000) << 20; }

// NaN: what is read before it is written is found out.
static void forget(Pointer pointer, std::size_t size) { std::memset(reinterpret_cast<void *>(pointer), 0xff, size); }

static Result allocate(Pointer *pointer, std::size_t size) {
    if (size == 0) return INVALID_VALUE;
    std::lock_guard<std::mutex> guard(lock);
    static std::uint64_t calls, full_at = setting("STUB_FULL_AT", 0), again = setting("STUB_FULL_AGAIN", 0);
    ++asked.allocations;
    if (used + of_graphs + size > memory() || ++calls == full_at || calls == again) return OUT_OF_MEMORY;
    *pointer = reinterpret_cast<Pointer>(std::malloc(size));
    forget(*pointer, size);
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

static Result allocate_in_graph(Pointer *pointer, std::size_t size) {
    if (invalidated) return CAPTURE_INVALIDATED;
    if (size == 0) return INVALID_VALUE;
    Graph &graph = *capturing;
    auto place = graph.free.find(size);
    if (place != graph.free.end()) {
        *pointer = place->second;
        graph.free.erase(place);
    } else {
        *pointer = reinterpret_cast<Pointer>(std::malloc(size));
        graph.memory[*pointer] = size;
        of_graphs += size;
    }
    forget(*pointer, size);
    // In use while the rest is captured, and from this node on when the graph runs.
    blocks_in_use[*pointer] = size;
    return now_or_later([pointer = *pointer, size] {
        if (!blocks_in_use.emplace(pointer, size).second) return INVALID_VALUE;
        return forget(pointer, size), 0;
    });
}

static Result release_in_graph(Pointer pointer) {
    if (invalidated) return CAPTURE_INVALIDATED;
    auto block = capturing->memory.find(pointer);
    // The driver's answer to memory of outside, which would be freed anew by every launch.
    if (block == capturing->memory.end() || !blocks_in_use.erase(pointer)) return not_in_capture(), INVALID_VALUE;
    capturing->free.emplace(block->second, pointer);
    return now_or_later([pointer, size = block->second] {
        forget(pointer, size);
        return blocks_in_use.erase(pointer) ? 0 : INVALID_VALUE;
    });
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

// Where element `index` of a tensor of candle lies; `info` holds sizes, then strides, or is null where it lies in a
// row.
static std::size_t strided(std::size_t index, std::size_t dims, const std::size_t *info, int operand = 1) {
    if (!info) return index;
    std::size_t at = 0;
    for (std::size_t d = dims; d-- > 0; index /= info[d]) at += index % info[d] * info[operand * dims + d];
    return at;
}

typedef float (*Unary)(float);
typedef float (*Binary)(float, float);

static const std::map<std::string, Unary> UNARY = {
    {"ucopy", [](float x) { return x; }},           {"usilu", [](float x) { return x / (1.0f + std::exp(-x)); }},
    {"uexp", [](float x) { return std::exp(x); }},  {"uneg", [](float x) { return -x; }},
    {"usqr", [](float x) { return x * x; }},        {"usqrt", [](float x) { return std::sqrt(x); }},
    {"uabs", [](float x) { return std::fabs(x); }}, {"urecip", [](float x) { return 1.0f / x; }},
};

static const std::map<std::string, Binary> BINARY = {
    {"badd", [](float x, float y) { return x + y; }},
    {"bsub", [](float x, float y) { return x - y; }},
    {"bmul", [](float x, float y) { return x * y; }},
    {"bdiv", [](float x, float y) { return x / y; }},
    {"bmaximum", [](float x, float y) { return x > y ? x : y; }},
    {"bminimum", [](float x, float y) { return x < y ? x : y; }},
};

// One that makes T of numbers that lie at a strided place of x.
template <typename T, typename X, typename Make>
static bool for_each(void **a, T *y, const X *x, Make make) {
    const std::size_t count = argument<std::size_t>(a, 0), dims = argument<std::size_t>(a, 1);
    const std::size_t *info = argument<const std::size_t *>(a, 2);
    for (std::size_t i = 0; i < count; ++i) y[i] = make(x ? float(x[strided(i, dims, info)]) : float(y[i]));
    return true;
}

// The kernel `name` over tensors of T.
template <typename T>
static bool launch_of_candle(const std::string &name, void **a) {
    const std::size_t count = argument<std::size_t>(a, 0);
    if (UNARY.count(name)) return for_each(a, argument<T *>(a, 4), argument<const T *>(a, 3), UNARY.at(name));
    if (name == "affine") {
        const float mul = argument<T>(a, 5), add = argument<T>(a, 6);
        return for_each(a, argument<T *>(a, 4), argument<const T *>(a, 3), [=](float x) { return x * mul + add; });
    }
    if (name == "cast_f32")
        return for_each(a, argument<T *>(a, 4), argument<const float *>(a, 3), [](float x) { return x; });
    if (name == "cast_bf16")
        return for_each(a, argument<T *>(a, 4), argument<const bf16 *>(a, 3), [](float x) { return x; });
    if (name == "cast_f16")
        return for_each(a, argument<T *>(a, 4), argument<const f16 *>(a, 3), [](float x) { return x; });
    if (BINARY.count(name)) {
        const std::size_t *info = argument<const std::size_t *>(a, 2), dims = argument<std::size_t>(a, 1);
        const T *x = argument<const T *>(a, 3), *y = argument<const T *>(a, 4);
        T *out = argument<T *>(a, 5);
        for (std::size_t i = 0; i < count; ++i)
            out[i] = BINARY.at(name)(x[strided(i, dims, info)], y[strided(i, dims, info, 2)]);
    } else if (name == "const_set") {
        const std::size_t *info = argument<const std::size_t *>(a, 2), dims = argument<std::size_t>(a, 1);
        const T value = argument<T>(a, 3);
        T *y = argument<T *>(a, 4);
        for (std::size_t i = 0; i < count; ++i) y[strided(i, dims, info)] = value;
    } else if (name == "copy2d") {
        const T *x = argument<const T *>(a, 0);
        T *y = argument<T *>(a, 1);
        const std::uint32_t rows = argument<std::uint32_t>(a, 2), columns = argument<std::uint32_t>(a, 3);
        const std::uint32_t x_row = argument<std::uint32_t>(a, 4), y_row = argument<std::uint32_t>(a, 5);
        for (std::size_t i = 0; i < rows; ++i)
            for (std::size_t j = 0; j < columns; ++j) y[i * y_row + j] = x[i * x_row + j];
    } else if (name == "fast_sum" || name == "fast_sum_small" || name == "fast_max") {
        const std::size_t each = argument<std::size_t>(a, 1), dims = argument<std::size_t>(a, 2);
        const std::size_t *info = argument<const std::size_t *>(a, 3);
        const T *x = argument<const T *>(a, 4);
        T *y = argument<T *>(a, 5);
        const bool is_sum = name != "fast_max";
        const std::size_t results = name == "fast_sum_small" ? count : count / each;
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

static bool launch_of_candle(const std::string &name, void **a) {
    const std::size_t end = name.rfind('_');
    if (end == std::string::npos) return false;
    const std::string operation = name.substr(0, end), kind = name.substr(end + 1);
    if (kind == "f32") return launch_of_candle<float>(operation, a);
    if (kind == "bf16") return launch_of_candle<bf16>(operation, a);
    if (kind == "f16") return launch_of_candle<f16>(operation, a);
    // What the tests compare in.
    return name == "cast_f32_f64" &&
           for_each(a, argument<double *>(a, 4), argument<const float *>(a, 3), [](float x) { return x; });
}

// Bytes of each argument of a kernel of candle's; none if it is not known.
static std::vector<std::size_t> sizes_of_candle(const std::string &name) {
    const std::size_t end = name.rfind('_'), number = name.substr(end + 1) == "f32" ? 4 : 2;
    const std::string operation = name.substr(0, end);
    if (UNARY.count(operation) || operation.rfind("cast_", 0) == 0) return {8, 8, 8, 8, 8};
    if (BINARY.count(operation) || operation.rfind("fast_", 0) == 0) return {8, 8, 8, 8, 8, 8};
    if (operation == "affine") return {8, 8, 8, 8, 8, number, number};
    if (operation == "const_set") return {8, 8, 8, number, 8};
    if (operation == "copy2d") return {8, 8, 4, 4, 4, 4};
    return {};
}

static Result run_kernel(const std::string &name, unsigned blocks, unsigned threads, void **arguments) {
    const int status = launch_kernel(name.c_str(), blocks, nullptr, arguments, setting("STUB_BACKWARDS", 0));
    if (status == 0 && threads == THREADS) return 0;
    if (status == 1 && launch_of_candle(name, arguments)) return 0;
    std::fprintf(stderr, "tests/cuda/driver.cpp: no kernel %s with %u threads\n", name.c_str(), threads);
    std::abort();
}

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT Result cuInit(unsigned) { return setting("STUB_CARDS", 1) ? 0 : 100; }
EXPORT Result cuDriverGetVersion(int *version) { return *version = int(setting("STUB_CUDA_VERSION", 13000)), 0; }
EXPORT Result cuDeviceGetCount(int *count) { return *count = 1, 0; }
EXPORT Result cuDeviceGet(int *device, int ordinal) { return *device = ordinal, 0; }
EXPORT Result cuDeviceGetName(char *name, int size, int) {
    return std::snprintf(name, size, "a processor as a card"), 0;
}
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
EXPORT Result cuCtxSynchronize() { return capturing ? not_in_capture() : (waited("synchronize"), 0); }
EXPORT Result cuCtxDestroy_v2(void *) { return 0; }
EXPORT Result cuDeviceGetDefaultMemPool(void **pool, int) { return *pool = &used, 0; }
EXPORT Result cuMemPoolGetAttribute(void *, int attribute, void *value) {
    // CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, _USED_MEM_CURRENT, _USED_MEM_HIGH.
    *static_cast<std::uint64_t *>(value) = attribute == 5 || attribute == 7 ? used : attribute == 8 ? most_used : 0;
    return 0;
}
EXPORT Result cuMemPoolSetAttribute(void *, int attribute, void *) {
    if (attribute == 8) most_used = used;  // CU_MEMPOOL_ATTR_USED_MEM_HIGH, which can only be reset
    return 0;
}
EXPORT Result cuMemPoolTrimTo(void *, std::size_t) { return 0; }
EXPORT Result cuDeviceGetGraphMemAttribute(int, int, void *value) {
    return *static_cast<std::uint64_t *>(value) = of_graphs, 0;
}
EXPORT Result cuDeviceGraphMemTrim(int) { return 0; }
EXPORT Result cuMemGetInfo_v2(std::size_t *free, std::size_t *total) {
    return *total = memory(), *free = *total - used - of_graphs, 0;
}
EXPORT Result cuMemAlloc_v2(Pointer *pointer, std::size_t size) {
    return capturing ? not_in_capture() : allocate(pointer, size);
}
EXPORT Result cuMemAllocAsync(Pointer *pointer, std::size_t size, void *) {
    return capturing ? allocate_in_graph(pointer, size) : allocate(pointer, size);
}
EXPORT Result cuMemFree_v2(Pointer pointer) { return capturing ? not_in_capture() : release(pointer); }
EXPORT Result cuMemFreeAsync(Pointer pointer, void *) {
    return capturing ? release_in_graph(pointer) : release(pointer);
}
EXPORT Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, std::size_t size, void *) {
    // What the host has there when the graph runs is another thing.
    if (capturing) return not_in_capture();
    if (!is_inside(to, size)) return INVALID_VALUE;
    ++asked.copies;
    return std::memcpy(reinterpret_cast<void *>(to), from, size), 0;
}
EXPORT Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, std::size_t size, void *) {
    if (capturing) return not_in_capture();
    if (!is_inside(from, size)) return INVALID_VALUE;
    return waited("read"), std::memcpy(to, reinterpret_cast<void *>(from), size), 0;
}
EXPORT Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, std::size_t size, void *) {
    ++asked.launches;
    return now_or_later([=] {
        if (!is_inside(to, size) || !is_inside(from, size)) return INVALID_VALUE;
        return std::memcpy(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), size), 0;
    });
}
EXPORT Result cuMemcpyPeerAsync(Pointer, void *, Pointer, void *, std::size_t, void *) { return INVALID_VALUE; }
EXPORT Result cuMemsetD8Async(Pointer to, unsigned char value, std::size_t size, void *) {
    ++asked.launches;
    return now_or_later([=] {
        if (!is_inside(to, size)) return INVALID_VALUE;
        return std::memset(reinterpret_cast<void *>(to), value, size), 0;
    });
}
EXPORT Result cuStreamCreate(void **stream, unsigned) { return *stream = &lock, 0; }
EXPORT Result cuStreamDestroy_v2(void *) { return 0; }
EXPORT Result cuStreamSynchronize(void *) { return capturing ? not_in_capture() : (waited("synchronize"), 0); }
EXPORT Result cuStreamWaitEvent(void *, void *, unsigned) { return 0; }
EXPORT Result cuStreamIsCapturing(void *, int *status) { return *status = capturing ? 1 + invalidated : 0, 0; }
EXPORT Result cuStreamBeginCapture_v2(void *stream, int) {
    if (!stream || setting("STUB_NO_GRAPHS", 0) == 1)
        return CAPTURE_UNSUPPORTED;  // NULL is the stream that cannot be captured
    if (capturing) return INVALID_VALUE;
    return capturing = new Graph, invalidated = false, 0;
}
static void destroy(Graph *graph) {
    for (auto [pointer, size] : graph->memory) {
        of_graphs -= size;
        blocks_in_use.erase(pointer);
        std::free(reinterpret_cast<void *>(pointer));
    }
    delete graph;
}
EXPORT Result cuStreamEndCapture(void *, Graph **graph) {
    *graph = capturing;
    capturing = nullptr;
    if (!invalidated) return 0;
    destroy(*graph);
    return *graph = nullptr, CAPTURE_INVALIDATED;
}
EXPORT Result cuGraphInstantiateWithFlags(Graph **instance, Graph *graph, unsigned long long flags) {
    if (setting("STUB_GRAPHS_FULL", 0) == 1) return OUT_OF_MEMORY;
    // A graph with memory of its own can be there once, and one that keeps some could not be launched again.
    if (flags || graph->instantiated || graph->free.size() != graph->memory.size()) return INVALID_VALUE;
    graph->instantiated = true;
    return *instance = graph, 0;
}
EXPORT Result cuGraphUpload(Graph *, void *) { return capturing ? not_in_capture() : 0; }
EXPORT Result cuGraphLaunch(Graph *graph, void *) {
    if (setting("STUB_GRAPHS_FULL", 0) == 2) return OUT_OF_MEMORY;
    if (capturing) return not_in_capture();
    ++asked.graphs;
    asked.nodes += graph->nodes.size();
    for (const auto &node : graph->nodes)
        if (Result result = node()) return result;
    return 0;
}
// Work is done when a launch returns, so that the graph can go with its instance.
EXPORT Result cuGraphExecDestroy(Graph *) { return 0; }
EXPORT Result cuGraphDestroy(Graph *graph) { return destroy(graph), 0; }
EXPORT Result cuEventCreate(void **event, unsigned) { return *event = &lock, 0; }
EXPORT Result cuEventRecord(void *, void *) { return 0; }
EXPORT Result cuEventDestroy_v2(void *) { return 0; }
EXPORT Result cuModuleLoad(void **, const char *) { return INVALID_VALUE; }
// A module is its text, which has the names of its kernels; candle's and ours have none in common.
EXPORT Result cuModuleLoadData(void **module, const void *image) {
    if (capturing) return not_in_capture();
    return *module = new std::string(static_cast<const char *>(image)), 0;
}
EXPORT Result cuModuleUnload(void *) { return 0; }
EXPORT Result cuModuleGetFunction(void **function, void *module, const char *name) {
    if (static_cast<std::string *>(module)->find(".entry " + std::string(name) + "(") == std::string::npos)
        return 500;  // CUDA_ERROR_NOT_FOUND
    return *function = new std::string(name), 0;
}
EXPORT Result cuLaunchKernel(void *function, unsigned blocks, unsigned grid_y, unsigned grid_z, unsigned threads,
                             unsigned block_y, unsigned block_z, unsigned, void *, void **arguments, void **) {
    const std::string &name = *static_cast<std::string *>(function);
    if (!blocks || grid_y != 1 || grid_z != 1 || block_y != 1 || block_z != 1) return INVALID_VALUE;
    ++asked.launches;
    if (!capturing) return run_kernel(name, blocks, threads, arguments);
    std::vector<std::size_t> sizes;
    sizes_wanted = &sizes;
    if (launch_kernel(name.c_str(), blocks, nullptr, arguments, false) != 0) sizes = sizes_of_candle(name);
    sizes_wanted = nullptr;
    if (sizes.empty())
        std::fprintf(stderr, "tests/cuda/driver.cpp: no kernel %s to capture\n", name.c_str()), std::abort();
    std::vector<std::uint64_t> values(sizes.size());
    for (std::size_t i = 0; i < sizes.size(); ++i) std::memcpy(&values[i], arguments[i], sizes[i]);
    return now_or_later([=]() mutable {
        std::vector<void *> arguments;
        for (std::uint64_t &value : values) arguments.push_back(&value);
        return run_kernel(name, blocks, threads, arguments.data());
    });
}
EXPORT Result cuGetErrorString(int error, const char **text) {
    *text = error == OUT_OF_MEMORY         ? "out of memory"
            : error == 100                 ? "no CUDA-capable device is detected"
            : error == CAPTURE_UNSUPPORTED ? "operation not permitted when stream is capturing"
                                           : "another error";
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
EXPORT Result cublasSetWorkspace_v2(void *, void *workspace, std::size_t size) {
    return is_inside(Pointer(workspace), size) ? 0 : 7;
}
EXPORT Result cublasSetMathMode(void *, int) { return 0; }
EXPORT Result cublasDgemmStridedBatched() { return 15; }  // not supported
// Columns first, as NVIDIA's documentation defines it; refuses what leaves a block. A and B are factors, C is the
// result.
template <typename Factor, typename Out>
static Result products(bool a_transposed, bool b_transposed, int m, int n, int k, float alpha, const Factor *a,
                       int a_column, long long a_batch, const Factor *b, int b_column, long long b_batch, float beta,
                       Out *c, int c_column, long long c_batch, int batches, bool as_tf32) {
    const auto bytes = [](long long column, int columns, int rows, std::size_t size) {
        return size * std::size_t(column * (columns - 1) + rows);
    };
    for (long long batch = 0; batch < batches; ++batch) {
        const Factor *x = a + batch * a_batch, *y = b + batch * b_batch;
        Out *out = c + batch * c_batch;
        if (!is_inside(Pointer(x), bytes(a_column, a_transposed ? m : k, a_transposed ? k : m, sizeof(Factor))) ||
            !is_inside(Pointer(y), bytes(b_column, b_transposed ? k : n, b_transposed ? n : k, sizeof(Factor))) ||
            !is_inside(Pointer(out), bytes(c_column, n, m, sizeof(Out)))) {
            std::fprintf(stderr, "tests/cuda/driver.cpp: a product of matrices outside of their memory\n");
            std::abort();
        }
        const long long x_row = a_transposed ? a_column : 1, x_inner = a_transposed ? 1 : a_column;
        const long long y_inner = b_transposed ? b_column : 1, y_column = b_transposed ? 1 : b_column;
        // Both factors as f32, what is summed up over in a row.
        std::vector<float> rows(std::size_t(m) * k), columns(std::size_t(n) * k);
        const auto factor = [=](float number) { return as_tf32 ? tf32(number) : number; };
        for (long long i = 0; i < m; ++i)
            for (long long l = 0; l < k; ++l) rows[i * k + l] = factor(x[i * x_row + l * x_inner]);
        for (long long j = 0; j < n; ++j)
            for (long long l = 0; l < k; ++l) columns[j * k + l] = factor(y[l * y_inner + j * y_column]);
        for (long long j = 0; j < n; ++j)
            for (long long i = 0; i < m; ++i) {
                const float *p = &rows[i * k], *q = &columns[j * k];
                double sum = 0;
                for (long long l = 0; l < k; ++l) sum += double(p[l]) * q[l];
                Out &value = out[j * c_column + i];
                value = float(alpha * sum) + (beta == 0 ? 0.0f : beta * value);
            }
    }
    return 0;
}

EXPORT Result cublasGemmStridedBatchedEx(void *, int a_operation, int b_operation, int m, int n, int k,
                                         const float *alpha_at, const void *a, int a_type, int a_column,
                                         long long a_batch, const void *b, int b_type, int b_column, long long b_batch,
                                         const float *beta_at, void *c, int c_type, int c_column, long long c_batch,
                                         int batches, int compute, int) {
    const float alpha = *alpha_at, beta = *beta_at;
    ++asked.launches;
    // CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF; CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32.
    const int REAL = 0, HALF = 2, BRAIN = 14, F32 = 68, TF32 = 77;
    if (a_type != b_type || (compute != F32 && (compute != TF32 || a_type != REAL))) return 15;
    if (m < 1 || n < 1 || k < 1 || batches < 1) return 7;
    if (a_column < (a_operation ? k : m) || b_column < (b_operation ? n : k) || c_column < m) return 7;
    const bool as_tf32 = compute == TF32 && !setting("STUB_EXACT", 0);
    const auto run = [=](auto *factors, auto *out) {
        using Factor = std::remove_pointer_t<decltype(factors)>;
        using Out = std::remove_pointer_t<decltype(out)>;
        return now_or_later([=] {
            return products(a_operation, b_operation, m, n, k, alpha, static_cast<const Factor *>(a), a_column, a_batch,
                            static_cast<const Factor *>(b), b_column, b_batch, beta, static_cast<Out *>(c), c_column,
                            c_batch, batches, as_tf32);
        });
    };
    float *const real = nullptr;
    bf16 *const brain = nullptr;
    f16 *const half = nullptr;
    if (a_type == REAL && c_type == REAL) return run(real, real);
    if (a_type == BRAIN && c_type == BRAIN) return run(brain, brain);
    if (a_type == BRAIN && c_type == REAL) return run(brain, real);
    if (a_type == HALF && c_type == HALF) return run(half, half);
    if (a_type == HALF && c_type == REAL) return run(half, real);
    return 15;  // not supported
}
