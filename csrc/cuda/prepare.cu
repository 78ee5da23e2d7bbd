// Starts prepare.

#include "stages.h"

namespace ht {
namespace cuda {

template <class T>
cudaError_t launch_prepare(const Prepare<T>& p, cudaStream_t stream) {
  return launch<&prepare<T>>(dim3(p.channels), 0, stream, p);
}

template cudaError_t launch_prepare(const Prepare<__half>&, cudaStream_t);
template cudaError_t launch_prepare(const Prepare<__nv_bfloat16>&, cudaStream_t);

}  // namespace cuda
}  // namespace ht
