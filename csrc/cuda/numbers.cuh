// Numbers in the three types as a lane handles them: eight neighbours at a time (16 bytes in the 16-bit types), two, or
// one. All arithmetic is in float32: widen() converts to it and narrow() rounds back.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

namespace ht {
namespace cuda {

constexpr int kVector = 8;

// Eight neighbours.
template <class T>
struct Pack;

template <>
struct alignas(16) Pack<float> {
  float value[kVector];

  __device__ void widen(float (&to)[kVector]) const {
#pragma unroll
    for (int i = 0; i < kVector; ++i) to[i] = value[i];
  }
  __device__ void narrow(const float (&from)[kVector]) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) value[i] = from[i];
  }
};

template <class T>
struct alignas(16) Pack {
  uint32_t pair[kVector / 2];

  __device__ void widen(float (&to)[kVector]) const;
  __device__ void narrow(const float (&from)[kVector]);
};

// The same bits as another type.
template <class To, class From>
__device__ __forceinline__ To as(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// Two neighbours.
template <class T>
struct Pair;

template <>
struct Pair<float> {
  using Bits = float2;
  __device__ static float2 widen(float2 bits) { return bits; }
  __device__ static float2 narrow(float2 values) { return values; }
};

template <>
struct Pair<__nv_bfloat16> {
  using Bits = uint32_t;
  __device__ static float2 widen(uint32_t bits) {
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
  }
  __device__ static uint32_t narrow(float2 values) { return as<uint32_t>(__floats2bfloat162_rn(values.x, values.y)); }
};

template <>
struct Pair<__half> {
  using Bits = uint32_t;
  __device__ static float2 widen(uint32_t bits) { return __half22float2(as<__half2>(bits)); }
  __device__ static uint32_t narrow(float2 values) { return as<uint32_t>(__floats2half2_rn(values.x, values.y)); }
};

// One number.
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }

template <class T>
__device__ T narrow(float value);

template <>
__device__ __forceinline__ float narrow(float value) {
  return value;
}

template <>
__device__ __forceinline__ __nv_bfloat16 narrow(float value) {
  return __float2bfloat16_rn(value);
}

template <>
__device__ __forceinline__ __half narrow(float value) {
  return __float2half_rn(value);
}

template <class T>
__device__ void Pack<T>::widen(float (&to)[kVector]) const {
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) {
    const float2 v = Pair<T>::widen(pair[i]);
    to[2 * i] = v.x;
    to[2 * i + 1] = v.y;
  }
}

template <class T>
__device__ void Pack<T>::narrow(const float (&from)[kVector]) {
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) pair[i] = Pair<T>::narrow(make_float2(from[2 * i], from[2 * i + 1]));
}

template <class T>
__device__ __forceinline__ Pack<T> load(const T* from) {
  return *reinterpret_cast<const Pack<T>*>(from);
}

template <class T>
__device__ __forceinline__ void store(T* to, const Pack<T>& pack) {
  *reinterpret_cast<Pack<T>*>(to) = pack;
}

// Stores neighbouring pairs at once.
template <class T, int kPairs>
__device__ __forceinline__ void store_words(T* to, const uint32_t (&pairs)[kPairs]) {
  struct alignas(4 * kPairs) Words {
    uint32_t word[kPairs];
  } words;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) words.word[i] = pairs[i];
  *reinterpret_cast<Words*>(to) = words;
}

template <class T>
__device__ __forceinline__ float2 load_pair(const T* from) {
  return Pair<T>::widen(*reinterpret_cast<const typename Pair<T>::Bits*>(from));
}

template <class T>
__device__ __forceinline__ void store_pair(T* to, float2 values) {
  *reinterpret_cast<typename Pair<T>::Bits*>(to) = Pair<T>::narrow(values);
}

#if defined(__CUDACC__)
// An address in shared memory, as instructions take it.
__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
#endif

// Four numbers of shared memory, straight to where they are wanted: a second load of them is not made a copy.
#if defined(__CUDACC__)
__device__ __forceinline__ void load_shared(const void* from, float (&to)[4]) {
  asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(to[0]), "=f"(to[1]), "=f"(to[2]), "=f"(to[3])
               : "r"(shared_address(from)));
}
#else
inline void load_shared(const void* from, float (&to)[4]) { std::memcpy(to, from, sizeof to); }
#endif

// Neighbouring numbers, or zeros.
template <int kCount>
__device__ __forceinline__ void load_if(bool inside, const float* from, float (&to)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    const float2 pair = inside ? load_pair(from + i) : make_float2(0, 0);
    to[i] = pair.x, to[i + 1] = pair.y;
  }
}

#if defined(__CUDACC__)
// 1 / x and 2^x by the special function unit, with an error of two last places.
__device__ __forceinline__ float fast_reciprocal(float x) {
  asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}
__device__ __forceinline__ float fast_exp2(float x) {
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
  return x;
}
#else
inline float fast_reciprocal(float x) { return 1 / x; }
inline float fast_exp2(float x) { return std::exp2(x); }
#endif

}  // namespace cuda
}  // namespace ht
