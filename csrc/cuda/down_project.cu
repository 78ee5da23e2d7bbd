// Starts down_project, in the tile that the plan names.

#include "stages.h"

namespace ht {
namespace cuda {

namespace {

template <class T, bool kTensorCores>
cudaError_t start(const DownProject<T>& p, int images, const Plan& plan, cudaStream_t stream) {
  const dim3 grid(images * plan.down_tiles * p.parts);
  const auto run = [&](auto tile, auto held) {
    using Tile = decltype(tile);
    constexpr int kHeld = decltype(held)::value;
    return launch<&down_project<T, kTensorCores, Tile, kHeld>>(grid, plan.down_bytes, stream, p);
  };
  using Held = std::integral_constant<int, kHeldVectors>;
  using Read = std::integral_constant<int, 0>;
  if (!plan.held) return plan.down == DownTokens::kMedium ? run(MediumTile{}, Read{}) : run(NarrowTile{}, Read{});
  if (plan.down == DownTokens::kWide) return run(WideTile{}, Held{});
  return plan.down == DownTokens::kMedium ? run(MediumTile{}, Held{}) : run(NarrowTile{}, Held{});
}

}  // namespace

template <class T>
cudaError_t launch_down_project(const DownProject<T>& p, int images, const Plan& plan, bool tensor_cores,
                                cudaStream_t stream) {
  return tensor_cores ? start<T, true>(p, images, plan, stream) : start<T, false>(p, images, plan, stream);
}

template cudaError_t launch_down_project(const DownProject<float>&, int, const Plan&, bool, cudaStream_t);

// 16-bit types always use tensor cores, which multiply them exactly. Only float32 has a choice, because tensor cores
// round it to TF32.
template <>
cudaError_t launch_down_project(const DownProject<__half>& p, int images, const Plan& plan, bool, cudaStream_t stream) {
  return start<__half, true>(p, images, plan, stream);
}

template <>
cudaError_t launch_down_project(const DownProject<__nv_bfloat16>& p, int images, const Plan& plan, bool,
                                cudaStream_t stream) {
  return start<__nv_bfloat16, true>(p, images, plan, stream);
}

}  // namespace cuda
}  // namespace ht
