// Starts down_project, in the tile that the plan names.

#include "stages.h"

namespace ht {
namespace cuda {

template <class T>
cudaError_t launch_down_project(const DownProject<T>& p, int images, const Plan& plan, cudaStream_t stream) {
  const dim3 grid(images * plan.down_tiles * p.parts);
  const auto run = [&](auto tile) {
    return launch<&down_project<T, decltype(tile)>>(grid, plan.down_bytes, stream, p);
  };
  switch (plan.down) {
    case DownTokens::kWide:
      return run(WideTile{});
    case DownTokens::kMedium:
      return run(MediumTile{});
    case DownTokens::kShort:
      return run(ShortTile{});
    default:
      return run(NarrowTile{});
  }
}

template cudaError_t launch_down_project(const DownProject<__half>&, int, const Plan&, cudaStream_t);
template cudaError_t launch_down_project(const DownProject<__nv_bfloat16>&, int, const Plan&, cudaStream_t);

}  // namespace cuda
}  // namespace ht
