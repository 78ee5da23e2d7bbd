// The weights of an adapter as the 16-bit kernels read them, made once per set of weights.
#pragma once

#include <cstdint>

#include "ht_kernels.h"

namespace ht {
namespace cuda {

// Where each part begins, in bytes.
struct PreparedLayout {
  int64_t row_sums;  // (C) float32: the sums of the rows of the rounded Wa
  int64_t kernels;   // (49, S, C) float32: the scales' kernels, channels last
  int64_t stacked;   // (2, C, D) in the dtype of tokens: Wa = down_weight norm_gain, Wb = down_weight skip_gain
  int64_t bytes;

  static PreparedLayout of(const ht_adapter_shape& s) {
    const auto aligned = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
    PreparedLayout l{};
    l.kernels = aligned(4 * s.bottleneck);
    l.stacked = l.kernels + aligned(4 * 49 * s.scales * s.bottleneck);
    l.bytes = l.stacked + aligned(2 * 2 * s.bottleneck * s.dim);
    return l;
  }
};

}  // namespace cuda
}  // namespace ht
