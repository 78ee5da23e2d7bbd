// The adapter on the CPU.

#include "arguments.h"
#include "workspace.h"

namespace py = pybind11;

namespace {

ht_adapter_weights weights(const WeightsArgument& w) {
  return {pointer<float>(w[0]),  pointer<float>(w[1]),  pointer<float>(w[2]),  pointer<float>(w[3]),
          pointer<float>(w[4]),  pointer<float>(w[5]),  pointer<float>(w[6]),  pointer<float>(w[7]),
          pointer<float>(w[8]),  pointer<float>(w[9]),  pointer<float>(w[10]), pointer<float>(w[11]),
          pointer<float>(w[12]), pointer<float>(w[13]), pointer<float>(w[14])};
}

void forward(const Sizes& sizes, float eps, bool bfloat16, const WeightsArgument& folded, const TokensArgument& x,
             Address keep, const TokensArgument& out, Address h, Address stats, int threads) {
  const ht_adapter_shape s = shape(sizes, eps);
  const ht_adapter_weights w = weights(folded);
  void* memory = workspace(ht_adapter_forward_workspace_cpu(&s, threads));
  py::gil_scoped_release release;
  check(ht_adapter_forward_cpu(&s, &w, bfloat16 ? HT_BFLOAT16 : HT_FLOAT32, tokens(x), pointer<const float>(keep),
                               tokens(out), pointer<float>(h), pointer<float>(stats), memory, threads));
}

void backward(const Sizes& sizes, float eps, bool bfloat16, const WeightsArgument& folded,
              const TokensArgument& grad_out, const TokensArgument& x, Address keep, Address h, Address stats,
              const TokensArgument& grad_x, const WeightsArgument& grads, int threads) {
  const ht_adapter_shape s = shape(sizes, eps);
  const ht_adapter_weights w = weights(folded), g = weights(grads);
  void* memory = workspace(ht_adapter_backward_workspace_cpu(&s, threads));
  py::gil_scoped_release release;
  check(ht_adapter_backward_cpu(&s, &w, bfloat16 ? HT_BFLOAT16 : HT_FLOAT32, tokens(grad_out), tokens(x),
                                pointer<const float>(keep), pointer<const float>(h), pointer<const float>(stats),
                                tokens(grad_x), &g, memory, threads));
}

}  // namespace

void bind_adapter(py::module_& m) {
  m.def("adapter_forward", &forward, py::arg("sizes"), py::arg("eps"), py::arg("bfloat16"), py::arg("folded"),
        py::arg("x"), py::arg("keep"), py::arg("out"), py::arg("h"), py::arg("stats"), py::arg("threads"),
        "ht_adapter_forward_cpu. sizes: the fields of ht_adapter_shape but eps; folded: the fields of FoldedAdapter.");
  m.def("adapter_backward", &backward, py::arg("sizes"), py::arg("eps"), py::arg("bfloat16"), py::arg("folded"),
        py::arg("grad_out"), py::arg("x"), py::arg("keep"), py::arg("h"), py::arg("stats"), py::arg("grad_x"),
        py::arg("grads"), py::arg("threads"), "ht_adapter_backward_cpu.");
  m.def("cpu_isa", &ht_cpu_isa, "The instruction set in use: baseline, avx2 or avx512.");
}
