// The checksum of OpenIGTLink's messages.

#include "arguments.h"

namespace py = pybind11;

namespace {

std::uint64_t crc64(Address bytes, std::int64_t count, std::uint64_t crc) {
  py::gil_scoped_release release;
  return ht_crc64_cpu(pointer<const std::uint8_t>(bytes), count, crc);
}

}  // namespace

void bind_crc64(py::module_& m) {
  m.def("crc64", &crc64, py::arg("bytes"), py::arg("count"), py::arg("crc"), "ht_crc64_cpu.");
}
