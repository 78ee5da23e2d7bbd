// From logits on a grid (B, K, h, w) to the class of each pixel of a larger image (B, H, W): bilinear upsampling
// (align_corners=False) and the largest logit, without K H W numbers in between.
//
// Reads the grid once, 4 BKhw bytes, and from then on out of the caches, and writes BHW bytes. A frame is small, so the
// tile is small too: a thread makes kPixels neighbours of a row and stores them at once. Neighbours mostly lie between
// the same columns of the grid, whose logits are then in registers already.

#include "checks.h"
#include "launch.cuh"

namespace ht {
namespace cuda {

namespace {

constexpr int kPixels = 4;

struct GridToMask {
  const float* logits;
  uint8_t* mask;
  int classes, grid_height, grid_width, height, width;
  int64_t groups;  // of kPixels pixels in all masks; the last group of a row may have fewer
  int groups_of_a_row;
  bool aligned;  // whether every group of a row is whole and starts at a multiple of its size
};

// Where a pixel lies along one side: between `cell` and the next, `weight` of the way; at the last cell it is at it.
struct Place {
  int cell;
  float weight;
};

__device__ __forceinline__ Place place(int pixel, int pixels, int cells) {
  const float scale = static_cast<float>(cells) / static_cast<float>(pixels);
  const float at = (static_cast<float>(pixel) + 0.5f) * scale - 0.5f;
  const int cell = min(at > 0 ? static_cast<int>(at) : 0, cells - 1);
  return {cell, at > 0 && cell < cells - 1 ? at - static_cast<float>(cell) : 0.0f};
}

__global__ void __launch_bounds__(kThreads) grid_to_mask(const GridToMask p) {
  const int64_t group = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (group >= p.groups) return;
  const int64_t row = group / p.groups_of_a_row, image = row / p.height;
  const int first = static_cast<int>(group % p.groups_of_a_row) * kPixels;
  const int64_t plane = static_cast<int64_t>(p.grid_height) * p.grid_width;
  const Place y = place(static_cast<int>(row % p.height), p.height, p.grid_height);
  Place x[kPixels];
#pragma unroll
  for (int i = 0; i < kPixels; ++i) x[i] = place(min(first + i, p.width - 1), p.width, p.grid_width);

  const float* upper = p.logits + image * p.classes * plane + static_cast<int64_t>(y.cell) * p.grid_width;
  const float* lower = upper + (y.cell + 1 < p.grid_height ? p.grid_width : 0);
  float best[kPixels] = {};
  uint32_t classes[kPixels] = {};
  for (int k = 0; k < p.classes; ++k, upper += plane, lower += plane) {
    const auto column = [&](int j) { return fmaf(y.weight, lower[j] - upper[j], upper[j]); };
    float left = 0, right = 0;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      if (i == 0 || x[i].cell != x[i - 1].cell) {
        left = column(x[i].cell);
        right = column(min(x[i].cell + 1, p.grid_width - 1));
      }
      const float value = fmaf(x[i].weight, right - left, left);
      // A single logit is compared with 0, which is class 0.
      const bool starts = k == 0 && p.classes > 1;
      if (starts || value > best[i]) {
        best[i] = value;
        classes[i] = p.classes > 1 ? k : 1;
      }
    }
  }

  uint8_t* out = p.mask + row * p.width + first;
  if (p.aligned) {
    uint32_t together = 0;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) together |= classes[i] << (8 * i);
    *reinterpret_cast<uint32_t*>(out) = together;
  } else {
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      if (first + i < p.width) out[i] = static_cast<uint8_t>(classes[i]);
    }
  }
}

}  // namespace

}  // namespace cuda
}  // namespace ht

extern "C" ht_status ht_grid_to_mask_cuda(const ht_mask_shape* shape, const float* logits, uint8_t* mask,
                                          void* stream) {
  using namespace ht::cuda;
  const ht_status status = ht::check_mask_shape(shape);
  if (status != HT_OK || shape->batch == 0) return status;
  if (!logits || !mask) return ht::fail(HT_INVALID_ARGUMENT, "logits and mask must not be NULL");
  GridToMask p{};
  p.logits = logits, p.mask = mask;
  p.classes = static_cast<int>(shape->classes);
  p.grid_height = static_cast<int>(shape->grid_height), p.grid_width = static_cast<int>(shape->grid_width);
  p.height = static_cast<int>(shape->height), p.width = static_cast<int>(shape->width);
  p.groups_of_a_row = (p.width + kPixels - 1) / kPixels;
  p.groups = shape->batch * shape->height * p.groups_of_a_row;
  p.aligned = p.width % kPixels == 0 && reinterpret_cast<uintptr_t>(mask) % kPixels == 0;
  const int64_t blocks = (p.groups + kThreads - 1) / kThreads;
  if (blocks > 0x7fffffff) return ht::fail(HT_INVALID_ARGUMENT, "the masks have too many pixels for one kernel");
  const cudaError_t error =
      launch<&grid_to_mask>(dim3(static_cast<unsigned>(blocks)), 0, static_cast<cudaStream_t>(stream), p);
  return check(error, "grid_to_mask did not start");
}
