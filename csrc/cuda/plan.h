// How the work of a call in 16-bit types is divided among blocks.
#pragma once

#include "device.h"
#include "grid_tiles.h"
#include "ht_kernels.h"
#include "mix_layout.h"

namespace ht {
namespace cuda {

enum class DownTokens { kNarrow, kShort, kMedium, kWide };
enum class MixTokens { kSmall, kMiddle, kLarge };

struct Plan {
  DownTokens down;    // the tile of down_project
  int down_rows;      // tokens of the tile
  int down_tiles;     // tiles of tokens per image
  int down_channels;  // channels of the tile
  int down_bytes;     // bytes of shared memory of a block

  MixTokens mix;     // the tile of mix_and_up_project
  int mix_rows;      // tokens of the tile
  GridTiles grid;    // tiles of an image
  int mix_blocks;    // blocks per image and slice
  int slices;        // parts that D is divided into
  int slice;         // columns in a slice
  int stages;        // of the ring of up_weight's rows
  bool early;        // whether the weights have room of their own
  bool norm_beside;  // whether a block has whole rows, and registers for their norm
  MixLayout layout;  // its bytes are above those of the device when the adapter does not fit it
};

// Large tiles read the weights least often. They are taken when they fill the device; with few images the tiles get
// smaller, and then D is divided into slices too. Where shared memory is short the ring has one stage, then the weights
// take the room of the halo, then tiles get smaller.
Plan make_plan(const ht_adapter_shape& shape, const Device& device);

}  // namespace cuda
}  // namespace ht
