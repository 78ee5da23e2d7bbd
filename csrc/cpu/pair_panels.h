// Matrix products of bfloat16 with sums in float32, by the register tiles of gemm.h.
//
// A tile takes two steps of the depth at a time. For each two it reads kPanel pairs of the packed right-hand side and
// kRows of the left one, 4 (kRows + kPanel) bytes for 4 kRows kPanel operations: half the bytes of float32.
#pragma once

#include "arena.h"
#include "dot_pairs.h"
#include "gemm.h"
#include "simd.h"
#include "team.h"

namespace ht {
namespace HT_ISA {

// A float32 right-hand side (depth, columns), rounded to bfloat16, in panels like those of Panels: row after row of
// kPanel pairs, each of two numbers that are neighbours along the depth. Zeros stand behind the last column, and behind
// the last row of an odd depth. Such a row meets the left-hand side's next number, which has to be zero then.
class PairPanels {
 public:
  // Takes memory for the panels, which fill() writes. The columns of b are contiguous: its row_step is 1.
  PairPanels(Matrix b, i64 depth, i64 columns, Arena& arena)
      : b_(b),
        depth_(depth),
        columns_(columns),
        packed_(reinterpret_cast<bfloat16*>(arena.floats(round_up(columns, kPanel) * round_up(depth, 2) / 2))) {}

  const bfloat16* panel(i64 column) const { return packed_ + column * depth(); }
  i64 depth() const { return round_up(depth_, 2); }

  void fill(Team team) const {
    const Range mine = team.share(round_up(columns_, kPanel), kPanel);
    for (i64 c = mine.first; c < mine.last; c += kPanel) {
      for (int v = 0; v < 2; ++v) {
        const i64 first = c + v * kLanes;
        bfloat16* to = packed_ + c * depth() + 2 * v * kLanes;
        for (i64 k = 0; k < depth_; k += 2 * kLanes) gather(first, k, to + k * kPanel);
      }
    }
  }

 private:
  // Transposes the pairs of at most kLanes columns and 2 kLanes rows into rows of kPanel pairs.
  void gather(i64 column, i64 row, bfloat16* to) const {
    Vec square[kLanes];  // of pairs, which only move
    for (i64 i = 0; i < kLanes; ++i) {
      bfloat16 rounded[2 * kLanes] = {};
      if (column + i < columns_) {
        const float* from = b_.data + (column + i) * b_.column_step + row;
        for_vectors(min(2 * kLanes, depth_ - row),
                    [&](i64 k, i64 left) { store(rounded + k, load_first(from + k, left)); });
      }
      __builtin_memcpy(&square[i], rounded, sizeof square[i]);
    }
    transpose(square);
    const i64 pairs = min(kLanes, (depth() - row) / 2);
    for (i64 i = 0; i < pairs; ++i) __builtin_memcpy(to + 2 * i * kPanel, &square[i], sizeof square[i]);
  }

  Matrix b_;
  i64 depth_, columns_;
  bfloat16* packed_;
};

// tile += a * (the panel of b that starts at `column`). The M rows of a are `step` apart. For each two steps of the
// depth, two vector loads of the panel and M broadcasts feed 2 M dot products.
template <int M>
HT_INLINE void multiply(Tile<M>& tile, const bfloat16* a, i64 step, const PairPanels& b, i64 column) {
  Tile<M> sum = tile;
  const bfloat16* panel = b.panel(column);
  for (i64 k = 0; k < b.depth(); k += 2) {
    const Unsigned b0 = load_pairs(panel), b1 = load_pairs(panel + kPanel);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const Unsigned s = splat_pair(a + m * step);
      sum.at[m][0] = dot_pairs(sum.at[m][0], s, b0);
      sum.at[m][1] = dot_pairs(sum.at[m][1], s, b1);
    }
    a += 2;
    panel += 2 * kPanel;
  }
  tile = sum;
}

// The panels by which a matrix of factors of this type is multiplied.
template <class Factor>
struct PanelsOf {
  using type = Panels;
};

template <>
struct PanelsOf<bfloat16> {
  using type = PairPanels;
};

}  // namespace HT_ISA
}  // namespace ht
