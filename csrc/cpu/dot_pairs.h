// Dot products of pairs of bfloat16 with sums in float32: one instruction of AVX512-BF16, several of any other set.
#pragma once

#include "simd.h"

#if defined(__AVX512BF16__) && HT_LANES == 16
#include <immintrin.h>
#endif

namespace ht {
namespace HT_ISA {

// kLanes pairs that lie one behind the other. Lane i holds numbers 2 i, in its low half, and 2 i + 1.
HT_INLINE Unsigned load_pairs(const bfloat16* p) {
  Unsigned pairs;
  __builtin_memcpy(&pairs, p, sizeof pairs);
  return pairs;
}

// The two numbers at p, in every lane.
HT_INLINE Unsigned splat_pair(const bfloat16* p) {
  uint32_t pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return Unsigned{} + pair;
}

// sum + a[1] * b[1] + a[0] * b[0] in every lane.
//
// A product of two bfloat16 is exact in float32, so both branches round to nearest even after each of the two additions
// and give the same bits. They differ where a number is subnormal, below 1.2e-38 in size: VDPBF16PS reads such a factor
// or sum as zero and writes zero in place of such a sum, whatever the processor's control register says.
HT_INLINE Vec dot_pairs(Vec sum, Unsigned a, Unsigned b) {
#if defined(__AVX512BF16__) && HT_LANES == 16
  __m512bh left, right;
  __builtin_memcpy(&left, &a, sizeof left);
  __builtin_memcpy(&right, &b, sizeof right);
  return _mm512_dpbf16_ps(sum, left, right);
#else
  const Unsigned halves[4] = {a & 0xffff0000u, b & 0xffff0000u, a << 16, b << 16};
  Vec v[4];
  __builtin_memcpy(v, halves, sizeof v);
  sum += v[0] * v[1];
  sum += v[2] * v[3];
  return sum;
#endif
}

}  // namespace HT_ISA
}  // namespace ht
