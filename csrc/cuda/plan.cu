#include <algorithm>

#include "down_project.cuh"
#include "plan.h"

namespace ht {
namespace cuda {

namespace {

struct DownChoice {
  DownTokens tile;
  int rows, columns;
  int (*bytes)(int chunk, bool held);
  double fill;  // blocks per multiprocessor that make it worth while
};

template <class Tile, class T>
constexpr DownChoice choice(DownTokens tile, double fill) {
  return {tile, Tile::kRows, Tile::kColumns, &Tile::template bytes<T>, fill};
}

template <class T>
void plan_down_project(const ht_adapter_shape& s, int tokens, const Device& device, Plan& plan) {
  const DownChoice choices[] = {choice<WideTile, T>(DownTokens::kWide, 1.5),
                                choice<MediumTile, T>(DownTokens::kMedium, 1),
                                choice<NarrowTile, T>(DownTokens::kNarrow, 0)};
  const int dim = round_up(static_cast<int>(s.dim), kDepth);
  for (const bool held : {true, false}) {
    if (held && s.dim > kHeldColumns) continue;
    for (const DownChoice& c : choices) {
      if (!held && c.tile == DownTokens::kWide) continue;
      const int tiles = (tokens + c.rows - 1) / c.rows;
      const int64_t blocks = s.batch * tiles * ((s.bottleneck + c.columns - 1) / c.columns);
      int chunk = dim;
      while (!held && chunk > kDepth && c.bytes(chunk, held) > device.shared_bytes / 2) {
        chunk = round_up(chunk / 2, kDepth);
      }
      if (blocks < c.fill * device.multiprocessors || c.bytes(chunk, held) > device.shared_bytes) continue;
      plan.down = c.tile, plan.held = held, plan.down_rows = c.rows, plan.down_columns = c.columns;
      plan.down_tiles = tiles, plan.chunk = chunk;
      return;
    }
  }
}

}  // namespace

Plan make_plan(const ht_adapter_shape& s, ht_dtype dtype, const Device& device) {
  Plan plan{};
  const int tokens = static_cast<int>(s.prefix_tokens + s.grid_height * s.grid_width);
  if (dtype == HT_FLOAT32) {
    plan_down_project<float>(s, tokens, device, plan);
  } else {
    plan_down_project<__half>(s, tokens, device, plan);
  }

  const int64_t dim = round_up(static_cast<int>(s.dim), kUpColumns);
  int tiles = (tokens + 31) / 32;
  if (tiles * s.batch >= device.multiprocessors) {
    const int64_t per_block = (tiles * s.batch + 2 * device.multiprocessors - 1) / (2 * device.multiprocessors);
    plan.mix_rows = 32;
    plan.mix_blocks = static_cast<int>((tiles + per_block - 1) / per_block);
    plan.slices = 1;
  } else {
    tiles = (tokens + 15) / 16;
    plan.mix_rows = 16;
    plan.mix_blocks = tiles;
    const int64_t wanted = (device.multiprocessors + tiles * s.batch - 1) / (tiles * s.batch);
    plan.slices = static_cast<int>(std::max<int64_t>(1, std::min(wanted, dim / (kUpColumns * kWarps / 2))));
  }
  plan.slice = round_up(static_cast<int>((dim + plan.slices - 1) / plan.slices), kUpColumns);
  plan.slices = static_cast<int>((dim + plan.slice - 1) / plan.slice);
  return plan;
}

}  // namespace cuda
}  // namespace ht
