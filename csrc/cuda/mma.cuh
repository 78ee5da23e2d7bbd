// One tensor-core instruction on fragments of eight values of k per lane, or the same product without tensor cores.
//
// A fragment row holds k = 8t .. 8t+7 of lane (g, t) = (lane / 4, lane % 4). The instructions name other values of k
// for a lane; a product does not care in which order k comes, as long as A and B agree, and so every lane reads 16
// bytes.
#pragma once

#include "numbers.cuh"

namespace ht {
namespace cuda {

// acc: rows g and g + 8, columns 2t and 2t + 1. Lower and upper: rows g and g + 8 of A. b: row g of B, the column.
#if defined(__CUDACC__)
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define HT_KERNELS_TENSOR_CORES 1

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
#define HT_KERNELS_TENSOR_CORES 1
// A test defines what follows, lane by lane.
void mma_instruction(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __nv_bfloat16);
void mma_instruction(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __half);
void mma_instruction(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float);
uint32_t to_tf32(float value);
#endif

#if defined(HT_KERNELS_TENSOR_CORES)
template <class T>
__device__ __forceinline__ void mma(float (&acc)[4], const Pack<T>& lower, const Pack<T>& upper, const Pack<T>& b) {
#pragma unroll
  for (int i = 0; i < kVector / 2; i += 2) {
    const uint32_t a_bits[4] = {lower.pair[i], upper.pair[i], lower.pair[i + 1], upper.pair[i + 1]};
    const uint32_t b_bits[2] = {b.pair[i], b.pair[i + 1]};
    mma_instruction(acc, a_bits, b_bits, T());
  }
}

template <>
__device__ __forceinline__ void mma<float>(float (&acc)[4], const Pack<float>& lower, const Pack<float>& upper,
                                           const Pack<float>& b) {
#pragma unroll
  for (int i = 0; i < kVector; i += 2) {
    const uint32_t a_bits[4] = {to_tf32(lower.value[i]), to_tf32(upper.value[i]), to_tf32(lower.value[i + 1]),
                                to_tf32(upper.value[i + 1])};
    const uint32_t b_bits[2] = {to_tf32(b.value[i]), to_tf32(b.value[i + 1])};
    mma_instruction(acc, a_bits, b_bits, 0.0f);
  }
}
#endif

}  // namespace cuda
}  // namespace ht
