// The memory that kernels on the CPU work in.
#pragma once

#include <memory>
#include <new>

// Memory of the calling thread, kept for the next call and grown where that needs more: to map and clear fresh pages
// would take as long as a small adapter.
inline void* workspace(std::size_t bytes) {
  struct Free {
    void operator()(void* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  thread_local std::unique_ptr<void, Free> memory;
  thread_local std::size_t size = 0;
  if (bytes > size) {
    memory.reset();
    size = 0;
    memory.reset(::operator new(bytes, std::align_val_t{64}));
    size = bytes;
  }
  return memory.get();
}
