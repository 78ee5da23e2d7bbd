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
// keeps its rows of gelu(m) in registers and computes 32 columns at a time: its sums start as x + up_bias, and every
// lane ends with 8 neighbouring columns, which it stores at once.
//
// Everything before wait_for_kernel_in_front() may run while down_project still does.
#pragma once

#include "depthwise.cuh"
#include "mma.cuh"
#include "overlap.cuh"
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
  int x_token_stride, out_token_stride;
  GridTiles grid;
  int tokens, prefix, height, width, channels, dim, scales;
  int blocks;  // blocks per image and slice of D; a block works on every blocks-th tile
  int slice;   // columns of D per block, a multiple of kUpColumns
  int stages;  // of the ring, 1 or 2
  bool early;  // whether the weights have room of their own in shared memory, or take that of the halo

  __device__ int image() const { return blockIdx.x / blocks; }
};

constexpr int kUpColumns = 32;  // columns of D that a warp computes at a time

// kSteps is the number of steps of 16 channels, kRun the longest run of the convolution.
template <int kM_, int kWarpsM_, int kSteps_, int kRun_>
struct MixTile {
  static constexpr int kM = kM_, kWarpsM = kWarpsM_, kSteps = kSteps_, kRun = kRun_;
  static constexpr int kRows = 16 * kM * kWarpsM, kWarpsN = kWarps / kWarpsM;
  static constexpr int kStageRows = kUpColumns * kWarpsN;  // rows of up_weight in a stage of the ring
  using Rows = Swizzled<2 * kSteps>;
};

template <int kSteps>
using LargeTile = MixTile<2, 4, kSteps, 8>;  // 128 tokens
template <int kSteps>
using MiddleTile = MixTile<2, 2, kSteps, 8>;  // 64 tokens
template <int kSteps>
using SmallTile = MixTile<1, 1, kSteps, 2>;  // 16 tokens

// Where a block keeps what in shared memory, in bytes from its start.
struct MixLayout {
  int kernel, bias, token, scratch, y, g, halo, mix, ring, bytes;

  static __host__ __device__ MixLayout of(const GridTiles& grid, int channels, int hidden, int rows, int row_bytes,
                                          int stage_rows, int stages, bool early) {
    MixLayout l{};
    l.bias = l.kernel + 4 * kTaps * channels;
    l.token = l.bias + 4 * channels;
    l.scratch = l.token + 4 * rows;
    l.y = round_up(l.scratch + 4 * NoiseEstimator::scratch_floats(channels, hidden), 128);
    l.g = l.y + rows * row_bytes;
    l.halo = l.g + rows * row_bytes;
    const int behind_halo = round_up(l.halo + 2 * grid.halo() * channels, 128);
    l.mix = early ? behind_halo : l.halo;
    l.ring = l.mix + channels * row_bytes;
    const int end = l.ring + stages * stage_rows * row_bytes;
    l.bytes = end > behind_halo ? end : behind_halo;
    return l;
  }
};

// gelu(v) = v Phi(v). Phi(-|v|) is half of erfc(|v| / sqrt 2), by formula 7.1.26 of Abramowitz and Stegun, whose error
// of 1.5e-7 is far below a last place of the 16-bit types.
__device__ __forceinline__ float gelu(float v) {
  const float z = fabsf(v) * 0.70710678118654752440f, t = __fdividef(1, fmaf(0.3275911f, z, 1));
  float sum = fmaf(0.5f * 1.061405429f, t, 0.5f * -1.453152027f);
  sum = fmaf(sum, t, 0.5f * 1.421413741f);
  sum = fmaf(sum, t, 0.5f * -0.284496736f);
  sum = fmaf(sum, t, 0.5f * 0.254829592f) * t;
  const float below = sum * __expf(-z * z);
  return v * (v > 0 ? 1 - below : below);
}

// Starts the copies of `rows` rows of a matrix (count, channels) to swizzled rows. Place r of each 32 takes the row
// that `kDealt` gives it, so that a lane of the product has neighbouring columns; without it, row r.
template <class Tile, bool kDealt, class T>
__device__ __forceinline__ void fetch_rows(const T* matrix, int first, int count, int rows, int channels, char* to) {
  constexpr int kChunks = 2 * Tile::kSteps, kAtOnce = kThreads / kChunks;
  const int chunk = threadIdx.x % kChunks;
  for (int r = threadIdx.x / kChunks; r < rows; r += kAtOnce) {
    const int row = first + (kDealt ? r / 32 * 32 + 8 * (r % 8 / 2) + 2 * (r % 32 / 8) + r % 2 : r);
    const bool inside = row < count && kVector * chunk < channels;
    copy_16(to + Tile::Rows::offset(r, chunk), inside ? matrix + row * channels + kVector * chunk : matrix, inside);
  }
}

// Writes the kernel (49, C) and the bias (C) of an image to shared memory.
template <class T>
__device__ __forceinline__ void image_kernel(const MixAndUpProject<T>& p, const float (&weight)[kMaxScales],
                                             float* kernel, float* bias) {
  for (int row = warp(); row < kTaps + 1; row += kWarps) {  // the last row is the bias
    const float* from = row < kTaps ? p.kernels + row * p.scales * p.channels : p.scale_bias;
    float* to = row < kTaps ? kernel + row * p.channels : bias;
    for (int c = 2 * lane(); c < p.channels; c += 2 * kLanes) {
      float2 sum = make_float2(0, 0);
#pragma unroll
      for (int s = 0; s < kMaxScales; ++s) {
        if (s >= p.scales) break;
        const float2 tap = load_pair(from + s * p.channels + c);
        sum = make_float2(fmaf(weight[s], tap.x, sum.x), fmaf(weight[s], tap.y, sum.y));
      }
      store_pair(to + c, sum);
    }
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
__device__ __forceinline__ void convolve(const MixAndUpProject<T>& p, const TilePlace& place, const T* halo,
                                         const float* kernel, const float* bias, char* y) {
  const int runs = ceil_div(place.columns, p.grid.run), groups = ceil_div(p.channels, 2 * kLanes);
  for (int item = warp(); item < place.rows * runs * groups; item += kWarps) {
    const int channel = 2 * (item % groups * kLanes + lane());
    const int row = item / groups / runs, begin = item / groups % runs * p.grid.run;
    if (channel >= p.channels) continue;
    const int end = min(begin + p.grid.run, place.columns);
    const auto put = [&](int i, float2 sum) {
      if (begin + i >= end) return;
      if (p.filtered) {
        const int patch = (place.row + row) * p.width + place.column + begin + i;
        const T* h = p.h + (static_cast<int64_t>(p.image()) * p.tokens + p.prefix + patch) * p.channels;
        const float2 residual = load_pair(h + channel);
        sum = make_float2(sum.x + residual.x, sum.y + residual.y);
      }
      const int slot = row * p.grid.width + begin + i;
      char* to = y + Tile::Rows::offset(slot, channel / kVector) + 2 * (channel % kVector);
      store_pair(reinterpret_cast<T*>(to), sum);
    };
    const T* from = halo + (row * p.grid.pitch + begin) * p.channels + channel;
    convolve_run<kRun>(from, p.grid.pitch, p.channels, kernel + channel, load_pair(bias + channel), put);
  }
}

// Writes gelu(m) of a tile.
template <class Tile, class T>
__device__ __forceinline__ void mix(const MixAndUpProject<T>& p, int used, const int* token, const char* y,
                                    const char* weight, char* g) {
  using Rows = typename Tile::Rows;
  constexpr int kTilesM = Tile::kRows / 16, kParts = kWarps / kTilesM, kTilesN = 2 * Tile::kSteps / kParts;
  const int first_row = 16 * (warp() % kTilesM), first_tile = warp() / kTilesM * kTilesN;
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
      if (tokens[half] >= 0 && tokens[half] < p.prefix) {
        const int64_t at = static_cast<int64_t>(p.image()) * p.tokens + tokens[half];
        m = load_pair(p.h + at * p.channels + channel);
      }
      char* to = g + Rows::offset(slots[half], channel / kVector) + 2 * (channel % kVector);
      store_pair(reinterpret_cast<T*>(to), make_float2(gelu(m.x), gelu(m.y)));
    }
  }
}

// Writes out of a tile, the columns from `first` to the one before `last`, from g = gelu(m). The first stage of the
// ring is on its way.
template <class Tile, class T>
__device__ __forceinline__ void up_project(const MixAndUpProject<T>& p, int first, int last, int used, const int* token,
                                           const char* g, char* ring) {
  using Rows = typename Tile::Rows;
  constexpr int kM = Tile::kM;
  const int stage_rows = min(Tile::kStageRows, p.slice);
  const int warp_m = warp() % Tile::kWarpsM, warp_n = warp() / Tile::kWarpsM, warp_row = 16 * kM * warp_m;
  const bool has_rows = warp_row < used;
  const T* x = p.x + p.image() * p.x_batch_stride;
  T* out = p.out + p.image() * p.out_batch_stride;
  uint32_t a[kM][Tile::kSteps][4];
  int tokens[2 * kM];
  if (has_rows) {
    const int a_at = Rows::offset(warp_row + lane() % 16, lane() / 16);
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int k = 0; k < Tile::kSteps; ++k) load_matrices(g + (a_at ^ 32 * k) + 16 * m * Rows::kRowBytes, a[m][k]);
    }
#pragma unroll
    for (int i = 0; i < 2 * kM; ++i) tokens[i] = token[warp_row + 8 * i + lane() / 4];
  }
  int column = first + kUpColumns * warp_n + kVector * (lane() % 4);  // the lane's first
  Pack<T> residual[2 * kM];
  const auto fetch_residual = [&](int from) {
#pragma unroll
    for (int i = 0; i < 2 * kM; ++i) {
      const bool inside = has_rows && tokens[i] >= 0 && from < last;
      residual[i] = inside ? load(x + static_cast<int64_t>(tokens[i]) * p.x_token_stride + from) : Pack<T>{};
    }
  };
  fetch_residual(column);
  const int b_at = Rows::offset(kUpColumns * warp_n + lane() % 8, lane() / 8);
#pragma unroll 1
  for (int stage = 0; first < last; ++stage, first += Tile::kStageRows, column += Tile::kStageRows) {
    const int next = first + Tile::kStageRows;
    if (stage > 0 && p.stages == 1) {
      __syncthreads();  // all warps have left the only stage
      fetch_rows<Tile, true>(p.up_weight, first, last, stage_rows, p.channels, ring);
    }
    wait_for_copies<0>();
    __syncthreads();  // this stage is here, and all warps have left the other one
    const char* rows = ring + stage % p.stages * stage_rows * Rows::kRowBytes;
    if (p.stages == 2 && next < last) {
      char* to = ring + (stage + 1) % 2 * stage_rows * Rows::kRowBytes;
      fetch_rows<Tile, true>(p.up_weight, next, last, stage_rows, p.channels, to);
    }
    if (!has_rows || first + kUpColumns * warp_n >= last) continue;
    const bool inside = column < last;
    float bias[kVector], acc[kM][4][4];
    load(p.up_bias + (inside ? column : 0)).widen(bias);
#pragma unroll
    for (int i = 0; i < 2 * kM; ++i) {
      float value[kVector];
      residual[i].widen(value);
#pragma unroll
      for (int j = 0; j < kVector; ++j) acc[i / 2][j / 2][i % 2 * 2 + j % 2] = value[j] + bias[j];
    }
    fetch_residual(column + Tile::kStageRows);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
#pragma unroll
      for (int k = 0; k < Tile::kSteps; k += 2) {
        uint32_t b[4];
        load_matrices(rows + (b_at ^ 32 * k) + 8 * n * Rows::kRowBytes, b);
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
      if (inside && tokens[i] >= 0) {
        store(out + static_cast<int64_t>(tokens[i]) * p.out_token_stride + column, result);
      }
    }
  }
}

template <class Tile, class T>
__device__ __forceinline__ void do_tiles(const MixAndUpProject<T>& p) {
  using Rows = typename Tile::Rows;
  const MixLayout layout = MixLayout::of(p.grid, p.channels, p.noise.hidden, Tile::kRows, Rows::kRowBytes,
                                         min(Tile::kStageRows, p.slice), p.stages, p.early);
  char* memory = static_cast<char*>(shared_memory());
  float* kernel = reinterpret_cast<float*>(memory + layout.kernel);
  float* bias = reinterpret_cast<float*>(memory + layout.bias);
  int* token = reinterpret_cast<int*>(memory + layout.token);
  char *y = memory + layout.y, *g = memory + layout.g, *mix_rows = memory + layout.mix, *ring = memory + layout.ring;
  T* halo = reinterpret_cast<T*>(memory + layout.halo);
  const int first = blockIdx.y * p.slice, last = min(first + p.slice, p.dim);
  const auto fetch_mix = [&] {
    fetch_rows<Tile, false>(p.mix_weight, 0, p.channels, p.channels, p.channels, mix_rows);
  };
  const auto fetch_up = [&] {
    fetch_rows<Tile, true>(p.up_weight, first, last, min(Tile::kStageRows, p.slice), p.channels, ring);
  };

  if (p.channels < 16 * Tile::kSteps) {  // the products read whole steps; nothing else writes these columns
    for (int i = threadIdx.x; i < 2 * Tile::kRows * Rows::kRowBytes / 16; i += kThreads) {
      store(reinterpret_cast<T*>(y) + kVector * i, Pack<T>{});
    }
  }
  if (p.early) fetch_mix(), fetch_up();
  wait_for_kernel_in_front();

  float weight[kMaxScales];
  scale_weights(p.noise, p.image(), reinterpret_cast<float*>(memory + layout.scratch), weight);
  image_kernel(p, weight, kernel, bias);
  const T* patches =
      (p.filtered ? p.filtered : p.h) + (static_cast<int64_t>(p.image()) * p.tokens + p.prefix) * p.channels;
#pragma unroll 1
  for (int tile = blockIdx.x % p.blocks, begun = 0; tile < p.grid.tiles; tile += p.blocks, begun = 1) {
    const TilePlace place = TilePlace::of(p, tile, Tile::kRows);
    if (begun) __syncthreads();  // all warps have left the tile before
    if (place.rows) fetch_halo(patches, p.grid, place.row, place.column, p.height, p.width, p.channels, halo);
    if (begun && p.early) fetch_up();
    for (int slot = threadIdx.x; slot < Tile::kRows; slot += kThreads) {
      const int row = slot / p.grid.width, column = slot % p.grid.width, behind = slot - place.rows * p.grid.width;
      const int patch = (place.row + row) * p.width + place.column + column;
      token[slot] = behind < 0              ? (column < place.columns ? p.prefix + patch : -1)
                    : behind < place.prefix ? place.first_prefix + behind
                                            : -1;
    }
    wait_for_copies<0>();
    __syncthreads();
    if (p.grid.run < Tile::kRun) {
      convolve<Tile, (Tile::kRun > 2 ? Tile::kRun - 1 : Tile::kRun)>(p, place, halo, kernel, bias, y);
    } else {
      convolve<Tile, Tile::kRun>(p, place, halo, kernel, bias, y);
    }
    __syncthreads();
    if (!p.early) {
      fetch_mix(), fetch_up();
      wait_for_copies<0>();
      __syncthreads();
    }
    mix<Tile>(p, place.used, token, y, mix_rows, g);
    __syncthreads();
    up_project<Tile>(p, first, last, place.used, token, g, ring);
  }
}

// Nothing on devices whose tensor cores do not have the type; a call there is refused.
template <class T, class Tile>
__global__ void __launch_bounds__(kThreads, Tile::kSteps > 4 ? 1 : kResident)
    mix_and_up_project(const MixAndUpProject<T> p) {
  if constexpr (kHasTensorCores<T>) do_tiles<Tile>(p);
}

}  // namespace cuda
}  // namespace ht
