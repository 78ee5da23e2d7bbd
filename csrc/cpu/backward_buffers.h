// What the backward pass works in, and the products that both of its sweeps use.
#pragma once

#include "mix_and_up_project.h"
#include "partial_grads.h"

namespace ht {
namespace HT_ISA {

// The matrices that gradients are multiplied with.
struct GradWeights {
  Panels up;    // (D, C)
  Panels mix;   // (C out, C in)
  Panels down;  // (C, D)

  GradWeights(const Sizes& n, const ht_adapter_weights& w, Arena& arena)
      : up(Matrix{w.up_weight, n.channels, 1}, n.dim, n.channels, arena),
        mix(Matrix{w.mix_weight, n.channels, 1}, n.channels, n.channels, arena),
        down(Matrix{w.down_weight, n.dim, 1}, n.channels, n.dim, arena) {}

  void fill(Team team) const {
    up.fill(team);
    mix.fill(team);
    down.fill(team);
  }
};

// What the threads that share an image write for each other.
struct ImageGrads {
  float* dy;             // zero-padded grid (H + 6, W + 6, wide): gradient before the projector
  float* dm;             // (P, wide): gradient of the prefix tokens' bottleneck
  float* kernel;         // per member (49 + 1, wide): gradient of the image's depthwise kernel and bias
  PaddedImage filtered;  // F, then its gradient, then what S gets through the filter

  ImageGrads(const Sizes& n, int members, Arena& arena)
      : dy(arena.floats(padded_count(n))),
        dm(arena.floats(n.prefix * n.wide)),
        kernel(arena.floats(members * kernel_count(n))),
        filtered(n, arena) {}

  static i64 kernel_count(const Sizes& n) { return (kTaps + 1) * n.wide; }
  static i64 padded_count(const Sizes& n) { return (n.height + 2 * kMargin) * PaddedRows::row_step(n); }

  PaddedRows padded() const { return {dy, -kMargin}; }

  float* patch(const Sizes& n, i64 q) const {
    return dy + (q / n.width + kMargin) * PaddedRows::row_step(n) + (q % n.width + kMargin) * n.wide;
  }
};

struct BackwardScratch {
  MixScratch mix;
  float* slope;    // (kTile, wide): derivative of m -> gelu(m) * keep, then gradient of m
  float* dh;       // (kTile, wide): gradient of y, then of h
  float* g;        // (kTile, dim_step): grad_out, then gradient of u
  float* u;        // (kTile, dim_step)
  float* kernel;   // (49 + 1, wide): gradient of the image's depthwise kernel and bias, of all members
  float* dpooled;  // (wide): what each patch gets through the pooled bottleneck
  float* s;        // (patches, kPanel): S, for the spectral filter
  SpectralScratch of_s;

  BackwardScratch(const Sizes& n, Arena& arena)
      : mix(n, arena),
        slope(arena.floats(kTile * n.wide)),
        dh(arena.floats(kTile * n.wide)),
        g(arena.floats(kTile * n.dim_step)),
        u(arena.floats(kTile * n.dim_step)),
        kernel(arena.floats((kTaps + 1) * n.wide)),
        dpooled(arena.floats(n.wide)),
        s(arena.floats(n.masks ? n.patches * kPanel : 0)),
        of_s(n.masks ? n.height : 0, n.masks ? n.width : 0, arena) {}
};

// rows (count, wide) summed into sums (wide).
HT_INLINE void add_rows(const float* rows, i64 step, i64 count, i64 width, float* sums) {
  for (i64 c = 0; c < width; c += kLanes) {
    Vec total = load(sums + c);
    for (i64 r = 0; r < count; ++r) total += load(rows + r * step + c);
    store(sums + c, total);
  }
}

// to (rows, columns rounded up to panels) = from (rows, depth) * b
inline void product(const float* from, i64 from_step, const Panels& b, i64 columns, i64 rows, float* to, i64 to_step) {
  for_row_blocks(rows, [&](auto block, i64 r) {
    constexpr int M = decltype(block)::value;
    for_panels(columns, [&](i64 c, i64) {
      Tile<M> tile{};
      multiply(tile, from + r * from_step, from_step, b, c);
      store_rows(tile, to + r * to_step + c, to_step, kPanel);
    });
  });
}

}  // namespace HT_ISA
}  // namespace ht
