// The weights of an image's scales, from the mean of its bottleneck over the patches (identity 3), and their gradients.
//
// Forward: reads the patch rows of h, 4 H W C bytes, which are in the cache. Backward: works on vectors of C alone.
#pragma once

#include "arena.h"
#include "ht_kernels.h"
#include "simd.h"
#include "sizes.h"
#include "team.h"
#include "vector_math.h"
#include "weight_grads.h"

namespace ht {
namespace HT_ISA {

struct ScaleWeights {
  float* pooled;  // (wide) the mean of the bottleneck over the grid
  float* hidden;  // (Q) the hidden layer of the noise estimator after its ReLU
  float* weight;  // (S) the weights, which sum to one

  ScaleWeights(const Sizes& n, Arena& arena)
      : pooled(arena.floats(n.wide)), hidden(arena.floats(max(n.hidden, 1))), weight(arena.floats(n.scales)) {}

  // From the patch rows of h, (patches, C). Every thread that needs the weights computes them for itself. All do so in
  // the same order, so the bits are the same in every thread.
  void estimate(const Sizes& n, const ht_adapter_weights& w, const float* patches) const {
    if (n.scales == 1) {
      weight[0] = 1;
      return;
    }
    for (i64 c = 0; c < n.channels; c += kLanes) {
      const i64 left = n.channels - c;
      Vec a{}, b{};
      i64 i = 0;
      for (; i + 2 <= n.patches; i += 2) {
        a += load_first(patches + i * n.channels + c, left);
        b += load_first(patches + (i + 1) * n.channels + c, left);
      }
      if (i < n.patches) a += load_first(patches + i * n.channels + c, left);
      store(pooled + c, (a + b) * (1.0f / static_cast<float>(n.patches)));
    }
    for (i64 j = 0; j < n.hidden; ++j) {
      const float q = dot(w.hidden_weight + j * n.channels, pooled, n.channels) + w.hidden_bias[j];
      hidden[j] = q > 0 || q != q ? q : 0;
    }
    float top = 0;
    for (i64 s = 0; s < n.scales; ++s) {
      weight[s] = dot(w.score_weight + s * n.hidden, hidden, n.hidden) + w.score_bias[s];
      top = s == 0 || weight[s] > top ? weight[s] : top;
    }
    float total = 0;
    for (i64 s = 0; s < n.scales; ++s) total += weight[s] = __builtin_expf(weight[s] - top);
    for (i64 s = 0; s < n.scales; ++s) weight[s] /= total;
  }
};

// From dweight (S), the gradient of the weights, to dpooled (wide), what each patch gets through the mean, and to the
// gradients of the noise estimator. Every member computes dpooled, since all need it; only the first adds to `sums`.
inline void scale_weights_backward(const Sizes& n, Team team, const ht_adapter_weights& w, const ScaleWeights& scales,
                                   const float* dweight, float* dpooled, const WeightGrads& sums) {
  for (i64 c = 0; c < n.wide; ++c) dpooled[c] = 0;
  if (n.scales == 1) return;
  float dscore[kMostScales], mean = 0;
  for (i64 scale = 0; scale < n.scales; ++scale) mean += scales.weight[scale] * dweight[scale];
  for (i64 scale = 0; scale < n.scales; ++scale) dscore[scale] = scales.weight[scale] * (dweight[scale] - mean);
  const float per_patch = 1.0f / static_cast<float>(n.patches);
  for (i64 q = 0; q < n.hidden; ++q) {
    float d = 0;
    for (i64 scale = 0; scale < n.scales; ++scale) d += dscore[scale] * w.score_weight[scale * n.hidden + q];
    if (scales.hidden[q] <= 0) d = 0;
    axpy(d * per_patch, w.hidden_weight + q * n.channels, dpooled, n.channels);
    if (team.rank != 0) continue;
    axpy(d, scales.pooled, sums.hidden_weight + q * n.wide, n.channels);
    sums.hidden_bias[q] += d;
    for (i64 scale = 0; scale < n.scales; ++scale) {
      sums.score_weight[scale * n.hidden + q] += dscore[scale] * scales.hidden[q];
    }
  }
  for (i64 scale = 0; team.rank == 0 && scale < n.scales; ++scale) sums.score_bias[scale] += dscore[scale];
}

}  // namespace HT_ISA
}  // namespace ht
