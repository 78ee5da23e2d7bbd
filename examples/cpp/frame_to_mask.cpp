// Makes a mask of a frame, on the CPU, without Python: ht_kernels before and after the model, OpenVINO for the model.
//
//   frame_to_mask MODEL FRAME.pgm MASK.pgm [THREADS]
//
// MODEL is what `ht-kernels export MODEL --result grid --output model.onnx` writes, or an IR, model.xml. The frame is a
// binary PGM file of 8 bits, and so is the mask, in the size of the frame: a pixel is the number of its class.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <limits>
#include <memory>
#include <new>
#include <openvino/openvino.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "ht_kernels.h"

namespace {

struct Image {
  std::int64_t height = 0, width = 0;
  std::vector<std::uint8_t> pixels;
};

constexpr std::int64_t kMostSide = 16384;

Image read_pgm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  Image image;
  std::int64_t largest = 0;
  file >> magic;
  for (std::int64_t* number : {&image.width, &image.height, &largest}) {
    while ((file >> std::ws).peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    file >> *number;
  }
  file.get();  // the one space behind the header
  if (!file || magic != "P5" || largest != 255 || image.width < 1 || image.height < 1 || image.width > kMostSide ||
      image.height > kMostSide) {
    throw std::runtime_error(path + " is not a binary PGM file of 8 bits with sides of at most 16384 pixels");
  }
  image.pixels.resize(image.width * image.height);
  if (!file.read(reinterpret_cast<char*>(image.pixels.data()), image.pixels.size())) {
    throw std::runtime_error(path + " has fewer pixels than it says");
  }
  return image;
}

void write_pgm(const std::string& path, const Image& image) {
  std::ofstream file(path, std::ios::binary);
  file << "P5\n" << image.width << " " << image.height << "\n255\n";
  file.write(reinterpret_cast<const char*>(image.pixels.data()), image.pixels.size());
  if (!file.flush()) throw std::runtime_error(path + " cannot be written");
}

// Memory as the library wants it. A program that takes many frames of one size keeps it.
struct Workspace {
  explicit Workspace(std::size_t bytes) : memory(std::aligned_alloc(64, (bytes + 63) / 64 * 64), &std::free) {
    if (bytes == 0) throw std::runtime_error(ht_last_error());
    if (!memory) throw std::bad_alloc();
  }
  std::unique_ptr<void, void (*)(void*)> memory;
};

void check(ht_status status) {
  if (status != HT_OK) throw std::runtime_error(ht_last_error());
}

ov::CompiledModel compiled(ov::Core& core, const std::string& path, int threads) {
  // As ht_kernels opens it in Python, so that results are the same bits.
  return core.compile_model(path, "CPU", ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                            ov::hint::inference_precision(ov::element::f32), ov::inference_num_threads(threads),
                            ov::hint::enable_cpu_pinning(false));
}

// The logits (1, K, h, w) on the patch grid that the model gives of a frame.
ov::Tensor logits_of(ov::CompiledModel& model, const Image& frame, int threads) {
  const ov::PartialShape takes = model.input().get_partial_shape();
  if (takes.size() != 4 || model.input().get_element_type() != ov::element::u8 || !takes[1].compatible(1) ||
      takes[2].is_dynamic() || takes[3].is_dynamic()) {
    throw std::runtime_error("the model does not take gray frames (B, 1, H, W) in uint8, as an exported file does");
  }
  const std::int64_t height = takes[2].get_length(), width = takes[3].get_length();
  const ht_frame_shape shape{frame.height, frame.width, 1, height, width};
  ov::Tensor input(ov::element::u8, ov::Shape{1, 1, std::size_t(height), std::size_t(width)});
  const Workspace workspace(ht_preprocess_workspace_cpu(&shape, threads));
  check(ht_preprocess_cpu(&shape, frame.pixels.data(), frame.width, input.data<std::uint8_t>(), workspace.memory.get(),
                          threads));
  ov::InferRequest request = model.create_infer_request();
  request.set_input_tensor(input);
  request.infer();
  return request.get_tensor("grid");
}

Image mask_of(const ov::Tensor& logits, std::int64_t height, std::int64_t width, int threads) {
  const ov::Shape grid = logits.get_shape();
  const ht_mask_shape shape{1,    std::int64_t(grid.at(1)), std::int64_t(grid.at(2)), std::int64_t(grid.at(3)), height,
                            width};
  Image mask{height, width, std::vector<std::uint8_t>(height * width)};
  const Workspace workspace(ht_grid_to_mask_workspace_cpu(&shape, threads));
  check(ht_grid_to_mask_cpu(&shape, logits.data<float>(), mask.pixels.data(), workspace.memory.get(), threads));
  return mask;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc == 5 ? std::atoi(argv[4]) : 1;
  if (argc < 4 || argc > 5 || threads < 1) {
    std::fprintf(stderr, "usage: frame_to_mask MODEL FRAME.pgm MASK.pgm [THREADS]\n");
    return 2;
  }
  try {
    const Image frame = read_pgm(argv[2]);
    ov::Core core;
    ov::CompiledModel model = compiled(core, argv[1], threads);
    const Image mask = mask_of(logits_of(model, frame, threads), frame.height, frame.width, threads);
    write_pgm(argv[3], mask);
    std::int64_t found = 0;
    for (const std::uint8_t pixel : mask.pixels) found += pixel != 0;
    std::printf("%lld of %lld pixels are not background\n", (long long)found, (long long)mask.pixels.size());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
  return 0;
}
