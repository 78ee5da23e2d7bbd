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
// first two values, so that a mean far from 0 does not cost their digits. The warps that share rows divide the work.
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
  int parts;  // parts of the channels, of kChannels each; the blocks of a tile's parts are neighbours
  float eps, inverse_dim;
};

// kN is the number of column tiles of 8 that a warp has of Wa x, and as many of Wb x.
template <int kM_, int kN_, int kWarpsM_, int kWarpsN_, int kColumns_, int kStages_>
struct DownTile {
  static constexpr int kM = kM_, kN = kN_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_, kColumns = kColumns_;
  static constexpr int kStages = kStages_, kWarpsK = kWarps / (kWarpsM * kWarpsN);
  static constexpr int kResident = kM > 1 ? 1 : 2;  // blocks that registers leave room for
  static constexpr int kRows = 16 * kM * kWarpsM, kChannels = 8 * kN * kWarpsN;
  static constexpr int kWeights = 2 * kRows * kColumns;  // bytes from the start of a stage to its weights
  static constexpr int kStageBytes = kWeights + 4 * kChannels * kColumns;
  static constexpr int kShares = 4 * kM * (2 * kN + 1);  // float32 numbers that a lane gives to the warp that adds
  static constexpr int kShareBytes = (kWarpsK - 1) * kWarpsM * kWarpsN * kShares * kLanes * 4;
  static constexpr int kRingBytes = kStages * kStageBytes > kShareBytes ? kStages * kStageBytes : kShareBytes;
  static constexpr int kBytes =
      kRingBytes + 4 * (kRows + kWarpsM * kChannels);  // then 1/std of rows, and sums of channels
};

using WideTile = DownTile<2, 4, 4, 2, 64, 3>;     // 128 tokens, 64 channels
using MediumTile = DownTile<1, 4, 4, 2, 64, 3>;   // 64 tokens, 64 channels
using ShortTile = DownTile<1, 2, 2, 2, 64, 4>;    // 32 tokens, 32 channels; 2 warps divide the columns
using NarrowTile = DownTile<1, 2, 1, 1, 128, 4>;  // 16 tokens, 16 channels; 8 warps divide the columns

// A row tile of a warp: the products of its rows, and what its LayerNorm needs. Of acc[...][i], i of 0 and 1 belong to
// row g = lane / 4, 2 and 3 to row g + 8. The warp sums the squares of kHalves of these two rows.
template <int kN, int kHalves>
struct DownSums {
  float norm[kN][4], skip[kN][4], row[4];  // Wa x, Wb x + bias, and the sum of x
  float squares[kHalves];                  // of x - shift
};

// What a thread copies: one chunk of every kAtOnce-th row of x and of the weights. Behind the last token or channel it
// copies the last again, for what comes of these rows is not stored.
template <class T, class Tile>
struct StageCopies {
  static constexpr int kChunks = Tile::kColumns / kVector, kAtOnce = kThreads / kChunks, kGroup = 8 * Tile::kN;
  static_assert(Tile::kRows % kAtOnce == 0 && kAtOnce % kGroup == 0 && Tile::kChannels % kGroup == 0,
                "a pass copies whole groups of channels");
  using Rows = Swizzled<kChunks>;

  const T *x, *weights;                 // of the tile, at the thread's chunk of the next stage
  int row_of_x[Tile::kRows / kAtOnce];  // where the rows begin behind them
  int row_of_weights[2 * Tile::kChannels / kAtOnce];
  int column;  // of the chunk
  int to;      // the place of the first row in a stage

  __device__ StageCopies(const DownProject<T>& p, int image, int first_token, int first_channel) {
    const int row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
    column = kVector * chunk, to = Rows::offset(row, chunk);
    x = p.x + image * p.batch_stride + first_token * p.token_stride + column;
    weights = p.weights + column;
#pragma unroll
    for (int i = 0; i < Tile::kRows / kAtOnce; ++i) {
      row_of_x[i] = min(row + kAtOnce * i, p.tokens - 1 - first_token) * static_cast<int>(p.token_stride);
    }
    const int dealt_row = row / kGroup * kGroup + dealt<Tile::kN>(row % kGroup / 8, row % 8);
#pragma unroll
    for (int i = 0; i < 2 * Tile::kChannels / kAtOnce; ++i) {
      const int channel = first_channel + kAtOnce * i % Tile::kChannels + dealt_row;
      const int matrix = kAtOnce * i / Tile::kChannels;
      row_of_weights[i] = (matrix * p.channels + min(channel, p.channels - 1)) * p.dim;
    }
    keep(to);
  }

  // Starts the copies of the next stage.
  __device__ __forceinline__ void start(const DownProject<T>& p, char* stage) {
    const bool inside = column < p.dim;
#pragma unroll
    for (int i = 0; i < Tile::kRows / kAtOnce; ++i) {
      copy_16(stage + to + kAtOnce * i * Rows::kRowBytes, x + row_of_x[i], inside);
    }
#pragma unroll
    for (int i = 0; i < 2 * Tile::kChannels / kAtOnce; ++i) {
      copy_16(stage + Tile::kWeights + to + kAtOnce * i * Rows::kRowBytes, weights + row_of_weights[i], inside);
    }
    x += Tile::kColumns, weights += Tile::kColumns, column += Tile::kColumns;
  }
};

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
  const int this_warp = uniform_warp();
  unsigned block = blockIdx.x, part = 0;
  if (p.parts > 1) part = block % p.parts, block /= p.parts;
  const int image = block / static_cast<unsigned>(p.tiles), tile = block - image * p.tiles;
  const int first_token = tile * Tile::kRows, first_channel = part * Tile::kChannels;
  const int warp_m = this_warp % Tile::kWarpsM, warp_n = this_warp / Tile::kWarpsM % Tile::kWarpsN;
  const int warp_k = this_warp / (Tile::kWarpsM * Tile::kWarpsN);
  const int warp_row = 16 * Tile::kM * warp_m;
  const bool has_rows = first_token + warp_row < p.tokens;
  char* ring = static_cast<char*>(shared_memory());
  float* rstds = reinterpret_cast<float*>(ring + Tile::kRingBytes);
  float* channel_sums = rstds + Tile::kRows;
  const int stages = ceil_div(p.dim, Tile::kColumns);
  StageCopies<T, Tile> copies(p, image, first_token, first_channel);

  let_next_kernel_start();
#pragma unroll
  for (int s = 0; s < Tile::kStages - 1; ++s) {
    if (s < stages) copies.start(p, ring + s * Tile::kStageBytes);
    commit_copies();
  }

  // With two warps over channels, each sums the squares of one row of a lane's two, the first: the second warp has its
  // rows g and g + 8 swapped. Otherwise one warp sums both.
  constexpr int kHalves = Tile::kWarpsN == 1 ? 2 : 1;
  const int swapped = kHalves == 1 ? 8 * warp_n : 0;
  DownSums<Tile::kN, kHalves> sums[Tile::kM];
  float shift[Tile::kM][kHalves];
  const int channel = first_channel + 8 * Tile::kN * warp_n + 2 * Tile::kN * (lane() % 4);  // the lane's first
  float bias[2 * Tile::kN];
  load_if(warp_k == 0 && channel < p.channels, p.bias + channel, bias);
#pragma unroll
  for (int m = 0; m < Tile::kM; ++m) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[m].row[i] = 0;
#pragma unroll
      for (int n = 0; n < Tile::kN; ++n) {
        sums[m].norm[n][i] = 0, sums[m].skip[n][i] = bias[2 * n + i % 2];
      }
    }
#pragma unroll
    for (int i = 0; i < kHalves; ++i) {
      sums[m].squares[i] = shift[m][i] = 0;
      const int token = first_token + warp_row + 16 * m + (8 * i ^ swapped) + lane() / 4;
      if (token >= p.tokens) continue;
      const float2 first = load_pair(p.x + image * p.batch_stride + token * p.token_stride);
      shift[m][i] = 0.5f * (first.x + first.y);
    }
  }

  // Where a lane reads the fragments of A and B in each of its steps, in bytes from the start of a stage.
  const int a_row = warp_row + (lane() % 16 ^ swapped);
  const int b_row = 8 * Tile::kN * warp_n + lane() % 8 + lane() / 16 * Tile::kChannels;
  int a_at[kSteps / Tile::kWarpsK], b_at[kSteps / Tile::kWarpsK];
#pragma unroll
  for (int i = 0; i < kSteps / Tile::kWarpsK; ++i) {
    const int step = warp_k + i * Tile::kWarpsK;
    a_at[i] = Rows::offset(a_row, 2 * step + lane() / 16);
    b_at[i] = Tile::kWeights + Rows::offset(b_row, 2 * step + lane() / 8 % 2);
    keep(a_at[i]), keep(b_at[i]);
  }

  // Adds the products of a stage, of which `left` columns are there; with kFull all are.
  const auto multiply = [&](const char* stage, int left, auto full) {
    constexpr bool kFull = decltype(full)::value;
#pragma unroll
    for (int i = 0; i < kSteps / Tile::kWarpsK; ++i) {
      const int step = warp_k + i * Tile::kWarpsK;
      if (!kFull && 16 * step >= left) break;
      const bool whole = kFull || 16 * step + 8 < left;  // or only its first eight columns are there
      uint32_t a[Tile::kM][4];
#pragma unroll
      for (int m = 0; m < Tile::kM; ++m) load_matrices(stage + a_at[i] + 16 * m * Rows::kRowBytes, a[m]);
#pragma unroll
      for (int n = 0; n < Tile::kN; ++n) {
        uint32_t b[4];
        load_matrices(stage + b_at[i] + 8 * n * Rows::kRowBytes, b);
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
        for (int j = 0; j < kHalves; ++j) {
          float& sum = sums[m].squares[j];
          sum = add_squares<T>(sum, a[m][j], shift[m][j]);
          if (whole) sum = add_squares<T>(sum, a[m][2 + j], shift[m][j]);
        }
      }
    }
  };
  int here = 0, free = Tile::kStages - 1;  // the places in the ring of the next stage to read, and to fill
  const auto next_stage = [&](bool more) {
    wait_for_copies<Tile::kStages - 2>();
    __syncthreads();  // this stage is here, and all warps have left the one that is filled now
    if (more) copies.start(p, ring + free * Tile::kStageBytes);
    commit_copies();
    const char* stage = ring + here * Tile::kStageBytes;
    free = here, here = here + 1 == Tile::kStages ? 0 : here + 1;
    return stage;
  };
  const int whole_stages = p.dim / Tile::kColumns;
#pragma unroll 1
  for (int s = 0; s < whole_stages; ++s) {
    const char* stage = next_stage(s + Tile::kStages - 1 < stages);
    if (has_rows) multiply(stage, Tile::kColumns, std::true_type());
  }
  if (whole_stages < stages) {
    const char* stage = next_stage(false);
    if (has_rows) multiply(stage, p.dim % Tile::kColumns, std::false_type());
  }

  // The squares of a row lie in the four lanes that share it, and with several warps over the columns in all of them.
#pragma unroll
  for (int m = 0; m < Tile::kM; ++m) {
#pragma unroll
    for (int i = 0; i < kHalves; ++i) {
      float& sum = sums[m].squares[i];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    }
  }
  if constexpr (Tile::kWarpsK > 1) {
    wait_for_copies<0>();
    __syncthreads();  // nobody reads the ring any more; the shares take its place
    constexpr int kStep = Tile::kWarpsM * Tile::kWarpsN * Tile::kShares * kLanes;
    float* share =
        reinterpret_cast<float*>(ring) + (this_warp % (Tile::kWarpsM * Tile::kWarpsN)) * Tile::kShares * kLanes;
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
#pragma unroll
        for (int i = 0; i < kHalves; ++i) use(k++, sums[m].squares[i]);
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
  const float inverse = p.inverse_dim;
#pragma unroll
  for (int m = 0; m < Tile::kM; ++m) {
#pragma unroll
    for (int i = 0; i < kHalves; ++i) {
      if (!adds || lane() % 4) continue;
      const float mean = sums[m].row[2 * i] * inverse, apart = mean - shift[m][i];
      const float variance = fmaxf(sums[m].squares[i] * inverse - apart * apart, 0);
      rstds[warp_row + 16 * m + (8 * i ^ swapped) + lane() / 4] = rsqrtf(variance + p.eps);
    }
  }
  __syncthreads();

  float pooled[2 * Tile::kN];
#pragma unroll
  for (int j = 0; j < 2 * Tile::kN; ++j) pooled[j] = 0;
  if (adds && channel < p.channels) {
    float row_sum[2 * Tile::kN];
    load_if(true, p.row_sums + channel, row_sum);
#pragma unroll
    for (int m = 0; m < Tile::kM; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = warp_row + 16 * m + (8 * half ^ swapped) + lane() / 4, token = first_token + row;
        if (token >= p.tokens) continue;
        const float mean = sums[m].row[2 * half] * inverse, rstd = rstds[row];
        uint32_t h[Tile::kN];
#pragma unroll
        for (int n = 0; n < Tile::kN; ++n) {
          float value[2];
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int j = 2 * n + i;
            const float norm = fmaf(-mean, row_sum[j], sums[m].norm[n][2 * half + i]);
            value[i] = fmaf(rstd, norm, sums[m].skip[n][2 * half + i]);
            if (token >= p.prefix) pooled[j] += value[i];
          }
          h[n] = Pair<T>::narrow(make_float2(value[0], value[1]));
        }
        T* to = p.h + (static_cast<int64_t>(image) * p.tokens + token) * p.channels + channel;
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
  p.sums[(static_cast<int64_t>(image) * p.tiles + tile) * p.channels + first_channel + c] = sum;
}

// Nothing on devices whose tensor cores do not have the type; a call there is refused.
template <class T, class Tile>
__global__ void __launch_bounds__(kThreads, Tile::kResident) down_project(const DownProject<T> p) {
  if constexpr (kHasTensorCores<T>) project_tile<T, Tile>(p);
}

}  // namespace cuda
}  // namespace ht
