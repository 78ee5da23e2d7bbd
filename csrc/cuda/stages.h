// The functions that start the stages in 16-bit types, the spectral filter and the LayerNorm on a stream. Each stage is
// compiled in its own file, so that compilers can work on several at once.
#pragma once

#include "down_project.cuh"
#include "layer_norm.cuh"
#include "mix_and_up_project.cuh"
#include "plan.h"
#include "prepare.cuh"
#include "spectral_filter.cuh"

namespace ht {
namespace cuda {

template <class T>
cudaError_t launch_prepare(const Prepare<T>& arguments, cudaStream_t stream);

template <class T>
cudaError_t launch_down_project(const DownProject<T>& arguments, int images, const Plan& plan, cudaStream_t stream);

template <class T>
cudaError_t launch_mix_and_up_project(const MixAndUpProject<T>& arguments, int images, const Plan& plan,
                                      cudaStream_t stream);

template <class T>
cudaError_t launch_layer_norm(const LayerNorm<T>& arguments, cudaStream_t stream);

// Sets arguments.group itself.
template <class T>
cudaError_t launch_spectral_filter(SpectralFilter<T> arguments, int images, cudaStream_t stream);

}  // namespace cuda
}  // namespace ht
