// Programmatic dependent launch (9.0 and later): the blocks of a kernel may start before the kernel in front of it has
// ended, so that they can fetch weights. A launch asks for it (launch() in launch.cuh).
#pragma once

#include <cuda_runtime.h>

namespace ht {
namespace cuda {

#if defined(__CUDACC__)
// Lets the next kernel's blocks start once all blocks of this kernel have come here or have ended.
__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Waits until the kernel in front has ended and its writes can be read. Every block must come here, because a kernel
// behind this one takes its end as the end of both.
__device__ __forceinline__ void wait_for_kernel_in_front() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
#else
void let_next_kernel_start();
void wait_for_kernel_in_front();
#endif

}  // namespace cuda
}  // namespace ht
