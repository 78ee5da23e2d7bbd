// Masks from logits on a grid, on the GPU. This file is compiled only in builds with CUDA kernels.

#include "arguments.h"

namespace py = pybind11;

namespace {

void mask_on_gpu(const MaskSizes& sizes, Address logits, Address mask, Address stream) {
  const ht_mask_shape s = mask_shape(sizes);
  check(ht_grid_to_mask_cuda(&s, pointer<const float>(logits), pointer<std::uint8_t>(mask), pointer<void>(stream)));
}

}  // namespace

void bind_grid_to_mask_cuda(py::module_& m) {
  m.def("grid_to_mask_cuda", &mask_on_gpu, py::arg("sizes"), py::arg("logits"), py::arg("mask"), py::arg("stream"),
        "ht_grid_to_mask_cuda, on the current device. sizes: the fields of ht_mask_shape.");
}
