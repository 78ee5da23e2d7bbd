// The gradients of the weights. Each thread sums those of its tokens, and the sums of the threads are then added in the
// order of the threads, so that the same call on as many threads gives the same bits.
#pragma once

#include "arena.h"
#include "fourier.h"
#include "gemm.h"
#include "ht_kernels.h"
#include "simd.h"
#include "sizes.h"
#include "team.h"

namespace ht {
namespace HT_ISA {

// Writes the gradient of the masks (masks, H, V, 2) from the sums that filter_backward makes in panels, (H, V, 2)
// numbers of each channel: multiplies them by the weights of the spectrum's columns, and adds up the channels that
// share a mask.
inline void unpack_mask_grad(const Fourier& f, const float* panels, i64 masks, i64 channels, float* grad) {
  const i64 count = f.height * f.half * 2;
  for (i64 i = 0; i < masks * count; ++i) grad[i] = 0;
  for (i64 c = 0; masks && c < channels; ++c) {
    float* to = grad + (masks > 1 ? c : 0) * count;
    for (i64 i = 0; i < count; ++i) to[i] += panels[panel_index(i, c, count)] * f.column_weight(i / 2 % f.half);
  }
}

// The sums of one thread, in layouts that whole tiles and vectors can be added to.
struct WeightGrads {
  float* start;
  float* down_weight;    // (C, wide_dim) in panels
  float* up_weight;      // (C, wide_dim) in panels, which is the transpose of the caller's layout
  float* mix_weight;     // (C, wide) in panels
  float* scale_kernels;  // (S, 49, wide)
  float* scale_bias;     // (S, wide)
  float* hidden_weight;  // (Q, wide)
  float* hidden_bias;    // (Q)
  float* score_weight;   // (S, Q)
  float* score_bias;     // (S)
  float* norm_gain;      // (wide_dim)
  float* skip_gain;      // (wide_dim)
  float* up_bias;        // (wide_dim)
  float* down_bias;      // (wide)
  float* mix_bias;       // (wide)
  float* mask;           // (H, V, 2) numbers of each channel, in panels, before unpack_mask_grad weights the columns
  float* end;

  WeightGrads(const Sizes& n, Arena& arena)
      : start(arena.floats(0)),
        down_weight(arena.floats(n.channels * n.wide_dim)),
        up_weight(arena.floats(n.channels * n.wide_dim)),
        mix_weight(arena.floats(n.channels * n.wide)),
        scale_kernels(arena.floats(n.scales * kTaps * n.wide)),
        scale_bias(arena.floats(n.scales * n.wide)),
        hidden_weight(arena.floats(n.hidden * n.wide)),
        hidden_bias(arena.floats(n.hidden)),
        score_weight(arena.floats(n.scales * n.hidden)),
        score_bias(arena.floats(n.scales)),
        norm_gain(arena.floats(n.wide_dim)),
        skip_gain(arena.floats(n.wide_dim)),
        up_bias(arena.floats(n.wide_dim)),
        down_bias(arena.floats(n.wide)),
        mix_bias(arena.floats(n.wide)),
        mask(arena.floats(n.masks ? n.wide * mask_count(n) : 0)),
        end(arena.floats(0)) {}

  // Floats in all sums together, what lies between them for alignment included.
  i64 count() const { return end - start; }

  // Numbers in the mask of one channel.
  static i64 mask_count(const Sizes& n) { return n.height * (n.width / 2 + 1) * 2; }

  // Adds the sums of all threads, which lie one behind the other from `first` on, into those of the first thread, and
  // writes the result to `out` in the caller's layouts. The team has waited before.
  static void reduce(Team team, const Sizes& n, const WeightGrads& first, const Fourier& fourier,
                     const ht_adapter_weights& out) {
    const i64 count = first.count();
    const Range mine = team.share(count, kPanel);
    for (int t = 1; t < team.size; ++t) {
      const float* other = first.start + t * count;
      for (i64 i = mine.first; i < mine.last; ++i) first.start[i] += other[i];
    }
    team.wait();
    const Range up = team.share(n.dim, kPanel);
    for (i64 d = up.first; d < up.last; ++d) {
      for (i64 c = 0; c < n.channels; ++c) {
        out.up_weight[d * n.channels + c] = first.up_weight[panel_index(c, d, n.channels)];
      }
    }
    const Range down = team.share(n.channels, 1);
    for (i64 c = down.first; c < down.last; ++c) {
      unpack_row(first.down_weight, c, n.channels, n.dim, out.down_weight + c * n.dim);
    }
    if (team.rank != 0) return;
    for (i64 c = 0; c < n.channels; ++c) {
      unpack_row(first.mix_weight, c, n.channels, n.channels, out.mix_weight + c * n.channels);
    }
    for (i64 s = 0; s < n.scales; ++s) {
      const float* kernels = first.scale_kernels + s * kTaps * n.wide;
      for (i64 c = 0; c < n.channels; ++c) {
        for (i64 t = 0; t < kTaps; ++t) out.scale_kernels[(s * n.channels + c) * kTaps + t] = kernels[t * n.wide + c];
      }
      copy(first.scale_bias + s * n.wide, n.channels, out.scale_bias + s * n.channels);
    }
    copy(first.norm_gain, n.dim, out.norm_gain);
    copy(first.skip_gain, n.dim, out.skip_gain);
    copy(first.up_bias, n.dim, out.up_bias);
    copy(first.down_bias, n.channels, out.down_bias);
    copy(first.mix_bias, n.channels, out.mix_bias);
    if (n.masks) unpack_mask_grad(fourier, first.mask, n.masks, n.channels, out.mask);
    if (n.scales == 1) return;
    for (i64 q = 0; q < n.hidden; ++q) {
      copy(first.hidden_weight + q * n.wide, n.channels, out.hidden_weight + q * n.channels);
    }
    copy(first.hidden_bias, n.hidden, out.hidden_bias);
    copy(first.score_weight, n.scales * n.hidden, out.score_weight);
    copy(first.score_bias, n.scales, out.score_bias);
  }

 private:
  // to (columns) = a row of a matrix in panels.
  static void unpack_row(const float* panels, i64 row, i64 rows, i64 columns, float* to) {
    for_panels(columns, [&](i64 c, i64 valid) { copy(panels + panel_index(row, c, rows), valid, to + c); });
  }

  static void copy(const float* from, i64 count, float* to) {
    for (i64 i = 0; i < count; ++i) to[i] = from[i];
  }
};

}  // namespace HT_ISA
}  // namespace ht
