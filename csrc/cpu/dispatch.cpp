// The C interface: checks arguments, chooses the instruction set, calls its kernels.

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "fork.h"
#include "kernels.h"
#include "status.h"

namespace {

using ht::check_shape;
using ht::fail;

// Prepared when this code is loaded, because torch may have run parallel regions before the first call of a kernel.
[[maybe_unused]] const bool forks_are_prepared = ht::prepare_forks();

#if defined(__x86_64__)
// Whether the processor has AVX512-BF16, which not every compiler can ask by name.
bool has_avx512_bf16() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 5 & 1;
}
#endif

// The instruction set to use: the one that HT_KERNELS_CPU names, else the best of those compiled in that this machine
// can run. The last of them is slower than it has to be and there to be named.
const ht::Kernels* choose() {
  const ht::Kernels* usable[5];
  int count = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    if (ht::kernels_avx512_bf16.isa && has_avx512_bf16()) usable[count++] = &ht::kernels_avx512_bf16;
    usable[count++] = &ht::kernels_avx512;
  }
  if (avx2) usable[count++] = &ht::kernels_avx2;
#endif
  usable[count++] = &ht::kernels_baseline;
#if defined(__x86_64__)
  if (avx2) usable[count++] = &ht::kernels_avx2_bf16;
#endif
  const char* asked = std::getenv("HT_KERNELS_CPU");
  for (int i = 0; asked && i < count; ++i) {
    if (!std::strcmp(asked, usable[i]->isa)) return usable[i];
  }
  if (asked && *asked) {
    std::fprintf(stderr, "ht_kernels: HT_KERNELS_CPU is '%s', which this machine cannot run; using %s\n", asked,
                 usable[0]->isa);
  }
  return usable[0];
}

const ht::Kernels& kernels() {
  static const ht::Kernels* chosen = choose();
  return *chosen;
}

ht_status check_threads(int threads) {
  return threads < 1 ? fail(HT_INVALID_ARGUMENT, "threads must be positive, got %d", threads) : HT_OK;
}

// Whether calls take a shape, of which `status` tells, and so many threads.
bool takes(ht_status status, int threads) { return status == HT_OK && check_threads(threads) == HT_OK; }

ht_status check_type(ht_dtype type, const char* name) {
  if (type == HT_FLOAT32 || type == HT_BFLOAT16) return HT_OK;
  return fail(HT_INVALID_ARGUMENT, "%s must be HT_FLOAT32 or HT_BFLOAT16", name);
}

ht_status check(const ht_adapter_shape* s, const ht_adapter_weights* w, ht_dtype factors, ht_dtype dtype,
                const void* workspace, int threads) {
  ht_status status = check_shape(s);
  if (status == HT_OK) status = check_type(factors, "factors");
  if (status == HT_OK) status = check_type(dtype, "dtype");
  if (status == HT_OK) status = check_threads(threads);
  if (status != HT_OK) return status;
  if (!workspace) return fail(HT_INVALID_ARGUMENT, "workspace must not be NULL");
  return ht::check_weights(*s, w);
}

// Waking a second thread costs more than it saves below so many multiply-adds.
int threads_for(double work, int most) { return work > (1 << 20) ? most : 1; }

int threads_for(const ht_adapter_shape& s, int most) {
  return threads_for(double(s.batch) * (s.prefix_tokens + s.grid_height * s.grid_width) * s.dim * s.bottleneck, most);
}

int threads_for(const ht_filter_shape& s, int most) {
  return threads_for(2.0 * s.batch * s.channels * s.height * s.width * (2 * s.height + s.width), most);
}

int threads_for(const ht_mask_shape& s, int most) {
  return threads_for(double(s.batch) * s.classes * s.height * s.width, most);
}

// Both passes: each input pixel has about four taps across, and each row of results about four down.
int threads_for(const ht_frame_shape& s, int most) {
  const auto larger = [](int64_t a, int64_t b) { return a > b ? a : b; };
  return threads_for(4.0 * larger(s.height, s.out_height) * (larger(s.width, s.out_width) + s.out_width), most);
}

ht_status check_filter(const ht_filter_shape* s, const void* workspace, int threads) {
  ht_status status = ht::check_filter_shape(s);
  if (status == HT_OK) status = check_threads(threads);
  if (status != HT_OK) return status;
  if (!workspace) return fail(HT_INVALID_ARGUMENT, "workspace must not be NULL");
  return HT_OK;
}

}  // namespace

extern "C" {

size_t ht_adapter_prepared_cpu(const ht_adapter_shape* shape, ht_dtype factors) {
  const bool takes = check_shape(shape) == HT_OK && check_type(factors, "factors") == HT_OK;
  return takes ? kernels().prepared_bytes(*shape, factors) : 0;
}

ht_status ht_adapter_prepare_cpu(const ht_adapter_shape* shape, const ht_adapter_weights* weights, ht_dtype factors,
                                 void* prepared, int threads) {
  const ht_status status = check(shape, weights, factors, HT_FLOAT32, prepared, threads);
  if (status == HT_OK) kernels().prepare(*shape, *weights, factors, prepared, threads_for(*shape, threads));
  return status;
}

size_t ht_adapter_forward_workspace_cpu(const ht_adapter_shape* shape, int keeps_state, int threads) {
  return takes(check_shape(shape), threads) ? kernels().forward_workspace(*shape, keeps_state != 0, threads) : 0;
}

size_t ht_adapter_backward_workspace_cpu(const ht_adapter_shape* shape, int threads) {
  return takes(check_shape(shape), threads) ? kernels().backward_workspace(*shape, threads) : 0;
}

ht_status ht_adapter_forward_cpu(const ht_adapter_shape* shape, const ht_adapter_weights* weights, ht_dtype factors,
                                 const void* prepared, ht_dtype dtype, ht_tokens x, const float* keep, ht_tokens out,
                                 float* h, float* stats, void* workspace, int threads) {
  return ht_adapter_forward_stages_cpu(shape, weights, factors, prepared, dtype, x, keep, out, h, stats, workspace,
                                       threads, nullptr);
}

ht_status ht_adapter_forward_stages_cpu(const ht_adapter_shape* shape, const ht_adapter_weights* weights,
                                        ht_dtype factors, const void* prepared, ht_dtype dtype, ht_tokens x,
                                        const float* keep, ht_tokens out, float* h, float* stats, void* workspace,
                                        int threads, double* seconds) {
  const ht_status status = check(shape, weights, factors, dtype, workspace, threads);
  if (status != HT_OK || shape->batch == 0) return status;
  if (!x.data || !out.data || !prepared) return fail(HT_INVALID_ARGUMENT, "x, out and prepared must not be NULL");
  if (!h != !stats) return fail(HT_INVALID_ARGUMENT, "h and stats must both be NULL, or neither");
  kernels().forward(*shape, *weights, factors, prepared, dtype, x, keep, out, h, stats, workspace,
                    threads_for(*shape, threads), seconds);
  return HT_OK;
}

ht_status ht_adapter_backward_cpu(const ht_adapter_shape* shape, const ht_adapter_weights* weights, ht_dtype dtype,
                                  ht_tokens grad_out, ht_tokens x, const float* keep, const float* h,
                                  const float* stats, ht_tokens grad_x, const ht_adapter_weights* grads,
                                  void* workspace, int threads) {
  return ht_adapter_backward_stages_cpu(shape, weights, dtype, grad_out, x, keep, h, stats, grad_x, grads, workspace,
                                        threads, nullptr);
}

ht_status ht_adapter_backward_stages_cpu(const ht_adapter_shape* shape, const ht_adapter_weights* weights,
                                         ht_dtype dtype, ht_tokens grad_out, ht_tokens x, const float* keep,
                                         const float* h, const float* stats, ht_tokens grad_x,
                                         const ht_adapter_weights* grads, void* workspace, int threads,
                                         double* seconds) {
  ht_status status = check(shape, weights, HT_FLOAT32, dtype, workspace, threads);
  if (status == HT_OK) status = check(shape, grads, HT_FLOAT32, dtype, workspace, threads);
  if (status != HT_OK) return status;
  if (shape->batch > 0 && (!grad_out.data || !x.data || !h || !stats)) {
    return fail(HT_INVALID_ARGUMENT, "grad_out, x, h and stats must not be NULL");
  }
  kernels().backward(*shape, *weights, dtype, grad_out, x, keep, h, stats, grad_x, *grads, workspace,
                     threads_for(*shape, threads), seconds);
  return HT_OK;
}

size_t ht_spectral_filter_workspace_cpu(const ht_filter_shape* shape, int backward, int threads) {
  return takes(ht::check_filter_shape(shape), threads) ? kernels().filter_workspace(*shape, backward != 0, threads) : 0;
}

ht_status ht_spectral_filter_cpu(const ht_filter_shape* shape, const float* x, const float* mask, float* out,
                                 void* workspace, int threads) {
  const ht_status status = check_filter(shape, workspace, threads);
  if (status != HT_OK || shape->batch * shape->channels == 0) return status;
  if (!x || !mask || !out) return fail(HT_INVALID_ARGUMENT, "x, mask and out must not be NULL");
  kernels().filter(*shape, x, mask, out, workspace, threads_for(*shape, threads));
  return HT_OK;
}

ht_status ht_spectral_filter_backward_cpu(const ht_filter_shape* shape, const float* grad_out, const float* x,
                                          const float* mask, float* grad_x, float* grad_mask, void* workspace,
                                          int threads) {
  const ht_status status = check_filter(shape, workspace, threads);
  if (status != HT_OK || shape->channels == 0) return status;
  if (!mask || !grad_mask || (shape->batch > 0 && (!grad_out || !x || !grad_x)))
    return fail(HT_INVALID_ARGUMENT, "grad_out, x, mask, grad_x and grad_mask must not be NULL");
  kernels().filter_backward(*shape, grad_out, x, mask, grad_x, grad_mask, workspace, threads_for(*shape, threads));
  return HT_OK;
}

size_t ht_grid_to_mask_workspace_cpu(const ht_mask_shape* shape, int threads) {
  return takes(ht::check_mask_shape(shape), threads) ? kernels().mask_workspace(*shape, threads) : 0;
}

ht_status ht_grid_to_mask_cpu(const ht_mask_shape* shape, const float* logits, uint8_t* mask, void* workspace,
                              int threads) {
  ht_status status = ht::check_mask_shape(shape);
  if (status == HT_OK) status = check_threads(threads);
  if (status != HT_OK) return status;
  if (shape->batch == 0) return HT_OK;
  if (!logits || !mask || !workspace) return fail(HT_INVALID_ARGUMENT, "logits, mask and workspace must not be NULL");
  kernels().mask(*shape, logits, mask, workspace, threads_for(*shape, threads));
  return HT_OK;
}

size_t ht_preprocess_workspace_cpu(const ht_frame_shape* shape, int threads) {
  return takes(ht::check_frame_shape(shape), threads) ? kernels().preprocess_workspace(*shape, threads) : 0;
}

ht_status ht_preprocess_cpu(const ht_frame_shape* shape, const uint8_t* frame, int64_t row_stride, uint8_t* pixels,
                            void* workspace, int threads) {
  ht_status status = ht::check_frame_shape(shape);
  if (status == HT_OK) status = check_threads(threads);
  if (status != HT_OK) return status;
  if (!frame || !pixels || !workspace) return fail(HT_INVALID_ARGUMENT, "frame, pixels and workspace must not be NULL");
  kernels().preprocess(*shape, frame, row_stride, pixels, workspace, threads_for(*shape, threads));
  return HT_OK;
}

const char* ht_cpu_isa(void) { return kernels().isa; }
}
