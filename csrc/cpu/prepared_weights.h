// The folded weights in the layouts that the stages read.
//
// Everything here depends on the weights and on the sizes of the shape apart from its batch, and on nothing else of a
// call. So memory that prepare() filled serves any number of calls: an object made anew over it, from the same weights
// and sizes, points to the values in it. What needs no other layout is read from ht_adapter_weights, which has to stay
// where it is as long.
#pragma once

#include "arena.h"
#include "fourier.h"
#include "gemm.h"
#include "ht_kernels.h"
#include "pair_panels.h"
#include "simd.h"
#include "sizes.h"
#include "team.h"

namespace ht {
namespace HT_ISA {

// A vector with zeros behind its end, up to a length. One that has this length already is read where it lies.
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

// The matrices of down_project and up_project, which only the forward pass reads in this layout. They are multiplied as
// numbers of the type Factor: float, or bfloat16 in pairs.
template <class Factor>
struct ProjectWeights {
  typename PanelsOf<Factor>::type down;  // (D, C)
  typename PanelsOf<Factor>::type up;    // (C, D)
  Widened down_bias;                     // (wide)
  Widened up_bias;                       // (wide_dim)

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

// The convolutions of all scales and the projector behind them, which both passes read.
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

// The matrices of the Fourier transforms and the masks of the spectral filter, which both passes read.
struct SpectralWeights {
  Fourier fourier;
  Panels mask;  // (H, V, 2) numbers of each channel, V = W/2 + 1; a shared mask is repeated for every channel

  SpectralWeights(i64 height, i64 width, i64 masks, i64 channels, const float* mask, Arena& arena)
      : fourier(height, width, arena), mask(mask_panels(fourier, masks, channels, mask, arena)) {}

  // Of no elements for an adapter without a spectral filter.
  SpectralWeights(const Sizes& n, const ht_adapter_weights& w, Arena& arena)
      : SpectralWeights(n.masks ? n.height : 0, n.masks ? n.width : 0, n.masks, n.channels, w.mask, arena) {}

  void fill(Team team) const {
    if (team.rank == 0) fourier.fill();
    mask.fill(team);
  }

 private:
  static Panels mask_panels(const Fourier& f, i64 masks, i64 channels, const float* mask, Arena& arena) {
    const i64 count = f.height * f.half * 2;
    return Panels(Matrix{mask, 1, masks > 1 ? count : 0}, count, channels, arena);
  }
};

// All that the forward pass reads of the weights in another layout than that of ht_adapter_weights.
template <class Factor>
struct PreparedWeights {
  ProjectWeights<Factor> project;
  MixWeights mix;
  SpectralWeights spectral;

  PreparedWeights(const Sizes& n, const ht_adapter_weights& w, Arena& arena)
      : project(n, w, arena), mix(n, w, arena), spectral(n, w, arena) {}

  // Members share the work; everything is there once the team has waited.
  void fill(Team team, const Sizes& n, const ht_adapter_weights& w) const {
    project.fill(team);
    mix.fill(team, n, w);
    spectral.fill(team);
  }
};

template <class Factor>
size_t prepared_bytes(const ht_adapter_shape& shape) {
  Arena arena(nullptr);
  PreparedWeights<Factor> counted(Sizes(shape), ht_adapter_weights{}, arena);
  return arena.used();
}

template <class Factor>
void prepare(const ht_adapter_shape& shape, const ht_adapter_weights& w, void* memory, int threads) {
  const Sizes n(shape);
  Arena arena(memory);
  const PreparedWeights<Factor> weights(n, w, arena);
  in_parallel(threads, [&](Team everyone) { weights.fill(everyone, n, w); });
}

// The matrices that gradients are multiplied with: the transposes of those of the forward pass.
struct TransposedWeights {
  Panels up;    // (D, C)
  Panels mix;   // (C out, C in)
  Panels down;  // (C, D)

  TransposedWeights(const Sizes& n, const ht_adapter_weights& w, Arena& arena)
      : up(Matrix{w.up_weight, n.channels, 1}, n.dim, n.channels, arena),
        mix(Matrix{w.mix_weight, n.channels, 1}, n.channels, n.channels, arena),
        down(Matrix{w.down_weight, n.dim, 1}, n.channels, n.dim, arena) {}

  void fill(Team team) const {
    up.fill(team);
    mix.fill(team);
    down.fill(team);
  }
};

}  // namespace HT_ISA
}  // namespace ht
