// Starts mix_and_up_project, in the tile that the plan names.

#include "stages.h"

namespace ht {
namespace cuda {

namespace {

template <class T, bool kNorm, int kSteps>
cudaError_t start(const MixAndUpProject<T>& p, int images, const Plan& plan, cudaStream_t stream) {
  const dim3 grid(images * plan.mix_blocks, plan.slices);
  const auto run = [&](auto tile) {
    return launch_early<&mix_and_up_project<T, decltype(tile), kNorm>>(grid, plan.layout.bytes, stream, p);
  };
  if constexpr (kSteps <= 4) {
    if (plan.mix == MixTokens::kLarge) return run(LargeTile<kSteps>{});
  }
  if constexpr (!kNorm) {
    if (plan.mix == MixTokens::kSmall) return run(SmallTile<kSteps>{});
  }
  return run(MiddleTile<kSteps>{});
}

template <class T, bool kNorm>
cudaError_t start(const MixAndUpProject<T>& p, int images, const Plan& plan, cudaStream_t stream) {
  return p.channels <= 64 ? start<T, kNorm, 4>(p, images, plan, stream) : start<T, kNorm, 8>(p, images, plan, stream);
}

}  // namespace

template <class T>
cudaError_t launch_mix_and_up_project(const MixAndUpProject<T>& p, int images, const Plan& plan, cudaStream_t stream) {
  return p.normed ? start<T, true>(p, images, plan, stream) : start<T, false>(p, images, plan, stream);
}

template cudaError_t launch_mix_and_up_project(const MixAndUpProject<__half>&, int, const Plan&, cudaStream_t);
template cudaError_t launch_mix_and_up_project(const MixAndUpProject<__nv_bfloat16>&, int, const Plan&, cudaStream_t);

}  // namespace cuda
}  // namespace ht
