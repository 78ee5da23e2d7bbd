// The noise estimator: the weights of the scales of one image, from the sums of its bottleneck over patches (identity
// 3).
//
// Every block of mix_and_up_project computes them for its image: it reads 4 C bytes of sums per tile of tokens and the
// weights of two small layers, 4 Q (C + S) bytes, all from L2.
#pragma once

#include "threads.cuh"

namespace ht {
namespace cuda {

constexpr int kMaxScales = 3;

struct NoiseEstimator {
  const float* sums;           // (B, tiles, C)
  const float* hidden_weight;  // (Q, C); NULL when there is one scale
  const float* hidden_bias;    // (Q)
  const float* score_weight;   // (S, Q)
  const float* score_bias;     // (S)
  int tiles, channels, hidden, patches;

  static __host__ __device__ int scratch_floats(int channels, int hidden) { return channels + hidden + 4; }
};

// Every thread of the block gets the weights; those of scales that an adapter does not have are 0. `scratch` is shared
// memory of scratch_floats.
__device__ inline void scale_weights(const NoiseEstimator& p, int image, float* scratch, float (&weight)[kMaxScales]) {
  weight[0] = 1, weight[1] = weight[2] = 0;
  if (!p.hidden_weight) return;
  float *mean = scratch, *hidden = mean + p.channels, *score = hidden + p.hidden;
  const float* sums = p.sums + static_cast<int64_t>(image) * p.tiles * p.channels;
  for (int c = threadIdx.x; c < p.channels; c += kThreads) {
    float sum = 0;
    for (int tile = 0; tile < p.tiles; ++tile) sum += sums[tile * p.channels + c];
    mean[c] = sum / p.patches;
  }
  __syncthreads();
  for (int q = warp(); q < p.hidden; q += kWarps) {
    float sum = 0;
    for (int c = lane(); c < p.channels; c += kLanes) sum = fmaf(p.hidden_weight[q * p.channels + c], mean[c], sum);
    sum = warp_sum(sum);
    if (lane() == 0) hidden[q] = fmaxf(sum + p.hidden_bias[q], 0);
  }
  __syncthreads();
  if (warp() < kMaxScales) {
    float sum = 0;
    for (int q = lane(); q < p.hidden; q += kLanes) sum = fmaf(p.score_weight[warp() * p.hidden + q], hidden[q], sum);
    sum = warp_sum(sum);
    if (lane() == 0) score[warp()] = sum + p.score_bias[warp()];
  }
  __syncthreads();
  const float largest = fmaxf(score[0], fmaxf(score[1], score[2]));
  float total = 0;
  for (int s = 0; s < kMaxScales; ++s) total += weight[s] = expf(score[s] - largest);
  const float inverse = 1 / total;
  for (int s = 0; s < kMaxScales; ++s) weight[s] *= inverse;
}

}  // namespace cuda
}  // namespace ht
