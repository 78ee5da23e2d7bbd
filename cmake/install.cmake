# The C library as a product: libht_kernels, its header, and what find_package and pkg-config read, installed into a
# prefix that may be moved.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# Before 1.0 every minor version may change the interface, so it is part of the library's name and of its symbols'.
set(interface ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})

target_compile_definitions(ht_kernels_core PRIVATE HT_KERNELS_EXPORTS)
add_library(ht_kernels SHARED $<TARGET_OBJECTS:ht_kernels_core>)
set_target_properties(ht_kernels PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${interface} LINKER_LANGUAGE CXX)
target_include_directories(ht_kernels INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
if(OpenMP_CXX_FOUND)
  target_link_libraries(ht_kernels PRIVATE OpenMP::OpenMP_CXX)
endif()
set(defines "")
if(cuda_archs)
  set_target_properties(ht_kernels PROPERTIES LINKER_LANGUAGE CUDA)  # which links CUDA's runtime
  target_compile_definitions(ht_kernels INTERFACE HT_KERNELS_WITH_CUDA)
  set(defines " -DHT_KERNELS_WITH_CUDA")
endif()
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
  # Only ht_* leave the library: neither those of the C++ library's templates nor those of CUDA's runtime.
  set(script ${CMAKE_CURRENT_BINARY_DIR}/ht_kernels.map)
  file(CONFIGURE OUTPUT ${script} CONTENT "HT_KERNELS_@interface@ {\n  global: ht_*;\n  local: *;\n};\n" @ONLY)
  target_link_options(ht_kernels PRIVATE LINKER:--version-script,${script})
  set_target_properties(ht_kernels PROPERTIES LINK_DEPENDS ${script})
endif()

install(TARGETS ht_kernels EXPORT ht_kernels LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES csrc/include/ht_kernels.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(TARGET ht_kernels_tensorrt)
  install(TARGETS ht_kernels_tensorrt LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()

# find_package(ht_kernels) gives the target ht_kernels::ht_kernels. The library needs OpenMP, which the loader finds;
# programs need nothing of it, so the package looks for nothing.
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/ht_kernels)
install(EXPORT ht_kernels NAMESPACE ht_kernels:: FILE ht_kernels-config.cmake DESTINATION ${package})
set(version_file ${CMAKE_CURRENT_BINARY_DIR}/ht_kernels-config-version.cmake)
write_basic_package_version_file(${version_file} COMPATIBILITY SameMinorVersion)
install(FILES ${version_file} DESTINATION ${package})

# pkg-config knows the folder of its file, from which the prefix is reached however deep that lies.
set(pc_folder ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH up /prefix/${pc_folder} /prefix)
string(REGEX REPLACE "/$" "" up "${up}")
set(pc_file ${CMAKE_CURRENT_BINARY_DIR}/ht_kernels.pc)
file(CONFIGURE OUTPUT ${pc_file} @ONLY CONTENT "prefix=\${pcfiledir}/@up@
libdir=\${prefix}/@CMAKE_INSTALL_LIBDIR@
includedir=\${prefix}/@CMAKE_INSTALL_INCLUDEDIR@

Name: ht_kernels
Description: Hybrid-tuning adapters on CPUs and GPUs
Version: @PROJECT_VERSION@
Libs: -L\${libdir} -lht_kernels
Libs.private: @OpenMP_CXX_FLAGS@
Cflags: -I\${includedir}@defines@
")
install(FILES ${pc_file} DESTINATION ${pc_folder})
