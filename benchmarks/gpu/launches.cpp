// Prints how a call of the adapter on a GPU would be started: the plan, and the name, blocks, threads and shared memory
// of each kernel.
//
// It calls the library itself, with the kernels' source compiled for the CPU (tests/cpp/cuda_on_cpu) and a device that
// is pretended. No kernel runs: emulate.cpp is compiled with its emulate() under another name, and the one here prints.
// Kernels have the names that nvcc gives them, for both follow the same rules.
//
//   launches BATCH HEIGHT WIDTH PREFIX DIM CHANNELS HIDDEN SCALES DTYPE MULTIPROCESSORS BLOCK_BYTES
//            MULTIPROCESSOR_BYTES RESERVED_BYTES CAPABILITY NORM

#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

#include "cuda/float32/plan.h"
#include "cuda/plan.h"
#include "cuda_runtime.h"
#include "ht_kernels.h"

cudaError_t emulate(const void* kernel, std::function<void()>, dim3 grid, int threads, int shared_bytes, bool) {
  Dl_info info{};
  if (!dladdr(kernel, &info) || !info.dli_sname) return cudaErrorInvalidValue;
  const char* name = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, nullptr);
  std::printf("kernel\t%s\t%s\t%u\t%u\t%d\t%d\n", info.dli_sname, name, grid.x, grid.y, threads, shared_bytes);
  return cudaSuccess;
}

int main(int count, char** values) {
  if (count != 16) return 2;
  const auto number = [&](int i) { return std::atoll(values[i]); };
  ht_adapter_shape shape{};
  shape.batch = number(1), shape.grid_height = number(2), shape.grid_width = number(3);
  shape.prefix_tokens = number(4), shape.dim = number(5), shape.bottleneck = number(6), shape.hidden = number(7);
  shape.scales = number(8), shape.eps = 1e-5f;
  const ht_dtype dtype = static_cast<ht_dtype>(number(9));
  emulated.multiprocessors = static_cast<int>(number(10)), emulated.block_bytes = static_cast<int>(number(11));
  emulated.multiprocessor_bytes = static_cast<int>(number(12)), emulated.reserved_bytes = static_cast<int>(number(13));

  emulated.capability = static_cast<int>(number(14));

  const ht::cuda::Device device{emulated.multiprocessors, emulated.block_bytes, emulated.multiprocessor_bytes,
                                emulated.reserved_bytes, emulated.capability};
#define PRINT(name) std::printf("plan\t" #name "\t%d\n", static_cast<int>(plan.name))
  if (dtype == HT_FLOAT32) {
    const ht::cuda::float32::Plan plan = ht::cuda::float32::make_plan(shape, device);
    PRINT(down_rows), PRINT(down_tiles), PRINT(down_columns), PRINT(chunk);
    PRINT(mix_rows), PRINT(mix_blocks), PRINT(slices), PRINT(slice);
  } else {
    const ht::cuda::Plan plan = ht::cuda::make_plan(shape, device);
    PRINT(down_rows), PRINT(down_tiles), PRINT(down_channels);
    PRINT(mix_rows), PRINT(mix_blocks), PRINT(slices), PRINT(slice), PRINT(stages), PRINT(early);
    PRINT(grid.height), PRINT(grid.width), PRINT(grid.across), PRINT(grid.patch_tiles), PRINT(grid.tiles);
    PRINT(grid.run), PRINT(grid.pitch);
  }
#undef PRINT

  // Addresses that nothing reads.
  char* memory = reinterpret_cast<char*>(1 << 20);
  ht_adapter_weights_cuda weights{};
#define PLACE(name, kind, when) weights.name = reinterpret_cast<decltype(weights.name)>(memory);
  HT_ADAPTER_WEIGHTS(PLACE)
#undef PLACE
  const int64_t tokens = shape.prefix_tokens + shape.grid_height * shape.grid_width;
  const ht_tokens x{memory, tokens * shape.dim, shape.dim}, normed = number(15) ? x : ht_tokens{};
  const ht_status status =
      ht_adapter_forward_cuda(&shape, &weights, dtype, 0, memory, x, x, normed, 1e-5f, memory, nullptr);
  if (status != HT_OK) std::fprintf(stderr, "%s\n", ht_last_error());
  return status == HT_OK ? 0 : 1;
}
