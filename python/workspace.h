// Workspaces of the CPU kernels.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

struct FreeMemory {
  void operator()(void* p) const { ::operator delete(p, std::align_val_t{64}); }
};
using Memory = std::unique_ptr<void, FreeMemory>;

inline Memory new_memory(std::size_t bytes) { return Memory(::operator new(bytes, std::align_val_t{64})); }

// Returns the workspace of the calling thread, with at least `bytes` bytes. It is kept for later calls, because mapping
// and clearing fresh pages would take as long as a small adapter.
inline void* workspace(std::size_t bytes) {
  thread_local Memory memory;
  thread_local std::size_t size = 0;
  if (bytes > size) {
    memory.reset();
    size = 0;
    memory = new_memory(bytes);
    size = bytes;
  }
  return memory.get();
}
