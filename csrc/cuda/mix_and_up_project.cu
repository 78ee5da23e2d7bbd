// Starts mix_and_up_project, in the tile that the plan names.

#include "stages.h"

namespace ht {
namespace cuda {

namespace {

template <class T, bool kTensorCores>
cudaError_t start(const MixAndUpProject<T>& p, int images, const Plan& plan, cudaStream_t stream) {
  const dim3 grid(images * plan.mix_blocks, plan.slices);
  return plan.mix_rows == 32 ? launch<&mix_and_up_project<T, kTensorCores, 2>>(grid, plan.mix_bytes, stream, p)
                             : launch<&mix_and_up_project<T, kTensorCores, 1>>(grid, plan.mix_bytes, stream, p);
}

}  // namespace

template <class T>
cudaError_t launch_mix_and_up_project(const MixAndUpProject<T>& p, int images, const Plan& plan, bool tensor_cores,
                                      cudaStream_t stream) {
  return tensor_cores ? start<T, true>(p, images, plan, stream) : start<T, false>(p, images, plan, stream);
}

template cudaError_t launch_mix_and_up_project(const MixAndUpProject<float>&, int, const Plan&, bool, cudaStream_t);

// 16-bit types always use tensor cores, which multiply them exactly. Only float32 has a choice, because tensor cores
// round it to TF32.
template <>
cudaError_t launch_mix_and_up_project(const MixAndUpProject<__half>& p, int images, const Plan& plan, bool,
                                      cudaStream_t stream) {
  return start<__half, true>(p, images, plan, stream);
}

template <>
cudaError_t launch_mix_and_up_project(const MixAndUpProject<__nv_bfloat16>& p, int images, const Plan& plan, bool,
                                      cudaStream_t stream) {
  return start<__nv_bfloat16, true>(p, images, plan, stream);
}

}  // namespace cuda
}  // namespace ht
