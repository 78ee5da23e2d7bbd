// The kernels of each instruction set as functions, among which dispatch.cpp chooses.
//
// Their arguments are those of the C interface, already checked.
#pragma once

#include <stddef.h>

#include "ht_kernels.h"

namespace ht {

struct Kernels {
  const char* isa;
  size_t (*prepared_bytes)(const ht_adapter_shape&, ht_dtype factors);
  void (*prepare)(const ht_adapter_shape&, const ht_adapter_weights&, ht_dtype factors, void* prepared, int threads);
  size_t (*forward_workspace)(const ht_adapter_shape&, bool keeps_state, int threads);
  size_t (*backward_workspace)(const ht_adapter_shape&, int threads);
  void (*forward)(const ht_adapter_shape&, const ht_adapter_weights&, ht_dtype factors, const void* prepared, ht_dtype,
                  const ht_tokens& x, const float* keep, const ht_tokens& out, float* h, float* stats, void* workspace,
                  int threads, double* seconds);
  void (*backward)(const ht_adapter_shape&, const ht_adapter_weights&, ht_dtype, const ht_tokens& grad_out,
                   const ht_tokens& x, const float* keep, const float* h, const float* stats, const ht_tokens& grad_x,
                   const ht_adapter_weights& grads, void* workspace, int threads, double* seconds);
  size_t (*filter_workspace)(const ht_filter_shape&, bool backward, int threads);
  void (*filter)(const ht_filter_shape&, const float* x, const float* mask, float* out, void* workspace, int threads);
  void (*filter_backward)(const ht_filter_shape&, const float* grad_out, const float* x, const float* mask,
                          float* grad_x, float* grad_mask, void* workspace, int threads);
  size_t (*mask_workspace)(const ht_mask_shape&, int threads);
  void (*mask)(const ht_mask_shape&, const float* logits, uint8_t* mask, void* workspace, int threads);
  size_t (*preprocess_workspace)(const ht_frame_shape&, int threads);
  void (*preprocess)(const ht_frame_shape&, const uint8_t* frame, int64_t row_stride, uint8_t* pixels, void* workspace,
                     int threads);
};

extern const Kernels kernels_baseline;
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx2_bf16;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512_bf16;  // all NULL where the compiler does not know these instructions

}  // namespace ht
