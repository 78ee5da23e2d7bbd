"""The package as it is built: metadata, extras, the compiled core's account of itself, and what a failed build says.

Nothing of the package is compiled here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

import ht_kernels
from helpers import ROOT

EXTRAS = {
    "cli",
    "clip",
    "dicom",
    "docs",
    "edge",
    "video",
    "train",
    "export",
    "int8",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "bench",
    "test",
    "lint",
    "all",
}


@pytest.fixture(scope="module")
def metadata() -> importlib.metadata.PackageMetadata:
    try:
        return importlib.metadata.metadata("ht-kernels")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("ht-kernels runs from source and is not installed")


@pytest.fixture
def setup_py() -> ModuleType:
    pytest.importorskip("setuptools")
    spec = importlib.util.spec_from_file_location("ht_kernels_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def requirements(metadata: importlib.metadata.PackageMetadata, extra: str) -> set[str]:
    """Names that ``pip install ht-kernels[extra]`` adds, through extras made of extras."""
    names = set()
    for text in metadata.get_all("Requires-Dist") or []:
        requirement = Requirement(text)
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.name == "ht-kernels":
            names |= {name for inner in requirement.extras for name in requirements(metadata, inner)}
        else:
            names.add(requirement.name)
    return names


def test_metadata(metadata: importlib.metadata.PackageMetadata) -> None:
    assert metadata["Version"] == ht_kernels.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert set(metadata.get_all("Provides-Extra") or []) == EXTRAS


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_every_extra_names_packages(metadata: importlib.metadata.PackageMetadata, extra: str) -> None:
    assert requirements(metadata, extra)


def test_all_leaves_out_what_does_not_install_everywhere(metadata: importlib.metadata.PackageMetadata) -> None:
    everything = requirements(metadata, "all")
    for extra in ("video", "dicom", "train", "export", "bench"):
        assert requirements(metadata, extra) <= everything
    assert not [name for name in everything if name.startswith("tensorrt")]


def test_types_are_shipped() -> None:
    assert Path(ht_kernels.__file__).with_name("py.typed").exists()


def test_no_torch_at_build_time() -> None:
    requires = re.search(r"^requires = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert requires is not None
    assert "torch" not in requires[1]
    assert "torch" not in re.findall(r"^\s*(?:import|from)\s+(\w+)", (ROOT / "setup.py").read_text(), re.MULTILINE)


def test_compiled_core_knows_how_it_was_built() -> None:
    core = pytest.importorskip("ht_kernels._C")
    info = core.build_info()
    assert info["version"] == ht_kernels.__version__, "the compiled core is older than the package: install again"
    assert info["isa_levels"][0] == "baseline"
    assert all(re.fullmatch(r"\d+[af]?(-real|-virtual)?", arch) for arch in info["cuda_archs"])
    assert info["compiler"]
    assert bool(info["nvcc"]) == bool(info["cuda_archs"])


def test_sources_are_shipped(tmp_path: Path) -> None:
    """Everything that the build reads is in the source distribution."""
    pytest.importorskip("setuptools", minversion="77")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path), "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}
    read = [
        ROOT / "CMakeLists.txt",
        *(file for room in ("cmake", "csrc", "python") for file in (ROOT / room).rglob("*")),
    ]
    missing = {str(file.relative_to(ROOT)) for file in read if file.is_file()} - shipped
    assert not missing


@pytest.fixture
def cmake() -> str:
    found = shutil.which("cmake")
    if found is None:
        pytest.skip("cmake is not installed")
    return found


def configure(cmake: str, build: Path, *settings: str, **environment: str) -> tuple[int, str]:
    """CMake's exit status and all it says, on one line."""
    command = [cmake, "-S", str(ROOT), "-B", str(build), "-DHT_KERNELS_PYTHON=OFF", *(f"-D{s}" for s in settings)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("HT_KERNELS_CUDA=yes", "HT_KERNELS_CUDA is 'yes', expected auto, 0 or 1"),
        ("HT_KERNELS_CUDA_ARCHS=80;sm_90", "HT_KERNELS_CUDA_ARCHS has 'sm_90', expected auto, all, or"),
        ("HT_KERNELS_CUDA_ARCHS=all;90", "HT_KERNELS_CUDA_ARCHS has 'all', expected auto, all, or"),
    ],
)
def test_wrong_switch(cmake: str, tmp_path: Path, setting: str, message: str) -> None:
    status, said = configure(cmake, tmp_path, setting)
    assert status != 0 and message in said


@pytest.mark.parametrize(
    ("python", "installed", "others"),
    [("ON", ["_C"], ["libht_kernels.so", "ht_kernels.h", "ht_kernels.pc"]), ("OFF", ["libht_kernels.so"], ["_C."])],
)
def test_each_build_installs_its_own(
    cmake: str, tmp_path: Path, python: str, installed: list[str], others: list[str]
) -> None:
    """A wheel has the Python module and nothing of the C library, and a prefix for C nothing of Python."""
    pytest.importorskip("pybind11")
    settings = f"HT_KERNELS_PYTHON={python}", "HT_KERNELS_CUDA=0", f"Python_EXECUTABLE={sys.executable}"
    status, said = configure(cmake, tmp_path, *settings)
    assert status == 0, said
    rules = (tmp_path / "cmake_install.cmake").read_text()
    assert all(f"/{name}" in rules for name in installed)
    assert not [name for name in others if f"/{name}" in rules]


def stand_in(file: Path, script: str) -> None:
    file.write_text("#!/bin/sh\n" + script)
    file.chmod(0o755)


KNOWN = {
    "11.0": "",  # it has no --list-gpu-arch
    "12.6": "50 52 53 60 61 62 70 72 75 80 86 87 89 90",
    "12.8": "50 52 53 60 61 62 70 72 75 80 86 87 89 90 100 101 120",
    "13.0": "75 80 86 87 88 89 90 100 110 103 120 121",
}


def stand_in_nvcc(file: Path, version: str, otherwise: str) -> None:
    """Answers as this version does, and does ``otherwise`` when asked to compile."""
    lines = "\\n".join(f"compute_{number}" for number in KNOWN[version].split())
    listed = f'printf "{lines}\\n"' if lines else "exit 1"
    said = f'echo "Cuda compilation tools, release {version}, V{version}.20"'
    stand_in(file, f'case "$1" in --list-gpu-arch) {listed};; --version) {said};; *) {otherwise};; esac\n')


NOTHING = ("echo NVIDIA-SMI 535.12 has failed >&2; exit 9", "echo failed with error 0x3 >&2; exit 1")


@pytest.mark.parametrize(
    ("version", "asked", "gpus", "expected"),
    [
        ("12.6", "auto", NOTHING, "75-virtual;80 (no GPU was found here"),
        ("13.0", "auto", NOTHING, "75-virtual;80 (no GPU was found here"),
        ("11.0", "auto", NOTHING, "75-virtual;80 (no GPU was found here"),
        ("13.0", "auto", ("echo 8.9", "exit 1"), "89 (for the GPUs that are here)"),
        ("13.0", "auto", ("echo 9.0; echo 8.9; echo 9.0", "exit 1"), "89-real;90 (for the GPUs that are here)"),
        ("12.6", "auto", ("echo '[N/A]'", "echo 87"), "87 (for the GPUs that are here)"),  # Jetson
        ("12.6", "auto", ("exit 127", "echo 87"), "87 (for the GPUs that are here)"),
        ("13.0", "auto", ("echo 12.1", "exit 1"), "121 (for the GPUs that are here)"),
        ("12.6", "auto", ("echo 12.0", "exit 1"), "90-virtual (nvcc 12.6 does not know 120)"),
        ("12.6", "auto", ("echo 8.6; echo 12.0", "exit 1"), "86;90-virtual (nvcc 12.6 does not know 120)"),
        ("12.6", "auto", ("echo 6.1", "exit 1"), " (the kernels need 75, and a GPU that is here has 61)"),
        ("12.6", "all", NOTHING, "75-real;80-real;86-real;87-real;89-real;90 ("),
        ("12.8", "all", NOTHING, "75-real;80-real;86-real;87-real;89-real;90-real;100-real;101-real;120 ("),
        ("13.0", "all", NOTHING, "75-real;80-real;86-real;87-real;89-real;90-real;100-real;110-real;120 ("),
        ("12.6", "80;90a-real", NOTHING, "80;90a-real (as HT_KERNELS_CUDA_ARCHS asks)"),
        (
            "12.6",
            "90;100-real",
            NOTHING,
            "HT_KERNELS_CUDA_ARCHS asks for 100-real, and nvcc 12.6 ({nvcc}) compiles for "
            "50 52 53 60 61 62 70 72 75 80 86 87 89 90: leave 100-real out, or name a newer nvcc in CUDACXX",
        ),
        ("12.6", "70", NOTHING, "HT_KERNELS_CUDA_ARCHS asks for 70, and the kernels need 75 or newer"),
    ],
)
def test_architectures(
    cmake: str, tmp_path: Path, version: str, asked: str, gpus: tuple[str, str], expected: str
) -> None:
    """What is compiled, by what nvcc knows, what was asked for, and which GPUs the driver and nvcc find."""
    stand_in_nvcc(tmp_path / "nvcc", version, "exit 1")
    for name, script in zip(("nvidia-smi", "__nvcc_device_query"), gpus, strict=True):
        stand_in(tmp_path / name, script)
    script = str(ROOT / "cmake" / "cuda_archs.cmake")
    nvcc = tmp_path / "nvcc"
    command = [cmake, f"-DNVCC={nvcc}", f"-DWANTED={asked}", "-P", script]
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    said = " ".join(done.stderr.split())
    if expected.startswith("HT_KERNELS"):
        assert done.returncode != 0 and expected.format(nvcc=nvcc) in said
    else:
        assert done.returncode == 0 and said.startswith(expected.strip())


TOO_NEW = "echo 'host_config.h:143:2: error: #error -- unsupported GNU version!' >&2; exit 1"


def test_toolchains(cmake: str, tmp_path: Path) -> None:
    """One that does not compile: the package builds for the CPU and says why, unless CUDA was asked for, and it is not
    remembered. An older one: what CMake compiles with nvcc 12.6 by default, and what it refuses before it compiles."""
    broken, nvcc, build = tmp_path / "broken", tmp_path / "nvcc", tmp_path / "build"
    stand_in_nvcc(broken, "12.6", TOO_NEW)
    why = f"{broken} does not compile an empty program: host_config.h:143:2: error: #error -- unsupported GNU version!"
    status, said = configure(cmake, build, "HT_KERNELS_CUDA=auto", CUDACXX=str(broken))
    assert status == 0 and f"ht_kernels: CPU only: {why}" in said
    status, said = configure(cmake, build, "HT_KERNELS_CUDA=1", CUDACXX=str(broken))
    assert status != 0 and f"HT_KERNELS_CUDA=1 asks for the CUDA kernels, but {why}; 0 or auto builds" in said
    if shutil.which("nvcc") is None:
        return
    stand_in_nvcc(nvcc, "12.6", f'exec {shutil.which("nvcc")} "$@"')
    for name, script in zip(("nvidia-smi", "__nvcc_device_query"), NOTHING, strict=True):
        stand_in(tmp_path / name, script)
    environment = {"CUDACXX": str(nvcc), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    status, said = configure(cmake, build, **environment)
    assert status == 0 and "CUDA kernels for 75-virtual;80 (no GPU was found here" in said
    status, said = configure(cmake, build, "HT_KERNELS_CUDA_ARCHS=80", **environment)
    assert status == 0 and f"CUDA kernels for 80 (as HT_KERNELS_CUDA_ARCHS asks) by {nvcc}: about 30 s" in said
    status, said = configure(cmake, build, "HT_KERNELS_CUDA_ARCHS=100", **environment)
    assert status != 0 and "HT_KERNELS_CUDA_ARCHS asks for 100, and nvcc 12.6" in said


def test_missing_compiler(setup_py: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(setup_py.PlatformError, match=r"needs a C\+\+17 compiler and found none: install g\+\+"):
        setup_py.check_compiler()
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(setup_py.PlatformError, match=r"CXX names .* 'no-such-compiler -O2'"):
        setup_py.check_compiler()


def test_missing_headers(setup_py: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_py.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(setup_py.PlatformError, match=r"needs the headers of Python .*apt install python3-dev"):
        setup_py.check_headers()
    (tmp_path / "Python.h").touch()
    setup_py.check_headers()


def test_old_cmake(setup_py: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "cmake"
    old.write_text("#!/bin/sh\necho cmake version 3.18.4\n")
    old.chmod(0o755)
    monkeypatch.setattr(setup_py, "find_tools", lambda name: [str(old)])
    with pytest.raises(setup_py.PlatformError, match=r"needs CMake 3\.24 or newer and found only .*3\.18"):
        setup_py.find_cmake()
    old.write_text("#!/bin/sh\necho cmake version 4.0.1\n")
    assert setup_py.find_cmake() == str(old)
