"""The C library as it is installed: what it exports, how programs find it, and that they compute what Python does.

The library is compiled once, in a minute or two, into a folder of build/ that later runs take up again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ht_kernels as ht
from helpers import ROOT
from ht_kernels import compiled
from ht_kernels.data import Phantom
from ht_kernels.data.phantom.simulate import simulate
from ht_kernels.logits import mask_of_grid
from ht_kernels.media.preprocess import preprocess

_TOOLS = [name for name in ("cmake", "cc", "c++") if shutil.which(name) is None]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="programs are compiled and run as on Linux"),
    pytest.mark.skipif(bool(_TOOLS), reason=f"{' and '.join(_TOOLS)} not installed"),
    pytest.mark.skipif(bool(compiled.missing), reason=f"nothing to compare with: {compiled.missing}"),
    pytest.mark.usefixtures("one_thread"),
]

_FRAME = (240, 320)


def call(*command: str | Path, **environment: str) -> str:
    """What a program says; the test fails with that where the program does."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def refused(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 2, done.stdout + done.stderr
    return done.stderr


def build(source: Path, folder: Path, *settings: str) -> Path:
    call("cmake", "-S", source, "-B", folder, "-DCMAKE_BUILD_TYPE=Release", *(f"-D{s}" for s in settings))
    call("cmake", "--build", folder, "--parallel", "2")
    return folder


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library, installed into a prefix that was then moved."""
    folder = build(ROOT, ROOT / "build" / "library-of-tests", "HT_KERNELS_PYTHON=OFF", "HT_KERNELS_CUDA=0")
    first, moved = (tmp_path_factory.mktemp("prefix") / name for name in ("first", "moved"))
    call("cmake", "--install", folder, "--prefix", first)
    return first.rename(moved)


@pytest.fixture(scope="module")
def library(prefix: Path) -> Path:
    (found,) = prefix.glob("lib*/**/libht_kernels.so")
    return found


@pytest.fixture(scope="module")
def adapter(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C example, by find_package."""
    return build(ROOT / "examples/c", tmp_path_factory.mktemp("c"), f"CMAKE_PREFIX_PATH={prefix}") / "adapter"


def test_what_is_installed(prefix: Path, library: Path) -> None:
    files = {str(path.relative_to(prefix)) for path in prefix.rglob("*") if not path.is_dir()}
    folder = library.parent.relative_to(prefix)
    major, minor, patch = ht.__version__.split(".")
    links = "", f".{major}.{minor}", f".{major}.{minor}.{patch}"
    package = {f"{folder}/cmake/ht_kernels/ht_kernels-config{part}.cmake" for part in ("", "-version", "-release")}
    assert files == {
        "include/ht_kernels.h",
        *(f"{folder}/libht_kernels.so{link}" for link in links),
        *package,
        f"{folder}/pkgconfig/ht_kernels.pc",
    }
    assert library.is_symlink() and library.resolve().name == f"libht_kernels.so{links[2]}"


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
def test_only_the_interface_is_exported(library: Path) -> None:
    """Every function of the header for the CPU, each with the version of the interface, and no other symbol."""
    version = ".".join(ht.__version__.split(".")[:2])
    rows = [row.split() for row in call("readelf", "--dyn-syms", "--wide", library).splitlines()]
    exported = {
        row[7] for row in rows if len(row) > 7 and row[4] in ("GLOBAL", "WEAK") and row[6] not in ("UND", "ABS")
    }
    header = (ROOT / "csrc/include/ht_kernels.h").read_text()
    declared = set(re.findall(r"^(?:ht_status|size_t|void|uint64_t|const char\*) (ht_\w+)\(", header, re.MULTILINE))
    assert len(declared) > 20
    assert exported == {f"{name}@@HT_KERNELS_{version}" for name in declared if not name.endswith("_cuda")}
    assert f"[libht_kernels.so.{version}]" in call("readelf", "-d", library)


def test_the_module_of_python_exports_nothing_of_it() -> None:
    """Else a program with both would call the kernels of the one in the other."""
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    assert " ht_" not in call("nm", "-D", "--defined-only", compiled.module.__file__)


def test_another_version_is_not_found(prefix: Path, tmp_path: Path) -> None:
    project = "cmake_minimum_required(VERSION 3.24)\nproject(p NONE)\nfind_package(ht_kernels {} REQUIRED)\n"
    for version, found in (("0.1", True), ("0.0.9", False), ("0.2", False), ("1.0", False)):
        source = tmp_path / version
        source.mkdir()
        (source / "CMakeLists.txt").write_text(project.format(version))
        command = ["cmake", "-S", source, "-B", source / "build", f"-DCMAKE_PREFIX_PATH={prefix}"]
        assert (subprocess.run(command, capture_output=True).returncode == 0) == found, version


def saved(folder: Path, variant: str, spectral: str | None) -> tuple[ht.HTAdapter, Path]:
    """An adapter with weights that all count, and its file for a grid of 9x8."""
    torch.manual_seed(3)
    adapter = ht.HTAdapter(96, 24, variant, spectral, grid=(9, 8) if spectral in ("full", "shared") else None).eval()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ht.deploy.save_adapters(adapter, folder / "adapter.adapters", grid=(9, 8))
    return adapter, folder / "adapter.adapters"


def test_pkg_config_finds_it(prefix: Path, library: Path, adapter: Path, tmp_path: Path) -> None:
    """One compiler call by its flags gives a program that computes the same as the one made by CMake."""
    if shutil.which("pkg-config") is None:
        pytest.skip("pkg-config is not installed")
    found = {"PKG_CONFIG_PATH": str(library.parent / "pkgconfig")}
    assert call("pkg-config", "--modversion", "ht_kernels", **found).strip() == ht.__version__
    flags = call("pkg-config", "--cflags", "--libs", "ht_kernels", **found).split()
    program = tmp_path / "adapter"
    warnings = "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"
    call("cc", *warnings, ROOT / "examples/c/adapter.c", *flags, "-o", program)
    _, file = saved(tmp_path, "hybrid", None)
    torch.randn(2, 73, 96).numpy().tofile(tmp_path / "tokens")
    call(program, file, tmp_path / "tokens", tmp_path / "out", LD_LIBRARY_PATH=str(library.parent))
    call(adapter, file, tmp_path / "tokens", tmp_path / "expected")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "expected").read_bytes()


def expect_same(got: np.ndarray, expected: np.ndarray) -> None:
    """The same bits, if one compiler has compiled both; another may order a sum in another way."""
    if call("c++", "-dumpfullversion").strip() in compiled.module.build_info()["compiler"].split():
        assert got.tobytes() == expected.tobytes()
    else:
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


CASES = [
    ("baseline", None),
    ("noise_aware", None),
    ("freq_enhanced", None),
    ("hybrid", None),
    ("hybrid", "full"),
    ("hybrid", "radial"),
    ("hybrid", "shared"),
]


@pytest.mark.parametrize(("variant", "spectral"), CASES)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_c_program_computes_the_bits_of_python(
    variant: str, spectral: str | None, threads: int, adapter: Path, tmp_path: Path
) -> None:
    module, file = saved(tmp_path, variant, spectral)
    x = torch.randn(3, 1 + 9 * 8, 96)
    x.numpy().tofile(tmp_path / "tokens")
    torch.set_num_threads(threads)
    with torch.no_grad():
        expected = module(x, grid=(9, 8)).numpy()
    said = call(adapter, file, tmp_path / "tokens", tmp_path / "out", str(threads))
    assert said == f"adapters: 1, images: 3, instruction set: {compiled.module.cpu_isa()}\n"
    assert abs(expected - x.numpy()).max() > 0.1
    expect_same(np.fromfile(tmp_path / "out", np.float32).reshape(x.shape), expected)


def test_all_adapters_of_a_model(adapter: Path, tmp_path: Path) -> None:
    """A folded model's, one after another."""
    folded = ht.fold(ht.HTCLIP.from_checkpoint("phantom"))
    ht.deploy.save_adapters(folded, tmp_path / "phantom.adapters")
    x = torch.randn(2, folded.prefix_tokens + folded.grid[0] * folded.grid[1], folded.position.shape[-1])
    x.numpy().tofile(tmp_path / "tokens")
    with torch.no_grad():
        expected = x
        for module in folded.adapters.values():
            expected, _ = module(expected, folded.grid, folded.prefix_tokens, None)
    said = call(adapter, tmp_path / "phantom.adapters", tmp_path / "tokens", tmp_path / "out")
    assert said.startswith(f"adapters: {len(folded.adapters)}, images: 2, ")
    expect_same(np.fromfile(tmp_path / "out", np.float32).reshape(x.shape), expected.numpy())


def test_the_c_program_refuses(adapter: Path, tmp_path: Path) -> None:
    _, file = saved(tmp_path, "hybrid", None)
    tokens, out = tmp_path / "tokens", tmp_path / "out"
    np.zeros(73 * 96, np.float32).tofile(tokens)
    content = file.read_bytes()
    for spoilt, sentence in ((content[:-8], "it was cut"), (content.replace(b"HTA", b"XXX"), "is no file of adapters")):
        (tmp_path / "spoilt").write_bytes(spoilt)
        assert sentence in refused(adapter, tmp_path / "spoilt", tokens, out)
    assert "No such file" in refused(adapter, tmp_path / "none", tokens, out)
    tokens.write_bytes(b"1234")
    assert "does not have the tokens of whole images, 73 of 96" in refused(adapter, file, tokens, out)
    assert not out.exists()


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_the_c_program_keeps_to_its_memory(adapter: Path, tmp_path: Path) -> None:
    """In the instruction set that valgrind knows best."""
    _, file = saved(tmp_path, "hybrid", None)
    torch.randn(1, 73, 96).numpy().tofile(tmp_path / "tokens")
    checks = "--error-exitcode=1", "--leak-check=full", "--errors-for-leak-kinds=definite"
    call("valgrind", *checks, adapter, file, tmp_path / "tokens", tmp_path / "out", HT_KERNELS_CPU="baseline")


@pytest.fixture(scope="module")
def frame_to_mask(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ example."""
    openvino = pytest.importorskip("openvino", exc_type=ImportError)
    cmake = Path(openvino.__file__).parent / "cmake"
    if not (cmake / "OpenVINOConfig.cmake").exists():
        pytest.skip("this OpenVINO has no CMake package")
    settings = f"CMAKE_PREFIX_PATH={prefix}", f"OpenVINO_DIR={cmake}"
    return build(ROOT / "examples/cpp", tmp_path_factory.mktemp("cpp"), *settings) / "frame_to_mask"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model phantom, which gives logits on the patch grid, in ONNX, with an IR beside it."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    folded = ht.fold(ht.HTCLIP.from_checkpoint("phantom"))
    ht.deploy.export_onnx(folded, path, output="grid")
    ht.deploy.build_ir(path, path.with_suffix(".xml"))
    return path


def pgm(path: Path, image: np.ndarray) -> Path:
    path.write_bytes(f"P5\n{image.shape[1]} {image.shape[0]}\n255\n".encode() + image.tobytes())
    return path


def read_pgm(path: Path) -> np.ndarray:
    magic, size, largest, pixels = path.read_bytes().split(b"\n", 3)
    width, height = map(int, size.split())
    assert magic == b"P5" and largest == b"255"
    return np.frombuffer(pixels, np.uint8).reshape(height, width)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_a_cpp_program_makes_the_masks_of_python(suffix: str, model: Path, frame_to_mask: Path, tmp_path: Path) -> None:
    path = model.with_suffix(suffix)
    session = ht.deploy.Session.open(path, runtime="openvino")
    _, height, width = session.frame_shape
    lesions = 0
    for seed in (0, 3, 4):
        frame = simulate(Phantom(size=_FRAME), seed).image
        expected = mask_of_grid(session(preprocess(frame, (height, width))), frame.shape)[0]
        said = call(frame_to_mask, path, pgm(tmp_path / "frame.pgm", frame), tmp_path / "mask.pgm")
        np.testing.assert_array_equal(read_pgm(tmp_path / "mask.pgm"), expected)
        assert said == f"{np.count_nonzero(expected)} of {expected.size} pixels are not background\n"
        lesions += int(expected.any() and not expected.all())
    assert lesions > 0


def test_the_cpp_program_refuses(model: Path, frame_to_mask: Path, tmp_path: Path) -> None:
    frame = pgm(tmp_path / "frame.pgm", np.zeros(_FRAME, np.uint8))
    (tmp_path / "text").write_text("no picture")
    assert "is not a binary PGM file" in refused(frame_to_mask, model, tmp_path / "text", tmp_path / "mask.pgm")
    frame.write_bytes(frame.read_bytes()[:-5])
    assert "has fewer pixels than it says" in refused(frame_to_mask, model, frame, tmp_path / "mask.pgm")
    assert not (tmp_path / "mask.pgm").exists()
