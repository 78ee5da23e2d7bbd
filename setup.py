"""Builds ht_kernels._C with CMake. Everything else about the package is in pyproject.toml.

These environment variables have an effect: HT_KERNELS_CUDA, HT_KERNELS_CUDA_ARCHS and TENSORRT_ROOT (see
CMakeLists.txt), CXX, and CMAKE_BUILD_PARALLEL_LEVEL.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, PlatformError

SOURCE = Path(__file__).resolve().parent
CMAKE_MINIMUM = (3, 24)


def find_tools(name: str) -> list[str]:
    """The paths of a tool: on PATH, and in the folder of this Python, whose environment may not be activated."""
    found = (shutil.which(name), shutil.which(name, path=sysconfig.get_path("scripts")))
    return list(dict.fromkeys(path for path in found if path))


def find_cmake() -> str:
    """The path of the first CMake that is new enough.

    Raises:
        PlatformError: there is none.
    """
    seen = []
    for cmake in find_tools("cmake"):
        output = subprocess.run([cmake, "--version"], capture_output=True, text=True).stdout
        version = re.search(r"version (\d+)\.(\d+)", output)
        if version and (int(version[1]), int(version[2])) >= CMAKE_MINIMUM:
            return cmake
        seen.append(f"{cmake} ({version[0] if version else 'does not run'})")
    wanted = "{}.{}".format(*CMAKE_MINIMUM)
    found = f"found only {', '.join(seen)}" if seen else "found none"
    raise PlatformError(f"ht-kernels needs CMake {wanted} or newer and {found}: `pip install cmake` brings one")


def check_compiler() -> None:
    """Raise PlatformError with one sentence if there is no C++ compiler. CMake's own message has thirty lines."""
    asked = os.environ.get("CXX")
    if asked:
        if not shutil.which(asked.split()[0]):
            raise PlatformError(f"CXX names the C++ compiler '{asked}', which was not found")
    elif not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise PlatformError(
            "ht-kernels needs a C++17 compiler and found none: install g++ (`apt install g++` or "
            "`dnf install gcc-c++`), or name your compiler in CXX"
        )


def check_headers() -> None:
    """Raise PlatformError if Python's headers are missing; many Linux distributions have them in a separate package."""
    include = Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        raise PlatformError(
            f"ht-kernels needs the headers of Python {sys.version_info[0]}.{sys.version_info[1]}, and {include} has "
            "none: install them (`apt install python3-dev` or `dnf install python3-devel`)"
        )


class CMakeBuild(build_ext):
    """Builds the extension with CMake, and installs it where setuptools expects it."""

    def build_extension(self, ext: Extension) -> None:
        check_compiler()
        check_headers()
        cmake = find_cmake()
        import pybind11

        build = Path(self.build_temp).resolve() / "cmake"
        prefix = Path(self.get_ext_fullpath(ext.name)).resolve().parents[1]
        # Everything that can differ between builds is passed explicitly, because CMake caches values of earlier builds.
        # In particular, with build isolation each build has its own temporary Python environment.
        configure = [
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DHT_KERNELS_CUDA={os.environ.get('HT_KERNELS_CUDA') or 'auto'}",
            f"-DHT_KERNELS_CUDA_ARCHS={os.environ.get('HT_KERNELS_CUDA_ARCHS') or 'auto'}",
            f"-DTENSORRT_ROOT={os.environ.get('TENSORRT_ROOT', '')}",
        ]
        ninja = find_tools("ninja")
        if ninja:
            configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja[0]}"]
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count() or 1)
        try:
            subprocess.run([cmake, "-S", str(SOURCE), "-B", str(build), *configure], check=True)
            subprocess.run([cmake, "--build", str(build), "--parallel", jobs], check=True)
            subprocess.run([cmake, "--install", str(build), "--prefix", str(prefix)], check=True)
        except subprocess.CalledProcessError as error:
            raise CompileError("CMake could not build ht_kernels._C; its message is above") from error


if __name__ == "__main__":
    setup(ext_modules=[Extension("ht_kernels._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
