// Starts the spectral filter, for the adapter and for the C interface of the filter by itself.

#include "checks.h"
#include "stages.h"

namespace ht {
namespace cuda {

template <class T>
cudaError_t launch_spectral_filter(SpectralFilter<T> p, int images, cudaStream_t stream) {
  // Every device gives a block this much without a request.
  constexpr int kMostBytes = 48 * 1024;
  p.group = kMaxGroup;
  while (p.group > 1 && (p.group >= 2 * p.channels || group_bytes(p.group, p.height, p.width) > kMostBytes)) {
    p.group /= 2;
  }
  return launch<&spectral_filter<T>>(dim3(images * p.groups()), group_bytes(p.group, p.height, p.width), stream, p);
}

template cudaError_t launch_spectral_filter(SpectralFilter<float>, int, cudaStream_t);
template cudaError_t launch_spectral_filter(SpectralFilter<__half>, int, cudaStream_t);
template cudaError_t launch_spectral_filter(SpectralFilter<__nv_bfloat16>, int, cudaStream_t);

namespace {

template <class T>
cudaError_t filter_images(const ht_filter_shape& s, const void* x, const float* mask, void* out, cudaStream_t stream) {
  SpectralFilter<T> p{};
  p.x = static_cast<const T*>(x), p.out = static_cast<T*>(out);
  p.patch_stride = 1, p.channel_stride = s.height * s.width, p.image_stride = s.channels * p.channel_stride;
  p.mask = reinterpret_cast<const float2*>(mask);
  p.channels = static_cast<int>(s.channels), p.masks = static_cast<int>(s.masks);
  p.height = static_cast<int>(s.height), p.width = static_cast<int>(s.width);
  return launch_spectral_filter(p, static_cast<int>(s.batch), stream);
}

}  // namespace

}  // namespace cuda
}  // namespace ht

extern "C" ht_status ht_spectral_filter_cuda(const ht_filter_shape* shape, ht_dtype dtype, const void* x,
                                             const float* mask, void* out, void* stream) {
  using namespace ht::cuda;
  ht_status status = ht::check_filter_shape(shape);
  if (status == HT_OK) status = check_dtype(dtype);
  if (status != HT_OK || shape->batch * shape->channels == 0) return status;
  status = check_mask(mask, shape->height, shape->width);
  if (status != HT_OK) return status;
  if (!x || !out) return ht::fail(HT_INVALID_ARGUMENT, "x and out must not be NULL");
  const cudaStream_t s = static_cast<cudaStream_t>(stream);
  const cudaError_t error = dtype == HT_FLOAT32    ? filter_images<float>(*shape, x, mask, out, s)
                            : dtype == HT_BFLOAT16 ? filter_images<__nv_bfloat16>(*shape, x, mask, out, s)
                                                   : filter_images<__half>(*shape, x, mask, out, s);
  return check(error, "spectral_filter did not start");
}
