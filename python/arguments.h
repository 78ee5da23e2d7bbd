// The arguments that Python passes. Tensors are passed as addresses: the caller keeps them alive, and has checked their
// dtypes, shapes and strides.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <stdexcept>

#include "ht_kernels.h"

using Address = std::uintptr_t;
using TokensArgument = std::array<std::int64_t, 3>;  // address, batch stride, token stride
using FilterSizes = std::array<std::int64_t, 5>;     // ht_filter_shape
using MaskSizes = std::array<std::int64_t, 6>;       // ht_mask_shape
using FrameSizes = std::array<std::int64_t, 5>;      // ht_frame_shape

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

inline ht_tokens tokens(const TokensArgument& t) { return {pointer<void>(static_cast<Address>(t[0])), t[1], t[2]}; }

inline ht_filter_shape filter_shape(const FilterSizes& s) { return {s[0], s[1], s[2], s[3], s[4]}; }

inline ht_mask_shape mask_shape(const MaskSizes& s) { return {s[0], s[1], s[2], s[3], s[4], s[5]}; }

// Reads the addresses of the weights, which are attributes of a Python object with the weights' names. None becomes
// NULL. Weights is ht_adapter_weights or ht_adapter_weights_cuda.
template <class Weights>
Weights read_weights(const pybind11::object& folded) {
  Weights weights{};
  const auto address = [&](const char* name) {
    const pybind11::object tensor = folded.attr(name);
    return tensor.is_none() ? 0 : tensor.attr("data_ptr")().cast<Address>();
  };
#define HT_READ(name, kind, when) weights.name = reinterpret_cast<decltype(weights.name)>(address(#name));
  HT_ADAPTER_WEIGHTS(HT_READ)
#undef HT_READ
  return weights;
}

// The sizes that follow from folded weights. The other fields, batch, grid, prefix tokens and eps, are left at 0.
inline ht_adapter_shape read_shape(const pybind11::object& folded) {
  const auto side = [&](const char* name, int dimension) {
    const pybind11::object tensor = folded.attr(name);
    return tensor.is_none() ? 0 : tensor.attr("shape")[pybind11::int_(dimension)].cast<std::int64_t>();
  };
  ht_adapter_shape shape{};
  shape.dim = side("up_weight", 0), shape.bottleneck = side("up_weight", 1);
  shape.scales = side("scale_kernels", 0), shape.hidden = side("hidden_weight", 0), shape.masks = side("mask", 0);
  return shape;
}

// `shape` with the sizes of a call filled in.
inline ht_adapter_shape for_call(ht_adapter_shape shape, std::int64_t batch, std::int64_t height, std::int64_t width,
                                 std::int64_t prefix_tokens, float eps) {
  shape.batch = batch, shape.grid_height = height, shape.grid_width = width;
  shape.prefix_tokens = prefix_tokens, shape.eps = eps;
  return shape;
}

inline void check(ht_status status) {
  if (status == HT_INVALID_ARGUMENT) throw std::invalid_argument(ht_last_error());
  if (status != HT_OK) throw std::runtime_error(ht_last_error());
}
