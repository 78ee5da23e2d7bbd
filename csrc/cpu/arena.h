// The memory of a call, handed out piece by piece.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "simd.h"

namespace ht {
namespace HT_ISA {

// Hands out pieces of one block of memory, each aligned to a cache line. The caller provides the block; an arena over
// nullptr hands out nothing that may be used and counts the bytes that the block needs.
class Arena {
 public:
  explicit Arena(void* memory) : start_(reinterpret_cast<uintptr_t>(memory)), next_(start_) {}

  template <class T>
  T* take(i64 count) {
    T* p = reinterpret_cast<T*>(next_);
    next_ += static_cast<uintptr_t>(round_up(count * static_cast<i64>(sizeof(T)), 64));
    return p;
  }

  float* floats(i64 count) { return take<float>(count); }

  size_t used() const { return next_ - start_; }

 private:
  uintptr_t start_, next_;
};

}  // namespace HT_ISA
}  // namespace ht
