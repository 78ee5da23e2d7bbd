# The folded weights are listed once in Python, as fields of a NamedTuple in ht_kernels/folding.py, and once in C, as
# HT_ADAPTER_WEIGHTS. If the lists differed, the compiled code would take one weight for another, so the build fails.
function(check_weights python_file c_header)
  file(READ "${python_file}" python)
  file(READ "${c_header}" header)
  string(REGEX MATCH "class _Weights.*class FoldedAdapter" python "${python}")
  string(REGEX MATCHALL "\n    [a-z_]+: Tensor" python_names "${python}")
  string(REGEX MATCHALL "\n  F\\([a-z_]+," c_names "${header}")
  list(TRANSFORM python_names REPLACE "\n    ([a-z_]+): Tensor" "\\1")
  list(TRANSFORM c_names REPLACE "\n  F\\(([a-z_]+)," "\\1")
  if(NOT python_names OR NOT "${python_names}" STREQUAL "${c_names}")
    message(FATAL_ERROR "ht_kernels: the folded weights in ${python_file} (${python_names}) are not those of "
            "HT_ADAPTER_WEIGHTS in ${c_header} (${c_names}); give both the same names in the same order")
  endif()
endfunction()
