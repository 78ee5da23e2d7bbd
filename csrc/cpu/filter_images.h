// The spectral filter by itself, irfft2(mask * rfft2(x)) on images (B, C, H, W), forward and backward.
//
// Forward: reads x and writes out, 8 H W bytes a channel. Backward: reads x and grad_out and writes grad_x, 12 H W
// bytes a channel. Threads share the panels of kPanel channels of all images. Each turns a panel into channels last, in
// its cache, and back.
#pragma once

#include <stddef.h>

#include "arena.h"
#include "fourier.h"
#include "gemm.h"
#include "ht_kernels.h"
#include "prepared_weights.h"
#include "simd.h"
#include "spectral_filter.h"
#include "team.h"
#include "weight_grads.h"

namespace ht {
namespace HT_ISA {

// tile (count, kPanel) = the first `valid` channels of an image, `count` values each, with zeros behind the last.
inline void gather(const float* image, i64 count, i64 valid, float* tile) {
  for (int half = 0; half < 2; ++half) {
    const i64 first = half * kLanes;
    gather_columns(image + first * count, count, min(kLanes, valid - first), count, tile + first);
  }
}

// The first `valid` channels of an image = their columns of tile (count, kPanel).
inline void scatter(const float* tile, i64 count, i64 valid, float* image) {
  for (i64 k = 0; k < count; k += kLanes) {
    const i64 deep = min(kLanes, count - k);
    for (i64 first = 0; first < valid; first += kLanes) {
      Vec square[kLanes];
      for (i64 i = 0; i < kLanes; ++i) square[i] = i < deep ? load(tile + (k + i) * kPanel + first) : Vec{};
      transpose(square);
      for (i64 i = 0; i < min(kLanes, valid - first); ++i) {
        store_first(image + (first + i) * count + k, square[i], deep);
      }
    }
  }
}

// What one thread works in: a panel of channels and its spectrum.
struct FilterScratch {
  Spectrum spectrum;
  float* tile;  // (H W, kPanel)

  FilterScratch(const Fourier& f, Arena& arena)
      : spectrum(f.height, f.width, arena), tile(arena.floats(f.height * f.width * kPanel)) {}

  ImagePanel panel(const Fourier& f) const { return {tile, f.width * kPanel, kPanel}; }
};

// The workspace of a call: the masks, then what each thread works in, then the sums of every thread.
struct FilterWorkspace {
  SpectralWeights weights;
  float* sums;        // backward: the gradient of the masks from this thread, in panels
  float* first_sums;  // of the first thread; those of the others follow
  i64 sum_count;
  FilterScratch x, g;  // g is for the gradient, so forward has none of its own

  FilterWorkspace(const ht_filter_shape& n, const float* masks, bool backward, int threads, int thread, Arena& arena)
      : weights(n.height, n.width, n.masks, n.channels, masks, arena),
        sums(nullptr),
        first_sums(nullptr),
        sum_count(backward ? round_up(n.channels, kPanel) * weights.mask.depth() : 0),
        x(nth_scratch(thread, backward, arena)),
        g(backward ? FilterScratch(weights.fourier, arena) : x) {
    if (!backward) return;
    for (int t = thread + 1; t < threads; ++t) skip_one(true, arena);
    first_sums = arena.floats(sum_count * threads);
    sums = first_sums + sum_count * thread;
  }

 private:
  FilterScratch nth_scratch(int thread, bool backward, Arena& arena) const {
    for (int t = 0; t < thread; ++t) skip_one(backward, arena);
    return FilterScratch(weights.fourier, arena);
  }

  void skip_one(bool backward, Arena& arena) const {
    for (int i = 0; i < (backward ? 2 : 1); ++i) FilterScratch of_another(weights.fourier, arena);
  }
};

inline size_t filter_workspace(const ht_filter_shape& n, bool backward, int threads) {
  Arena arena(nullptr);
  FilterWorkspace last(n, nullptr, backward, threads, threads - 1, arena);
  return arena.used();
}

// Calls body(where the panel starts in (B, C, H, W), its first channel, its channels) for this thread's panels.
template <class Body>
HT_INLINE void for_filter_panels(const ht_filter_shape& n, Team team, const Body& body) {
  const i64 panels = (n.channels + kPanel - 1) / kPanel;
  const Range mine = team.share(n.batch * panels, 1);
  for (i64 i = mine.first; i < mine.last; ++i) {
    const i64 c = i % panels * kPanel;
    body((i / panels * n.channels + c) * n.height * n.width, c, min(kPanel, n.channels - c));
  }
}

inline void spectral_filter(const ht_filter_shape& n, const float* x, const float* mask, float* out, void* workspace,
                            int threads) {
  const i64 count = n.height * n.width;
  in_parallel(threads, [&](Team everyone) {
    Arena arena(workspace);
    const FilterWorkspace work(n, mask, false, everyone.size, everyone.rank, arena);
    const Fourier& fourier = work.weights.fourier;
    work.weights.fill(everyone);
    everyone.wait();
    for_filter_panels(n, everyone, [&](i64 at, i64 c, i64 valid) {
      gather(x + at, count, valid, work.x.tile);
      filter(fourier, work.weights.mask.panel(c), work.x.panel(fourier), work.x.spectrum);
      scatter(work.x.tile, count, valid, out + at);
    });
  });
}

inline void spectral_filter_backward(const ht_filter_shape& n, const float* grad_out, const float* x, const float* mask,
                                     float* grad_x, float* grad_mask, void* workspace, int threads) {
  const i64 count = n.height * n.width;
  in_parallel(threads, [&](Team everyone) {
    Arena arena(workspace);
    const FilterWorkspace work(n, mask, true, everyone.size, everyone.rank, arena);
    const Fourier& fourier = work.weights.fourier;
    work.weights.fill(everyone);
    __builtin_memset(work.sums, 0, static_cast<size_t>(work.sum_count) * sizeof(float));
    everyone.wait();
    for_filter_panels(n, everyone, [&](i64 at, i64 c, i64 valid) {
      gather(x + at, count, valid, work.x.tile);
      gather(grad_out + at, count, valid, work.g.tile);
      filter_backward(fourier, work.weights.mask.panel(c), work.x.panel(fourier), work.g.panel(fourier),
                      work.sums + c * work.weights.mask.depth(), work.x.spectrum, work.g.spectrum);
      scatter(work.g.tile, count, valid, grad_x + at);
    });
    everyone.wait();
    if (everyone.rank != 0) return;
    for (int t = 1; t < everyone.size; ++t) {
      for (i64 i = 0; i < work.sum_count; ++i) work.first_sums[i] += work.first_sums[t * work.sum_count + i];
    }
    unpack_mask_grad(fourier, work.first_sums, n.masks, n.channels, grad_mask);
  });
}

}  // namespace HT_ISA
}  // namespace ht
