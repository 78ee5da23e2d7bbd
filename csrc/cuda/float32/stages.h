// The functions that start the float32 kernels on a stream.
#pragma once

#include "down_project.cuh"
#include "mix_and_up_project.cuh"
#include "plan.h"

namespace ht {
namespace cuda {
namespace float32 {

cudaError_t launch_down_project(const DownProject& arguments, int images, const Plan& plan, bool tensor_cores,
                                cudaStream_t stream);

cudaError_t launch_mix_and_up_project(const MixAndUpProject& arguments, int images, const Plan& plan, bool tensor_cores,
                                      cudaStream_t stream);

}  // namespace float32
}  // namespace cuda
}  // namespace ht
