// A matrix product by one warp: 16 kM rows of A in shared memory by 8 kN rows of B in global memory, both with k
// contiguous, 32 values of k at a time, summed in float32.
#pragma once

#include "mma.cuh"

namespace ht {
namespace cuda {

constexpr int kDepth = 32;      // values of k in one step
constexpr int kUpColumns = 32;  // columns of D that a warp has at a time
constexpr int kLanes = 32;

__device__ __forceinline__ int lane() { return threadIdx.x % kLanes; }
__device__ __forceinline__ int warp() { return threadIdx.x / kLanes; }

__host__ __device__ constexpr int round_up(int value, int step) { return (value + step - 1) / step * step; }

// Elements from one row of A to the next, so that eight lanes reading 16 bytes each of two or more rows meet all banks.
template <class T>
__host__ __device__ constexpr int shared_stride(int columns) {
  return round_up(columns, 128 / sizeof(T)) + (sizeof(T) == 2 ? 64 : 16) / static_cast<int>(sizeof(T));
}

// Blocks that a multiprocessor should have room for: with 16-bit fragments registers are kept to 128 a thread. Those of
// float32 are twice as long, and so are sums without tensor cores.
template <class T>
constexpr int kResident = sizeof(T) == 2 && kHasTensorCores<T> ? 2 : 1;

// Row-major, in global memory; columns is a multiple of kVector and what lies outside reads as zero.
template <class T>
struct Matrix {
  const T* data;
  int rows, columns;

  __device__ Pack<T> at(int row, int column) const {
    if (row < rows && column < columns) return load(data + static_cast<int64_t>(row) * columns + column);
    return Pack<T>{};
  }
};

// Which row of B is column i of an instruction's column tile n. In order, a lane ends with columns 2t and 2t + 1 of
// each tile. Spread over four tiles, it ends with columns 8t .. 8t+7 of 32: 16 bytes to store.
struct InOrder {
  __device__ static int column(int n, int i) { return 8 * n + i; }
};
struct Spread {
  __device__ static int column(int n, int i) { return 8 * (i / 2) + 2 * n + i % 2; }
};

template <class T, bool kTensorCores, int kM, int kN, class Order>
struct WarpProduct {
  static constexpr bool kMma = kTensorCores && kHasTensorCores<T>;

  // B for one step. Fetched before it is needed, its way from memory costs no time.
  struct Operand {
    Pack<T> pack[kMma ? kN : 1];
    int k;
  };

  // Of row 16m + g (and 16m + g + 8), columns column(n, 2t) and column(n, 2t + 1).
  float acc[kM][kN][4];

  // Called as late as can be: sums are most of a lane's registers.
  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kM * kN * 4; ++i) acc[i / (kN * 4)][i / 4 % kN][i % 4] = 0;
  }

  __device__ static Operand fetch(const Matrix<T>& b, int first_column, int k) {
    Operand operand;
    operand.k = k;
    if constexpr (kMma) {
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        operand.pack[n] = b.at(first_column + Order::column(n, lane() / 4), k + kVector * (lane() % 4));
      }
    }
    return operand;
  }

  // a: row 0 of this warp's rows at this step's first k.
  __device__ void add(const T* a, int stride, const Matrix<T>& b, int first_column, const Operand& operand) {
    if constexpr (kMma) {
      a += lane() / 4 * stride + kVector * (lane() % 4);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const Pack<T> lower = load(a + 16 * m * stride), upper = load(a + (16 * m + 8) * stride);
#pragma unroll
        for (int n = 0; n < kN; ++n) mma(acc[m][n], lower, upper, operand.pack[n]);
      }
    } else {
      a += lane() / 4 * stride;
      for (int k = 0; k < kDepth; k += kVector) add_plain(a + k, stride, b, first_column, operand.k + k);
    }
  }

 private:
  __device__ void add_plain(const T* a, int stride, const Matrix<T>& b, int first_column, int k) {
    float rows[2 * kM][kVector];
#pragma unroll
    for (int m = 0; m < 2 * kM; ++m) load(a + 8 * m * stride).widen(rows[m]);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float column[kVector];
        b.at(first_column + Order::column(n, 2 * (lane() % 4) + j), k).widen(column);
#pragma unroll
        for (int m = 0; m < 2 * kM; ++m) {
          float& sum = acc[m / 2][n][m % 2 * 2 + j];
#pragma unroll
          for (int i = 0; i < kVector; ++i) sum = fmaf(rows[m][i], column[i], sum);
        }
      }
    }
  }
};

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

}  // namespace cuda
}  // namespace ht
