// The spectral filter of an image, channels last: F = irfft2(M * rfft2(S)), DESIGN: section "The spectral filter".
//
// The transforms are products with small matrices. Over the width it is a real (W, W) matrix: the cosines of columns
// 0..W/2 of the spectrum, then minus the sines of those strictly between, which have an imaginary part. Over the height
// it is the complex transform as a real (2H, 2H) matrix. Their transposes are the inverse, up to a factor per column.
//
// kPanel channels at a time. Reads and writes H W floats a channel; the spectrum, as large, stays in the cache.
// 2 H W (W + 2 H) multiply-adds a channel.
#pragma once

#include "gemm.h"

namespace ht {
namespace HT_ISA {

struct Fourier {
  i64 height, width;
  i64 half;        // columns of the spectrum
  float* forward;  // (W, W)
  float* inverse;  // (W, W): the same, times the share of its column
  float* columns;  // (2H, 2H): [[cos, sin], [-sin, cos]]
  float* table;    // cosines and sines of the multiples of one angle

  Fourier(i64 height, i64 width, Arena& arena)
      : height(height),
        width(width),
        half(width / 2 + 1),
        forward(arena.floats(width * width)),
        inverse(arena.floats(width * width)),
        columns(arena.floats(4 * height * height)),
        table(arena.floats(2 * max(height, width))) {}

  // Whether a column has an imaginary part; if so, it is the block half + v - 1 of a spectrum.
  bool complex(i64 v) const { return v > 0 && 2 * v < width; }

  // What a column adds to the inverse: those with an imaginary part stand for two frequencies.
  float share(i64 v) const { return (complex(v) ? 2.0f : 1.0f) / static_cast<float>(height * width); }

  void fill() const {
    tabulate(width);
    for (i64 m = 0; m < width; ++m) {
      const i64 v = m < half ? m : m - half + 1;
      for (i64 j = 0, at = 0; j < width; ++j, at = (at + v) % width) {
        const float value = m < half ? table[at] : -table[width + at];
        forward[m * width + j] = value;
        inverse[m * width + j] = value * share(v);
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

// kPanel channels of an image, and how far apart its rows and columns lie.
struct Patch {
  float* data;
  i64 row_step, column_step;
};

// spectrum: W blocks of (H, kPanel), the real parts of all columns, then the imaginary parts of those that have one.
inline void transform_rows(const Fourier& f, Patch x, float* spectrum) {
  const i64 block = f.height * kPanel;
  for (i64 i = 0; i < f.height; ++i) {
    for_row_blocks(f.width, [&](auto rows, i64 m) {
      Tile<decltype(rows)::value> tile{};
      multiply<false>(tile, f.forward + m * f.width, f.width, x.data + i * x.row_step, x.column_step, f.width);
      store_rows(tile, spectrum + m * block + i * kPanel, block, kPanel);
    });
  }
}

// column (2H, kPanel): the real, then the imaginary parts of column v over all frequencies of the height.
inline void transform_column(const Fourier& f, const float* spectrum, i64 v, float* column) {
  const i64 block = f.height * kPanel, side = 2 * f.height;
  for_row_blocks(side, [&](auto rows, i64 m) {
    Tile<decltype(rows)::value> tile{};
    const float* a = f.columns + m * side;
    multiply<false>(tile, a, side, spectrum + v * block, kPanel, f.height);
    if (f.complex(v)) {
      multiply<false>(tile, a + f.height, side, spectrum + (f.half + v - 1) * block, kPanel, f.height);
    }
    store_rows(tile, column + m * kPanel, kPanel, kPanel);
  });
}

// Back into the spectrum; of a column without an imaginary part only the real one.
inline void invert_column(const Fourier& f, const float* column, i64 v, float* spectrum) {
  const i64 block = f.height * kPanel, side = 2 * f.height;
  for (i64 part = 0; part < (f.complex(v) ? 2 : 1); ++part) {
    float* to = spectrum + (part ? f.half + v - 1 : v) * block;
    for_row_blocks(f.height, [&](auto rows, i64 m) {
      Tile<decltype(rows)::value> tile{};
      multiply<true>(tile, f.columns + part * f.height + m, side, column, kPanel, side);
      store_rows(tile, to + m * kPanel, kPanel, kPanel);
    });
  }
}

inline void invert_rows(const Fourier& f, const float* spectrum, Patch x) {
  for (i64 i = 0; i < f.height; ++i) {
    for_row_blocks(f.width, [&](auto rows, i64 j) {
      Tile<decltype(rows)::value> tile{};
      multiply<true>(tile, f.inverse + j, f.width, spectrum + i * kPanel, f.height * kPanel, f.width);
      store_rows(tile, x.data + i * x.row_step + j * x.column_step, x.column_step, kPanel);
    });
  }
}

// Calls body(real part, imaginary part, mask or its gradient) along a column; each points to two vectors.
template <class Body>
HT_INLINE void for_column(const Fourier& f, i64 v, const Body& body) {
  for (i64 u = 0; u < f.height; ++u) {
    for (i64 c = 0; c < kPanel; c += kLanes) {
      body(u * kPanel + c, (f.height + u) * kPanel + c, (u * f.half + v) * 2 * kPanel + c);
    }
  }
}

// Buffers of one thread.
struct SpectralScratch {
  float* spectrum;  // (W, H, kPanel)
  float* column;    // (2H, kPanel)

  SpectralScratch(i64 height, i64 width, Arena& arena)
      : spectrum(arena.floats(width * height * kPanel)), column(arena.floats(2 * height * kPanel)) {}
};

// x = the filtered x, in place. mask (H, V, 2, kPanel): real and imaginary parts.
inline void filter(const Fourier& f, const float* mask, Patch x, const SpectralScratch& s) {
  transform_rows(f, x, s.spectrum);
  for (i64 v = 0; v < f.half; ++v) {
    transform_column(f, s.spectrum, v, s.column);
    for_column(f, v, [&](i64 real, i64 imaginary, i64 at) {
      const Vec a = load(s.column + real), b = load(s.column + imaginary);
      const Vec p = load(mask + at), q = load(mask + at + kPanel);
      store(s.column + real, a * p - b * q);
      store(s.column + imaginary, a * q + b * p);
    });
    invert_column(f, s.column, v, s.spectrum);
  }
  invert_rows(f, s.spectrum, x);
}

// g, the gradient of the filtered image, becomes that of x, in place; mask_grad (H, V, 2, kPanel) += conj(spectrum of
// x) * spectrum of g, which is the mask's gradient but for the share of its column. The filter with the conjugate mask
// is the transpose of the filter.
inline void filter_backward(const Fourier& f, const float* mask, Patch x, Patch g, float* mask_grad,
                            const SpectralScratch& of_x, const SpectralScratch& of_g) {
  transform_rows(f, x, of_x.spectrum);
  transform_rows(f, g, of_g.spectrum);
  for (i64 v = 0; v < f.half; ++v) {
    transform_column(f, of_x.spectrum, v, of_x.column);
    transform_column(f, of_g.spectrum, v, of_g.column);
    for_column(f, v, [&](i64 real, i64 imaginary, i64 at) {
      const Vec a = load(of_x.column + real), b = load(of_x.column + imaginary);
      const Vec d = load(of_g.column + real), e = load(of_g.column + imaginary);
      const Vec p = load(mask + at), q = load(mask + at + kPanel);
      accumulate(mask_grad + at, a * d + b * e);
      accumulate(mask_grad + at + kPanel, a * e - b * d);
      store(of_g.column + real, d * p + e * q);
      store(of_g.column + imaginary, e * p - d * q);
    });
    invert_column(f, of_g.column, v, of_g.spectrum);
  }
  invert_rows(f, of_g.spectrum, g);
}

// The masks as `filter` reads them: panels (H, V, 2, kPanel) of channels; a shared mask is repeated.
inline Panels mask_panels(const float* mask, i64 masks, i64 channels, const Fourier& f, Arena& arena) {
  const i64 count = masks ? f.height * f.half * 2 : 0;
  return Panels(Matrix{mask, 1, masks > 1 ? count : 0}, count, channels, arena);
}

// What filter_backward summed, in panels, to the gradient of the masks (masks, H, V, 2).
inline void unpack_mask_grad(const Fourier& f, const float* panels, i64 masks, i64 channels, float* grad) {
  const i64 count = f.height * f.half * 2;
  for (i64 i = 0; i < masks * count; ++i) grad[i] = 0;
  for (i64 c = 0; masks && c < channels; ++c) {
    float* to = grad + (masks > 1 ? c : 0) * count;
    for (i64 i = 0; i < count; ++i) to[i] += panels[panel_index(i, c, count)] * f.share(i / 2 % f.half);
  }
}

}  // namespace HT_ISA
}  // namespace ht
