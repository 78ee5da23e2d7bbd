// A matrix product by one warp: 16 kM rows of A in shared memory by 8 kN rows of B in global memory. Both have k
// contiguous. The warp takes kDepth values of k at a time and sums in float32.
#pragma once

#include "../mma.cuh"
#include "../threads.cuh"

namespace ht {
namespace cuda {
namespace float32 {

constexpr int kDepth = 32;      // values of k in one step
constexpr int kUpColumns = 32;  // columns of D that a warp of up_project computes at a time

// Elements from one row of A to the next. Eight lanes read 16 bytes each, from two or more rows, in one access; with
// this stride they read from different banks.
__host__ __device__ constexpr int shared_stride(int columns) { return round_up(columns, 32) + 4; }

// A row-major matrix in global memory. `columns` is a multiple of kVector. What lies outside reads as zero.
struct Matrix {
  const float* data;
  int rows, columns;

  __device__ Pack<float> at(int row, int column) const {
    if (row < rows && column < columns) return load(data + static_cast<int64_t>(row) * columns + column);
    return Pack<float>{};
  }
};

// The row of B that an instruction takes as column i of its column tile n. InOrder leaves a lane with columns 2t and
// 2t + 1 of each tile. Spread deals 32 columns out to four tiles so that a lane ends with columns 8t .. 8t+7, which it
// can store as one vector.
struct InOrder {
  __device__ static int column(int n, int i) { return 8 * n + i; }
};
struct Spread {
  __device__ static int column(int n, int i) { return 8 * (i / 2) + 2 * n + i % 2; }
};

template <bool kTensorCores, int kM, int kN, class Order>
struct WarpProduct {
  static constexpr bool kMma = kTensorCores && kHasTensorCores<float>;

  // The values of B for one step of kDepth. A caller that fetches them early does not wait for memory when it
  // multiplies.
  struct Operand {
    Pack<float> pack[kMma ? kN : 1];
    int k;
  };

  // The sums of this lane: acc[m][n] has columns column(n, 2t) and column(n, 2t + 1) of row 16m + g, then of row
  // 16m + g + 8.
  float acc[kM][kN][4];

  // Sets the sums to zero. A caller does so as late as it can, because the sums take most of a lane's registers.
  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kM * kN * 4; ++i) acc[i / (kN * 4)][i / 4 % kN][i % 4] = 0;
  }

  __device__ static Operand fetch(const Matrix& b, int first_column, int k) {
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

  // Adds one step. `a` points to the first of this warp's rows of A, at the first k of the step.
  __device__ void add(const float* a, int stride, const Matrix& b, int first_column, const Operand& operand) {
    if constexpr (kMma) {
      a += lane() / 4 * stride + kVector * (lane() % 4);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const Pack<float> lower = load(a + 16 * m * stride), upper = load(a + (16 * m + 8) * stride);
#pragma unroll
        for (int n = 0; n < kN; ++n) mma(acc[m][n], lower, upper, operand.pack[n]);
      }
    } else {
      a += lane() / 4 * stride;
      for (int k = 0; k < kDepth; k += kVector) add_plain(a + k, stride, b, first_column, operand.k + k);
    }
  }

 private:
  __device__ void add_plain(const float* a, int stride, const Matrix& b, int first_column, int k) {
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

}  // namespace float32
}  // namespace cuda
}  // namespace ht
