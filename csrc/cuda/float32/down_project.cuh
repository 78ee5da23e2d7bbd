// Stage 1: h = down_weight u + down_bias with u = (x - mean) rstd norm_gain + x skip_gain, and sums of h over patches.
//
// Reads x once, 2 BND bytes in 16-bit types, and down_weight once per tile of tokens, from L2. Writes h, 2 BNC bytes,
// and for the noise estimator one float32 sum per tile and channel. The next stage adds the sums of the tiles in order,
// so the same input gives the same bits.
//
// A block computes a tile of kRows tokens of one image and kColumns channels. The blocks that share a tile of tokens
// are neighbours in the grid, so they run at the same time, and all but one of them get x from L2. The warps of a block
// first normalise rows. A row that fits the registers of a warp is read once, and its variance still comes from centred
// values. u goes to shared memory in the type of x. Then the warps multiply, kWarpsM of them side by side over rows and
// kWarpsK over D, and add up their results in shared memory. One image has few tokens, so narrow tiles are used for it:
// they make enough blocks, and all warps of a block then divide D among them.
#pragma once

#include "../launch.cuh"
#include "warp_product.cuh"

namespace ht {
namespace cuda {
namespace float32 {

struct DownProject {
  const float* x;
  int64_t batch_stride, token_stride;
  Matrix weight;           // (C, D)
  const float* norm_gain;  // (D)
  const float* skip_gain;  // (D)
  const float* bias;       // (C)
  float* h;                // (B, N, C)
  float* sums;             // (B, tiles, C); NULL without a noise estimator
  int tokens, prefix;
  int tiles;  // tiles of tokens per image
  int parts;  // parts of the channels, of kColumns each
  int chunk;  // columns of u that are in shared memory at a time, a multiple of kDepth
  float eps;

  __device__ int part() const { return blockIdx.x % parts; }
  __device__ int tile() const { return blockIdx.x / parts % tiles; }
  __device__ int image() const { return blockIdx.x / parts / tiles; }
  __device__ const float* row(int token) const { return x + image() * batch_stride + token * token_stride; }
};

template <int kM_, int kN_, int kWarpsM_>
struct DownTile {
  static constexpr int kM = kM_, kN = kN_, kWarpsM = kWarpsM_, kWarpsK = kWarps / kWarpsM;
  static constexpr int kRows = 16 * kM * kWarpsM, kColumns = 8 * kN;
  static constexpr int kSumStride = kColumns + 8;  // so that neighbouring rows of partial sums lie in different banks

  // Bytes of shared memory of a block. It first holds rows of u and, unless the rows are held in registers, their
  // statistics, and then the partial sums of the warps in the same place.
  static constexpr int bytes(int chunk, bool held) {
    const int u = kRows * (shared_stride(chunk) * static_cast<int>(sizeof(float)) + (held ? 0 : 8));
    const int shares = kWarpsK * kRows * kSumStride * static_cast<int>(sizeof(float));
    return u > shares ? u : shares;
  }
};

using NarrowTile = DownTile<1, 2, 1>;  // 16 tokens, 16 channels
using MediumTile = DownTile<1, 8, 2>;  // 32 tokens, 64 channels
using WideTile = DownTile<1, 8, 4>;    // 64 tokens, 64 channels
constexpr int kHeldVectors = 4;
constexpr int kHeldColumns = kHeldVectors * kLanes * kVector;  // of the longest row that fits the registers of a warp

// u of eight neighbouring columns of a token, given its mean and 1/std.
__device__ inline Pack<float> normalized(const DownProject& p, const Pack<float>& x, float mean, float rstd,
                                         int column) {
  float value[kVector], norm[kVector], skip[kVector];
  x.widen(value);
  load(p.norm_gain + column).widen(norm);
  load(p.skip_gain + column).widen(skip);
#pragma unroll
  for (int i = 0; i < kVector; ++i) value[i] = fmaf((value[i] - mean) * rstd, norm[i], value[i] * skip[i]);
  Pack<float> u;
  u.narrow(value);
  return u;
}

__device__ inline float sum_of(const Pack<float>& x) {
  float value[kVector], sum = 0;
  x.widen(value);
#pragma unroll
  for (int i = 0; i < kVector; ++i) sum += value[i];
  return sum;
}

__device__ inline float squares_of(const Pack<float>& x, float mean) {
  float value[kVector], sum = 0;
  x.widen(value);
#pragma unroll
  for (int i = 0; i < kVector; ++i) sum = fmaf(value[i] - mean, value[i] - mean, sum);
  return sum;
}

// Writes u of rows that have at most kHeld vectors per lane. They are read once and kept in registers. A warp asks for
// kAtOnce rows together, so that it waits for memory less often.
template <int kHeld, int kAtOnce>
__device__ void normalize_held(const DownProject& p, int first_token, int rows, float* u, int stride) {
  const int dim = p.weight.columns;
  for (int row = warp() * rows; row < (warp() + 1) * rows; row += kAtOnce) {
    Pack<float> x[kAtOnce][kHeld];
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int token = first_token + row + r, column = kVector * (lane() + kLanes * i);
        x[r][i] = token < p.tokens && column < dim ? load(p.row(token) + column) : Pack<float>{};
      }
    }
#pragma unroll
    for (int r = 0; r < kAtOnce; ++r) {
      float sum = 0, squares = 0;
#pragma unroll
      for (int i = 0; i < kHeld; ++i) sum += sum_of(x[r][i]);
      const float mean = warp_sum(sum) / dim;
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        if (kVector * (lane() + kLanes * i) < dim) squares += squares_of(x[r][i], mean);
      }
      const float rstd = rsqrtf(warp_sum(squares) / dim + p.eps);
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int column = kVector * (lane() + kLanes * i);
        const Pack<float> zeros{};
        if (column < round_up(dim, kDepth)) {
          store(u + (row + r) * stride + column, column < dim ? normalized(p, x[r][i], mean, rstd, column) : zeros);
        }
      }
    }
  }
}

// Writes the mean and 1/std of rows of any length, which are read again for each chunk of u.
__device__ inline void measure_rows(const DownProject& p, int first_token, int rows, float2* stats) {
  const int dim = p.weight.columns;
  for (int row = warp() * rows; row < (warp() + 1) * rows; ++row) {
    if (first_token + row >= p.tokens) break;
    const float* x = p.row(first_token + row);
    float sum = 0, squares = 0;
    for (int column = kVector * lane(); column < dim; column += kVector * kLanes) sum += sum_of(load(x + column));
    const float mean = warp_sum(sum) / dim;
    for (int column = kVector * lane(); column < dim; column += kVector * kLanes) {
      squares += squares_of(load(x + column), mean);
    }
    const float rstd = rsqrtf(warp_sum(squares) / dim + p.eps);
    if (lane() == 0) stats[row] = make_float2(mean, rstd);
  }
}

// Writes the columns of u from `first` on that are one chunk.
__device__ inline void normalize_chunk(const DownProject& p, int first_token, int rows, const float2* stats, int first,
                                       float* u, int stride) {
  for (int row = warp() * rows; row < (warp() + 1) * rows; ++row) {
    const int token = first_token + row;
    for (int column = kVector * lane(); column < p.chunk; column += kVector * kLanes) {
      Pack<float> pack{};
      if (token < p.tokens && first + column < p.weight.columns) {
        pack = normalized(p, load(p.row(token) + first + column), stats[row].x, stats[row].y, first + column);
      }
      store(u + row * stride + column, pack);
    }
  }
}

// kHeld is the number of vectors per lane that hold a whole row, with all of D in one chunk. It is 0 when rows are
// longer and D is read chunk by chunk.
template <bool kTensorCores, class Tile, int kHeld>
__global__ void __launch_bounds__(kThreads, 1) down_project(const DownProject p) {
  using Product = WarpProduct<kTensorCores, Tile::kM, Tile::kN, InOrder>;
  const int first_token = p.tile() * Tile::kRows, first_channel = p.part() * Tile::kColumns;
  const int dim = p.weight.columns, channels = p.weight.rows;
  const int warp_m = warp() % Tile::kWarpsM, warp_k = warp() / Tile::kWarpsM;
  constexpr int kRowsPerWarp = Tile::kRows / kWarps;
  float* u = static_cast<float*>(shared_memory());
  const int stride = shared_stride(p.chunk);

  Product product;
  if constexpr (kHeld > 0) {
    // Narrow tiles are used when there are few blocks, so no other block multiplies while this one waits for weights.
    // It asks for the first of them before it normalises, and for the next ones before it multiplies.
    constexpr bool kAhead = Tile::kWarpsK == kWarps;
    typename Product::Operand operand;
    if (kAhead) operand = product.fetch(p.weight, first_channel, kDepth * warp_k);
    normalize_held<kHeld, 2>(p, first_token, kRowsPerWarp, u, stride);
    __syncthreads();
    product.clear();
    const float* a = u + warp_m * 16 * Tile::kM * stride;
#pragma unroll 1
    for (int k = kDepth * warp_k; k < dim; k += kDepth * Tile::kWarpsK) {
      if (!kAhead) operand = product.fetch(p.weight, first_channel, k);
      product.add(a + k, stride, p.weight, first_channel, operand);
      if (kAhead) operand = product.fetch(p.weight, first_channel, k + kDepth * Tile::kWarpsK);
    }
  } else {
    float2* stats = reinterpret_cast<float2*>(u + Tile::kRows * stride);
    measure_rows(p, first_token, kRowsPerWarp, stats);
    __syncwarp();
    product.clear();
    for (int first = 0; first < dim; first += p.chunk) {
      normalize_chunk(p, first_token, kRowsPerWarp, stats, first, u, stride);
      __syncthreads();
      const float* a = u + warp_m * 16 * Tile::kM * stride;
#pragma unroll 1
      for (int k = kDepth * warp_k; k < p.chunk && first + k < dim; k += kDepth * Tile::kWarpsK) {
        product.add(a + k, stride, p.weight, first_channel, product.fetch(p.weight, first_channel, first + k));
      }
      __syncthreads();
    }
  }
  __syncthreads();

  // The warps have each summed their part of D. They write these sums to shared memory, and then threads add them up in
  // the order of the warps.
  float* shares = static_cast<float*>(shared_memory());
  constexpr int kShare = Tile::kRows * Tile::kSumStride;
#pragma unroll
  for (int m = 0; m < Tile::kM; ++m) {
#pragma unroll
    for (int n = 0; n < Tile::kN; ++n) {
      const int row = 16 * (warp_m * Tile::kM + m) + lane() / 4, column = 8 * n + 2 * (lane() % 4);
      float* to = shares + warp_k * kShare + row * Tile::kSumStride + column;
      *reinterpret_cast<float2*>(to) = make_float2(product.acc[m][n][0], product.acc[m][n][1]);
      *reinterpret_cast<float2*>(to + 8 * Tile::kSumStride) = make_float2(product.acc[m][n][2], product.acc[m][n][3]);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < Tile::kRows * Tile::kN; i += kThreads) {
    const int row = i / Tile::kN, channel = i % Tile::kN * kVector;
    float* sum = shares + row * Tile::kSumStride + channel;
    if (first_token + row >= p.tokens || first_channel + channel >= channels) continue;
    float value[kVector], part[kVector];
    load(p.bias + first_channel + channel).widen(value);
#pragma unroll
    for (int k = 0; k < Tile::kWarpsK; ++k) {
      load(sum + k * kShare).widen(part);
#pragma unroll
      for (int j = 0; j < kVector; ++j) value[j] += part[j];
    }
    Pack<float> h;
    h.narrow(value);
    const int64_t token = static_cast<int64_t>(p.image()) * p.tokens + first_token + row;
    store(p.h + token * channels + first_channel + channel, h);
    Pack<float> kept;
    kept.narrow(value);
    store(sum, kept);
  }
  if (!p.sums) return;
  __syncthreads();
  const int column = threadIdx.x;
  if (column >= Tile::kColumns || first_channel + column >= channels) return;
  float sum = 0;
  for (int row = max(0, p.prefix - first_token); row < min(Tile::kRows, p.tokens - first_token); ++row) {
    sum += shares[row * Tile::kSumStride + column];
  }
  const int64_t tile = static_cast<int64_t>(p.image()) * p.tiles + p.tile();
  p.sums[tile * channels + first_channel + column] = sum;
}

}  // namespace float32
}  // namespace cuda
}  // namespace ht
