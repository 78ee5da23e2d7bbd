// The C interface of the adapter on the GPU. A call checks its arguments, plans how blocks divide the work, and starts
// two kernels, one more for a spectral filter, and one more for a LayerNorm that the second does not write.

#include "checks.h"
#include "float32/stages.h"
#include "prepared.h"
#include "stages.h"

namespace {

using namespace ht::cuda;

constexpr int kMaxChannels = 128;
constexpr int64_t kMaxTokenStride = 1 << 24;   // so that distances within a tile of tokens fit 32 bits
constexpr int kLeastRows = NarrowTile::kRows;  // tokens of the smallest tile of down_project in any type
static_assert(kLeastRows == float32::NarrowTile::kRows, "one size of workspace serves all types");

int64_t element_bytes(ht_dtype dtype) { return dtype == HT_FLOAT32 ? 4 : 2; }

int64_t h_bytes(const ht_adapter_shape& s, ht_dtype dtype) {
  const int64_t tokens = s.prefix_tokens + s.grid_height * s.grid_width;
  return (s.batch * tokens * s.bottleneck * element_bytes(dtype) + 255) / 256 * 256;
}

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Checks what does not depend on the tokens.
ht_status check_weights(const ht_adapter_shape& s, const ht_adapter_weights_cuda* w, ht_dtype dtype,
                        const void* prepared) {
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
  if (dtype != HT_FLOAT32 && (!prepared || !aligned(prepared))) {
    return fail(HT_INVALID_ARGUMENT, "prepared must not be NULL, and aligned to 16 bytes");
  }
#define HT_CHECK(name, kind, when)                             \
  if (ht::When::when == ht::When::ALWAYS && !aligned(w->name)) \
    return fail(HT_INVALID_ARGUMENT, "the weight " #name " is not aligned to 16 bytes");
  HT_ADAPTER_WEIGHTS(HT_CHECK)
#undef HT_CHECK
  return s.masks ? check_mask(w->mask, s.grid_height, s.grid_width) : HT_OK;
}

// Where tokens come from and go to.
struct Tokens {
  ht_tokens x, out;
  ht_tokens normed;  // data is NULL where it is not wanted
  float norm_eps;
};

ht_status check_tokens(const Tokens& all, const void* workspace) {
  using ht::fail;
  if (!workspace) return fail(HT_INVALID_ARGUMENT, "workspace must not be NULL");
  for (const ht_tokens* t : {&all.x, &all.out, &all.normed}) {
    if (t == &all.normed && !t->data) continue;
    if (!t->data || !aligned(t->data) || t->batch_stride % kVector || t->token_stride % kVector) {
      return fail(HT_INVALID_ARGUMENT,
                  "x, out and normed must be aligned to 16 bytes, with strides that are multiples of 8");
    }
    if (t->token_stride > kMaxTokenStride || t->token_stride < -kMaxTokenStride) {
      return fail(HT_INVALID_ARGUMENT, "the distance of neighbouring tokens must be at most %lld numbers, got %lld",
                  (long long)kMaxTokenStride, (long long)t->token_stride);
    }
  }
  if (all.normed.data && !(all.norm_eps > 0)) {
    return fail(HT_INVALID_ARGUMENT, "norm_eps must be positive, got %g", all.norm_eps);
  }
  return HT_OK;
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
    int major = 0, minor = 0;
    ask(cudaDevAttrComputeCapabilityMajor, major);
    ask(cudaDevAttrComputeCapabilityMinor, minor);
    known.capability = 10 * major + minor;
    if (error == cudaSuccess) known_index = index;
  }
  device = known;
  return error;
}

// The sizes of a call as the kernels take them.
struct Sizes {
  int images, dim, channels, hidden, scales, height, width, prefix, tokens;

  explicit Sizes(const ht_adapter_shape& s)
      : images(static_cast<int>(s.batch)),
        dim(static_cast<int>(s.dim)),
        channels(static_cast<int>(s.bottleneck)),
        hidden(s.scales == 1 ? 0 : static_cast<int>(s.hidden)),
        scales(static_cast<int>(s.scales)),
        height(static_cast<int>(s.grid_height)),
        width(static_cast<int>(s.grid_width)),
        prefix(static_cast<int>(s.prefix_tokens)),
        tokens(prefix + height * width) {}
};

// The parts of the workspace: h, the filtered h, and the sums of tiles.
template <class T>
struct Workspace {
  T *h, *filtered;
  float* sums;

  Workspace(const ht_adapter_shape& s, ht_dtype dtype, char* memory)
      : h(reinterpret_cast<T*>(memory)),
        filtered(s.masks ? reinterpret_cast<T*>(memory + h_bytes(s, dtype)) : nullptr),
        sums(s.scales == 1 ? nullptr : reinterpret_cast<float*>(memory + (s.masks ? 2 : 1) * h_bytes(s, dtype))) {}
};

ht_status too_little_shared_memory(int bytes, const Device& device) {
  return ht::fail(
      HT_INVALID_ARGUMENT,
      "with this bottleneck and hidden width mix_and_up_project needs %d bytes of shared memory, and a block "
      "of this device has %d",
      bytes, device.block_bytes);
}

NoiseEstimator noise_of(const Sizes& n, const ht_adapter_weights_cuda& w, const float* sums, int tiles) {
  return {sums,
          n.hidden ? w.hidden_weight : nullptr,
          w.hidden_bias,
          w.score_weight,
          w.score_bias,
          tiles,
          n.channels,
          n.hidden,
          n.height * n.width};
}

template <class T>
ht_status filter(const ht_adapter_shape& s, const float* mask, const Workspace<T>& memory, cudaStream_t stream) {
  if (!s.masks) return HT_OK;
  const Sizes n(s);
  SpectralFilter<T> filter{};
  const int64_t first_patch = int64_t{n.prefix} * n.channels;
  filter.x = memory.h + first_patch, filter.out = memory.filtered + first_patch;
  filter.image_stride = int64_t{n.tokens} * n.channels, filter.channel_stride = 1, filter.patch_stride = n.channels;
  filter.mask = reinterpret_cast<const float2*>(mask);
  filter.channels = n.channels, filter.masks = static_cast<int>(s.masks), filter.height = n.height;
  filter.width = n.width;
  return check(launch_spectral_filter(filter, n.images, stream), "spectral_filter did not start");
}

// Writes normed, where it is wanted.
template <class T>
ht_status normalize(const Sizes& n, const Tokens& t, cudaStream_t stream) {
  if (!t.normed.data) return HT_OK;
  LayerNorm<T> norm{};
  norm.x = static_cast<const T*>(t.out.data), norm.out = static_cast<T*>(t.normed.data);
  norm.x_batch_stride = t.out.batch_stride, norm.x_token_stride = t.out.token_stride;
  norm.out_batch_stride = t.normed.batch_stride, norm.out_token_stride = t.normed.token_stride;
  norm.rows = int64_t{n.images} * n.tokens, norm.tokens = n.tokens, norm.dim = n.dim;
  norm.eps = t.norm_eps, norm.inverse_dim = 1.0f / n.dim;
  return check(launch_layer_norm(norm, stream), "layer_norm did not start");
}

ht_status run_float32(const ht_adapter_shape& s, const ht_adapter_weights_cuda& w, const Device& device,
                      bool tensor_cores, const Tokens& t, char* workspace, cudaStream_t stream) {
  const float32::Plan plan = float32::make_plan(s, device);
  if (plan.mix_bytes > device.block_bytes) return too_little_shared_memory(plan.mix_bytes, device);
  const Sizes n(s);
  const Workspace<float> memory(s, HT_FLOAT32, workspace);
  float32::DownProject down{};
  down.x = static_cast<const float*>(t.x.data), down.batch_stride = t.x.batch_stride;
  down.token_stride = t.x.token_stride;
  down.weight = {static_cast<const float*>(w.down_weight), n.channels, n.dim};
  down.norm_gain = w.norm_gain, down.skip_gain = w.skip_gain, down.bias = w.down_bias;
  down.h = memory.h, down.sums = memory.sums, down.tokens = n.tokens, down.prefix = n.prefix;
  down.tiles = plan.down_tiles, down.parts = ceil_div(n.channels, plan.down_columns), down.chunk = plan.chunk;
  down.eps = s.eps;
  ht_status status =
      check(float32::launch_down_project(down, n.images, plan, tensor_cores, stream), "down_project did not start");
  if (status == HT_OK) status = filter(s, w.mask, memory, stream);
  if (status != HT_OK) return status;

  float32::MixAndUpProject mix{};
  mix.noise = noise_of(n, w, memory.sums, plan.down_tiles);
  mix.depthwise = {memory.h,   memory.filtered, w.scale_kernels, w.scale_bias, n.tokens,
                   n.channels, n.prefix,        n.height,        n.width,      n.scales};
  mix.mix_weight = {static_cast<const float*>(w.mix_weight), n.channels, n.channels}, mix.mix_bias = w.mix_bias;
  mix.up_weight = {static_cast<const float*>(w.up_weight), n.dim, n.channels}, mix.up_bias = w.up_bias;
  mix.x = down.x, mix.x_batch_stride = t.x.batch_stride, mix.x_token_stride = t.x.token_stride;
  mix.out = static_cast<float*>(t.out.data), mix.out_batch_stride = t.out.batch_stride;
  mix.out_token_stride = t.out.token_stride, mix.blocks = plan.mix_blocks, mix.slice = plan.slice;
  status = check(float32::launch_mix_and_up_project(mix, n.images, plan, tensor_cores, stream),
                 "mix_and_up_project did not start");
  return status == HT_OK ? normalize<float>(n, t, stream) : status;
}

template <class T>
ht_status run(const ht_adapter_shape& s, const ht_adapter_weights_cuda& w, ht_dtype dtype, const char* prepared,
              const Device& device, const Tokens& t, char* workspace, cudaStream_t stream) {
  const Plan plan = make_plan(s, device);
  if (plan.layout.bytes > device.block_bytes) return too_little_shared_memory(plan.layout.bytes, device);
  const Sizes n(s);
  const Workspace<T> memory(s, dtype, workspace);
  const PreparedLayout at = PreparedLayout::of(s);
  DownProject<T> down{};
  down.x = static_cast<const T*>(t.x.data), down.batch_stride = t.x.batch_stride;
  down.token_stride = t.x.token_stride;
  down.weights = reinterpret_cast<const T*>(prepared + at.stacked);
  down.row_sums = reinterpret_cast<const float*>(prepared + at.row_sums), down.bias = w.down_bias;
  down.h = memory.h, down.sums = memory.sums, down.tokens = n.tokens, down.prefix = n.prefix, down.dim = n.dim;
  down.channels = n.channels, down.tiles = plan.down_tiles;
  down.parts = ceil_div(n.channels, plan.down_channels), down.eps = s.eps, down.inverse_dim = 1.0f / n.dim;
  ht_status status = check(launch_down_project(down, n.images, plan, stream), "down_project did not start");
  if (status == HT_OK) status = filter(s, w.mask, memory, stream);
  if (status != HT_OK) return status;

  MixAndUpProject<T> mix{};
  mix.noise = noise_of(n, w, memory.sums, plan.down_tiles);
  mix.h = memory.h, mix.filtered = memory.filtered;
  mix.kernels = reinterpret_cast<const float*>(prepared + at.kernels), mix.scale_bias = w.scale_bias;
  mix.mix_weight = static_cast<const T*>(w.mix_weight), mix.mix_bias = w.mix_bias;
  mix.up_weight = static_cast<const T*>(w.up_weight), mix.up_bias = w.up_bias;
  mix.x = down.x, mix.x_batch_stride = t.x.batch_stride;
  mix.x_token_bytes = static_cast<int>(sizeof(T) * t.x.token_stride);
  mix.out = static_cast<T*>(t.out.data), mix.out_batch_stride = t.out.batch_stride;
  mix.out_token_bytes = static_cast<int>(sizeof(T) * t.out.token_stride), mix.grid = plan.grid;
  mix.normed = plan.norm_beside ? static_cast<T*>(t.normed.data) : nullptr;
  mix.normed_batch_stride = t.normed.batch_stride;
  mix.normed_token_bytes = static_cast<int>(sizeof(T) * t.normed.token_stride);
  mix.norm_eps = t.norm_eps, mix.inverse_dim = down.inverse_dim;
  mix.tokens = n.tokens, mix.prefix = n.prefix, mix.height = n.height, mix.width = n.width;
  mix.channels = n.channels, mix.dim = n.dim, mix.scales = n.scales;
  mix.blocks = plan.mix_blocks, mix.slice = plan.slice, mix.stages = plan.stages, mix.early = plan.early;
  mix.layout = plan.layout;
  status = check(launch_mix_and_up_project(mix, n.images, plan, stream), "mix_and_up_project did not start");
  return status == HT_OK && !plan.norm_beside ? normalize<T>(n, t, stream) : status;
}

template <class T>
ht_status run_prepare(const ht_adapter_shape& s, const ht_adapter_weights_cuda& w, char* prepared,
                      cudaStream_t stream) {
  const Sizes n(s);
  const PreparedLayout at = PreparedLayout::of(s);
  Prepare<T> p{};
  p.down_weight = static_cast<const T*>(w.down_weight), p.norm_gain = w.norm_gain, p.skip_gain = w.skip_gain;
  p.scale_kernels = w.scale_kernels, p.row_sums = reinterpret_cast<float*>(prepared + at.row_sums);
  p.kernels = reinterpret_cast<float*>(prepared + at.kernels);
  p.stacked = reinterpret_cast<T*>(prepared + at.stacked);
  p.dim = n.dim, p.channels = n.channels, p.scales = n.scales;
  return check(launch_prepare(p, stream), "prepare did not start");
}

}  // namespace

extern "C" {

size_t ht_adapter_prepared_cuda(const ht_adapter_shape* shape, ht_dtype dtype) {
  return dtype == HT_FLOAT32 ? 0 : PreparedLayout::of(*shape).bytes;
}

ht_status ht_adapter_prepare_cuda(const ht_adapter_shape* shape, const ht_adapter_weights_cuda* weights, ht_dtype dtype,
                                  void* prepared, void* stream) {
  ht_status status = ht::check_shape(shape);
  if (status == HT_OK) status = check_weights(*shape, weights, dtype, prepared);
  if (status != HT_OK || dtype == HT_FLOAT32) return status;
  char* memory = static_cast<char*>(prepared);
  const cudaStream_t s = static_cast<cudaStream_t>(stream);
  return dtype == HT_BFLOAT16 ? run_prepare<__nv_bfloat16>(*shape, *weights, memory, s)
                              : run_prepare<__half>(*shape, *weights, memory, s);
}

size_t ht_adapter_forward_workspace_cuda(const ht_adapter_shape* shape, ht_dtype dtype) {
  const int64_t tokens = shape->prefix_tokens + shape->grid_height * shape->grid_width;
  const int64_t tiles = (tokens + kLeastRows - 1) / kLeastRows;
  return (shape->masks ? 2 : 1) * h_bytes(*shape, dtype) + shape->batch * tiles * shape->bottleneck * sizeof(float);
}

ht_status ht_adapter_forward_cuda(const ht_adapter_shape* shape, const ht_adapter_weights_cuda* weights, ht_dtype dtype,
                                  int tf32, const void* prepared, ht_tokens x, ht_tokens out, ht_tokens normed,
                                  float norm_eps, void* workspace, void* stream) {
  ht_status status = ht::check_shape(shape);
  if (status != HT_OK || shape->batch == 0) return status;
  status = check_weights(*shape, weights, dtype, prepared);
  const Tokens t{x, out, normed, norm_eps};
  if (status == HT_OK) status = check_tokens(t, workspace);
  Device device{};
  if (status == HT_OK) status = check(current_device(device), "the CUDA device could not be read");
  if (status != HT_OK) return status;
  if (dtype == HT_BFLOAT16 && device.capability < 80) {
    return ht::fail(HT_INVALID_ARGUMENT,
                    "bfloat16 needs a GPU of compute capability 8.0 or newer, and this one has %d.%d",
                    device.capability / 10, device.capability % 10);
  }
  const char* weights_16 = static_cast<const char*>(prepared);
  char* memory = static_cast<char*>(workspace);
  const cudaStream_t s = static_cast<cudaStream_t>(stream);
  switch (dtype) {
    case HT_FLOAT32:
      return run_float32(*shape, *weights, device, tf32 != 0, t, memory, s);
    case HT_BFLOAT16:
      return run<__nv_bfloat16>(*shape, *weights, dtype, weights_16, device, t, memory, s);
    default:
      return run<__half>(*shape, *weights, dtype, weights_16, device, t, memory, s);
  }
}
}
