// The memory that the stages of the backward pass share, apart from the gradients of the weights.
#pragma once

#include "arena.h"
#include "depthwise.h"
#include "fourier.h"
#include "padded_grid.h"
#include "simd.h"
#include "sizes.h"

namespace ht {
namespace HT_ISA {

// The gradients of an image that the first sweep leaves for the second. Members of a team write them for each other.
struct ImageGrads {
  PaddedGrid dy;        // the whole grid: the gradient of the convolution's output
  float* dm;            // (P, wide): the gradient of the prefix tokens' bottleneck
  float* kernel;        // per member (49 + 1, wide): its part of the gradient of the image's kernel and bias
  PaddedGrid filtered;  // with a spectral filter: F, then its gradient, then what S gets through the filter

  ImageGrads(const Sizes& n, int members, Arena& arena)
      : dy(n, PaddedGrid::rows_of_grid(n), arena),
        dm(arena.floats(n.prefix * n.wide)),
        kernel(arena.floats(members * ImageKernel::grad_count(n))),
        filtered(n, n.masks ? PaddedGrid::rows_of_grid(n) : 0, arena) {}

  // Zeros the grids, whose margins then stay zero.
  void clear(const Sizes& n) const {
    dy.clear(n);
    filtered.clear(n);
  }
};

// What one thread works in.
struct BackwardScratch {
  float* slope;         // (kTile, wide): the derivative of m -> gelu(m) * keep, then the gradient of m
  float* dh;            // (kTile, wide): the gradient of y, then of h
  float* g;             // (kTile, dim_step): grad_out, then the gradient of u
  float* u;             // (kTile, dim_step)
  float* kernel;        // (49 + 1, wide): the gradient of the image's kernel and bias, from all members
  float* dpooled;       // (wide): what each patch gets through the mean over the grid
  float* s;             // (patches, kPanel): S, for the gradient of the masks
  Spectrum s_spectrum;  // of S

  BackwardScratch(const Sizes& n, Arena& arena)
      : slope(arena.floats(kTile * n.wide)),
        dh(arena.floats(kTile * n.wide)),
        g(arena.floats(kTile * n.dim_step)),
        u(arena.floats(kTile * n.dim_step)),
        kernel(arena.floats(ImageKernel::grad_count(n))),
        dpooled(arena.floats(n.wide)),
        s(arena.floats(n.masks ? n.patches * kPanel : 0)),
        s_spectrum(n.masks ? n.height : 0, n.masks ? n.width : 0, arena) {}
};

}  // namespace HT_ISA
}  // namespace ht
