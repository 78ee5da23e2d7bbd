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

// Lets the blocks of a kernel use as much shared memory as the current device has for a block. CUDA keeps one limit per
// kernel and device for all threads of the process. Every thread sets the same limit, so none lowers that of another.
template <auto kKernel>
cudaError_t allow_all_shared_memory() {
  static std::atomic<uint64_t> asked{0};  // a bit per device; devices beyond the 64th are asked each time
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const uint64_t bit = device < 64 ? uint64_t{1} << device : 0;
  if (asked.load(std::memory_order_acquire) & bit) return cudaSuccess;
  int most = 0;
  error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  error = cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
  if (error == cudaSuccess) asked.fetch_or(bit, std::memory_order_release);
  return error;
}

// Adds a kernel to the stream. CUDA allows a block more than 48 KB of shared memory only after a request.
template <auto kKernel, class Arguments>
cudaError_t launch(dim3 grid, int shared_bytes, cudaStream_t stream, Arguments arguments) {
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error = allow_all_shared_memory<kKernel>();
    if (error != cudaSuccess) return error;
  }
  void* addresses[] = {&arguments};
  return cudaLaunchKernel(kKernel, grid, dim3(kThreads), addresses, shared_bytes, stream);
}

// Whether the code of a kernel, on the current device, can wait for the kernel in front (overlap.cuh). The driver may
// have made it of PTX for older devices, where it cannot.
template <auto kKernel>
cudaError_t can_start_early(bool& can) {
  static std::atomic<uint64_t> known{0}, yes{0};  // a bit per device
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const uint64_t bit = device < 64 ? uint64_t{1} << device : 0;
  if (known.load(std::memory_order_acquire) & bit) {
    can = yes.load(std::memory_order_relaxed) & bit;
    return cudaSuccess;
  }
  cudaFuncAttributes attributes{};
  error = cudaFuncGetAttributes(&attributes, kKernel);
  if (error != cudaSuccess) return error;
  can = attributes.ptxVersion >= 90;
  if (can) yes.fetch_or(bit, std::memory_order_relaxed);
  known.fetch_or(bit, std::memory_order_release);
  return cudaSuccess;
}

// launch(), but the kernel may start before the one in front has ended. It must call wait_for_kernel_in_front().
template <auto kKernel, class Arguments>
cudaError_t launch_early(dim3 grid, int shared_bytes, cudaStream_t stream, Arguments arguments) {
  bool early = false;
  cudaError_t error = can_start_early<kKernel>(early);
  if (error != cudaSuccess) return error;
  if (!early) return launch<kKernel>(grid, shared_bytes, stream, arguments);
  if (shared_bytes > 48 * 1024) {
    error = allow_all_shared_memory<kKernel>();
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = dim3(kThreads), config.dynamicSmemBytes = shared_bytes;
  config.stream = stream, config.attrs = &attribute, config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kKernel, arguments);
}

}  // namespace cuda
}  // namespace ht
