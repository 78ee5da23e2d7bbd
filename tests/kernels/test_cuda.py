"""The CUDA backend: what can be seen without a GPU, and its numbers where there is one.

The kernels' own source runs on the CPU in tests/cpp/test_cuda.cpp.
"""

from __future__ import annotations

import copy
import importlib.util
import re
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import ht_kernels as ht
from benchmarks import no_driver
from helpers.adapters import random_adapter, relative_error
from helpers.small_towers import shake
from helpers.written_both import at
from ht_kernels.backends import core, cuda, gpu, reference, torch_private
from ht_kernels.backends.call import Case, FilterCase
from ht_kernels.backends.cuda import architecture_reason
from ht_kernels.choices import FORMS
from ht_kernels.folding import FoldedAdapter, cast_matrices, fold_adapter, mask_pairs, on_grid, radial_mask
from ht_kernels.functional import ht_adapter, spectral_filter
from ht_kernels.ops import dispatch
from ht_kernels.ops.dispatch import BACKENDS
from ht_kernels.published import VARIANTS

DEFAULT = ["75-virtual", "80"]  # without a GPU
ALL = ["75-real", "80-real", "86-real", "87-real", "89-real", "90-real", "100-real", "110-real", "120"]
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or "cuda" not in ht.available_backends(), reason="needs a GPU and a build for it"
)


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        *((DEFAULT, capability, True) for capability in ((7, 5), (8, 0), (8, 7), (8, 9), (9, 0), (10, 3), (12, 1))),
        *((ALL, capability, True) for capability in ((7, 5), (8, 7), (8, 9), (10, 3), (11, 0), (12, 1))),
        (ALL, (7, 0), False),
        (ALL, (13, 0), True),  # PTX
        (["90-real"], (9, 0), True),
        (["90-real"], (10, 0), False),
        (["90a-real"], (9, 0), True),
        (["90a"], (10, 0), False),
        (["100f-real"], (10, 3), True),
        (["80-virtual"], (9, 0), True),
        (["80-virtual"], (7, 5), False),
        (["86-real"], (8, 9), True),
        (["86-real"], (8, 7), False),  # Jetson runs no machine code for other GPUs
        (["86"], (8, 7), True),  # but PTX
        (["87-real"], (8, 9), False),  # and no other GPU Jetson's
        (["87-real"], (8, 7), True),
    ],
)
def test_a_build_says_which_gpus_it_runs_on(archs: list[str], capability: tuple[int, int], runs: bool) -> None:
    reason = architecture_reason(archs, capability)
    assert (reason is None) == runs
    if reason is not None:
        assert f"{capability[0]}.{capability[1]}" in reason and " ".join(archs) in reason
        remedy = f"HT_KERNELS_CUDA_ARCHS={capability[0]}{capability[1]} pip install ."
        assert (remedy if capability >= (7, 5) else "the kernels need 7.5 or newer") in reason


def test_a_build_without_cuda_says_so() -> None:
    assert architecture_reason([], (9, 0)) == cuda.NO_KERNELS


def test_the_reason_on_the_cpu() -> None:
    reason = BACKENDS["cuda"].can_run(Case(torch.device("cpu"), torch.float32, 768, 64, (14, 14), 1, False))
    assert reason is not None and re.search("GPU|no CUDA kernels|could not be imported", reason)
    with pytest.raises(RuntimeError, match="backend 'cuda' was asked for by name but cannot run this call"):
        ht_adapter(torch.randn(1, 5, 16), fold_adapter(random_adapter("hybrid", 16, 8).float()), (2, 2), backend="cuda")


def test_the_reasons_of_the_spectral_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "module", SimpleNamespace(CudaAdapter=None))
    monkeypatch.setattr(cuda, "_device_reason", lambda index: None)
    gpu, can_filter = torch.device("cuda", 0), BACKENDS["cuda"].can_filter
    assert can_filter(FilterCase(gpu, torch.bfloat16, (64, 3), False)) is None
    assert can_filter(FilterCase(gpu, torch.float32, (4, 4), True)) == (
        "it is for inference: it has no gradients and no dropout"
    )
    assert "x is torch.float64" in str(can_filter(FilterCase(gpu, torch.float64, (4, 4), False)))
    assert "up to 64x64, and this one is 4x65" in str(can_filter(FilterCase(gpu, torch.float32, (4, 65), False)))
    for spectral, grid in ((True, (64, 64)), (False, (65, 64))):
        assert BACKENDS["cuda"].can_run(Case(gpu, torch.float32, 768, 64, grid, 1, False, spectral)) is None
    large = Case(gpu, torch.float32, 768, 64, (65, 64), 1, False, True)
    assert "up to 64x64, and this one is 65x64" in str(BACKENDS["cuda"].can_run(large))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("form", FORMS)
def test_the_adapter_gets_its_mask_on_the_grid(monkeypatch: pytest.MonkeyPatch, form: str, dtype: torch.dtype) -> None:
    found = []

    def launch(weights: FoldedAdapter, *rest: object) -> None:
        found.append(weights.mask)

    no_driver.replace(monkeypatch, launch)
    adapter = shake(ht.HTAdapter(16, 8, spectral=form, grid=(3, 4))).eval()
    x = torch.randn(2, 13, 16, dtype=dtype)
    with torch.no_grad():
        folded = fold_adapter(adapter)
        adapter(x, (3, 4))
        ht_adapter(x, folded, (3, 4))
        ht_adapter(x, cast_matrices(folded, dtype), (3, 4))
        expected = on_grid(folded, (3, 4)).mask
    assert len(found) == 3 and all(torch.equal(mask, expected) for mask in found)


@pytest.mark.parametrize("form", FORMS)
def test_the_filter_by_itself(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """What a launch gets, and that it is what the result comes from."""
    launches = []

    def launch(sizes: tuple[int, ...], dtype: int, x: int, mask: int, out: int, stream: int) -> None:
        *shape, masks = sizes
        pairs = at(mask, masks, shape[2], shape[3] // 2 + 1, 2)
        at(out, *shape).copy_(reference.spectral_filter(at(x, *shape), pairs))
        launches.append((dtype, mask % 16))

    monkeypatch.setattr(core, "module", SimpleNamespace(spectral_filter_cuda=launch))
    monkeypatch.setattr(BACKENDS["cuda"], "can_filter", lambda case: "it has no gradients" if case.needs_grad else None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch_private, "current_stream", lambda index: 0)
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 3).transpose(2, 3)
    shape = {"full": (6, 3, 3), "shared": (1, 3, 3), "radial": (6, 5)}[form]
    numbers = torch.randn(1 + torch.Size(shape).numel(), dtype=torch.float32 if form == "radial" else torch.complex64)
    mask = numbers[1:].view(shape)  # does not start at a multiple of 16 bytes
    whole = radial_mask(mask, (3, 5)) if form == "radial" else mask
    torch.testing.assert_close(spectral_filter(x, mask, form), reference.spectral_filter(x, mask_pairs(whole)))
    assert launches == [(0, 0)]


def _adapter() -> ht.HTAdapter:
    adapter = ht.HTAdapter(16, 8)
    adapter.load_state_dict(random_adapter("hybrid", 16, 8).state_dict())
    return adapter.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_that_are_ready_cost_nothing(dtype: torch.dtype) -> None:
    """A captured graph prepares them, and would replay every cast and copy."""

    class Counted(TorchDispatchMode):
        operators: ClassVar[list[str]] = []

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.operators.append(str(function))
            return function(*args, **(kwargs or {}))

    Counted.operators.clear()
    folded = cast_matrices(fold_adapter(random_adapter("hybrid", 16, 8).float()).map(Tensor.detach), dtype)
    folded = folded.map(torch.clone)
    with Counted():
        ready = gpu.ready(folded, dtype)
    assert not Counted.operators
    assert all(a is b for a, b in zip(ready, folded, strict=True))


def test_weights_are_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For all shapes of a dtype; again after they change."""
    launches: list[tuple[object, ...]] = []
    no_driver.replace(monkeypatch, lambda *arguments: launches.append(arguments))
    prepare, prepared = cuda.prepare, []
    monkeypatch.setattr(cuda, "prepare", lambda *arguments: prepared.append(arguments[1:]) or prepare(*arguments))
    adapter = _adapter()
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        for tokens in (x, x, x[:1], x, x.half(), x):
            assert adapter(tokens, (2, 2)).shape == tokens.shape
        assert prepared == [(torch.float32, (2, 2)), (torch.float16, (2, 2))] and len(launches) == 6
        adapter.project1.bias.add_(1)
        adapter(x, (2, 2))
    assert len(prepared) == 3 and len(launches) == 7


@pytest.mark.parametrize("through", ["a module", "the function"])
def test_a_refused_launch_retires_the_backend(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, through: str
) -> None:
    """The next backend takes over with the right numbers, in that call and from then on, and it is said once."""
    attempts = []

    def refuse(*arguments: object) -> None:
        attempts.append(arguments)
        raise RuntimeError("no kernel image is available for execution on the device")

    adapter = _adapter()
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        expected = ht_adapter(x, adapter.folded(), (2, 2), backend="reference")
        no_driver.replace(monkeypatch, refuse)
        monkeypatch.setattr(
            BACKENDS["triton"], "can_run", lambda case: "its interpreter is slow"
        )  # so the reference is next
        monkeypatch.setattr(dispatch.choices, "retired", {})
        for _ in range(3):
            out = adapter(x, (2, 2)) if through == "a module" else ht_adapter(x, adapter.folded(), (2, 2))
            torch.testing.assert_close(out, expected)
    assert len(attempts) == 1
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and "backend 'cuda' failed" in said[0] and "no kernel image" in said[0]


@pytest.mark.parametrize(("dtype", "backend"), [(torch.bfloat16, "cpu"), (torch.float16, "reference")])
def test_matrices_may_be_in_the_dtype_of_x(dtype: torch.dtype, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a backend that computes in float32, they are what rounding makes of them."""
    if backend not in ht.available_backends():
        pytest.skip(f"the {backend} backend is not here")
    monkeypatch.setattr(dispatch.choices, "asked", backend)
    folded = fold_adapter(random_adapter("hybrid", 16, 8).float())
    x = torch.randn(2, 5, 16).to(dtype)
    with torch.no_grad():
        rounded = cast_matrices(folded, dtype)
        expected = ht_adapter(x, cast_matrices(rounded, torch.float32), (2, 2))
        assert torch.equal(ht_adapter(x, rounded, (2, 2)), expected)
        with pytest.raises(TypeError, match=r"folded\.down_weight must be torch\.float32"):
            ht_adapter(x.float(), rounded, (2, 2))


DOWN, MIX = 4, 5 + 2
"""The tiles of down_project.cu and of mix_and_up_project.cu, two of these with a norm too: kernels for each 16-bit
type."""
FLOAT32 = 2 * (5 + 2)
"""The kernels in csrc/cuda/float32, half of them on tensor cores."""
KERNELS = 2 * (DOWN + MIX + 1) + FLOAT32 + 3 + 3 + 1
"""All, with prepare.cu, layer_norm.cu, spectral_filter.cu and grid_to_mask.cu."""


def cuobjdump(*arguments: object, folder: Path | None = None) -> str:
    """What the tool prints; CUDA has it, and Triton brings it."""
    triton = importlib.util.find_spec("triton")
    beside = None if triton is None or triton.origin is None else Path(triton.origin).parent / "backends/nvidia/bin"
    program = shutil.which("cuobjdump") or shutil.which("cuobjdump", path=beside)
    if program is None:
        pytest.skip("needs cuobjdump, of CUDA or of Triton")
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def built_for() -> list[str]:
    archs = [] if core.missing else core.module.build_info()["cuda_archs"]
    if not archs:
        pytest.skip("the compiled core has no CUDA kernels")
    return archs


def test_registers_hold_everything_in_machine_code(built_for: list[str]) -> None:
    """No kernel that is shipped keeps registers in memory."""
    count = sum(not arch.endswith("-virtual") for arch in built_for)
    usage = re.findall(r"REG:\d+ STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", cuobjdump("-res-usage", core.module.__file__))
    assert len(usage) == count * KERNELS and set(usage) <= {("0", "0")}


@pytest.fixture(scope="module")
def ptx(built_for: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the PTX that is shipped."""
    folder = tmp_path_factory.mktemp("ptx")
    cuobjdump("-xptx", "all", core.module.__file__, folder=folder)
    return folder


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize(("kind", "arch"), [("75", "75"), ("80", "90"), ("80", "120")])
@pytest.mark.timeout(600)
def test_registers_hold_everything(ptx: Path, tmp_path: Path, kind: str, arch: str) -> None:
    """Nor does what a driver makes of the PTX that is shipped; this is ptxas' own report.

    On 7.5, float16 is on tensor cores, and nothing else is.
    """
    files = sorted(ptx.glob(f"*.sm_{kind}.ptx"))
    if not files:
        pytest.skip(f"the compiled core has no PTX of {kind}")
    known = subprocess.run(["nvcc", "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    if f"sm_{arch}" not in known:
        pytest.skip(f"this nvcc does not know {arch}")
    report = ""
    for file in files:
        command = ["nvcc", f"-arch=sm_{arch}", "-cubin", "-Xptxas", "-v", file, "-o", tmp_path / "out.cubin"]
        report += subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", report)]
    assert len(spills) == len(registers) == KERNELS
    assert all(spill == ("0", "0") for spill in spills)
    kernels = re.split(r"\.entry ", "".join(file.read_text() for file in files))[1:]
    on_tensor_cores = [re.split(r"\W", kernel)[0] for kernel in kernels if "mma.sync" in kernel]
    if kind == "75":
        assert len(on_tensor_cores) == DOWN + MIX and all("6__half" in name for name in on_tensor_cores)
    else:
        assert len(on_tensor_cores) == 2 * (DOWN + MIX) + FLOAT32 // 2


@needs_gpu
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 9, 64])
def test_numbers(variant: str, dtype: torch.dtype, batch: int) -> None:
    published = random_adapter(variant, 768, 64)
    low = copy.deepcopy(published).to("cuda", dtype)
    exact = copy.deepcopy(low).double()
    x = torch.randn(batch, 197, 768, device="cuda", dtype=dtype)
    low_published = low
    if dtype != torch.float32 and published.frequency:
        # torch has no Fourier transform of this size in 16 bits: the same parameters without the filter.
        low_published = random_adapter("noise_aware" if published.noise else "baseline", 768, 64).to("cuda", dtype)
    with torch.no_grad():
        expected = exact(x.double(), (14, 14)) - x.double()
        out = ht_adapter(x, fold_adapter(low), (14, 14), backend="cuda")
        assert torch.equal(out, ht_adapter(x, fold_adapter(low), (14, 14), backend="cuda"))
        error = relative_error(out.double() - x.double(), expected)
        bound = 1e-5
        if dtype != torch.float32:
            plain = copy.deepcopy(low_published).double()(x.double(), (14, 14)) - x.double()
            bound = 1.5 * relative_error(low_published(x, (14, 14)).double() - x.double(), plain)
    assert error <= bound


@needs_gpu
@pytest.mark.parametrize("grid", [(14, 14), (2, 2), (7, 12), (37, 31), (64, 64)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-8), (torch.float16, 2**-10)])
def test_spectral_numbers(dtype: torch.dtype, bound: float, grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 40, *grid, device="cuda", dtype=dtype)
    mask = torch.randn(40, grid[0], grid[1] // 2 + 1, device="cuda", dtype=torch.complex64)
    filtered = spectral_filter(x, mask, backend="cuda")
    assert torch.equal(filtered, spectral_filter(x, mask, backend="cuda"))
    assert relative_error(filtered, spectral_filter(x.double(), mask.to(torch.complex128))) <= bound
    adapter = shake(ht.HTAdapter(192, 64, spectral="full", grid=grid)).to("cuda", dtype).eval()
    tokens = torch.randn(2, 1 + grid[0] * grid[1], 192, device="cuda", dtype=dtype)
    with torch.no_grad():
        expected = copy.deepcopy(adapter).double()(tokens.double(), grid)
        out = ht_adapter(tokens, fold_adapter(adapter), grid, backend="cuda")
    residual = tokens.double() if dtype == torch.float32 else 0
    assert relative_error(out - residual, expected - residual) <= bound
