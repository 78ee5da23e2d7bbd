# Sets variable to the reason why CUDA cannot be compiled here: either there is no nvcc, or nvcc fails on an empty
# program with the given message.
function(find_why_no_cuda variable)
  find_program(nvcc NAMES "$ENV{CUDACXX}" nvcc PATHS "$ENV{CUDA_PATH}/bin" NO_CACHE)
  if(NOT nvcc)
    set(${variable} "no nvcc was found on PATH, in CUDACXX or in CUDA_PATH" PARENT_SCOPE)
    return()
  endif()
  set(program "${CMAKE_CURRENT_BINARY_DIR}/empty.cu")
  file(WRITE "${program}" "int main() { return 0; }\n")
  set(host_compiler "")
  if(DEFINED ENV{CUDAHOSTCXX})
    set(host_compiler -ccbin "$ENV{CUDAHOSTCXX}")
  endif()
  execute_process(COMMAND "${nvcc}" ${host_compiler} -o "${program}.out" "${program}"
                  OUTPUT_VARIABLE said ERROR_VARIABLE said)
  string(REGEX MATCH "[^\n]*([Ee]rror|fatal|cannot)[^\n]*" line "${said}")
  set(${variable} "${nvcc} does not compile an empty program: ${line}" PARENT_SCOPE)
endfunction()
