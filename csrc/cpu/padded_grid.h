// The patch grid with zero padding, which the 7x7 convolution reads without looking for edges.
#pragma once

#include <stddef.h>

#include "arena.h"
#include "simd.h"
#include "sizes.h"
#include "team.h"

namespace ht {
namespace HT_ISA {

// Rows of the patch grid, channels last, with a margin of kMargin zeros on every side: (rows, width + 6, wide) floats.
// It holds either the whole grid of an image or the rows around a strip of patches.
struct PaddedGrid {
  float* data;
  i64 rows;       // that it has memory for, margins included
  i64 first_row;  // the grid row of the first of them; -kMargin for a whole grid

  PaddedGrid(const Sizes& n, i64 rows, Arena& arena)
      : data(arena.floats(rows * row_step(n))), rows(rows), first_row(-kMargin) {}

  static i64 row_step(const Sizes& n) { return (n.width + 2 * kMargin) * n.wide; }

  static i64 rows_of_grid(const Sizes& n) { return n.height + 2 * kMargin; }

  // The most rows that a strip of kTile patches and its margins can touch.
  static i64 rows_of_strip(const Sizes& n) { return min(n.height, (kTile - 1) / n.width + 2) + 2 * kMargin; }

  // Where a grid row starts, with its left margin.
  const float* row(const Sizes& n, i64 grid_row) const { return data + (grid_row - first_row) * row_step(n); }

  // The channels of patch q.
  float* patch(const Sizes& n, i64 q) const {
    return data + (q / n.width - first_row) * row_step(n) + (q % n.width + kMargin) * n.wide;
  }

  // Zeros everything. Whoever then writes patches of a whole grid leaves its margins zero.
  void clear(const Sizes& n) const {
    __builtin_memset(data, 0, static_cast<size_t>(rows * row_step(n)) * sizeof(float));
  }

  // Becomes the rows around a strip, margins included, copied from all patches (patches, C) of the image.
  void fill(const Sizes& n, const float* patches, Range strip) {
    first_row = strip.first / n.width - kMargin;
    const i64 end = (strip.last - 1) / n.width + kMargin + 1;
    const i64 margin = kMargin * n.wide, step = row_step(n);
    float* to = data;
    for (i64 i = first_row; i < end; ++i, to += step) {
      if (i < 0 || i >= n.height) {
        __builtin_memset(to, 0, static_cast<size_t>(step) * sizeof(float));
        continue;
      }
      __builtin_memset(to, 0, static_cast<size_t>(margin) * sizeof(float));
      __builtin_memset(to + step - margin, 0, static_cast<size_t>(margin) * sizeof(float));
      const float* from = patches + i * n.width * n.channels;
      for (i64 j = 0; j < n.width; ++j) {
        for (i64 c = 0; c < n.wide; c += kLanes) {
          const i64 left = n.channels - c;
          store(to + margin + j * n.wide + c, left > 0 ? load_first(from + j * n.channels + c, left) : Vec{});
        }
      }
    }
  }
};

}  // namespace HT_ISA
}  // namespace ht
