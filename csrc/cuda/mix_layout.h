// Where a block of mix_and_up_project keeps what in shared memory.
#pragma once

#include "grid_tiles.h"

namespace ht {
namespace cuda {

constexpr int kBiasBytes = 8;  // of up_bias for a column: a pair of columns lies there twice, for two rows of a lane

// In bytes from the start. A row of `row_bytes` holds the channels of a patch or a token, or one row of a weight.
struct MixLayout {
  int kernel, bias, up_bias, token, scratch, y, g, halo, mix, ring, bytes;

  static MixLayout of(const GridTiles& grid, int channels, int hidden, int rows, int row_bytes, int slice,
                      int stage_rows, int stages, bool early) {
    const auto aligned = [](int bytes) { return (bytes + 127) / 128 * 128; };
    MixLayout l{};
    l.bias = l.kernel + 2 * kTaps * row_bytes;
    l.up_bias = l.bias + 4 * channels;
    l.token = l.up_bias + kBiasBytes * slice;
    l.scratch = l.token + 4 * rows;
    l.y = aligned(l.scratch + 4 * (channels + hidden + 4));
    l.g = l.y + rows * row_bytes;
    l.halo = l.g + rows * row_bytes;
    const int behind_halo = aligned(l.halo + grid.halo() * row_bytes);
    l.mix = early ? behind_halo : l.halo;
    l.ring = l.mix + channels * row_bytes;
    const int end = l.ring + stages * stage_rows * row_bytes;
    l.bytes = end > behind_halo ? end : behind_halo;
    return l;
  }
};

}  // namespace cuda
}  // namespace ht
