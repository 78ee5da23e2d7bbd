// Gray images in a model's size from frames, on the CPU.

#include "arguments.h"
#include "workspace.h"

namespace py = pybind11;

namespace {

void preprocess(const FrameSizes& sizes, Address frame, std::int64_t row_stride, Address pixels, int threads) {
  const ht_frame_shape s{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]};
  void* memory = workspace(ht_preprocess_workspace_cpu(&s, threads));
  py::gil_scoped_release release;
  check(ht_preprocess_cpu(&s, pointer<const std::uint8_t>(frame), row_stride, pointer<std::uint8_t>(pixels), memory,
                          threads));
}

}  // namespace

void bind_preprocess(py::module_& m) {
  m.def("preprocess", &preprocess, py::arg("sizes"), py::arg("frame"), py::arg("row_stride"), py::arg("pixels"),
        py::arg("threads"), "ht_preprocess_cpu. sizes: the fields of ht_frame_shape.");
}
