// The adapter as a TensorRT plugin, on the CUDA kernels; TensorRT 10 and 11.
//
// Inputs: x (B, N, D) in float32, float16 or bfloat16, then the folded weights in the order of
// HT_ADAPTER_WEIGHTS, those that are there. Output: x's shape and type.
#pragma once

#include <NvInferRuntime.h>

#include <array>

#include "ht_kernels.h"
#include "status.h"

namespace ht {
namespace tensorrt {

// The name of a node in ONNX files.
constexpr const char* kName = "adapter_inference";
constexpr const char* kNamespace = "ht_kernels";
constexpr const char* kVersion = "1";

// What a folded weight is, as an input.
struct Weight {
  const char* name;
  bool is_matrix;  // in the type of x
  When when;
};

constexpr Weight kWeights[] = {
#define HT_WEIGHT(name, kind, when) {#name, Kind::kind == Kind::MATRIX, When::when},
    HT_ADAPTER_WEIGHTS(HT_WEIGHT)
#undef HT_WEIGHT
};

constexpr int count(When when) {
  int found = 0;
  for (const Weight& weight : kWeights) found += weight.when == when;
  return found;
}

// The number of inputs tells which weights there are.
constexpr int kAlways = 1 + count(When::ALWAYS), kNoise = count(When::NOISE), kMasked = count(When::MASKED);
constexpr bool is_masked(int inputs) { return inputs == kAlways + kMasked || inputs == kAlways + kNoise + kMasked; }
constexpr bool is_several_scales(int inputs) {
  return inputs == kAlways + kNoise || inputs == kAlways + kNoise + kMasked;
}
constexpr bool is_inputs(int count) { return count == kAlways || is_several_scales(count) || is_masked(count); }
constexpr bool is_there(When when, int inputs) {
  return when == When::ALWAYS || (when == When::NOISE ? is_several_scales(inputs) : is_masked(inputs));
}

// What a node says besides its inputs.
struct Settings {
  int32_t grid_height = 0, grid_width = 0, prefix_tokens = 0;
  float eps = 1e-5f;
};

class AdapterPlugin final : public nvinfer1::IPluginV3,
                            public nvinfer1::IPluginV3OneCore,
                            public nvinfer1::IPluginV3OneBuild,
                            public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit AdapterPlugin(const Settings& settings) : settings_(settings) {}

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  const char* getPluginName() const noexcept override { return kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

  int32_t getNbOutputs() const noexcept override { return 1; }
  int32_t getOutputDataTypes(nvinfer1::DataType* types, int32_t outputs, const nvinfer1::DataType* input_types,
                             int32_t inputs) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count, const nvinfer1::DimsExprs* shapes,
                          int32_t shape_count, nvinfer1::DimsExprs* outputs, int32_t output_count,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t inputs,
                                 int32_t outputs) noexcept override;
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                          const nvinfer1::DynamicPluginTensorDesc* out, int32_t outputs) noexcept override;
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                          const nvinfer1::DynamicPluginTensorDesc* out, int32_t outputs) const noexcept override;

  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t inputs, const nvinfer1::PluginTensorDesc* out,
                        int32_t outputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                  const void* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
  // Sizes of a call; its batch is that of `x`, which may be -1 while building.
  ht_adapter_shape shape(const nvinfer1::Dims& x, const nvinfer1::Dims& kernels, int64_t hidden,
                         int64_t masks) const noexcept;

  Settings settings_;
  int32_t inputs_ = 0;
  std::array<nvinfer1::PluginField, 4> fields_{};
  nvinfer1::PluginFieldCollection collection_{};
};

class AdapterPluginCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  AdapterPluginCreator();

  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const char* getPluginName() const noexcept override { return kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  std::array<nvinfer1::PluginField, 4> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace tensorrt
}  // namespace ht
