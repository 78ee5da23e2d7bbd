// The spectral filter: out = irfft2(M * rfft2(x)) of images, see docs/algebra.md.
//
// Reads x once and writes out once, 4 BCHW bytes in 16-bit types, and reads the mask once per image, after the first
// image from L2. It takes 4 H V (W + 2H) multiply-adds a channel, V = W/2 + 1.
//
// A block filters a few channels of one image. Their spectrum never leaves its shared memory, which holds two tiles (H,
// V, channels) of complex numbers, channels last: one is read while the other is written. A transform is a product with
// a matrix of roots of unity. They are powers of one root, so a table of a row holds them all. A thread computes
// kAtOnce values that need the same roots. The roots are exact at quarter turns, so the imaginary parts of columns 0
// and W/2, which irfft2 drops, are multiplied by exact zeros.
#pragma once

#include "launch.cuh"
#include "numbers.cuh"

namespace ht {
namespace cuda {

constexpr int kMaxSide = 64;  // of a grid, so that one channel fits the shared memory of every device
constexpr int kAtOnce = 4;    // values that a thread computes together
constexpr int kMaxGroup = 8;  // channels that a block filters at most

template <class T>
struct SpectralFilter {
  const T* x;  // patch q of channel c of image b lies at b * image_stride + c * channel_stride + q * patch_stride
  T* out;      // with the same strides
  int64_t image_stride, channel_stride, patch_stride;
  const float2* mask;  // (masks, H, V): real and imaginary parts
  int channels, masks, height, width;
  int group;  // channels of a block; the last block of an image may have fewer

  __host__ __device__ int groups() const { return (channels + group - 1) / group; }
};

// Bytes of shared memory of a block.
constexpr int group_bytes(int group, int height, int width) {
  return static_cast<int>(sizeof(float2)) * (width + height + 2 * group * height * (width / 2 + 1));
}

// The part of a call that one block works on.
struct Spectra {
  int channels, height, width, half;  // half is V
  const float2 *across, *down;        // (W) and (H): the cosine and sine of multiples of 1/W and 1/H of a turn
  const float2* mask;                 // (channels, H, V), or (H, V) with a step of 0
  int mask_step;

  // The mask of a frequency times the weight of its column in the inverse. A column with an imaginary part counts
  // twice, for it stands for the column of the opposite frequency too.
  __device__ float2 gain(int u, int v, int c) const {
    const float2 value = mask[c * mask_step + u * half + v];
    const float weight = (v > 0 && 2 * v < width ? 2.0f : 1.0f) / (height * width);
    return make_float2(weight * value.x, weight * value.y);
  }
};

__device__ inline float2 root_of_unity(int k, int n) {
  float2 root;
  sincospif(2.0f * (2 * k > n ? k - n : k) / n, &root.y, &root.x);
  return root;
}

__device__ __forceinline__ float2 product(float2 a, float2 b) {
  return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}

// The index of root k + step in a table of n, which starts again behind its end.
__device__ __forceinline__ int turn(int k, int step, int n) { return k + step < n ? k + step : k + step - n; }

// spectrum (H, V) = image (H, W), transformed over the width.
__device__ inline void transform_rows(const Spectra& s, const float* image, float2* spectrum) {
  const int runs = (s.height + kAtOnce - 1) / kAtOnce;
  for (int item = threadIdx.x; item < runs * s.half * s.channels; item += kThreads) {
    const int c = item % s.channels, v = item / s.channels % s.half, first = item / s.channels / s.half;
    float2 sum[kAtOnce] = {};
    for (int j = 0, at = 0; j < s.width; ++j, at = turn(at, v, s.width)) {
      const float2 root = s.across[at];
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) {
        const int i = min(first + r * runs, s.height - 1);
        const float value = image[(i * s.width + j) * s.channels + c];
        sum[r].x = fmaf(value, root.x, sum[r].x);
        sum[r].y = fmaf(value, -root.y, sum[r].y);
      }
    }
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
      const int i = first + r * runs;
      if (i < s.height) spectrum[(i * s.half + v) * s.channels + c] = sum[r];
    }
  }
}

// to (H, V) = from (H, V), transformed over the height and multiplied by the mask, or, if kBack, transformed back. The
// mask is read first, so that it is on its way from memory during the transform.
template <bool kBack>
__device__ void transform_columns(const Spectra& s, const float2* from, float2* to) {
  const int runs = (s.half + kAtOnce - 1) / kAtOnce;
  for (int item = threadIdx.x; item < runs * s.height * s.channels; item += kThreads) {
    const int c = item % s.channels, first = item / s.channels % runs, u = item / s.channels / runs;
    float2 sum[kAtOnce] = {}, gain[kAtOnce];
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
      gain[r] = kBack ? make_float2(1, 0) : s.gain(u, min(first + r * runs, s.half - 1), c);
    }
    for (int i = 0, at = 0; i < s.height; ++i, at = turn(at, u, s.height)) {
      const float2 root = s.down[at];
      const float sine = kBack ? -root.y : root.y;
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) {
        const int v = min(first + r * runs, s.half - 1);
        const float2 value = from[(i * s.half + v) * s.channels + c];
        sum[r].x = fmaf(value.x, root.x, fmaf(value.y, sine, sum[r].x));
        sum[r].y = fmaf(value.y, root.x, fmaf(-value.x, sine, sum[r].y));
      }
    }
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
      const int v = first + r * runs;
      if (v >= s.half) continue;
      to[(u * s.half + v) * s.channels + c] = kBack ? sum[r] : product(sum[r], gain[r]);
    }
  }
}

// Transforms spectrum (H, V) back over the width, and calls write(value, q, c) with every value of the image, that of
// patch q and channel c.
template <class Write>
__device__ void invert_rows(const Spectra& s, const float2* spectrum, const Write& write) {
  const int runs = (s.height + kAtOnce - 1) / kAtOnce;
  for (int item = threadIdx.x; item < runs * s.width * s.channels; item += kThreads) {
    const int c = item % s.channels, j = item / s.channels % s.width, first = item / s.channels / s.width;
    float sum[kAtOnce] = {};
    for (int v = 0, at = 0; v < s.half; ++v, at = turn(at, j, s.width)) {
      const float2 root = s.across[at];
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) {
        const int i = min(first + r * runs, s.height - 1);
        const float2 value = spectrum[(i * s.half + v) * s.channels + c];
        sum[r] = fmaf(value.x, root.x, fmaf(-value.y, root.y, sum[r]));
      }
    }
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
      const int i = first + r * runs;
      if (i < s.height) write(sum[r], i * s.width + j, c);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) spectral_filter(const SpectralFilter<T> p) {
  const int image = blockIdx.x / p.groups(), first_channel = blockIdx.x % p.groups() * p.group;
  const int64_t offset = image * p.image_stride + first_channel * p.channel_stride;
  float2* across = static_cast<float2*>(shared_memory());
  float2* down = across + p.width;
  const int half = p.width / 2 + 1, mask_step = p.masks > 1 ? p.height * half : 0;
  const Spectra s{min(p.group, p.channels - first_channel),
                  p.height,
                  p.width,
                  half,
                  across,
                  down,
                  p.mask + static_cast<int64_t>(first_channel) * mask_step,
                  mask_step};
  float2* spectrum = down + p.height;
  float2* other = spectrum + s.height * s.half * s.channels;
  float* tile = reinterpret_cast<float*>(other);  // (H, W, channels)

  for (int k = threadIdx.x; k < p.width + p.height; k += kThreads) {
    across[k] = k < p.width ? root_of_unity(k, p.width) : root_of_unity(k - p.width, p.height);
  }
  for (int i = threadIdx.x; i < s.height * s.width * s.channels; i += kThreads) {
    tile[i] = widen(p.x[offset + i / s.channels * p.patch_stride + i % s.channels * p.channel_stride]);
  }
  __syncthreads();
  transform_rows(s, tile, spectrum);
  __syncthreads();
  transform_columns<false>(s, spectrum, other);
  __syncthreads();
  transform_columns<true>(s, other, spectrum);
  __syncthreads();
  invert_rows(s, spectrum, [&](float value, int q, int c) {
    p.out[offset + q * p.patch_stride + c * p.channel_stride] = narrow<T>(value);
  });
}

}  // namespace cuda
}  // namespace ht
