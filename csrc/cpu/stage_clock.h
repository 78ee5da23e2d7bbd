// The seconds that a thread spends in each stage of a call, for those who ask for them.
//
// A lap is a branch for a call that is not timed and a look at the clock, some 50 ns, for one that is. Laps are at most
// four a strip of tokens, which takes a thousand times as long.
#pragma once

#include "ht_kernels.h"
#include "simd.h"

namespace ht {

// Seconds of a clock that never goes back. Compiled once, for the instructions that every machine has.
double seconds_now();

namespace HT_ISA {

class StageClock {
 public:
  // `seconds` (threads, HT_STAGES), to which the stages of the thread `rank` are added; nullptr to measure nothing.
  StageClock(double* seconds, int rank)
      : stages_(seconds ? seconds + rank * HT_STAGES : nullptr), last_(seconds ? seconds_now() : 0) {}

  // All since the last lap, or since the clock was made, was `stage`.
  HT_INLINE void lap(ht_stage stage) {
    if (__builtin_expect(!stages_, 1)) return;
    const double now = seconds_now();
    stages_[stage] += now - last_;
    last_ = now;
  }

 private:
  double* stages_;
  double last_;
};

}  // namespace HT_ISA
}  // namespace ht
