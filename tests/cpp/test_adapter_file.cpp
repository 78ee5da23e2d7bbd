// Files of adapters: a good one gives what it was made of, and none of 10,000 spoilt ones does harm.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "oracle.h"

static size_t largest = 0;  // array that was asked for since this was last set to 0

void* operator new[](size_t bytes, const std::nothrow_t&) noexcept {
  largest = std::max(largest, bytes);
  return std::malloc(bytes);
}
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }

namespace {

using Bytes = std::vector<char>;

constexpr size_t kHeader = 32, kEntry = 200;

template <class T>
void put(Bytes& bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

// The checksum bit by bit, as its definition has it.
uint32_t crc32(const char* bytes, size_t count) {
  uint32_t c = ~0u;
  for (size_t i = 0; i < count; ++i) {
    c ^= static_cast<unsigned char>(bytes[i]);
    for (int bit = 0; bit < 8; ++bit) c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
  }
  return ~c;
}

// Makes the size and the checksum that a file says its own.
void seal(Bytes& bytes) {
  if (bytes.size() < kHeader + 4) return;
  put<uint64_t>(bytes, 24, bytes.size());
  put(bytes, bytes.size() - 4, crc32(bytes.data(), bytes.size() - 4));
}

// A file with an adapter per case, of blocks 0, 2, 4 and so on, as the guide describes it.
Bytes file_of(const std::vector<Case>& cases, const std::vector<Inputs>& inputs) {
  Bytes bytes(kHeader + cases.size() * kEntry);
  std::memcpy(bytes.data(), "HTADAPT", 8);
  put<uint32_t>(bytes, 8, 1);
  put<uint32_t>(bytes, 12, 15);
  put<uint64_t>(bytes, 16, cases.size());
  for (size_t i = 0; i < cases.size(); ++i) {
    const Case& c = cases[i];
    const int64_t numbers[] = {int64_t(2 * i), c.dim,    c.channels, c.scales == 1 ? 0 : c.hidden, c.scales, c.height,
                               c.width,        c.prefix, c.masks};
    std::memcpy(bytes.data() + kHeader + i * kEntry, numbers, sizeof numbers);
    put(bytes, kHeader + i * kEntry + 72, 1e-5f);
    for (size_t w = 0; w < 15; ++w) {
      const std::vector<float> weight = to_float(inputs[i].weights[w]);
      put<uint64_t>(bytes, kHeader + i * kEntry + 80 + 8 * w, weight.size());
      if (weight.empty()) continue;
      const size_t at = (bytes.size() + 63) / 64 * 64;
      bytes.resize(at + weight.size() * 4);
      std::memcpy(bytes.data() + at, weight.data(), weight.size() * 4);
    }
  }
  bytes.resize(bytes.size() + 4);
  seal(bytes);
  return bytes;
}

const std::vector<Case> kCases = {
    {1, 6, 5, 0, 1, 2, 3, 1, 1}, {1, 9, 8, 2, 3, 4, 3, 0, 1}, {1, 4, 4, 1, 3, 3, 4, 5, 1, 4}};

std::vector<Inputs> inputs_of(const std::vector<Case>& cases) {
  std::vector<Inputs> inputs;
  for (const Case& c : cases) inputs.push_back(random_inputs(c, 3));
  return inputs;
}

std::vector<const float*> pointers(const ht_adapter_weights& weights) {
  std::vector<const float*> found;
#define HT_ADD(name, kind, when) found.push_back(weights.name);
  HT_ADAPTER_WEIGHTS(HT_ADD)
#undef HT_ADD
  return found;
}

void expect_equal(const ht_adapter_list* list, const std::vector<Inputs>& inputs) {
  expect(list && list->count == int64_t(kCases.size()), "all adapters are there");
  for (size_t i = 0; list && i < kCases.size(); ++i) {
    const ht_file_adapter& one = list->adapters[i];
    const ht_adapter_shape shape = kCases[i].shape();
    expect(one.block == int64_t(2 * i) && one.shape.dim == shape.dim && one.shape.bottleneck == shape.bottleneck &&
               one.shape.hidden == shape.hidden && one.shape.scales == shape.scales &&
               one.shape.grid_height == shape.grid_height && one.shape.grid_width == shape.grid_width &&
               one.shape.prefix_tokens == shape.prefix_tokens && one.shape.masks == shape.masks &&
               one.shape.eps == shape.eps && one.shape.batch == 1,
           "the shape of adapter " + std::to_string(i));
    const auto weights = pointers(one.weights);
    for (size_t w = 0; w < weights.size(); ++w) {
      const std::vector<float> expected = to_float(inputs[i].weights[w]);
      expect((weights[w] == nullptr) == expected.empty() && reinterpret_cast<uintptr_t>(weights[w]) % 64 == 0 &&
                 (expected.empty() || !std::memcmp(weights[w], expected.data(), expected.size() * 4)),
             "weight " + std::to_string(w) + " of adapter " + std::to_string(i));
    }
  }
}

void test_good() {
  const auto inputs = inputs_of(kCases);
  const Bytes bytes = file_of(kCases, inputs);
  ht_adapter_list* list = nullptr;
  expect(ht_read_adapters(bytes.data(), bytes.size(), &list) == HT_OK, "a good file is read");
  expect_equal(list, inputs);
  ht_free_adapters(list);
  const char* path = "test_adapter_file.tmp";
  std::FILE* file = std::fopen(path, "wb");
  expect(file && std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size(), "the file is written");
  if (file) std::fclose(file);
  expect(ht_load_adapters(path, &list) == HT_OK, "a good file is read by its path");
  expect_equal(list, inputs);
  ht_free_adapters(list);
  std::remove(path);
  ht_free_adapters(nullptr);
}

void refuses(Bytes bytes, const char* sentence) {
  ht_adapter_list* list = reinterpret_cast<ht_adapter_list*>(1);
  const ht_status status = ht_read_adapters(bytes.data(), bytes.size(), &list);
  expect(status == HT_FILE_ERROR && !list && std::strstr(ht_last_error(), sentence),
         std::string("refused with: ") + sentence + ", said: " + ht_last_error());
}

// A good file with a number in it changed, and sealed.
template <class T>
void refuses(size_t at, T value, const char* sentence) {
  Bytes bytes = file_of(kCases, inputs_of(kCases));
  put(bytes, at, value);
  seal(bytes);
  refuses(bytes, sentence);
}

void test_refusals() {
  const Bytes good = file_of(kCases, inputs_of(kCases));
  refuses(Bytes(10), "more than 10 bytes");
  refuses(Bytes(1000), "no file of adapters");
  refuses(Bytes(good.begin(), good.end() - 9), "it was cut");
  Bytes flipped = good;
  flipped[good.size() / 2] ^= 4;
  refuses(flipped, "checksum does not fit");
  Bytes longer = good;
  longer.resize(longer.size() + 64);
  seal(longer);
  refuses(longer, "more bytes than its adapters");
  Bytes shorter(good.begin(), good.end() - 64);
  seal(shorter);
  refuses(shorter, "ends behind the file");
  refuses(8, uint32_t{2}, "version 2 with 15 weights");
  refuses(12, uint32_t{16}, "version 1 with 16 weights");
  refuses(16, uint64_t{0}, "has 0 adapters");
  refuses(16, uint64_t{1} << 60, "adapters, which do not fit");
  refuses(16, ~uint64_t{0}, "adapters, which do not fit");
  const size_t second = kHeader + kEntry;
  refuses(second, int64_t{0}, "adapter 1 of the file does not stand behind");
  refuses(second + 8, int64_t{0}, "adapter 1 of the file has sizes that no adapter has");
  refuses(second + 8, int64_t{1} << 62, "has sizes that no adapter has");
  refuses(second + 8, int64_t{1} << 30, "has weights whose sizes do not fit");
  refuses(second + 16, int64_t{1} << 33, "has sizes that no adapter has");
  refuses(second + 16, int64_t{1} << 20, "has weights whose sizes do not fit");
  refuses(second + 32, int64_t{2}, "has sizes that no adapter has");
  refuses(second + 40, int64_t{1} << 21, "more than 2^20");
  refuses(second + 64, int64_t{3}, "has sizes that no adapter has");
  refuses(second + 72, NAN, "has an eps");
  refuses(second + 72, -1.0f, "has an eps");
  refuses(second + 76, uint32_t{1}, "zero is kept for later versions");
  refuses(second + 80, uint64_t{1} << 62, "has weights whose sizes do not fit");
  refuses(kHeader + kCases.size() * kEntry, char{1}, "has something between its weights");
  ht_adapter_list* list = nullptr;
  expect(ht_load_adapters("no such file", &list) == HT_FILE_ERROR && std::strstr(ht_last_error(), "No such file"),
         "a missing file is named");
  const std::string deep(700, 'x');
  expect(ht_load_adapters(deep.c_str(), &list) == HT_FILE_ERROR && std::strstr(ht_last_error(), "cannot be read: "),
         "the reason stands behind a long path");
  expect(ht_load_adapters(".", &list) == HT_FILE_ERROR && std::strstr(ht_last_error(), "is not a file"), "a folder");
  expect(ht_load_adapters(nullptr, &list) == HT_INVALID_ARGUMENT, "no path");
  expect(ht_read_adapters(nullptr, 9, &list) == HT_INVALID_ARGUMENT, "no bytes");
  expect(ht_read_adapters(good.data(), good.size(), nullptr) == HT_INVALID_ARGUMENT, "no list");
}

// A file in which some numbers and its length are others, and which mostly says of itself that it is whole.
Bytes spoilt(const Bytes& good, std::mt19937& generator) {
  Bytes bytes = good;
  const auto below = [&](size_t limit) { return generator() % limit; };
  const uint64_t hard[] = {0,
                           1,
                           3,
                           15,
                           64,
                           uint64_t{1} << 31,
                           uint64_t{1} << 32,
                           uint64_t{1} << 61,
                           ~uint64_t{0} >> 1,
                           ~uint64_t{0} << 63,
                           ~uint64_t{0}};
  const size_t head = kHeader + kCases.size() * kEntry;
  for (size_t changes = 1 + below(3); changes > 0; --changes) {
    const size_t among = below(4) ? head : bytes.size();  // mostly where sizes are
    switch (below(4)) {
      case 0:
        bytes[below(among)] = static_cast<char>(generator());
        break;
      case 1:
        put(bytes, below(among / 8) * 8, hard[below(std::size(hard))]);
        break;
      case 2: {
        uint64_t number;
        const size_t at = below(among / 8) * 8;
        std::memcpy(&number, bytes.data() + at, 8);
        put(bytes, at, number + below(17) - 8);
        break;
      }
      default:
        bytes.resize(below(8) ? bytes.size() - below(bytes.size() / 4) : below(bytes.size()) + head);
    }
    if (bytes.size() < head) bytes.resize(head);
  }
  if (below(8) == 0) bytes.resize(below(head));
  if (below(8)) seal(bytes);
  return bytes;
}

void test_spoilt() {
  const Bytes good = file_of(kCases, inputs_of(kCases));
  std::mt19937 generator(7);
  int accepted = 0, refused = 0;
  volatile float sum = 0;
  for (int i = 0; i < 10000; ++i) {
    const Bytes bytes = spoilt(good, generator);
    ht_adapter_list* list = nullptr;
    largest = 0;
    const ht_status status = ht_read_adapters(bytes.data(), bytes.size(), &list);
    expect(largest <= bytes.size(), "a list is not larger than its file");
    expect(status == HT_OK || (status == HT_FILE_ERROR && !list && *ht_last_error()), "a file is read or refused");
    ++(status == HT_OK ? accepted : refused);
    for (int64_t a = 0; list && a < list->count; ++a) {
      const ht_adapter_shape& s = list->adapters[a].shape;
      expect(ht_adapter_prepared_cpu(&s, HT_FLOAT32) > 0, "the size of what is prepared");
      const Case c{1, s.dim,  s.bottleneck, s.hidden, s.scales, s.grid_height, s.grid_width, s.prefix_tokens,
                   1, s.masks};
      const auto sizes = c.weight_sizes();
      const auto weights = pointers(list->adapters[a].weights);
      for (size_t w = 0; w < weights.size(); ++w) {
        for (int64_t k = 0; k < sizes[w]; ++k) sum = sum + weights[w][k];
      }
    }
    ht_free_adapters(list);
  }
  expect(accepted > 100 && refused > 5000, "files of both kinds were tried");
  std::printf("%d spoilt files refused, %d read\n", refused, accepted);
}

}  // namespace

int main() {
  test_good();
  test_refusals();
  test_spoilt();
  std::printf("test_adapter_file: %d failures\n", failures);
  return failures != 0;
}
