// The 2-D Fourier transform of real images, channels last, kPanel channels at a time.
//
// The transforms are products with small matrices. Over the width the matrix is real, (W, W): its rows are the cosines
// of columns 0..W/2 of the spectrum, then minus the sines of the columns strictly between, which alone have an
// imaginary part. Over the height it is the complex transform, written as a real (2H, 2H) matrix. The inverse
// transforms are products with the transposes, in which each column of the spectrum has a weight.
//
// One transform and its inverse take 2 H W (W + 2 H) multiply-adds a channel. They read and write H W floats of the
// image a channel; the spectrum is as large and stays in the cache.
#pragma once

#include "arena.h"
#include "gemm.h"
#include "simd.h"

namespace ht {
namespace HT_ISA {

// The matrices of the transforms for images of one size.
struct Fourier {
  i64 height, width;
  i64 half;        // columns of the spectrum, W/2 + 1
  float* forward;  // (W, W)
  float* inverse;  // (W, W): forward, each row times the weight of its column of the spectrum
  float* columns;  // (2H, 2H): [[cos, sin], [-sin, cos]]
  float* table;    // cosines, then sines, of the multiples of one angle; fill() works in it

  Fourier(i64 height, i64 width, Arena& arena)
      : height(height),
        width(width),
        half(width / 2 + 1),
        forward(arena.floats(width * width)),
        inverse(arena.floats(width * width)),
        columns(arena.floats(4 * height * height)),
        table(arena.floats(2 * max(height, width))) {}

  // Whether column v of the spectrum has an imaginary part.
  bool complex(i64 v) const { return v > 0 && 2 * v < width; }

  // The block of a spectrum that holds the imaginary part of column v, if it has one.
  i64 imaginary_block(i64 v) const { return half + v - 1; }

  // The weight of column v in the inverse. A column with an imaginary part counts twice, for it stands for the column
  // of the opposite frequency too, which a real image makes its conjugate.
  float column_weight(i64 v) const { return (complex(v) ? 2.0f : 1.0f) / static_cast<float>(height * width); }

  void fill() const {
    tabulate(width);
    for (i64 m = 0; m < width; ++m) {
      const i64 v = m < half ? m : m - half + 1;
      for (i64 j = 0, at = 0; j < width; ++j, at = (at + v) % width) {
        const float value = m < half ? table[at] : -table[width + at];
        forward[m * width + j] = value;
        inverse[m * width + j] = value * column_weight(v);
      }
    }
    tabulate(height);
    for (i64 u = 0; u < height; ++u) {
      float *top = columns + u * 2 * height, *bottom = top + height * 2 * height;
      for (i64 i = 0, at = 0; i < height; ++i, at = (at + u) % height) {
        top[i] = bottom[height + i] = table[at];
        top[height + i] = table[height + at];
        bottom[i] = -table[height + at];
      }
    }
  }

 private:
  void tabulate(i64 n) const {
    for (i64 k = 0; k < n; ++k) {
      const double angle = 6.283185307179586 * static_cast<double>(k) / static_cast<double>(n);
      table[k] = static_cast<float>(__builtin_cos(angle));
      table[n + k] = static_cast<float>(__builtin_sin(angle));
    }
  }
};

// kPanel channels of an image: element (i, j) is kPanel floats at data + i * row_step + j * column_step.
struct ImagePanel {
  float* data;
  i64 row_step, column_step;
};

// What the transforms of one thread write.
struct Spectrum {
  float* blocks;  // (W, H, kPanel): the real parts of all columns, then the imaginary parts of those that have one
  float* column;  // (2H, kPanel): a column transformed over the height, its real parts, then its imaginary parts

  Spectrum(i64 height, i64 width, Arena& arena)
      : blocks(arena.floats(width * height * kPanel)), column(arena.floats(2 * height * kPanel)) {}
};

// s.blocks = x, transformed over the width.
inline void transform_rows(const Fourier& f, ImagePanel x, const Spectrum& s) {
  const i64 block = f.height * kPanel;
  for (i64 i = 0; i < f.height; ++i) {
    for_row_blocks(f.width, [&](auto rows, i64 m) {
      Tile<decltype(rows)::value> tile{};
      multiply<false>(tile, f.forward + m * f.width, f.width, x.data + i * x.row_step, x.column_step, f.width);
      store_rows(tile, s.blocks + m * block + i * kPanel, block, kPanel);
    });
  }
}

// s.column = column v of s.blocks, transformed over the height.
inline void transform_column(const Fourier& f, i64 v, const Spectrum& s) {
  const i64 block = f.height * kPanel, side = 2 * f.height;
  for_row_blocks(side, [&](auto rows, i64 m) {
    Tile<decltype(rows)::value> tile{};
    const float* a = f.columns + m * side;
    multiply<false>(tile, a, side, s.blocks + v * block, kPanel, f.height);
    if (f.complex(v)) {
      multiply<false>(tile, a + f.height, side, s.blocks + f.imaginary_block(v) * block, kPanel, f.height);
    }
    store_rows(tile, s.column + m * kPanel, kPanel, kPanel);
  });
}

// Column v of s.blocks = s.column, transformed back. Where the column has no imaginary part, none is computed.
inline void invert_column(const Fourier& f, i64 v, const Spectrum& s) {
  const i64 block = f.height * kPanel, side = 2 * f.height;
  for (i64 part = 0; part < (f.complex(v) ? 2 : 1); ++part) {
    float* to = s.blocks + (part ? f.imaginary_block(v) : v) * block;
    for_row_blocks(f.height, [&](auto rows, i64 m) {
      Tile<decltype(rows)::value> tile{};
      multiply<true>(tile, f.columns + part * f.height + m, side, s.column, kPanel, side);
      store_rows(tile, to + m * kPanel, kPanel, kPanel);
    });
  }
}

// x = s.blocks, transformed back over the width.
inline void invert_rows(const Fourier& f, const Spectrum& s, ImagePanel x) {
  for (i64 i = 0; i < f.height; ++i) {
    for_row_blocks(f.width, [&](auto rows, i64 j) {
      Tile<decltype(rows)::value> tile{};
      multiply<true>(tile, f.inverse + j, f.width, s.blocks + i * kPanel, f.height * kPanel, f.width);
      store_rows(tile, x.data + i * x.row_step + j * x.column_step, x.column_step, kPanel);
    });
  }
}

}  // namespace HT_ISA
}  // namespace ht
