// What Python passes: tensors come as addresses, for the caller holds them and knows dtype, shape and strides.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <stdexcept>

#include "ht_kernels.h"

using Address = std::uintptr_t;
using TokensArgument = std::array<std::int64_t, 3>;  // address, batch stride, token stride
using Sizes = std::array<std::int64_t, 9>;           // ht_adapter_shape without eps
using FilterSizes = std::array<std::int64_t, 5>;     // ht_filter_shape
using WeightsArgument = std::array<Address, 15>;

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

inline ht_tokens tokens(const TokensArgument& t) { return {pointer<void>(static_cast<Address>(t[0])), t[1], t[2]}; }

inline ht_adapter_shape shape(const Sizes& s, float eps) {
  return {s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], eps};
}

inline ht_filter_shape filter_shape(const FilterSizes& s) { return {s[0], s[1], s[2], s[3], s[4]}; }

inline void check(ht_status status) {
  if (status == HT_INVALID_ARGUMENT) throw std::invalid_argument(ht_last_error());
  if (status != HT_OK) throw std::runtime_error(ht_last_error());
}
