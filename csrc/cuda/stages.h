// The stages, started on a stream; each is compiled in its own file.
#pragma once

#include "down_project.cuh"
#include "mix_and_up_project.cuh"
#include "plan.h"
#include "spectral_filter.cuh"

namespace ht {
namespace cuda {

template <class T>
cudaError_t launch_down_project(const DownProject<T>& arguments, int images, const Plan& plan, bool tensor_cores,
                                cudaStream_t stream);

template <class T>
cudaError_t launch_mix_and_up_project(const MixAndUpProject<T>& arguments, int images, const Plan& plan,
                                      bool tensor_cores, cudaStream_t stream);

// Chooses the group.
template <class T>
cudaError_t launch_spectral_filter(SpectralFilter<T> arguments, int images, cudaStream_t stream);

}  // namespace cuda
}  // namespace ht
