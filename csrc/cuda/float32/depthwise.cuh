// The depthwise convolution: makes the kernel of an image from those of the scales, then applies it to a tile of
// tokens.
//
// It reads h through the L1 cache. The 7x7 neighbourhoods of a tile fit there, so each value comes from L2 about once
// per tile that it lies in or borders on. A lane works on two neighbouring channels, so that a warp reads whole cache
// lines, and on up to eight neighbouring patches of a row, so that 14 loads of a row feed 7 x 8 x 2 multiplications.
#pragma once

#include "../launch.cuh"
#include "warp_product.cuh"

namespace ht {
namespace cuda {
namespace float32 {

constexpr int kSide = 7, kTaps = kSide * kSide, kMargin = kSide / 2;
constexpr int kRun = 8;  // neighbouring patches of a row that a warp works on at once

struct Depthwise {
  const float* h;              // (B, N, C)
  const float* filtered;       // (B, N, C): h with its patches filtered; NULL without a spectral filter
  const float* scale_kernels;  // (S, C, 7, 7)
  const float* scale_bias;     // (S, C)
  int tokens, channels, prefix, height, width, scales;
};

// Floats from one row of the kernel in shared memory to the next. A row is two floats longer than its channels, so that
// the writes of the threads, each of the next tap of a channel, are spread over the banks.
__host__ __device__ constexpr int kernel_stride(int channels) { return channels + 2; }

// Writes the kernel (49, kernel_stride) and the bias (C) of an image to shared memory.
__device__ inline void image_kernel(const Depthwise& p, const float (&weight)[3], float* kernel, float* bias) {
  for (int i = threadIdx.x; i < p.channels * kTaps; i += kThreads) {
    float tap = 0;
    for (int s = 0; s < p.scales; ++s) tap = fmaf(weight[s], p.scale_kernels[s * p.channels * kTaps + i], tap);
    kernel[i % kTaps * kernel_stride(p.channels) + i / kTaps] = tap;
  }
  for (int c = threadIdx.x; c < p.channels; c += kThreads) {
    float sum = 0;
    for (int s = 0; s < p.scales; ++s) sum = fmaf(weight[s], p.scale_bias[s * p.channels + c], sum);
    bias[c] = sum;
  }
}

// Writes Y of the patches among `rows` tokens from first_token on to y (rows, stride), and leaves other rows alone.
__device__ inline void convolve(const Depthwise& p, int image, int first_token, int rows, const float* kernel,
                                const float* bias, float* y, int stride) {
  const int first = max(0, first_token - p.prefix);
  const int last = min(first_token + rows, p.tokens) - p.prefix;  // the patch behind the last one
  if (first >= last) return;
  const int64_t offset = (static_cast<int64_t>(image) * p.tokens + p.prefix) * p.channels;
  const float* source = (p.filtered ? p.filtered : p.h) + offset;
  const int runs = (p.width + kRun - 1) / kRun, run_width = (p.width + runs - 1) / runs;
  const int first_row = first / p.width, count = (last - 1) / p.width - first_row + 1;
  const int pairs = p.channels / 2, groups = (pairs + kLanes - 1) / kLanes;
  for (int item = warp(); item < count * runs * groups; item += kWarps) {
    const int row = first_row + item / groups / runs;
    const int begin = max(item / groups % runs * run_width, first - row * p.width);
    const int end = min(min((item / groups % runs + 1) * run_width, p.width), last - row * p.width);
    const int channel = 2 * (item % groups * kLanes + lane());
    if (begin >= end || channel >= p.channels) continue;
    float2 sum[kRun];
#pragma unroll
    for (int i = 0; i < kRun; ++i) sum[i] = make_float2(bias[channel], bias[channel + 1]);
#pragma unroll 1
    for (int dy = 0; dy < kSide; ++dy) {
      const int from_row = row + dy - kMargin;
      if (from_row < 0 || from_row >= p.height) continue;
      const float* line = source + from_row * p.width * p.channels + channel;
      float2 value[kRun + kSide - 1];
#pragma unroll
      for (int i = 0; i < kRun + kSide - 1; ++i) {
        const int column = begin + i - kMargin;
        const bool inside = column >= 0 && column < p.width && i < end - begin + kSide - 1;
        value[i] = inside ? load_pair(line + column * p.channels) : make_float2(0, 0);
      }
#pragma unroll
      for (int dx = 0; dx < kSide; ++dx) {
        const float* at = kernel + (dy * kSide + dx) * kernel_stride(p.channels) + channel;
        const float2 tap = *reinterpret_cast<const float2*>(at);
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
          sum[i].x = fmaf(value[i + dx].x, tap.x, sum[i].x);
          sum[i].y = fmaf(value[i + dx].y, tap.y, sum[i].y);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (begin + i >= end) continue;
      const int patch = row * p.width + begin + i;
      if (p.filtered) {
        const float2 residual = load_pair(p.h + offset + patch * p.channels + channel);
        sum[i] = make_float2(sum[i].x + residual.x, sum[i].y + residual.y);
      }
      store_pair(y + (p.prefix + patch - first_token) * stride + channel, sum[i]);
    }
  }
}

}  // namespace float32
}  // namespace cuda
}  // namespace ht
