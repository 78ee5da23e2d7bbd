// Stage 2: the depthwise convolution, the projector, GELU, project2 and the residual, C -> D (identities 2 and 4), and
// its gradients.
//
// Forward: reads h and x and writes out, (4 C + 2 D s) N bytes per image for s bytes in a number of x; 2 N C (D + C +
// 49) operations. Tokens pass in strips of at most kTile, whose bottleneck (8 kTile C bytes) stays in the first-level
// cache from the convolution to project2. With a spectral filter the convolution reads the filtered image in the place
// where it was made. S, which the centre tap of the kernel adds otherwise, is then added behind the convolution.
//
// Backward, in the first sweep over an image: reads h and grad_out, (4 C + D s) N bytes per image; 4 N D C operations,
// half of them for dm and half for the gradient of up_weight, besides the convolution and the projector of the forward
// pass, which are computed again. It leaves dy and dm of the whole image, 4 C N bytes, for the second sweep, because
// the convolution backwards needs the dy of neighbours.
#pragma once

#include "arena.h"
#include "backward_scratch.h"
#include "depthwise.h"
#include "fourier.h"
#include "gemm.h"
#include "ht_kernels.h"
#include "padded_grid.h"
#include "prepared_weights.h"
#include "scale_weights.h"
#include "simd.h"
#include "sizes.h"
#include "spectral_filter.h"
#include "stage_clock.h"
#include "team.h"
#include "vector_math.h"
#include "weight_grads.h"

namespace ht {
namespace HT_ISA {

// What one thread works in, and what it knows of the image at hand.
struct MixScratch {
  ScaleWeights scales;
  ImageKernel kernel;
  PaddedGrid padded;  // S around a strip, or, with a spectral filter, the whole grid of F
  Spectrum spectrum;
  float* y;  // (kTile, wide): after the convolution
  float* m;  // (kTile, wide): after the projector, then after GELU

  MixScratch(const Sizes& n, Arena& arena)
      : scales(n, arena),
        kernel(n, arena),
        padded(n, n.masks ? 0 : PaddedGrid::rows_of_strip(n), arena),
        spectrum(n.masks ? n.height : 0, n.masks ? n.width : 0, arena),
        y(arena.floats(kTile * n.wide)),
        m(arena.floats(kTile * n.wide)) {}

  // Makes the kernel of an image from its h. With a spectral filter, also makes F in `filtered`, which the team shares,
  // and waits for the team.
  void begin_image(const Sizes& n, Team team, const ht_adapter_weights& w, const MixWeights& packed,
                   const SpectralWeights& spectral, const float* h, const PaddedGrid& filtered, StageClock& clock) {
    const float* patches = h + n.prefix * n.channels;
    scales.estimate(n, w, patches);
    kernel.combine(n, packed, scales.weight);
    clock.lap(HT_STAGE_NOISE);
    if (!n.masks) return;
    filter_image(n, team, spectral, patches, filtered, spectrum);
    padded = filtered;
    clock.lap(HT_STAGE_FILTER);
    team.wait();
    clock.lap(HT_STAGE_WAIT);
  }

  // Computes y of the patches of a strip and m of all its tokens, before GELU. Returns how many of the tokens are
  // prefix tokens.
  i64 mix(const Sizes& n, const MixWeights& packed, const float* h, Range strip) {
    const i64 prefix = max(0, min(strip.last, n.prefix) - strip.first);
    for (i64 i = 0; i < prefix; ++i) {
      const float* from = h + (strip.first + i) * n.channels;
      for_vectors(n.channels, [&](i64 c, i64 left) { store(m + i * n.wide + c, load_first(from + c, left)); });
    }
    const Range patches{strip.first + prefix - n.prefix, strip.last - n.prefix};
    const i64 count = patches.last - patches.first;
    if (count == 0) return prefix;
    if (!n.masks) padded.fill(n, h + n.prefix * n.channels, patches);
    depthwise<false>(n, padded, kernel.taps, kernel.bias, patches, y + prefix * n.wide);
    for (i64 r = prefix; n.masks && r < prefix + count; ++r) {
      const float* from = h + (strip.first + r) * n.channels;
      for_vectors(n.channels, [&](i64 c, i64 left) { accumulate(y + r * n.wide + c, load_first(from + c, left)); });
    }
    for_row_blocks(count, [&](auto block, i64 r) {
      constexpr int M = decltype(block)::value;
      for_panels(n.channels, [&](i64 c, i64) {
        Tile<M> tile = repeat<M>(packed.mix_bias + c);
        const i64 at = (prefix + r) * n.wide;
        multiply(tile, y + at, n.wide, packed.mix, c);
        store_rows(tile, m + at + c, n.wide, kPanel);
      });
    });
    return prefix;
  }
};

// Returns gelu(m) * keep, (rows, wide), in the memory of m (rows, wide).
template <class Factor>
HT_INLINE const Factor* activate(const Sizes& n, float* m, const float* keep, i64 rows) {
  Factor* a = reinterpret_cast<Factor*>(m);  // of no larger numbers, so none is written before m there was read
  for (i64 r = 0; r < rows; ++r) {
    for_vectors(n.channels, [&](i64 c, i64 left) {
      Vec v = gelu(load(m + r * n.wide + c));
      if (keep) v *= load_first(keep + r * n.channels + c, left);
      store(a + r * n.wide + c, v);
    });
  }
  return a;
}

// out = x + a * up_weight + up_bias for some tokens of an image; a (rows, wide).
template <class T, class Factor>
inline void up_project(const Sizes& n, const ProjectWeights<Factor>& packed, const Factor* a, i64 rows, const T* x,
                       i64 x_step, T* out, i64 out_step) {
  for_row_blocks(rows, [&](auto block, i64 r) {
    constexpr int M = decltype(block)::value;
    for_panels(n.dim, [&](i64 d, i64 valid) {
      Tile<M> tile = repeat<M>(packed.up_bias + d);
      add_rows_to(tile, x + r * x_step + d, x_step, valid);
      multiply(tile, a + r * n.wide, n.wide, packed.up, d);
      store_rows(tile, out + r * out_step + d, out_step, valid);
    });
  });
}

// First sweep, a strip of an image: from grad_out to image.dy and image.dm, and to the gradients of up_* and mix_* in
// `sums` and of the image's kernel and bias in kernel_grad (49 + 1, wide).
template <class T>
inline void mix_and_up_project_backward(const Sizes& n, const MixWeights& packed, const TransposedWeights& transposed,
                                        const float* h, const float* keep, const T* grad_out, i64 grad_step,
                                        Range strip, MixScratch& mix, const BackwardScratch& s, const ImageGrads& image,
                                        float* kernel_grad, const WeightGrads& sums, StageClock& clock) {
  const i64 rows = strip.last - strip.first;
  const i64 prefix = mix.mix(n, packed, h, strip);
  clock.lap(HT_STAGE_MIX);
  for (i64 r = 0; r < rows; ++r) {
    for_vectors(n.channels, [&](i64 c, i64 left) {
      const Vec m = load(mix.m + r * n.wide + c);
      Vec a = gelu(m), slope = gelu_derivative(m);
      if (keep) {
        const Vec k = load_first(keep + r * n.channels + c, left);
        a *= k;
        slope *= k;
      }
      store(mix.m + r * n.wide + c, a);
      store(s.slope + r * n.wide + c, slope);
    });
    const T* from = grad_out + r * grad_step;
    for_vectors(n.dim, [&](i64 d, i64 left) { store(s.g + r * n.dim_step + d, load_first(from + d, left)); });
  }
  add_rows(s.g, n.dim_step, rows, n.dim, sums.up_bias);
  accumulate_product(sums.up_weight, mix.m, n.wide, n.channels, s.g, n.dim_step, n.dim, rows);

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
  clock.lap(HT_STAGE_UP);
  const i64 patches = rows - prefix;
  if (patches == 0) return;
  const float* dm_patches = dm + prefix * n.wide;
  add_rows(dm_patches, n.wide, patches, n.channels, sums.mix_bias);
  accumulate_product(sums.mix_weight, dm_patches, n.wide, n.channels, mix.y + prefix * n.wide, n.wide, n.channels,
                     patches);
  product(dm_patches, n.wide, transposed.mix, n.channels, patches, s.dh, n.wide);
  const i64 first = strip.first + prefix - n.prefix;
  for (i64 i = 0; i < patches; ++i) {
    float* to = image.dy.patch(n, first + i);
    for (i64 c = 0; c < n.channels; c += kLanes) store(to + c, load(s.dh + i * n.wide + c));
  }
  depthwise_weight_grad(n, mix.padded, s.dh, {first, first + patches}, kernel_grad, kernel_grad + kTaps * n.wide);
}

// Second sweep, a strip of an image: s.dh (strip, wide) = the gradient of h, from image.dm for prefix tokens, and for
// patches from image.dy through the convolution, or through what filter_image_backward made of it, and s.dpooled.
inline void bottleneck_grad(const Sizes& n, const float* taps, Range strip, const ImageGrads& image,
                            const BackwardScratch& s) {
  const i64 rows = strip.last - strip.first;
  const i64 prefix = max(0, min(strip.last, n.prefix) - strip.first);
  for (i64 i = 0; i < prefix; ++i) {
    const float* from = image.dm + (strip.first + i) * n.wide;
    for (i64 c = 0; c < n.channels; c += kLanes) store(s.dh + i * n.wide + c, load(from + c));
  }
  if (rows == prefix) return;
  const Range patches{strip.first + prefix - n.prefix, strip.last - n.prefix};
  float* ds = s.dh + prefix * n.wide;
  if (n.masks) {
    gather_image_grad(n, image, patches, ds);
  } else {
    depthwise<true>(n, image.dy, taps, nullptr, patches, ds);
  }
  for (i64 r = prefix; r < rows; ++r) {
    for (i64 c = 0; c < n.channels; c += kLanes) accumulate(s.dh + r * n.wide + c, load(s.dpooled + c));
  }
}

}  // namespace HT_ISA
}  // namespace ht
