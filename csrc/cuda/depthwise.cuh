// The depthwise convolution in 16-bit types: Y of a tile of patches with the image's own 7x7 kernel (identity 2).
//
// A tile of h with a margin of three patches, zeros outside the grid, lies in shared memory as (height + 6, pitch, C),
// and the kernel as (49, C) in float32. A lane works on two neighbouring channels, so a warp reads whole rows of banks.
// It takes a run of neighbouring patches of a row at once: for each of the seven rows of taps it loads the taps and
// kRun + 6 patches into registers, and multiplies 7 kRun times 2. Nothing asks whether a patch is inside the grid.
#pragma once

#include "async_copy.cuh"
#include "grid_tiles.h"
#include "threads.cuh"

namespace ht {
namespace cuda {

// Starts the copies of a tile with its margins from h of an image, whose first patch is at `patches`. Row and column
// are those of the tile's first patch.
template <class T>
__device__ __forceinline__ void fetch_halo(const T* patches, const GridTiles& tiles, int row, int column, int height,
                                           int width, int channels, T* halo) {
  const int chunks = channels / kVector;
  const int shift = chunks <= 1 ? 0 : chunks <= 2 ? 1 : chunks <= 4 ? 2 : chunks <= 8 ? 3 : 4;
  const int chunk = threadIdx.x % kLanes & ((1 << shift) - 1);
  if (chunk >= chunks) return;
  for (int r = warp(); r < tiles.height + kSide - 1; r += kWarps) {
    const int from_row = row + r - kMargin;
    const bool row_inside = from_row >= 0 && from_row < height;
    const T* line = patches + (from_row * width + column - kMargin) * channels + kVector * chunk;
    T* to = halo + r * tiles.pitch * channels + kVector * chunk;
    for (int c = lane() >> shift; c < tiles.pitch; c += kLanes >> shift) {
      const int from_column = column + c - kMargin;
      const bool inside = row_inside && from_column >= 0 && from_column < width;
      copy_16(to + c * channels, inside ? line + c * channels : patches, inside);
    }
  }
}

// Writes Y of one run of kRun patches or fewer, two channels per lane: put(i, y) gets that of patch i.
template <int kRun, class T, class Put>
__device__ __forceinline__ void convolve_run(const T* halo, int pitch, int channels, const float* kernel, float2 bias,
                                             const Put& put) {
  float2 sum[kRun];
#pragma unroll
  for (int i = 0; i < kRun; ++i) sum[i] = bias;
#pragma unroll 1
  for (int dy = 0; dy < kSide; ++dy) {
    float2 value[kRun + kSide - 1];
#pragma unroll
    for (int i = 0; i < kRun + kSide - 1; ++i) value[i] = load_pair(halo + i * channels);
#pragma unroll
    for (int dx = 0; dx < kSide; ++dx) {
      const float2 tap = *reinterpret_cast<const float2*>(kernel + dx * channels);
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        sum[i].x = fmaf(value[i + dx].x, tap.x, sum[i].x);
        sum[i].y = fmaf(value[i + dx].y, tap.y, sum[i].y);
      }
    }
    halo += pitch * channels;
    kernel += kSide * channels;
  }
#pragma unroll
  for (int i = 0; i < kRun; ++i) put(i, sum[i]);
}

}  // namespace cuda
}  // namespace ht
