// Matrix products by register tiles of kRows x kPanel sums.
//
// A tile's sums stay in registers over the whole depth. For each step of the depth it reads kPanel floats of the packed
// right-hand side and kRows of the left one, 4 (kRows + kPanel) bytes for 2 kRows kPanel operations.
#pragma once

#include "arena.h"
#include "simd.h"
#include "team.h"

namespace ht {
namespace HT_ISA {

// A matrix in memory: element (i, j) is at data[i * row_step + j * column_step], and one of the two steps is 1.
struct Matrix {
  const float* data;
  i64 row_step, column_step;
};

// Transposes `valid` rows of `depth` values, `step` apart, into the columns of `to` (depth, kLanes), whose rows are
// kPanel apart. The columns behind the last valid one become zero.
inline void gather_columns(const float* from, i64 step, i64 valid, i64 depth, float* to) {
  for (i64 k = 0; k < depth; k += kLanes) {
    const i64 deep = min(kLanes, depth - k);
    Vec square[kLanes];
    for (i64 i = 0; i < kLanes; ++i) square[i] = i < valid ? load_first(from + k + i * step, deep) : Vec{};
    transpose(square);
    for (i64 i = 0; i < deep; ++i) store(to + (k + i) * kPanel, square[i]);
  }
}

// The right-hand side (depth, columns) of a product, in the layout that register tiles read: a panel holds kPanel
// neighbouring columns, row after row, and the last panel has zeros behind the last column. Panels only points to the
// memory it was given, so copies of it share their values.
class Panels {
 public:
  // A `b` whose rows are whole panels is read where it lies. For any other this takes memory for a packed copy, which
  // fill() writes.
  Panels(Matrix b, i64 depth, i64 columns, Arena& arena)
      : b_(b), depth_(depth), columns_(columns), in_place_(b.column_step == 1 && columns % kPanel == 0) {
    packed_ = in_place_ ? nullptr : arena.floats(round_up(columns, kPanel) * depth);
  }

  const float* panel(i64 column) const { return in_place_ ? b_.data + column : packed_ + column * depth_; }
  i64 row_step() const { return in_place_ ? b_.row_step : kPanel; }
  i64 depth() const { return depth_; }

  void fill(Team team) const {
    if (in_place_) return;
    const Range mine = team.share(round_up(columns_, kPanel), kPanel);
    for (i64 c = mine.first; c < mine.last; c += kPanel) {
      for (int v = 0; v < 2; ++v) {
        const i64 first = c + v * kLanes, valid = min(kLanes, columns_ - first);
        float* to = packed_ + c * depth_ + v * kLanes;
        if (b_.column_step == 1) {
          copy_rows(first, valid, to);
        } else {
          gather_columns(b_.data + first * b_.column_step, b_.column_step, valid, depth_, to);
        }
      }
    }
  }

 private:
  void copy_rows(i64 first, i64 valid, float* to) const {
    for (i64 k = 0; k < depth_; ++k) {
      store(to + k * kPanel, valid > 0 ? load_first(b_.data + k * b_.row_step + first, valid) : Vec{});
    }
  }

  Matrix b_;
  i64 depth_, columns_;
  bool in_place_;
  float* packed_;
};

template <int M>
struct Tile {
  Vec at[M][2];
};

// A number as a type, so that a generic lambda can have it as a template argument.
template <int N>
struct Constant {
  static constexpr int value = N;
};

// tile += a * panel over `depth`. a(m, k) is at a[m * step + k], or at a[m + k * step] when transposed. For each k, two
// vector loads of the panel and M broadcasts feed 2 M multiply-adds.
template <bool kTransposed, int M>
HT_INLINE void multiply(Tile<M>& tile, const float* a, i64 step, const float* panel, i64 panel_step, i64 depth) {
  Tile<M> sum = tile;
  for (i64 k = 0; k < depth; ++k) {
    const Vec b0 = load(panel), b1 = load(panel + kLanes);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const float s = kTransposed ? a[m] : a[m * step];
      sum.at[m][0] += s * b0;
      sum.at[m][1] += s * b1;
    }
    a += kTransposed ? step : 1;
    panel += panel_step;
  }
  tile = sum;
}

template <int M, class Body>
HT_INLINE void tail_rows(i64 rows, i64 first, const Body& body) {
  if constexpr (M > 0) {
    if (rows == M) {
      body(Constant<M>{}, first);
    } else {
      tail_rows<M - 1>(rows, first, body);
    }
  }
}

// Calls body(Constant<M>{}, first row) for blocks of M = kRows rows, and once more with a smaller M for the rows left.
template <class Body>
HT_INLINE void for_row_blocks(i64 rows, const Body& body) {
  i64 first = 0;
  for (; first + kRows <= rows; first += kRows) body(Constant<kRows>{}, first);
  tail_rows<kRows - 1>(rows - first, first, body);
}

// Calls body(first column, columns in use) for each panel.
template <class Body>
HT_INLINE void for_panels(i64 columns, const Body& body) {
  for (i64 c = 0; c < columns; c += kPanel) body(c, min(kPanel, columns - c));
}

// tile += rows of memory, `step` apart, of which it reads the first `valid` columns.
template <int M, class T>
HT_INLINE void add_rows_to(Tile<M>& tile, const T* from, i64 step, i64 valid) {
  if (__builtin_expect(valid == kPanel, 1)) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      tile.at[m][0] += load(from + m * step);
      tile.at[m][1] += load(from + m * step + kLanes);
    }
    return;
  }
  for (int m = 0; m < M; ++m) {
    tile.at[m][0] += load_first(from + m * step, valid);
    if (valid > kLanes) tile.at[m][1] += load_first(from + m * step + kLanes, valid - kLanes);
  }
}

// Writes the first `valid` columns of a tile to rows of memory, `step` apart.
template <int M, class T>
HT_INLINE void store_rows(const Tile<M>& tile, T* to, i64 step, i64 valid) {
  if (__builtin_expect(valid == kPanel, 1)) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      store(to + m * step, tile.at[m][0]);
      store(to + m * step + kLanes, tile.at[m][1]);
    }
    return;
  }
  for (int m = 0; m < M; ++m) {
    store_first(to + m * step, tile.at[m][0], valid);
    if (valid > kLanes) store_first(to + m * step + kLanes, tile.at[m][1], valid - kLanes);
  }
}

// A tile in which every row is the same kPanel values, such as a bias.
template <int M>
HT_INLINE Tile<M> repeat(const float* row) {
  Tile<M> tile;
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
    tile.at[m][0] = load(row);
    tile.at[m][1] = load(row + kLanes);
  }
  return tile;
}

// tile += a * (the panel of b that starts at `column`). The M rows of a are `step` apart.
template <int M>
HT_INLINE void multiply(Tile<M>& tile, const float* a, i64 step, const Panels& b, i64 column) {
  multiply<false>(tile, a, step, b.panel(column), b.row_step(), b.depth());
}

// to = from * b, for `rows` rows of from (rows, depth) and to (rows, columns). Whole panels are written, so the rows of
// `to` must be as long as b's columns rounded up to panels.
inline void product(const float* from, i64 from_step, const Panels& b, i64 columns, i64 rows, float* to, i64 to_step) {
  for_row_blocks(rows, [&](auto block, i64 r) {
    constexpr int M = decltype(block)::value;
    for_panels(columns, [&](i64 c, i64) {
      Tile<M> tile{};
      multiply(tile, from + r * from_step, from_step, b, c);
      store_rows(tile, to + r * to_step + c, to_step, kPanel);
    });
  });
}

// The place of element (row, column) of a matrix that lies in panels [columns / kPanel][rows][kPanel].
HT_INLINE i64 panel_index(i64 row, i64 column, i64 rows) {
  return (column / kPanel * rows + row) * kPanel + column % kPanel;
}

// sums += transpose(a) * b with a (depth, rows) and b (depth, columns), as every gradient of a matrix is computed. sums
// lies in panels, because the tiles of a panel then write one stretch of memory. b is read in whole panels, so its rows
// must be that long.
inline void accumulate_product(float* sums, const float* a, i64 a_step, i64 rows, const float* b, i64 b_step,
                               i64 columns, i64 depth) {
  for_panels(columns, [&](i64 c, i64) {
    for_row_blocks(rows, [&](auto block, i64 r) {
      constexpr int M = decltype(block)::value;
      float* to = sums + panel_index(r, c, rows);
      Tile<M> tile{};
      add_rows_to(tile, to, kPanel, kPanel);
      multiply<true>(tile, a + r, a_step, b + c, b_step, depth);
      store_rows(tile, to, kPanel, kPanel);
    });
  });
}

}  // namespace HT_ISA
}  // namespace ht
