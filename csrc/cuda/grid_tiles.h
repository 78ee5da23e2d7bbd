// How the grid of patches is cut into tiles, so that the convolution of a tile needs few patches around it.
#pragma once

#include <cstdint>

#if !defined(__CUDACC__) && !defined(__host__)
#define __host__
#define __device__
#endif

namespace ht {
namespace cuda {

constexpr int kSide = 7, kTaps = kSide * kSide, kMargin = kSide / 2;

// A tile has `rows` slots for tokens. A patch tile has height x width patches, in slot `row * width + column` of the
// tile. Prefix tokens take the free slots of the last patch tile, or tiles of their own where they do not fit there.
struct GridTiles {
  int height, width;  // of a tile, in patches
  int across;         // tiles from one side of the grid to the other
  int patch_tiles;    // tiles with patches
  int tiles;          // with those of prefix tokens alone
  int run;            // neighbouring patches of a row that a warp convolves at once
  int pitch;          // patches in a row of the tile with its margins, as they lie in shared memory

  int lines;  // rows of patches that a warp convolves at once

  // Patches in shared memory: rows up to the last that a warp reads.
  __host__ __device__ int halo() const { return ((height + lines - 1) / lines * lines + kSide - 1) * pitch; }
};

// The widest tiles of at most `rows` patches, least tiles first, then least patches around them. Runs have at most
// `longest_run` patches; `lines` of them are convolved at once.
inline GridTiles cut_grid(int height, int width, int prefix, int rows, int longest_run, int lines) {
  const auto ceil = [](int value, int step) { return (value + step - 1) / step; };
  GridTiles best{};
  for (int h = 1; h <= rows && h <= height; ++h) {
    GridTiles t{};
    t.lines = lines;
    t.across = ceil(width, rows / h < width ? rows / h : width);
    t.width = ceil(width, t.across);
    const int down = ceil(height, h);
    t.height = ceil(height, down);
    t.patch_tiles = t.across * down;
    t.tiles = t.patch_tiles + (rows - t.height * t.width < prefix ? ceil(prefix, rows) : 0);
    const int runs = ceil(t.width, longest_run);
    t.run = ceil(t.width, runs);
    t.pitch = (runs - 1) * t.run + longest_run + kSide - 1;
    if (!best.tiles || t.tiles < best.tiles || (t.tiles == best.tiles && t.halo() < best.halo())) best = t;
  }
  return best;
}

}  // namespace cuda
}  // namespace ht
