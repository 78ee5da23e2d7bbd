// Starts the float32 kernel mix_and_up_project, in the tile that the plan names.

#include "stages.h"

namespace ht {
namespace cuda {
namespace float32 {

namespace {

template <bool kTensorCores>
cudaError_t start(const MixAndUpProject& p, int images, const Plan& plan, cudaStream_t stream) {
  const dim3 grid(images * plan.mix_blocks, plan.slices);
  return plan.mix_rows == 32 ? launch<&mix_and_up_project<kTensorCores, 2>>(grid, plan.mix_bytes, stream, p)
                             : launch<&mix_and_up_project<kTensorCores, 1>>(grid, plan.mix_bytes, stream, p);
}

}  // namespace

cudaError_t launch_mix_and_up_project(const MixAndUpProject& p, int images, const Plan& plan, bool tensor_cores,
                                      cudaStream_t stream) {
  return tensor_cores ? start<true>(p, images, plan, stream) : start<false>(p, images, plan, stream);
}

}  // namespace float32
}  // namespace cuda
}  // namespace ht
