// Stage 2: the depthwise convolution, the projector, GELU, project2 and the residual, C -> D (identities 2 and 4).
//
// Reads h, x and writes out: (C + 2 D) N floats per image, 2 N C (D + C + 49) operations. Tokens pass in strips of
// kTile, whose bottleneck (2 kTile * C floats) stays in the first-level cache from the convolution to project2.
//
// With a spectral filter the convolution reads the filtered image where it was made, and S is added behind it.
#pragma once

#include "down_project.h"
#include "filter_image.h"

namespace ht {
namespace HT_ISA {

// Buffers of one thread.
struct MixScratch {
  Noise noise;
  ImageKernel image;
  PaddedRows padded;  // S around a strip; with a spectral filter all of F
  SpectralScratch spectral;
  float* y;  // (kTile, wide) after the convolution
  float* m;  // (kTile, wide) after the projector, then after GELU

  MixScratch(const Sizes& n, Arena& arena)
      : noise(n, arena),
        image(n, arena),
        padded{arena.floats(n.masks ? 0 : PaddedRows::most_rows(n) * PaddedRows::row_step(n)), 0},
        spectral(n.masks ? n.height : 0, n.masks ? n.width : 0, arena),
        y(arena.floats(kTile * n.wide)),
        m(arena.floats(kTile * n.wide)) {}

  // Prepares for an image, given its h. `filtered` belongs to the team.
  void begin_image(const Sizes& n, Team team, const ht_adapter_weights& w, const MixWeights& packed,
                   const SpectralWeights& masks, const float* h, const PaddedImage& filtered) {
    const float* patches = h + n.prefix * n.channels;
    noise.estimate(n, w, patches);
    image.combine(n, packed, noise.weight);
    if (!n.masks) return;
    filter_image(n, team, masks, patches, filtered, spectral);
    padded = filtered.rows();
    team.wait();
  }

  // m for a strip of tokens, before GELU; y for its patches. Returns how many of the strip are prefix tokens.
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
    depthwise<false>(n, padded, image.kernel, image.bias, patches, y + prefix * n.wide);
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

// m (rows, wide) = gelu(m) * keep
HT_INLINE void activate(const Sizes& n, float* m, const float* keep, i64 rows) {
  for (i64 r = 0; r < rows; ++r) {
    for_vectors(n.channels, [&](i64 c, i64 left) {
      Vec v = gelu(load(m + r * n.wide + c));
      if (keep) v *= load_first(keep + r * n.channels + c, left);
      store(m + r * n.wide + c, v);
    });
  }
}

template <class T>
inline void up_project(const Sizes& n, const ProjectWeights& packed, const float* m, i64 rows, const T* x, i64 x_step,
                       T* out, i64 out_step) {
  for_row_blocks(rows, [&](auto block, i64 r) {
    constexpr int M = decltype(block)::value;
    for_panels(n.dim, [&](i64 d, i64 valid) {
      Tile<M> tile = repeat<M>(packed.up_bias + d);
      add_rows_to(tile, x + r * x_step + d, x_step, valid);
      multiply(tile, m + r * n.wide, n.wide, packed.up, d);
      store_rows(tile, out + r * out_step + d, out_step, valid);
    });
  });
}

}  // namespace HT_ISA
}  // namespace ht
