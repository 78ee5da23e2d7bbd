// The weights of the scales backwards, between the sweeps: needs the depthwise gradients of the whole image.
#pragma once

#include "backward_buffers.h"

namespace ht {
namespace HT_ISA {

// From the gradient of the image's depthwise kernel to those of the scales, of the noise estimator and of the pooled
// bottleneck. Every member computes the last; only the first adds to `sums`.
inline void noise_backward(const Sizes& n, Team team, const ht_adapter_weights& w, const MixWeights& packed,
                           const ImageGrads& image, BackwardScratch& s, const PartialGrads& sums) {
  const i64 count = ImageGrads::kernel_count(n);
  const float* bias = s.kernel + kTaps * n.wide;
  for (i64 i = 0; i < count; i += kLanes) {
    Vec total = load(image.kernel + i);
    for (int member = 1; member < team.size; ++member) total += load(image.kernel + member * count + i);
    store(s.kernel + i, total);
  }
  const float* weight = s.mix.noise.weight;
  if (team.rank == 0) {
    for (i64 scale = 0; scale < n.scales; ++scale) {
      axpy(weight[scale], s.kernel, sums.scale_kernels + scale * kTaps * n.wide, kTaps * n.wide);
      axpy(weight[scale], bias, sums.scale_bias + scale * n.wide, n.wide);
    }
  }
  for (i64 c = 0; c < n.wide; ++c) s.dpooled[c] = 0;
  if (n.scales == 1) return;
  float dscore[3], mean = 0;
  for (i64 scale = 0; scale < n.scales; ++scale) {
    float d = dot(bias, packed.scale_bias + scale * n.wide, n.channels);
    for (i64 t = 0; t < kTaps; ++t) {
      d += dot(s.kernel + t * n.wide, packed.scale_kernels + (scale * kTaps + t) * n.wide, n.channels);
    }
    dscore[scale] = d;
    mean += weight[scale] * d;
  }
  for (i64 scale = 0; scale < n.scales; ++scale) dscore[scale] = weight[scale] * (dscore[scale] - mean);
  const float per_patch = 1.0f / static_cast<float>(n.patches);
  for (i64 q = 0; q < n.hidden; ++q) {
    float d = 0;
    for (i64 scale = 0; scale < n.scales; ++scale) d += dscore[scale] * w.score_weight[scale * n.hidden + q];
    if (s.mix.noise.hidden[q] <= 0) d = 0;
    axpy(d * per_patch, w.hidden_weight + q * n.channels, s.dpooled, n.channels);
    if (team.rank != 0) continue;
    axpy(d, s.mix.noise.pooled, sums.hidden_weight + q * n.wide, n.channels);
    sums.hidden_bias[q] += d;
    for (i64 scale = 0; scale < n.scales; ++scale) {
      sums.score_weight[scale * n.hidden + q] += dscore[scale] * s.mix.noise.hidden[q];
    }
  }
  for (i64 scale = 0; team.rank == 0 && scale < n.scales; ++scale) sums.score_bias[scale] += dscore[scale];
}

}  // namespace HT_ISA
}  // namespace ht
