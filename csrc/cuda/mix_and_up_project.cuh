// Stage 2 in 16-bit types: out = x + up_weight gelu(m) + up_bias. m is h for prefix tokens and mix_weight Y + mix_bias
// for patches, and Y is the depthwise convolution of h with the image's own kernel (identities 2 and 4).
//
// Reads x and writes out, 4 BND bytes, and h with the margins of the tiles, about 2 to 4 times 2 BNC bytes. A block
// also reads the kernels of the scales, 196 SC bytes, and, per tile, up_weight, 2 CD bytes; all of them, and x as far
// as down_project has just read it, come from L2.
//
// A block works on tiles of kRows tokens of one image (grid_tiles.h) and on a slice of D. It makes the image's kernel
// once. With few images there are several slices, so that there are enough blocks; each repeats the convolution of its
// tiles. Y and gelu(m) of a tile lie in shared memory in the type of x, in swizzled rows of C numbers, and so do
// mix_weight and a ring of rows of up_weight. The warps are kWarpsM over rows and kWarpsN over columns of D. A warp
// keeps its rows of gelu(m) in registers and computes 32 columns at a time: its sums start as up_bias, tensor cores add
// x as a product with the identity, and every lane ends with 8 neighbouring columns, which it stores at once.
//
// With kNorm, where D is one slice, it also writes the LayerNorm of out (row_norm.cuh), 2 BND bytes.
//
// Everything before wait_for_kernel_in_front() may run while down_project still does.
#pragma once

#include "depthwise.cuh"
#include "mix_layout.h"
#include "mma.cuh"
#include "overlap.cuh"
#include "row_norm.cuh"
#include "scale_weights.cuh"

namespace ht {
namespace cuda {

template <class T>
struct MixAndUpProject {
  NoiseEstimator noise;
  const T* h;               // (B, N, C)
  const T* filtered;        // (B, N, C): h with its patches filtered; NULL without a spectral filter
  const float* kernels;     // (49, S, C)
  const float* scale_bias;  // (S, C)
  const T* mix_weight;      // (C, C)
  const float* mix_bias;    // (C)
  const T* up_weight;       // (D, C)
  const float* up_bias;     // (D)
  const T* x;
  T* out;
  int64_t x_batch_stride, out_batch_stride;
  int x_token_bytes, out_token_bytes;  // from a token to the next
  T* normed;                           // the LayerNorm of out, where the kernel has kNorm
  int64_t normed_batch_stride;
  int normed_token_bytes;
  float norm_eps, inverse_dim;
  GridTiles grid;
  int tokens, prefix, height, width, channels, dim, scales;
  int blocks;  // blocks per image and slice of D; a block works on every blocks-th tile
  int slice;   // columns of D per block, a multiple of kUpColumns
  int stages;  // of the ring, 1 or 2
  bool early;  // whether the weights have room of their own in shared memory, or take that of the halo
  MixLayout layout;
};

constexpr int kUpColumns = 32;  // columns of D that a warp computes at a time

// kSteps is the number of steps of 16 channels. A warp convolves kLines rows of at most kRun patches at once.
template <int kM_, int kWarpsM_, int kSteps_, int kRun_, int kLines_>
struct MixTile {
  static constexpr int kM = kM_, kWarpsM = kWarpsM_, kSteps = kSteps_, kRun = kRun_, kLines = kLines_;
  static constexpr int kRows = 16 * kM * kWarpsM, kWarpsN = kWarps / kWarpsM;
  static constexpr int kStageRows = kUpColumns * kWarpsN;         // rows of up_weight in a stage of the ring
  static constexpr int kCell = 16 * kSteps;                       // C, rounded up to whole steps
  static constexpr int kResident = kM > 1 || kSteps > 4 ? 1 : 2;  // blocks that registers leave room for
  using Rows = Swizzled<2 * kSteps>;
};

template <int kSteps>
using LargeTile = MixTile<2, 4, kSteps, 8, 2>;  // 128 tokens
template <int kSteps>
using MiddleTile = MixTile<2, 2, kSteps, 8, 1>;  // 64 tokens
template <int kSteps>
using SmallTile = MixTile<1, 1, kSteps, 2, 1>;  // 16 tokens

// gelu(v) = v Phi(v). Phi(-|v|) is half of erfc(|v| / sqrt 2), by formula 7.1.26 of Abramowitz and Stegun, whose error
// of 1.5e-7 is far below a last place of the 16-bit types. There z is |v| / sqrt 2; here it is scaled once more, so
// that exp(-z^2) of the formula is 2^(-z^2).
__device__ __forceinline__ float gelu(float v) {
  const float z = fabsf(v) * 0.84932180028801904272f;        // sqrt(log2(e) / 2)
  const float t = fast_reciprocal(fmaf(0.27273748f, z, 1));  // 0.3275911 / sqrt(log2(e))
  float sum = fmaf(0.5f * 1.061405429f, t, 0.5f * -1.453152027f);
  sum = fmaf(sum, t, 0.5f * 1.421413741f);
  sum = fmaf(sum, t, 0.5f * -0.284496736f);
  sum = fmaf(sum, t, 0.5f * 0.254829592f);
  const float below = sum * t * fast_exp2(-z * z);
  return fmaf(-fabsf(v), below, fmaxf(v, 0));
}

// Starts the copies of mix_weight to swizzled rows.
template <class Tile, class T>
__device__ __forceinline__ void fetch_mix_weight(const MixAndUpProject<T>& p, char* to) {
  constexpr int kChunks = 2 * Tile::kSteps;
  const int chunk = threadIdx.x % kChunks;
  const bool inside = kVector * chunk < p.channels;
#pragma unroll 1
  for (int row = threadIdx.x / kChunks; row < p.channels; row += kThreads / kChunks) {
    copy_16(to + Tile::Rows::offset(row, chunk), p.mix_weight + row * p.channels + (inside ? kVector * chunk : 0),
            inside);
  }
}

// What a thread copies of up_weight: one chunk of every kAtOnce-th row of a stage. Place r of each 32 rows takes the
// row that leaves a lane of the product with neighbouring columns.
template <class Tile, class T>
struct RowCopies {
  static constexpr int kChunks = 2 * Tile::kSteps, kAtOnce = kThreads / kChunks;
  static_assert(kAtOnce == 32 || kAtOnce == 16, "a pass copies a group of 32 rows, or half of it");

  const T* from;  // the thread's first row in the next stage, at its chunk
  int row, last;  // that row, and the one behind the slice
  int to;         // its place in a stage
  int inside;     // whether the chunk is
  int channels;   // C

  __device__ RowCopies(const MixAndUpProject<T>& p, int first, int last_row) : last(last_row) {
    const int place = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
    inside = kVector * chunk < p.channels;
    row = first + dealt<4>(place / 8, place % 8), to = Tile::Rows::offset(place, chunk);
    from = p.up_weight + static_cast<int64_t>(row) * p.channels + (inside ? kVector * chunk : 0);
    channels = p.channels;
    keep(to), keep(inside), keep(channels);
  }

  // Starts the copies of the next stage.
  __device__ __forceinline__ void start(char* stage) {
#pragma unroll
    for (int place = 0; place < Tile::kStageRows; place += kAtOnce) {
      const int behind = place / 32 * 32 + place % 32 / 4;
      if (row + behind < last) copy_16(stage + to + place * Tile::Rows::kRowBytes, from + behind * channels, inside);
    }
    row += Tile::kStageRows, from += Tile::kStageRows * channels;
  }
};

// The sum over scales of weight times the pair of numbers at `from`; those of the next scale are C numbers behind.
__device__ __forceinline__ float2 weighted(const float* from, int channels, int scales,
                                           const float (&weight)[kMaxScales]) {
  float2 sum = load_pair(from);
  sum = make_float2(weight[0] * sum.x, weight[0] * sum.y);
  if (scales == 1) return sum;
#pragma unroll
  for (int s = 1; s < kMaxScales; ++s) {
    const float2 pair = load_pair(from + s * channels);
    sum = make_float2(fmaf(weight[s], pair.x, sum.x), fmaf(weight[s], pair.y, sum.y));
  }
  return sum;
}

// Writes the kernel (49, kCell) and the bias (C) of an image to shared memory.
template <class Tile, class T>
__device__ __forceinline__ void image_kernel(const MixAndUpProject<T>& p, int this_warp,
                                             const float (&weight)[kMaxScales], float* kernel, float* bias) {
#pragma unroll
  for (int c = 2 * lane(); c < Tile::kCell; c += 2 * kLanes) {
    if (c >= p.channels) break;
    const float* from = p.kernels + this_warp * p.scales * p.channels + c;
    float* to = kernel + this_warp * Tile::kCell + c;
#pragma unroll
    for (int i = 0; i < kTaps; i += kWarps) {
      if (i + this_warp < kTaps) store_pair(to + i * Tile::kCell, weighted(from, p.channels, p.scales, weight));
      from += kWarps * p.scales * p.channels;
    }
    if (this_warp == kWarps - 1) store_pair(bias + c, weighted(p.scale_bias + c, p.channels, p.scales, weight));
  }
}

// Where a tile lies, and which of its slots hold tokens.
struct TilePlace {
  int row, column, rows, columns;  // of its first patch, and how many patches are inside the grid
  int first_prefix, prefix;        // the first prefix token of the tile and how many it has
  int used;                        // slots in use: patches, then prefix tokens

  template <class T>
  __device__ static TilePlace of(const MixAndUpProject<T>& p, int tile, int slots) {
    const GridTiles& g = p.grid;
    TilePlace t{};
    if (tile < g.patch_tiles) {
      t.row = tile / g.across * g.height, t.column = tile % g.across * g.width;
      t.rows = min(g.height, p.height - t.row), t.columns = min(g.width, p.width - t.column);
      t.prefix = g.tiles == g.patch_tiles && tile == g.tiles - 1 ? p.prefix : 0;
    } else {
      t.first_prefix = (tile - g.patch_tiles) * slots;
      t.prefix = min(slots, p.prefix - t.first_prefix);
    }
    t.used = t.rows * g.width + t.prefix;
    return t;
  }
};

// Writes Y of the patches of a tile.
template <class Tile, int kRun, class T>
__device__ __forceinline__ void convolve(const MixAndUpProject<T>& p, int this_warp, int image, const TilePlace& place,
                                         const T* halo, const float* kernel, const float* bias, char* y) {
  constexpr int kLines = Tile::kLines;
  const int runs = ceil_div(place.columns, p.grid.run), groups = ceil_div(p.channels, 2 * kLanes);
  const int lines = ceil_div(place.rows, kLines);
  for (int item = this_warp; item < lines * runs * groups; item += kWarps) {
    const int group = groups == 1 ? 0 : item % groups, rest = groups == 1 ? item : item / groups;
    const int line = static_cast<unsigned>(rest) / static_cast<unsigned>(runs),
              begin = (rest - line * runs) * p.grid.run;
    const int row = kLines * line, channel = 2 * (group * kLanes + lane());
    if (channel >= p.channels) continue;
    float2 sum[kLines][kRun];
    const float2 first = load_pair(bias + channel);
#pragma unroll
    for (int i = 0; i < kLines * kRun; ++i) sum[i / kRun][i % kRun] = first;
    const T* from = halo + (row * p.grid.pitch + begin) * Tile::kCell + channel;
    convolve_run<Tile::kCell>(from, p.grid.pitch * Tile::kCell, min(kLines, place.rows - row), kernel + channel, sum);
    const int columns = min(p.grid.run, place.columns - begin);
#pragma unroll
    for (int r = 0; r < kLines; ++r) {
      if (row + r >= place.rows) break;
      if (p.filtered) {  // the residual is that of h before the filter
        const int patch = (place.row + row + r) * p.width + place.column + begin;
        const T* h = p.h + (static_cast<int64_t>(image) * p.tokens + p.prefix + patch) * p.channels + channel;
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
          if (i >= columns) break;
          const float2 residual = load_pair(h + i * p.channels);
          sum[r][i] = make_float2(sum[r][i].x + residual.x, sum[r][i].y + residual.y);
        }
      }
      const int slot = (row + r) * p.grid.width + begin;
      char* to = y + slot * Tile::Rows::kRowBytes + 2 * (channel % kVector);
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const int chunk = (channel / kVector) ^ ((slot + i) & Tile::Rows::kMask);
        if (i < columns) store_pair(reinterpret_cast<T*>(to + i * Tile::Rows::kRowBytes + 16 * chunk), sum[r][i]);
      }
    }
  }
}

// Writes gelu(m) of a tile.
template <class Tile, class T>
__device__ __forceinline__ void mix(const MixAndUpProject<T>& p, int this_warp, int image, int used, const int* token,
                                    const char* y, const char* weight, char* g) {
  using Rows = typename Tile::Rows;
  constexpr int kTilesM = Tile::kRows / 16, kParts = kWarps / kTilesM, kTilesN = 2 * Tile::kSteps / kParts;
  const int first_row = 16 * (this_warp % kTilesM), first_tile = this_warp / kTilesM * kTilesN;
  if (first_row >= used || 8 * first_tile >= p.channels) return;
  const int a_at = Rows::offset(first_row + lane() % 16, lane() / 16);
  uint32_t a[Tile::kSteps][4];
#pragma unroll
  for (int k = 0; k < Tile::kSteps; ++k) load_matrices(y + (a_at ^ 32 * k), a[k]);
  const int slots[2] = {first_row + lane() / 4, first_row + lane() / 4 + 8};
  const int tokens[2] = {token[slots[0]], token[slots[1]]};
#pragma unroll
  for (int n = 0; n < kTilesN; ++n) {
    if (8 * (first_tile + n) >= p.channels) break;
    const int b_at = Rows::offset(8 * (first_tile + n) + lane() % 8, lane() / 8);
    const int channel = 8 * (first_tile + n) + 2 * (lane() % 4);
    const float2 bias = load_pair(p.mix_bias + channel);
    float acc[4] = {bias.x, bias.y, bias.x, bias.y};
#pragma unroll
    for (int k = 0; k < Tile::kSteps; k += 2) {
      uint32_t b[4];
      load_matrices(weight + (b_at ^ 32 * k), b);
      mma_instruction(acc, a[k], {b[0], b[1]}, T());
      mma_instruction(acc, a[k + 1], {b[2], b[3]}, T());
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float2 m = make_float2(acc[2 * half], acc[2 * half + 1]);
      if (static_cast<unsigned>(tokens[half]) < static_cast<unsigned>(p.prefix)) {  // a prefix token, not -1
        const int64_t at = static_cast<int64_t>(image) * p.tokens + tokens[half];
        m = load_pair(p.h + at * p.channels + channel);
      }
      char* to = g + Rows::offset(slots[half], channel / kVector) + 2 * (channel % kVector);
      store_pair(reinterpret_cast<T*>(to), make_float2(gelu(m.x), gelu(m.y)));
    }
  }
}

// Writes the LayerNorm of the rows of out, of which a lane has `moments`, for the columns before `last` that the lane
// has written. memory is the ring, which some warps may still read.
template <class Tile, class T>
__device__ __forceinline__ void normalize(const MixAndUpProject<T>& p, int image, int warp_n, int warp_row, int last,
                                          const int (&tokens)[2 * Tile::kM], const bool (&there)[2 * Tile::kM],
                                          const Moments (&moments)[2 * Tile::kM], float* memory) {
  constexpr int kRows = 2 * Tile::kM, kAtOnce = 12 / kRows, kStep = Tile::kStageRows;  // packs of a row on their way
  const int first = kUpColumns * warp_n + kVector * (lane() % 4);
  const int columns = kVector * (last > first ? ceil_div(last - first, kStep) : 0);
  float scale[kRows], offset[kRows];
  norms_of<Tile::kWarpsN, Tile::kRows>(moments, columns, p.inverse_dim, p.norm_eps, warp_row + lane() / 4, warp_n,
                                       memory, scale, offset);
  const T* from[kRows];
  T* to[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    from[i] = reinterpret_cast<const T*>(reinterpret_cast<const char*>(p.out + image * p.out_batch_stride) +
                                         wide_product(tokens[i], p.out_token_bytes));
    to[i] = reinterpret_cast<T*>(reinterpret_cast<char*>(p.normed + image * p.normed_batch_stride) +
                                 wide_product(tokens[i], p.normed_token_bytes));
  }
#pragma unroll 1
  for (int begin = first; begin < last; begin += kAtOnce * kStep) {
    Pack<T> pack[kAtOnce][kRows];
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      if (begin + n * kStep >= last) break;
#pragma unroll
      for (int i = 0; i < kRows; ++i) pack[n][i] = load(from[i] + begin + n * kStep);
    }
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      if (begin + n * kStep >= last) break;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        float value[kVector];
        pack[n][i].widen(value);
#pragma unroll
        for (int j = 0; j < kVector; ++j) value[j] = fmaf(value[j], scale[i], offset[i]);
        pack[n][i].narrow(value);
        if (there[i]) store(to[i] + begin + n * kStep, pack[n][i]);
      }
    }
  }
}

// Writes out of a tile, the columns from `first` to the one before `last`, from g = gelu(m). The first stage of the
// ring is on its way. With kNorm, these are all columns, and their LayerNorm is written too.
template <class Tile, bool kNorm, class T>
__device__ __forceinline__ void up_project(const MixAndUpProject<T>& p, int this_warp, int image, int first, int last,
                                           int used, const int* token, const char* g, const char* slice_bias,
                                           RowCopies<Tile, T> copies, char* ring) {
  using Rows = typename Tile::Rows;
  constexpr int kM = Tile::kM;
  const int warp_m = this_warp % Tile::kWarpsM, warp_n = this_warp / Tile::kWarpsM, warp_row = 16 * kM * warp_m;
  const bool has_rows = warp_row < used;
  // The lane's rows: their tokens, or token 0 for a slot without one, of which nothing is stored.
  int tokens[2 * kM];
  bool there[2 * kM];
#pragma unroll
  for (int i = 0; i < 2 * kM; ++i) {
    const int known = token[warp_row + 8 * i + lane() / 4];
    there[i] = known >= 0, tokens[i] = max(known, 0);
    keep(tokens[i]);
  }
  uint32_t a[kM][Tile::kSteps][4];
  if (has_rows) {
    const int a_at = Rows::offset(warp_row + lane() % 16, lane() / 16);
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int k = 0; k < Tile::kSteps; ++k) load_matrices(g + (a_at ^ 32 * k) + 16 * m * Rows::kRowBytes, a[m][k]);
    }
  }
  int b_at[Tile::kSteps / 2];
#pragma unroll
  for (int k = 0; k < Tile::kSteps / 2; ++k) {
    b_at[k] = Rows::offset(kUpColumns * warp_n + lane() % 8, 4 * k + lane() / 8);
    keep(b_at[k]);
  }
  int column = first + kUpColumns * warp_n + kVector * (lane() % 4);  // the lane's first
  const char* x = reinterpret_cast<const char*>(p.x + image * p.x_batch_stride);
  char* out = reinterpret_cast<char*>(p.out + image * p.out_batch_stride + column);
  const char* bias_at = slice_bias + kBiasBytes * (column - first);
  const uint32_t identity = identity_fragment<T>();
  int x_bytes = p.x_token_bytes, out_bytes = p.out_token_bytes;
  keep(x_bytes), keep(out_bytes);
  Moments moments[2 * kM];
  // What a stage adds its products to: it is on its way while the stage before is multiplied.
  Pack<T> residual[2 * kM];
  const auto fetch_residual = [&] {
    const char* from = x + sizeof(T) * min(column, last - kVector);  // behind the last column, the last are read again
#pragma unroll
    for (int i = 0; i < 2 * kM; ++i) {
      residual[i] = load(reinterpret_cast<const T*>(from + wide_product(tokens[i], x_bytes)));
    }
  };
  fetch_residual();
  char *here = ring, *other = ring + (p.stages - 1) * min(Tile::kStageRows, p.slice) * Rows::kRowBytes;
#pragma unroll 1
  for (int behind = first; behind < last;) {
    const bool inside = has_rows && column < last, starts = behind == first;
    behind += Tile::kStageRows;
    if (p.stages == 1 && !starts) {
      __syncthreads();  // all warps have left the only stage
      copies.start(here);
    }
    wait_for_copies<0>();
    __syncthreads();  // this stage is here, and all warps have left the other one
    if (p.stages == 2 && behind < last) copies.start(other);
    column += Tile::kStageRows;
    if (has_rows && column - Tile::kStageRows - kVector * (lane() % 4) < last) {
      float acc[kM][4][4];
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          load_shared(bias_at + 16 * n, acc[m][n]);
          mma_half_depth(acc[m][n], residual[2 * m].pair[n], residual[2 * m + 1].pair[n], identity, T());
        }
      }
      fetch_residual();
#pragma unroll
      for (int n = 0; n < 4; ++n) {
#pragma unroll
        for (int k = 0; k < Tile::kSteps; k += 2) {
          uint32_t b[4];
          load_matrices(here + b_at[k / 2] + 8 * n * Rows::kRowBytes, b);
#pragma unroll
          for (int m = 0; m < kM; ++m) {
            mma_instruction(acc[m][n], a[m][k], {b[0], b[1]}, T());
            mma_instruction(acc[m][n], a[m][k + 1], {b[2], b[3]}, T());
          }
        }
      }
#pragma unroll
      for (int i = 0; i < 2 * kM; ++i) {
        float value[kVector];
#pragma unroll
        for (int j = 0; j < kVector; ++j) value[j] = acc[i / 2][j / 2][i % 2 * 2 + j % 2];
        Pack<T> result;
        result.narrow(value);
        if constexpr (kNorm) {  // of out as it is stored
          result.widen(value);
          if (inside) moments[i].add(value, starts);
        }
        if (inside && there[i]) {
          store(reinterpret_cast<T*>(out + wide_product(tokens[i], out_bytes)), result);
        }
      }
    }
    char* const left = here;
    here = other, other = left;
    out += sizeof(T) * Tile::kStageRows, bias_at += kBiasBytes * Tile::kStageRows;
  }
  if constexpr (kNorm) {
    normalize<Tile>(p, image, warp_n, warp_row, has_rows ? last : 0, tokens, there, moments,
                    reinterpret_cast<float*>(ring));
  }
}

template <class Tile, bool kNorm, class T>
__device__ __forceinline__ void do_tiles(const MixAndUpProject<T>& p) {
  using Rows = typename Tile::Rows;
  const MixLayout& layout = p.layout;
  char* memory = static_cast<char*>(shared_memory());
  float* kernel = reinterpret_cast<float*>(memory + layout.kernel);
  float* bias = reinterpret_cast<float*>(memory + layout.bias);
  int* token = reinterpret_cast<int*>(memory + layout.token);
  char *y = memory + layout.y, *g = memory + layout.g, *mix_rows = memory + layout.mix, *ring = memory + layout.ring;
  T* halo = reinterpret_cast<T*>(memory + layout.halo);
  char* up_bias = memory + layout.up_bias;
  const int this_warp = uniform_warp();
  const int image = blockIdx.x / static_cast<unsigned>(p.blocks);
  const int first = blockIdx.y * p.slice, last = min(first + p.slice, p.dim);
  const RowCopies<Tile, T> from_first(p, first, last);
  RowCopies<Tile, T> copies = from_first;

  if (p.channels < 16 * Tile::kSteps) {  // the products read whole steps; nothing else writes these columns
#pragma unroll 1
    for (int i = threadIdx.x; i < 2 * Tile::kRows * Rows::kRowBytes / 16; i += kThreads) {
      store(reinterpret_cast<T*>(y) + kVector * i, Pack<T>{});
    }
  }
#pragma unroll 1
  for (int i = 2 * threadIdx.x; i < last - first; i += 2 * kThreads) {
    copy_8(up_bias + kBiasBytes * i, p.up_bias + first + i);
    copy_8(up_bias + kBiasBytes * i + kBiasBytes, p.up_bias + first + i);
  }
  if (p.early) fetch_mix_weight<Tile>(p, mix_rows), copies.start(ring);
  wait_for_kernel_in_front();

  float weight[kMaxScales];
  scale_weights(p.noise, image, reinterpret_cast<float*>(memory + layout.scratch), weight);
  image_kernel<Tile>(p, this_warp, weight, kernel, bias);
  const T* patches = (p.filtered ? p.filtered : p.h) + (static_cast<int64_t>(image) * p.tokens + p.prefix) * p.channels;
#pragma unroll 1
  for (int tile = blockIdx.x - image * p.blocks, begun = 0; tile < p.grid.tiles; tile += p.blocks, begun = 1) {
    const TilePlace place = TilePlace::of(p, tile, Tile::kRows);
    if (begun) __syncthreads();  // all warps have left the tile before
    if (place.rows) {
      fetch_halo<Tile::kCell>(patches, this_warp, p.grid, place.row, place.column, p.height, p.width, p.channels, halo);
    }
    if (begun && p.early) copies = from_first, copies.start(ring);
    if (threadIdx.x < Tile::kRows) {
      const int slot = threadIdx.x, behind = slot - place.rows * p.grid.width;
      const int row = static_cast<unsigned>(slot) / static_cast<unsigned>(p.grid.width);
      const int column = slot - row * p.grid.width;
      const int patch = (place.row + row) * p.width + place.column + column;
      token[slot] = behind < 0              ? (column < place.columns ? p.prefix + patch : -1)
                    : behind < place.prefix ? place.first_prefix + behind
                                            : -1;
    }
    wait_for_copies<0>();
    __syncthreads();
    if (p.grid.run < Tile::kRun) {
      convolve<Tile, (Tile::kRun > 2 ? Tile::kRun - 1 : Tile::kRun)>(p, this_warp, image, place, halo, kernel, bias, y);
    } else {
      convolve<Tile, Tile::kRun>(p, this_warp, image, place, halo, kernel, bias, y);
    }
    __syncthreads();
    if (!p.early) {
      copies = from_first;
      fetch_mix_weight<Tile>(p, mix_rows), copies.start(ring);
      wait_for_copies<0>();
      __syncthreads();
    }
    mix<Tile>(p, this_warp, image, place.used, token, y, mix_rows, g);
    __syncthreads();
    up_project<Tile, kNorm>(p, this_warp, image, first, last, place.used, token, g, up_bias, copies, ring);
  }
}

// Nothing on devices whose tensor cores do not have the type; a call there is refused.
template <class T, class Tile, bool kNorm>
__global__ void __launch_bounds__(kThreads, Tile::kResident) mix_and_up_project(const MixAndUpProject<T> p) {
  if constexpr (kHasTensorCores<T>) do_tiles<Tile, kNorm>(p);
}

}  // namespace cuda
}  // namespace ht
