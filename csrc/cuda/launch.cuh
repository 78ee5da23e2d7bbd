// The size of a block of threads, its shared memory, and how a kernel is started.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

namespace ht {
namespace cuda {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;

#if defined(__CUDACC__)
__device__ __forceinline__ void* shared_memory() {
  extern __shared__ uint4 ht_shared_memory[];
  return ht_shared_memory;
}
#else
inline void* shared_memory() { return emulated_shared_memory(); }
#endif

// Calls ask(device, answer) for the current device, and remembers its answer when it returns cudaSuccess. Every
// function that is passed has a memory of its own: a bit for each device; those beyond the 64th are asked each time.
template <class Ask>
cudaError_t once_per_device(Ask ask, bool& answer) {
  static std::atomic<uint64_t> known{0}, yes{0};
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const uint64_t bit = device < 64 ? uint64_t{1} << device : 0;
  if (known.load(std::memory_order_acquire) & bit) {
    answer = yes.load(std::memory_order_relaxed) & bit;
    return cudaSuccess;
  }
  error = ask(device, answer);
  if (error != cudaSuccess) return error;
  if (answer) yes.fetch_or(bit, std::memory_order_relaxed);
  known.fetch_or(bit, std::memory_order_release);
  return cudaSuccess;
}

// Lets the blocks of a kernel use as much shared memory as the current device has for a block. CUDA keeps one limit per
// kernel and device for all threads of the process. Every thread sets the same limit, so none lowers that of another.
template <auto kKernel>
cudaError_t allow_all_shared_memory() {
  bool allowed = false;
  const auto ask = [](int device, bool& done) {
    int most = 0;
    const cudaError_t error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    done = true;
    if (error != cudaSuccess) return error;
    return cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
  };
  return once_per_device(ask, allowed);
}

// Whether the code of a kernel, on the current device, can wait for the kernel in front (overlap.cuh). The driver may
// have made it of PTX for older devices, where it cannot.
template <auto kKernel>
cudaError_t can_start_early(bool& can) {
  const auto ask = [](int, bool& answer) {
    cudaFuncAttributes attributes{};
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kKernel);
    answer = attributes.ptxVersion >= 90;
    return error;
  };
  return once_per_device(ask, can);
}

// Adds a kernel to the stream. CUDA allows a block more than 48 KB of shared memory only after a request. A kernel that
// `waits`, that is, calls wait_for_kernel_in_front(), may start before the one in front has ended.
template <auto kKernel, class Arguments>
cudaError_t launch(dim3 grid, int shared_bytes, cudaStream_t stream, Arguments arguments, bool waits = false) {
  cudaError_t error = shared_bytes > 48 * 1024 ? allow_all_shared_memory<kKernel>() : cudaSuccess;
  bool early = false;
  if (error == cudaSuccess && waits) error = can_start_early<kKernel>(early);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = dim3(kThreads), config.dynamicSmemBytes = shared_bytes;
  config.stream = stream, config.attrs = &attribute, config.numAttrs = early ? 1 : 0;
  return cudaLaunchKernelEx(&config, kKernel, arguments);
}

}  // namespace cuda
}  // namespace ht
