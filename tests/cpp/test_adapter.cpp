// The C interface against a plain loop in double precision: values, gradients, and, under sanitizers, memory.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "ht_kernels.h"

namespace {

int failures = 0;

void expect(bool good, const std::string& what) {
  if (good) return;
  ++failures;
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
}

using Values = std::vector<double>;

struct Case {
  int64_t batch, dim, channels, hidden, scales, height, width, prefix;
  int threads;

  int64_t tokens() const { return prefix + height * width; }

  ht_adapter_shape shape() const {
    return {batch, dim, channels, scales == 1 ? 0 : hidden, scales, height, width, prefix, 1e-5f};
  }

  std::string name() const {
    char text[200];
    std::snprintf(text, sizeof text, "B=%d D=%d C=%d S=%d %dx%d P=%d threads=%d", (int)batch, (int)dim, (int)channels,
                  (int)scales, (int)height, (int)width, (int)prefix, threads);
    return text;
  }

  // In the order of ht_adapter_weights; 0 for those that are NULL.
  std::vector<int64_t> weight_sizes() const {
    const int64_t q = scales == 1 ? 0 : hidden, score = scales == 1 ? 0 : scales;
    return {channels * dim, dim, dim,       channels, scales * channels * 49, scales * channels,
            q * channels,   q,   score * q, score,    channels * channels,    channels,
            dim * channels, dim};
  }
};

struct Inputs {
  std::vector<Values> weights;
  Values x, keep, grad_out;
};

Values random_values(std::mt19937& generator, int64_t count, double scale) {
  std::normal_distribution<double> normal(0, scale);
  Values values(count);
  for (double& v : values) v = static_cast<float>(normal(generator));
  return values;
}

Inputs random_inputs(const Case& c, unsigned seed) {
  std::mt19937 generator(seed);
  Inputs in;
  for (int64_t size : c.weight_sizes()) in.weights.push_back(random_values(generator, size, 0.3));
  in.x = random_values(generator, c.batch * c.tokens() * c.dim, 1);
  in.grad_out = random_values(generator, in.x.size(), 1);
  in.keep = random_values(generator, c.batch * c.tokens() * c.channels, 1);
  return in;
}

// The formula of ht_kernels/fold.py, term by term.
Values reference(const Case& c, const Inputs& in) {
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
                y[k] += weight[s] * tap * h[(c.prefix + (i + dy) * c.width + j + dx) * c.channels + k];
              }
            }
          }
        }
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

double dot(const Values& a, const Values& b) {
  double s = 0;
  for (size_t i = 0; i < a.size(); ++i) s += a[i] * b[i];
  return s;
}

std::vector<float> to_float(const Values& values) { return {values.begin(), values.end()}; }

// Exactly as large as asked for, so that a sanitizer sees every step over the end; poisoned with NaN.
std::vector<float> poisoned(int64_t count) { return std::vector<float>(count, NAN); }

struct Workspace {
  explicit Workspace(size_t bytes) : memory(std::aligned_alloc(64, (bytes + 63) / 64 * 64), &std::free) {
    std::memset(memory.get(), 0xff, (bytes + 63) / 64 * 64);
  }
  std::unique_ptr<void, void (*)(void*)> memory;
};

// For the empty: a pointer that must not be read, but is not NULL.
float* data(std::vector<float>& v) {
  static float nothing[1];
  return v.empty() ? nothing : v.data();
}

ht_adapter_weights pointers(std::vector<std::vector<float>>& w) {
  float* p[14];
  for (int i = 0; i < 14; ++i) p[i] = w[i].empty() ? nullptr : w[i].data();
  return {p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11], p[12], p[13]};
}

void test_float32(const Case& c, unsigned seed) {
  const Inputs in = random_inputs(c, seed);
  const ht_adapter_shape shape = c.shape();
  const int64_t n = c.tokens();
  std::vector<std::vector<float>> weights, grads;
  for (const Values& w : in.weights) {
    weights.push_back(to_float(w));
    grads.push_back(poisoned(w.size()));
  }
  std::vector<float> x = to_float(in.x), grad_out = to_float(in.grad_out), keep = to_float(in.keep);
  std::vector<float> out = poisoned(x.size()), grad_x = poisoned(x.size());
  std::vector<float> h = poisoned(c.batch * n * c.channels), stats = poisoned(c.batch * n * 2);
  const ht_adapter_weights w = pointers(weights), g = pointers(grads);
  const auto tokens = [&](std::vector<float>& v) { return ht_tokens{data(v), n * c.dim, c.dim}; };

  Workspace forward(ht_adapter_forward_workspace_cpu(&shape, c.threads));
  expect(ht_adapter_forward_cpu(&shape, &w, HT_FLOAT32, tokens(x), data(keep), tokens(out), data(h), data(stats),
                                forward.memory.get(), c.threads) == HT_OK,
         c.name() + ": forward status");
  const Values expected = reference(c, in);
  double error = 0, size = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += std::pow(out[i] - expected[i], 2);
    size += std::pow(expected[i] - in.x[i], 2);
  }
  expect(std::sqrt(error) <= 1e-5 * std::sqrt(size), c.name() + ": output");

  Workspace backward(ht_adapter_backward_workspace_cpu(&shape, c.threads));
  expect(ht_adapter_backward_cpu(&shape, &w, HT_FLOAT32, tokens(grad_out), tokens(x), data(keep), data(h), data(stats),
                                 tokens(grad_x), &g, backward.memory.get(), c.threads) == HT_OK,
         c.name() + ": backward status");
  // Along a random direction of each input, the gradient is the slope of the reference.
  std::mt19937 generator(seed + 1);
  for (int i = 0; i < 15; ++i) {
    const Values& at = i < 14 ? in.weights[i] : in.x;
    const std::vector<float>& gradient = i < 14 ? grads[i] : grad_x;
    if (at.empty()) continue;
    Values along = random_values(generator, at.size(), 1);
    Inputs plus = in, minus = in;
    const double step = 1e-5;
    for (size_t k = 0; k < at.size(); ++k) {
      (i < 14 ? plus.weights[i] : plus.x)[k] += step * along[k];
      (i < 14 ? minus.weights[i] : minus.x)[k] -= step * along[k];
    }
    const double slope = (dot(in.grad_out, reference(c, plus)) - dot(in.grad_out, reference(c, minus))) / (2 * step);
    const Values g64(gradient.begin(), gradient.end());
    const double scale = std::sqrt(dot(g64, g64) * dot(along, along)) + 1e-3;
    expect(std::abs(dot(g64, along) - slope) <= 1e-3 * scale, c.name() + ": gradient of input " + std::to_string(i));
  }
}

uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float from_bfloat16(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

void test_bfloat16(const Case& c) {
  Inputs in = random_inputs(c, 5);
  const ht_adapter_shape shape = c.shape();
  const int64_t n = c.tokens(), step = c.dim + 3;  // tokens that do not touch
  std::vector<uint16_t> x(c.batch * n * step, 0x7fc0), out = x, grad_x = x;
  for (int64_t t = 0; t < c.batch * n; ++t) {
    for (int64_t d = 0; d < c.dim; ++d) {
      x[t * step + d] = to_bfloat16(static_cast<float>(in.x[t * c.dim + d]));
      in.x[t * c.dim + d] = from_bfloat16(x[t * step + d]);
    }
  }
  std::vector<std::vector<float>> weights, grads;
  for (const Values& w : in.weights) {
    weights.push_back(to_float(w));
    grads.push_back(poisoned(w.size()));
  }
  std::vector<float> keep = to_float(in.keep), h = poisoned(c.batch * n * c.channels),
                     stats = poisoned(c.batch * n * 2);
  const ht_adapter_weights w = pointers(weights), g = pointers(grads);
  const auto tokens = [&](std::vector<uint16_t>& v) { return ht_tokens{v.data(), n * step, step}; };
  Workspace forward(ht_adapter_forward_workspace_cpu(&shape, c.threads));
  ht_adapter_forward_cpu(&shape, &w, HT_BFLOAT16, tokens(x), data(keep), tokens(out), data(h), data(stats),
                         forward.memory.get(), c.threads);
  const Values expected = reference(c, in);
  for (int64_t t = 0; t < c.batch * n; ++t) {
    for (int64_t d = 0; d < step; ++d) {
      if (d >= c.dim) {
        expect(out[t * step + d] == 0x7fc0, c.name() + ": wrote between tokens");
      } else {
        const double e = expected[t * c.dim + d];
        expect(std::abs(from_bfloat16(out[t * step + d]) - e) <= 0.005 * std::abs(e) + 0.005, c.name() + ": bfloat16");
      }
    }
  }
  Workspace backward(ht_adapter_backward_workspace_cpu(&shape, c.threads));
  ht_adapter_backward_cpu(&shape, &w, HT_BFLOAT16, tokens(x), tokens(x), nullptr, data(h), data(stats), tokens(grad_x),
                          &g, backward.memory.get(), c.threads);
  for (float v : grads[0]) expect(std::isfinite(v), c.name() + ": gradient in bfloat16");
}

void test_errors() {
  Case c{1, 8, 4, 1, 3, 2, 2, 1, 1};
  ht_adapter_shape shape = c.shape();
  const ht_adapter_weights none{};
  float some[256] = {};
  const ht_tokens tokens{some, 40, 8};
  expect(ht_adapter_forward_cpu(&shape, &none, HT_FLOAT32, tokens, nullptr, tokens, some, some, some, 1) ==
                 HT_INVALID_ARGUMENT &&
             std::strstr(ht_last_error(), "weight is NULL"),
         "a missing weight is named");
  shape.scales = 2;
  expect(ht_adapter_forward_cpu(&shape, &none, HT_FLOAT32, tokens, nullptr, tokens, some, some, some, 1) ==
                 HT_INVALID_ARGUMENT &&
             std::strstr(ht_last_error(), "scales must be 1 or 3, got 2"),
         "a wrong number of scales is named");
}

}  // namespace

int main() {
  const Case cases[] = {
      {1, 7, 4, 1, 3, 1, 1, 0, 1},      {2, 24, 5, 1, 3, 5, 9, 1, 2},   {3, 16, 8, 2, 3, 7, 7, 2, 2},
      {2, 33, 20, 5, 3, 2, 17, 5, 3},   {1, 40, 33, 8, 3, 9, 10, 1, 2}, {3, 20, 4, 1, 1, 4, 4, 1, 2},
      {1, 1, 1, 1, 1, 3, 3, 0, 1},      {5, 64, 32, 8, 3, 6, 6, 1, 4},  {0, 16, 8, 2, 3, 4, 4, 1, 2},
      {1, 100, 16, 4, 1, 12, 14, 3, 2},
  };
  unsigned seed = 0;
  for (const Case& c : cases) test_float32(c, seed += 10);
  test_bfloat16({2, 24, 5, 1, 3, 5, 9, 1, 2});
  test_bfloat16({1, 40, 33, 8, 3, 9, 10, 1, 2});
  test_errors();
  std::printf("%s, %s: %d failures\n", "test_adapter", ht_cpu_isa(), failures);
  return failures != 0;
}
