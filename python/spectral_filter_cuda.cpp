// The spectral filter on the GPU. This file is compiled only in builds with CUDA kernels.

#include "arguments.h"

namespace py = pybind11;

namespace {

void filter_on_gpu(const FilterSizes& sizes, int dtype, Address x, Address mask, Address out, Address stream) {
  const ht_filter_shape s = filter_shape(sizes);
  check(ht_spectral_filter_cuda(&s, static_cast<ht_dtype>(dtype), pointer<const void>(x), pointer<const float>(mask),
                                pointer<void>(out), pointer<void>(stream)));
}

}  // namespace

void bind_spectral_filter_cuda(py::module_& m) {
  m.def("spectral_filter_cuda", &filter_on_gpu, py::arg("sizes"), py::arg("dtype"), py::arg("x"), py::arg("mask"),
        py::arg("out"), py::arg("stream"),
        "ht_spectral_filter_cuda, on the current device. sizes: the fields of ht_filter_shape; dtype: a value of "
        "ht_dtype.");
}
