// How the work of a float32 call is divided among blocks.
#pragma once

#include "../device.h"
#include "ht_kernels.h"

namespace ht {
namespace cuda {
namespace float32 {

enum class DownTokens { kNarrow, kMedium, kWide };

struct Plan {
  DownTokens down;   // the tile of down_project
  bool held;         // whether the rows of x stay in registers while they are normalised
  int down_rows;     // tokens of the tile
  int down_tiles;    // tiles of tokens per image
  int down_columns;  // channels of the tile
  int chunk;         // columns of u that are in shared memory at a time
  int down_bytes;    // bytes of shared memory of a block of down_project

  int mix_rows;    // tokens of a tile of mix_and_up_project, 16 or 32
  int mix_blocks;  // blocks per image and slice
  int slices;      // parts that D is divided into
  int slice;       // columns in a slice
  int mix_bytes;   // bytes of shared memory of a block of mix_and_up_project
};

// Wide tiles read the weights least often. With few images there are too few wide tiles to keep the device busy, so the
// tiles get narrower, and then D is divided into slices too. Tiles also get narrower, or hold D in chunks, until a
// block fits.
Plan make_plan(const ht_adapter_shape& shape, const Device& device);

}  // namespace float32
}  // namespace cuda
}  // namespace ht
