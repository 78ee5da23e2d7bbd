// Masks from logits on a grid, on the CPU.

#include "arguments.h"
#include "workspace.h"

namespace py = pybind11;

namespace {

void grid_to_mask(const MaskSizes& sizes, Address logits, Address mask, int threads) {
  const ht_mask_shape s = mask_shape(sizes);
  void* memory = workspace(ht_grid_to_mask_workspace_cpu(&s, threads));
  py::gil_scoped_release release;
  check(ht_grid_to_mask_cpu(&s, pointer<const float>(logits), pointer<std::uint8_t>(mask), memory, threads));
}

}  // namespace

void bind_grid_to_mask(py::module_& m) {
  m.def("grid_to_mask", &grid_to_mask, py::arg("sizes"), py::arg("logits"), py::arg("mask"), py::arg("threads"),
        "ht_grid_to_mask_cpu. sizes: the fields of ht_mask_shape.");
}
