// The checksum CRC-64/ECMA-182, of which OpenIGTLink's messages have one: the polynomial below, the highest bit first,
// from 0, and the result as it is.
//
// Eight bytes at a time, by eight tables ("slicing-by-8", Kounavis and Berry 2005): table k holds what a byte adds to
// the checksum when k more bytes follow it. The tables are 16 KiB, half of a first-level cache. Each step waits for the
// one before, so this takes as long for every instruction set.
#include <array>
#include <cstddef>
#include <cstdint>

#include "ht_kernels.h"

namespace {

constexpr std::uint64_t kPolynomial = 0x42F0E1EBA9EA3693;

using Table = std::array<std::uint64_t, 256>;

constexpr std::array<Table, 8> make_tables() {
  std::array<Table, 8> tables{};
  for (std::uint64_t byte = 0; byte < 256; ++byte) {
    std::uint64_t crc = byte << 56;
    for (int bit = 0; bit < 8; ++bit) crc = crc << 1 ^ (crc >> 63 ? kPolynomial : 0);
    tables[0][byte] = crc;
  }
  for (std::size_t k = 1; k < 8; ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint64_t before = tables[k - 1][byte];
      tables[k][byte] = before << 8 ^ tables[0][before >> 56];
    }
  }
  return tables;
}

constexpr std::array<Table, 8> kTables = make_tables();

std::uint64_t big_endian(const std::uint8_t* bytes) {
  std::uint64_t value = 0;
  for (int i = 0; i < 8; ++i) value = value << 8 | bytes[i];
  return value;
}

}  // namespace

extern "C" uint64_t ht_crc64_cpu(const uint8_t* bytes, int64_t count, uint64_t crc) {
  for (; count >= 8; bytes += 8, count -= 8) {
    const std::uint64_t mixed = crc ^ big_endian(bytes);
    crc = 0;
    for (int i = 0; i < 8; ++i) crc ^= kTables[i][mixed >> 8 * i & 255];
  }
  for (; count > 0; ++bytes, --count) crc = crc << 8 ^ kTables[0][crc >> 56 ^ *bytes];
  return crc;
}
