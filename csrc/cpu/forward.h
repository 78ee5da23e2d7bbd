// The forward pass: stage 1, then stage 2, image by image while an image is in the cache.
#pragma once

#include "mix_and_up_project.h"

namespace ht {
namespace HT_ISA {

struct ForwardScratch {
  float* u;  // (kRows, dim_step)
  MixScratch mix;
  PaddedImage alone;  // of the images that this thread has to itself

  ForwardScratch(const Sizes& n, Arena& arena) : u(arena.floats(kRows * n.dim_step)), mix(n, arena), alone(n, arena) {}
};

inline size_t forward_workspace(const ht_adapter_shape& shape, int threads) {
  const Sizes n(shape);
  Arena arena(nullptr);
  const ht_adapter_weights none{};
  ProjectWeights project(n, none, arena);
  MixWeights mix(n, none, arena);
  SpectralWeights spectral(n, none, arena);
  PaddedImage together(n, arena);
  for (int t = 0; t < threads; ++t) ForwardScratch scratch(n, arena);
  return arena.used();
}

template <class T>
void forward(const ht_adapter_shape& shape, const ht_adapter_weights& w, const ht_tokens& x_tokens, const float* keep,
             const ht_tokens& out_tokens, float* h, float* stats, void* workspace, int threads) {
  const Sizes n(shape);
  const Tokens<const T> x(x_tokens);
  const Tokens<T> out(out_tokens);
  i64 next = 0;
  in_parallel(threads, [&](Team everyone) {
    Arena arena(workspace);
    const ProjectWeights project(n, w, arena);
    const MixWeights mix(n, w, arena);
    const SpectralWeights spectral(n, w, arena);
    const PaddedImage together(n, arena);
    for (int t = 0; t < everyone.rank; ++t) ForwardScratch skipped(n, arena);
    ForwardScratch scratch(n, arena);
    project.fill(everyone);
    mix.fill(everyone, n, w);
    spectral.fill(everyone);
    scratch.alone.clear(n);
    if (everyone.rank == 0) together.clear(n);
    everyone.wait();
    for_images(n.batch, everyone, &next, [&](i64 image, Team team) {
      float* image_h = h + image * n.tokens * n.channels;
      const Range mine = team.share(n.tokens, kRows);
      const i64 first = mine.first;
      down_project(n, w, project, x.row(image, first), x.token_stride, mine.last - first, scratch.u,
                   image_h + first * n.channels, stats + (image * n.tokens + first) * 2);
      team.wait();
      scratch.mix.begin_image(n, team, w, mix, spectral, image_h, team.size == 1 ? scratch.alone : together);
      for_strips(mine, [&](Range strip) {
        const i64 r = strip.first, rows = strip.last - r, at = (image * n.tokens + r) * n.channels;
        scratch.mix.mix(n, mix, image_h, strip);
        activate(n, scratch.mix.m, keep ? keep + at : nullptr, rows);
        up_project(n, project, scratch.mix.m, rows, x.row(image, r), x.token_stride, out.row(image, r),
                   out.token_stride);
      });
    });
  });
}

}  // namespace HT_ISA
}  // namespace ht
