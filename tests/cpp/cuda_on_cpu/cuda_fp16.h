#pragma once

#include <cuda_runtime.h>

struct __half {
  uint16_t bits;
};
struct __half2 {
  __half x, y;
};

inline float __half2float(__half value) {
  const int sign = value.bits >> 15, exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
  float result;
  if (exponent == 31) {
    result = fraction ? NAN : INFINITY;
  } else {
    result = exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp(static_cast<float>(fraction), -24);
  }
  return sign ? -result : result;
}

inline __half __float2half_rn(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (value != value) return {0x7fff};
  const float size = std::fabs(value);
  if (size >= 65520) return {static_cast<uint16_t>(sign | 0x7c00)};
  int exponent = 0;
  std::frexp(size, &exponent);
  const int step = size > 0 ? std::fmax(exponent - 11, -24) : -24;  // of the last place
  const int places = static_cast<int>(std::nearbyint(std::ldexp(size, -step)));
  // Counting places from the smallest number up gives the bits, also where rounding carries.
  const int base = step == -24 ? 0 : (step + 24) * 1024;
  return {static_cast<uint16_t>(sign | (base + places))};
}

inline float2 __half22float2(__half2 value) { return {__half2float(value.x), __half2float(value.y)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
