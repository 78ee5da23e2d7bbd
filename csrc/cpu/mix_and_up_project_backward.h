// Stage 2 backwards, the first sweep over an image: from grad_out to dy, the gradient before the projector.
//
// Reads h and grad_out: (C + D) N floats per image; 2 products of D x C, one for dm and one for the gradient of
// up_weight.
#pragma once

#include "backward_buffers.h"

namespace ht {
namespace HT_ISA {

// First sweep: grad_out to dy and dm, and the gradients of up_*, mix_* and this image's depthwise kernel.
template <class T>
inline void mix_and_up_project_backward(const Sizes& n, const MixWeights& packed, const GradWeights& transposed,
                                        const float* h, const float* keep, const T* grad_out, i64 grad_step,
                                        Range strip, BackwardScratch& s, const ImageGrads& image, float* kernel_grad,
                                        const PartialGrads& sums) {
  const i64 rows = strip.last - strip.first;
  const i64 prefix = s.mix.mix(n, packed, h, strip);
  for (i64 r = 0; r < rows; ++r) {
    for_vectors(n.channels, [&](i64 c, i64 left) {
      const Vec m = load(s.mix.m + r * n.wide + c);
      Vec a = gelu(m), slope = gelu_derivative(m);
      if (keep) {
        const Vec k = load_first(keep + r * n.channels + c, left);
        a *= k;
        slope *= k;
      }
      store(s.mix.m + r * n.wide + c, a);
      store(s.slope + r * n.wide + c, slope);
    });
    const T* from = grad_out + r * grad_step;
    for_vectors(n.dim, [&](i64 d, i64 left) { store(s.g + r * n.dim_step + d, load_first(from + d, left)); });
  }
  add_rows(s.g, n.dim_step, rows, n.dim, sums.up_bias);
  accumulate_product(sums.up_weight, s.mix.m, n.wide, n.channels, s.g, n.dim_step, n.dim, rows);

  float* dm = s.slope;
  for_row_blocks(rows, [&](auto block, i64 r) {
    constexpr int M = decltype(block)::value;
    for_panels(n.channels, [&](i64 c, i64) {
      Tile<M> tile{};
      multiply(tile, s.g + r * n.dim_step, n.dim_step, transposed.up, c);
      for (int m = 0; m < M; ++m) {
        float* to = dm + (r + m) * n.wide + c;
        store(to, load(to) * tile.at[m][0]);
        store(to + kLanes, load(to + kLanes) * tile.at[m][1]);
      }
    });
  });
  for (i64 i = 0; i < prefix; ++i) {
    float* to = image.dm + (strip.first + i) * n.wide;
    for (i64 c = 0; c < n.channels; c += kLanes) store(to + c, load(dm + i * n.wide + c));
  }
  const i64 patches = rows - prefix;
  if (patches == 0) return;
  const float* dm_patches = dm + prefix * n.wide;
  add_rows(dm_patches, n.wide, patches, n.channels, sums.mix_bias);
  accumulate_product(sums.mix_weight, dm_patches, n.wide, n.channels, s.mix.y + prefix * n.wide, n.wide, n.channels,
                     patches);
  product(dm_patches, n.wide, transposed.mix, n.channels, patches, s.dh, n.wide);
  const i64 first = strip.first + prefix - n.prefix;
  for (i64 i = 0; i < patches; ++i) {
    float* to = image.patch(n, first + i);
    for (i64 c = 0; c < n.channels; c += kLanes) store(to + c, load(s.dh + i * n.wide + c));
  }
  depthwise_weight_grad(n, s.mix.padded, s.dh, {first, first + patches}, kernel_grad, kernel_grad + kTaps * n.wide);
}

}  // namespace HT_ISA
}  // namespace ht
