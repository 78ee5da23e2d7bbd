// How the work of a call is divided among blocks.
#pragma once

#include "ht_kernels.h"

namespace ht {
namespace cuda {

struct Device {
  int multiprocessors;
  int shared_bytes;  // that one block can have
};

enum class DownTokens { kNarrow, kMedium, kWide };

struct Plan {
  DownTokens down;   // tile of down_project
  bool held;         // whether its rows stay in registers
  int down_rows;     // tokens of that tile
  int down_tiles;    // per image
  int down_columns;  // channels of that tile
  int chunk;         // columns of u in shared memory at a time

  int mix_rows;    // tokens of a tile of mix_and_up_project, 16 or 32
  int mix_blocks;  // per image and slice
  int slices;      // of D
  int slice;       // columns in one
};

// Wide tiles read the weights least often; as few images make too few of them to keep the device busy, tiles get
// narrower, and then D is divided too.
Plan make_plan(const ht_adapter_shape& shape, ht_dtype dtype, const Device& device);

}  // namespace cuda
}  // namespace ht
