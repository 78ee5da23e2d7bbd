// The backward pass: everything that the forward read gets its gradient; nothing is kept between the passes but h and
// the token statistics.
//
// Per image two sweeps over the tokens in strips of kTile. The first goes down from grad_out to dy, the gradient
// before the projector (reads grad_out and h; 2 products of D x C). The convolution needs dy of a whole image, so the
// second starts when it is complete: from dy to grad_x (reads x and grad_out, writes grad_x; 2 products of D x C).
// Each thread sums weight gradients for itself; the sums are added in the order of the threads.
#pragma once

#include "forward.h"

namespace ht {
namespace HT_ISA {

// Weight gradients of one thread, in the layout in which they are summed.
struct PartialGrads {
  float* start;
  float* down_weight;    // (C, wide_dim) in panels
  float* up_weight;      // (C, wide_dim) in panels, transposed
  float* mix_weight;     // (C, wide) in panels
  float* scale_kernels;  // (S, 49, wide)
  float* scale_bias;     // (S, wide)
  float* hidden_weight;  // (Q, wide)
  float* hidden_bias;    // (Q)
  float* score_weight;   // (S, Q)
  float* score_bias;     // (S)
  float* norm_gain;      // (wide_dim)
  float* skip_gain;      // (wide_dim)
  float* up_bias;        // (wide_dim)
  float* down_bias;      // (wide)
  float* mix_bias;       // (wide)
  float* end;

  PartialGrads(const Sizes& n, Arena& arena)
      : start(arena.floats(0)),
        down_weight(arena.floats(n.channels * n.wide_dim)),
        up_weight(arena.floats(n.channels * n.wide_dim)),
        mix_weight(arena.floats(n.channels * n.wide)),
        scale_kernels(arena.floats(n.scales * kTaps * n.wide)),
        scale_bias(arena.floats(n.scales * n.wide)),
        hidden_weight(arena.floats(n.hidden * n.wide)),
        hidden_bias(arena.floats(n.hidden)),
        score_weight(arena.floats(n.scales * n.hidden)),
        score_bias(arena.floats(n.scales)),
        norm_gain(arena.floats(n.wide_dim)),
        skip_gain(arena.floats(n.wide_dim)),
        up_bias(arena.floats(n.wide_dim)),
        down_bias(arena.floats(n.wide)),
        mix_bias(arena.floats(n.wide)),
        end(arena.floats(0)) {}

  i64 count() const { return end - start; }

  // Sums the threads' gradients into the first thread's and writes them where the caller wants them.
  static void reduce(Team team, const Sizes& n, const PartialGrads& first, const ht_adapter_weights& out) {
    const i64 count = first.count();
    const Range mine = team.share(count, kPanel);
    for (int t = 1; t < team.size; ++t) {
      const float* other = first.start + t * count;
      for (i64 i = mine.first; i < mine.last; ++i) first.start[i] += other[i];
    }
    team.wait();
    const Range up = team.share(n.dim, kPanel);
    for (i64 d = up.first; d < up.last; ++d) {
      for (i64 c = 0; c < n.channels; ++c) {
        out.up_weight[d * n.channels + c] = first.up_weight[panel_index(c, d, n.channels)];
      }
    }
    const Range down = team.share(n.channels, 1);
    for (i64 c = down.first; c < down.last; ++c) {
      unpack_row(first.down_weight, c, n.channels, n.dim, out.down_weight + c * n.dim);
    }
    if (team.rank != 0) return;
    for (i64 c = 0; c < n.channels; ++c) {
      unpack_row(first.mix_weight, c, n.channels, n.channels, out.mix_weight + c * n.channels);
    }
    for (i64 s = 0; s < n.scales; ++s) {
      const float* kernels = first.scale_kernels + s * kTaps * n.wide;
      for (i64 c = 0; c < n.channels; ++c) {
        for (i64 t = 0; t < kTaps; ++t) out.scale_kernels[(s * n.channels + c) * kTaps + t] = kernels[t * n.wide + c];
      }
      copy(first.scale_bias + s * n.wide, n.channels, out.scale_bias + s * n.channels);
    }
    copy(first.norm_gain, n.dim, out.norm_gain);
    copy(first.skip_gain, n.dim, out.skip_gain);
    copy(first.up_bias, n.dim, out.up_bias);
    copy(first.down_bias, n.channels, out.down_bias);
    copy(first.mix_bias, n.channels, out.mix_bias);
    if (n.scales == 1) return;
    for (i64 q = 0; q < n.hidden; ++q) {
      copy(first.hidden_weight + q * n.wide, n.channels, out.hidden_weight + q * n.channels);
    }
    copy(first.hidden_bias, n.hidden, out.hidden_bias);
    copy(first.score_weight, n.scales * n.hidden, out.score_weight);
    copy(first.score_bias, n.scales, out.score_bias);
  }

 private:
  static void unpack_row(const float* panels, i64 row, i64 rows, i64 columns, float* to) {
    for_panels(columns, [&](i64 c, i64 valid) { copy(panels + panel_index(row, c, rows), valid, to + c); });
  }

  static void copy(const float* from, i64 count, float* to) {
    for (i64 i = 0; i < count; ++i) to[i] = from[i];
  }
};

// The matrices that gradients are multiplied with.
struct GradWeights {
  Panels up;    // (D, C)
  Panels mix;   // (C out, C in)
  Panels down;  // (C, D)

  GradWeights(const Sizes& n, const ht_adapter_weights& w, Arena& arena)
      : up(Matrix{w.up_weight, n.channels, 1}, n.dim, n.channels, arena),
        mix(Matrix{w.mix_weight, n.channels, 1}, n.channels, n.channels, arena),
        down(Matrix{w.down_weight, n.dim, 1}, n.channels, n.dim, arena) {}

  void fill(Team team) const {
    up.fill(team);
    mix.fill(team);
    down.fill(team);
  }
};

// What the threads that share an image write for each other.
struct ImageGrads {
  float* dy;      // zero-padded grid (H + 6, W + 6, wide): gradient before the projector
  float* dm;      // (P, wide): gradient of the prefix tokens' bottleneck
  float* kernel;  // per member (49 + 1, wide): gradient of the image's depthwise kernel and bias

  ImageGrads(const Sizes& n, int members, Arena& arena)
      : dy(arena.floats(padded_count(n))),
        dm(arena.floats(n.prefix * n.wide)),
        kernel(arena.floats(members * kernel_count(n))) {}

  static i64 kernel_count(const Sizes& n) { return (kTaps + 1) * n.wide; }
  static i64 padded_count(const Sizes& n) { return (n.height + 2 * kMargin) * PaddedRows::row_step(n); }

  PaddedRows padded() const { return {dy, -kMargin}; }

  float* patch(const Sizes& n, i64 q) const {
    return dy + (q / n.width + kMargin) * PaddedRows::row_step(n) + (q % n.width + kMargin) * n.wide;
  }
};

struct BackwardScratch {
  MixScratch mix;
  float* slope;    // (kTile, wide): derivative of m -> gelu(m) * keep, then gradient of m
  float* dh;       // (kTile, wide): gradient of y, then of h
  float* g;        // (kTile, dim_step): grad_out, then gradient of u
  float* u;        // (kTile, dim_step)
  float* kernel;   // (49 + 1, wide): gradient of the image's depthwise kernel and bias, of all members
  float* dpooled;  // (wide): what each patch gets through the pooled bottleneck

  BackwardScratch(const Sizes& n, Arena& arena)
      : mix(n, arena),
        slope(arena.floats(kTile * n.wide)),
        dh(arena.floats(kTile * n.wide)),
        g(arena.floats(kTile * n.dim_step)),
        u(arena.floats(kTile * n.dim_step)),
        kernel(arena.floats((kTaps + 1) * n.wide)),
        dpooled(arena.floats(n.wide)) {}
};

// rows (count, wide) summed into sums (wide).
HT_INLINE void add_rows(const float* rows, i64 step, i64 count, i64 width, float* sums) {
  for (i64 c = 0; c < width; c += kLanes) {
    Vec total = load(sums + c);
    for (i64 r = 0; r < count; ++r) total += load(rows + r * step + c);
    store(sums + c, total);
  }
}

// to (rows, columns rounded up to panels) = from (rows, depth) * b
inline void product(const float* from, i64 from_step, const Panels& b, i64 columns, i64 rows, float* to, i64 to_step) {
  for_row_blocks(rows, [&](auto block, i64 r) {
    constexpr int M = decltype(block)::value;
    for_panels(columns, [&](i64 c, i64) {
      Tile<M> tile{};
      multiply(tile, from + r * from_step, from_step, b, c);
      store_rows(tile, to + r * to_step + c, to_step, kPanel);
    });
  });
}

// First sweep: grad_out to dy and dm, and the gradients of up_*, mix_* and this image's depthwise kernel.
template <class T>
inline void mix_and_up_project_backward(const Sizes& n, const MixWeights& packed, const GradWeights& transposed,
                                        const float* h, const float* keep, const T* grad_out, i64 grad_step,
                                        Range strip, BackwardScratch& s, const ImageGrads& image, float* kernel_grad,
                                        const PartialGrads& sums) {
  const i64 rows = strip.last - strip.first;
  const i64 prefix = s.mix.mix(n, packed, h, strip);
  for (i64 r = 0; r < rows; ++r) {
    for_vectors(n.channels, [&](i64 c, i64 left) {
      const Vec m = load(s.mix.m + r * n.wide + c);
      Vec a = gelu(m), slope = gelu_derivative(m);
      if (keep) {
        const Vec k = load_first(keep + r * n.channels + c, left);
        a *= k;
        slope *= k;
      }
      store(s.mix.m + r * n.wide + c, a);
      store(s.slope + r * n.wide + c, slope);
    });
    const T* from = grad_out + r * grad_step;
    for_vectors(n.dim, [&](i64 d, i64 left) { store(s.g + r * n.dim_step + d, load_first(from + d, left)); });
  }
  add_rows(s.g, n.dim_step, rows, n.dim, sums.up_bias);
  accumulate_product(sums.up_weight, s.mix.m, n.wide, n.channels, s.g, n.dim_step, n.dim, rows);

  float* dm = s.slope;
  for_row_blocks(rows, [&](auto block, i64 r) {
    constexpr int M = decltype(block)::value;
    for_panels(n.channels, [&](i64 c, i64) {
      Tile<M> tile{};
      multiply(tile, s.g + r * n.dim_step, n.dim_step, transposed.up, c);
      for (int m = 0; m < M; ++m) {
        float* to = dm + (r + m) * n.wide + c;
        store(to, load(to) * tile.at[m][0]);
        store(to + kLanes, load(to + kLanes) * tile.at[m][1]);
      }
    });
  });
  for (i64 i = 0; i < prefix; ++i) {
    float* to = image.dm + (strip.first + i) * n.wide;
    for (i64 c = 0; c < n.channels; c += kLanes) store(to + c, load(dm + i * n.wide + c));
  }
  const i64 patches = rows - prefix;
  if (patches == 0) return;
  const float* dm_patches = dm + prefix * n.wide;
  add_rows(dm_patches, n.wide, patches, n.channels, sums.mix_bias);
  accumulate_product(sums.mix_weight, dm_patches, n.wide, n.channels, s.mix.y + prefix * n.wide, n.wide, n.channels,
                     patches);
  product(dm_patches, n.wide, transposed.mix, n.channels, patches, s.dh, n.wide);
  const i64 first = strip.first + prefix - n.prefix;
  for (i64 i = 0; i < patches; ++i) {
    float* to = image.patch(n, first + i);
    for (i64 c = 0; c < n.channels; c += kLanes) store(to + c, load(s.dh + i * n.wide + c));
  }
  depthwise_weight_grad(n, s.mix.padded, s.dh, {first, first + patches}, kernel_grad, kernel_grad + kTaps * n.wide);
}

// From the gradient of the image's depthwise kernel to those of the scales, of the noise estimator and of the pooled
// bottleneck. Every member computes the last; only the first adds to `sums`.
inline void noise_backward(const Sizes& n, Team team, const ht_adapter_weights& w, const MixWeights& packed,
                           const ImageGrads& image, BackwardScratch& s, const PartialGrads& sums) {
  const i64 count = ImageGrads::kernel_count(n);
  const float* bias = s.kernel + kTaps * n.wide;
  for (i64 i = 0; i < count; i += kLanes) {
    Vec total = load(image.kernel + i);
    for (int member = 1; member < team.size; ++member) total += load(image.kernel + member * count + i);
    store(s.kernel + i, total);
  }
  const float* weight = s.mix.noise.weight;
  if (team.rank == 0) {
    for (i64 scale = 0; scale < n.scales; ++scale) {
      axpy(weight[scale], s.kernel, sums.scale_kernels + scale * kTaps * n.wide, kTaps * n.wide);
      axpy(weight[scale], bias, sums.scale_bias + scale * n.wide, n.wide);
    }
  }
  for (i64 c = 0; c < n.wide; ++c) s.dpooled[c] = 0;
  if (n.scales == 1) return;
  float dscore[3], mean = 0;
  for (i64 scale = 0; scale < n.scales; ++scale) {
    float d = dot(bias, packed.scale_bias + scale * n.wide, n.channels);
    for (i64 t = 0; t < kTaps; ++t) {
      d += dot(s.kernel + t * n.wide, packed.scale_kernels + (scale * kTaps + t) * n.wide, n.channels);
    }
    dscore[scale] = d;
    mean += weight[scale] * d;
  }
  for (i64 scale = 0; scale < n.scales; ++scale) dscore[scale] = weight[scale] * (dscore[scale] - mean);
  const float per_patch = 1.0f / static_cast<float>(n.patches);
  for (i64 q = 0; q < n.hidden; ++q) {
    float d = 0;
    for (i64 scale = 0; scale < n.scales; ++scale) d += dscore[scale] * w.score_weight[scale * n.hidden + q];
    if (s.mix.noise.hidden[q] <= 0) d = 0;
    axpy(d * per_patch, w.hidden_weight + q * n.channels, s.dpooled, n.channels);
    if (team.rank != 0) continue;
    axpy(d, s.mix.noise.pooled, sums.hidden_weight + q * n.wide, n.channels);
    sums.hidden_bias[q] += d;
    for (i64 scale = 0; scale < n.scales; ++scale) {
      sums.score_weight[scale * n.hidden + q] += dscore[scale] * s.mix.noise.hidden[q];
    }
  }
  for (i64 scale = 0; team.rank == 0 && scale < n.scales; ++scale) sums.score_bias[scale] += dscore[scale];
}

// From du (M, dim) through the gains and the LayerNorm: grad_x and the gradients of the gains. With n = du * norm_gain
// and hats for normalised values, dx = grad_out + du * skip_gain + rstd * (n - mean(n) - xhat * mean(n * xhat)).
template <int M, class T>
HT_INLINE void norm_backward(const Sizes& n, const ht_adapter_weights& w, const T* x, i64 x_step, const float* stats,
                             const T* grad_out, i64 grad_step, const float* du, T* grad_x, i64 grad_x_step,
                             const PartialGrads& sums) {
  Vec total[M] = {}, slope[M] = {};
  for_vectors(n.dim, [&](i64 d, i64 left) {
    const Vec gain = load_first(w.norm_gain + d, left);
    Vec norm_sum = load(sums.norm_gain + d), skip_sum = load(sums.skip_gain + d);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      const Vec g = load(du + m * n.dim_step + d), v = load_first(x + m * x_step + d, left);
      const Vec centered = v - stats[2 * m], normed = g * gain;
      total[m] += normed;
      slope[m] += normed * centered;
      norm_sum += g * centered * stats[2 * m + 1];
      skip_sum += g * v;
    }
    store(sums.norm_gain + d, norm_sum);
    store(sums.skip_gain + d, skip_sum);
  });
  if (!grad_x) return;
  float shift[M], tilt[M];
  for (int m = 0; m < M; ++m) {
    const float rstd = stats[2 * m + 1], scale = 1.0f / static_cast<float>(n.dim);
    shift[m] = sum(total[m]) * scale;
    tilt[m] = sum(slope[m]) * rstd * rstd * scale;
  }
  for_vectors(n.dim, [&](i64 d, i64 left) {
    const Vec norm = load_first(w.norm_gain + d, left), skip = load_first(w.skip_gain + d, left);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      const Vec g = load(du + m * n.dim_step + d), v = load_first(x + m * x_step + d, left);
      const Vec normed = g * norm - shift[m] - (v - stats[2 * m]) * tilt[m];
      const Vec through = load_first(grad_out + m * grad_step + d, left) + g * skip;
      store_first(grad_x + m * grad_x_step + d, through + stats[2 * m + 1] * normed, left);
    }
  });
}

// Second sweep: dy and dm to dh, then grad_x and the gradients of down_* and the gains.
template <class T>
inline void down_project_backward(const Sizes& n, const ht_adapter_weights& w, const GradWeights& transposed,
                                  const T* x, i64 x_step, const float* stats, const T* grad_out, i64 grad_step,
                                  T* grad_x, i64 grad_x_step, Range strip, BackwardScratch& s, const ImageGrads& image,
                                  const PartialGrads& sums) {
  const i64 rows = strip.last - strip.first;
  const i64 prefix = max(0, min(strip.last, n.prefix) - strip.first);
  for (i64 i = 0; i < prefix; ++i) {
    const float* from = image.dm + (strip.first + i) * n.wide;
    for (i64 c = 0; c < n.channels; c += kLanes) store(s.dh + i * n.wide + c, load(from + c));
  }
  if (rows > prefix) {
    const Range patches{strip.first + prefix - n.prefix, strip.last - n.prefix};
    depthwise<true>(n, image.padded(), s.mix.image.kernel, nullptr, patches, s.dh + prefix * n.wide);
    for (i64 r = prefix; r < rows; ++r) {
      for (i64 c = 0; c < n.channels; c += kLanes) accumulate(s.dh + r * n.wide + c, load(s.dpooled + c));
    }
  }
  add_rows(s.dh, n.wide, rows, n.channels, sums.down_bias);
  for_row_blocks(rows, [&](auto block, i64 r) {
    constexpr int M = decltype(block)::value;
    gain_rows<M>(x + r * x_step, x_step, stats + 2 * r, w, n.dim, s.u + r * n.dim_step, n.dim_step);
  });
  accumulate_product(sums.down_weight, s.dh, n.wide, n.channels, s.u, n.dim_step, n.dim, rows);
  product(s.dh, n.wide, transposed.down, n.dim, rows, s.g, n.dim_step);

  for_row_blocks(rows, [&](auto block, i64 r) {
    norm_backward<decltype(block)::value>(n, w, x + r * x_step, x_step, stats + 2 * r, grad_out + r * grad_step,
                                          grad_step, s.g + r * n.dim_step, grad_x ? grad_x + r * grad_x_step : nullptr,
                                          grad_x_step, sums);
  });
}

struct BackwardWorkspace {
  GradWeights transposed;
  MixWeights mix;
  ImageGrads together;   // of the images that all threads share
  PartialGrads first;    // the first thread's; the others' follow
  PartialGrads partial;  // this thread's
  ImageGrads alone;      // of the images that this thread has to itself
  BackwardScratch scratch;

  BackwardWorkspace(const Sizes& n, const ht_adapter_weights& w, int threads, int thread, Arena& arena)
      : transposed(n, w, arena),
        mix(n, w, arena),
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
    if (everyone.rank == 0) __builtin_memset(work.together.dy, 0, padded_bytes);
    work.transposed.fill(everyone);
    work.mix.fill(everyone, n, w);
    everyone.wait();
    for_images(n.batch, everyone, [&](i64 image, Team team) {
      const ImageGrads& shared = team.size == 1 ? work.alone : work.together;
      const i64 kernel_count = ImageGrads::kernel_count(n);
      float* kernel_grad = shared.kernel + team.rank * kernel_count;
      __builtin_memset(kernel_grad, 0, static_cast<size_t>(kernel_count) * sizeof(float));
      const float* image_h = h + image * n.tokens * n.channels;
      const Range mine = team.share(n.tokens, kRows);
      work.scratch.mix.begin_image(n, w, work.mix, image_h);
      for_strips(mine, [&](Range strip) {
        const i64 r = strip.first, at = (image * n.tokens + r) * n.channels;
        mix_and_up_project_backward(n, work.mix, work.transposed, image_h, keep ? keep + at : nullptr,
                                    grad_out.row(image, r), grad_out.token_stride, strip, work.scratch, shared,
                                    kernel_grad, sums);
      });
      team.wait();
      noise_backward(n, team, w, work.mix, shared, work.scratch, sums);
      for_strips(mine, [&](Range strip) {
        const i64 r = strip.first;
        down_project_backward(n, w, work.transposed, x.row(image, r), x.token_stride,
                              stats + (image * n.tokens + r) * 2, grad_out.row(image, r), grad_out.token_stride,
                              grad_x.data ? grad_x.row(image, r) : nullptr, grad_x.token_stride, strip, work.scratch,
                              shared, sums);
      });
    });
    everyone.wait();
    PartialGrads::reduce(everyone, n, work.first, grads);
  });
}

}  // namespace HT_ISA
}  // namespace ht
