// The kernels for the processor, behind one function that is called as the driver's cuLaunchKernel is: for tests, here and in
// tests/cuda.
#include "kernels.cu"

#include <cstring>
#include <utility>

// A number of arguments that is not known.
static const unsigned UNCOUNTED = ~0u;

template <typename... Arguments, std::size_t... index>
static void call(void (*kernel)(Arguments...), void **arguments, std::index_sequence<index...>) {
    kernel(*static_cast<Arguments *>(arguments[index])...);
}

template <typename... Arguments>
static int launch(void (*kernel)(Arguments...), unsigned blocks, unsigned count, void **arguments) {
    if (count != UNCOUNTED && count != sizeof...(Arguments)) return 2;
    for (unsigned turn = 0; turn < blocks; ++turn) {
        current_block = backwards ? blocks - 1 - turn : turn;
        call(kernel, arguments, std::index_sequence_for<Arguments...>{});
    }
    return 0;
}

// Runs all blocks of a kernel on `count` arguments; the last block and the last thread go first if `last_first`. 0, or 1 if there is no such kernel, 2 if it has another number of arguments.
extern "C" int launch_kernel(const char *name, unsigned blocks, unsigned count, void **arguments, bool last_first) {
    backwards = last_first;
#define TRY(kernel) \
    if (!std::strcmp(name, #kernel)) return launch(kernel, blocks, count, arguments);
    TRY(spread_bias)
    TRY(add_per_channel)
    TRY(row_sums)
    TRY(column_sums)
    TRY(column_part_sums)
    TRY(gather_columns)
    TRY(scatter_columns)
    TRY(statistics)
    TRY(normalize)
    TRY(group_norm_sums)
    TRY(group_norm_means)
    TRY(group_norm_backward)
    TRY(layer_norm_backward)
    TRY(layer_norm_part_sums)
    TRY(softmax)
    TRY(softmax_backward)
    TRY(attention_40)
    TRY(attention_statistics_40)
    TRY(attention_query_gradient_40)
    TRY(attention_key_gradients_40)
    TRY(attention_64)
    TRY(attention_statistics_64)
    TRY(attention_query_gradient_64)
    TRY(attention_key_gradients_64)
    TRY(attention_80)
    TRY(attention_statistics_80)
    TRY(attention_query_gradient_80)
    TRY(attention_key_gradients_80)
    TRY(attention_160)
    TRY(attention_statistics_160)
    TRY(attention_query_gradient_160)
    TRY(attention_key_gradients_160)
    TRY(geglu)
    TRY(geglu_backward)
    TRY(upsample)
    TRY(upsample_backward)
    TRY(adam)
    TRY(adam8)
    return 1;
}
