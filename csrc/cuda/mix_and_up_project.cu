// Starts mix_and_up_project, in the tile that the plan names.

#include "stages.h"

namespace ht {
namespace cuda {

namespace {

template <class T, class Tile, bool kNorm = false>
cudaError_t start(const MixAndUpProject<T>& p, int images, const Plan& plan, cudaStream_t stream) {
  const dim3 grid(images * plan.mix_blocks, plan.slices);
  return launch<&mix_and_up_project<T, Tile, kNorm>>(grid, plan.layout.bytes, stream, p, true);
}

}  // namespace

template <class T>
cudaError_t launch_mix_and_up_project(const MixAndUpProject<T>& p, int images, const Plan& plan, cudaStream_t stream) {
  const auto run = [&](auto function) { return function(p, images, plan, stream); };
  const bool large = plan.mix == MixTokens::kLarge, middle = plan.mix == MixTokens::kMiddle;
  if (p.normed) return run(large ? start<T, LargeTile<4>, true> : start<T, MiddleTile<4>, true>);
  if (p.channels > 64) return run(middle ? start<T, MiddleTile<8>> : start<T, SmallTile<8>>);
  return run(large ? start<T, LargeTile<4>> : middle ? start<T, MiddleTile<4>> : start<T, SmallTile<4>>);
}

template cudaError_t launch_mix_and_up_project(const MixAndUpProject<__half>&, int, const Plan&, cudaStream_t);
template cudaError_t launch_mix_and_up_project(const MixAndUpProject<__nv_bfloat16>&, int, const Plan&, cudaStream_t);

}  // namespace cuda
}  // namespace ht
