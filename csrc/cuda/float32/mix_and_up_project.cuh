// Stage 2: out = x + up_weight gelu(m) + up_bias. m is h for prefix tokens and mix_weight Y + mix_bias for patches, and
// Y is the depthwise convolution of h with the image's own kernel.
//
// Reads h, x and the weights and writes out, 4 BND + 2 BNC bytes in 16-bit types. x comes from L2 as far as L2 still
// holds what down_project read.
//
// A block works on several tiles of 16 kM tokens of one image, so that it makes the image's kernel once for all of
// them, and on a slice of D. With few images D has several slices, which make enough blocks; each slice repeats the
// convolution of its tiles, which is a small part of the work. Y and gelu(m) of a tile stay in shared memory in the
// type of x, row by row, for the tensor cores. Each warp then takes 32 columns of D at a time. The x that it adds is on
// its way from memory while it multiplies, and every lane ends with 8 neighbouring columns, which it stores at once.
#pragma once

#include "../launch.cuh"
#include "../scale_weights.cuh"
#include "depthwise.cuh"
#include "warp_product.cuh"

namespace ht {
namespace cuda {
namespace float32 {

struct MixAndUpProject {
  NoiseEstimator noise;
  Depthwise depthwise;
  Matrix mix_weight;      // (C, C)
  const float* mix_bias;  // (C)
  Matrix up_weight;       // (D, C)
  const float* up_bias;   // (D)
  const float* x;
  float* out;
  int64_t x_batch_stride, x_token_stride, out_batch_stride, out_token_stride;
  int blocks;  // blocks per image and slice of D; a block works on every blocks-th tile of tokens
  int slice;   // columns of D per block, a multiple of kUpColumns

  __device__ int image() const { return blockIdx.x / blocks; }
};

// Where a block keeps what in shared memory, in bytes from its start: floats first, then two tiles of float.
struct MixLayout {
  int kernel, bias, scratch, tiles, bytes;

  static __host__ __device__ MixLayout of(int channels, int hidden, int rows) {
    MixLayout l;
    l.kernel = 0;
    l.bias = l.kernel + kTaps * kernel_stride(channels) * static_cast<int>(sizeof(float));
    l.scratch = l.bias + channels * static_cast<int>(sizeof(float));
    l.tiles =
        round_up(l.scratch + NoiseEstimator::scratch_floats(channels, hidden) * static_cast<int>(sizeof(float)), 16);
    l.bytes = l.tiles + 2 * rows * shared_stride(round_up(channels, kDepth)) * static_cast<int>(sizeof(float));
    return l;
  }
};

__device__ __forceinline__ float gelu(float v) { return 0.5f * v * (1 + erff(v * 0.70710678118654752440f)); }

// g = gelu(m) of a tile of tokens from its y, both (16 kM, stride).
template <bool kTensorCores, int kM>
__device__ void mix(const MixAndUpProject& p, int first_token, const float* y, float* g, int stride) {
  using Product = WarpProduct<kTensorCores, 1, 1, InOrder>;
  const Depthwise& d = p.depthwise;
  const float* h = d.h + (static_cast<int64_t>(p.image()) * d.tokens + first_token) * d.channels;
  for (int task = warp(); task < kM * d.channels / 8; task += kWarps) {
    const int first_row = task % kM * 16, first_channel = task / kM * 8;
    Product product;
    product.clear();
    for (int k = 0; k < d.channels; k += kDepth) {
      product.add(y + first_row * stride + k, stride, p.mix_weight, first_channel,
                  product.fetch(p.mix_weight, first_channel, k));
    }
    const int channel = first_channel + 2 * (lane() % 4);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + lane() / 4 + 8 * half;
      float2 m = make_float2(product.acc[0][0][2 * half] + p.mix_bias[channel],
                             product.acc[0][0][2 * half + 1] + p.mix_bias[channel + 1]);
      if (first_token + row < d.prefix) m = load_pair(h + row * d.channels + channel);
      store_pair(g + row * stride + channel, make_float2(gelu(m.x), gelu(m.y)));
    }
  }
}

// Writes out of a tile of tokens, the columns from `first` to the one before `last`, from g = gelu(m).
template <bool kTensorCores, int kM>
__device__ void up_project(const MixAndUpProject& p, int first_token, int first, int last, const float* g, int stride) {
  using Product = WarpProduct<kTensorCores, kM, kUpColumns / 8, Spread>;
  const float* x = p.x + p.image() * p.x_batch_stride;
  float* out = p.out + p.image() * p.out_batch_stride;
  for (int group = first + kUpColumns * warp(); group < last; group += kUpColumns * kWarps) {
    const int column = group + kVector * (lane() % 4);
    Pack<float> residual[2 * kM];
#pragma unroll
    for (int i = 0; i < 2 * kM; ++i) {
      const int token = first_token + 8 * i + lane() / 4;
      const bool inside = token < p.depthwise.tokens && column < last;
      residual[i] = inside ? load(x + token * p.x_token_stride + column) : Pack<float>{};
    }
    Product product;
    product.clear();
#pragma unroll 1
    for (int k = 0; k < p.up_weight.columns; k += kDepth) {
      product.add(g + k, stride, p.up_weight, group, product.fetch(p.up_weight, group, k));
    }
    if (column >= last) continue;
    float bias[kVector];
    load(p.up_bias + column).widen(bias);
#pragma unroll
    for (int i = 0; i < 2 * kM; ++i) {
      const int token = first_token + 8 * i + lane() / 4;
      float value[kVector];
      residual[i].widen(value);
#pragma unroll
      for (int j = 0; j < kVector; ++j) value[j] += product.acc[i / 2][j / 2][i % 2 * 2 + j % 2] + bias[j];
      Pack<float> result;
      result.narrow(value);
      if (token < p.depthwise.tokens) store(out + token * p.out_token_stride + column, result);
    }
  }
}

template <bool kTensorCores, int kM>
__global__ void __launch_bounds__(kThreads, 1) mix_and_up_project(const MixAndUpProject p) {
  constexpr int kRows = 16 * kM;
  const Depthwise& d = p.depthwise;
  const MixLayout layout = MixLayout::of(d.channels, p.noise.hidden, kRows);
  const int stride = shared_stride(round_up(d.channels, kDepth));
  char* memory = static_cast<char*>(shared_memory());
  float* kernel = reinterpret_cast<float*>(memory + layout.kernel);
  float* bias = reinterpret_cast<float*>(memory + layout.bias);
  float* y = reinterpret_cast<float*>(memory + layout.tiles);
  float* g = y + kRows * stride;
  const int first = blockIdx.y * p.slice, last = min(first + p.slice, p.up_weight.rows);

  // The products read whole tiles, so rows of y without a patch and columns behind the last channel must be zero.
  // Nothing else writes them.
  for (int i = kVector * threadIdx.x; i < 2 * kRows * stride; i += kVector * kThreads) store(y + i, Pack<float>{});
  float weight[kMaxScales];
  scale_weights(p.noise, p.image(), reinterpret_cast<float*>(memory + layout.scratch), weight);
  image_kernel(d, weight, kernel, bias);
  __syncthreads();
  for (int token = blockIdx.x % p.blocks * kRows; token < d.tokens; token += p.blocks * kRows) {
    convolve(d, p.image(), token, kRows, kernel, bias, y, stride);
    __syncthreads();
    mix<kTensorCores, kM>(p, token, y, g, stride);
    __syncthreads();
    up_project<kTensorCores, kM>(p, token, first, last, g, stride);
  }
}

}  // namespace float32
}  // namespace cuda
}  // namespace ht
