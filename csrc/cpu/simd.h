// Vectors of kLanes floats in the compiler's own vector types: one source for SSE2, AVX2, AVX-512 and NEON.
//
// The kernels are compiled once per instruction set. Every function is inline in a namespace named after its
// instruction set, and the kernels use no template of the standard library: the linker keeps one of all inline
// functions with the same name, so a shared name could bring AVX code to a machine that cannot run it.
#pragma once

#include <stdint.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if !defined(HT_ISA) || !defined(HT_LANES) || !defined(HT_ROWS)
#error "HT_ISA, HT_LANES and HT_ROWS are not defined: include this from a kernels_*.cpp, which defines them"
#endif

#define HT_INLINE inline __attribute__((always_inline))
// For what a hot loop seldom needs: a call, so that it takes no registers from the loop.
#define HT_COLD inline __attribute__((noinline, cold))

namespace ht {
namespace HT_ISA {

using i64 = int64_t;

constexpr int kLanes = HT_LANES;
constexpr int kPanel = 2 * kLanes;  // columns of a register tile and of a packed panel
constexpr int kRows = HT_ROWS;      // rows of a register tile; its 2 * kRows vectors leave few registers unused

typedef float Vec __attribute__((vector_size(4 * HT_LANES)));
typedef int32_t Int __attribute__((vector_size(4 * HT_LANES)));
typedef uint32_t Unsigned __attribute__((vector_size(4 * HT_LANES)));
typedef uint16_t Short __attribute__((vector_size(2 * HT_LANES)));
typedef uint8_t Pixels __attribute__((vector_size(16)));

struct bfloat16 {
  uint16_t bits;
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

HT_INLINE Int load(const int32_t* p) {
  Int v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

HT_INLINE void store(int32_t* p, Int v) { __builtin_memcpy(p, &v, sizeof v); }

HT_INLINE Vec load(const bfloat16* p) {
  Short bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  const Unsigned wide = __builtin_convertvector(bits, Unsigned) << 16;
  Vec v;
  __builtin_memcpy(&v, &wide, sizeof v);
  return v;
}

// Rounds to nearest even; NaN stays NaN. The instruction of AVX512-BF16 gives the same bits, except that it writes zero
// for numbers below 1.2e-38 in size, which are subnormal.
HT_INLINE void store(bfloat16* p, Vec v) {
#if defined(__AVX512BF16__) && HT_LANES == 16
  const __m256bh result = _mm512_cvtneps_pbh(v);
#else
  Unsigned bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  const Unsigned rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Unsigned quiet = (bits >> 16) | 0x40;
  const Short result = __builtin_convertvector(v == v ? rounded : quiet, Short);
#endif
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

// The first n elements, of which a vector holds at most kLanes. The lanes behind them are zero after a load, and a
// store leaves the memory behind them as it is.
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

// Calls body(i, elements to use) for each vector that starts at i along `count` elements.
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

// The elements of two vectors with the numbers in `...`, which count those of `a` and go on with those of `b`.
#if defined(__clang__)
#define HT_SHUFFLE(Numbers, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define HT_SHUFFLE(Numbers, a, b, ...) __builtin_shuffle(a, b, Numbers{__VA_ARGS__})
#endif
#define HT_LOW_4 0, 4, 1, 5
#define HT_HIGH_4 2, 6, 3, 7
#define HT_LOW_8 0, 8, 1, 9, 2, 10, 3, 11
#define HT_HIGH_8 4, 12, 5, 13, 6, 14, 7, 15
#define HT_LOW_16 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HT_HIGH_16 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define HT_OF(half, lanes) HT_OF_(half, lanes)
#define HT_OF_(half, lanes) half##lanes

// Interleaves two vectors to a0 b0 a1 b1 ...: `low` gets the first half of these, `high` the second.
HT_INLINE void interleave(Vec a, Vec b, Vec& low, Vec& high) {
  low = HT_SHUFFLE(Int, a, b, HT_OF(HT_LOW_, HT_LANES));
  high = HT_SHUFFLE(Int, a, b, HT_OF(HT_HIGH_, HT_LANES));
}

HT_INLINE void interleave(Pixels a, Pixels b, Pixels& low, Pixels& high) {
  low = HT_SHUFFLE(Pixels, a, b, HT_LOW_16);
  high = HT_SHUFFLE(Pixels, a, b, HT_HIGH_16);
}

#undef HT_SHUFFLE
#undef HT_OF
#undef HT_OF_

// kLanes bytes as integers. GCC converts such short vectors byte by byte, so the instructions are named where there are
// any, and zeros are interleaved twice with four bytes.
HT_INLINE Int load(const uint8_t* p) {
#if HT_LANES == 16 && defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return reinterpret_cast<Int>(_mm512_maskz_cvtepu8_epi32(0xffff, bytes));
#elif HT_LANES == 8 && defined(__AVX2__)
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return reinterpret_cast<Int>(_mm256_cvtepu8_epi32(bytes));
#elif HT_LANES == 4
  uint32_t four;
  __builtin_memcpy(&four, p, sizeof four);
  Pixels v = reinterpret_cast<Pixels>(Unsigned{four}), rest;
  interleave(v, Pixels{}, v, rest);
  interleave(v, Pixels{}, v, rest);
  return reinterpret_cast<Int>(v);
#else
  typedef uint8_t Bytes __attribute__((vector_size(HT_LANES)));
  Bytes bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return __builtin_convertvector(bytes, Int);
#endif
}

// Transposes a square of vectors. Each of log2(size) rounds interleaves the first half of the vectors with the second
// half.
template <class Vector, int size>
HT_INLINE void transpose(Vector (&v)[size]) {
#pragma GCC unroll 4
  for (int round = 1; round < size; round *= 2) {
    Vector t[size];
#pragma GCC unroll 8
    for (int i = 0; i < size / 2; ++i) interleave(v[i], v[i + size / 2], t[2 * i], t[2 * i + 1]);
#pragma GCC unroll 16
    for (int i = 0; i < size; ++i) v[i] = t[i];
  }
}

}  // namespace HT_ISA
}  // namespace ht
