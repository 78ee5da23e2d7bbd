// Threads of the caller that call at the same time, each with a workspace of its own, over weights that they share:
// every result has the bits of a call alone, and every thread reads its own errors.

#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "oracle.h"

namespace {

constexpr int kCallers = 4, kRounds = 5;

// The adapter's output, the mask of its first channels and the gray image of a frame, in one row of bytes.
std::vector<char> results(const Case& c, const Inputs& in, const ht_adapter_weights& weights, const void* prepared,
                          int threads) {
  const ht_adapter_shape shape = c.shape();
  std::vector<float> x = to_float(in.x), out = poisoned(x.size());
  const int64_t row = c.dim, image = c.tokens() * c.dim;
  Workspace forward(ht_adapter_forward_workspace_cpu(&shape, 0, threads));
  expect(ht_adapter_forward_cpu(&shape, &weights, HT_FLOAT32, prepared, HT_FLOAT32, {x.data(), image, row}, nullptr,
                                {out.data(), image, row}, nullptr, nullptr, forward.memory.get(), threads) == HT_OK,
         "the adapter");

  const ht_mask_shape n{1, 2, c.height, c.width, 200, 300};
  std::vector<uint8_t> mask(n.height * n.width);
  Workspace of_mask(ht_grid_to_mask_workspace_cpu(&n, threads));
  expect(ht_grid_to_mask_cpu(&n, out.data(), mask.data(), of_mask.memory.get(), threads) == HT_OK, "the mask");

  const ht_frame_shape f{n.height, n.width, 1, 50, 60};
  std::vector<uint8_t> pixels(f.out_height * f.out_width);
  Workspace of_frame(ht_preprocess_workspace_cpu(&f, threads));
  expect(ht_preprocess_cpu(&f, mask.data(), f.width, pixels.data(), of_frame.memory.get(), threads) == HT_OK,
         "the frame");

  std::vector<char> bytes(out.size() * sizeof(float));
  std::memcpy(bytes.data(), out.data(), bytes.size());
  bytes.insert(bytes.end(), mask.begin(), mask.end());
  bytes.insert(bytes.end(), pixels.begin(), pixels.end());
  return bytes;
}

void test_same_bits(const Case& c) {
  const Inputs in = random_inputs(c, 11);
  const ht_adapter_shape shape = c.shape();
  std::vector<std::vector<float>> values;
  std::vector<float*> places;
  for (const Values& weight : in.weights) values.push_back(to_float(weight));
  for (auto& weight : values) places.push_back(weight.empty() ? nullptr : weight.data());
  const auto weights = weights_at<ht_adapter_weights>(places);
  Workspace prepared(ht_adapter_prepared_cpu(&shape, HT_FLOAT32));
  ht_adapter_prepare_cpu(&shape, &weights, HT_FLOAT32, prepared.memory.get(), 1);
  const std::vector<char> alone = results(c, in, weights, prepared.memory.get(), c.threads);
  std::vector<int> wrong(kCallers);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (int round = 0; round < kRounds; ++round) {
        wrong[caller] += results(c, in, weights, prepared.memory.get(), c.threads) != alone;
      }
    });
  }
  for (auto& caller : callers) caller.join();
  for (int count : wrong) expect(count == 0, c.name() + ": the same bits as alone");
}

void test_errors() {
  std::vector<std::string> heard(kCallers);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&heard, caller] {
      const ht_frame_shape shape{1, 1, caller + 4, 1, 1};
      for (int round = 0; round < 1000; ++round) {
        ht_preprocess_workspace_cpu(&shape, 1);
        heard[caller] = ht_last_error();
        if (heard[caller] != "channels must be 1 or 3, got " + std::to_string(caller + 4)) break;
      }
    });
  }
  for (auto& caller : callers) caller.join();
  for (int caller = 0; caller < kCallers; ++caller) {
    expect(heard[caller] == "channels must be 1 or 3, got " + std::to_string(caller + 4),
           "a thread hears of its own call, heard: " + heard[caller]);
  }
  expect(!*ht_last_error(), "the thread that failed in nothing hears nothing");
}

}  // namespace

int main() {
  test_errors();
  for (int threads : {1, 2}) {
    test_same_bits({2, 96, 24, 6, 3, 9, 8, 1, threads});
    test_same_bits({1, 96, 24, 6, 3, 9, 8, 0, threads, 24});
    test_same_bits({3, 192, 64, 0, 1, 14, 14, 1, threads});
  }
  std::printf("%s, %s: %d failures\n", "test_concurrent", ht_cpu_isa(), failures);
  return failures != 0;
}
