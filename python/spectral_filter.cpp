// The spectral filter on the CPU.

#include "arguments.h"
#include "workspace.h"

namespace py = pybind11;

namespace {

void forward(const FilterSizes& sizes, Address x, Address mask, Address out, int threads) {
  const ht_filter_shape s = filter_shape(sizes);
  void* memory = workspace(ht_spectral_filter_workspace_cpu(&s, 0, threads));
  py::gil_scoped_release release;
  check(ht_spectral_filter_cpu(&s, pointer<const float>(x), pointer<const float>(mask), pointer<float>(out), memory,
                               threads));
}

void backward(const FilterSizes& sizes, Address grad_out, Address x, Address mask, Address grad_x, Address grad_mask,
              int threads) {
  const ht_filter_shape s = filter_shape(sizes);
  void* memory = workspace(ht_spectral_filter_workspace_cpu(&s, 1, threads));
  py::gil_scoped_release release;
  check(ht_spectral_filter_backward_cpu(&s, pointer<const float>(grad_out), pointer<const float>(x),
                                        pointer<const float>(mask), pointer<float>(grad_x), pointer<float>(grad_mask),
                                        memory, threads));
}

}  // namespace

void bind_spectral_filter(py::module_& m) {
  m.def("spectral_filter", &forward, py::arg("sizes"), py::arg("x"), py::arg("mask"), py::arg("out"),
        py::arg("threads"), "ht_spectral_filter_cpu. sizes: the fields of ht_filter_shape.");
  m.def("spectral_filter_backward", &backward, py::arg("sizes"), py::arg("grad_out"), py::arg("x"), py::arg("mask"),
        py::arg("grad_x"), py::arg("grad_mask"), py::arg("threads"), "ht_spectral_filter_backward_cpu.");
}
