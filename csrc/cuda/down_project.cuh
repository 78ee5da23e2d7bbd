// Stage 1 in 16-bit types: h = rstd (Wa x - mean s) + Wb x + bias, and sums of h over patches (identities 3 and 5 of
// docs/algebra.md). Wa and Wb are down_weight times norm_gain and skip_gain, s are the row sums of the rounded Wa.
//
// Reads x once, 2 BND bytes, and the stacked weights, 4 CD bytes, once per tile of tokens, from L2. Writes h, 2 BNC
// bytes, and for the noise estimator one float32 sum per tile and channel. The next stage adds the sums of the tiles in
// order, so the same input gives the same bits.
//
// A block computes a tile of kRows tokens of one image and kChannels channels. x goes to the tensor cores as it is, so
// no element is touched on its way: a ring of kStages stages of kColumns columns is filled by asynchronous copies.
// Per stage, shared memory holds three swizzled tiles: x (kRows, kColumns), Wa and Wb (kChannels, kColumns).
// The warps are kWarpsM over rows, kWarpsN over channels and kWarpsK over steps of 16 columns. A warp has the same
// channels of Wa x and Wb x, so h is made in its registers.
//
// The sums of rows are one more product, with ones. Squares are summed in float32, of x minus the mean of the row's
// first eight values, so that a mean far from 0 does not cost their digits. The warps that share rows divide the work.
#pragma once

#include "async_copy.cuh"
#include "mma.cuh"
#include "overlap.cuh"
#include "threads.cuh"

namespace ht {
namespace cuda {

template <class T>
struct DownProject {
  const T* x;
  int64_t batch_stride, token_stride;
  const T* weights;       // (2, C, D): Wa, then Wb
  const float* row_sums;  // (C), of Wa
  const float* bias;      // (C)
  T* h;                   // (B, N, C)
  float* sums;            // (B, tiles, C); NULL without a noise estimator
  int tokens, prefix, dim, channels;
  int tiles;  // tiles of tokens per image
  int parts;  // parts of the channels, of kChannels each
  float eps;

  __device__ int part() const { return blockIdx.x % parts; }
  __device__ int tile() const { return blockIdx.x / parts % tiles; }
  __device__ int image() const { return blockIdx.x / parts / tiles; }
};

// kN is the number of column tiles of 8 that a warp has of Wa x, and as many of Wb x.
template <int kM_, int kN_, int kWarpsM_, int kWarpsN_, int kColumns_, int kStages_>
struct DownTile {
  static constexpr int kM = kM_, kN = kN_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_, kColumns = kColumns_;
  static constexpr int kStages = kStages_, kWarpsK = kWarps / (kWarpsM * kWarpsN);
  static constexpr int kRows = 16 * kM * kWarpsM, kChannels = 8 * kN * kWarpsN;
  static constexpr int kWeights = 2 * kRows * kColumns;  // bytes from the start of a stage to its weights
  static constexpr int kStageBytes = kWeights + 4 * kChannels * kColumns;
  static constexpr int kShares = 4 * kM * (2 * kN + 1);  // float32 numbers that a lane gives to the warp that adds
  static constexpr int kShareBytes = (kWarpsK - 1) * kWarpsM * kWarpsN * kShares * kLanes * 4;
  static constexpr int kRingBytes = kStages * kStageBytes > kShareBytes ? kStages * kStageBytes : kShareBytes;
  static constexpr int kBytes = kRingBytes + 4 * (kRows + kWarpsM * kChannels);  // then squares, and sums of channels
};

using WideTile = DownTile<2, 4, 4, 2, 64, 3>;     // 128 tokens, 64 channels
using MediumTile = DownTile<1, 4, 4, 2, 64, 3>;   // 64 tokens, 64 channels
using ShortTile = DownTile<1, 2, 2, 2, 64, 4>;    // 32 tokens, 32 channels; 2 warps divide the columns
using NarrowTile = DownTile<1, 2, 1, 1, 128, 4>;  // 16 tokens, 16 channels; 8 warps divide the columns

// The channel that column i of column tile n of a warp stands for: so dealt, a lane ends with 2 kN neighbours.
template <int kN>
__device__ constexpr int dealt(int n, int i) {
  return 2 * kN * (i / 2) + 2 * n + i % 2;
}

// A row tile of a warp: the products of its rows, and what its LayerNorm needs. Of acc[...][i], i of 0 and 1 belong to
// row g = lane / 4, 2 and 3 to row g + 8.
template <int kN>
struct DownSums {
  float norm[kN][4], skip[kN][4], row[4];  // Wa x, Wb x, and the sum of x
  float squares[2];                        // of x - shift
};

// Fills a stage of the ring.
template <class T, class Tile>
__device__ __forceinline__ void fetch_stage(const DownProject<T>& p, char* stage, int first_token, int first_channel,
                                            int first_column) {
  constexpr int kChunks = Tile::kColumns / kVector, kAtOnce = kThreads / kChunks;
  using Rows = Swizzled<kChunks>;
  const int chunk = threadIdx.x % kChunks, thread_row = threadIdx.x / kChunks;
  const int column = first_column + kVector * chunk;
  const bool inside = column < p.dim;
  const T* x = p.x + p.image() * p.batch_stride + column;
#pragma unroll
  for (int i = 0; i < ceil_div(Tile::kRows, kAtOnce); ++i) {
    const int row = thread_row + kAtOnce * i;
    if (Tile::kRows % kAtOnce && row >= Tile::kRows) break;
    const bool there = inside && first_token + row < p.tokens;
    copy_16(stage + Rows::offset(row, chunk), there ? x + (first_token + row) * p.token_stride : p.x, there);
  }
#pragma unroll
  for (int i = 0; i < ceil_div(2 * Tile::kChannels, kAtOnce); ++i) {
    const int row = thread_row + kAtOnce * i, place = row % Tile::kChannels, matrix = row / Tile::kChannels;
    if (2 * Tile::kChannels % kAtOnce && row >= 2 * Tile::kChannels) break;
    constexpr int kGroup = 8 * Tile::kN;
    const int channel = first_channel + place / kGroup * kGroup + dealt<Tile::kN>(place % kGroup / 8, place % 8);
    const bool there = inside && channel < p.channels;
    const T* from = p.weights + static_cast<int64_t>(matrix * p.channels + channel) * p.dim + column;
    copy_16(stage + Tile::kWeights + Rows::offset(row, chunk), there ? from : p.weights, there);
  }
}

// Adds the squares of the two numbers in a register, each minus the shift of its row.
template <class T>
__device__ __forceinline__ float add_squares(float sum, uint32_t pair, float shift) {
  const float2 v = Pair<T>::widen(pair);
  sum = fmaf(v.x - shift, v.x - shift, sum);
  return fmaf(v.y - shift, v.y - shift, sum);
}

template <class T, class Tile>
__device__ __forceinline__ void project_tile(const DownProject<T>& p) {
  constexpr int kChunks = Tile::kColumns / kVector, kSteps = Tile::kColumns / 16;
  using Rows = Swizzled<kChunks>;
  const int first_token = p.tile() * Tile::kRows, first_channel = p.part() * Tile::kChannels;
  const int warp_m = warp() % Tile::kWarpsM, warp_n = warp() / Tile::kWarpsM % Tile::kWarpsN;
  const int warp_k = warp() / (Tile::kWarpsM * Tile::kWarpsN);
  const int warp_row = 16 * Tile::kM * warp_m;
  const bool has_rows = first_token + warp_row < p.tokens;
  char* ring = static_cast<char*>(shared_memory());
  float* squares = reinterpret_cast<float*>(ring + Tile::kRingBytes);
  float* channel_sums = squares + Tile::kRows;
  const int stages = ceil_div(p.dim, Tile::kColumns);

  let_next_kernel_start();
#pragma unroll
  for (int s = 0; s < Tile::kStages - 1; ++s) {
    if (s < stages) {
      fetch_stage<T, Tile>(p, ring + s * Tile::kStageBytes, first_token, first_channel, s * Tile::kColumns);
    }
    commit_copies();
  }

  // With two warps over channels, each sums the squares of one row of a lane's two; otherwise one warp sums both.
  const auto sums_squares = [&](int half) { return Tile::kWarpsN == 1 || warp_n % 2 == half; };
  DownSums<Tile::kN> sums[Tile::kM];
  float shift[Tile::kM][2];
#pragma unroll
  for (int m = 0; m < Tile::kM; ++m) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[m].row[i] = 0;
#pragma unroll
      for (int n = 0; n < Tile::kN; ++n) sums[m].norm[n][i] = sums[m].skip[n][i] = 0;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sums[m].squares[half] = shift[m][half] = 0;
      const int token = first_token + warp_row + 16 * m + 8 * half + lane() / 4;
      if (!sums_squares(half) || token >= p.tokens) continue;
      float value[kVector];
      load(p.x + p.image() * p.batch_stride + token * p.token_stride).widen(value);
#pragma unroll
      for (int i = 0; i < kVector; ++i) shift[m][half] += value[i] / kVector;
    }
  }

  // Where a lane reads the fragments of A and B, in bytes from the start of a stage, for the first step.
  const int a_row = warp_row + lane() % 16, b_row = 8 * Tile::kN * warp_n + lane() % 8 + lane() / 16 * Tile::kChannels;
  const int a_at = Rows::offset(a_row, lane() / 16);
  const int b_at = Tile::kWeights + Rows::offset(b_row, lane() / 8 % 2);

#pragma unroll 1
  for (int s = 0; s < stages; ++s) {
    wait_for_copies<Tile::kStages - 2>();
    __syncthreads();  // this stage is here, and all warps have left the one that is filled now
    const int next = s + Tile::kStages - 1;
    if (next < stages) {
      char* to = ring + next % Tile::kStages * Tile::kStageBytes;
      fetch_stage<T, Tile>(p, to, first_token, first_channel, next * Tile::kColumns);
    }
    commit_copies();
    if (!has_rows) continue;
    const char* stage = ring + s % Tile::kStages * Tile::kStageBytes;
    const int left = p.dim - s * Tile::kColumns;  // columns that are there
#pragma unroll
    for (int i = 0; i < kSteps / Tile::kWarpsK; ++i) {
      const int step = warp_k + i * Tile::kWarpsK;
      if (16 * step >= left) break;
      const bool whole = 16 * step + 8 < left;
      uint32_t a[Tile::kM][4];
#pragma unroll
      for (int m = 0; m < Tile::kM; ++m) load_matrices(stage + (a_at ^ 32 * step) + 16 * m * Rows::kRowBytes, a[m]);
#pragma unroll
      for (int n = 0; n < Tile::kN; ++n) {
        uint32_t b[4];
        load_matrices(stage + (b_at ^ 32 * step) + 8 * n * Rows::kRowBytes, b);
#pragma unroll
        for (int m = 0; m < Tile::kM; ++m) {
          mma_instruction(sums[m].norm[n], a[m], {b[0], b[1]}, T());
          mma_instruction(sums[m].skip[n], a[m], {b[2], b[3]}, T());
        }
      }
#pragma unroll
      for (int m = 0; m < Tile::kM; ++m) {
        mma_instruction(sums[m].row, a[m], {pair_of_ones<T>(), pair_of_ones<T>()}, T());
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if (!sums_squares(half)) continue;
          float& sum = sums[m].squares[half];
          sum = add_squares<T>(sum, a[m][half], shift[m][half]);
          if (whole) sum = add_squares<T>(sum, a[m][2 + half], shift[m][half]);
        }
      }
    }
  }

  // The squares of a row lie in the four lanes that share it, and with several warps over the columns in all of them.
#pragma unroll
  for (int m = 0; m < Tile::kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float& sum = sums[m].squares[half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    }
  }
  if constexpr (Tile::kWarpsK > 1) {
    wait_for_copies<0>();
    __syncthreads();  // nobody reads the ring any more; the shares take its place
    constexpr int kStep = Tile::kWarpsM * Tile::kWarpsN * Tile::kShares * kLanes;
    float* share = reinterpret_cast<float*>(ring) + (warp() % (Tile::kWarpsM * Tile::kWarpsN)) * Tile::kShares * kLanes;
    const auto each = [&](auto use) {  // use(k, number): number k of the lane
      int k = 0;
#pragma unroll
      for (int m = 0; m < Tile::kM; ++m) {
#pragma unroll
        for (int n = 0; n < Tile::kN; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) use(k++, sums[m].norm[n][i]), use(k++, sums[m].skip[n][i]);
        }
        use(k++, sums[m].row[0]), use(k++, sums[m].row[2]);
        use(k++, sums[m].squares[0]), use(k++, sums[m].squares[1]);
      }
    };
    if (warp_k > 0) {
      each([&](int k, float& number) { share[(warp_k - 1) * kStep + k * kLanes + lane()] = number; });
    }
    __syncthreads();
    if (warp_k == 0) {
#pragma unroll 1
      for (int other = 0; other < Tile::kWarpsK - 1; ++other) {
        each([&](int k, float& number) { number += share[other * kStep + k * kLanes + lane()]; });
      }
    }
  }
  const bool adds = has_rows && warp_k == 0;
#pragma unroll
  for (int m = 0; m < Tile::kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (!adds || !sums_squares(half) || lane() % 4) continue;
      const float mean = sums[m].row[2 * half] / p.dim, apart = mean - shift[m][half];
      const float variance = fmaxf(sums[m].squares[half] / p.dim - apart * apart, 0);
      squares[warp_row + 16 * m + 8 * half + lane() / 4] = rsqrtf(variance + p.eps);
    }
  }
  __syncthreads();

  const int channel = first_channel + 8 * Tile::kN * warp_n + 2 * Tile::kN * (lane() % 4);
  float pooled[2 * Tile::kN];
#pragma unroll
  for (int j = 0; j < 2 * Tile::kN; ++j) pooled[j] = 0;
  if (adds && channel < p.channels) {
    float bias[2 * Tile::kN], row_sum[2 * Tile::kN];
#pragma unroll
    for (int j = 0; j < 2 * Tile::kN; ++j) bias[j] = p.bias[channel + j], row_sum[j] = p.row_sums[channel + j];
#pragma unroll
    for (int m = 0; m < Tile::kM; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = warp_row + 16 * m + 8 * half + lane() / 4, token = first_token + row;
        if (token >= p.tokens) continue;
        const float mean = sums[m].row[2 * half] / p.dim, rstd = squares[row];
        uint32_t h[Tile::kN];
#pragma unroll
        for (int n = 0; n < Tile::kN; ++n) {
          float value[2];
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int j = 2 * n + i;
            const float norm = fmaf(-mean, row_sum[j], sums[m].norm[n][2 * half + i]);
            value[i] = fmaf(rstd, norm, sums[m].skip[n][2 * half + i]) + bias[j];
            if (token >= p.prefix) pooled[j] += value[i];
          }
          h[n] = Pair<T>::narrow(make_float2(value[0], value[1]));
        }
        T* to = p.h + (static_cast<int64_t>(p.image()) * p.tokens + token) * p.channels + channel;
        store_words(to, h);
      }
    }
  }
  if (!p.sums) return;
#pragma unroll
  for (int j = 0; j < 2 * Tile::kN; ++j) {
#pragma unroll
    for (int step = 4; step < kLanes; step *= 2) pooled[j] += __shfl_xor_sync(0xffffffffu, pooled[j], step);
    if (warp_k == 0 && lane() < 4) {
      channel_sums[warp_m * Tile::kChannels + 8 * Tile::kN * warp_n + 2 * Tile::kN * lane() + j] = pooled[j];
    }
  }
  __syncthreads();
  const int c = threadIdx.x;
  if (c >= Tile::kChannels || first_channel + c >= p.channels) return;
  float sum = 0;
#pragma unroll
  for (int m = 0; m < Tile::kWarpsM; ++m) sum += channel_sums[m * Tile::kChannels + c];
  const int64_t tile = static_cast<int64_t>(p.image()) * p.tiles + p.tile();
  p.sums[tile * p.channels + first_channel + c] = sum;
}

// Nothing on devices whose tensor cores do not have the type; a call there is refused.
template <class T, class Tile>
__global__ void __launch_bounds__(kThreads, kResident) down_project(const DownProject<T> p) {
  if constexpr (kHasTensorCores<T>) project_tile<T, Tile>(p);
}

}  // namespace cuda
}  // namespace ht
