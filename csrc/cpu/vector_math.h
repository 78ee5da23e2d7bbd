// Arithmetic on vectors: the exact GELU and its derivative, and sums and products of arrays.
#pragma once

#include "simd.h"

namespace ht {
namespace HT_ISA {

// exp(x) for x <= 0; below -87 it stays at exp(-87), which is near zero. It is 2^n * e^r with r in [-ln2/2, ln2/2], and
// e^r comes from its Taylor series to degree 6 (relative error below 2e-7).
HT_INLINE Vec exp_not_positive(Vec x) {
  x = x < -87.0f ? splat(-87.0f) : x;
  const Vec shift = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec n = (x * 1.44269504f + shift) - shift;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = splat(1.0f / 720);
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Int power = (__builtin_convertvector(n, Int) + 127) << 23;
  Vec scale;
  __builtin_memcpy(&scale, &power, sizeof scale);
  return x == x ? p * scale : x;
}

// erf(x) = x P(x^2) / Q(x^2), with a minimax fit on [0, 3.95] that has a relative error of 2.1e-8 before rounding and
// 4.4e-7 in float32. Beyond 3.95 erf is 1 in float32.
HT_INLINE Vec erf(Vec x) {
  x = x > 3.95f ? splat(3.95f) : x;
  x = x < -3.95f ? splat(-3.95f) : x;
  const Vec z = x * x;
  Vec p = splat(2.02582723e-06f);
  p = p * z + 2.84678561e-4f;
  p = p * z + 3.80807387e-3f;
  p = p * z + 5.28751805e-2f;
  p = p * z + 1.91549269e-1f;
  p = p * z + 1.12837914f;
  Vec q = splat(3.78304719e-05f);
  q = q * z + 1.17069042e-3f;
  q = q * z + 1.50549305e-2f;
  q = q * z + 1.14559074e-1f;
  q = q * z + 5.03088797e-1f;
  q = q * z + 1.0f;
  return x * p / q;
}

// The exact GELU, x * Phi(x).
HT_INLINE Vec gelu(Vec x) { return 0.5f * x * (1.0f + erf(x * 0.707106781f)); }

// The derivative of GELU, Phi(x) + x * phi(x).
HT_INLINE Vec gelu_derivative(Vec x) {
  const Vec density = exp_not_positive(-0.5f * x * x) * 0.398942280f;
  return 0.5f * (1.0f + erf(x * 0.707106781f)) + x * density;
}

// The dot product of two arrays of `count` elements.
HT_INLINE float dot(const float* a, const float* b, i64 count) {
  Vec even{}, odd{};
  i64 i = 0;
  for (; i + kPanel <= count; i += kPanel) {
    even += load(a + i) * load(b + i);
    odd += load(a + i + kLanes) * load(b + i + kLanes);
  }
  float rest = 0;
  for (; i < count; ++i) rest += a[i] * b[i];
  return sum(even + odd) + rest;
}

// y += s * x, for arrays of `count` elements.
HT_INLINE void axpy(float s, const float* x, float* y, i64 count) {
  for (i64 i = 0; i < count; ++i) y[i] += s * x[i];
}

// sums += the sum of `count` rows, `step` apart. `width` is rounded up to whole vectors in the rows and in the sums.
HT_INLINE void add_rows(const float* rows, i64 step, i64 count, i64 width, float* sums) {
  for (i64 c = 0; c < width; c += kLanes) {
    Vec total = load(sums + c);
    for (i64 r = 0; r < count; ++r) total += load(rows + r * step + c);
    store(sums + c, total);
  }
}

}  // namespace HT_ISA
}  // namespace ht
