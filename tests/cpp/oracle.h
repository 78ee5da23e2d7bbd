// A case of the adapter, random values for it, and the adapter as a plain loop in double precision.
#pragma once

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
