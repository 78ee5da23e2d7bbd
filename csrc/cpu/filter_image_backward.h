// The spectral filter backwards, between the sweeps: from dy of an image to what its S gets through the filter.
//
// Reads S and dy, writes the result in place of F: 3 H W C floats, in the cache.
#pragma once

#include "backward_buffers.h"

namespace ht {
namespace HT_ISA {

// image.filtered = the gradient that S gets through F; adds to that of the masks. The team has waited before, so that F
// is no longer read, and has waited when this returns.
inline void filter_image_backward(const Sizes& n, Team team, const SpectralWeights& weights, const float* patches,
                                  const ImageGrads& image, const BackwardScratch& s, const PartialGrads& sums) {
  for_strips(team.share(n.patches, kRows), [&](Range strip) {
    depthwise<true>(n, image.padded(), s.mix.image.kernel, nullptr, strip, s.dh);
    for (i64 q = strip.first; q < strip.last; ++q) {
      const float* from = s.dh + (q - strip.first) * n.wide;
      for (i64 c = 0; c < n.channels; c += kLanes) store(image.filtered.patch(n, q) + c, load(from + c));
    }
  });
  team.wait();
  const Range mine = team.share(n.wide, kPanel);
  const Patch copy{s.s, n.width * kPanel, kPanel};
  for (i64 c = mine.first; c < mine.last; c += kPanel) {
    copy_panel(n, patches, c, copy);
    filter_backward(weights.fourier, weights.mask.panel(c), copy, image.filtered.panel(n, c),
                    sums.mask + c * PartialGrads::mask_count(n), s.of_s, s.mix.spectral);
  }
  team.wait();
}

// ds (strip, wide) = the gradient of S at the patches of a strip: through the filter, and through the residual.
inline void gather_image_grad(const Sizes& n, const ImageGrads& image, Range strip, float* ds) {
  for (i64 q = strip.first; q < strip.last; ++q, ds += n.wide) {
    const float *through = image.filtered.patch(n, q), *residual = image.patch(n, q);
    for (i64 c = 0; c < n.channels; c += kLanes) store(ds + c, load(through + c) + load(residual + c));
  }
}

}  // namespace HT_ISA
}  // namespace ht
