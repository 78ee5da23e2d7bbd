// The backward pass: everything that the forward read gets its gradient; nothing is kept between the passes but h and
// the token statistics.
//
// Per image two sweeps over the tokens in strips of kTile. The convolution needs dy of a whole image, so the second
// starts when the first is complete.
#pragma once

#include "down_project_backward.h"
#include "filter_image_backward.h"
#include "forward.h"
#include "mix_and_up_project_backward.h"
#include "noise_backward.h"

namespace ht {
namespace HT_ISA {

struct BackwardWorkspace {
  GradWeights transposed;
  MixWeights mix;
  SpectralWeights spectral;
  ImageGrads together;   // of the images that all threads share
  PartialGrads first;    // the first thread's; the others' follow
  PartialGrads partial;  // this thread's
  ImageGrads alone;      // of the images that this thread has to itself
  BackwardScratch scratch;

  BackwardWorkspace(const Sizes& n, const ht_adapter_weights& w, int threads, int thread, Arena& arena)
      : transposed(n, w, arena),
        mix(n, w, arena),
        spectral(n, w, arena),
        together(n, threads, arena),
        first(n, arena),
        partial(nth_partial(n, threads, thread, arena)),
        alone(skip(n, thread, arena)),
        scratch(n, arena) {}

 private:
  // The partial gradients of all threads lie one behind the other.
  PartialGrads nth_partial(const Sizes& n, int threads, int thread, Arena& arena) {
    PartialGrads found = first;
    for (int t = 1; t < threads; ++t) {
      const PartialGrads next(n, arena);
      if (t == thread) found = next;
    }
    return found;
  }

  static ImageGrads skip(const Sizes& n, int threads, Arena& arena) {
    for (int t = 0; t < threads; ++t) {
      ImageGrads skipped(n, 1, arena);
      BackwardScratch also(n, arena);
    }
    return ImageGrads(n, 1, arena);
  }
};

inline size_t backward_workspace(const ht_adapter_shape& shape, int threads) {
  const Sizes n(shape);
  Arena arena(nullptr);
  BackwardWorkspace last(n, ht_adapter_weights{}, threads, threads - 1, arena);
  return arena.used();
}

template <class T>
void backward(const ht_adapter_shape& shape, const ht_adapter_weights& w, const ht_tokens& grad_out_tokens,
              const ht_tokens& x_tokens, const float* keep, const float* h, const float* stats,
              const ht_tokens& grad_x_tokens, const ht_adapter_weights& grads, void* workspace, int threads) {
  const Sizes n(shape);
  const Tokens<const T> grad_out(grad_out_tokens), x(x_tokens);
  const Tokens<T> grad_x(grad_x_tokens);
  in_parallel(threads, [&](Team everyone) {
    Arena arena(workspace);
    BackwardWorkspace work(n, w, everyone.size, everyone.rank, arena);
    const PartialGrads& sums = work.partial;
    __builtin_memset(sums.start, 0, static_cast<size_t>(sums.count()) * sizeof(float));
    const size_t padded_bytes = static_cast<size_t>(ImageGrads::padded_count(n)) * sizeof(float);
    __builtin_memset(work.alone.dy, 0, padded_bytes);
    work.alone.filtered.clear(n);
    if (everyone.rank == 0) {
      __builtin_memset(work.together.dy, 0, padded_bytes);
      work.together.filtered.clear(n);
    }
    work.transposed.fill(everyone);
    work.mix.fill(everyone, n, w);
    work.spectral.fill(everyone);
    everyone.wait();
    for_images(n.batch, everyone, nullptr, [&](i64 image, Team team) {
      const ImageGrads& shared = team.size == 1 ? work.alone : work.together;
      const i64 kernel_count = ImageGrads::kernel_count(n);
      float* kernel_grad = shared.kernel + team.rank * kernel_count;
      __builtin_memset(kernel_grad, 0, static_cast<size_t>(kernel_count) * sizeof(float));
      const float* image_h = h + image * n.tokens * n.channels;
      const Range mine = team.share(n.tokens, kRows);
      work.scratch.mix.begin_image(n, team, w, work.mix, work.spectral, image_h, shared.filtered);
      for_strips(mine, [&](Range strip) {
        const i64 r = strip.first, at = (image * n.tokens + r) * n.channels;
        mix_and_up_project_backward(n, work.mix, work.transposed, image_h, keep ? keep + at : nullptr,
                                    grad_out.row(image, r), grad_out.token_stride, strip, work.scratch, shared,
                                    kernel_grad, sums);
      });
      team.wait();
      noise_backward(n, team, w, work.mix, shared, work.scratch, sums);
      if (n.masks) {
        filter_image_backward(n, team, work.spectral, image_h + n.prefix * n.channels, shared, work.scratch, sums);
      }
      for_strips(mine, [&](Range strip) {
        const i64 r = strip.first;
        down_project_backward(n, w, work.transposed, x.row(image, r), x.token_stride,
                              stats + (image * n.tokens + r) * 2, grad_out.row(image, r), grad_out.token_stride,
                              grad_x.data ? grad_x.row(image, r) : nullptr, grad_x.token_stride, strip, work.scratch,
                              shared, sums);
      });
    });
    everyone.wait();
    PartialGrads::reduce(everyone, n, work.first, work.spectral.fourier, grads);
  });
}

}  // namespace HT_ISA
}  // namespace ht
