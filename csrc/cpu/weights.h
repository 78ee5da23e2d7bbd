// The folded weights as the stages read them.
#pragma once

#include "sizes.h"

namespace ht {
namespace HT_ISA {

// A vector with zeros behind its end, up to a length; the vector itself where it is that long.
class Widened {
 public:
  Widened(const float* from, i64 count, i64 wide, Arena& arena)
      : from_(from), count_(count), wide_(wide), copy_(count == wide ? nullptr : arena.floats(wide)) {}

  operator const float*() const { return copy_ ? copy_ : from_; }

  void fill() const {
    for (i64 i = 0; copy_ && i < wide_; ++i) copy_[i] = i < count_ ? from_[i] : 0;
  }

 private:
  const float* from_;
  i64 count_, wide_;
  float* copy_;
};

struct ProjectWeights {
  Panels down;        // (D, C)
  Panels up;          // (C, D)
  Widened down_bias;  // (wide)
  Widened up_bias;    // (wide_dim)

  ProjectWeights(const Sizes& n, const ht_adapter_weights& w, Arena& arena)
      : down(Matrix{w.down_weight, 1, n.dim}, n.dim, n.channels, arena),
        up(Matrix{w.up_weight, 1, n.channels}, n.channels, n.dim, arena),
        down_bias(w.down_bias, n.channels, n.wide, arena),
        up_bias(w.up_bias, n.dim, n.wide_dim, arena) {}

  void fill(Team team) const {
    down.fill(team);
    up.fill(team);
    if (team.rank != 0) return;
    down_bias.fill();
    up_bias.fill();
  }
};

struct MixWeights {
  Panels mix;            // (C in, C out)
  Widened mix_bias;      // (wide)
  float* scale_kernels;  // (S, 49, wide)
  float* scale_bias;     // (S, wide)

  MixWeights(const Sizes& n, const ht_adapter_weights& w, Arena& arena)
      : mix(Matrix{w.mix_weight, 1, n.channels}, n.channels, n.channels, arena),
        mix_bias(w.mix_bias, n.channels, n.wide, arena),
        scale_kernels(arena.floats(n.scales * kTaps * n.wide)),
        scale_bias(arena.floats(n.scales * n.wide)) {}

  void fill(Team team, const Sizes& n, const ht_adapter_weights& w) const {
    mix.fill(team);
    const Range rows = team.share(n.scales * kTaps, 1);
    for (i64 row = rows.first; row < rows.last; ++row) {
      const float* from = w.scale_kernels + row / kTaps * n.channels * kTaps + row % kTaps;
      for (i64 c = 0; c < n.wide; ++c) scale_kernels[row * n.wide + c] = c < n.channels ? from[c * kTaps] : 0;
    }
    if (team.rank != 0) return;
    mix_bias.fill();
    for (i64 row = 0; row < n.scales; ++row) {
      const float* from = w.scale_bias + row * n.channels;
      for (i64 c = 0; c < n.wide; ++c) scale_bias[row * n.wide + c] = c < n.channels ? from[c] : 0;
    }
  }
};

}  // namespace HT_ISA
}  // namespace ht
