// The spectral filter by itself, on images (B, C, H, W), forward and backward.
//
// Forward: reads and writes 4 H W bytes a channel. Backward: reads twice as much. Threads share the panels of channels
// of all images; each turns a panel into channels last, in its cache, and back.
#pragma once

#include "ht_kernels.h"
#include "spectral.h"

namespace ht {
namespace HT_ISA {

// tile (count, kPanel) = the first `valid` channels of an image, `count` values each, zeros behind them.
inline void gather(const float* image, i64 count, i64 valid, float* tile) {
  for (int half = 0; half < 2; ++half) {
    const i64 first = half * kLanes;
    gather_columns(image + first * count, count, min(kLanes, valid - first), count, tile + first);
  }
}

// The reverse.
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

struct FilterScratch {
  SpectralScratch spectral;
  float* tile;  // (H W, kPanel)

  FilterScratch(const Fourier& f, Arena& arena)
      : spectral(f.height, f.width, arena), tile(arena.floats(f.height * f.width * kPanel)) {}

  Patch patch(const Fourier& f) const { return {tile, f.width * kPanel, kPanel}; }
};

struct FilterWorkspace {
  Fourier fourier;
  Panels mask;
  float* sums;  // this thread's gradient of the masks, in panels; the first thread's lies at first_sums
  float* first_sums;
  i64 sum_count;
  FilterScratch x, g;

  FilterWorkspace(const ht_filter_shape& n, const float* masks, bool backward, int threads, int thread, Arena& arena)
      : fourier(n.height, n.width, arena),
        mask(mask_panels(masks, n.masks, n.channels, fourier, arena)),
        sums(nullptr),
        first_sums(nullptr),
        sum_count(backward ? round_up(n.channels, kPanel) * mask.depth() : 0),
        x(skip(thread, backward, arena)),
        g(backward ? FilterScratch(fourier, arena) : x) {
    if (!backward) return;
    for (int t = thread + 1; t < threads; ++t) skip_one(true, arena);
    first_sums = arena.floats(sum_count * threads);
    sums = first_sums + sum_count * thread;
  }

 private:
  FilterScratch skip(int thread, bool backward, Arena& arena) const {
    for (int t = 0; t < thread; ++t) skip_one(backward, arena);
    return FilterScratch(fourier, arena);
  }

  void skip_one(bool backward, Arena& arena) const {
    for (int i = 0; i < (backward ? 2 : 1); ++i) FilterScratch skipped(fourier, arena);
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
    if (everyone.rank == 0) work.fourier.fill();
    work.mask.fill(everyone);
    everyone.wait();
    for_filter_panels(n, everyone, [&](i64 at, i64 c, i64 valid) {
      gather(x + at, count, valid, work.x.tile);
      filter(work.fourier, work.mask.panel(c), work.x.patch(work.fourier), work.x.spectral);
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
    if (everyone.rank == 0) work.fourier.fill();
    work.mask.fill(everyone);
    __builtin_memset(work.sums, 0, static_cast<size_t>(work.sum_count) * sizeof(float));
    everyone.wait();
    for_filter_panels(n, everyone, [&](i64 at, i64 c, i64 valid) {
      gather(x + at, count, valid, work.x.tile);
      gather(grad_out + at, count, valid, work.g.tile);
      filter_backward(work.fourier, work.mask.panel(c), work.x.patch(work.fourier), work.g.patch(work.fourier),
                      work.sums + c * work.mask.depth(), work.x.spectral, work.g.spectral);
      scatter(work.g.tile, count, valid, grad_x + at);
    });
    everyone.wait();
    if (everyone.rank != 0) return;
    for (int t = 1; t < everyone.size; ++t) {
      for (i64 i = 0; i < work.sum_count; ++i) work.first_sums[i] += work.first_sums[t * work.sum_count + i];
    }
    unpack_mask_grad(work.fourier, work.first_sums, n.masks, n.channels, grad_mask);
  });
}

}  // namespace HT_ISA
}  // namespace ht
