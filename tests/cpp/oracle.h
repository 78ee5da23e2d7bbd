// A case of the adapter, random values for it, and the adapter as a plain loop in double precision.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "ht_kernels.h"

inline int failures = 0;

inline void expect(bool good, const std::string& what) {
  if (good) return;
  ++failures;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
}

using Values = std::vector<double>;

struct Case {
  int64_t batch, dim, channels, hidden, scales, height, width, prefix;
  int threads;
  int64_t masks = 0;

  int64_t tokens() const { return prefix + height * width; }

  ht_adapter_shape shape() const {
    return {batch, dim, channels, scales == 1 ? 0 : hidden, scales, height, width, prefix, masks, 1e-5f};
  }

  std::string name() const {
    char text[200];
    std::snprintf(text, sizeof text, "B=%d D=%d C=%d S=%d %dx%d P=%d masks=%d threads=%d", (int)batch, (int)dim,
                  (int)channels, (int)scales, (int)height, (int)width, (int)prefix, (int)masks, threads);
    return text;
  }

  // In the order of HT_ADAPTER_WEIGHTS; 0 for those that are NULL.
  std::vector<int64_t> weight_sizes() const {
    const int64_t q = scales == 1 ? 0 : hidden, score = scales == 1 ? 0 : scales;
    return {channels * dim,
            dim,
            dim,
            channels,
            scales * channels * 49,
            scales * channels,
            q * channels,
            q,
            score * q,
            score,
            channels * channels,
            channels,
            dim * channels,
            dim,
            masks * height * (width / 2 + 1) * 2};
  }
};

// Either struct of weights from one pointer each, in the order of HT_ADAPTER_WEIGHTS.
template <class Weights, class Pointer>
Weights weights_at(const std::vector<Pointer>& pointers) {
  Weights weights{};
  size_t next = 0;
#define HT_SET(name, kind, when) weights.name = (decltype(weights.name))pointers.at(next++);
  HT_ADAPTER_WEIGHTS(HT_SET)
#undef HT_SET
  return weights;
}

struct Inputs {
  std::vector<Values> weights;
  Values x, keep, grad_out;
};

inline Values random_values(std::mt19937& generator, int64_t count, double scale) {
  std::normal_distribution<double> normal(0, scale);
  Values values(count);
  for (double& v : values) v = static_cast<float>(normal(generator));
  return values;
}

inline Inputs random_inputs(const Case& c, unsigned seed) {
  std::mt19937 generator(seed);
  Inputs in;
  for (int64_t size : c.weight_sizes()) in.weights.push_back(random_values(generator, size, 0.3));
  in.x = random_values(generator, c.batch * c.tokens() * c.dim, 1);
  in.grad_out = random_values(generator, in.x.size(), 1);
  in.keep = random_values(generator, c.batch * c.tokens() * c.channels, 1);
  return in;
}

// irfft2(mask * rfft2(s)) of one channel (H, W) as the sums that define it; mask (H, W / 2 + 1, 2).
inline Values filtered(const Values& s, const double* mask, int64_t height, int64_t width) {
  const double turn = 2 * std::acos(-1.0);
  Values result(s.size(), 0.0);
  for (int64_t u = 0; u < height; ++u) {
    for (int64_t v = 0; v <= width / 2; ++v) {
      const auto angle = [&](int64_t q) {
        return turn * (double(u * (q / width)) / height + double(v * (q % width)) / width);
      };
      double real = 0, imaginary = 0;
      for (int64_t q = 0; q < height * width; ++q) {
        real += s[q] * std::cos(angle(q));
        imaginary -= s[q] * std::sin(angle(q));
      }
      const double* m = mask + (u * (width / 2 + 1) + v) * 2;
      const double twice = v > 0 && 2 * v < width ? 2 : 1;
      const double a = real * m[0] - imaginary * m[1], b = real * m[1] + imaginary * m[0];
      for (int64_t q = 0; q < height * width; ++q) {
        result[q] += twice * (a * std::cos(angle(q)) - b * std::sin(angle(q))) / (height * width);
      }
    }
  }
  return result;
}

// The formula of ht_kernels/folding.py, term by term.
inline Values reference(const Case& c, const Inputs& in) {
  const auto& w = in.weights;
  const int64_t n = c.tokens(), patches = c.height * c.width;
  Values out = in.x;
  for (int64_t b = 0; b < c.batch; ++b) {
    Values h(n * c.channels);
    for (int64_t t = 0; t < n; ++t) {
      const double* x = &in.x[(b * n + t) * c.dim];
      double mean = 0, square = 0;
      for (int64_t d = 0; d < c.dim; ++d) mean += x[d] / c.dim;
      for (int64_t d = 0; d < c.dim; ++d) square += (x[d] - mean) * (x[d] - mean) / c.dim;
      const double rstd = 1 / std::sqrt(square + 1e-5f);
      for (int64_t k = 0; k < c.channels; ++k) {
        double s = w[3][k];
        for (int64_t d = 0; d < c.dim; ++d) {
          s += w[0][k * c.dim + d] * ((x[d] - mean) * rstd * w[1][d] + x[d] * w[2][d]);
        }
        h[t * c.channels + k] = s;
      }
    }
    Values weight(c.scales, 1.0);
    if (c.scales > 1) {
      Values pooled(c.channels, 0.0), hidden(c.hidden);
      for (int64_t p = 0; p < patches; ++p) {
        for (int64_t k = 0; k < c.channels; ++k) pooled[k] += h[(c.prefix + p) * c.channels + k] / patches;
      }
      for (int64_t q = 0; q < c.hidden; ++q) {
        double s = w[7][q];
        for (int64_t k = 0; k < c.channels; ++k) s += w[6][q * c.channels + k] * pooled[k];
        hidden[q] = std::max(s, 0.0);
      }
      double total = 0;
      for (int64_t s = 0; s < c.scales; ++s) {
        double score = w[9][s];
        for (int64_t q = 0; q < c.hidden; ++q) score += w[8][s * c.hidden + q] * hidden[q];
        total += weight[s] = std::exp(score);
      }
      for (double& v : weight) v /= total;
    }
    Values f = h;  // what the convolution reads
    for (int64_t k = 0; c.masks && k < c.channels; ++k) {
      Values image(patches);
      for (int64_t p = 0; p < patches; ++p) image[p] = h[(c.prefix + p) * c.channels + k];
      const int64_t frequencies = c.height * (c.width / 2 + 1) * 2;
      image = filtered(image, &w[14][c.masks > 1 ? k * frequencies : 0], c.height, c.width);
      for (int64_t p = 0; p < patches; ++p) f[(c.prefix + p) * c.channels + k] = image[p];
    }
    for (int64_t t = 0; t < n; ++t) {
      Values m(c.channels), y(c.channels, 0.0);
      if (t < c.prefix) {
        for (int64_t k = 0; k < c.channels; ++k) m[k] = h[t * c.channels + k];
      } else {
        const int64_t i = (t - c.prefix) / c.width, j = (t - c.prefix) % c.width;
        for (int64_t k = 0; k < c.channels; ++k) {
          for (int64_t s = 0; s < c.scales; ++s) {
            y[k] += weight[s] * w[5][s * c.channels + k];
            for (int64_t dy = -3; dy <= 3; ++dy) {
              for (int64_t dx = -3; dx <= 3; ++dx) {
                if (i + dy < 0 || i + dy >= c.height || j + dx < 0 || j + dx >= c.width) continue;
                const double tap = w[4][(s * c.channels + k) * 49 + (dy + 3) * 7 + dx + 3];
                y[k] += weight[s] * tap * f[(c.prefix + (i + dy) * c.width + j + dx) * c.channels + k];
              }
            }
          }
        }
        for (int64_t k = 0; c.masks && k < c.channels; ++k) y[k] += h[t * c.channels + k];
        for (int64_t k = 0; k < c.channels; ++k) {
          m[k] = w[11][k];
          for (int64_t l = 0; l < c.channels; ++l) m[k] += w[10][k * c.channels + l] * y[l];
        }
      }
      for (int64_t k = 0; k < c.channels; ++k) {
        m[k] = 0.5 * m[k] * (1 + std::erf(m[k] / std::sqrt(2.0))) * in.keep[(b * n + t) * c.channels + k];
      }
      for (int64_t d = 0; d < c.dim; ++d) {
        double s = w[13][d];
        for (int64_t k = 0; k < c.channels; ++k) s += w[12][d * c.channels + k] * m[k];
        out[(b * n + t) * c.dim + d] += s;
      }
    }
  }
  return out;
}

// How many pixels of masks are not the class with the largest logit after upsampling, up to rounding in float32.
inline int64_t wrong_pixels(const ht_mask_shape& n, const std::vector<float>& logits, const uint8_t* mask) {
  struct Side {
    int64_t first, second;
    double weight;
  };
  const auto side = [](int64_t pixel, int64_t pixels, int64_t cells) {
    const double at = std::max(0.0, (pixel + 0.5) * cells / pixels - 0.5);
    const int64_t first = std::min<int64_t>(static_cast<int64_t>(at), cells - 1);
    return Side{first, std::min(first + 1, cells - 1), at - first};
  };
  double largest = 0;
  for (float v : logits) largest = std::max(largest, std::abs(static_cast<double>(v)));
  const double rounding = 2.4e-7 * (n.grid_height + n.grid_width + 4) * largest;
  int64_t wrong = 0;
  for (int64_t i = 0; i < n.batch * n.height * n.width; ++i) {
    const Side y = side(i / n.width % n.height, n.height, n.grid_height), x = side(i % n.width, n.width, n.grid_width);
    Values v;
    if (n.classes == 1) v.push_back(0);
    for (int64_t k = 0; k < n.classes; ++k) {
      const float* grid = &logits[(i / (n.height * n.width) * n.classes + k) * n.grid_height * n.grid_width];
      const auto row = [&](int64_t r) {
        return grid[r * n.grid_width + x.first] * (1 - x.weight) + grid[r * n.grid_width + x.second] * x.weight;
      };
      v.push_back(row(y.first) * (1 - y.weight) + row(y.second) * y.weight);
    }
    double best = v[0];
    for (double one : v) best = std::max(best, one);
    wrong += mask[i] >= v.size() || v[mask[i]] < best - rounding;
  }
  return wrong;
}

// Logits of which neighbours mostly agree, as those of masks do, and in places do not.
inline std::vector<float> random_logits(const ht_mask_shape& n, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> logits;
  for (int64_t plane = 0; plane < n.batch * n.classes; ++plane) {
    float level = normal(generator);
    for (int64_t cell = 0; cell < n.grid_height * n.grid_width; ++cell) {
      if (generator() % 8 == 0) level = normal(generator);
      logits.push_back(level + 0.1f * normal(generator));
    }
  }
  return logits;
}

// Grids, classes and images that are hard for a mask.
const ht_mask_shape kMasks[] = {
    {1, 2, 14, 14, 240, 320}, {2, 3, 14, 14, 61, 83}, {1, 1, 7, 9, 50, 33},     {1, 32, 14, 14, 100, 301},
    {2, 2, 1, 1, 5, 7},       {1, 1, 1, 1, 1, 1},     {1, 3, 1, 5, 1, 40},      {1, 4, 6, 1, 30, 1},
    {3, 5, 9, 8, 4, 3},       {1, 2, 40, 50, 41, 49}, {1, 2, 16, 16, 16, 16},   {1, 256, 3, 4, 9, 70},
    {0, 2, 4, 4, 8, 8},       {1, 7, 5, 31, 17, 127}, {2, 2, 100, 60, 33, 200},
};

inline std::string name_of(const ht_mask_shape& n) {
  char text[200];
  std::snprintf(text, sizeof text, "mask B=%d K=%d %dx%d to %dx%d", (int)n.batch, (int)n.classes, (int)n.grid_height,
                (int)n.grid_width, (int)n.height, (int)n.width);
  return text;
}

inline std::vector<float> to_float(const Values& values) { return {values.begin(), values.end()}; }

// Exactly as large as asked for, so that a sanitizer sees every step over the end; poisoned with NaN.
inline std::vector<float> poisoned(int64_t count) { return std::vector<float>(count, NAN); }

struct Workspace {
  explicit Workspace(size_t bytes) : memory(std::aligned_alloc(64, (bytes + 63) / 64 * 64), &std::free) {
    std::memset(memory.get(), 0xff, (bytes + 63) / 64 * 64);
  }
  std::unique_ptr<void, void (*)(void*)> memory;
};

inline uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float from_bfloat16(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}
