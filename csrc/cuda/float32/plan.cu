#include <algorithm>

#include "down_project.cuh"
#include "mix_and_up_project.cuh"
#include "plan.h"

namespace ht {
namespace cuda {
namespace float32 {

namespace {

struct DownChoice {
  DownTokens tile;
  bool held;
  double fill;  // the tile is chosen when there are at least this many blocks per multiprocessor
  int rows, columns;
  int (*bytes)(int chunk, bool held);
};

template <class Tile>
constexpr DownChoice choice(DownTokens tile, bool held, double fill) {
  return {tile, held, fill, Tile::kRows, Tile::kColumns, &Tile::bytes};
}

void plan_down_project(const ht_adapter_shape& s, int tokens, const Device& device, Plan& plan) {
  // In the order of what they read from memory and L2, least first.
  const DownChoice choices[] = {
      choice<WideTile>(DownTokens::kWide, true, 1.5), choice<MediumTile>(DownTokens::kMedium, true, 1),
      choice<MediumTile>(DownTokens::kMedium, false, 1), choice<NarrowTile>(DownTokens::kNarrow, true, 0),
      choice<NarrowTile>(DownTokens::kNarrow, false, 0)};
  for (const DownChoice& c : choices) {
    if (c.held && s.dim > kHeldColumns) continue;
    const int tiles = (tokens + c.rows - 1) / c.rows;
    const int64_t blocks = s.batch * tiles * ((s.bottleneck + c.columns - 1) / c.columns);
    int chunk = round_up(static_cast<int>(s.dim), kDepth);
    while (!c.held && chunk > kDepth && !device.resident(c.bytes(chunk, c.held))) chunk = round_up(chunk / 2, kDepth);
    if (blocks < c.fill * device.multiprocessors || !device.resident(c.bytes(chunk, c.held))) continue;
    plan.down = c.tile, plan.held = c.held, plan.down_rows = c.rows, plan.down_columns = c.columns;
    plan.down_tiles = tiles, plan.chunk = chunk, plan.down_bytes = c.bytes(chunk, c.held);
    return;
  }
}

void plan_mix_and_up_project(const ht_adapter_shape& s, int tokens, const Device& device, Plan& plan) {
  const int channels = static_cast<int>(s.bottleneck), hidden = s.scales == 1 ? 0 : static_cast<int>(s.hidden);
  const auto bytes = [&](int rows) { return MixLayout::of(channels, hidden, rows).bytes; };
  const int64_t dim = round_up(static_cast<int>(s.dim), kUpColumns);
  const bool fills = (tokens + 31) / 32 * s.batch >= device.multiprocessors;
  plan.mix_rows = fills && device.resident(bytes(32)) ? 32 : 16;
  const int tiles = (tokens + plan.mix_rows - 1) / plan.mix_rows;
  const int64_t per_block = (tiles * s.batch + 2 * device.multiprocessors - 1) / (2 * device.multiprocessors);
  plan.mix_blocks = static_cast<int>((tiles + per_block - 1) / per_block);
  const int64_t wanted = (device.multiprocessors + tiles * s.batch - 1) / (tiles * s.batch);
  plan.slices = static_cast<int>(std::max<int64_t>(1, std::min(wanted, dim / (kUpColumns * kWarps / 2))));
  plan.slice = round_up(static_cast<int>((dim + plan.slices - 1) / plan.slices), kUpColumns);
  plan.slices = static_cast<int>((dim + plan.slice - 1) / plan.slice);
  plan.mix_bytes = bytes(plan.mix_rows);
}

}  // namespace

Plan make_plan(const ht_adapter_shape& s, const Device& device) {
  Plan plan{};
  const int tokens = static_cast<int>(s.prefix_tokens + s.grid_height * s.grid_width);
  plan_down_project(s, tokens, device, plan);
  plan_mix_and_up_project(s, tokens, device, plan);
  return plan;
}

}  // namespace float32
}  // namespace cuda
}  // namespace ht
