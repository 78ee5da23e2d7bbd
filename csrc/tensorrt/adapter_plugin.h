// The adapter as a plugin for TensorRT 10 and 11. It runs the CUDA kernels.
//
// The inputs are x (B, N, D) in float32, float16 or bfloat16, and then the folded weights that the adapter has, in the
// order of HT_ADAPTER_WEIGHTS: matrices in the type of x, all others in float32. The output has the shape and type of
// x. The attributes are grid_height, grid_width, prefix_tokens (integers) and eps (float).
#pragma once

#include <NvInferRuntime.h>

#include <array>

#include "ht_kernels.h"
#include "status.h"

namespace ht {
namespace tensorrt {

// The operator type of the plugin's nodes in ONNX files.
constexpr const char* kName = "adapter_inference";
constexpr const char* kNamespace = "ht_kernels";
constexpr const char* kVersion = "1";

// A folded weight as an input of the plugin.
struct Weight {
  const char* name;
  bool is_matrix;  // a matrix has the type of x, any other weight is float32
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

// The number of inputs determines which weights the adapter has.
constexpr int kAlways = 1 + count(When::ALWAYS), kNoise = count(When::NOISE), kMasked = count(When::MASKED);
constexpr bool is_masked(int inputs) { return inputs == kAlways + kMasked || inputs == kAlways + kNoise + kMasked; }
constexpr bool is_several_scales(int inputs) {
  return inputs == kAlways + kNoise || inputs == kAlways + kNoise + kMasked;
}
constexpr bool is_inputs(int count) { return count == kAlways || is_several_scales(count) || is_masked(count); }
constexpr bool is_there(When when, int inputs) {
  return when == When::ALWAYS || (when == When::NOISE ? is_several_scales(inputs) : is_masked(inputs));
}

// The attributes of a node.
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
  // The sizes of a call. The batch comes from `x` and may be -1 while an engine is built.
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
