// As much of CUDA as the kernels use, on a CPU: the kernels of csrc/cuda compile against this as plain C++, and their
// threads run one after the other, as fibers that switch where threads wait for each other. A missing barrier shows as
// a wrong result under one of the orders in which the fibers are run, an access out of bounds under AddressSanitizer.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct float2 {
  float x, y;
};
struct uint4 {
  uint32_t x, y, z, w;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
inline float2 make_float2(float x, float y) { return {x, y}; }

struct Index {
  int x = 0, y = 0, z = 0;
};
extern Index threadIdx, blockIdx;

// Wait for all threads of the block, or of the warp.
void __syncthreads();
void __syncwarp();
float __shfl_xor_sync(uint32_t mask, float value, int lane_mask);

inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline float __fdividef(float x, float y) { return x / y; }
inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float value) { return 1 / std::sqrt(value); }
inline void sincospif(float value, float* sine, float* cosine) {  // exact at quarter turns, as CUDA's
  const double quarter = std::nearbyint(2 * value), rest = 1.5707963267948966 * (2 * value - quarter);
  const double s = std::sin(rest), c = std::cos(rest);
  const double turned[] = {s, c, -s, -c};
  const int quarters = static_cast<int>(quarter) & 3;
  *sine = static_cast<float>(turned[quarters]), *cosine = static_cast<float>(turned[(quarters + 1) % 4]);
}
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

using cudaStream_t = struct Stream*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
  cudaDevAttrReservedSharedMemoryPerBlock,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaFuncAttributes {
  int ptxVersion;
};
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetLastError();
inline const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "invalid value"; }

// Sets what a block of the kernel may have of shared memory on the current device, 48 KB before.
cudaError_t set_shared_limit(const void* kernel, int bytes);
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  return set_shared_limit(reinterpret_cast<const void*>(kernel), bytes);
}

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel*);

// Runs body once for every thread of every block, with shared_bytes of shared memory, filled with NaN first; refuses
// when they are more than the kernel's limit. A kernel that starts early begins before the kernel in front has run.
cudaError_t emulate(const void* kernel, std::function<void()> body, dim3 grid, int threads, int shared_bytes,
                    bool early);
template <class Arguments, class Given>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* c, void (*kernel)(Arguments), const Given& a) {
  return emulate(
      reinterpret_cast<const void*>(kernel), [=] { kernel(a); }, c->gridDim, c->blockDim.x,
      static_cast<int>(c->dynamicSmemBytes), c->numAttrs > 0);
}
void* emulated_shared_memory();

// What a test can set: the device that is pretended, the order of the threads, whether launches are refused, what
// another thread of the host does before the next launch.
struct Emulated {
  int device = 0;
  int multiprocessors = 132;
  int block_bytes = 227 * 1024, multiprocessor_bytes = 228 * 1024, reserved_bytes = 1024;
  int capability = 90;
  bool last_thread_first = false;
  bool overlaps = false;  // a kernel runs as late as it may: with the one behind it, or by emulated_synchronize()
  bool refuses = false;
  std::function<void()> meanwhile;
};
extern Emulated emulated;
void emulated_synchronize();

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel*) {
  attributes->ptxVersion = emulated.capability;
  return cudaSuccess;
}
