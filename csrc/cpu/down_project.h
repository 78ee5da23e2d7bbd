// Stage 1: LayerNorm, both gammas and project1, D -> C (identity 5).
//
// Reads x once, writes h: (D + C) N floats per image, 2 N D C operations. u, the normalised rows of one register tile,
// stays in the first-level cache (kRows * D floats), the packed matrix (C D floats) in the second.
#pragma once

#include "depthwise.h"

namespace ht {
namespace HT_ISA {

// The sum of f(v) over a row, in four sums that do not wait for each other.
template <class T, class F>
HT_INLINE float sum_of(const T* x, i64 dim, const F& f) {
  Vec part[4] = {};
  i64 d = 0;
  for (; d + 4 * kLanes <= dim; d += 4 * kLanes) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) part[i] += f(load(x + d + i * kLanes));
  }
  for (; d + kLanes <= dim; d += kLanes) part[0] += f(load(x + d));
  float rest = 0;
  if (d < dim) {
    const Vec v = f(load_first(x + d, dim - d));
    for (i64 i = 0; i < dim - d; ++i) rest += v[i];
  }
  return sum((part[0] + part[1]) + (part[2] + part[3])) + rest;
}

// Mean and 1/std of a row, the variance from centred values: CLIP has channels far larger than the rest.
template <class T>
HT_INLINE void row_statistics(const T* x, i64 dim, float eps, float& mean, float& rstd) {
  const float scale = 1.0f / static_cast<float>(dim);
  mean = sum_of(x, dim, [](Vec v) { return v; }) * scale;
  const Vec center = splat(mean);
  const float square = sum_of(x, dim, [&](Vec v) { return (v - center) * (v - center); });
  rstd = 1.0f / __builtin_sqrtf(square * scale + eps);
}

// u = (x - mean) * rstd * norm_gain + x * skip_gain for M rows; the gains are loaded once.
template <int M, class T>
HT_INLINE void gain_rows(const T* x, i64 x_step, const float* stats, const ht_adapter_weights& w, i64 dim, float* u,
                         i64 u_step) {
  for_vectors(dim, [&](i64 d, i64 left) {
    const Vec norm = load_first(w.norm_gain + d, left), skip = load_first(w.skip_gain + d, left);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      const Vec v = load_first(x + m * x_step + d, left);
      store(u + m * u_step + d, (v - stats[2 * m]) * (stats[2 * m + 1] * norm) + v * skip);
    }
  });
}

template <class T>
inline void down_project(const Sizes& n, const ht_adapter_weights& w, const ProjectWeights& packed, const T* x,
                         i64 x_step, i64 rows, float* u, float* h, float* stats) {
  for_row_blocks(rows, [&](auto block, i64 r) {
    constexpr int M = decltype(block)::value;
    const T* from = x + r * x_step;
    for (int m = 0; m < M; ++m) {
      float* s = stats + 2 * (r + m);
      row_statistics(from + m * x_step, n.dim, n.eps, s[0], s[1]);
    }
    gain_rows<M>(from, x_step, stats + 2 * r, w, n.dim, u, n.dim_step);
    for_panels(n.channels, [&](i64 c, i64 valid) {
      Tile<M> tile = repeat<M>(packed.down_bias + c);
      multiply(tile, u, n.dim_step, packed.down, c);
      store_rows(tile, h + r * n.channels + c, n.channels, valid);
    });
  });
}

}  // namespace HT_ISA
}  // namespace ht
