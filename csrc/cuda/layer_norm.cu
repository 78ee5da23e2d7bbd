// Starts layer_norm.

#include "stages.h"

namespace ht {
namespace cuda {

template <class T>
cudaError_t launch_layer_norm(const LayerNorm<T>& p, cudaStream_t stream) {
  return launch<&layer_norm<T>>(dim3(static_cast<unsigned>((p.rows + kWarps - 1) / kWarps)), 0, stream, p);
}

template cudaError_t launch_layer_norm(const LayerNorm<float>&, cudaStream_t);
template cudaError_t launch_layer_norm(const LayerNorm<__half>&, cudaStream_t);
template cudaError_t launch_layer_norm(const LayerNorm<__nv_bfloat16>&, cudaStream_t);

}  // namespace cuda
}  // namespace ht
