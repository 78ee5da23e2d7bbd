// Blocks of threads: their size, their shared memory, their start.
#pragma once

#include <cuda_runtime.h>

namespace ht {
namespace cuda {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;

#if defined(__CUDACC__)
__device__ __forceinline__ void* shared_memory() {
  extern __shared__ uint4 ht_shared_memory[];
  return ht_shared_memory;
}

// Adds a kernel to the stream. More than 48 KB of shared memory has to be asked for, once per kernel and device; asking
// again costs less than remembering.
template <class Arguments>
cudaError_t launch(void (*kernel)(Arguments), dim3 grid, int shared_bytes, cudaStream_t stream, Arguments arguments) {
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    if (error != cudaSuccess) return error;
  }
  kernel<<<grid, kThreads, shared_bytes, stream>>>(arguments);
  return cudaGetLastError();
}
#else
// A test runs the threads one after the other.
inline void* shared_memory() { return emulated_shared_memory(); }

template <class Arguments>
cudaError_t launch(void (*kernel)(Arguments), dim3 grid, int shared_bytes, cudaStream_t, Arguments arguments) {
  emulate([=] { kernel(arguments); }, grid, kThreads, shared_bytes);
  return cudaSuccess;
}
#endif

}  // namespace cuda
}  // namespace ht
