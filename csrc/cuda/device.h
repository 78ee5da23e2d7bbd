// What the plans need to know of a GPU.
#pragma once

namespace ht {
namespace cuda {

struct Device {
  int multiprocessors;
  int block_bytes;           // of shared memory that one block can have
  int multiprocessor_bytes;  // of shared memory that the blocks of a multiprocessor have together
  int reserved_bytes;        // of shared memory that CUDA takes for itself with each block
  int capability;            // 10 times the compute capability: 75, 80, 90

  // How many blocks that use `bytes` each a multiprocessor has room for.
  int resident(int bytes) const { return bytes > block_bytes ? 0 : multiprocessor_bytes / (bytes + reserved_bytes); }
};

}  // namespace cuda
}  // namespace ht
