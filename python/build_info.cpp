// How this module was built, for `ht-kernels info` and bug reports.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <sstream>
#include <string>
#include <vector>

namespace py = pybind11;

namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

std::vector<std::string> words(const char* text) {
  std::istringstream stream(text);
  std::vector<std::string> result;
  for (std::string word; stream >> word;) result.push_back(word);
  return result;
}

py::dict build_info() {
  py::dict info;
  info["version"] = HT_KERNELS_VERSION;
  info["compiler"] = compiler();
#if defined(_OPENMP)
  info["openmp"] = _OPENMP;
#else
  info["openmp"] = py::none();
#endif
  info["isa_levels"] = words(HT_KERNELS_ISA_LEVELS);
  info["cuda_archs"] = words(HT_KERNELS_CUDA_ARCHS);
  info["nvcc"] = *HT_KERNELS_NVCC ? py::object(py::str(HT_KERNELS_NVCC)) : py::none();
  return info;
}

}  // namespace

void bind_build_info(py::module_& m) {
  m.def("build_info", &build_info,
        "How this module was built: version, compiler, openmp (the date of its specification, or None), isa_levels "
        "(instruction sets compiled in), cuda_archs (CMake's names; empty for a CPU-only build) and nvcc (its version, "
        "or None).");
}
