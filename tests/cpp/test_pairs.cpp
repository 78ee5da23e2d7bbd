// Products of bfloat16 in pairs against sums in double precision of the same rounded numbers, at every kind of tail.

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "cpu/pair_panels.h"
#include "oracle.h"

namespace {

using namespace ht::HT_ISA;

// A left-hand side (rows, depth) and a weight (columns, depth), in memory exactly as large as they are.
void test_product(i64 rows, i64 depth, i64 columns, int threads) {
  const std::string name =
      std::to_string(rows) + "x" + std::to_string(depth) + "x" + std::to_string(columns) + ": ";
  std::mt19937 generator(static_cast<unsigned>(rows + 100 * depth + 10000 * columns));
  const std::vector<float> weight = to_float(random_values(generator, columns * depth, 1));
  const Values a = random_values(generator, rows * depth, 1);
  const i64 step = round_up(depth, 2);
  std::vector<uint16_t> left(rows * step, 0);
  for (i64 r = 0; r < rows; ++r) {
    for (i64 k = 0; k < depth; ++k) left[r * step + k] = to_bfloat16(static_cast<float>(a[r * depth + k]));
  }
  Arena counted(nullptr);
  const Matrix b{weight.data(), 1, depth};
  PairPanels(b, depth, columns, counted);
  Workspace memory(counted.used());
  Arena arena(memory.memory.get());
  const PairPanels panels(b, depth, columns, arena);
  for (int rank = 0; rank < threads; ++rank) panels.fill(Team{rank, threads});

  for_row_blocks(rows, [&](auto block, i64 r) {
    constexpr int M = decltype(block)::value;
    for_panels(columns, [&](i64 c, i64 valid) {
      Tile<M> tile{};
      multiply(tile, reinterpret_cast<const bfloat16*>(left.data()) + r * step, step, panels, c);
      for (int m = 0; m < M; ++m) {
        for (i64 j = 0; j < kPanel; ++j) {
          double sum = 0, size = 0;
          for (i64 k = 0; k < depth && j < valid; ++k) {
            const double product = static_cast<double>(from_bfloat16(left[(r + m) * step + k])) *
                                   from_bfloat16(to_bfloat16(weight[(c + j) * depth + k]));
            sum += product;
            size += std::abs(product);
          }
          const float got = tile.at[m][j / kLanes][j % kLanes];
          expect(std::abs(got - sum) <= 1e-6 * size, name + std::to_string(r + m) + ", " + std::to_string(c + j));
        }
      }
    });
  });
}

}  // namespace

int main() {
  const i64 depths[] = {1, 2, 3, 7, 16, 2 * kLanes - 1, 2 * kLanes, 2 * kLanes + 1, 96, 4 * kLanes + 5};
  for (i64 depth : depths) {
    for (i64 columns : {i64{1}, i64{kLanes}, i64{kLanes + 1}, i64{kPanel}, i64{kPanel + 3}, i64{3 * kPanel}}) {
      for (i64 rows : {i64{1}, i64{kRows}, i64{2 * kRows + 1}}) test_product(rows, depth, columns, 1 + rows % 3);
    }
  }
  std::printf("test_pairs, %d lanes: %d failures\n", kLanes, failures);
  return failures != 0;
}
