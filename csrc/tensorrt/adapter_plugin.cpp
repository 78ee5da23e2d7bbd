#include "adapter_plugin.h"

#include <new>

namespace ht {
namespace tensorrt {

using namespace nvinfer1;

namespace {

constexpr int kX = 0;  // the input x; the folded weights follow

constexpr bool same(const char* a, const char* b) { return *a == *b && (!*a || same(a + 1, b + 1)); }

// The index of a weight among the inputs; 0 if the adapter does not have the weight.
constexpr int place(const char* name, int inputs) {
  int next = 1;
  for (const Weight& weight : kWeights) {
    if (!is_there(weight.when, inputs)) continue;
    if (same(weight.name, name)) return next;
    ++next;
  }
  return 0;
}

bool is_matrix(int input, int inputs) {
  int next = 1;
  for (const Weight& weight : kWeights) {
    if (is_there(weight.when, inputs) && next++ == input) return weight.is_matrix;
  }
  return false;
}

bool to_dtype(DataType type, ht_dtype& dtype) {
  switch (type) {
    case DataType::kFLOAT:
      dtype = HT_FLOAT32;
      return true;
    case DataType::kHALF:
      dtype = HT_FLOAT16;
      return true;
    case DataType::kBF16:
      dtype = HT_BFLOAT16;
      return true;
    default:
      return false;
  }
}

}  // namespace

IPluginCapability* AdapterPlugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
  switch (type) {
    case PluginCapabilityType::kCORE:
      return static_cast<IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD:
      return static_cast<IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME:
      return static_cast<IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

IPluginV3* AdapterPlugin::clone() noexcept {
  AdapterPlugin* copy = new (std::nothrow) AdapterPlugin(settings_);
  if (copy) copy->inputs_ = inputs_;
  return copy;
}

int32_t AdapterPlugin::getOutputDataTypes(DataType* types, int32_t outputs, const DataType* input_types,
                                          int32_t inputs) const noexcept {
  if (outputs != 1 || !is_inputs(inputs)) return -1;
  types[0] = input_types[kX];
  return 0;
}

int32_t AdapterPlugin::getOutputShapes(const DimsExprs* inputs, int32_t input_count, const DimsExprs*, int32_t,
                                       DimsExprs* outputs, int32_t output_count, IExprBuilder&) noexcept {
  if (output_count != 1 || !is_inputs(input_count) || inputs[kX].nbDims != 3) return -1;
  outputs[0] = inputs[kX];
  return 0;
}

bool AdapterPlugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors, int32_t inputs,
                                              int32_t) noexcept {
  if (!is_inputs(inputs) || tensors[position].desc.format != TensorFormat::kLINEAR) return false;
  const DataType type = tensors[position].desc.type;
  ht_dtype dtype;
  if (position == kX) return to_dtype(type, dtype);
  if (position == inputs || is_matrix(position, inputs)) return type == tensors[kX].desc.type;
  return type == DataType::kFLOAT;
}

int32_t AdapterPlugin::configurePlugin(const DynamicPluginTensorDesc*, int32_t inputs, const DynamicPluginTensorDesc*,
                                       int32_t outputs) noexcept {
  inputs_ = inputs;
  return is_inputs(inputs) && outputs == 1 ? 0 : -1;
}

ht_adapter_shape AdapterPlugin::shape(const Dims& x, const Dims& kernels, int64_t hidden,
                                      int64_t masks) const noexcept {
  ht_adapter_shape shape{};
  shape.batch = x.d[0], shape.dim = x.d[2];
  shape.scales = kernels.d[0], shape.bottleneck = kernels.d[1];
  shape.hidden = hidden, shape.masks = masks;
  shape.grid_height = settings_.grid_height, shape.grid_width = settings_.grid_width;
  shape.prefix_tokens = settings_.prefix_tokens, shape.eps = settings_.eps;
  return shape;
}

size_t AdapterPlugin::getWorkspaceSize(const DynamicPluginTensorDesc* in, int32_t inputs,
                                       const DynamicPluginTensorDesc*, int32_t) const noexcept {
  ht_dtype dtype;
  if (!to_dtype(in[kX].desc.type, dtype)) return 0;
  const ht_adapter_shape largest = shape(in[kX].max, in[place("scale_kernels", inputs)].max, 0, is_masked(inputs));
  return ht_adapter_prepared_cuda(&largest, dtype) + ht_adapter_forward_workspace_cuda(&largest, dtype);
}

int32_t AdapterPlugin::onShapeChange(const PluginTensorDesc* in, int32_t inputs, const PluginTensorDesc*,
                                     int32_t) noexcept {
  if (!is_inputs(inputs)) return -1;
  const Dims& x = in[kX].dims;
  inputs_ = inputs;
  const int64_t tokens = settings_.prefix_tokens + int64_t{settings_.grid_height} * settings_.grid_width;
  if (x.nbDims != 3 || x.d[1] != tokens || in[place("scale_kernels", inputs)].dims.nbDims != 4) return -1;
  if (!is_masked(inputs)) return 0;
  const Dims& mask = in[place("mask", inputs)].dims;
  return mask.nbDims == 4 && mask.d[1] == settings_.grid_height && mask.d[2] == settings_.grid_width / 2 + 1 ? 0 : -1;
}

int32_t AdapterPlugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc*, const void* const* inputs,
                               void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
  ht_dtype dtype;
  if (!to_dtype(in[kX].type, dtype)) return -1;
  // The first dimension of an optional weight; 0 if the adapter does not have it.
  const auto side = [&](const char* name) {
    const int input = place(name, inputs_);
    return input ? in[input].dims.d[0] : 0;
  };
  const ht_adapter_shape call =
      shape(in[kX].dims, in[place("scale_kernels", inputs_)].dims, side("hidden_weight"), side("mask"));
  ht_adapter_weights_cuda weights{};
  int next = 1;
#define HT_TAKE(name, kind, when) \
  if (is_there(When::when, inputs_)) weights.name = static_cast<decltype(weights.name)>(inputs[next++]);
  HT_ADAPTER_WEIGHTS(HT_TAKE)
#undef HT_TAKE
  const Dims& dims = in[kX].dims;
  const auto tokens = [&](const void* data) {
    return ht_tokens{const_cast<void*>(data), dims.d[1] * dims.d[2], dims.d[2]};
  };
  // The weights are inputs, so each call prepares them: one small kernel, into the front of the workspace.
  char* const prepared = static_cast<char*>(workspace);
  const ht_status status = ht_adapter_prepare_cuda(&call, &weights, dtype, prepared, stream);
  if (status != HT_OK) return status;
  return ht_adapter_forward_cuda(&call, &weights, dtype, 0, prepared, tokens(inputs[kX]), tokens(outputs[0]), {}, 0,
                                 prepared + ht_adapter_prepared_cuda(&call, dtype), stream);
}

IPluginV3* AdapterPlugin::attachToContext(IPluginResourceContext*) noexcept { return clone(); }

const PluginFieldCollection* AdapterPlugin::getFieldsToSerialize() noexcept {
  fields_ = {PluginField{"grid_height", &settings_.grid_height, PluginFieldType::kINT32, 1},
             PluginField{"grid_width", &settings_.grid_width, PluginFieldType::kINT32, 1},
             PluginField{"prefix_tokens", &settings_.prefix_tokens, PluginFieldType::kINT32, 1},
             PluginField{"eps", &settings_.eps, PluginFieldType::kFLOAT32, 1}};
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
  return &collection_;
}

}  // namespace tensorrt
}  // namespace ht
