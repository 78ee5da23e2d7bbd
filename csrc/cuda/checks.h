// The checks that calls of the C interface share on the GPU.
#pragma once

#include <cuda_runtime.h>

#include "spectral_filter.cuh"
#include "status.h"

namespace ht {
namespace cuda {

inline ht_status check_dtype(ht_dtype dtype) {
  if (dtype == HT_FLOAT32 || dtype == HT_BFLOAT16 || dtype == HT_FLOAT16) return HT_OK;
  return fail(HT_INVALID_ARGUMENT, "dtype must be HT_FLOAT32, HT_BFLOAT16 or HT_FLOAT16");
}

// Checks a mask, and the size of the images that it filters.
inline ht_status check_mask(const float* mask, int64_t height, int64_t width) {
  if (height > kMaxSide || width > kMaxSide) {
    return fail(HT_INVALID_ARGUMENT, "the spectral filter takes grids of up to %dx%d, got %lldx%lld", kMaxSide,
                kMaxSide, (long long)height, (long long)width);
  }
  if (!mask || reinterpret_cast<uintptr_t>(mask) % sizeof(float2)) {
    return fail(HT_INVALID_ARGUMENT, "mask is NULL or not aligned to 8 bytes");
  }
  return HT_OK;
}

// Turns an error of CUDA into a status. It also clears the error that CUDA keeps, because the caller has it now, and a
// later check of something else must not find it.
inline ht_status check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return HT_OK;
  cudaGetLastError();
  return fail(HT_CUDA_ERROR, "%s: %s", what, cudaGetErrorString(error));
}

}  // namespace cuda
}  // namespace ht
