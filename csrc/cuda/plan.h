// How the work of a call is divided among blocks.
#pragma once

#include "ht_kernels.h"

namespace ht {
namespace cuda {

struct Device {
  int multiprocessors;
  int block_bytes;           // of shared memory that one block can have
  int multiprocessor_bytes;  // that the blocks of a multiprocessor have together
  int reserved_bytes;        // of those, what CUDA takes for each block

  // Blocks of so many bytes that a multiprocessor has room for.
  int resident(int bytes) const { return bytes > block_bytes ? 0 : multiprocessor_bytes / (bytes + reserved_bytes); }
};

enum class DownTokens { kNarrow, kMedium, kWide };

struct Plan {
  DownTokens down;   // tile of down_project
  bool held;         // whether its rows stay in registers
  int down_rows;     // tokens of that tile
  int down_tiles;    // per image
  int down_columns;  // channels of that tile
  int chunk;         // columns of u in shared memory at a time
  int down_bytes;    // of shared memory

  int mix_rows;    // tokens of a tile of mix_and_up_project, 16 or 32
  int mix_blocks;  // per image and slice
  int slices;      // of D
  int slice;       // columns in one
  int mix_bytes;   // of shared memory
};

// Wide tiles read the weights least often. As few images make too few of them to keep the device busy, tiles get
// narrower, and then D is divided too. They also get narrower, or have D in chunks, until a multiprocessor has room for
// as many blocks as its registers allow: while one block waits for memory, another multiplies.
Plan make_plan(const ht_adapter_shape& shape, ht_dtype dtype, const Device& device);

}  // namespace cuda
}  // namespace ht
