// Stage 1 backwards, the second sweep over an image: from dy to grad_x.
//
// Reads x and grad_out, writes grad_x: 3 D N floats per image; 2 products of D x C, one for du and one for the gradient
// of down_weight.
#pragma once

#include "filter_image_backward.h"

namespace ht {
namespace HT_ISA {

// From du (M, dim) through the gains and the LayerNorm: grad_x and the gradients of the gains. With n = du * norm_gain
// and hats for normalised values, dx = grad_out + du * skip_gain + rstd * (n - mean(n) - xhat * mean(n * xhat)).
template <int M, class T>
HT_INLINE void norm_backward(const Sizes& n, const ht_adapter_weights& w, const T* x, i64 x_step, const float* stats,
                             const T* grad_out, i64 grad_step, const float* du, T* grad_x, i64 grad_x_step,
                             const PartialGrads& sums) {
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

// Second sweep: dy and dm to dh, then grad_x and the gradients of down_* and the gains.
template <class T>
inline void down_project_backward(const Sizes& n, const ht_adapter_weights& w, const GradWeights& transposed,
                                  const T* x, i64 x_step, const float* stats, const T* grad_out, i64 grad_step,
                                  T* grad_x, i64 grad_x_step, Range strip, BackwardScratch& s, const ImageGrads& image,
                                  const PartialGrads& sums) {
  const i64 rows = strip.last - strip.first;
  const i64 prefix = max(0, min(strip.last, n.prefix) - strip.first);
  for (i64 i = 0; i < prefix; ++i) {
    const float* from = image.dm + (strip.first + i) * n.wide;
    for (i64 c = 0; c < n.channels; c += kLanes) store(s.dh + i * n.wide + c, load(from + c));
  }
  if (rows > prefix) {
    const Range patches{strip.first + prefix - n.prefix, strip.last - n.prefix};
    float* ds = s.dh + prefix * n.wide;
    if (n.masks) {
      gather_image_grad(n, image, patches, ds);
    } else {
      depthwise<true>(n, image.padded(), s.mix.image.kernel, nullptr, patches, ds);
    }
    for (i64 r = prefix; r < rows; ++r) {
      for (i64 c = 0; c < n.channels; c += kLanes) accumulate(s.dh + r * n.wide + c, load(s.dpooled + c));
    }
  }
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
