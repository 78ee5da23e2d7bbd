// The Python module ht_kernels._C over the C interface.

#include <pybind11/pybind11.h>

void bind_adapter(pybind11::module_& m);
void bind_adapter_cuda(pybind11::module_& m);
void bind_build_info(pybind11::module_& m);
void bind_crc64(pybind11::module_& m);
void bind_grid_to_mask(pybind11::module_& m);
void bind_grid_to_mask_cuda(pybind11::module_& m);
void bind_preprocess(pybind11::module_& m);
void bind_spectral_filter(pybind11::module_& m);
void bind_spectral_filter_cuda(pybind11::module_& m);

// Free-threaded Python may call from several threads at once: an adapter's copy of its weights is made under a
// once_flag, workspaces and the last error belong to a thread, and everything else is an argument or constant.
PYBIND11_MODULE(_C, m, pybind11::mod_gil_not_used()) {
  m.doc() = "Compiled kernels. Called by ht_kernels.backends, which hand on checked arguments.";
  bind_adapter(m);
#if defined(HT_KERNELS_WITH_CUDA)
  bind_adapter_cuda(m);
  bind_grid_to_mask_cuda(m);
  bind_spectral_filter_cuda(m);
#endif
  bind_build_info(m);
  bind_crc64(m);
  bind_grid_to_mask(m);
  bind_preprocess(m);
  bind_spectral_filter(m);
}
