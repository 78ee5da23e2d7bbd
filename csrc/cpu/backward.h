// The backward pass of the adapter: the gradient of everything that the forward pass read. Between the passes only h
// and the statistics of the tokens are kept; everything else is computed again.
//
// It sweeps over the tokens of an image twice, in strips of at most kTile. The first sweep goes back from grad_out to
// dy, the gradient of the convolution's output. The convolution backwards needs the dy of a whole image, so the second
// sweep, from dy to grad_x, starts when the first is complete.
#pragma once

#include <stddef.h>

#include "arena.h"
#include "backward_scratch.h"
#include "depthwise.h"
#include "down_project.h"
#include "ht_kernels.h"
#include "mix_and_up_project.h"
#include "prepared_weights.h"
#include "scale_weights.h"
#include "simd.h"
#include "sizes.h"
#include "spectral_filter.h"
#include "stage_clock.h"
#include "team.h"
#include "weight_grads.h"

namespace ht {
namespace HT_ISA {

// The workspace of a call: the weights, then what all threads share, then the gradients of the weights of every thread,
// then what each thread works in.
struct BackwardWorkspace {
  TransposedWeights transposed;
  MixWeights mix_weights;
  SpectralWeights spectral;
  ImageGrads together;     // of an image that all threads share
  WeightGrads first_sums;  // of the first thread; those of the others follow
  WeightGrads sums;        // of this thread
  ImageGrads alone;        // of the images that this thread has to itself
  MixScratch mix;
  BackwardScratch scratch;

  BackwardWorkspace(const Sizes& n, const ht_adapter_weights& w, int threads, int thread, Arena& arena)
      : transposed(n, w, arena),
        mix_weights(n, w, arena),
        spectral(n, w, arena),
        together(n, threads, arena),
        first_sums(n, arena),
        sums(nth_sums(n, threads, thread, arena)),
        alone(nth_image(n, thread, arena)),
        mix(n, arena),
        scratch(n, arena) {}

 private:
  WeightGrads nth_sums(const Sizes& n, int threads, int thread, Arena& arena) const {
    WeightGrads found = first_sums;
    for (int t = 1; t < threads; ++t) {
      const WeightGrads next(n, arena);
      if (t == thread) found = next;
    }
    return found;
  }

  static ImageGrads nth_image(const Sizes& n, int thread, Arena& arena) {
    for (int t = 0; t < thread; ++t) {
      ImageGrads alone_of_another(n, 1, arena);
      MixScratch mix_of_another(n, arena);
      BackwardScratch scratch_of_another(n, arena);
    }
    return ImageGrads(n, 1, arena);
  }
};

inline size_t backward_workspace(const ht_adapter_shape& shape, int threads) {
  Arena arena(nullptr);
  BackwardWorkspace last(Sizes(shape), ht_adapter_weights{}, threads, threads - 1, arena);
  return arena.used();
}

template <class T>
void backward(const ht_adapter_shape& shape, const ht_adapter_weights& w, const ht_tokens& grad_out_tokens,
              const ht_tokens& x_tokens, const float* keep, const float* h, const float* stats,
              const ht_tokens& grad_x_tokens, const ht_adapter_weights& grads, void* workspace, int threads,
              double* seconds) {
  const Sizes n(shape);
  const Tokens<const T> grad_out(grad_out_tokens), x(x_tokens);
  const Tokens<T> grad_x(grad_x_tokens);
  in_parallel(threads, [&](Team everyone) {
    StageClock clock(seconds, everyone.rank);
    Arena arena(workspace);
    BackwardWorkspace work(n, w, everyone.size, everyone.rank, arena);
    MixScratch& mix = work.mix;
    const BackwardScratch& scratch = work.scratch;
    const WeightGrads& sums = work.sums;
    __builtin_memset(sums.start, 0, static_cast<size_t>(sums.count()) * sizeof(float));
    work.alone.clear(n);
    if (everyone.rank == 0) work.together.clear(n);
    work.transposed.fill(everyone);
    work.mix_weights.fill(everyone, n, w);
    work.spectral.fill(everyone);
    clock.lap(HT_STAGE_BEGIN);
    everyone.wait();
    for_images(n.batch, everyone, nullptr, [&](i64 image, Team team) {
      clock.lap(HT_STAGE_WAIT);
      const ImageGrads& shared = team.size == 1 ? work.alone : work.together;
      const i64 kernel_count = ImageKernel::grad_count(n);
      float* kernel_grad = shared.kernel + team.rank * kernel_count;
      __builtin_memset(kernel_grad, 0, static_cast<size_t>(kernel_count) * sizeof(float));
      const float* image_h = h + image * n.tokens * n.channels;
      const Range mine = team.share(n.tokens, kRows);
      mix.begin_image(n, team, w, work.mix_weights, work.spectral, image_h, shared.filtered, clock);
      for_strips(mine, [&](Range strip) {
        const i64 r = strip.first, at = (image * n.tokens + r) * n.channels;
        mix_and_up_project_backward(n, work.mix_weights, work.transposed, image_h, keep ? keep + at : nullptr,
                                    grad_out.row(image, r), grad_out.token_stride, strip, mix, scratch, shared,
                                    kernel_grad, sums, clock);
        clock.lap(HT_STAGE_MIX);
      });
      team.wait();
      clock.lap(HT_STAGE_WAIT);
      float dweight[kMostScales];
      image_kernel_backward(n, team, work.mix_weights, mix.scales.weight, shared.kernel, scratch.kernel, dweight, sums);
      scale_weights_backward(n, team, w, mix.scales, dweight, scratch.dpooled, sums);
      clock.lap(HT_STAGE_NOISE);
      if (n.masks) {
        filter_image_backward(n, team, work.spectral, mix.kernel.taps, image_h + n.prefix * n.channels, shared, scratch,
                              mix.spectrum, sums.mask, clock);
      }
      for_strips(mine, [&](Range strip) {
        const i64 r = strip.first;
        bottleneck_grad(n, mix.kernel.taps, strip, shared, scratch);
        clock.lap(HT_STAGE_MIX);
        down_project_backward(n, w, work.transposed, x.row(image, r), x.token_stride,
                              stats + (image * n.tokens + r) * 2, grad_out.row(image, r), grad_out.token_stride,
                              grad_x.data ? grad_x.row(image, r) : nullptr, grad_x.token_stride, strip.last - r,
                              scratch, sums);
        clock.lap(HT_STAGE_DOWN);
      });
    });
    everyone.wait();
    clock.lap(HT_STAGE_WAIT);
    WeightGrads::reduce(everyone, n, work.first_sums, work.spectral.fourier, grads);
    clock.lap(HT_STAGE_END);
  });
}

}  // namespace HT_ISA
}  // namespace ht
