// Stage 1: LayerNorm, both gammas and project1, D -> C (identity 5), and its gradients.
//
// Forward: reads x once and writes h, (D s + 4 C) N bytes per image for s bytes in a number of x; 2 N D C operations.
// u, the normalised rows of one register tile (4 kRows D bytes), stays in the first-level cache, and the packed matrix
// (4 C D bytes) in the second. Factors in bfloat16 take half of that. Then u is computed in float32 and rounded once.
//
// Backward, in the second sweep over an image: reads x and grad_out and writes grad_x, 3 D s N bytes per image; 4 N D C
// operations, half of them for du and half for the gradient of down_weight. It works on strips of kTile tokens.
#pragma once

#include "backward_scratch.h"
#include "gemm.h"
#include "ht_kernels.h"
#include "prepared_weights.h"
#include "simd.h"
#include "sizes.h"
#include "vector_math.h"
#include "weight_grads.h"

namespace ht {
namespace HT_ISA {

// The sum of f(x) over a row, as four sums that the processor can add to at the same time.
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

// The mean and 1/std of a row. The variance comes from centred values, because a CLIP tower has channels so large that
// the difference of two sums of squares would lose most of its digits.
template <class T>
HT_INLINE void row_statistics(const T* x, i64 dim, float eps, float& mean, float& rstd) {
  const float scale = 1.0f / static_cast<float>(dim);
  mean = sum_of(x, dim, [](Vec v) { return v; }) * scale;
  const Vec center = splat(mean);
  const float square = sum_of(x, dim, [&](Vec v) { return (v - center) * (v - center); });
  rstd = 1.0f / __builtin_sqrtf(square * scale + eps);
}

// u = (x - mean) * rstd * norm_gain + x * skip_gain for M rows, which share one load of the gains. stats (M, 2) holds
// mean and rstd.
template <int M, class T, class Factor>
HT_INLINE void gain_rows(const T* x, i64 x_step, const float* stats, const ht_adapter_weights& w, i64 dim, Factor* u,
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

// h (rows, C) and stats (rows, 2) of some tokens of an image; u (kRows, dim_step) is scratch.
template <class T, class Factor>
inline void down_project(const Sizes& n, const ht_adapter_weights& w, const ProjectWeights<Factor>& packed, const T* x,
                         i64 x_step, i64 rows, Factor* u, float* h, float* stats) {
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

// From du (M, dim), the gradient of u, to grad_x, which may be NULL, and the gradients of the gains. With
// n = du * norm_gain and xhat = (x - mean) * rstd,
// grad_x = grad_out + du * skip_gain + rstd * (n - mean(n) - xhat * mean(n * xhat)).
template <int M, class T>
HT_INLINE void norm_backward(const Sizes& n, const ht_adapter_weights& w, const T* x, i64 x_step, const float* stats,
                             const T* grad_out, i64 grad_step, const float* du, T* grad_x, i64 grad_x_step,
                             const WeightGrads& sums) {
  Vec total[M] = {}, slope[M] = {};
  for_vectors(n.dim, [&](i64 d, i64 left) {
    const Vec gain = load_first(w.norm_gain + d, left);
    Vec norm_sum = load(sums.norm_gain + d), skip_sum = load(sums.skip_gain + d);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      const Vec g = load(du + m * n.dim_step + d), v = load_first(x + m * x_step + d, left);
      const Vec centered = v - stats[2 * m], normed = g * gain;
      total[m] += normed;
      slope[m] += normed * centered;
      norm_sum += g * centered * stats[2 * m + 1];
      skip_sum += g * v;
    }
    store(sums.norm_gain + d, norm_sum);
    store(sums.skip_gain + d, skip_sum);
  });
  if (!grad_x) return;
  float shift[M], tilt[M];
  for (int m = 0; m < M; ++m) {
    const float rstd = stats[2 * m + 1], scale = 1.0f / static_cast<float>(n.dim);
    shift[m] = sum(total[m]) * scale;
    tilt[m] = sum(slope[m]) * rstd * rstd * scale;
  }
  for_vectors(n.dim, [&](i64 d, i64 left) {
    const Vec norm = load_first(w.norm_gain + d, left), skip = load_first(w.skip_gain + d, left);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      const Vec g = load(du + m * n.dim_step + d), v = load_first(x + m * x_step + d, left);
      const Vec normed = g * norm - shift[m] - (v - stats[2 * m]) * tilt[m];
      const Vec through = load_first(grad_out + m * grad_step + d, left) + g * skip;
      store_first(grad_x + m * grad_x_step + d, through + stats[2 * m + 1] * normed, left);
    }
  });
}

// From s.dh (rows, wide), the gradient of h, to grad_x, which may be NULL, and the gradients of down_* and the gains.
template <class T>
inline void down_project_backward(const Sizes& n, const ht_adapter_weights& w, const TransposedWeights& transposed,
                                  const T* x, i64 x_step, const float* stats, const T* grad_out, i64 grad_step,
                                  T* grad_x, i64 grad_x_step, i64 rows, const BackwardScratch& s,
                                  const WeightGrads& sums) {
  add_rows(s.dh, n.wide, rows, n.channels, sums.down_bias);
  for_row_blocks(rows, [&](auto block, i64 r) {
    constexpr int M = decltype(block)::value;
    gain_rows<M>(x + r * x_step, x_step, stats + 2 * r, w, n.dim, s.u + r * n.dim_step, n.dim_step);
  });
  accumulate_product(sums.down_weight, s.dh, n.wide, n.channels, s.u, n.dim_step, n.dim, rows);
  product(s.dh, n.wide, transposed.down, n.dim, rows, s.g, n.dim_step);

  for_row_blocks(rows, [&](auto block, i64 r) {
    norm_backward<decltype(block)::value>(n, w, x + r * x_step, x_step, stats + 2 * r, grad_out + r * grad_step,
                                          grad_step, s.g + r * n.dim_step, grad_x ? grad_x + r * grad_x_step : nullptr,
                                          grad_x_step, sums);
  });
}

}  // namespace HT_ISA
}  // namespace ht
