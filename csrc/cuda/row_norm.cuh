// The LayerNorm, without gain and bias, of rows that the warps of a block write together.
//
// Reads the rows again, from L2, and writes as many bytes. A lane has 8 neighbouring columns of every stage of a row,
// and four lanes of each of kWarpsN warps have the row. Each lane reads what it has written itself.
#pragma once

#include "numbers.cuh"
#include "threads.cuh"

namespace ht {
namespace cuda {

// Sums over the columns of a row that a lane has. Squares are those of v - shift, where shift is the first column, so
// that a mean far from 0 does not cost their digits. Should the first column be far from all others, then the variance
// is as large as the square of this distance, and no digit that it has is lost.
struct Moments {
  float shift = 0, sum = 0, squares = 0;

  __device__ __forceinline__ void add(const float (&value)[kVector], bool first) {
    shift = first ? value[0] : shift;
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      const float d = value[j] - shift;
      sum += d, squares = fmaf(d, d, squares);
    }
  }
};

// Replaces the parts that lanes have of their kRows rows by their sums over a row. Row i of a lane is number
// first_row + 8 i of kTile. All threads of the block come here. memory (kWarpsN, kTile) is for this call alone.
template <int kWarpsN, int kTile, int kRows>
__device__ __forceinline__ void sum_over_row(float (&part)[kRows], int first_row, int warp_n, float* memory) {
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    part[i] += __shfl_xor_sync(0xffffffffu, part[i], 1);
    part[i] += __shfl_xor_sync(0xffffffffu, part[i], 2);
    if (lane() % 4 == 0) memory[warp_n * kTile + first_row + 8 * i] = part[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    part[i] = 0;
#pragma unroll
    for (int w = 0; w < kWarpsN; ++w) part[i] += memory[w * kTile + first_row + 8 * i];
  }
}

// Turns the moments of a lane's rows into factors of their LayerNorm, v scale + offset. `columns` is how many a lane
// has. memory (2, kWarpsN, kTile) may still be read by others, for all threads wait before they write it.
template <int kWarpsN, int kTile, int kRows>
__device__ __forceinline__ void norms_of(const Moments (&moments)[kRows], int columns, float inverse_dim, float eps,
                                         int first_row, int warp_n, float* memory, float (&scale)[kRows],
                                         float (&offset)[kRows]) {
  float (&mean)[kRows] = offset, (&variance)[kRows] = scale;
#pragma unroll
  for (int i = 0; i < kRows; ++i) mean[i] = fmaf(static_cast<float>(columns), moments[i].shift, moments[i].sum);
  __syncthreads();
  sum_over_row<kWarpsN, kTile>(mean, first_row, warp_n, memory);
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    mean[i] *= inverse_dim;
    const float away = moments[i].shift - mean[i];
    variance[i] = fmaf(away, fmaf(static_cast<float>(columns), away, 2 * moments[i].sum), moments[i].squares);
  }
  sum_over_row<kWarpsN, kTile>(variance, first_row, warp_n, memory + kWarpsN * kTile);
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    scale[i] = rsqrtf(fmaf(fmaxf(variance[i], 0), inverse_dim, eps));
    offset[i] = -mean[i] * scale[i];
  }
}

}  // namespace cuda
}  // namespace ht
