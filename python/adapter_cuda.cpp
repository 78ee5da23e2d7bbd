// The adapter on the GPU; compiled where the CUDA kernels are.

#include "arguments.h"

namespace py = pybind11;

namespace {

std::size_t workspace(const Sizes& sizes, int dtype) {
  const ht_adapter_shape s = shape(sizes, 0);
  return ht_adapter_forward_workspace_cuda(&s, static_cast<ht_dtype>(dtype));
}

void forward(const Sizes& sizes, float eps, int dtype, bool tf32, const WeightsArgument& w, const TokensArgument& x,
             const TokensArgument& out, Address memory, Address stream) {
  const ht_adapter_shape s = shape(sizes, eps);
  const auto f = [&](int i) { return pointer<const float>(w[i]); };
  const auto matrix = [&](int i) { return pointer<const void>(w[i]); };
  const ht_adapter_weights_cuda weights{matrix(0), f(1), f(2),       f(3),  f(4),       f(5),  f(6), f(7),
                                        f(8),      f(9), matrix(10), f(11), matrix(12), f(13), f(14)};
  check(ht_adapter_forward_cuda(&s, &weights, static_cast<ht_dtype>(dtype), tf32, tokens(x), tokens(out),
                                pointer<void>(memory), pointer<void>(stream)));
}

}  // namespace

void bind_adapter_cuda(py::module_& m) {
  m.def("adapter_forward_workspace_cuda", &workspace, py::arg("sizes"), py::arg("dtype"),
        "ht_adapter_forward_workspace_cuda: bytes of device memory.");
  m.def("adapter_forward_cuda", &forward, py::arg("sizes"), py::arg("eps"), py::arg("dtype"), py::arg("tf32"),
        py::arg("folded"), py::arg("x"), py::arg("out"), py::arg("workspace"), py::arg("stream"),
        "ht_adapter_forward_cuda, on the current device. dtype: a value of ht_dtype; folded: the fields of "
        "FoldedAdapter.");
}
