// The CUDA kernels, their own source on the CPU (cuda_on_cpu/), through the C interface: against the oracle, under
// sanitizers, with the threads of a block in two orders.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/float32/plan.h"
#include "cuda/plan.h"
#include "oracle.h"
#include "status.h"

namespace {

float round_to(float value, ht_dtype dtype) {
  if (dtype == HT_BFLOAT16) return from_bfloat16(to_bfloat16(value));
  return dtype == HT_FLOAT16 ? __half2float(__float2half_rn(value)) : value;
}

// Values in a dtype, aligned as the GPU's allocator aligns, of exactly their size.
class Device {
 public:
  Device(const Values& values, ht_dtype dtype) : dtype_(dtype), count_(values.size()) {
    bytes_ = count_ * (dtype == HT_FLOAT32 ? 4 : 2);
    memory_ = std::malloc(bytes_ + 1);
    for (size_t i = 0; i < count_; ++i) {
      const float value = static_cast<float>(values[i]);
      if (dtype == HT_FLOAT32) static_cast<float*>(memory_)[i] = value;
      if (dtype == HT_BFLOAT16) static_cast<uint16_t*>(memory_)[i] = to_bfloat16(value);
      if (dtype == HT_FLOAT16) static_cast<uint16_t*>(memory_)[i] = __float2half_rn(value).bits;
    }
  }
  ~Device() { std::free(memory_); }
  Device(const Device&) = delete;

  void* data() const { return memory_; }
  float operator[](size_t i) const {
    if (dtype_ == HT_FLOAT32) return static_cast<float*>(memory_)[i];
    const uint16_t bits = static_cast<uint16_t*>(memory_)[i];
    return dtype_ == HT_BFLOAT16 ? from_bfloat16(bits) : __half2float({bits});
  }
  bool same_bits(const Device& other) const { return !std::memcmp(memory_, other.memory_, bytes_); }

 private:
  ht_dtype dtype_;
  size_t count_, bytes_;
  void* memory_;
};

const char* name_of(ht_dtype dtype, bool tf32) {
  if (dtype == HT_FLOAT32) return tf32 ? "tf32" : "float32";
  return dtype == HT_BFLOAT16 ? "bfloat16" : "float16";
}

// What rounding a number to a dtype may cost, as a part of it.
double last_place(ht_dtype dtype) { return dtype == HT_FLOAT32 ? 0 : dtype == HT_BFLOAT16 ? 4e-3 : 5e-4; }

// The weights of an adapter on the device. What they are rounded to is written back to the inputs.
class PlacedWeights {
 public:
  ht_adapter_weights_cuda weights;

  PlacedWeights(Inputs& in, ht_dtype dtype) {
#define HT_PLACE(name, kind, when) place(in, ht::Kind::kind == ht::Kind::MATRIX ? dtype : HT_FLOAT32);
    HT_ADAPTER_WEIGHTS(HT_PLACE)
#undef HT_PLACE
    weights = weights_at<ht_adapter_weights_cuda>(pointers_);
  }

 private:
  std::vector<std::unique_ptr<Device>> memory_;
  std::vector<const void*> pointers_;

  void place(Inputs& in, ht_dtype stored) {
    Values& values = in.weights[memory_.size()];
    for (double& v : values) v = round_to(static_cast<float>(v), stored);
    memory_.push_back(std::make_unique<Device>(values, stored));
    pointers_.push_back(values.empty() ? nullptr : memory_.back()->data());
  }
};

// The LayerNorm of tokens with a distance of `step` numbers, without gain and bias.
Values layer_norm(const Device& tokens, int64_t count, int64_t dim, int64_t step, double eps) {
  Values normed;
  for (int64_t t = 0; t < count; ++t) {
    double mean = 0, squares = 0;
    for (int64_t d = 0; d < dim; ++d) mean += tokens[t * step + d] / static_cast<double>(dim);
    for (int64_t d = 0; d < dim; ++d) squares += std::pow(tokens[t * step + d] - mean, 2);
    for (int64_t d = 0; d < dim; ++d) {
      normed.push_back((tokens[t * step + d] - mean) / std::sqrt(squares / static_cast<double>(dim) + eps));
    }
  }
  return normed;
}

// Compares normed with the LayerNorm of out as it was stored: only its own rounding is left, and that of float32 to
// the mean.
void check_normed(const std::string& name, const Device& out, const Device& normed, const Case& c, int64_t step,
                  double eps, ht_dtype dtype) {
  const Values expected = layer_norm(out, c.batch * c.tokens(), c.dim, step, eps);
  double error = 0, size = 0;
  for (int64_t i = 0; i < c.batch * c.tokens() * c.dim; ++i) {
    error += std::pow(normed[i / c.dim * step + i % c.dim] - expected[i], 2), size += expected[i] * expected[i];
  }
  const double bound = (dtype == HT_FLOAT32 ? 1e-6 : 0.75 * last_place(dtype)) * std::sqrt(size);
  char text[100];
  std::snprintf(text, sizeof text, ": normed: error %.2g, at most %.2g", std::sqrt(error), bound);
  expect(std::sqrt(error) <= bound, name + text);  // false for NaN too
}

// What rounding the matrices, u, h, Y and gelu(m) may cost, as a part of out - x.
double tolerance(ht_dtype dtype, bool tf32) {
  if (dtype == HT_FLOAT32) return tf32 ? 8e-4 : 1e-5;
  return dtype == HT_BFLOAT16 ? 1.5e-2 : 2e-3;
}

void test(const Case& c, ht_dtype dtype, bool tf32, unsigned seed) {
  Inputs in = random_inputs(c, seed);
  in.keep.assign(in.keep.size(), 1.0);
  for (double& v : in.x) v = round_to(static_cast<float>(v), dtype);
  const std::string name = c.name() + " " + name_of(dtype, tf32);
  const ht_adapter_shape shape = c.shape();
  const int64_t n = c.tokens(), gap = 8, step = c.dim + gap;  // tokens that do not touch
  Values wide(c.batch * n * step, 777.0);
  for (int64_t t = 0; t < c.batch * n; ++t) {
    for (int64_t d = 0; d < c.dim; ++d) wide[t * step + d] = in.x[t * c.dim + d];
  }
  const PlacedWeights placed(in, dtype);
  const ht_adapter_weights_cuda& w = placed.weights;
  Workspace prepared(ht_adapter_prepared_cuda(&shape, dtype));
  const ht_status ready = ht_adapter_prepare_cuda(&shape, &w, dtype, prepared.memory.get(), nullptr);
  expect(ready == HT_OK, name + ": " + (ready == HT_OK ? "" : ht_last_error()));
  const Values poison(wide.size(), 777.0);
  const Device x(wide, dtype), out(poison, dtype), again(poison, dtype), normed(poison, dtype);
  const auto tokens = [&](const Device& d) { return ht_tokens{d.data(), n * step, step}; };
  const float norm_eps = 1e-3f;
  for (const Device* to : {&out, &again}) {
    emulated.last_thread_first = emulated.overlaps = to == &again;
    Workspace workspace(ht_adapter_forward_workspace_cuda(&shape, dtype));
    const ht_tokens beside = to == &again ? tokens(normed) : ht_tokens{};
    const ht_status status = ht_adapter_forward_cuda(&shape, &w, dtype, tf32, prepared.memory.get(), tokens(x),
                                                     tokens(*to), beside, norm_eps, workspace.memory.get(), nullptr);
    emulated_synchronize();
    emulated.overlaps = false;
    expect(status == HT_OK, name + ": " + (status == HT_OK ? "" : ht_last_error()));
  }
  expect(out.same_bits(again), name + ": the order of threads and kernels, or a norm beside, changes the result");
  check_normed(name, out, normed, c, step, norm_eps, dtype);

  const Values expected = reference(c, in);
  double error = 0, size = 0, rounding = 0;
  for (int64_t t = 0; t < c.batch * n; ++t) {
    for (int64_t d = 0; d < step; ++d) {
      const double got = out[t * step + d];
      if (d >= c.dim) {
        expect(got == round_to(777, dtype) && normed[t * step + d] == got, name + ": wrote between tokens");
        continue;
      }
      const double e = expected[t * c.dim + d];
      error += (got - e) * (got - e);
      size += std::pow(e - in.x[t * c.dim + d], 2);
      rounding += std::pow(last_place(dtype) * e, 2);
    }
  }
  const double bound = tolerance(dtype, tf32) * std::sqrt(size) + std::sqrt(rounding);
  char text[100];
  std::snprintf(text, sizeof text, ": error %.2g, at most %.2g", std::sqrt(error), bound);
  expect(std::sqrt(error) <= bound, name + text);  // false for NaN too
}

// h of tokens whose mean is many deviations away from 0, against double precision. Only the normalised part is there,
// so nothing else hides an error of the mean or of the variance. h is the first part of the workspace.
void test_large_mean(ht_dtype dtype, double mean, double bound, unsigned seed) {
  const Case c{2, 264, 24, 6, 3, 5, 9, 1, 1};
  Inputs in = random_inputs(c, seed);
  const ht_adapter_shape shape = c.shape();
  const int64_t rows = c.batch * c.tokens();
  for (double& v : in.x) v = round_to(static_cast<float>(v + mean), dtype);
  std::fill(in.weights[1].begin(), in.weights[1].end(), 1.0);  // norm_gain
  std::fill(in.weights[2].begin(), in.weights[2].end(), 0.0);  // skip_gain
  const PlacedWeights placed(in, dtype);
  const ht_adapter_weights_cuda& w = placed.weights;
  const Values poison(in.x.size(), 777.0);
  const Device x(in.x, dtype), out(poison, dtype), normed(poison, dtype);
  Workspace prepared(ht_adapter_prepared_cuda(&shape, dtype));
  Workspace workspace(ht_adapter_forward_workspace_cuda(&shape, dtype));
  const auto tokens = [&](const Device& d) { return ht_tokens{d.data(), c.tokens() * c.dim, c.dim}; };
  ht_adapter_prepare_cuda(&shape, &w, dtype, prepared.memory.get(), nullptr);
  ht_adapter_forward_cuda(&shape, &w, dtype, 0, prepared.memory.get(), tokens(x), tokens(out), tokens(normed), 1e-5f,
                          workspace.memory.get(), nullptr);
  char name[60];
  std::snprintf(name, sizeof name, "tokens with mean %g in %s", mean, name_of(dtype, false));
  check_normed(name, out, normed, c, c.dim, 1e-5, dtype);
  const uint16_t* h = reinterpret_cast<const uint16_t*>(workspace.memory.get());
  double error = 0, size = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const double* x_row = &in.x[row * c.dim];
    double sum = 0, squares = 0;
    for (int64_t d = 0; d < c.dim; ++d) sum += x_row[d];
    for (int64_t d = 0; d < c.dim; ++d) squares += std::pow(x_row[d] - sum / c.dim, 2);
    for (int64_t k = 0; k < c.channels; ++k) {
      double expected = 0;
      for (int64_t d = 0; d < c.dim; ++d) expected += in.weights[0][k * c.dim + d] * (x_row[d] - sum / c.dim);
      expected = expected / std::sqrt(squares / c.dim + 1e-5) + in.weights[3][k];
      const uint16_t bits = h[row * c.channels + k];
      error += std::pow((dtype == HT_BFLOAT16 ? from_bfloat16(bits) : __half2float({bits})) - expected, 2);
      size += expected * expected;
    }
  }
  char text[160];
  std::snprintf(text, sizeof text, "h of %s: error %.2g, at most %.2g", name, std::sqrt(error / size), bound);
  expect(std::sqrt(error / size) <= bound, text);  // false for NaN too
}

void test_filter(const ht_filter_shape& s, ht_dtype dtype, unsigned seed) {
  std::mt19937 generator(seed);
  const int64_t count = s.height * s.width, frequencies = s.height * (s.width / 2 + 1) * 2;
  Values images = random_values(generator, s.batch * s.channels * count, 1);
  for (double& v : images) v = round_to(static_cast<float>(v), dtype);
  const Values masks = random_values(generator, s.masks * frequencies, 1);
  char name[200];
  std::snprintf(name, sizeof name, "filter B=%d C=%d %dx%d masks=%d %s", (int)s.batch, (int)s.channels, (int)s.height,
                (int)s.width, (int)s.masks, name_of(dtype, false));
  const Values poison(images.size(), 777.0);
  const Device x(images, dtype), mask(masks, HT_FLOAT32), out(poison, dtype), again(poison, dtype);
  for (const Device* to : {&out, &again}) {
    emulated.last_thread_first = to == &again;
    const ht_status status =
        ht_spectral_filter_cuda(&s, dtype, x.data(), static_cast<const float*>(mask.data()), to->data(), nullptr);
    expect(status == HT_OK, std::string(name) + ": " + (status == HT_OK ? "" : ht_last_error()));
  }
  expect(out.same_bits(again), std::string(name) + ": the order of the threads changes the result");
  double error = 0, size = 0;
  for (int64_t plane = 0; plane < s.batch * s.channels; ++plane) {
    const Values image(images.begin() + plane * count, images.begin() + (plane + 1) * count);
    const double* m = &masks[s.masks > 1 ? plane % s.channels * frequencies : 0];
    const Values expected = filtered(image, m, s.height, s.width);
    for (int64_t q = 0; q < count; ++q) {
      error += std::pow(out[plane * count + q] - expected[q], 2);
      size += std::pow(expected[q], 2);
    }
  }
  const double bound = (dtype == HT_FLOAT32 ? 1e-6 : last_place(dtype)) * std::sqrt(size);
  char text[100];
  std::snprintf(text, sizeof text, ": error %.2g, at most %.2g", std::sqrt(error), bound);
  expect(std::sqrt(error) <= bound, std::string(name) + text);  // false for NaN too
}

void test_mask(const ht_mask_shape& n, int64_t offset) {
  const std::vector<float> logits = random_logits(n, 3);
  const int64_t count = n.batch * n.height * n.width;
  std::vector<uint8_t> mask(offset + count, 0xee);
  const ht_status status = ht_grid_to_mask_cuda(&n, logits.data(), mask.data() + offset, nullptr);
  expect(status == HT_OK, name_of(n) + ": " + (status == HT_OK ? "" : ht_last_error()));
  const int64_t wrong = wrong_pixels(n, logits, mask.data() + offset);
  expect(wrong == 0, name_of(n) + ": " + std::to_string(wrong) + " wrong pixels");
  expect(offset == 0 || mask[0] == 0xee, name_of(n) + ": wrote before the mask");
  const std::vector<float> ties(logits.size(), n.classes == 1 ? 0.0f : 1.5f);
  ht_grid_to_mask_cuda(&n, ties.data(), mask.data() + offset, nullptr);
  expect(std::all_of(mask.begin() + offset, mask.end(), [](uint8_t k) { return k == 0; }),
         name_of(n) + ": the first of ties wins");
}

// Another device, for a device never changes.
void pretend(const ht::cuda::Device& device) {
  ++emulated.device;
  emulated.multiprocessors = device.multiprocessors;
  emulated.block_bytes = device.block_bytes, emulated.multiprocessor_bytes = device.multiprocessor_bytes;
  emulated.reserved_bytes = device.reserved_bytes, emulated.capability = device.capability;
}

// The tables of the CUDA C++ Programming Guide, by compute capability: kilobytes of shared memory that a
// multiprocessor has, one less that a block can have from 8.0 on, where CUDA takes that one from each block.
ht::cuda::Device device_with(int multiprocessors, int kilobytes, int capability = 90) {
  const int reserved = capability < 80 ? 0 : 1024;
  return {multiprocessors, kilobytes * 1024 - reserved, kilobytes * 1024, reserved, capability};
}

const struct {
  const char* name;
  ht::cuda::Device device;
} kDevices[] = {
    {"T4", device_with(40, 64, 75)},          {"A100", device_with(108, 164, 80)},
    {"RTX 3060", device_with(28, 100, 86)},   {"AGX Orin", device_with(16, 164, 87)},
    {"L4", device_with(58, 100, 89)},         {"RTX 4090", device_with(128, 100, 89)},
    {"H100", device_with(132, 228)},          {"B200", device_with(148, 228, 100)},
    {"RTX 5090", device_with(170, 100, 120)},
};

ht_adapter_shape shape_of(int64_t batch, int64_t dim, int64_t channels, int64_t side = 14) {
  return {batch, dim, channels, channels / 4, 3, side, side, 1, 0, 1e-5f};
}

void test_tiles() {
  using ht::cuda::DownTokens;
  using ht::cuda::MixTokens;
  const ht::cuda::Device h100 = device_with(132, 228), t4 = device_with(40, 64, 75);
  const auto plan = [](int64_t batch, const ht::cuda::Device& device) {
    return ht::cuda::make_plan(shape_of(batch, 768, 64), device);
  };
  expect(plan(1, h100).down == DownTokens::kNarrow, "one image: narrow tiles");
  expect(plan(8, h100).down == DownTokens::kShort, "8 images: short tiles");
  expect(plan(32, h100).down == DownTokens::kMedium, "32 images: medium tiles");
  expect(plan(64, h100).down == DownTokens::kWide, "64 images: wide tiles");
  expect(plan(1, h100).mix == MixTokens::kSmall && plan(1, h100).slices > 1, "one image: small tiles, slices of D");
  expect(plan(32, h100).mix == MixTokens::kMiddle, "32 images: tiles of 64 tokens");
  expect(plan(64, h100).mix == MixTokens::kLarge && plan(64, h100).slices == 1, "64 images: tiles of 128 tokens");
  expect(plan(64, h100).early && plan(64, h100).stages == 2, "with room, weights are fetched early and in two stages");
  expect(plan(64, t4).mix == MixTokens::kMiddle && !plan(64, t4).early, "with little room, they take that of the halo");
  const auto float32 = [](int64_t batch) {
    return ht::cuda::float32::make_plan(shape_of(batch, 768, 64), device_with(132, 228));
  };
  expect(float32(1).down == ht::cuda::float32::DownTokens::kNarrow && float32(1).slices > 1, "one image in float32");
  expect(float32(64).mix_rows == 32, "64 images in float32: long tiles");
}

void check_plan(const char* name, const ht::cuda::Device& device, const ht_adapter_shape& s) {
  const int64_t tokens = 1 + s.grid_height * s.grid_width;
  const auto good = [&](bool right, const char* what) {
    char text[200];
    std::snprintf(text, sizeof text, "plan on %s for B=%d D=%d C=%d %dx%d: %s", name, (int)s.batch, (int)s.dim,
                  (int)s.bottleneck, (int)s.grid_height, (int)s.grid_width, what);
    expect(right, text);
  };
  const ht::cuda::float32::Plan f = ht::cuda::float32::make_plan(s, device);
  good(f.down_rows > 0 && f.down_tiles * f.down_rows >= tokens, "every token has a tile in float32");
  good(f.chunk % 32 == 0 && f.chunk > 0 && (!f.held || f.chunk >= s.dim), "chunk");
  good(f.slice % 32 == 0 && f.slices * f.slice >= s.dim && (f.slices - 1) * f.slice < s.dim, "slices in float32");
  good(f.mix_blocks >= 1 && f.mix_blocks <= (tokens + f.mix_rows - 1) / f.mix_rows, "blocks in float32");
  good(device.resident(f.down_bytes) >= 1 && device.resident(f.mix_bytes) >= 1, "a block in float32 fits");

  const ht::cuda::Plan p = ht::cuda::make_plan(s, device);
  good(p.down_rows > 0 && p.down_tiles * p.down_rows >= tokens, "every token has a tile");
  good(p.slice % 32 == 0 && p.slices * p.slice >= s.dim && (p.slices - 1) * p.slice < s.dim, "slices");
  good(p.mix_blocks >= 1 && p.mix_blocks <= p.grid.tiles, "blocks");
  good(p.grid.height * p.grid.width <= p.mix_rows, "a tile has a slot for every patch");
  good(p.grid.across * p.grid.width >= s.grid_width, "tiles reach across");
  good(p.grid.patch_tiles / p.grid.across * p.grid.height >= s.grid_height, "tiles reach down");
  good(device.resident(p.down_bytes) >= 1, "a block of down_project fits");
  const bool may_not_fit = device.capability < 80 && s.bottleneck > 64;
  good(device.resident(p.layout.bytes) >= 1 || may_not_fit, "a block of mix_and_up_project fits");
}

void test_plans() {
  for (const auto& known : kDevices) {
    for (const int64_t batch : {1, 2, 8, 32, 64, 500}) {
      for (const int64_t dim : {8, 96, 192, 384, 512, 768, 1024, 1152, 1280, 1536, 1664, 4096}) {
        for (const int64_t channels : {8, 16, 64, 128}) {
          for (const int64_t side : {2, 14, 37, 64}) {
            check_plan(known.name, known.device, shape_of(batch, dim, channels, side));
          }
        }
      }
    }
  }
}

// Host threads that launch the same kernel with different sizes: one sets its limit of shared memory, another launches
// a smaller call, the first goes on to launch.
void test_two_threads_launch() {
  const Case large{2, 768, 64, 16, 1, 1, 2, 0, 1}, small{2, 512, 64, 16, 1, 1, 2, 0, 1};
  pretend(device_with(1, 228));
  const int most = ht::cuda::make_plan(shape_of(2, 512, 64, 1), device_with(1, 228)).down_bytes;
  expect(most > 48 * 1024, "the smaller call needs a limit too");
  emulated.meanwhile = [&] { test(small, HT_FLOAT16, false, 1); };
  test(large, HT_FLOAT16, false, 2);
  pretend(device_with(1, 228));  // a second device has a limit of its own
  test(large, HT_FLOAT16, false, 3);
}

void test_errors() {
  Case c{1, 12, 8, 2, 3, 2, 2, 1, 1};
  const ht_adapter_shape shape = c.shape();
  const ht_adapter_weights_cuda none{};
  const ht_tokens tokens{};
  expect(ht_adapter_forward_cuda(&shape, &none, HT_FLOAT32, 0, nullptr, tokens, tokens, tokens, 0, nullptr, nullptr) ==
                 HT_INVALID_ARGUMENT &&
             std::strstr(ht_last_error(), "multiples of 8"),
         "a width that is not a multiple of 8 is named");
  const ht_filter_shape large{1, 1, 65, 4, 1};
  expect(ht_spectral_filter_cuda(&large, HT_FLOAT32, &none, &shape.eps, &c, nullptr) == HT_INVALID_ARGUMENT &&
             std::strstr(ht_last_error(), "up to 64x64, got 65x4"),
         "a grid that is too large is named");

  // Where nothing is read, any address does.
  alignas(16) static char memory[16];
  const auto* p = reinterpret_cast<const float*>(memory);
  const auto weights = weights_at<ht_adapter_weights_cuda>(std::vector<const float*>(15, p));
  const ht_tokens somewhere{memory, 16, 8};
  ht_adapter_shape call{1, 8, 8, 2, 3, 1, 1, 1, 0, 1e-5f};
  ht_tokens normed{};
  float norm_eps = 0;
  const auto forward = [&] {
    return ht_adapter_forward_cuda(&call, &weights, HT_FLOAT32, 0, nullptr, somewhere, somewhere, normed, norm_eps,
                                   memory, nullptr);
  };
  normed = somewhere;
  expect(forward() == HT_INVALID_ARGUMENT && std::strstr(ht_last_error(), "norm_eps must be positive, got 0"),
         "an eps of 0 is named");
  norm_eps = 1;
  normed.token_stride = 12;
  expect(forward() == HT_INVALID_ARGUMENT && std::strstr(ht_last_error(), "strides that are multiples of 8"),
         "a stride of normed that is not a multiple of 8 is named");
  normed = {};
  emulated.refuses = true;
  expect(forward() == HT_CUDA_ERROR && std::strstr(ht_last_error(), "down_project did not start: invalid value"),
         "a launch that is refused is named");
  expect(cudaGetLastError() == cudaSuccess, "a launch that is refused leaves no error to others");
  const ht_filter_shape filter{1, 1, 4, 4, 1};
  expect(ht_spectral_filter_cuda(&filter, HT_FLOAT32, memory, p, memory, nullptr) == HT_CUDA_ERROR &&
             cudaGetLastError() == cudaSuccess,
         "nor does one of the spectral filter");
  const ht_mask_shape mask{1, 2, 1, 1, 1, 1};
  expect(ht_grid_to_mask_cuda(&mask, p, reinterpret_cast<uint8_t*>(memory), nullptr) == HT_CUDA_ERROR &&
             std::strstr(ht_last_error(), "grid_to_mask did not start") && cudaGetLastError() == cudaSuccess,
         "nor does one of masks, which is named");
  emulated.refuses = false;
  const ht_mask_shape many{1, 257, 1, 1, 1, 1};
  expect(ht_grid_to_mask_cuda(&many, p, reinterpret_cast<uint8_t*>(memory), nullptr) == HT_INVALID_ARGUMENT &&
             std::strstr(ht_last_error(), "classes must be 1 to 256, got 257"),
         "too many classes are named");
  call.hidden = 100000;
  expect(forward() == HT_INVALID_ARGUMENT && std::strstr(ht_last_error(), "mix_and_up_project needs"),
         "a hidden layer that is too large is named");
}

// What others did wrong before is not reported as a launch that failed, and stays theirs.
void test_errors_of_others() {
  set_shared_limit(nullptr, 1 << 30);
  test({1, 8, 8, 2, 3, 1, 1, 0, 1}, HT_FLOAT32, false, 1);
  expect(cudaGetLastError() == cudaErrorInvalidValue, "an error of others is still there");
}

}  // namespace

int main() {
  const Case small[] = {
      {1, 8, 8, 2, 3, 1, 1, 0, 1},       {2, 24, 16, 4, 3, 5, 9, 1, 1},   {1, 40, 24, 6, 3, 3, 20, 5, 1},
      {3, 32, 8, 2, 1, 7, 7, 1, 1},      {1, 264, 72, 18, 3, 4, 4, 1, 1}, {0, 16, 8, 2, 3, 4, 4, 1, 1},
      {2, 24, 24, 6, 3, 5, 8, 2, 1, 24}, {1, 16, 8, 2, 1, 6, 3, 0, 1, 1},
  };
  unsigned seed = 0;
  for (const Case& c : small) {
    for (const int multiprocessors : {132, 1}) {  // narrow tiles, and wide ones
      pretend(device_with(multiprocessors, 228));
      test(c, HT_FLOAT32, false, ++seed);
      test(c, HT_FLOAT32, true, ++seed);
      test(c, HT_BFLOAT16, false, ++seed);
      test(c, HT_FLOAT16, false, ++seed);
    }
  }
  for (const int multiprocessors : {132, 20, 4, 1}) {
    pretend(device_with(multiprocessors, 228));
    test_large_mean(HT_FLOAT16, 1000, 1e-3, ++seed);
    test_large_mean(HT_BFLOAT16, 100, 4e-3, ++seed);
  }
  pretend(device_with(1, 228));
  test({1, 8, 8, 2, 1, 64, 64, 0, 1}, HT_FLOAT16, false, ++seed);
  test({1, 1536, 8, 2, 1, 2, 3, 0, 1}, HT_FLOAT16, false, ++seed);
  pretend(device_with(4, 228));  // medium tiles
  test({2, 64, 64, 16, 3, 6, 10, 1, 1}, HT_BFLOAT16, false, ++seed);
  test({2, 64, 128, 32, 3, 5, 6, 1, 1}, HT_FLOAT16, false, ++seed);
  // Rows too long to be held, in chunks that the shared memory of a small device has room for.
  for (const int multiprocessors : {132, 1}) {
    pretend(device_with(multiprocessors, 64, 75));
    test({1, 1032, 16, 4, 3, 4, 4, 1, 1}, HT_FLOAT32, true, ++seed);
    test({1, 1032, 16, 4, 3, 4, 4, 1, 1}, HT_FLOAT16, false, ++seed);
  }
  for (const ht_dtype dtype : {HT_FLOAT32, HT_BFLOAT16, HT_FLOAT16}) {
    const ht_filter_shape shapes[] = {
        {1, 1, 1, 1, 1}, {2, 3, 2, 2, 3}, {3, 11, 7, 12, 1}, {1, 8, 14, 14, 8}, {1, 2, 37, 31, 2}, {0, 4, 3, 3, 1},
    };
    for (const ht_filter_shape& shape : shapes) test_filter(shape, dtype, ++seed);
  }
  test_filter({1, 1, 64, 64, 1}, HT_FLOAT32, ++seed);
  for (const ht_mask_shape& n : kMasks) test_mask(n, 0);
  test_mask({1, 2, 14, 14, 40, 64}, 1);  // a mask that is not aligned
  test_tiles();
  test_plans();
  test_two_threads_launch();
  test_errors();
  test_errors_of_others();
  std::printf("test_cuda: %d failures\n", failures);
  return failures != 0;
}
