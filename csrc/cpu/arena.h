// The memory of a call.
#pragma once

#include <stddef.h>

#include "simd.h"

namespace ht {
namespace HT_ISA {

// Hands out memory aligned to cache lines; without memory it only counts.
class Arena {
 public:
  explicit Arena(void* memory) : start_(reinterpret_cast<uintptr_t>(memory)), next_(start_) {}

  float* floats(i64 count) {
    float* p = reinterpret_cast<float*>(next_);
    next_ += static_cast<uintptr_t>(round_up(count * static_cast<i64>(sizeof(float)), 64));
    return p;
  }

  size_t used() const { return next_ - start_; }

 private:
  uintptr_t start_, next_;
};

}  // namespace HT_ISA
}  // namespace ht
