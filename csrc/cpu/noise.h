// The weights of the scales, from the bottleneck's mean over the patch grid (identity 3).
#pragma once

#include "weights.h"

namespace ht {
namespace HT_ISA {

HT_INLINE float dot(const float* a, const float* b, i64 count) {
  Vec even{}, odd{};
  i64 i = 0;
  for (; i + kPanel <= count; i += kPanel) {
    even += load(a + i) * load(b + i);
    odd += load(a + i + kLanes) * load(b + i + kLanes);
  }
  float rest = 0;
  for (; i < count; ++i) rest += a[i] * b[i];
  return sum(even + odd) + rest;
}

// y += s * x
HT_INLINE void axpy(float s, const float* x, float* y, i64 count) {
  for (i64 i = 0; i < count; ++i) y[i] += s * x[i];
}

struct Noise {
  float* pooled;  // (C) mean over the grid
  float* hidden;  // (Q) after the ReLU
  float* weight;  // (S) sums to one

  Noise(const Sizes& n, Arena& arena)
      : pooled(arena.floats(n.wide)), hidden(arena.floats(max(n.hidden, 1))), weight(arena.floats(n.scales)) {}

  // From the patch rows of h, (patches, C). Every thread that needs the weights computes them for itself, in one
  // order, so they have the same bits everywhere.
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

// The depthwise kernel (49, wide) and bias (wide) of one image: scales weighted and summed (identity 2).
struct ImageKernel {
  float* kernel;
  float* bias;

  ImageKernel(const Sizes& n, Arena& arena) : kernel(arena.floats(kTaps * n.wide)), bias(arena.floats(n.wide)) {}

  void combine(const Sizes& n, const MixWeights& packed, const float* weight) const {
    combine(packed.scale_kernels, kTaps * n.wide, n.scales, weight, kernel);
    combine(packed.scale_bias, n.wide, n.scales, weight, bias);
  }

 private:
  static void combine(const float* scales, i64 count, i64 number, const float* weight, float* out) {
    for (i64 i = 0; i < count; i += kLanes) {
      Vec v = weight[0] * load(scales + i);
      for (i64 s = 1; s < number; ++s) v += weight[s] * load(scales + s * count + i);
      store(out + i, v);
    }
  }
};

}  // namespace HT_ISA
}  // namespace ht
