// The TensorRT plugin without TensorRT: made by its creator, asked what TensorRT asks, and run on the emulated GPU
// (cuda_on_cpu/) against the oracle.

#include <cuda_fp16.h>

#include "oracle.h"
#include "tensorrt/adapter_plugin.h"

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);

namespace {

using namespace nvinfer1;
using ht::tensorrt::AdapterPlugin;

IPluginCreatorV3One& creator() {
  int32_t count = 0;
  IPluginCreatorInterface* const* creators = getCreators(count);
  expect(count == 1, "one creator");
  return *static_cast<IPluginCreatorV3One*>(creators[0]);
}

IPluginV3* make(int32_t height, int32_t width, int32_t prefix, float eps) {
  PluginField fields[] = {{"plugin_version", "1", PluginFieldType::kCHAR, 1},
                          {"grid_height", &height, PluginFieldType::kINT32, 1},
                          {"grid_width", &width, PluginFieldType::kINT32, 1},
                          {"prefix_tokens", &prefix, PluginFieldType::kINT32, 1},
                          {"eps", &eps, PluginFieldType::kFLOAT32, 1}};
  const PluginFieldCollection collection{5, fields};
  return creator().createPlugin("adapter", &collection, TensorRTPhase::kBUILD);
}

Dims dims(std::initializer_list<int64_t> sizes) {
  Dims d{};
  for (int64_t size : sizes) d.d[d.nbDims++] = size;
  return d;
}

std::vector<DynamicPluginTensorDesc> describe(const std::vector<Dims>& shapes, DataType type,
                                              const std::vector<DataType>& types) {
  std::vector<DynamicPluginTensorDesc> all;
  for (size_t i = 0; i < shapes.size(); ++i) {
    DynamicPluginTensorDesc d{};
    d.desc.dims = d.min = d.max = d.opt = shapes[i];
    d.desc.type = types.empty() ? type : types[i];
    d.desc.format = TensorFormat::kLINEAR;
    all.push_back(d);
  }
  return all;
}

// In float32 (kFLOAT) or float16 (kHALF). `bound` is that of the error of out - x.
void test(const Case& c, DataType type, double bound, unsigned seed) {
  Inputs in = random_inputs(c, seed);
  in.keep.assign(in.keep.size(), 1.0);
  const bool half = type == DataType::kHALF;
  const std::string name = "plugin " + c.name() + (half ? " float16" : "");
  const int64_t n = c.tokens();
  std::vector<Dims> shapes = {dims({c.batch, n, c.dim})};
  std::vector<std::vector<float>> memory = {{in.x.begin(), in.x.end()}};
  const std::vector<Dims> weights = {dims({c.channels, c.dim}),
                                     dims({c.dim}),
                                     dims({c.dim}),
                                     dims({c.channels}),
                                     dims({c.scales, c.channels, 7, 7}),
                                     dims({c.scales, c.channels}),
                                     dims({c.hidden, c.channels}),
                                     dims({c.hidden}),
                                     dims({c.scales, c.hidden}),
                                     dims({c.scales}),
                                     dims({c.channels, c.channels}),
                                     dims({c.channels}),
                                     dims({c.dim, c.channels}),
                                     dims({c.dim}),
                                     dims({c.masks, c.height, c.width / 2 + 1, 2})};
  for (int i = 0; i < 15; ++i) {
    if (in.weights[i].empty()) continue;
    shapes.push_back(weights[i]);
    memory.push_back({in.weights[i].begin(), in.weights[i].end()});
  }
  const int32_t inputs = static_cast<int32_t>(shapes.size());
  shapes.push_back(shapes[0]);  // out
  const int32_t mask = c.masks ? 1 : 0;
  const auto narrow = [&](int32_t i) {  // x, out and the three matrices
    const bool matrix = i == 1 || i == inputs - 4 - mask || i == inputs - 2 - mask;
    return half && (i == 0 || i == inputs || matrix);
  };
  std::vector<DataType> types;
  for (int32_t i = 0; i <= inputs; ++i) types.push_back(narrow(i) ? type : DataType::kFLOAT);
  const auto descs = describe(shapes, type, types);

  std::unique_ptr<IPluginV3> made(make(c.height, c.width, c.prefix, 1e-5f));
  expect(made != nullptr, name + ": made");
  auto& build = *static_cast<IPluginV3OneBuild*>(made->getCapabilityInterface(PluginCapabilityType::kBUILD));
  for (int32_t i = 0; i <= inputs; ++i) {
    expect(build.supportsFormatCombination(i, descs.data(), inputs, 1), name + ": the type is taken");
  }
  expect(build.configurePlugin(descs.data(), inputs, &descs[inputs], 1) == 0, name + ": configured");
  Workspace workspace(build.getWorkspaceSize(descs.data(), inputs, &descs[inputs], 1));

  // What an engine does: serialize, make again, clone for a context, run.
  auto& first = *static_cast<IPluginV3OneRuntime*>(made->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  std::unique_ptr<IPluginV3> read(
      creator().createPlugin("adapter", first.getFieldsToSerialize(), TensorRTPhase::kRUNTIME));
  auto& again = *static_cast<IPluginV3OneRuntime*>(read->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  std::unique_ptr<IPluginV3> attached(again.attachToContext(nullptr));
  auto& runtime = *static_cast<IPluginV3OneRuntime*>(attached->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
  std::vector<PluginTensorDesc> plain;
  for (const auto& d : descs) plain.push_back(d.desc);
  expect(runtime.onShapeChange(plain.data(), inputs, &plain[inputs], 1) == 0, name + ": shapes are taken");
  std::vector<std::unique_ptr<void, decltype(&std::free)>> device;
  std::vector<void*> pointers;
  memory.push_back(std::vector<float>(memory[0].size(), NAN));  // out
  for (int32_t i = 0; i <= inputs; ++i) {
    const auto& values = memory[i];
    void* p = std::aligned_alloc(64, (values.size() * sizeof(float) + 63) / 64 * 64);
    for (size_t k = 0; k < values.size(); ++k) {
      if (narrow(i)) {
        static_cast<uint16_t*>(p)[k] = __float2half_rn(values[k]).bits;
      } else {
        static_cast<float*>(p)[k] = values[k];
      }
    }
    device.emplace_back(p, &std::free);
    pointers.push_back(p);
  }
  void* outputs[] = {pointers[inputs]};
  const int32_t status =
      runtime.enqueue(plain.data(), &plain[inputs], pointers.data(), outputs, workspace.memory.get(), nullptr);
  expect(status == 0, name + ": " + (status == 0 ? "" : ht_last_error()));
  const Values expected = reference(c, in);
  double error = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double out =
        half ? __half2float({static_cast<uint16_t*>(outputs[0])[i]}) : static_cast<float*>(outputs[0])[i];
    error += std::pow(out - expected[i], 2);
    size += std::pow(expected[i] - in.x[i], 2);
  }
  expect(std::sqrt(error / size) <= bound, name + ": as the oracle");  // false for NaN too
}

void test_formats() {
  std::unique_ptr<IPluginV3> made(make(2, 2, 1, 1e-5f));
  auto& build = *static_cast<IPluginV3OneBuild*>(made->getCapabilityInterface(PluginCapabilityType::kBUILD));
  for (const int32_t inputs : {11, 12, 15, 16}) {
    const int32_t end = inputs == 12 || inputs == 16 ? inputs - 1 : inputs;  // behind it, the mask
    const int32_t matrices[] = {1, end - 4, end - 2};
    for (const DataType narrow : {DataType::kHALF, DataType::kBF16}) {
      std::vector<DataType> types(inputs + 1, DataType::kFLOAT);
      types[0] = types[inputs] = narrow;
      for (const int32_t i : matrices) types[i] = narrow;
      auto descs = describe(std::vector<Dims>(inputs + 1, dims({1})), narrow, types);
      for (int32_t i = 0; i <= inputs; ++i) {
        expect(build.supportsFormatCombination(i, descs.data(), inputs, 1), "matrices have the type of x");
        descs[i].desc.format = TensorFormat::kCHW32;
        expect(!build.supportsFormatCombination(i, descs.data(), inputs, 1), "only linear tensors");
        descs[i].desc.format = TensorFormat::kLINEAR;
        descs[i].desc.type = DataType::kINT32;
        expect(!build.supportsFormatCombination(i, descs.data(), inputs, 1), "no integers");
        descs[i].desc.type = types[i];
      }
      DataType out = DataType::kINT8;
      expect(build.getOutputDataTypes(&out, 1, types.data(), inputs) == 0 && out == narrow, "the type of x");
    }
  }
  DataType out;
  expect(build.getOutputDataTypes(&out, 1, nullptr, 3) != 0, "three inputs are none of ours");
}

void test_refusals() {
  expect(make(0, 2, 1, 1e-5f) == nullptr, "a grid of no rows");
  expect(make(2, 2, -1, 1e-5f) == nullptr, "a negative number of tokens");
  expect(make(2, 2, 1, NAN) == nullptr, "an eps that is no number");
  const float wrong = 2;
  PluginField field{"grid_height", &wrong, PluginFieldType::kFLOAT32, 1};
  const PluginFieldCollection collection{1, &field};
  expect(creator().createPlugin("adapter", &collection, TensorRTPhase::kBUILD) == nullptr, "a grid that is a float");
}

}  // namespace

int main() {
  unsigned seed = 0;
  for (const Case& c :
       {Case{2, 24, 16, 4, 3, 5, 9, 1, 1}, Case{1, 40, 24, 6, 3, 3, 7, 5, 1}, Case{3, 32, 8, 0, 1, 4, 4, 0, 1},
        Case{2, 16, 8, 2, 3, 4, 5, 1, 1, 8}, Case{1, 24, 16, 0, 1, 3, 6, 1, 1, 1}}) {
    test(c, DataType::kFLOAT, 1e-5, ++seed);
    test(c, DataType::kHALF, 5e-3, ++seed);
  }
  test_formats();
  test_refusals();
  std::printf("test_tensorrt: %d failures\n", failures);
  return failures != 0;
}
