// The factory of the plugin. IPluginRegistry::loadLibrary looks for the two exported functions at the end of this file.

#include <cstring>
#include <new>

#include "adapter_plugin.h"

#if defined(_WIN32)
#define HT_EXPORT extern "C" __declspec(dllexport)
#else
#define HT_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace ht {
namespace tensorrt {

using namespace nvinfer1;

namespace {

ILoggerFinder* logger_finder = nullptr;

void log_error(const char* message) {
  ILogger* logger = logger_finder ? logger_finder->findLogger() : nullptr;
  if (logger) logger->log(ILogger::Severity::kERROR, message);
}

bool read(const PluginField& field, int32_t& value) {
  if (field.type != PluginFieldType::kINT32 || field.length != 1) return false;
  value = *static_cast<const int32_t*>(field.data);
  return true;
}

bool read(const PluginField& field, float& value) {
  if (field.type != PluginFieldType::kFLOAT32 || field.length != 1) return false;
  value = *static_cast<const float*>(field.data);
  return true;
}

}  // namespace

AdapterPluginCreator::AdapterPluginCreator()
    : fields_{PluginField{"grid_height", nullptr, PluginFieldType::kINT32, 1},
              PluginField{"grid_width", nullptr, PluginFieldType::kINT32, 1},
              PluginField{"prefix_tokens", nullptr, PluginFieldType::kINT32, 1},
              PluginField{"eps", nullptr, PluginFieldType::kFLOAT32, 1}} {
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

IPluginV3* AdapterPluginCreator::createPlugin(const char*, const PluginFieldCollection* fields,
                                              TensorRTPhase) noexcept {
  Settings settings;
  for (int32_t i = 0; fields && i < fields->nbFields; ++i) {
    const PluginField& field = fields->fields[i];
    bool good = true;  // fields with other names, such as plugin_version, are ignored
    if (!std::strcmp(field.name, "grid_height")) good = read(field, settings.grid_height);
    if (!std::strcmp(field.name, "grid_width")) good = read(field, settings.grid_width);
    if (!std::strcmp(field.name, "prefix_tokens")) good = read(field, settings.prefix_tokens);
    if (!std::strcmp(field.name, "eps")) good = read(field, settings.eps);
    if (!good) {
      log_error("ht_kernels adapter_inference: an attribute has another type, expected three integers and a float");
      return nullptr;
    }
  }
  if (settings.grid_height < 1 || settings.grid_width < 1 || settings.prefix_tokens < 0 || !(settings.eps > 0)) {
    log_error(
        "ht_kernels adapter_inference: grid_height and grid_width must be positive, prefix_tokens not negative and "
        "eps positive");
    return nullptr;
  }
  return new (std::nothrow) AdapterPlugin(settings);
}

}  // namespace tensorrt
}  // namespace ht

HT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static ht::tensorrt::AdapterPluginCreator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  count = 1;
  return creators;
}

HT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { ht::tensorrt::logger_finder = finder; }
