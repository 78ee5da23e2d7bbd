// The sizes of a call of the adapter, the strips in which its tokens pass through the stages, and tokens in memory.
#pragma once

#include "ht_kernels.h"
#include "simd.h"
#include "team.h"

namespace ht {
namespace HT_ISA {

constexpr i64 kSide = 7;              // taps on a side of the depthwise kernel
constexpr i64 kMargin = kSide / 2;    // rows and columns of zeros around a padded grid
constexpr i64 kTaps = kSide * kSide;  // taps of the depthwise kernel
constexpr i64 kMostScales = 3;        // scales that an adapter keeps apart at most
constexpr i64 kTile = 72;             // tokens in the longest strip
static_assert(kTile % kRows == 0, "a strip is whole register tiles");

// Calls body(strip) for strips of at most kTile tokens, which are as equal as whole register tiles allow. A strip
// passes through all parts of a stage while it is in the first-level cache.
template <class Body>
HT_INLINE void for_strips(Range tokens, const Body& body) {
  const i64 count = tokens.last - tokens.first;
  const i64 strips = max(1, (count + kTile - 1) / kTile);
  const i64 step = round_up((count + strips - 1) / strips, kRows);
  for (i64 t = tokens.first; t < tokens.last; t += step) body(Range{t, min(t + step, tokens.last)});
}

struct Sizes {
  i64 batch, dim, channels, hidden, scales, height, width, prefix;
  i64 masks;  // of the spectral filter: 0 without one, 1, or as many as channels
  i64 patches, tokens;
  i64 wide_dim;  // dim rounded up to whole panels
  i64 wide;      // channels rounded up to whole panels: the row length of every bottleneck tile
  i64 dim_step;  // row length of a (tokens, dim) tile; an odd number of cache lines spreads the rows over the cache
  float eps;

  explicit Sizes(const ht_adapter_shape& s)
      : batch(s.batch),
        dim(s.dim),
        channels(s.bottleneck),
        hidden(s.hidden),
        scales(s.scales),
        height(s.grid_height),
        width(s.grid_width),
        prefix(s.prefix_tokens),
        masks(s.masks),
        patches(height * width),
        tokens(prefix + patches),
        wide_dim(round_up(dim, max(kPanel, 16))),
        wide(round_up(channels, kPanel)),
        dim_step((wide_dim / 16 | 1) * 16),
        eps(s.eps) {}
};

// Tokens (B, N, D) of the type T in the caller's memory.
template <class T>
struct Tokens {
  T* data;
  i64 batch_stride, token_stride;

  explicit Tokens(const ht_tokens& t)
      : data(static_cast<T*>(t.data)), batch_stride(t.batch_stride), token_stride(t.token_stride) {}

  T* row(i64 image, i64 token) const { return data + image * batch_stride + token * token_stride; }
};

}  // namespace HT_ISA
}  // namespace ht
