// Where a thread stands in its block, and what the lanes of a warp do together.
#pragma once

#include "launch.cuh"

namespace ht {
namespace cuda {

constexpr int kLanes = 32;

__device__ __forceinline__ int lane() { return threadIdx.x % kLanes; }
__device__ __forceinline__ int warp() { return threadIdx.x / kLanes; }

#if defined(__CUDACC__)
// warp(), as a value that the compiler knows to be the same in all lanes, so that branches on it are of the whole warp.
__device__ __forceinline__ int uniform_warp() { return __shfl_sync(0xffffffffu, warp(), 0); }

// Hides from the compiler how a value was made, so that it stays in its register instead of being made again.
__device__ __forceinline__ void keep(int& value) { asm volatile("" : "+r"(value)); }
__device__ __forceinline__ void keep(float& value) { asm volatile("" : "+f"(value)); }

// The whole product of two numbers of 32 bits, in one instruction, which also adds a pointer.
__device__ __forceinline__ int64_t wide_product(int a, int b) {
  int64_t product;
  asm("mul.wide.s32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
}
#else
inline int64_t wide_product(int a, int b) { return static_cast<int64_t>(a) * b; }
inline int uniform_warp() { return warp(); }
inline void keep(int&) {}
inline void keep(float&) {}
#endif

__host__ __device__ constexpr int round_up(int value, int step) { return (value + step - 1) / step * step; }
__host__ __device__ constexpr int ceil_div(int value, int step) { return (value + step - 1) / step; }

// The sum of the lanes' values, which every lane gets.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

}  // namespace cuda
}  // namespace ht
