// The sentence that says why a call of the C interface failed, and the checks that every backend makes.
#pragma once

#include "ht_kernels.h"

namespace ht {

// Formats the sentence that ht_last_error returns on this thread, and returns the status.
__attribute__((format(printf, 2, 3))) ht_status fail(ht_status status, const char* format, ...);

ht_status check_shape(const ht_adapter_shape* shape);
ht_status check_filter_shape(const ht_filter_shape* shape);
ht_status check_mask_shape(const ht_mask_shape* shape);
ht_status check_frame_shape(const ht_frame_shape* shape);

// When a folded weight is there, and what it is: the words of HT_ADAPTER_WEIGHTS.
enum class When { ALWAYS, NOISE, MASKED };
enum class Kind { MATRIX, FLOATS };

inline bool is_there(When when, const ht_adapter_shape& s) {
  return when == When::ALWAYS || (when == When::NOISE ? s.scales == 3 : s.masks != 0);
}

// Weights of either struct.
template <class Weights>
ht_status check_weights(const ht_adapter_shape& s, const Weights* w) {
  if (!w) return fail(HT_INVALID_ARGUMENT, "weights must not be NULL");
#define HT_CHECK(name, kind, when) \
  if (!w->name && is_there(When::when, s)) return fail(HT_INVALID_ARGUMENT, "the weight " #name " is NULL");
  HT_ADAPTER_WEIGHTS(HT_CHECK)
#undef HT_CHECK
  return HT_OK;
}

}  // namespace ht
