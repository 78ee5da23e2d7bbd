// Frames made gray and small, or large, by the C interface against the definition in double precision.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "oracle.h"

namespace {

using Bytes = std::vector<uint8_t>;

enum class Content { NOISE, CHECKERBOARD, CONSTANT };

double cubic(double x) {
  x = std::abs(x);
  if (x < 1) return 1.5 * x * x * x - 2.5 * x * x + 1;
  return x < 2 ? -0.5 * x * x * x + 2.5 * x * x - 4 * x + 2 : 0;
}

double to_byte(double v) { return std::clamp(std::floor(v + 0.5), 0.0, 255.0); }

// (rows, inputs) to (outputs, rows): resized along the second side, and transposed.
Values resized(const Values& values, int64_t rows, int64_t inputs, int64_t outputs) {
  const double step = double(inputs) / outputs, wide = std::max(step, 1.0);
  Values result(outputs * rows);
  for (int64_t i = 0; i < outputs; ++i) {
    const double centre = (i + 0.5) * step;
    const int64_t first = std::max<int64_t>(0, std::floor(centre - 2 * wide + 0.5));
    const int64_t last = std::min<int64_t>(inputs, std::floor(centre + 2 * wide + 0.5));
    double total = 0;
    for (int64_t j = first; j < last; ++j) total += cubic((j + 0.5 - centre) / wide);
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0;
      for (int64_t j = first; j < last; ++j) sum += values[r * inputs + j] * cubic((j + 0.5 - centre) / wide);
      result[i * rows + r] = to_byte(sum / total);
    }
  }
  return result;
}

void test_frame(const ht_frame_shape& n, int64_t gap, bool from_below, int threads, Content content) {
  char name[200];
  std::snprintf(name, sizeof name, "frame %dx%dx%d to %dx%d, gap %d, threads %d, content %d", (int)n.height,
                (int)n.width, (int)n.channels, (int)n.out_height, (int)n.out_width, (int)gap, threads, (int)content);
  const int64_t row = n.width * n.channels, stride = row + gap;
  Bytes frame((n.height - 1) * stride + row, 0xab);
  std::mt19937 generator(5);
  Values gray;
  for (int64_t i = 0; i < n.height * n.width; ++i) {
    const int64_t y = i / n.width, x = i % n.width;
    uint8_t* pixel = &frame[(from_below ? n.height - 1 - y : y) * stride + x * n.channels];
    for (int64_t c = 0; c < n.channels; ++c) {
      pixel[c] = content == Content::NOISE ? generator() : content == Content::CONSTANT ? 201 : (x / 2 + y) % 2 * 255;
    }
    gray.push_back(n.channels == 1 ? pixel[0] : (19595 * pixel[0] + 38470 * pixel[1] + 7471 * pixel[2] + 32768) >> 16);
  }
  const Values expected =
      resized(resized(gray, n.height, n.width, n.out_width), n.out_width, n.height, n.out_height);
  Bytes out(n.out_height * n.out_width, 0xee);
  const uint8_t* first = from_below ? &frame[(n.height - 1) * stride] : frame.data();
  Workspace workspace(ht_preprocess_workspace_cpu(&n, threads));
  const ht_status status =
      ht_preprocess_cpu(&n, first, from_below ? -stride : stride, out.data(), workspace.memory.get(), threads);
  expect(status == HT_OK, std::string(name) + ": status");
  // Weights of 22 bits are not quite the definition's, so a sum near a half may be rounded the other way. Checkerboards
  // have many such sums.
  double most = 0;
  int64_t differ = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    most = std::max(most, std::abs(out[i] - expected[i]));
    differ += out[i] != expected[i];
  }
  const int64_t allowed = content == Content::CHECKERBOARD ? n.out_height * n.out_width : 2;
  expect(most <= 1 && differ <= allowed + n.out_height * n.out_width / 100,
         std::string(name) + ": " + std::to_string(differ) + " pixels differ, by at most " + std::to_string(most));
  if (content == Content::CONSTANT) {
    expect(std::all_of(out.begin(), out.end(), [](uint8_t v) { return v == 201; }), std::string(name) + ": constant");
  }
}

void test_errors() {
  const uint8_t frame[12] = {};
  uint8_t out[4];
  alignas(64) static char memory[1 << 16];
  const auto fails = [&](const ht_frame_shape& n, int threads, const char* sentence) {
    expect(ht_preprocess_cpu(&n, frame, 3, out, memory, threads) == HT_INVALID_ARGUMENT &&
               std::strstr(ht_last_error(), sentence),
           std::string("an error of frames says: ") + sentence);
  };
  fails({1, 1, 2, 1, 1}, 1, "channels must be 1 or 3, got 2");
  fails({0, 1, 1, 1, 1}, 1, "sides of 1 to 2^20, got 0");
  fails({1, 1, 3, 1, int64_t{1} << 21}, 1, "sides of 1 to 2^20, got 2097152");
  fails({1, 1, 1, 1, 1}, 0, "threads must be positive, got 0");
  const ht_frame_shape good{1, 1, 1, 1, 1};
  expect(ht_preprocess_cpu(&good, nullptr, 1, out, memory, 1) == HT_INVALID_ARGUMENT &&
             std::strstr(ht_last_error(), "must not be NULL"),
         "a missing frame is named");
  expect(ht_preprocess_cpu(nullptr, frame, 1, out, memory, 1) == HT_INVALID_ARGUMENT, "a missing shape");
  for (int side = 0; side < 4; ++side) {
    ht_frame_shape n{1, 1, 1, 1, 1};
    *(side == 0 ? &n.height : side == 1 ? &n.width : side == 2 ? &n.out_height : &n.out_width) = 0;
    expect(ht_preprocess_workspace_cpu(&n, 1) == 0 && std::strstr(ht_last_error(), "sides of 1 to 2^20, got 0"),
           "no workspace for a side of 0");
  }
  expect(ht_preprocess_workspace_cpu(nullptr, 1) == 0 && std::strstr(ht_last_error(), "shape must not be NULL"),
         "no workspace for a missing shape");
}

}  // namespace

int main() {
  const int64_t sizes[][4] = {
      {1, 1, 1, 1},   {1, 1, 7, 5},     {5, 7, 1, 1},      {1, 40, 16, 16}, {40, 1, 16, 16},   {16, 16, 16, 16},
      {15, 17, 3, 2}, {33, 47, 31, 50}, {100, 64, 17, 90}, {2, 3, 64, 48},  {240, 320, 56, 56}, {31, 300, 224, 5},
  };
  for (const auto& s : sizes) {
    for (int64_t channels : {1, 3}) {
      const ht_frame_shape n{s[0], s[1], channels, s[2], s[3]};
      test_frame(n, 0, false, 1, Content::NOISE);
      test_frame(n, 5, true, 2, Content::NOISE);
      test_frame(n, 3, false, 1, Content::CHECKERBOARD);
      test_frame(n, 0, false, 1, Content::CONSTANT);
    }
  }
  test_frame({672, 896, 3, 224, 224}, 9, false, 3, Content::NOISE);  // on several threads
  test_frame({300, 500, 1, 700, 600}, 0, true, 2, Content::CHECKERBOARD);
  test_errors();
  std::printf("%s, %s: %d failures\n", "test_preprocess", ht_cpu_isa(), failures);
  return failures != 0;
}
