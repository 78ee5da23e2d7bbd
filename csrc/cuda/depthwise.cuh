// The depthwise convolution in 16-bit types: Y of a tile of patches with the image's own 7x7 kernel (identity 2).
//
// A tile of h with a margin of three patches, zeros outside the grid, lies in shared memory as (height + 6, pitch,
// kCell) and the kernel as (49, kCell) in float32, where kCell is C, rounded up: a distance that compilers know is part
// of a load and costs no instruction. A lane works on two neighbouring channels, so a warp reads whole rows of banks.
// It takes runs of neighbouring patches at once: for each row of patches that they meet it loads seven taps and kRun +
// 6 patches into registers, and multiplies 7 kRun times 2, or twice that. Nothing asks whether a patch is in the grid.
#pragma once

#include "async_copy.cuh"
#include "grid_tiles.h"
#include "threads.cuh"

namespace ht {
namespace cuda {

// Starts the copies of a tile with its margins from h of an image, whose first patch is at `patches`. Row and column
// are those of the tile's first patch. A patch takes kCell numbers in shared memory, of which the first are its
// channels.
template <int kCell, class T>
__device__ __forceinline__ void fetch_halo(const T* patches, int this_warp, const GridTiles& tiles, int row, int column,
                                           int height, int width, int channels, T* halo) {
  constexpr int kChunks = kCell / kVector;
  const int chunk = lane() % kChunks;
  if (kVector * chunk >= channels) return;
#pragma unroll 1
  for (int r = this_warp; r < tiles.height + kSide - 1; r += kWarps) {
    const int from_row = row + r - kMargin;
    const unsigned columns_inside = from_row >= 0 && from_row < height ? width : 0;  // from 0 on
    int from_column = column - kMargin + lane() / kChunks;
    const T* from = patches + (from_row * width + from_column) * channels + kVector * chunk;
    T* to = halo + (r * tiles.pitch + lane() / kChunks) * kCell + kVector * chunk;
    const T* end = halo + (r + 1) * tiles.pitch * kCell;
#pragma unroll 1
    for (; to < end; to += kLanes / kChunks * kCell) {
      copy_16(to, from, static_cast<unsigned>(from_column) < columns_inside);
      from += kLanes / kChunks * channels, from_column += kLanes / kChunks;
    }
  }
}

// Adds the convolution of `lines` rows of kRun patches, at most kLines, to `sum`, two channels per lane. `line` is the
// distance of rows in shared memory. A row of patches serves all rows of the result, so each is loaded once.
template <int kCell, int kLines, int kRun, class T>
__device__ __forceinline__ void convolve_run(const T* halo, int line, int lines, const float* kernel,
                                             float2 (&sum)[kLines][kRun]) {
  float2 tap[kLines][kSide] = {};  // the row of taps that a row of patches meets in each row of the result
#pragma unroll 1
  for (int dy = 0; dy < kSide + lines - 1; ++dy) {
    float2 value[kRun + kSide - 1];
#pragma unroll
    for (int i = 0; i < kRun + kSide - 1; ++i) {
      value[i] = load_pair(halo + i * kCell);
      if (kLines > 1) keep(value[i].x), keep(value[i].y);
    }
#pragma unroll
    for (int r = kLines - 1; r >= 0; --r) {
#pragma unroll
      for (int dx = 0; dx < kSide; ++dx) {
        if (r > 0) tap[r][dx] = tap[r - 1][dx];
        if (r == 0 && dy < kSide) tap[0][dx] = load_pair(kernel + dx * kCell);
      }
      if (dy < r || dy - r >= kSide) continue;
#pragma unroll
      for (int dx = 0; dx < kSide; ++dx) {
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
          sum[r][i].x = fmaf(value[i + dx].x, tap[r][dx].x, sum[r][i].x);
          sum[r][i].y = fmaf(value[i + dx].y, tap[r][dx].y, sum[r][i].y);
        }
      }
    }
    halo += line;
    kernel += kSide * kCell;
  }
}

}  // namespace cuda
}  // namespace ht
