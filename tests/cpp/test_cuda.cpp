// The CUDA kernels, their own source on the CPU (cuda_on_cpu/), through the C interface: against the oracle, under
// sanitizers, with the threads of a block in two orders.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/plan.h"
#include "oracle.h"

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

// What rounding the matrices, u, h, Y and gelu(m) may cost, as a part of out - x, and what rounding out costs.
double tolerance(ht_dtype dtype, bool tf32) {
  if (dtype == HT_FLOAT32) return tf32 ? 2e-3 : 1e-5;
  return dtype == HT_BFLOAT16 ? 1.5e-2 : 2e-3;
}
double last_place(ht_dtype dtype) { return dtype == HT_FLOAT32 ? 0 : dtype == HT_BFLOAT16 ? 4e-3 : 5e-4; }

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
  std::vector<std::unique_ptr<Device>> weights;
  const void* p[15];
  for (int i = 0; i < 15; ++i) {
    const bool matrix = i == 0 || i == 10 || i == 12;
    for (double& v : in.weights[i]) v = round_to(static_cast<float>(v), matrix ? dtype : HT_FLOAT32);
    weights.push_back(std::make_unique<Device>(in.weights[i], matrix ? dtype : HT_FLOAT32));
    p[i] = in.weights[i].empty() ? nullptr : weights.back()->data();
  }
  const auto f = [&](int i) { return static_cast<const float*>(p[i]); };
  const ht_adapter_weights_cuda w{p[0], f(1), f(2),  f(3),  f(4),  f(5),  f(6), f(7),
                                  f(8), f(9), p[10], f(11), p[12], f(13), f(14)};
  const Device x(wide, dtype), out(Values(wide.size(), 777.0), dtype), again(Values(wide.size(), 777.0), dtype);
  const auto tokens = [&](const Device& d) { return ht_tokens{d.data(), n * step, step}; };
  for (const Device* to : {&out, &again}) {
    emulated.last_thread_first = to == &again;
    Workspace workspace(ht_adapter_forward_workspace_cuda(&shape, dtype));
    const ht_status status =
        ht_adapter_forward_cuda(&shape, &w, dtype, tf32, tokens(x), tokens(*to), workspace.memory.get(), nullptr);
    expect(status == HT_OK, name + ": " + (status == HT_OK ? "" : ht_last_error()));
  }
  expect(out.same_bits(again), name + ": the order of the threads changes the result");

  const Values expected = reference(c, in);
  double error = 0, size = 0, rounding = 0;
  for (int64_t t = 0; t < c.batch * n; ++t) {
    for (int64_t d = 0; d < step; ++d) {
      const double got = out[t * step + d];
      if (d >= c.dim) {
        expect(got == round_to(777, dtype), name + ": wrote between tokens");
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

// Every tile that make_plan can choose, for the device it chooses it on.
void test_plans() {
  const auto plan = [](int64_t batch, int64_t dim, ht_dtype dtype, ht::cuda::Device device) {
    return ht::cuda::make_plan({batch, dim, 64, 16, 3, 14, 14, 1, 0, 1e-5f}, dtype, device);
  };
  const ht::cuda::Device h200{132, 227 * 1024}, orin{16, 163 * 1024}, turing{40, 64 * 1024};
  using ht::cuda::DownTokens;
  expect(plan(1, 768, HT_FLOAT16, h200).down == DownTokens::kNarrow, "one image: narrow tiles");
  expect(plan(32, 768, HT_FLOAT16, h200).down == DownTokens::kMedium, "32 images: medium tiles");
  expect(plan(64, 768, HT_FLOAT16, h200).down == DownTokens::kWide, "64 images: wide tiles");
  expect(plan(64, 768, HT_FLOAT16, h200).mix_rows == 32, "64 images: long tiles");
  expect(plan(1, 768, HT_FLOAT16, h200).slices > 1, "one image: slices of D");
  expect(!plan(8, 1408, HT_FLOAT16, h200).held, "long rows are read again");
  for (const ht::cuda::Device& device : {h200, orin, turing}) {
    for (const int64_t batch : {1, 2, 8, 32, 64, 500}) {
      for (const int64_t dim : {8, 192, 768, 1024, 1280, 1664, 4096}) {
        for (const ht_dtype dtype : {HT_FLOAT32, HT_FLOAT16}) {
          const ht::cuda::Plan p = plan(batch, dim, dtype, device);
          const std::string name = "plan for B=" + std::to_string(batch) + " D=" + std::to_string(dim);
          expect(p.down_rows > 0 && p.down_tiles * p.down_rows >= 197, name + ": every token has a tile");
          expect(p.chunk % 32 == 0 && p.chunk > 0 && (!p.held || p.chunk >= dim), name + ": chunk");
          expect(p.slice % 32 == 0 && p.slices * p.slice >= dim && (p.slices - 1) * p.slice < dim, name + ": slices");
          expect(p.mix_blocks >= 1 && p.mix_blocks <= (197 + p.mix_rows - 1) / p.mix_rows, name + ": blocks");
        }
      }
    }
  }
}

void test_errors() {
  Case c{1, 12, 8, 2, 3, 2, 2, 1, 1};
  const ht_adapter_shape shape = c.shape();
  const ht_adapter_weights_cuda none{};
  const ht_tokens tokens{};
  expect(
      ht_adapter_forward_cuda(&shape, &none, HT_FLOAT32, 0, tokens, tokens, nullptr, nullptr) == HT_INVALID_ARGUMENT &&
          std::strstr(ht_last_error(), "multiples of 8"),
      "a width that is not a multiple of 8 is named");
  const ht_filter_shape large{1, 1, 65, 4, 1};
  expect(ht_spectral_filter_cuda(&large, HT_FLOAT32, &none, &shape.eps, &c, nullptr) == HT_INVALID_ARGUMENT &&
             std::strstr(ht_last_error(), "up to 64x64, got 65x4"),
         "a grid that is too large is named");
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
      emulated.multiprocessors = multiprocessors;
      test(c, HT_FLOAT32, false, ++seed);
      test(c, HT_FLOAT32, true, ++seed);
      test(c, HT_BFLOAT16, false, ++seed);
      test(c, HT_FLOAT16, false, ++seed);
    }
  }
  emulated.multiprocessors = 4;  // medium tiles
  test({2, 64, 64, 16, 3, 6, 10, 1, 1}, HT_BFLOAT16, false, ++seed);
  test({2, 64, 128, 32, 3, 5, 6, 1, 1}, HT_FLOAT16, false, ++seed);
  // Rows too long to be held, in chunks that the shared memory of a small device has room for.
  emulated.shared_bytes = 64 * 1024;
  for (const int multiprocessors : {132, 1}) {
    emulated.multiprocessors = multiprocessors;
    test({1, 1032, 16, 4, 3, 4, 4, 1, 1}, HT_FLOAT32, true, ++seed);
    test({1, 1032, 16, 4, 3, 4, 4, 1, 1}, HT_BFLOAT16, false, ++seed);
  }
  for (const ht_dtype dtype : {HT_FLOAT32, HT_BFLOAT16, HT_FLOAT16}) {
    const ht_filter_shape shapes[] = {
        {1, 1, 1, 1, 1}, {2, 3, 2, 2, 3}, {3, 11, 7, 12, 1}, {1, 8, 14, 14, 8}, {1, 2, 37, 31, 2}, {0, 4, 3, 3, 1},
    };
    for (const ht_filter_shape& shape : shapes) test_filter(shape, dtype, ++seed);
  }
  test_filter({1, 1, 64, 64, 1}, HT_FLOAT32, ++seed);
  test_plans();
  test_errors();
  std::printf("test_cuda: %d failures\n", failures);
  return failures != 0;
}
