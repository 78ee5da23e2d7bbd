// The forward pass of the adapter: stage 1, then stage 2, image by image while an image is in the cache.
#pragma once

#include <stddef.h>

#include "arena.h"
#include "down_project.h"
#include "ht_kernels.h"
#include "mix_and_up_project.h"
#include "padded_grid.h"
#include "prepared_weights.h"
#include "simd.h"
#include "sizes.h"
#include "stage_clock.h"
#include "team.h"

namespace ht {
namespace HT_ISA {

// What one thread works in.
struct ForwardScratch {
  float* u;  // (kRows, dim_step), of floats or of smaller factors
  MixScratch mix;
  PaddedGrid filtered;  // F of the images that this thread has to itself

  ForwardScratch(const Sizes& n, Arena& arena)
      : u(arena.floats(kRows * n.dim_step)),
        mix(n, arena),
        filtered(n, n.masks ? PaddedGrid::rows_of_grid(n) : 0, arena) {}
};

// The workspace of a call: what all threads share, then what each thread works in.
struct ForwardWorkspace {
  float* h;             // (B, N, C); of no elements where the caller keeps it for the backward
  float* stats;         // (B, N, 2); the same
  PaddedGrid filtered;  // F of an image that all threads share
  ForwardScratch scratch;

  ForwardWorkspace(const Sizes& n, bool keeps_state, int thread, Arena& arena)
      : h(arena.floats(keeps_state ? 0 : n.batch * n.tokens * n.channels)),
        stats(arena.floats(keeps_state ? 0 : n.batch * n.tokens * 2)),
        filtered(n, n.masks ? PaddedGrid::rows_of_grid(n) : 0, arena),
        scratch(nth_scratch(n, thread, arena)) {}

 private:
  static ForwardScratch nth_scratch(const Sizes& n, int thread, Arena& arena) {
    for (int t = 0; t < thread; ++t) ForwardScratch of_another(n, arena);
    return ForwardScratch(n, arena);
  }
};

inline size_t forward_workspace(const ht_adapter_shape& shape, bool keeps_state, int threads) {
  Arena arena(nullptr);
  ForwardWorkspace last(Sizes(shape), keeps_state, threads - 1, arena);
  return arena.used();
}

// T is the type of tokens, Factor that of what down_project and up_project multiply.
template <class T, class Factor>
void forward(const ht_adapter_shape& shape, const ht_adapter_weights& w, const void* prepared,
             const ht_tokens& x_tokens, const float* keep, const ht_tokens& out_tokens, float* kept_h,
             float* kept_stats, void* workspace, int threads, double* seconds) {
  const Sizes n(shape);
  const Tokens<const T> x(x_tokens);
  const Tokens<T> out(out_tokens);
  i64 next = 0;
  in_parallel(threads, [&](Team everyone) {
    StageClock clock(seconds, everyone.rank);
    Arena arena(workspace), prepared_arena(const_cast<void*>(prepared));  // which is only read
    const PreparedWeights<Factor> weights(n, w, prepared_arena);
    ForwardWorkspace work(n, kept_h != nullptr, everyone.rank, arena);
    float *h = kept_h ? kept_h : work.h, *stats = kept_h ? kept_stats : work.stats;
    Factor* u = reinterpret_cast<Factor*>(work.scratch.u);
    MixScratch& mix = work.scratch.mix;
    work.scratch.filtered.clear(n);
    if (everyone.rank == 0) work.filtered.clear(n);
    clock.lap(HT_STAGE_BEGIN);
    everyone.wait();
    for_images(n.batch, everyone, &next, [&](i64 image, Team team) {
      clock.lap(HT_STAGE_WAIT);
      float* image_h = h + image * n.tokens * n.channels;
      const Range mine = team.share(n.tokens, kRows);
      const i64 first = mine.first;
      down_project(n, w, weights.project, x.row(image, first), x.token_stride, mine.last - first, u,
                   image_h + first * n.channels, stats + (image * n.tokens + first) * 2);
      clock.lap(HT_STAGE_DOWN);
      team.wait();
      clock.lap(HT_STAGE_WAIT);
      mix.begin_image(n, team, w, weights.mix, weights.spectral, image_h,
                      team.size == 1 ? work.scratch.filtered : work.filtered, clock);
      for_strips(mine, [&](Range strip) {
        const i64 r = strip.first, rows = strip.last - r, at = (image * n.tokens + r) * n.channels;
        mix.mix(n, weights.mix, image_h, strip);
        const Factor* a = activate<Factor>(n, mix.m, keep ? keep + at : nullptr, rows);
        clock.lap(HT_STAGE_MIX);
        up_project(n, weights.project, a, rows, x.row(image, r), x.token_stride, out.row(image, r), out.token_stride);
        clock.lap(HT_STAGE_UP);
      });
    });
    clock.lap(HT_STAGE_WAIT);
  });
}

}  // namespace HT_ISA
}  // namespace ht
