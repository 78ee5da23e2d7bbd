// From logits on a grid (B, K, h, w) to the class of each pixel of a larger image (B, H, W), in one pass: bilinear
// upsampling (align_corners=False) and the largest logit, without K H W numbers in between.
//
// Reads the grid once per thread and writes H W bytes an image. A thread makes whole rows. Rows between the same two
// rows of the grid share a panel, which is what these two have of all classes. A row blends them to the row's logits at
// the columns of the grid, (planes, w), and finds the class that wins at each column. Between two columns all logits
// are linear, so a class that wins at both wins at every pixel between them, and the pixels are filled at once. Only
// where the winners differ are logits of pixels computed, in registers.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "arena.h"
#include "ht_kernels.h"
#include "simd.h"
#include "team.h"

namespace ht {
namespace HT_ISA {

typedef uint8_t Bytes __attribute__((vector_size(HT_LANES)));

// Where a pixel of the output lies between the cells of the grid along one side.
struct Place {
  i64 cell;      // the cell before it
  float weight;  // of the cell behind it; 0 at the last cell
};

// Centres of pixels are compared with centres of cells; pixels beyond the outermost centres take the outermost cells.
HT_INLINE Place place(i64 pixel, i64 pixels, i64 cells) {
  const float scale = static_cast<float>(cells) / static_cast<float>(pixels);
  const float at = (static_cast<float>(pixel) + 0.5f) * scale - 0.5f;
  const i64 cell = min(at > 0 ? static_cast<i64>(at) : 0, cells - 1);
  const bool between = at > 0 && cell < cells - 1;
  return {cell, between ? at - static_cast<float>(cell) : 0.0f};
}

// The logits of the classes that are compared. A single logit is compared with a plane of zeros before it.
HT_INLINE i64 mask_planes(const ht_mask_shape& n) { return max(2, n.classes); }

// What one thread works in.
struct MaskScratch {
  i64 wide;       // columns of a row of the grid, rounded up to whole vectors, with room for one more column
  float* weight;  // (W and a vector): weight of the cell behind each pixel of a row
  // Pixels start[i] to start[i + 1] of a row lie behind column[i] of the grid.
  int32_t *start, *column;
  i64 runs = 0;
  float *top, *step;  // the panel, (planes, wide): a row of the grid, and the difference to the next
  float* row;         // (planes, wide): logits of a row of the output at the columns of the grid
  int32_t* winner;    // (wide): the class that wins there

  MaskScratch(const ht_mask_shape& n, Arena& arena)
      : wide(round_up(n.grid_width + 1, kLanes)),
        weight(arena.floats(n.width + kLanes)),
        start(arena.take<int32_t>(min(n.width, n.grid_width) + 1)),
        column(arena.take<int32_t>(min(n.width, n.grid_width))),
        top(arena.floats(mask_planes(n) * wide)),
        step(arena.floats(mask_planes(n) * wide)),
        row(arena.floats(mask_planes(n) * wide)),
        winner(arena.take<int32_t>(wide)) {}

  void find_runs(const ht_mask_shape& n) {
    for (i64 x = 0; x < n.width; ++x) {
      const Place p = place(x, n.width, n.grid_width);
      weight[x] = p.weight;
      if (runs > 0 && column[runs - 1] == p.cell) continue;
      start[runs] = static_cast<int32_t>(x);
      column[runs++] = static_cast<int32_t>(p.cell);
    }
    start[runs] = static_cast<int32_t>(n.width);
    for (i64 x = n.width; x < n.width + kLanes; ++x) weight[x] = 0;
  }

  // Takes rows `i` and i + 1 of the grid, with zeros behind the last column.
  void fill_panel(const ht_mask_shape& n, const float* logits, i64 i) const {
    const i64 next = i + 1 < n.grid_height ? n.grid_width : 0;
    const i64 zeros = mask_planes(n) - n.classes;
    for (i64 c = 0; c < zeros * wide; ++c) top[c] = step[c] = 0;
    for (i64 k = 0; k < n.classes; ++k) {
      const float* from = logits + (k * n.grid_height + i) * n.grid_width;
      float *to = top + (zeros + k) * wide, *change = step + (zeros + k) * wide;
      for (i64 j = 0; j < n.grid_width; ++j) to[j] = from[j], change[j] = from[next + j] - from[j];
      for (i64 j = n.grid_width; j < wide; ++j) to[j] = change[j] = 0;
    }
  }
};

// The largest of several values so far, and its class. The first of equal values stays.
struct Largest {
  Vec value;
  Int index;

  HT_INLINE void compare(Vec v, i64 k) {
    const Int above = v > value;
    value = above ? v : value;
    index = above ? Int{} + static_cast<int32_t>(k) : index;
  }
};

// row and winner of an output row that lies `down` of the way from the top of the panel.
HT_INLINE void blend(const ht_mask_shape& n, const MaskScratch& s, float down) {
  const i64 planes = mask_planes(n);
  for (i64 j = 0; j < s.wide; j += kLanes) {
    const auto at = [&](i64 k) {
      const Vec v = load(s.top + k * s.wide + j) + splat(down) * load(s.step + k * s.wide + j);
      store(s.row + k * s.wide + j, v);
      return v;
    };
    Largest largest{at(0), Int{}};
    for (i64 k = 1; k < planes; ++k) largest.compare(at(k), k);
    __builtin_memcpy(s.winner + j, &largest.index, sizeof largest.index);
  }
  s.winner[n.grid_width] = s.winner[n.grid_width - 1];  // pixels behind the last column lie between it and itself
}

// The classes of the pixels of a run, each by its logits. It may write over pixels of later runs in the same row.
HT_INLINE void compare_pixels(const ht_mask_shape& n, const MaskScratch& s, i64 run, uint8_t* out) {
  const i64 planes = mask_planes(n);
  const float* left = s.row + s.column[run];
  for (i64 x = s.start[run]; x < s.start[run + 1]; x += kLanes) {
    const Vec weight = load(s.weight + x);
    const auto at = [&](i64 k) {
      const float* p = left + k * s.wide;
      return splat(p[0]) + weight * splat(p[1] - p[0]);
    };
    Largest largest{at(0), Int{}};
    for (i64 k = 1; k < planes; ++k) largest.compare(at(k), k);
    const Bytes classes = __builtin_convertvector(largest.index, Bytes);
    if (__builtin_expect(x + kLanes <= n.width, 1)) {
      __builtin_memcpy(out + x, &classes, sizeof classes);
    } else {
      for (i64 i = x; i < n.width; ++i) out[i] = classes[i - x];
    }
  }
}

inline void write_row(const ht_mask_shape& n, const MaskScratch& s, uint8_t* out) {
  for (i64 run = 0; run < s.runs;) {
    const int32_t left = s.winner[s.column[run]];
    const i64 first = run;
    while (run < s.runs && s.winner[s.column[run]] == left && s.winner[s.column[run] + 1] == left) ++run;
    if (run > first) {
      __builtin_memset(out + s.start[first], left, static_cast<size_t>(s.start[run] - s.start[first]));
    } else {
      compare_pixels(n, s, run++, out);
    }
  }
}

inline size_t grid_to_mask_workspace(const ht_mask_shape& n, int threads) {
  Arena arena(nullptr);
  for (int t = 0; t < threads; ++t) MaskScratch of_thread(n, arena);
  return arena.used();
}

inline void grid_to_mask(const ht_mask_shape& n, const float* logits, uint8_t* mask, void* workspace, int threads) {
  in_parallel(threads, [&](Team everyone) {
    Arena arena(workspace);
    for (int t = 0; t < everyone.rank; ++t) MaskScratch of_another(n, arena);
    MaskScratch mine(n, arena);
    mine.find_runs(n);
    const Range rows = everyone.share(n.batch * n.height, 1);
    i64 panel = -1;
    for (i64 r = rows.first; r < rows.last; ++r) {
      const i64 image = r / n.height;
      const Place y = place(r % n.height, n.height, n.grid_height);
      if (image * n.grid_height + y.cell != panel) {
        panel = image * n.grid_height + y.cell;
        mine.fill_panel(n, logits + image * n.classes * n.grid_height * n.grid_width, y.cell);
      }
      blend(n, mine, y.weight);
      write_row(n, mine, mask + r * n.width);
    }
  });
}

}  // namespace HT_ISA
}  // namespace ht
