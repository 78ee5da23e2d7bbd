// Makes the prepared weights (prepared.h). It runs once per set of weights, so it is written to be short.
//
// Reads down_weight, the gains and the scales' kernels once, and writes the stacked weights, the row sums and the
// kernels, channels last. A warp makes a row of Wa and of Wb; then its lanes' sums are added in a fixed order.
#pragma once

#include "numbers.cuh"
#include "threads.cuh"

namespace ht {
namespace cuda {

template <class T>
struct Prepare {
  const T* down_weight;        // (C, D)
  const float* norm_gain;      // (D)
  const float* skip_gain;      // (D)
  const float* scale_kernels;  // (S, C, 49)
  float* row_sums;             // (C)
  float* kernels;              // (49, S, C)
  T* stacked;                  // (2, C, D)
  int dim, channels, scales;
};

template <class T>
__global__ void __launch_bounds__(kThreads) prepare(const Prepare<T> p) {
  const int planes = p.scales * p.channels;
  for (int i = blockIdx.x * kThreads + threadIdx.x; i < 49 * planes; i += p.channels * kThreads) {
    p.kernels[i] = p.scale_kernels[i % planes * 49 + i / planes];
  }
  if (warp() > 0) return;
  const int channel = blockIdx.x;
  const T* from = p.down_weight + static_cast<int64_t>(channel) * p.dim;
  T* norm = p.stacked + static_cast<int64_t>(channel) * p.dim;
  T* skip = norm + static_cast<int64_t>(p.channels) * p.dim;
  float sum = 0;
  for (int d = lane(); d < p.dim; d += kLanes) {
    const float weight = widen(from[d]);
    norm[d] = narrow<T>(weight * p.norm_gain[d]);
    skip[d] = narrow<T>(weight * p.skip_gain[d]);
    sum += widen(norm[d]);
  }
  sum = warp_sum(sum);
  if (lane() == 0) p.row_sums[channel] = sum;
}

}  // namespace cuda
}  // namespace ht
