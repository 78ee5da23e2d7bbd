// Copies of 16 or 8 bytes from global to shared memory that go on while the thread computes (cp.async, 8.0 and later).
// On 7.5 a copy is a load and a store.
//
// A thread's copies form groups: commit_copies() closes one, and wait_for_copies<n>() waits until at most the n newest
// groups of this thread are under way; wait_for_copies<0>() waits for all copies, closed or not. A barrier then shows
// the data to the other threads.
#pragma once

#include "numbers.cuh"

namespace ht {
namespace cuda {

#if defined(__CUDACC__)
// Copies 16 bytes, or writes zeros where `inside` is false; then `from` is not read.
__device__ __forceinline__ void copy_16(void* to, const void* from, bool inside) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(inside ? 16 : 0));
#else
  *static_cast<uint4*>(to) = inside ? *static_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
#endif
}

__device__ __forceinline__ void copy_8(void* to, const void* from) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared_address(to)), "l"(from));
#else
  *static_cast<uint2*>(to) = *static_cast<const uint2*>(from);
#endif
}

__device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;");
#endif
}

template <int kUnderWay>
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  if constexpr (kUnderWay == 0) {
    asm volatile("cp.async.wait_all;" ::: "memory");
  } else {
    asm volatile("cp.async.wait_group %0;" ::"n"(kUnderWay) : "memory");
  }
#endif
}
#else
// Without nvcc a test compiles this, and does a copy as late as it may be done.
void copy_16(void* to, const void* from, bool inside);
void copy_8(void* to, const void* from);
void commit_copies();
void wait_for_copies(int under_way);
template <int kUnderWay>
void wait_for_copies() {
  wait_for_copies(kUnderWay);
}
#endif

// A tile of 16-bit numbers in shared memory whose rows have kChunks chunks of 16 bytes. The chunks of a row are
// permuted, so that the same chunk of eight neighbouring rows lies in different banks.
template <int kChunks>
struct Swizzled {
  static constexpr int kRowBytes = 16 * kChunks;
  static constexpr int kMask = kChunks < 8 ? kChunks - 1 : 7;

  __device__ static int offset(int row, int chunk) { return row * kRowBytes + 16 * (chunk ^ (row & kMask)); }
};

}  // namespace cuda
}  // namespace ht
