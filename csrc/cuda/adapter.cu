// The C interface of the adapter on the GPU. A call checks its arguments, plans how blocks divide the work, and starts
// two kernels, or three with a spectral filter.

#include "checks.h"
#include "stages.h"

namespace {

using namespace ht::cuda;

constexpr int kMaxChannels = 128;

int64_t element_bytes(ht_dtype dtype) { return dtype == HT_FLOAT32 ? 4 : 2; }

int64_t h_bytes(const ht_adapter_shape& s, ht_dtype dtype) {
  const int64_t tokens = s.prefix_tokens + s.grid_height * s.grid_width;
  return (s.batch * tokens * s.bottleneck * element_bytes(dtype) + 255) / 256 * 256;
}

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

ht_status check_arguments(const ht_adapter_shape& s, const ht_adapter_weights_cuda* w, ht_dtype dtype,
                          const ht_tokens& x, const ht_tokens& out, const void* workspace) {
  using ht::fail;
  const ht_status status = check_dtype(dtype);
  if (status != HT_OK) return status;
  if (s.dim % kVector || s.bottleneck % kVector || s.bottleneck > kMaxChannels) {
    return fail(HT_INVALID_ARGUMENT,
                "dim and bottleneck must be multiples of 8, bottleneck at most %d, got %lld and %lld", kMaxChannels,
                (long long)s.dim, (long long)s.bottleneck);
  }
  const ht_status weights = ht::check_weights(s, w);
  if (weights != HT_OK) return weights;
  if (!workspace) return fail(HT_INVALID_ARGUMENT, "workspace must not be NULL");
#define HT_CHECK(name, kind, when)                             \
  if (ht::When::when == ht::When::ALWAYS && !aligned(w->name)) \
    return fail(HT_INVALID_ARGUMENT, "the weight " #name " is not aligned to 16 bytes");
  HT_ADAPTER_WEIGHTS(HT_CHECK)
#undef HT_CHECK
  for (const ht_tokens* t : {&x, &out}) {
    if (!t->data || !aligned(t->data) || t->batch_stride % kVector || t->token_stride % kVector) {
      return fail(HT_INVALID_ARGUMENT, "x and out must be aligned to 16 bytes, with strides that are multiples of 8");
    }
  }
  return s.masks ? check_mask(w->mask, s.grid_height, s.grid_width) : HT_OK;
}

// The properties of the current device. They do not change, so a thread asks for them only when its device changes.
cudaError_t current_device(Device& device) {
  thread_local int known_index = -1;
  thread_local Device known{};
  int index = 0;
  cudaError_t error = cudaGetDevice(&index);
  const auto ask = [&](cudaDeviceAttr attribute, int& value) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, attribute, index);
  };
  if (error == cudaSuccess && index != known_index) {
    known_index = -1;
    ask(cudaDevAttrMultiProcessorCount, known.multiprocessors);
    ask(cudaDevAttrMaxSharedMemoryPerBlockOptin, known.block_bytes);
    ask(cudaDevAttrMaxSharedMemoryPerMultiprocessor, known.multiprocessor_bytes);
    ask(cudaDevAttrReservedSharedMemoryPerBlock, known.reserved_bytes);
    if (error == cudaSuccess) known_index = index;
  }
  device = known;
  return error;
}

template <class T>
ht_status run(const ht_adapter_shape& s, const ht_adapter_weights_cuda& w, ht_dtype dtype, bool tensor_cores,
              const ht_tokens& x, const ht_tokens& out, char* workspace, cudaStream_t stream) {
  Device device{};
  ht_status status = check(current_device(device), "the CUDA device could not be read");
  if (status != HT_OK) return status;
  const Plan plan = make_plan(s, dtype, device);
  if (plan.mix_bytes > device.block_bytes) {
    return ht::fail(HT_INVALID_ARGUMENT,
                    "hidden is %lld: with it mix_and_up_project needs %d bytes of shared memory, and a block of this "
                    "device has %d",
                    (long long)s.hidden, plan.mix_bytes, device.block_bytes);
  }
  const int images = static_cast<int>(s.batch);
  const int dim = static_cast<int>(s.dim);
  const int channels = static_cast<int>(s.bottleneck), hidden = s.scales == 1 ? 0 : static_cast<int>(s.hidden);
  const int prefix = static_cast<int>(s.prefix_tokens), height = static_cast<int>(s.grid_height);
  const int width = static_cast<int>(s.grid_width), tokens = prefix + height * width;
  T* h = reinterpret_cast<T*>(workspace);
  T* filtered = s.masks ? reinterpret_cast<T*>(workspace + h_bytes(s, dtype)) : nullptr;
  float* sums = hidden ? reinterpret_cast<float*>(workspace + (s.masks ? 2 : 1) * h_bytes(s, dtype)) : nullptr;

  DownProject<T> down{};
  down.x = static_cast<const T*>(x.data), down.batch_stride = x.batch_stride, down.token_stride = x.token_stride;
  down.weight = {static_cast<const T*>(w.down_weight), channels, dim};
  down.norm_gain = w.norm_gain, down.skip_gain = w.skip_gain, down.bias = w.down_bias;
  down.h = h, down.sums = sums, down.tokens = tokens, down.prefix = prefix, down.tiles = plan.down_tiles;
  down.parts = (channels + plan.down_columns - 1) / plan.down_columns, down.chunk = plan.chunk, down.eps = s.eps;
  status = check(launch_down_project(down, images, plan, tensor_cores, stream), "down_project did not start");
  if (status != HT_OK) return status;

  if (s.masks) {
    SpectralFilter<T> filter{};
    const int64_t first_patch = int64_t{prefix} * channels;
    filter.x = h + first_patch, filter.out = filtered + first_patch;
    filter.image_stride = int64_t{tokens} * channels, filter.channel_stride = 1, filter.patch_stride = channels;
    filter.mask = reinterpret_cast<const float2*>(w.mask);
    filter.channels = channels, filter.masks = static_cast<int>(s.masks), filter.height = height, filter.width = width;
    status = check(launch_spectral_filter(filter, images, stream), "spectral_filter did not start");
    if (status != HT_OK) return status;
  }

  MixAndUpProject<T> mix{};
  mix.noise = {sums,          hidden ? w.hidden_weight : nullptr,
               w.hidden_bias, w.score_weight,
               w.score_bias,  plan.down_tiles,
               channels,      hidden,
               height * width};
  mix.depthwise = {h,        filtered, w.scale_kernels, w.scale_bias, tokens,
                   channels, prefix,   height,          width,        static_cast<int>(s.scales)};
  mix.mix_weight = {static_cast<const T*>(w.mix_weight), channels, channels}, mix.mix_bias = w.mix_bias;
  mix.up_weight = {static_cast<const T*>(w.up_weight), dim, channels}, mix.up_bias = w.up_bias;
  mix.x = down.x, mix.x_batch_stride = x.batch_stride, mix.x_token_stride = x.token_stride;
  mix.out = static_cast<T*>(out.data), mix.out_batch_stride = out.batch_stride, mix.out_token_stride = out.token_stride;
  mix.blocks = plan.mix_blocks, mix.slice = plan.slice;
  return check(launch_mix_and_up_project(mix, images, plan, tensor_cores, stream), "mix_and_up_project did not start");
}

}  // namespace

extern "C" {

size_t ht_adapter_forward_workspace_cuda(const ht_adapter_shape* shape, ht_dtype dtype) {
  const int64_t tokens = shape->prefix_tokens + shape->grid_height * shape->grid_width;
  const int64_t tiles = (tokens + NarrowTile::kRows - 1) / NarrowTile::kRows;
  return (shape->masks ? 2 : 1) * h_bytes(*shape, dtype) + shape->batch * tiles * shape->bottleneck * sizeof(float);
}

ht_status ht_adapter_forward_cuda(const ht_adapter_shape* shape, const ht_adapter_weights_cuda* weights, ht_dtype dtype,
                                  int tf32, ht_tokens x, ht_tokens out, void* workspace, void* stream) {
  ht_status status = ht::check_shape(shape);
  if (status != HT_OK || shape->batch == 0) return status;
  status = check_arguments(*shape, weights, dtype, x, out, workspace);
  if (status != HT_OK) return status;
  char* memory = static_cast<char*>(workspace);
  const cudaStream_t s = static_cast<cudaStream_t>(stream);
  switch (dtype) {
    case HT_FLOAT32:
      return run<float>(*shape, *weights, dtype, tf32 != 0, x, out, memory, s);
    case HT_BFLOAT16:
      return run<__nv_bfloat16>(*shape, *weights, dtype, true, x, out, memory, s);
    default:
      return run<__half>(*shape, *weights, dtype, true, x, out, memory, s);
  }
}
}
