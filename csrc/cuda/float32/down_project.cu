// Starts the float32 kernel down_project, in the tile that the plan names.

#include "stages.h"

namespace ht {
namespace cuda {
namespace float32 {

namespace {

template <bool kTensorCores>
cudaError_t start(const DownProject& p, int images, const Plan& plan, cudaStream_t stream) {
  const dim3 grid(images * plan.down_tiles * p.parts);
  const auto run = [&](auto tile, auto held) {
    using Tile = decltype(tile);
    constexpr int kHeld = decltype(held)::value;
    return launch<&down_project<kTensorCores, Tile, kHeld>>(grid, plan.down_bytes, stream, p);
  };
  using Held = std::integral_constant<int, kHeldVectors>;
  using Read = std::integral_constant<int, 0>;
  if (!plan.held) return plan.down == DownTokens::kMedium ? run(MediumTile{}, Read{}) : run(NarrowTile{}, Read{});
  if (plan.down == DownTokens::kWide) return run(WideTile{}, Held{});
  return plan.down == DownTokens::kMedium ? run(MediumTile{}, Held{}) : run(NarrowTile{}, Held{});
}

}  // namespace

cudaError_t launch_down_project(const DownProject& p, int images, const Plan& plan, bool tensor_cores,
                                cudaStream_t stream) {
  return tensor_cores ? start<true>(p, images, plan, stream) : start<false>(p, images, plan, stream);
}

}  // namespace float32
}  // namespace cuda
}  // namespace ht
