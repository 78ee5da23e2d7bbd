// The spectral filter inside the adapter, F = irfft2(M * rfft2(S)), and its gradients; see docs/algebra.md.
//
// Forward: reads S from h and writes F to the padded grid that the convolution reads, 8 H W C bytes in the cache.
// Backward: reads S and dy and writes what S gets through the filter, 12 H W C bytes in the cache. Members of a team
// share the panels of channels; a panel is filtered whole, kPanel channels of the image at a time.
#pragma once

#include "backward_scratch.h"
#include "depthwise.h"
#include "fourier.h"
#include "padded_grid.h"
#include "prepared_weights.h"
#include "simd.h"
#include "sizes.h"
#include "stage_clock.h"
#include "team.h"
#include "weight_grads.h"

namespace ht {
namespace HT_ISA {

// Calls body(real, imaginary, mask) for each vector of numbers in column v of a spectrum: the places of their real and
// imaginary parts in Spectrum::column, and of the real parts of their mask in a panel of masks.
template <class Body>
HT_INLINE void for_column(const Fourier& f, i64 v, const Body& body) {
  for (i64 u = 0; u < f.height; ++u) {
    for (i64 c = 0; c < kPanel; c += kLanes) {
      body(u * kPanel + c, (f.height + u) * kPanel + c, (u * f.half + v) * 2 * kPanel + c);
    }
  }
}

// Filters a panel of channels in place. mask (H, V, 2, kPanel) holds real and imaginary parts.
inline void filter(const Fourier& f, const float* mask, ImagePanel x, const Spectrum& s) {
  transform_rows(f, x, s);
  for (i64 v = 0; v < f.half; ++v) {
    transform_column(f, v, s);
    for_column(f, v, [&](i64 real, i64 imaginary, i64 at) {
      const Vec a = load(s.column + real), b = load(s.column + imaginary);
      const Vec p = load(mask + at), q = load(mask + at + kPanel);
      store(s.column + real, a * p - b * q);
      store(s.column + imaginary, a * q + b * p);
    });
    invert_column(f, v, s);
  }
  invert_rows(f, s, x);
}

// Turns g, the gradient of the filtered panel, into that of x, in place: the transpose of the filter is the filter with
// the conjugate mask. mask_grad (H, V, 2, kPanel) += conj(spectrum of x) * spectrum of g. That lacks the weight of the
// spectrum's column, which unpack_mask_grad multiplies in.
inline void filter_backward(const Fourier& f, const float* mask, ImagePanel x, ImagePanel g, float* mask_grad,
                            const Spectrum& of_x, const Spectrum& of_g) {
  transform_rows(f, x, of_x);
  transform_rows(f, g, of_g);
  for (i64 v = 0; v < f.half; ++v) {
    transform_column(f, v, of_x);
    transform_column(f, v, of_g);
    for_column(f, v, [&](i64 real, i64 imaginary, i64 at) {
      const Vec a = load(of_x.column + real), b = load(of_x.column + imaginary);
      const Vec d = load(of_g.column + real), e = load(of_g.column + imaginary);
      const Vec p = load(mask + at), q = load(mask + at + kPanel);
      accumulate(mask_grad + at, a * d + b * e);
      accumulate(mask_grad + at + kPanel, a * e - b * d);
      store(of_g.column + real, d * p + e * q);
      store(of_g.column + imaginary, e * p - d * q);
    });
    invert_column(f, v, of_g);
  }
  invert_rows(f, of_g, g);
}

// The panel of channels c.. of a padded grid.
HT_INLINE ImagePanel panel_of(const Sizes& n, const PaddedGrid& grid, i64 c) {
  return {grid.patch(n, 0) + c, PaddedGrid::row_step(n), n.wide};
}

// Copies channels c.. of S, from (patches, C), to a panel, with zeros behind the last channel.
HT_INLINE void copy_panel(const Sizes& n, const float* patches, i64 c, ImagePanel to) {
  const i64 left = n.channels - c;
  for (i64 i = 0; i < n.height; ++i) {
    for (i64 j = 0; j < n.width; ++j, patches += n.channels) {
      float* p = to.data + i * to.row_step + j * to.column_step;
      store(p, load_first(patches + c, left));
      store(p + kLanes, left > kLanes ? load_first(patches + c + kLanes, left - kLanes) : Vec{});
    }
  }
}

// Writes F of the image to `filtered`; all of it is there once the team has waited.
inline void filter_image(const Sizes& n, Team team, const SpectralWeights& weights, const float* patches,
                         const PaddedGrid& filtered, const Spectrum& s) {
  const Range mine = team.share(n.wide, kPanel);
  for (i64 c = mine.first; c < mine.last; c += kPanel) {
    copy_panel(n, patches, c, panel_of(n, filtered, c));
    filter(weights.fourier, weights.mask.panel(c), panel_of(n, filtered, c), s);
  }
}

// image.filtered = the gradient that S gets through F, from image.dy and the taps of the image's kernel; adds to
// mask_grad, that of the masks. The team has waited before, so F is no longer read, and has waited when this returns.
inline void filter_image_backward(const Sizes& n, Team team, const SpectralWeights& weights, const float* taps,
                                  const float* patches, const ImageGrads& image, const BackwardScratch& s,
                                  const Spectrum& f_spectrum, float* mask_grad, StageClock& clock) {
  for_strips(team.share(n.patches, kRows), [&](Range strip) {
    depthwise<true>(n, image.dy, taps, nullptr, strip, s.dh);
    for (i64 q = strip.first; q < strip.last; ++q) {
      const float* from = s.dh + (q - strip.first) * n.wide;
      for (i64 c = 0; c < n.channels; c += kLanes) store(image.filtered.patch(n, q) + c, load(from + c));
    }
  });
  clock.lap(HT_STAGE_MIX);
  team.wait();
  clock.lap(HT_STAGE_WAIT);
  const Range mine = team.share(n.wide, kPanel);
  const ImagePanel copy{s.s, n.width * kPanel, kPanel};
  for (i64 c = mine.first; c < mine.last; c += kPanel) {
    copy_panel(n, patches, c, copy);
    filter_backward(weights.fourier, weights.mask.panel(c), copy, panel_of(n, image.filtered, c),
                    mask_grad + c * WeightGrads::mask_count(n), s.s_spectrum, f_spectrum);
  }
  clock.lap(HT_STAGE_FILTER);
  team.wait();
  clock.lap(HT_STAGE_WAIT);
}

// ds (strip, wide) = the gradient of S at the patches of a strip: through the filter, and through the residual.
inline void gather_image_grad(const Sizes& n, const ImageGrads& image, Range strip, float* ds) {
  for (i64 q = strip.first; q < strip.last; ++q, ds += n.wide) {
    const float *through = image.filtered.patch(n, q), *residual = image.dy.patch(n, q);
    for (i64 c = 0; c < n.channels; c += kLanes) store(ds + c, load(through + c) + load(residual + c));
  }
}

}  // namespace HT_ISA
}  // namespace ht
