// The depthwise 7x7 convolution, channels last, on zero-padded rows.
#pragma once

#include "noise.h"

namespace ht {
namespace HT_ISA {

// Outputs side by side in a register tile: they, one row of taps and one input fill the register file.
constexpr int kColumns = kRows > 6 ? 14 : 7;

// Grid rows with a margin of zeros on every side: [rows][width + 6][wide].
struct PaddedRows {
  float* data;
  i64 first_row;  // the grid row of the first of them, margin included

  static i64 row_step(const Sizes& n) { return (n.width + 2 * kMargin) * n.wide; }

  const float* row(const Sizes& n, i64 grid_row) const { return data + (grid_row - first_row) * row_step(n); }

  // Grid rows that a strip of kTile patches and its margins can touch.
  static i64 most_rows(const Sizes& n) { return min(n.height, (kTile - 1) / n.width + 2) + 2 * kMargin; }

  // Copies what the patches need, margins included, from (patches, C).
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

// J neighbours in a row, kLanes channels: 49 J multiply-adds for 7 (7 + J + 6) loads.
template <int J, bool kFlip>
HT_INLINE void depthwise_block(const float* top_left, i64 row_step, i64 wide, const float* kernel, Vec bias, float* y) {
  Vec sum[J];
  for (int j = 0; j < J; ++j) sum[j] = bias;
  for (i64 ky = 0; ky < kSide; ++ky) {
    Vec tap[kSide];
#pragma GCC unroll 7
    for (int kx = 0; kx < kSide; ++kx) {
      tap[kx] = load(kernel + (kFlip ? kTaps - 1 - ky * kSide - kx : ky * kSide + kx) * wide);
    }
    const float* row = top_left + ky * row_step;
#pragma GCC unroll 20
    for (int p = 0; p < J + kSide - 1; ++p) {
      const Vec s = load(row + p * wide);
#pragma GCC unroll 7
      for (int kx = 0; kx < kSide; ++kx) {
        const int j = p - kx;
        if (j >= 0 && j < J) sum[j] += tap[kx] * s;
      }
    }
  }
  for (int j = 0; j < J; ++j) store(y + j * wide, sum[j]);
}

template <int J, bool kFlip>
HT_INLINE void depthwise_segment(const float* top_left, i64 row_step, i64 wide, i64 channels, const float* kernel,
                                 const float* bias, float* y, i64 length) {
  for (i64 j = 0; j < length; j += J) {
    const i64 at = min(j, length - J);  // the last block overlaps the one before
    for (i64 c = 0; c < channels; c += kLanes) {
      const Vec b = bias ? load(bias + c) : Vec{};
      depthwise_block<J, kFlip>(top_left + at * wide + c, row_step, wide, kernel + c, b, y + at * wide + c);
    }
  }
}

template <int J, bool kFlip, class... Args>
HT_INLINE void depthwise_columns(i64 columns, Args... args) {
  if constexpr (J == 1) {
    depthwise_segment<1, kFlip>(args...);
  } else {
    if (columns == J) {
      depthwise_segment<J, kFlip>(args...);
    } else {
      depthwise_columns<J - 1, kFlip>(columns, args...);
    }
  }
}

// y (strip, wide) = the convolution at the patches of the strip; with the kernel turned round when kFlip.
template <bool kFlip>
inline void depthwise(const Sizes& n, const PaddedRows& padded, const float* kernel, const float* bias, Range strip,
                      float* y) {
  const i64 step = PaddedRows::row_step(n);
  for (i64 q = strip.first; q < strip.last;) {
    const i64 i = q / n.width, j = q % n.width;
    const i64 length = min(strip.last - q, n.width - j);
    const i64 blocks = (length + kColumns - 1) / kColumns;
    const float* top_left = padded.row(n, i - kMargin) + j * n.wide;
    depthwise_columns<kColumns, kFlip>((length + blocks - 1) / blocks, top_left, step, n.wide, n.channels, kernel, bias,
                                       y + (q - strip.first) * n.wide, length);
    q += length;
  }
}

// kernel_grad (49, wide) += sum over the strip of dy (strip, wide) times the input under each tap;
// bias_grad (wide) += sum of dy.
inline void depthwise_weight_grad(const Sizes& n, const PaddedRows& padded, const float* dy, Range strip,
                                  float* kernel_grad, float* bias_grad) {
  for (i64 q = strip.first; q < strip.last;) {
    const i64 i = q / n.width, j = q % n.width;
    const i64 length = min(strip.last - q, n.width - j);
    const float* g = dy + (q - strip.first) * n.wide;
    for (i64 c = 0; c < n.channels; c += kLanes) {
      Vec total = load(bias_grad + c);
      for (i64 p = 0; p < length; ++p) total += load(g + p * n.wide + c);
      store(bias_grad + c, total);
      for (i64 ky = 0; ky < kSide; ++ky) {
        const float* s = padded.row(n, i + ky - kMargin) + j * n.wide + c;
        float* grad = kernel_grad + ky * kSide * n.wide + c;
        Vec sum[kSide];
        for (int kx = 0; kx < kSide; ++kx) sum[kx] = load(grad + kx * n.wide);
        for (i64 p = 0; p < length; ++p, s += n.wide) {
          const Vec v = load(g + p * n.wide + c);
#pragma GCC unroll 7
          for (int kx = 0; kx < kSide; ++kx) sum[kx] += v * load(s + kx * n.wide);
        }
        for (int kx = 0; kx < kSide; ++kx) store(grad + kx * n.wide, sum[kx]);
      }
    }
    q += length;
  }
}

}  // namespace HT_ISA
}  // namespace ht
