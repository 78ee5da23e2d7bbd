// The clock of StageClock. It is here because a standard header's inline functions must not be compiled for an
// instruction set that the machine may lack.

#include <chrono>

namespace ht {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace ht
