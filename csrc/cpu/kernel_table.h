// HT_TABLE defines the table of an instruction set's kernels; a kernels_*.cpp consists of the choice of the set, this
// header and the table.
#pragma once

#include "backward.h"
#include "filter_images.h"
#include "forward.h"
#include "grid_to_mask.h"
#include "ht_kernels.h"
#include "kernels.h"
#include "preprocess.h"
#include "simd.h"

namespace ht {
namespace HT_ISA {

// The type of factors in bfloat16: a set without dot products of pairs multiplies in float32, which takes it no longer.
#if defined(HT_PAIRS)
using Narrow = bfloat16;
#else
using Narrow = float;
#endif

inline size_t prepared_bytes(const ht_adapter_shape& shape, ht_dtype factors) {
  return factors == HT_BFLOAT16 ? prepared_bytes<Narrow>(shape) : prepared_bytes<float>(shape);
}

inline void prepare(const ht_adapter_shape& shape, const ht_adapter_weights& weights, ht_dtype factors, void* prepared,
                    int threads) {
  const auto run = factors == HT_BFLOAT16 ? prepare<Narrow> : prepare<float>;
  run(shape, weights, prepared, threads);
}

inline void forward(const ht_adapter_shape& shape, const ht_adapter_weights& weights, ht_dtype factors,
                    const void* prepared, ht_dtype dtype, const ht_tokens& x, const float* keep, const ht_tokens& out,
                    float* h, float* stats, void* workspace, int threads, double* seconds) {
  const bool narrow = factors == HT_BFLOAT16;
  const auto run = dtype == HT_BFLOAT16 ? (narrow ? forward<bfloat16, Narrow> : forward<bfloat16, float>)
                                        : (narrow ? forward<float, Narrow> : forward<float, float>);
  run(shape, weights, prepared, x, keep, out, h, stats, workspace, threads, seconds);
}

inline void backward(const ht_adapter_shape& shape, const ht_adapter_weights& weights, ht_dtype dtype,
                     const ht_tokens& grad_out, const ht_tokens& x, const float* keep, const float* h,
                     const float* stats, const ht_tokens& grad_x, const ht_adapter_weights& grads, void* workspace,
                     int threads, double* seconds) {
  const auto run = dtype == HT_BFLOAT16 ? backward<bfloat16> : backward<float>;
  run(shape, weights, grad_out, x, keep, h, stats, grad_x, grads, workspace, threads, seconds);
}

}  // namespace HT_ISA
}  // namespace ht

#define HT_TABLE(isa)                                                       \
  const ht::Kernels ht::kernels_##isa = {#isa,                              \
                                         ht::isa::prepared_bytes,           \
                                         ht::isa::prepare,                  \
                                         ht::isa::forward_workspace,        \
                                         ht::isa::backward_workspace,       \
                                         ht::isa::forward,                  \
                                         ht::isa::backward,                 \
                                         ht::isa::filter_workspace,         \
                                         ht::isa::spectral_filter,          \
                                         ht::isa::spectral_filter_backward, \
                                         ht::isa::grid_to_mask_workspace,   \
                                         ht::isa::grid_to_mask,             \
                                         ht::isa::preprocess_workspace,     \
                                         ht::isa::preprocess};
