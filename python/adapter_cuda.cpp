// The adapter on the GPU. This file is compiled only in builds with CUDA kernels.

#include "arguments.h"

namespace py = pybind11;

namespace {

class CudaAdapter {
 public:
  CudaAdapter(py::object folded, int dtype)
      : folded_(std::move(folded)),
        weights_(read_weights<ht_adapter_weights_cuda>(folded_)),
        shape_(read_shape(folded_)),
        dtype_(static_cast<ht_dtype>(dtype)) {}

  std::size_t prepared() const { return ht_adapter_prepared_cuda(&shape_, dtype_); }

  void prepare(Address prepared, Address stream) const {
    const ht_adapter_shape any = for_call(shape_, 1, 1, 1, 0, 0);
    check(ht_adapter_prepare_cuda(&any, &weights_, dtype_, pointer<void>(prepared), pointer<void>(stream)));
  }

  std::size_t workspace(std::int64_t batch, std::int64_t height, std::int64_t width, std::int64_t prefix_tokens,
                        float eps) const {
    const ht_adapter_shape s = for_call(shape_, batch, height, width, prefix_tokens, eps);
    return ht_adapter_forward_workspace_cuda(&s, dtype_);
  }

  void forward(std::int64_t batch, std::int64_t height, std::int64_t width, std::int64_t prefix_tokens, float eps,
               bool tf32, Address prepared, const TokensArgument& x, const TokensArgument& out,
               const TokensArgument& normed, float norm_eps, Address memory, Address stream) const {
    const ht_adapter_shape s = for_call(shape_, batch, height, width, prefix_tokens, eps);
    check(ht_adapter_forward_cuda(&s, &weights_, dtype_, tf32, pointer<void>(prepared), tokens(x), tokens(out),
                                  tokens(normed), norm_eps, pointer<void>(memory), pointer<void>(stream)));
  }

 private:
  py::object folded_;  // keeps the weights alive, to which weights_ points
  ht_adapter_weights_cuda weights_;
  ht_adapter_shape shape_;
  ht_dtype dtype_;
};

}  // namespace

void bind_adapter_cuda(py::module_& m) {
  py::class_<CudaAdapter>(m, "CudaAdapter",
                          "An adapter's folded weights on a GPU, the matrices in dtype, a value of ht_dtype; it keeps "
                          "them alive.")
      .def(py::init<py::object, int>(), py::arg("folded"), py::arg("dtype"))
      .def("prepared", &CudaAdapter::prepared, "ht_adapter_prepared_cuda: bytes of device memory.")
      .def("prepare", &CudaAdapter::prepare, py::arg("prepared"), py::arg("stream"),
           "ht_adapter_prepare_cuda, on the current device.")
      .def("workspace", &CudaAdapter::workspace, py::arg("batch"), py::arg("grid_height"), py::arg("grid_width"),
           py::arg("prefix_tokens"), py::arg("eps"), "ht_adapter_forward_workspace_cuda: bytes of device memory.")
      .def("forward", &CudaAdapter::forward, py::arg("batch"), py::arg("grid_height"), py::arg("grid_width"),
           py::arg("prefix_tokens"), py::arg("eps"), py::arg("tf32"), py::arg("prepared"), py::arg("x"), py::arg("out"),
           py::arg("normed"), py::arg("norm_eps"), py::arg("workspace"), py::arg("stream"),
           "ht_adapter_forward_cuda, on the current device.");
}
