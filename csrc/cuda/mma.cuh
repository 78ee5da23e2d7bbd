// The tensor-core instructions, on fragments of eight values of k per lane.
//
// Lane (g, t) = (lane / 4, lane % 4) holds k = 8t .. 8t+7 of its row, which it reads as one vector. The
// definition of the instructions gives a lane other values of k. A sum over k does not depend on the order of k, so the
// product is the same as long as A and B are in the same order.
#pragma once

#include <type_traits>

#include "numbers.cuh"
#include "threads.cuh"

namespace ht {
namespace cuda {

// Whether tensor cores multiply this type. From compute capability 8.0 on they multiply all three types, on 7.5 float16
// alone. Host code, which has no compute capability, sees the answer of the newer devices.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
template <class T>
constexpr bool kHasTensorCores = __CUDA_ARCH__ >= 750 && std::is_same<T, __half>::value;
#else
template <class T>
constexpr bool kHasTensorCores = true;
#endif

// acc += A B for one step of k. A lane has in acc the columns 2t and 2t + 1 of rows g and g + 8, in `lower` and `upper`
// (or in turn in `a`) rows g and g + 8 of A, and in b row g of B, which is column g of the product.
#if defined(__CUDACC__)
__device__ __forceinline__ void mma_half_depth(float (&acc)[4], uint32_t lower, uint32_t upper, uint32_t b, __half) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(lower), "r"(upper), "r"(b));
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
__device__ __forceinline__ void mma_instruction(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                                __half) {
  mma_half_depth(acc, a[0], a[1], b[0], __half());
  mma_half_depth(acc, a[2], a[3], b[1], __half());
}
#else
__device__ __forceinline__ void mma_half_depth(float (&acc)[4], uint32_t lower, uint32_t upper, uint32_t b,
                                               __nv_bfloat16) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(lower), "r"(upper), "r"(b));
}

__device__ __forceinline__ void mma_instruction(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                                __nv_bfloat16) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_instruction(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                                __half) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void mma_instruction(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                                float) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ uint32_t to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}
#endif
#else
// Without nvcc a test compiles this, and defines the instructions lane by lane.
void mma_instruction(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __nv_bfloat16);
void mma_instruction(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __half);
void mma_instruction(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float);
uint32_t to_tf32(float value);

template <class T>
void mma_half_depth(float (&acc)[4], uint32_t lower, uint32_t upper, uint32_t b, T type) {
  mma_instruction(acc, {lower, upper, 0, 0}, {b, 0}, type);
}
#endif

// Register i of a fragment, as an instruction takes it: two numbers of a 16-bit type, or one float32.
template <class T>
__device__ __forceinline__ uint32_t part_of(const Pack<T>& pack, int i) {
  return pack.pair[i];
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
// Rounds to TF32, because the instruction itself would cut the last 13 bits off.
__device__ __forceinline__ uint32_t part_of(const Pack<float>& pack, int i) { return to_tf32(pack.value[i]); }
#endif

// Loads four matrices of 8 rows of 16 bytes from shared memory: lane l names row l % 8 of matrix l / 8, and gets, of
// each matrix, the two 16-bit numbers of row lane / 4 at 2 (lane % 4): fragments as the instructions define them.
#if defined(__CUDACC__)
__device__ __forceinline__ void load_matrices(const void* row, uint32_t (&to)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row)));
}
#else
void load_matrices(const void* row, uint32_t (&to)[4]);
#endif

// Two ones in a register.
template <class T>
__device__ constexpr uint32_t pair_of_ones() {
  return std::is_same<T, __half>::value ? 0x3c003c00u : 0x3f803f80u;
}

// The identity (8, 8) as half of a fragment B.
template <class T>
__device__ __forceinline__ uint32_t identity_fragment() {
  const int column = lane() / 4, k = 2 * (lane() % 4);
  const uint32_t one = pair_of_ones<T>() & 0xffff;
  return column == k ? one : column == k + 1 ? one << 16 : 0;
}

template <class T>
__device__ __forceinline__ void mma(float (&acc)[4], const Pack<T>& lower, const Pack<T>& upper, const Pack<T>& b) {
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(Pack<T>) / sizeof(uint32_t)); i += 2) {
    const uint32_t a_bits[4] = {part_of(lower, i), part_of(upper, i), part_of(lower, i + 1), part_of(upper, i + 1)};
    const uint32_t b_bits[2] = {part_of(b, i), part_of(b, i + 1)};
    mma_instruction(acc, a_bits, b_bits, T());
  }
}

// The column of a product that column i of column tile n of a warp stands for, of kN tiles: so dealt, a lane ends with
// 2 kN neighbours.
template <int kN>
__device__ constexpr int dealt(int n, int i) {
  return 2 * kN * (i / 2) + 2 * n + i % 2;
}

}  // namespace cuda
}  // namespace ht
