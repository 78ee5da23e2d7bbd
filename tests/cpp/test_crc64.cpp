// The checksum of OpenIGTLink's messages, against its published check value and against bit by bit.

#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "ht_kernels.h"

namespace {

std::uint64_t bit_by_bit(const std::vector<std::uint8_t>& bytes) {
  std::uint64_t crc = 0;
  for (const std::uint8_t byte : bytes) {
    crc ^= std::uint64_t{byte} << 56;
    for (int bit = 0; bit < 8; ++bit) crc = crc << 1 ^ (crc >> 63 ? 0x42F0E1EBA9EA3693 : 0);
  }
  return crc;
}

int failures = 0;

void expect(bool holds, const char* what, std::size_t count) {
  if (holds) return;
  ++failures;
  std::printf("%s: wrong for %zu bytes\n", what, count);
}

}  // namespace

int main() {
  const std::uint8_t digits[] = {'1', '2', '3', '4', '5', '6', '7', '8', '9'};
  expect(ht_crc64_cpu(digits, 9, 0) == 0x6C40DF5F0B497347, "the check value of CRC-64/ECMA-182", 9);
  expect(ht_crc64_cpu(nullptr, 0, 5) == 5, "nothing", 0);
  std::mt19937 random(0);
  for (std::size_t count = 1; count <= 100; ++count) {
    // The memory has no byte more, so that a sanitizer sees a read beyond it.
    std::vector<std::uint8_t> bytes(count);
    for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random());
    const std::uint64_t expected = bit_by_bit(bytes);
    const auto size = static_cast<std::int64_t>(count), first = size / 3;
    expect(ht_crc64_cpu(bytes.data(), size, 0) == expected, "at once", count);
    const std::uint64_t before = ht_crc64_cpu(bytes.data(), first, 0);
    expect(ht_crc64_cpu(bytes.data() + first, size - first, before) == expected, "in two parts", count);
  }
  return failures != 0;
}
