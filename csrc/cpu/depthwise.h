// The depthwise 7x7 convolution of an image with its own kernel, channels last, and its gradients.
//
// The kernel is made once per image from those of the scales: reads 4 (49 + 1) C S bytes, writes 4 (49 + 1) C. The
// convolution reads the padded rows around a strip and writes the strip, 4 C bytes a patch, all in the first-level
// cache; it takes 49 C multiply-adds a patch, in register tiles of kColumns neighbours in a row by kLanes channels.
#pragma once

#include "arena.h"
#include "padded_grid.h"
#include "prepared_weights.h"
#include "simd.h"
#include "sizes.h"
#include "team.h"
#include "vector_math.h"
#include "weight_grads.h"

namespace ht {
namespace HT_ISA {

// Neighbours in a register tile. Their sums, one row of taps and one input fill the register file.
constexpr int kColumns = kRows > 6 ? 14 : 7;

// The kernel and bias of one image: those of the scales, weighted and summed (identity 2).
struct ImageKernel {
  float* taps;  // (49, wide)
  float* bias;  // (wide)

  ImageKernel(const Sizes& n, Arena& arena) : taps(arena.floats(kTaps * n.wide)), bias(arena.floats(n.wide)) {}

  // Numbers in the gradient of taps and bias, which lie together as (49 + 1, wide).
  static i64 grad_count(const Sizes& n) { return (kTaps + 1) * n.wide; }

  // `weight` holds the weights of the scales, (S).
  void combine(const Sizes& n, const MixWeights& weights, const float* weight) const {
    combine(weights.scale_kernels, kTaps * n.wide, n.scales, weight, taps);
    combine(weights.scale_bias, n.wide, n.scales, weight, bias);
  }

 private:
  static void combine(const float* scales, i64 count, i64 number, const float* weight, float* out) {
    for (i64 i = 0; i < count; i += kLanes) {
      Vec v = weight[0] * load(scales + i);
      for (i64 s = 1; s < number; ++s) v += weight[s] * load(scales + s * count + i);
      store(out + i, v);
    }
  }
};

// From the gradient of an image's kernel to those of the scales' kernels, of their biases and of their weights, dweight
// (S), which is left alone when there is one scale. Each member of the team gives its part (49 + 1, wide) of the image
// in `members`; `grad` becomes their sum. Every member computes dweight; only the first adds to `sums`.
inline void image_kernel_backward(const Sizes& n, Team team, const MixWeights& weights, const float* weight,
                                  const float* members, float* grad, float* dweight, const WeightGrads& sums) {
  const i64 count = ImageKernel::grad_count(n);
  const float* bias = grad + kTaps * n.wide;
  for (i64 i = 0; i < count; i += kLanes) {
    Vec total = load(members + i);
    for (int member = 1; member < team.size; ++member) total += load(members + member * count + i);
    store(grad + i, total);
  }
  if (team.rank == 0) {
    for (i64 scale = 0; scale < n.scales; ++scale) {
      axpy(weight[scale], grad, sums.scale_kernels + scale * kTaps * n.wide, kTaps * n.wide);
      axpy(weight[scale], bias, sums.scale_bias + scale * n.wide, n.wide);
    }
  }
  for (i64 scale = 0; n.scales > 1 && scale < n.scales; ++scale) {
    float d = dot(bias, weights.scale_bias + scale * n.wide, n.channels);
    for (i64 t = 0; t < kTaps; ++t) {
      d += dot(grad + t * n.wide, weights.scale_kernels + (scale * kTaps + t) * n.wide, n.channels);
    }
    dweight[scale] = d;
  }
}

// J neighbours in a row, kLanes channels: 49 J multiply-adds of vectors for 7 (7 + J + 6) loads.
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

// `length` neighbours in a row, all channels, in blocks of J.
template <int J, bool kFlip>
HT_INLINE void depthwise_segment(const float* top_left, i64 row_step, i64 wide, i64 channels, const float* kernel,
                                 const float* bias, float* y, i64 length) {
  for (i64 j = 0; j < length; j += J) {
    const i64 at = min(j, length - J);  // the last block may overlap the one before, and repeats its values
    for (i64 c = 0; c < channels; c += kLanes) {
      const Vec b = bias ? load(bias + c) : Vec{};
      depthwise_block<J, kFlip>(top_left + at * wide + c, row_step, wide, kernel + c, b, y + at * wide + c);
    }
  }
}

// Calls the segment function for a number of columns that is known at run time.
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

// y (strip, wide) = the convolution at the patches of the strip. kFlip turns the kernel round, which makes it the
// convolution that carries a gradient from the outputs to the inputs.
template <bool kFlip>
inline void depthwise(const Sizes& n, const PaddedGrid& padded, const float* kernel, const float* bias, Range strip,
                      float* y) {
  const i64 step = PaddedGrid::row_step(n);
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

// kernel_grad (49, wide) += the sum over the strip of dy (strip, wide) times the input under each tap, and bias_grad
// (wide) += the sum of dy.
inline void depthwise_weight_grad(const Sizes& n, const PaddedGrid& padded, const float* dy, Range strip,
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
