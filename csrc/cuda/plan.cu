#include <algorithm>

#include "down_project.cuh"
#include "mix_and_up_project.cuh"
#include "plan.h"

namespace ht {
namespace cuda {

namespace {

// A tile is taken when its blocks are at least this part of the multiprocessors. Half of them with the large tile still
// take less time than all of them with a tile of half the size, which reads the weights twice as often.
constexpr double kFill = 0.75;

template <class Tile>
bool choose_down(DownTokens name, double fill, const ht_adapter_shape& s, int tokens, const Device& device,
                 Plan& plan) {
  const int tiles = ceil_div(tokens, Tile::kRows);
  const int parts = ceil_div(static_cast<int>(s.bottleneck), Tile::kChannels);
  if (!device.resident(Tile::kBytes) || s.batch * tiles * parts < fill * device.multiprocessors) return false;
  plan.down = name, plan.down_rows = Tile::kRows, plan.down_tiles = tiles;
  plan.down_channels = Tile::kChannels, plan.down_bytes = Tile::kBytes;
  return true;
}

template <class Tile>
bool choose_mix(MixTokens name, double fill, const ht_adapter_shape& s, const Device& device, Plan& plan) {
  const bool least = name == MixTokens::kSmall;  // there is no smaller tile to turn to
  const int channels = static_cast<int>(s.bottleneck), hidden = s.scales == 1 ? 0 : static_cast<int>(s.hidden);
  const GridTiles grid = cut_grid(static_cast<int>(s.grid_height), static_cast<int>(s.grid_width),
                                  static_cast<int>(s.prefix_tokens), Tile::kRows, Tile::kRun, Tile::kLines);
  const int64_t blocks = s.batch * grid.tiles;
  if (blocks < fill * device.multiprocessors) return false;

  const int dim = round_up(static_cast<int>(s.dim), kUpColumns);
  const int64_t wanted = std::max<int64_t>(1, device.multiprocessors / blocks);
  plan.slice = round_up(static_cast<int>((dim + wanted - 1) / wanted), kUpColumns);
  plan.slice = std::max(plan.slice, std::min(dim, 2 * kUpColumns));
  const auto fits = [&](int stages, bool early) {
    plan.stages = stages, plan.early = early;
    plan.layout = MixLayout::of(grid, channels, hidden, Tile::kRows, Tile::Rows::kRowBytes, plan.slice,
                                std::min(Tile::kStageRows, plan.slice), stages, early);
    return device.resident(plan.layout.bytes) > 0;
  };
  bool good = (plan.slice > Tile::kStageRows && fits(2, true)) || fits(1, true) || fits(1, false);
  for (; !good && least && plan.slice > 2 * kUpColumns; good = fits(1, false)) {
    plan.slice = round_up(plan.slice / 2, kUpColumns);
  }
  plan.slices = ceil_div(dim, plan.slice);
  plan.mix = name, plan.mix_rows = Tile::kRows, plan.grid = grid;
  // As many blocks as can be resident at once, each with the same number of tiles where that is possible.
  const int64_t resident = int64_t{std::max(1, std::min(Tile::kResident, device.resident(plan.layout.bytes)))};
  const int64_t per_block = (blocks + resident * device.multiprocessors - 1) / (resident * device.multiprocessors);
  plan.mix_blocks = static_cast<int>((grid.tiles + per_block - 1) / per_block);
  return good;
}

template <int kSteps>
void plan_mix(const ht_adapter_shape& s, const Device& device, Plan& plan) {
  if constexpr (kSteps <= 4) {  // wider bottlenecks would not fit its registers
    if (choose_mix<LargeTile<kSteps>>(MixTokens::kLarge, kFill, s, device, plan)) return;
  }
  if (choose_mix<MiddleTile<kSteps>>(MixTokens::kMiddle, kFill, s, device, plan)) return;
  choose_mix<SmallTile<kSteps>>(MixTokens::kSmall, 0, s, device, plan);
}

}  // namespace

Plan make_plan(const ht_adapter_shape& s, const Device& device) {
  Plan plan{};
  const int tokens = static_cast<int>(s.prefix_tokens + s.grid_height * s.grid_width);
  choose_down<WideTile>(DownTokens::kWide, kFill, s, tokens, device, plan) ||
      choose_down<MediumTile>(DownTokens::kMedium, kFill, s, tokens, device, plan) ||
      choose_down<ShortTile>(DownTokens::kShort, kFill, s, tokens, device, plan) ||
      choose_down<NarrowTile>(DownTokens::kNarrow, 0, s, tokens, device, plan);
  s.bottleneck <= 64 ? plan_mix<4>(s, device, plan) : plan_mix<8>(s, device, plan);
  plan.norm_beside = plan.slices == 1 && plan.mix != MixTokens::kSmall && s.bottleneck <= 64;
  return plan;
}

}  // namespace cuda
}  // namespace ht
