// LayerNorm without gain and bias of tokens (B, N, D), for out of an adapter where no block of mix_and_up_project has
// whole rows.
//
// Reads x once and writes out once, 4 BND bytes in 16-bit types. A warp has one token; it reads it three times, for the
// mean, the variance and the result, the second and third time from L1.
#pragma once

#include "numbers.cuh"
#include "threads.cuh"

namespace ht {
namespace cuda {

template <class T>
struct LayerNorm {
  const T* x;
  T* out;
  int64_t x_batch_stride, x_token_stride, out_batch_stride, out_token_stride;
  int64_t rows;  // BN
  int tokens, dim;
  float eps, inverse_dim;
};

// Calls f with the numbers of a lane, eight at a time, and their place. The loads of a row of up to 1024 columns are on
// their way together.
template <class T, class Function>
__device__ __forceinline__ void over_row(const T* row, int dim, Function f) {
  constexpr int kAtOnce = 4, kStep = kVector * kLanes;
#pragma unroll 1
  for (int first = kVector * lane(); first < dim; first += kAtOnce * kStep) {
    Pack<T> pack[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i * kStep < dim) pack[i] = load(row + first + i * kStep);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i * kStep >= dim) break;
      float value[kVector];
      pack[i].widen(value);
      f(value, first + i * kStep);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) layer_norm(const LayerNorm<T> p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + warp();
  if (row >= p.rows) return;
  const int64_t image = row / p.tokens, token = row - image * p.tokens;
  const T* x = p.x + image * p.x_batch_stride + token * p.x_token_stride;
  T* out = p.out + image * p.out_batch_stride + token * p.out_token_stride;
  float sum = 0, squares = 0;
  over_row(x, p.dim, [&](const float (&value)[kVector], int) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) sum += value[i];
  });
  const float mean = p.inverse_dim * warp_sum(sum);
  over_row(x, p.dim, [&](const float (&value)[kVector], int) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) squares = fmaf(value[i] - mean, value[i] - mean, squares);
  });
  const float scale = rsqrtf(fmaf(warp_sum(squares), p.inverse_dim, p.eps));
  over_row(x, p.dim, [&](const float (&value)[kVector], int column) {
    float normed[kVector];
#pragma unroll
    for (int i = 0; i < kVector; ++i) normed[i] = (value[i] - mean) * scale;
    Pack<T> result;
    result.narrow(normed);
    store(out + column, result);
  });
}

}  // namespace cuda
}  // namespace ht
