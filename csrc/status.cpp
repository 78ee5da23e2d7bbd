#include "status.h"

#include <cstdarg>
#include <cstdio>
#include <initializer_list>

namespace {

thread_local char last_error[1024] = "";

// So many numbers has an array at most. Then no size in bytes overflows, whatever is added for threads.
constexpr double kMostNumbers = double(int64_t{1} << 44);

}  // namespace

namespace ht {

ht_status fail(ht_status status, const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::vsnprintf(last_error, sizeof last_error, format, args);
  va_end(args);
  return status;
}

ht_status check_shape(const ht_adapter_shape* s) {
  if (!s) return fail(HT_INVALID_ARGUMENT, "shape must not be NULL");
  if (s->batch < 0 || s->dim < 1 || s->bottleneck < 1 || s->grid_height < 1 || s->grid_width < 1 ||
      s->prefix_tokens < 0) {
    return fail(HT_INVALID_ARGUMENT, "dim, bottleneck and grid must be positive, batch and prefix_tokens not negative");
  }
  if (s->scales != 1 && s->scales != 3) {
    return fail(HT_INVALID_ARGUMENT, "scales must be 1 or 3, got %lld", (long long)s->scales);
  }
  if (s->masks != 0 && s->masks != 1 && s->masks != s->bottleneck) {
    return fail(HT_INVALID_ARGUMENT, "masks must be 0, 1 or bottleneck, got %lld", (long long)s->masks);
  }
  if (s->scales == 3 && s->hidden < 1) return fail(HT_INVALID_ARGUMENT, "hidden must be positive when scales is 3");
  const double grid = double(s->grid_height) * s->grid_width, channels = double(s->bottleneck) * s->scales;
  const double tokens = (grid + s->prefix_tokens) * (s->batch > 0 ? s->batch : 1);
  for (const double numbers : {tokens * s->dim, tokens * channels, (double(s->dim) + s->bottleneck) * s->bottleneck,
                               double(s->hidden) * s->bottleneck, channels * 49, grid * 2 * s->masks}) {
    if (numbers > kMostNumbers) return fail(HT_INVALID_ARGUMENT, "the sizes make an array of more than 2^44 numbers");
  }
  return HT_OK;
}

ht_status check_filter_shape(const ht_filter_shape* s) {
  if (!s) return fail(HT_INVALID_ARGUMENT, "shape must not be NULL");
  if (s->batch < 0 || s->channels < 0 || s->height < 1 || s->width < 1) {
    return fail(HT_INVALID_ARGUMENT, "height and width must be positive, batch and channels not negative");
  }
  if (s->masks != 1 && s->masks != s->channels) {
    return fail(HT_INVALID_ARGUMENT, "masks must be 1 or the number of channels, got %lld", (long long)s->masks);
  }
  if (double(s->batch > 0 ? s->batch : 1) * s->channels * s->height * s->width > kMostNumbers) {
    return fail(HT_INVALID_ARGUMENT, "the sizes make an array of more than 2^44 numbers");
  }
  return HT_OK;
}

ht_status check_mask_shape(const ht_mask_shape* s) {
  if (!s) return fail(HT_INVALID_ARGUMENT, "shape must not be NULL");
  if (s->batch < 0) return fail(HT_INVALID_ARGUMENT, "batch must not be negative");
  if (s->classes < 1 || s->classes > 256) {
    return fail(HT_INVALID_ARGUMENT, "classes must be 1 to 256, got %lld", (long long)s->classes);
  }
  constexpr int64_t kMostSide = int64_t{1} << 24;  // up to which float32 tells pixels apart
  for (const int64_t side : {s->grid_height, s->grid_width, s->height, s->width}) {
    if (side < 1 || side > kMostSide) {
      return fail(HT_INVALID_ARGUMENT, "grid and image must have sides of 1 to 2^24, got %lld", (long long)side);
    }
  }
  return HT_OK;
}

ht_status check_frame_shape(const ht_frame_shape* s) {
  if (!s) return fail(HT_INVALID_ARGUMENT, "shape must not be NULL");
  if (s->channels != 1 && s->channels != 3) {
    return fail(HT_INVALID_ARGUMENT, "channels must be 1 or 3, got %lld", (long long)s->channels);
  }
  constexpr int64_t kMostSide = int64_t{1} << 20;  // so that a row of tiles takes 64 MiB at most
  for (const int64_t side : {s->height, s->width, s->out_height, s->out_width}) {
    if (side < 1 || side > kMostSide) {
      return fail(HT_INVALID_ARGUMENT, "frame and output must have sides of 1 to 2^20, got %lld", (long long)side);
    }
  }
  return HT_OK;
}

}  // namespace ht

extern "C" const char* ht_last_error(void) { return last_error; }
