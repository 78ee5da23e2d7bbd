// The spectral filter inside the adapter: an image's S to its F, on the zero-padded grid that the convolution reads.
//
// Reads S from h and writes F, H W C floats each, in the cache; members of a team share the panels of channels.
#pragma once

#include "depthwise.h"
#include "spectral.h"

namespace ht {
namespace HT_ISA {

struct SpectralWeights {
  Fourier fourier;
  Panels mask;

  SpectralWeights(const Sizes& n, const ht_adapter_weights& w, Arena& arena)
      : fourier(n.masks ? n.height : 0, n.masks ? n.width : 0, arena),
        mask(mask_panels(w.mask, n.masks, n.channels, fourier, arena)) {}

  void fill(Team team) const {
    if (team.rank == 0) fourier.fill();
    mask.fill(team);
  }
};

// A grid with zero margins (H + 6, W + 6, wide), for one image at a time.
struct PaddedImage {
  float* data;  // of no elements without a spectral filter

  PaddedImage(const Sizes& n, Arena& arena) : data(arena.floats(n.masks ? count(n) : 0)) {}

  static i64 count(const Sizes& n) { return (n.height + 2 * kMargin) * PaddedRows::row_step(n); }

  PaddedRows rows() const { return {data, -kMargin}; }

  // Zeros the margins, for good.
  void clear(const Sizes& n) const {
    if (n.masks) __builtin_memset(data, 0, static_cast<size_t>(count(n)) * sizeof(float));
  }

  float* patch(const Sizes& n, i64 q) const {
    return data + (q / n.width + kMargin) * PaddedRows::row_step(n) + (q % n.width + kMargin) * n.wide;
  }

  Patch panel(const Sizes& n, i64 c) const { return {patch(n, 0) + c, PaddedRows::row_step(n), n.wide}; }
};

// Channels c.. of S, from (patches, C), to a panel of a grid; zeros behind the last channel.
HT_INLINE void copy_panel(const Sizes& n, const float* patches, i64 c, Patch to) {
  const i64 left = n.channels - c;
  for (i64 i = 0; i < n.height; ++i) {
    for (i64 j = 0; j < n.width; ++j, patches += n.channels) {
      float* p = to.data + i * to.row_step + j * to.column_step;
      store(p, load_first(patches + c, left));
      store(p + kLanes, left > kLanes ? load_first(patches + c + kLanes, left - kLanes) : Vec{});
    }
  }
}

// f = F; complete once the team has waited.
inline void filter_image(const Sizes& n, Team team, const SpectralWeights& weights, const float* patches,
                         const PaddedImage& f, const SpectralScratch& s) {
  const Range mine = team.share(n.wide, kPanel);
  for (i64 c = mine.first; c < mine.last; c += kPanel) {
    copy_panel(n, patches, c, f.panel(n, c));
    filter(weights.fourier, weights.mask.panel(c), f.panel(n, c), s);
  }
}

}  // namespace HT_ISA
}  // namespace ht
