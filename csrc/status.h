// The sentence that says why a call of the C interface failed, and the checks that every backend makes.
#pragma once

#include "ht_kernels.h"

namespace ht {

// Formats the sentence that ht_last_error returns on this thread, and returns the status.
__attribute__((format(printf, 2, 3))) ht_status fail(ht_status status, const char* format, ...);

ht_status check_shape(const ht_adapter_shape* shape);
ht_status check_filter_shape(const ht_filter_shape* shape);

}  // namespace ht
