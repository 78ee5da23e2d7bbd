"""The package as it is built: metadata, extras, the compiled core's account of itself, and what a failed build says.

Nothing is compiled here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

import ht_kernels

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {"video", "train", "export", "tensorrt", "tensorrt-rtx", "bench", "test", "lint", "all"}


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
    for extra in ("video", "train", "export", "bench"):
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


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("HT_KERNELS_CUDA=yes", "HT_KERNELS_CUDA is 'yes', expected auto, 0 or 1"),
        ("HT_KERNELS_CUDA_ARCHS=80;sm_90", "HT_KERNELS_CUDA_ARCHS has 'sm_90'"),
    ],
)
def test_wrong_switch(tmp_path: Path, setting: str, message: str) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    command = [cmake, "-S", str(ROOT), "-B", str(tmp_path), f"-D{setting}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode != 0
    assert message in " ".join(result.stderr.split())


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
