// Vectors of kLanes floats in the compiler's own vector types: one source for SSE2, AVX2, AVX-512 and NEON.
//
// Everything is inline in a namespace named after the instruction set, and no standard-library template is used in
// the kernels: the linker merges inline functions of one name, and must not hand AVX code to a machine without it.
#pragma once

#include <stdint.h>

#if !defined(HT_ISA) || !defined(HT_LANES) || !defined(HT_ROWS)
#error "include from a kernels_*.cpp, which names the instruction set"
#endif

#define HT_INLINE inline __attribute__((always_inline))
#define HT_COLD inline __attribute__((noinline, cold))  // out of the way of the registers of a hot loop

namespace ht {
namespace HT_ISA {

using i64 = int64_t;

constexpr int kLanes = HT_LANES;
constexpr int kPanel = 2 * kLanes;  // columns of a packed panel and of a register tile
constexpr int kRows = HT_ROWS;      // rows of a register tile: kRows * 2 accumulators fill the register file

typedef float Vec __attribute__((vector_size(4 * HT_LANES)));
typedef int32_t Int __attribute__((vector_size(4 * HT_LANES)));
typedef uint32_t Unsigned __attribute__((vector_size(4 * HT_LANES)));
typedef uint16_t Short __attribute__((vector_size(2 * HT_LANES)));

struct bfloat16 {
  uint16_t bits;
};

template <int N>
struct Constant {
  static constexpr int value = N;
};

HT_INLINE i64 min(i64 a, i64 b) { return a < b ? a : b; }
HT_INLINE i64 max(i64 a, i64 b) { return a > b ? a : b; }
HT_INLINE i64 round_up(i64 n, i64 step) { return (n + step - 1) / step * step; }

HT_INLINE Vec splat(float s) { return Vec{} + s; }

HT_INLINE Vec load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

HT_INLINE void store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }

HT_INLINE Vec load(const bfloat16* p) {
  Short bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  const Unsigned wide = __builtin_convertvector(bits, Unsigned) << 16;
  Vec v;
  __builtin_memcpy(&v, &wide, sizeof v);
  return v;
}

// Rounds to nearest even; NaN stays NaN.
HT_INLINE void store(bfloat16* p, Vec v) {
  Unsigned bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  const Unsigned rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Unsigned quiet = (bits >> 16) | 0x40;
  const Short result = __builtin_convertvector(v == v ? rounded : quiet, Short);
  __builtin_memcpy(p, &result, sizeof result);
}

template <class T>
HT_COLD Vec load_partial(const T* p, i64 n) {
  T whole[kLanes] = {};
  for (i64 i = 0; i < n; ++i) whole[i] = p[i];
  return load(whole);
}

template <class T>
HT_COLD void store_partial(T* p, Vec v, i64 n) {
  T whole[kLanes];
  store(whole, v);
  for (i64 i = 0; i < n; ++i) p[i] = whole[i];
}

// The first n elements, at most kLanes; lanes behind them are zero, respectively left alone in memory.
template <class T>
HT_INLINE Vec load_first(const T* p, i64 n) {
  return __builtin_expect(n >= kLanes, 1) ? load(p) : load_partial(p, n);
}

template <class T>
HT_INLINE void store_first(T* p, Vec v, i64 n) {
  if (__builtin_expect(n >= kLanes, 1)) {
    store(p, v);
  } else {
    store_partial(p, v, n);
  }
}

// Calls body(i, lanes in use) along `count` elements.
template <class Body>
HT_INLINE void for_vectors(i64 count, const Body& body) {
  i64 i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, kLanes);
  if (i < count) body(i, count - i);
}

HT_INLINE float sum(Vec v) {
  float s = 0;
  for (int i = 0; i < kLanes; ++i) s += v[i];
  return s;
}

// Adds a vector into memory.
HT_INLINE void accumulate(float* p, Vec v) { store(p, load(p) + v); }

// exp for arguments that neither overflow nor matter once they underflow: 2^n * e^r, r in [-ln2/2, ln2/2], with the
// Taylor series of e^r to degree 6 (relative error below 2e-7).
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

// erf(x) = x P(x^2) / Q(x^2): our minimax fit on [0, 3.95], relative error 2.1e-8 before rounding, 4.4e-7 in float32;
// beyond 3.95 erf is 1 in float32.
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

// Its derivative, Phi(x) + x * phi(x).
HT_INLINE Vec gelu_derivative(Vec x) {
  const Vec density = exp_not_positive(-0.5f * x * x) * 0.398942280f;
  return 0.5f * (1.0f + erf(x * 0.707106781f)) + x * density;
}

// Interleaves two vectors: a0 b0 a1 b1 ..., first and second half.
HT_INLINE void interleave(Vec a, Vec b, Vec& low, Vec& high) {
#if HT_LANES == 4
#define HT_LOW 0, 4, 1, 5
#define HT_HIGH 2, 6, 3, 7
#elif HT_LANES == 8
#define HT_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define HT_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define HT_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HT_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#endif
#if defined(__clang__)
  low = __builtin_shufflevector(a, b, HT_LOW);
  high = __builtin_shufflevector(a, b, HT_HIGH);
#else
  low = __builtin_shuffle(a, b, Int{HT_LOW});
  high = __builtin_shuffle(a, b, Int{HT_HIGH});
#endif
#undef HT_LOW
#undef HT_HIGH
}

// Transposes a square of kLanes vectors: each of log2(kLanes) rounds interleaves the halves.
HT_INLINE void transpose(Vec (&v)[kLanes]) {
#pragma GCC unroll 4
  for (int round = 1; round < kLanes; round *= 2) {
    Vec t[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) interleave(v[i], v[i + kLanes / 2], t[2 * i], t[2 * i + 1]);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) v[i] = t[i];
  }
}

}  // namespace HT_ISA
}  // namespace ht
