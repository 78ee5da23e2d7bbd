// The kernels for the CPU are compiled for one instruction set: the other tables are copies of the baseline's.

#include "cpu/kernels.h"

namespace ht {
const Kernels kernels_avx2 = kernels_baseline;
const Kernels kernels_avx2_bf16 = kernels_baseline;
const Kernels kernels_avx512 = kernels_baseline;
const Kernels kernels_avx512_bf16 = kernels_baseline;
}  // namespace ht
