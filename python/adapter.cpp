// The adapter on the CPU.

#include <mutex>

#include "arguments.h"
#include "workspace.h"

namespace py = pybind11;

namespace {

// Folded weights, and the copy of them, in another layout, that the forward reads. Inference makes the copy once and
// keeps it. Training has other weights at each step, so there it is made in the workspace, which is in the cache.
class CpuAdapter {
 public:
  CpuAdapter(py::object folded, std::int64_t height, std::int64_t width, bool bfloat16_factors)
      : folded_(std::move(folded)),
        weights_(read_weights<ht_adapter_weights>(folded_)),
        shape_(for_call(read_shape(folded_), 0, height, width, 0, 0)),
        factors_(bfloat16_factors ? HT_BFLOAT16 : HT_FLOAT32) {}

  void forward(std::int64_t batch, std::int64_t height, std::int64_t width, std::int64_t prefix_tokens, float eps,
               bool bfloat16, const TokensArgument& x, Address keep, const TokensArgument& out, Address h,
               Address stats, int threads, Address seconds) {
    const ht_adapter_shape s = for_call(shape_, batch, height, width, prefix_tokens, eps);
    const bool training = h != 0;
    py::gil_scoped_release release;
    const std::size_t packed = (ht_adapter_prepared_cpu(&shape_, factors_) + 63) / 64 * 64;
    char* memory = static_cast<char*>(
        workspace((training ? packed : 0) + ht_adapter_forward_workspace_cpu(&s, training, threads)));
    void* prepared = memory;
    if (training) {
      memory += packed;
      check(ht_adapter_prepare_cpu(&shape_, &weights_, factors_, prepared, threads));
    } else {
      std::call_once(once_, [&] {
        kept_ = new_memory(packed);
        check(ht_adapter_prepare_cpu(&shape_, &weights_, factors_, kept_.get(), threads));
      });
      prepared = kept_.get();
    }
    check(ht_adapter_forward_stages_cpu(&s, &weights_, factors_, prepared, bfloat16 ? HT_BFLOAT16 : HT_FLOAT32,
                                        tokens(x), pointer<const float>(keep), tokens(out), pointer<float>(h),
                                        pointer<float>(stats), memory, threads, pointer<double>(seconds)));
  }

  void backward(std::int64_t batch, std::int64_t height, std::int64_t width, std::int64_t prefix_tokens, float eps,
                bool bfloat16, const TokensArgument& grad_out, const TokensArgument& x, Address keep, Address h,
                Address stats, const TokensArgument& grad_x, const py::object& grads, int threads, Address seconds) {
    const ht_adapter_shape s = for_call(shape_, batch, height, width, prefix_tokens, eps);
    const ht_adapter_weights g = read_weights<ht_adapter_weights>(grads);
    void* memory = workspace(ht_adapter_backward_workspace_cpu(&s, threads));
    py::gil_scoped_release release;
    check(ht_adapter_backward_stages_cpu(&s, &weights_, bfloat16 ? HT_BFLOAT16 : HT_FLOAT32, tokens(grad_out),
                                         tokens(x), pointer<const float>(keep), pointer<const float>(h),
                                         pointer<const float>(stats), tokens(grad_x), &g, memory, threads,
                                         pointer<double>(seconds)));
  }

 private:
  py::object folded_;  // keeps the weights alive, to which weights_ points
  ht_adapter_weights weights_;
  ht_adapter_shape shape_;
  ht_dtype factors_;
  std::once_flag once_;
  Memory kept_;
};

using FoldSizes = std::array<std::int64_t, 4>;  // dim, bottleneck, hidden, gains

ht_fold_shape fold_shape(const FoldSizes& n, bool masked) { return {n[0], n[1], n[2], n[3], masked}; }

// The address of a tensor that is an attribute of a Python object, NULL for None.
float* address_of(const py::handle& object, const char* name) {
  const py::object tensor = object.attr(name);
  return tensor.is_none() ? nullptr : pointer<float>(tensor.attr("data_ptr")().cast<Address>());
}

// Defines a function that reads the fields of a list, which are attributes of a Python object.
#define HT_READ(name) fields.name = address_of(object, #name);
#define HT_READER(function, Fields, LIST)      \
  Fields function(const py::handle& object) {  \
    Fields fields;                             \
    LIST(HT_READ)                              \
    return fields;                             \
  }
HT_READER(read_parts, ht_fold_parts, HT_FOLD_PARTS)
HT_READER(read_results, ht_fold_results, HT_FOLD_RESULTS)
#undef HT_READER
#undef HT_READ

void fold(const FoldSizes& sizes, bool masked, const py::object& parts, const py::object& results) {
  const ht_fold_shape shape = fold_shape(sizes, masked);
  const ht_fold_parts p = read_parts(parts);
  const ht_fold_results r = read_results(results);
  check(ht_adapter_fold_cpu(&shape, &p, &r));
}

void fold_backward(const FoldSizes& sizes, bool masked, const py::object& parts, Address down_weight_grad,
                   const py::object& result_grads, const py::object& part_grads) {
  const ht_fold_shape shape = fold_shape(sizes, masked);
  const ht_fold_parts p = read_parts(parts), g = read_parts(part_grads);
  const ht_fold_results r = read_results(result_grads);
  check(ht_adapter_fold_backward_cpu(&shape, &p, pointer<const float>(down_weight_grad), &r, &g));
}

// A training step, which folds too. The results of the fold lie one behind the other, `count` floats of memory that the
// caller keeps between the passes.
struct FoldMemory {
  ht_fold_results at;
  std::int64_t count = 0;

  FoldMemory(const ht_fold_shape& n, float* memory) {
    const std::int64_t channels = n.bottleneck, scales = n.hidden ? 3 : 1;
    const auto take = [&](std::int64_t floats) {
      float* taken = memory ? memory + count : nullptr;  // without memory the floats are counted
      count += floats;
      return taken;
    };
    at.norm_gain = take(n.dim);
    at.down_bias = take(channels);
    at.scale_kernels = take(scales * channels * 49);
    at.scale_bias = take(scales * channels);
    at.hidden_weight = n.hidden ? take(n.hidden * channels) : nullptr;
    at.mix_weight = take(channels * channels);
  }
};

ht_adapter_weights with_results(ht_adapter_weights weights, const ht_fold_results& results) {
#define HT_TAKE(name) weights.name = results.name;
  HT_FOLD_RESULTS(HT_TAKE)
#undef HT_TAKE
  return weights;
}

// What both passes of a step read.
struct Step {
  ht_fold_shape fold_sizes;
  ht_adapter_shape shape;
  ht_fold_parts parts;
  FoldMemory folded;
  ht_adapter_weights weights;
  float *h, *stats;

  // `call` is the batch, the grid and the prefix tokens. `state` has the results of the fold, h (B, N, C) and the
  // statistics of the tokens (B, N, 2).
  Step(const FoldSizes& sizes, std::int64_t masks, const std::array<std::int64_t, 4>& call, float eps,
       const py::object& part_tensors, const py::object& weight_tensors, Address state)
      : fold_sizes(fold_shape(sizes, masks != 0)),
        shape(for_call(ht_adapter_shape{}, call[0], call[1], call[2], call[3], eps)),
        parts(read_parts(part_tensors)),
        folded(fold_sizes, pointer<float>(state)),
        weights(with_results(read_weights<ht_adapter_weights>(weight_tensors), folded.at)),
        h(pointer<float>(state) + folded.count),
        stats(h + shape.batch * (shape.prefix_tokens + shape.grid_height * shape.grid_width) * sizes[1]) {
    shape.dim = sizes[0], shape.bottleneck = sizes[1], shape.hidden = sizes[2];
    shape.scales = sizes[2] ? 3 : 1, shape.masks = masks;
  }
};

void step_forward(const FoldSizes& sizes, std::int64_t masks, const std::array<std::int64_t, 4>& call, float eps,
                  bool bfloat16, bool bfloat16_factors, const py::object& parts, const py::object& weights,
                  const TokensArgument& x, Address keep, const TokensArgument& out, Address state, int threads) {
  const Step step(sizes, masks, call, eps, parts, weights, state);
  const ht_dtype factors = bfloat16_factors ? HT_BFLOAT16 : HT_FLOAT32;
  py::gil_scoped_release release;
  check(ht_adapter_fold_cpu(&step.fold_sizes, &step.parts, &step.folded.at));
  const std::size_t packed = (ht_adapter_prepared_cpu(&step.shape, factors) + 63) / 64 * 64;
  char* memory =
      static_cast<char*>(workspace(packed + ht_adapter_forward_workspace_cpu(&step.shape, true, threads)));
  check(ht_adapter_prepare_cpu(&step.shape, &step.weights, factors, memory, threads));
  check(ht_adapter_forward_cpu(&step.shape, &step.weights, factors, memory, bfloat16 ? HT_BFLOAT16 : HT_FLOAT32,
                               tokens(x), pointer<const float>(keep), tokens(out), step.h, step.stats, memory + packed,
                               threads));
}

void step_backward(const FoldSizes& sizes, std::int64_t masks, const std::array<std::int64_t, 4>& call, float eps,
                   bool bfloat16, const py::object& parts, const py::object& weights, const TokensArgument& grad_out,
                   const TokensArgument& x, Address keep, Address state, const TokensArgument& grad_x,
                   const py::object& part_grads, const py::object& weight_grads, int threads) {
  const Step step(sizes, masks, call, eps, parts, weights, state);
  const ht_fold_parts found = read_parts(part_grads);
  const ht_adapter_weights others = read_weights<ht_adapter_weights>(weight_grads);
  py::gil_scoped_release release;
  const std::size_t working = (ht_adapter_backward_workspace_cpu(&step.shape, threads) + 63) / 64 * 64;
  char* memory =
      static_cast<char*>(workspace(working + static_cast<std::size_t>(step.folded.count) * sizeof(float)));
  const FoldMemory results(step.fold_sizes, reinterpret_cast<float*>(memory + working));
  const ht_adapter_weights grads = with_results(others, results.at);
  check(ht_adapter_backward_cpu(&step.shape, &step.weights, bfloat16 ? HT_BFLOAT16 : HT_FLOAT32, tokens(grad_out),
                                tokens(x), pointer<const float>(keep), step.h, step.stats, tokens(grad_x), &grads,
                                memory, threads));
  check(ht_adapter_fold_backward_cpu(&step.fold_sizes, &step.parts, grads.down_weight, &results.at, &found));
}

}  // namespace

void bind_adapter(py::module_& m) {
  py::class_<CpuAdapter>(m, "CpuAdapter",
                         "An adapter's folded weights as the kernels of the CPU read them; it keeps them alive.")
      .def(py::init<py::object, std::int64_t, std::int64_t, bool>(), py::arg("folded"), py::arg("grid_height"),
           py::arg("grid_width"), py::arg("bfloat16_factors"))
      .def("forward", &CpuAdapter::forward, py::arg("batch"), py::arg("grid_height"), py::arg("grid_width"),
           py::arg("prefix_tokens"), py::arg("eps"), py::arg("bfloat16"), py::arg("x"), py::arg("keep"), py::arg("out"),
           py::arg("h"), py::arg("stats"), py::arg("threads"), py::arg("seconds") = 0, "ht_adapter_forward_stages_cpu.")
      .def("backward", &CpuAdapter::backward, py::arg("batch"), py::arg("grid_height"), py::arg("grid_width"),
           py::arg("prefix_tokens"), py::arg("eps"), py::arg("bfloat16"), py::arg("grad_out"), py::arg("x"),
           py::arg("keep"), py::arg("h"), py::arg("stats"), py::arg("grad_x"), py::arg("grads"), py::arg("threads"),
           py::arg("seconds") = 0, "ht_adapter_backward_stages_cpu.");
  m.def(
      "adapter_weights",
      [] {
        std::vector<std::string> names;
#define HT_NAME(name, kind, when) names.push_back(#name);
        HT_ADAPTER_WEIGHTS(HT_NAME)
#undef HT_NAME
        return names;
      },
      "The names of the folded weights that this module was built for.");
  m.def("fold", &fold, py::arg("sizes"), py::arg("masked"), py::arg("parts"), py::arg("results"),
        "ht_adapter_fold_cpu. sizes: dim, bottleneck, hidden, gains; parts and results have the fields as attributes.");
  m.def("fold_backward", &fold_backward, py::arg("sizes"), py::arg("masked"), py::arg("parts"),
        py::arg("down_weight_grad"), py::arg("result_grads"), py::arg("part_grads"), "ht_adapter_fold_backward_cpu.");
  m.def(
      "step_state", [](const FoldSizes& sizes) { return FoldMemory(fold_shape(sizes, false), nullptr).count; },
      py::arg("sizes"), "The number of floats that step_forward keeps of the fold, before h and stats.");
  m.def("step_forward", &step_forward, py::arg("sizes"), py::arg("masks"), py::arg("call"), py::arg("eps"),
        py::arg("bfloat16"), py::arg("bfloat16_factors"), py::arg("parts"), py::arg("weights"), py::arg("x"),
        py::arg("keep"), py::arg("out"), py::arg("state"), py::arg("threads"),
        "ht_adapter_fold_cpu and ht_adapter_forward_cpu. weights has None for the results of the fold, which go to "
        "state, with h and stats behind them.");
  m.def("step_backward", &step_backward, py::arg("sizes"), py::arg("masks"), py::arg("call"), py::arg("eps"),
        py::arg("bfloat16"), py::arg("parts"), py::arg("weights"), py::arg("grad_out"), py::arg("x"), py::arg("keep"),
        py::arg("state"), py::arg("grad_x"), py::arg("part_grads"), py::arg("weight_grads"), py::arg("threads"),
        "ht_adapter_backward_cpu and ht_adapter_fold_backward_cpu. down_weight of weight_grads may be that of "
        "part_grads.");
  m.def(
      "adapter_stages",
      [] {
        std::vector<std::string> names;
#define HT_NAME(NAME, name) names.push_back(#name);
        HT_ADAPTER_STAGES(HT_NAME)
#undef HT_NAME
        return names;
      },
      "The names of the stages that are measured, in the order of ht_stage.");
  m.def("cpu_isa", &ht_cpu_isa, "The instruction set in use: baseline, avx2, avx512, avx512_bf16 or avx2_bf16.");
}
