// The kernels for the processor, behind one function that is called as the driver's cuLaunchKernel is: for tests, here
// and in tests/cuda.
#include "kernels.cu"

#include <cstring>
#include <utility>
#include <vector>

// What an argument is: f, b and h are tensors of f32, bf16 and f16, the others one number.
static char kind(float *) { return 'f'; }
static char kind(const float *) { return 'f'; }
static char kind(bf16 *) { return 'b'; }
static char kind(const bf16 *) { return 'b'; }
static char kind(f16 *) { return 'h'; }
static char kind(const f16 *) { return 'h'; }
static char kind(unsigned) { return 'u'; }
static char kind(float) { return 'v'; }

template <typename... Arguments, std::size_t... index>
static void call(void (*kernel)(Arguments...), void **arguments, std::index_sequence<index...>) {
    kernel(*static_cast<Arguments *>(arguments[index])...);
}

// Where a launch that is only asked for writes the bytes of each argument, instead of running; null otherwise.
static thread_local std::vector<std::size_t> *sizes_wanted;

template <typename... Arguments>
static int launch(void (*kernel)(Arguments...), unsigned blocks, const char *kinds, void **arguments) {
    const char own[] = {kind(Arguments())..., 0};
    if (kinds && std::strcmp(kinds, own)) return 2;
    if (sizes_wanted) return *sizes_wanted = {sizeof(Arguments)...}, 0;
    for (unsigned turn = 0; turn < blocks; ++turn) {
        current_block = backwards ? blocks - 1 - turn : turn;
        call(kernel, arguments, std::index_sequence_for<Arguments...>{});
    }
    return 0;
}

// Runs all blocks of a kernel on arguments of these kinds, which are null if they are not known; the last block and the
// last thread go first if `last_first`. 0, or 1 if there is no such kernel, 2 if it has other arguments.
extern "C" int launch_kernel(const char *name, unsigned blocks, const char *kinds, void **arguments, bool last_first) {
    backwards = last_first;
#define TRY(kernel) \
    if (!std::strcmp(name, #kernel)) return launch(kernel, blocks, kinds, arguments);
#define TRY_NARROW(kernel) TRY(kernel##_bf16) TRY(kernel##_f16)
#define TRY_EACH(kernel) TRY(kernel) TRY_NARROW(kernel)
#define TRY_TRAINING(kernel) TRY(kernel) TRY(kernel##_bf16)
    TRY_EACH(spread_bias)
    TRY_EACH(add_per_channel)
    TRY_EACH(row_sums)
    TRY(column_sums)
    TRY_EACH(column_part_sums)
    TRY_EACH(gather_columns)
    TRY_EACH(scatter_columns)
    TRY_EACH(statistics)
    TRY_EACH(normalize)
    TRY_EACH(group_norm_sums)
    TRY(group_norm_means)
    TRY_EACH(group_norm_backward)
    TRY_EACH(layer_norm_backward)
    TRY_EACH(layer_norm_part_sums)
    TRY(softmax)
    TRY_NARROW(softmax)
    TRY_EACH(softmax_backward)
    TRY_EACH(attention_40)
    TRY_TRAINING(attention_statistics_40)
    TRY_TRAINING(attention_query_gradient_40)
    TRY_TRAINING(attention_key_gradients_40)
    TRY_EACH(attention_64)
    TRY_TRAINING(attention_statistics_64)
    TRY_TRAINING(attention_query_gradient_64)
    TRY_TRAINING(attention_key_gradients_64)
    TRY_EACH(attention_80)
    TRY_TRAINING(attention_statistics_80)
    TRY_TRAINING(attention_query_gradient_80)
    TRY_TRAINING(attention_key_gradients_80)
    TRY_EACH(attention_160)
    TRY_TRAINING(attention_statistics_160)
    TRY_TRAINING(attention_query_gradient_160)
    TRY_TRAINING(attention_key_gradients_160)
    TRY_EACH(geglu)
    TRY_EACH(geglu_backward)
    TRY_EACH(upsample)
    TRY_EACH(upsample_backward)
    TRY_NARROW(narrow)
    TRY(adam)
    TRY(adam8)
    TRY_EACH(transpose)
    TRY_EACH(copy_rows)
    TRY(weighted_sum)
    TRY(squared_error_sums)
    TRY(squared_error_backward)
    return 1;
}
