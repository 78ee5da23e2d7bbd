// From a frame (H, W) or (H, W, 3) to the gray image (h, w) that a model takes, in one pass: gray by the luma of ITU-R
// 601, then the bicubic filter (Keys 1981, a = -0.5) with antialiasing, across and then down, bit for bit as Pillow.
//
// Reads H W bytes of a gray frame, 3 H W of a colour frame, each once, and writes h w bytes. A further thread reads
// again the rows that its first output row shares with the thread before. Weights have 22 fractional bits, sums are
// int32, at most two thirds of its range, and between the two passes there are bytes, 0 to 255.
//
// A tile is 16 rows of the frame, gray, by columns: (W, 16) int32. When both sides shrink, each column has about four
// taps, which read it while it is in the first-level cache. A tap is a weight times a column, for 16 rows at once. The
// results go into a ring of rows (w) of bytes: as many as a row of the output takes, and a tile more. Nothing else lies
// between the frame and the output.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "arena.h"
#include "ht_kernels.h"
#include "simd.h"
#include "team.h"

namespace ht {
namespace HT_ISA {

constexpr i64 kTileRows = 16;
constexpr int kColumn = kTileRows / kLanes;  // vectors of a column of a tile
constexpr int kFraction = 22;                // bits of a weight behind the point
constexpr int32_t kHalf = 1 << (kFraction - 1);

// Of each output pixel along one side: the input pixels that it is a weighted sum of.
struct Taps {
  i64 most;         // that a pixel has
  int32_t* first;   // (outputs, rounded up to whole tiles)
  int32_t* count;   // the same; 0 behind the last output
  int32_t* weight;  // (outputs, most)
  double* exact;    // (most): the weights of one pixel before they are rounded

  Taps(i64 inputs, i64 outputs, Arena& arena)
      : most(min(inputs, static_cast<i64>(4 * stretch(inputs, outputs)) + 3)),
        first(arena.take<int32_t>(round_up(outputs, kTileRows))),
        count(arena.take<int32_t>(round_up(outputs, kTileRows))),
        weight(arena.take<int32_t>(outputs * most)),
        exact(arena.take<double>(most)) {}

  // How much wider than the cubic the filter is, in input pixels: against aliasing, when a side shrinks.
  static double stretch(i64 inputs, i64 outputs) {
    return inputs > outputs ? static_cast<double>(inputs) / static_cast<double>(outputs) : 1;
  }

  static double cubic(double x) {
    x = x < 0 ? -x : x;
    return x < 1 ? 1 - x * x * (2.5 - 1.5 * x) : x < 2 ? 2 - x * (4 - x * (2.5 - 0.5 * x)) : 0;
  }

  void find(i64 inputs, i64 outputs) {
    const double step = static_cast<double>(inputs) / static_cast<double>(outputs), wide = stretch(inputs, outputs);
    for (i64 i = 0; i < outputs; ++i) {
      const double centre = (static_cast<double>(i) + 0.5) * step;
      const i64 from = max(0, static_cast<i64>(centre - 2 * wide + 0.5));
      const i64 taps = min(inputs, static_cast<i64>(centre + 2 * wide + 0.5)) - from;
      double sum = 0;
      for (i64 t = 0; t < taps; ++t) {
        exact[t] = cubic((static_cast<double>(from + t) - centre + 0.5) / wide);
        sum += exact[t];
      }
      for (i64 t = 0; t < taps; ++t) {
        const double scaled = exact[t] / sum * (1 << kFraction);
        weight[i * most + t] = static_cast<int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
      }
      first[i] = static_cast<int32_t>(from), count[i] = static_cast<int32_t>(taps);
    }
    for (i64 i = outputs; i < round_up(outputs, kTileRows); ++i) first[i] = count[i] = 0;
  }
};

// The frame, and where it goes.
struct FrameTaps {
  Taps across, down;

  FrameTaps(const ht_frame_shape& n, Arena& arena)
      : across(n.width, n.out_width, arena), down(n.height, n.out_height, arena) {}
};

// What one thread works in.
struct FrameScratch {
  i64 pitch;      // of a row of the ring: w, rounded up to whole tiles
  i64 ring_rows;  // a multiple of the rows of a tile
  int32_t* tile;  // (W rounded up, 16)
  uint8_t* ring;  // (ring_rows, pitch)
  int32_t* sums;  // (pitch): a row of the output

  FrameScratch(const ht_frame_shape& n, i64 most_down, Arena& arena)
      : pitch(round_up(n.out_width, kTileRows)),
        ring_rows(round_up(most_down + kTileRows - 1, kTileRows)),
        tile(arena.take<int32_t>(round_up(n.width, kTileRows) * kTileRows)),
        ring(arena.take<uint8_t>(ring_rows * pitch)),
        sums(arena.take<int32_t>(pitch)) {}
};

// Sums of weights and pixels as bytes, rounded down. They start at a half.
HT_INLINE void narrow(const int32_t* __restrict sums, i64 count, uint8_t* __restrict bytes) {
  for (i64 i = 0; i < count; ++i) {
    const int32_t v = sums[i] >> kFraction;
    bytes[i] = static_cast<uint8_t>(v < 0 ? 0 : v > 255 ? 255 : v);
  }
}

// 16 of the `size` bytes of a row, from byte i on; zeros behind its end.
HT_COLD Pixels load_end(const uint8_t* row, i64 i, i64 size) {
  Pixels v = {};
  for (i64 j = i; j < size; ++j) v[j - i] = row[j];
  return v;
}

HT_INLINE Pixels load_pixels(const uint8_t* row, i64 i, i64 size) {
  if (__builtin_expect(i + kTileRows > size, 0)) return load_end(row, i, size);
  Pixels v;
  __builtin_memcpy(&v, row + i, sizeof v);
  return v;
}

// Columns x to x + 15 of a tile, of rows `row`.
template <int channels>
HT_INLINE void fill_columns(const uint8_t* const (&row)[kTileRows], i64 x, i64 width, int32_t* tile) {
  uint8_t bytes[channels * kTileRows][kTileRows];  // columns of bytes
  for (int c = 0; c < channels; ++c) {
    Pixels v[kTileRows];
#pragma GCC unroll 16
    for (int r = 0; r < kTileRows; ++r) v[r] = load_pixels(row[r], channels * x + kTileRows * c, channels * width);
    transpose(v);
    __builtin_memcpy(bytes[kTileRows * c], v, sizeof v);
  }
  for (int i = 0; i < kTileRows; ++i) {
    const uint8_t(*from)[kTileRows] = bytes + channels * i;
    for (int r = 0; r < kTileRows; r += kLanes) {
      Int gray = load(from[0] + r);
      if constexpr (channels == 3) {
        gray = (19595 * gray + 38470 * load(from[1] + r) + 7471 * load(from[2] + r) + (1 << 15)) >> 16;
      }
      store(tile + (x + i) * kTileRows + r, gray);
    }
  }
}

// The horizontal pass over 16 rows of the frame, into 16 rows of the ring. In one loop along the rows: columns become
// gray when the first output needs them.
template <int channels>
inline void resize_across(const ht_frame_shape& n, const uint8_t* const (&row)[kTileRows], const Taps& taps,
                          const FrameScratch& s, uint8_t* to) {
  i64 filled = 0;
  for (i64 x = 0; x < s.pitch; x += kTileRows) {
    int32_t sums[kTileRows * kTileRows];
    for (int i = 0; i < kTileRows; ++i) {
      const i64 first = taps.first[x + i], count = taps.count[x + i];
      for (; filled < first + count; filled += kTileRows) fill_columns<channels>(row, filled, n.width, s.tile);
      const int32_t* weight = taps.weight + (x + i) * taps.most;
      const int32_t* column = s.tile + first * kTileRows;
      Int sum[kColumn];
      for (Int& part : sum) part = Int{} + kHalf;
      for (i64 t = 0; t < count; ++t) {
        for (int c = 0; c < kColumn; ++c) sum[c] += weight[t] * load(column + t * kTileRows + c * kLanes);
      }
      for (int c = 0; c < kColumn; ++c) store(sums + i * kTileRows + c * kLanes, sum[c]);
    }
    Pixels out[kTileRows];
    narrow(sums, kTileRows * kTileRows, reinterpret_cast<uint8_t*>(out));
    transpose(out);
    for (int r = 0; r < kTileRows; ++r) __builtin_memcpy(to + r * s.pitch + x, &out[r], sizeof out[r]);
  }
}

// The vertical pass to row y of the output, of a ring whose first row was row `start` of the frame.
inline void resize_down(const Taps& taps, i64 y, i64 start, const FrameScratch& s, i64 width, uint8_t* out) {
  for (i64 x = 0; x < s.pitch; ++x) s.sums[x] = kHalf;
  for (i64 t = 0; t < taps.count[y]; ++t) {
    const int32_t weight = taps.weight[y * taps.most + t];
    const uint8_t* row = s.ring + (taps.first[y] + t - start) % s.ring_rows * s.pitch;
    for (i64 x = 0; x < s.pitch; x += kLanes) store(s.sums + x, load(s.sums + x) + weight * load(row + x));
  }
  narrow(s.sums, width, out);
}

inline size_t preprocess_workspace(const ht_frame_shape& n, int threads) {
  Arena arena(nullptr);
  const FrameTaps taps(n, arena);
  for (int t = 0; t < threads; ++t) FrameScratch of_thread(n, taps.down.most, arena);
  return arena.used();
}

inline void preprocess(const ht_frame_shape& n, const uint8_t* frame, i64 row_stride, uint8_t* out, void* workspace,
                       int threads) {
  Arena shared(workspace);
  FrameTaps taps(n, shared);
  taps.across.find(n.width, n.out_width);
  taps.down.find(n.height, n.out_height);
  const auto across = n.channels == 1 ? resize_across<1> : resize_across<3>;
  in_parallel(threads, [&](Team everyone) {
    Arena arena = shared;
    for (int t = 0; t < everyone.rank; ++t) FrameScratch of_another(n, taps.down.most, arena);
    const FrameScratch mine(n, taps.down.most, arena);
    const Range rows = everyone.share(n.out_height, 1);
    if (rows.first == rows.last) return;
    const i64 start = taps.down.first[rows.first];
    i64 made = start;  // rows of the frame before this one are or were in the ring
    for (i64 y = rows.first; y < rows.last; ++y) {
      for (; made < taps.down.first[y] + taps.down.count[y]; made += kTileRows) {
        const uint8_t* row[kTileRows];
        for (i64 r = 0; r < kTileRows; ++r) row[r] = frame + min(made + r, n.height - 1) * row_stride;
        across(n, row, taps.across, mine, mine.ring + (made - start) % mine.ring_rows * mine.pitch);
      }
      resize_down(taps.down, y, start, mine, n.out_width, out + y * n.out_width);
    }
  });
}

}  // namespace HT_ISA
}  // namespace ht
