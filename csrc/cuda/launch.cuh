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

}  // namespace cuda
}  // namespace ht
