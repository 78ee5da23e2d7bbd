// The C interface against a plain loop in double precision: values, gradients, and, under sanitizers, memory.

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iterator>
#include <vector>
#include <random>
#include <cstring>
#include <cmath>

#include "oracle.h"

#if !defined(_WIN32)
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace {

double dot(const Values& a, const Values& b) {
  double s = 0;
  for (size_t i = 0; i < a.size(); ++i) s += a[i] * b[i];
  return s;
}

// For the empty: a pointer that must not be read, but is not NULL.
float* data(std::vector<float>& v) {
  static float nothing[1];
  return v.empty() ? nothing : v.data();
}

ht_adapter_weights pointers(std::vector<std::vector<float>>& w) {
  std::vector<float*> p;
  for (auto& values : w) p.push_back(values.empty() ? nullptr : values.data());
  return weights_at<ht_adapter_weights>(p);
}

// The weights packed for the forward; of an empty batch too.
std::unique_ptr<Workspace> prepare(const ht_adapter_shape& shape, const ht_adapter_weights& w, ht_dtype factors,
                                   int threads) {
  auto prepared = std::make_unique<Workspace>(ht_adapter_prepared_cpu(&shape, factors));
  expect(ht_adapter_prepare_cpu(&shape, &w, factors, prepared->memory.get(), threads) == HT_OK, "prepared");
  return prepared;
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The stages of each thread take no longer than the call, and those that a case has take their time.
void expect_stages(const Case& c, const std::vector<double>& seconds, double call, bool backward) {
  double total[HT_STAGES] = {};
  for (int thread = 0; thread < c.threads; ++thread) {
    double sum = 0;
    for (int stage = 0; stage < HT_STAGES; ++stage) {
      sum += seconds[thread * HT_STAGES + stage];
      total[stage] += seconds[thread * HT_STAGES + stage];
    }
    expect(sum <= call, c.name() + ": stages within the call");
  }
  const bool images = c.batch > 0;
  for (ht_stage stage : {HT_STAGE_DOWN, HT_STAGE_NOISE, HT_STAGE_MIX, HT_STAGE_UP}) {
    expect((total[stage] > 0) == images, c.name() + ": stage " + std::to_string(stage));
  }
  expect((total[HT_STAGE_FILTER] > 0) == (images && c.masks > 0), c.name() + ": the stage of the filter");
  expect((total[HT_STAGE_END] > 0) == backward, c.name() + ": the end of a backward");
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

  const auto prepared = prepare(shape, w, HT_FLOAT32, c.threads);
  Workspace forward(ht_adapter_forward_workspace_cpu(&shape, 1, c.threads));
  expect(ht_adapter_forward_cpu(&shape, &w, HT_FLOAT32, prepared->memory.get(), HT_FLOAT32, tokens(x), data(keep),
                                tokens(out), data(h), data(stats), forward.memory.get(), c.threads) == HT_OK,
         c.name() + ": forward status");
  std::vector<float> alone = poisoned(x.size());
  Workspace inference(ht_adapter_forward_workspace_cpu(&shape, 0, c.threads));
  expect(ht_adapter_forward_cpu(&shape, &w, HT_FLOAT32, prepared->memory.get(), HT_FLOAT32, tokens(x), data(keep),
                                tokens(alone), nullptr, nullptr, inference.memory.get(), c.threads) == HT_OK,
         c.name() + ": status without state");
  expect(alone == out, c.name() + ": the same without state");
  std::vector<float> measured = poisoned(x.size());
  std::vector<double> seconds(c.threads * HT_STAGES);
  double start = now();
  ht_adapter_forward_stages_cpu(&shape, &w, HT_FLOAT32, prepared->memory.get(), HT_FLOAT32, tokens(x), data(keep),
                                tokens(measured), nullptr, nullptr, inference.memory.get(), c.threads, seconds.data());
  expect(measured == out, c.name() + ": the same when measured");
  expect_stages(c, seconds, now() - start, false);
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
  std::vector<float> measured_grad_x = poisoned(x.size());
  std::vector<std::vector<float>> measured_grads;
  for (const Values& v : in.weights) measured_grads.push_back(poisoned(v.size()));
  const ht_adapter_weights mg = pointers(measured_grads);
  std::fill(seconds.begin(), seconds.end(), 0);
  start = now();
  ht_adapter_backward_stages_cpu(&shape, &w, HT_FLOAT32, tokens(grad_out), tokens(x), data(keep), data(h), data(stats),
                                 tokens(measured_grad_x), &mg, backward.memory.get(), c.threads, seconds.data());
  expect(measured_grad_x == grad_x && measured_grads == grads, c.name() + ": the same gradients when measured");
  expect_stages(c, seconds, now() - start, true);
  // Along a random direction of each input, the gradient is the slope of the reference.
  std::mt19937 generator(seed + 1);
  for (int i = 0; i < 16; ++i) {
    const Values& at = i < 15 ? in.weights[i] : in.x;
    const std::vector<float>& gradient = i < 15 ? grads[i] : grad_x;
    if (at.empty()) continue;
    Values along = random_values(generator, at.size(), 1);
    Inputs plus = in, minus = in;
    const double step = 1e-5;
    for (size_t k = 0; k < at.size(); ++k) {
      (i < 15 ? plus.weights[i] : plus.x)[k] += step * along[k];
      (i < 15 ? minus.weights[i] : minus.x)[k] -= step * along[k];
    }
    const double slope = (dot(in.grad_out, reference(c, plus)) - dot(in.grad_out, reference(c, minus))) / (2 * step);
    const Values g64(gradient.begin(), gradient.end());
    const double scale = std::sqrt(dot(g64, g64) * dot(along, along)) + 1e-3;
    expect(std::abs(dot(g64, along) - slope) <= 1e-3 * scale, c.name() + ": gradient of input " + std::to_string(i));
  }
}

// Factors in bfloat16, with float32 tokens: the error is that of rounding them, where the instruction set in use
// multiplies bfloat16, and any other gives the bits of float32. The bits are the same for every number of threads.
void test_bfloat16_factors(const Case& c, unsigned seed) {
  const Inputs in = random_inputs(c, seed);
  const ht_adapter_shape shape = c.shape();
  std::vector<std::vector<float>> weights;
  for (const Values& w : in.weights) weights.push_back(to_float(w));
  const ht_adapter_weights w = pointers(weights);
  std::vector<float> x = to_float(in.x), keep = to_float(in.keep);
  const auto tokens = [&](std::vector<float>& v) { return ht_tokens{data(v), c.tokens() * c.dim, c.dim}; };
  const auto run = [&](ht_dtype factors, int threads) {
    std::vector<float> out = poisoned(x.size());
    const auto prepared = prepare(shape, w, factors, threads);
    Workspace forward(ht_adapter_forward_workspace_cpu(&shape, 0, threads));
    expect(ht_adapter_forward_cpu(&shape, &w, factors, prepared->memory.get(), HT_FLOAT32, tokens(x), data(keep),
                                  tokens(out), nullptr, nullptr, forward.memory.get(), threads) == HT_OK,
           c.name() + ": status of factors in bfloat16");
    return out;
  };
  const std::vector<float> out = run(HT_BFLOAT16, c.threads);
  expect(run(HT_BFLOAT16, c.threads) == out, c.name() + ": the same bits again");
  expect(run(HT_BFLOAT16, 1) == out, c.name() + ": the same bits on one thread");
  if (!std::strstr(ht_cpu_isa(), "bf16")) {
    expect(run(HT_FLOAT32, c.threads) == out, c.name() + ": float32 in the place of bfloat16");
    return;
  }
  const Values expected = reference(c, in);
  double error = 0, size = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += std::pow(out[i] - expected[i], 2);
    size += std::pow(expected[i] - in.x[i], 2);
  }
  const double relative = std::sqrt(error / std::max(size, 1e-30));
  expect(relative <= 0.02 && (relative >= 1e-5 || c.batch == 0), c.name() + ": rounded " + std::to_string(relative));
}

void test_bfloat16(const Case& c, ht_dtype factors) {
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
  const auto prepared = prepare(shape, w, factors, c.threads);
  Workspace forward(ht_adapter_forward_workspace_cpu(&shape, 1, c.threads));
  ht_adapter_forward_cpu(&shape, &w, factors, prepared->memory.get(), HT_BFLOAT16, tokens(x), data(keep), tokens(out),
                         data(h), data(stats), forward.memory.get(), c.threads);
  const Values expected = reference(c, in);
  const double most = factors == HT_BFLOAT16 && std::strstr(ht_cpu_isa(), "bf16") ? 0.1 : 0.005;
  for (int64_t t = 0; t < c.batch * n; ++t) {
    for (int64_t d = 0; d < step; ++d) {
      if (d >= c.dim) {
        expect(out[t * step + d] == 0x7fc0, c.name() + ": wrote between tokens");
      } else {
        const double e = expected[t * c.dim + d];
        expect(std::abs(from_bfloat16(out[t * step + d]) - e) <= 0.005 * std::abs(e) + most, c.name() + ": bfloat16");
      }
    }
  }
  Workspace backward(ht_adapter_backward_workspace_cpu(&shape, c.threads));
  ht_adapter_backward_cpu(&shape, &w, HT_BFLOAT16, tokens(x), tokens(x), nullptr, data(h), data(stats), tokens(grad_x),
                          &g, backward.memory.get(), c.threads);
  for (float v : grads[0]) expect(std::isfinite(v), c.name() + ": gradient in bfloat16");
}

// The filter by itself: values and gradients against the sums.
void test_filter(const ht_filter_shape& n, int threads) {
  const std::string name = "filter " + std::to_string(n.height) + "x" + std::to_string(n.width);
  const int64_t count = n.height * n.width, frequencies = n.height * (n.width / 2 + 1) * 2;
  std::mt19937 generator(7);
  const Values x = random_values(generator, n.batch * n.channels * count, 1);
  const Values mask = random_values(generator, n.masks * frequencies, 1);
  const Values grad_out = random_values(generator, x.size(), 1);
  const auto reference = [&](const Values& at, const Values& with) {
    Values out;
    for (int64_t i = 0; i < n.batch * n.channels; ++i) {
      const Values image(at.begin() + i * count, at.begin() + (i + 1) * count);
      const Values f = filtered(image, &with[n.masks > 1 ? i % n.channels * frequencies : 0], n.height, n.width);
      out.insert(out.end(), f.begin(), f.end());
    }
    return out;
  };
  std::vector<float> x32 = to_float(x), mask32 = to_float(mask), grad32 = to_float(grad_out);
  std::vector<float> out = poisoned(x.size()), grad_x = poisoned(x.size()), grad_mask = poisoned(mask.size());
  Workspace forward(ht_spectral_filter_workspace_cpu(&n, 0, threads));
  expect(ht_spectral_filter_cpu(&n, data(x32), data(mask32), data(out), forward.memory.get(), threads) == HT_OK,
         name + ": forward status");
  Values difference = reference(x, mask);
  const double size = dot(difference, difference);
  for (size_t i = 0; i < out.size(); ++i) difference[i] -= out[i];
  expect(dot(difference, difference) <= 1e-10 * size, name + ": output");

  Workspace backward(ht_spectral_filter_workspace_cpu(&n, 1, threads));
  expect(ht_spectral_filter_backward_cpu(&n, data(grad32), data(x32), data(mask32), data(grad_x), data(grad_mask),
                                         backward.memory.get(), threads) == HT_OK,
         name + ": backward status");
  // The filter is linear in the image and in the mask, so a slope is the filter along the direction.
  const Values along_x = random_values(generator, x.size(), 1), along_mask = random_values(generator, mask.size(), 1);
  const Values gx(grad_x.begin(), grad_x.end()), gm(grad_mask.begin(), grad_mask.end());
  const auto near = [](double a, double b, const Values& u, const Values& v) {
    return std::abs(a - b) <= 1e-5 * std::sqrt(dot(u, u) * dot(v, v)) + 1e-12;
  };
  expect(near(dot(gx, along_x), dot(grad_out, reference(along_x, mask)), gx, along_x), name + ": gradient of x");
  expect(near(dot(gm, along_mask), dot(grad_out, reference(x, along_mask)), gm, along_mask), name + ": of the mask");
}

void test_mask(const ht_mask_shape& n, int threads) {
  const std::string name = name_of(n) + " threads=" + std::to_string(threads);
  std::vector<float> logits = random_logits(n, 3);
  std::vector<uint8_t> mask(n.batch * n.height * n.width, 0xee);
  Workspace workspace(ht_grid_to_mask_workspace_cpu(&n, threads));
  expect(ht_grid_to_mask_cpu(&n, logits.data(), mask.data(), workspace.memory.get(), threads) == HT_OK,
         name + ": status");
  const int64_t wrong = wrong_pixels(n, logits, mask.data());
  expect(wrong == 0, name + ": " + std::to_string(wrong) + " wrong pixels");
  std::fill(logits.begin(), logits.end(), n.classes == 1 ? 0.0f : 1.5f);
  expect(ht_grid_to_mask_cpu(&n, logits.data(), mask.data(), workspace.memory.get(), threads) == HT_OK,
         name + ": status of ties");
  expect(std::all_of(mask.begin(), mask.end(), [](uint8_t k) { return k == 0; }), name + ": the first of ties wins");
}

// Near what is not finite the class is any, but a class, and memory is left alone.
void test_mask_of_infinities() {
  const ht_mask_shape n{1, 3, 6, 6, 45, 47};
  std::vector<float> logits = random_logits(n, 4);
  logits[7] = NAN, logits[40] = INFINITY, logits[41] = -INFINITY, logits[80] = INFINITY;
  std::vector<uint8_t> mask(n.height * n.width, 0xee);
  Workspace workspace(ht_grid_to_mask_workspace_cpu(&n, 1));
  ht_grid_to_mask_cpu(&n, logits.data(), mask.data(), workspace.memory.get(), 1);
  expect(std::all_of(mask.begin(), mask.end(), [](uint8_t k) { return k < 3; }), "not finite: a class everywhere");
}

void test_mask_errors() {
  const float logits[4] = {};
  uint8_t mask[4];
  const auto fails = [&](const ht_mask_shape& n, int threads, const char* sentence) {
    alignas(64) static char memory[4096];
    expect(ht_grid_to_mask_cpu(&n, logits, mask, memory, threads) == HT_INVALID_ARGUMENT &&
               std::strstr(ht_last_error(), sentence),
           std::string("an error of masks says: ") + sentence);
  };
  fails({1, 257, 1, 1, 1, 1}, 1, "classes must be 1 to 256, got 257");
  fails({1, 0, 1, 1, 1, 1}, 1, "classes must be 1 to 256, got 0");
  fails({1, 2, 1, 0, 1, 1}, 1, "sides of 1 to 2^24, got 0");
  fails({1, 2, 1, 1, 1, int64_t{1} << 40}, 1, "sides of 1 to 2^24, got 1099511627776");
  fails({-1, 2, 1, 1, 1, 1}, 1, "batch must not be negative");
  fails({1, 2, 1, 1, 1, 1}, 0, "threads must be positive, got 0");
  const ht_mask_shape good{1, 2, 1, 1, 1, 1};
  expect(ht_grid_to_mask_cpu(&good, logits, nullptr, mask, 1) == HT_INVALID_ARGUMENT &&
             std::strstr(ht_last_error(), "must not be NULL"),
         "a missing mask is named");
}

// Weights of a fold, each in memory of its own, so that a sanitizer sees a read beyond its end.
template <class Struct>
struct Owned {
  std::vector<std::vector<float>> values;
  Struct pointers;

  explicit Owned(const std::vector<int64_t>& counts) {
    for (int64_t count : counts) values.emplace_back(static_cast<size_t>(count));
    std::vector<float*> p;
    for (auto& v : values) p.push_back(v.empty() ? nullptr : v.data());
    std::memcpy(&pointers, p.data(), sizeof pointers);
  }

  void draw(std::mt19937& random) {
    std::normal_distribution<float> normal;
    for (auto& v : values) std::generate(v.begin(), v.end(), [&] { return normal(random); });
  }
};

// The gradient along a direction is the slope of a weighted sum of the results, which are products of a few parts.
void test_fold(const ht_fold_shape& n, unsigned seed) {
  std::mt19937 random(seed);
  const int64_t d = n.dim, c = n.bottleneck, scales = n.hidden ? 3 : 1;
  const std::vector<int64_t> counts{c * d, c, d, d, d, n.gains, c * 9, c * 25, c * 49, c, c, c, n.hidden * c, c * c};
  Owned<ht_fold_parts> parts(counts), direction(counts), moved(counts), grads(counts);
  const std::vector<int64_t> result_counts{d, c, scales * c * 49, scales * c, n.hidden * c, c * c};
  Owned<ht_fold_results> results(result_counts), weights(result_counts);
  std::vector<float> down_weight(static_cast<size_t>(c * d));
  for (auto* each : {&parts, &direction}) each->draw(random);
  weights.draw(random);
  const auto score = [&](float step) {
    double sum = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      for (size_t j = 0; j < parts.values[i].size(); ++j) {
        moved.values[i][j] = parts.values[i][j] + step * direction.values[i][j];
      }
    }
    expect(ht_adapter_fold_cpu(&n, &moved.pointers, &results.pointers) == HT_OK, "a fold");
    for (size_t i = 0; i < result_counts.size(); ++i) {
      for (size_t j = 0; j < results.values[i].size(); ++j) {
        sum += double(results.values[i][j]) * weights.values[i][j];
      }
    }
    return sum;
  };
  const double slope = (score(0.01f) - score(-0.01f)) / 0.02;
  const ht_status status = ht_adapter_fold_backward_cpu(&n, &parts.pointers, down_weight.data(), &weights.pointers,
                                                        &grads.pointers);
  expect(status == HT_OK, "the gradient of a fold");
  double along = 0, scale = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    for (size_t j = 0; j < grads.values[i].size(); ++j) {
      const double term = double(grads.values[i][j]) * direction.values[i][j];
      along += term, scale += term * term;
    }
  }
  expect(std::abs(along - slope) < 0.01 * std::sqrt(scale), "the gradient of a fold along a direction");
  const ht_fold_shape wrong{d, c, n.hidden, c + 1, n.masked};
  expect(ht_adapter_fold_cpu(&wrong, &parts.pointers, &results.pointers) == HT_INVALID_ARGUMENT &&
             std::strstr(ht_last_error(), "gains must be 0, 1 or bottleneck"),
         "an error of a fold");
}

void test_errors() {
  Case c{1, 8, 4, 1, 3, 2, 2, 1, 1};
  ht_adapter_shape shape = c.shape();
  const ht_adapter_weights none{};
  float some[256] = {};
  const ht_tokens tokens{some, 40, 8};
  const auto fails = [&](ht_dtype factors, ht_dtype dtype, const char* sentence) {
    expect(ht_adapter_forward_cpu(&shape, &none, factors, some, dtype, tokens, nullptr, tokens, some, some, some, 1) ==
                   HT_INVALID_ARGUMENT &&
               std::strstr(ht_last_error(), sentence),
           std::string("an error says: ") + sentence);
  };
  fails(HT_FLOAT32, HT_FLOAT32, "the weight down_weight is NULL");
  fails(HT_FLOAT16, HT_FLOAT32, "factors must be HT_FLOAT32 or HT_BFLOAT16");
  fails(HT_FLOAT32, HT_FLOAT16, "dtype must be HT_FLOAT32 or HT_BFLOAT16");
  shape.scales = 2;
  fails(HT_FLOAT32, HT_FLOAT32, "scales must be 1 or 3, got 2");
}

// Sizes of memory are asked for before the call that would refuse the shape.
void test_no_memory_for_a_wrong_shape() {
  const auto none = [](size_t bytes, const char* sentence) {
    expect(bytes == 0 && std::strstr(ht_last_error(), sentence), std::string("no memory, but: ") + sentence);
  };
  ht_adapter_shape shape = Case{1, 8, 4, 1, 3, 2, 2, 1, 1}.shape();
  shape.grid_width = 0;
  none(ht_adapter_prepared_cpu(&shape, HT_FLOAT32), "grid must be positive");
  shape = Case{1, 8, 4, 1, 3, 2, 2, 1, 1}.shape();
  shape.dim = 0;
  none(ht_adapter_forward_workspace_cpu(&shape, 1, 1), "grid must be positive");
  shape.dim = 8, shape.scales = 2;
  none(ht_adapter_backward_workspace_cpu(&shape, 1), "scales must be 1 or 3, got 2");
  none(ht_adapter_forward_workspace_cpu(nullptr, 0, 1), "shape must not be NULL");
  shape.scales = 3;
  none(ht_adapter_forward_workspace_cpu(&shape, 1, 0), "threads must be positive, got 0");
  none(ht_adapter_prepared_cpu(&shape, HT_FLOAT16), "factors must be HT_FLOAT32 or HT_BFLOAT16");
  for (int64_t ht_adapter_shape::* size : {&ht_adapter_shape::batch, &ht_adapter_shape::dim, &ht_adapter_shape::hidden,
                                           &ht_adapter_shape::grid_height, &ht_adapter_shape::prefix_tokens}) {
    ht_adapter_shape large = shape;
    large.*size = INT64_MAX;
    none(ht_adapter_prepared_cpu(&large, HT_FLOAT32), "more than 2^44 numbers");
    none(ht_adapter_forward_workspace_cpu(&large, 1, 1), "more than 2^44 numbers");
  }
  const ht_filter_shape filter{1, 4, 0, 3, 1};
  none(ht_spectral_filter_workspace_cpu(&filter, 0, 1), "height and width must be positive");
  const ht_filter_shape large{1, 4, int64_t{1} << 32, int64_t{1} << 32, 1};
  none(ht_spectral_filter_workspace_cpu(&large, 0, 1), "more than 2^44 numbers");
  const ht_mask_shape mask{1, 2, 1, 0, 1, 1};
  none(ht_grid_to_mask_workspace_cpu(&mask, 1), "sides of 1 to 2^24, got 0");
}

// A forked process runs a case on threads, after this one has done so. If it hangs, the alarm ends it.
void test_fork(const Case& c) {
#if !defined(_WIN32)
  test_float32(c, 1);
  const pid_t child = fork();
  if (child == 0) {
    alarm(120);
    const int before = failures;
    test_float32(c, 1);
    _exit(failures != before);
  }
  int status = 0;
  expect(child > 0 && waitpid(child, &status, 0) == child && status == 0, c.name() + ": in a forked process");
#else
  (void)c;
#endif
}

}  // namespace

int main() {
  // Emulated processors take a minute for what is large.
  const bool all = !std::getenv("HT_KERNELS_SHORT_TESTS");
  std::vector<Case> cases = {
      {1, 7, 4, 1, 3, 1, 1, 0, 1},        {2, 24, 5, 1, 3, 5, 9, 1, 2},    {3, 16, 8, 2, 3, 7, 7, 2, 2},
      {2, 33, 20, 5, 3, 2, 17, 5, 3},     {1, 40, 33, 8, 3, 9, 10, 1, 2},  {3, 20, 4, 1, 1, 4, 4, 1, 2},
      {1, 1, 1, 1, 1, 3, 3, 0, 1},        {5, 64, 32, 8, 3, 6, 6, 1, 4},   {0, 16, 8, 2, 3, 4, 4, 1, 2},
      {1, 100, 16, 4, 1, 12, 14, 3, 2},   {2, 24, 5, 1, 3, 5, 6, 1, 2, 5}, {3, 16, 8, 2, 3, 4, 7, 2, 2, 1},
      {1, 40, 33, 8, 3, 9, 10, 1, 3, 33}, {3, 20, 4, 1, 1, 2, 2, 0, 2, 4}, {0, 16, 8, 2, 3, 4, 4, 1, 2, 8},
  };
  const Case large[] = {
      {4, 64, 32, 8, 3, 12, 12, 0, 3, 32},  // the first that is large enough for several threads
      {1, 24, 16, 4, 1, 64, 64, 0, 2},
      {1, 1536, 16, 4, 1, 7, 7, 0, 2},
  };
  if (all) cases.insert(cases.end(), std::begin(large), std::end(large));
  unsigned seed = 0;
  for (const Case& c : cases) test_float32(c, seed += 10);
  for (const Case& c : cases) test_bfloat16_factors(c, seed += 10);
  for (ht_dtype factors : {HT_FLOAT32, HT_BFLOAT16}) {
    test_bfloat16({2, 24, 5, 1, 3, 5, 9, 1, 2}, factors);
    test_bfloat16({1, 40, 33, 8, 3, 9, 10, 1, 2}, factors);
  }
  test_filter({2, 5, 6, 7, 5}, 2);
  test_filter({3, 40, 4, 4, 1}, 3);
  test_filter({1, 33, 1, 9, 33}, 1);
  test_filter({0, 3, 2, 2, 3}, 2);
  if (all) test_filter({3, 40, 12, 12, 40}, 2);  // on several threads
  for (const ht_mask_shape& n : kMasks) test_mask(n, 2);
  if (all) test_mask({1, 2, 14, 14, 1080, 1920}, 3);  // on several threads
  test_mask({3, 32, 14, 14, 120, 160}, 2);
  test_mask_of_infinities();
  test_mask_errors();
  for (const ht_fold_shape& n : {ht_fold_shape{37, 5, 1, 5, 0}, {16, 8, 2, 0, 0}, {1, 1, 0, 1, 0}, {40, 33, 0, 33, 0},
                                 {24, 5, 1, 5, 1}, {24, 5, 1, 1, 1}, {768, 64, 16, 64, 0}}) {
    test_fold(n, ++seed);
  }
  test_errors();
  test_no_memory_for_a_wrong_shape();
  test_fork({2, 96, 32, 8, 3, 14, 14, 1, 3});
  std::printf("%s, %s: %d failures\n", "test_adapter", ht_cpu_isa(), failures);
  return failures != 0;
}
