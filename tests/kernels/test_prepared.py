"""What backends keep of folded weights: made once, made again when a weight changes, and never another call's."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import ht_kernels as ht
from helpers import ROOT
from helpers.adapters import random_adapter
from helpers.small_models import gray_frames, small_model
from ht_kernels.backends import core, cpu, reference
from ht_kernels.errors import BackendError
from ht_kernels.folding import FoldedAdapter, fold_adapter
from ht_kernels.functional import ht_adapter
from ht_kernels.ops import dispatch

pytestmark = pytest.mark.usefixtures("one_thread")
GRID = (3, 4)
X = torch.randn(2, 13, 20, generator=torch.Generator().manual_seed(0))


def folded(spectral: bool = False) -> FoldedAdapter:
    """Every field is there, but for the mask where it is not asked for."""
    weights = fold_adapter(random_adapter("hybrid", 20, 8).float()).map(Tensor.detach)
    return weights._replace(mask=torch.randn(8, 3, 3, 2)) if spectral else weights


def exact(weights: FoldedAdapter, x: Tensor = X) -> Tensor:
    return ht_adapter(x.double(), weights.map(Tensor.double), GRID)


def check(weights: FoldedAdapter) -> None:
    with torch.no_grad():
        expected = exact(FoldedAdapter(*weights))
        for _ in range(2):
            torch.testing.assert_close(ht_adapter(X, weights, GRID).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """What the CPU backend prepared weights for."""
    made: list[torch.dtype] = []
    prepare = cpu.prepare
    monkeypatch.setattr(cpu, "prepare", lambda *arguments: made.append(arguments[1]) or prepare(*arguments))
    return made


@pytest.mark.parametrize("name", FoldedAdapter._fields)
def test_a_weight_written_in_place(name: str, prepared: list[torch.dtype]) -> None:
    weights = folded(spectral=True)
    check(weights)
    assert len(prepared) == 1
    getattr(weights, name).mul_(1.5).add_(0.1)
    check(weights)
    getattr(weights, name).data = torch.randn_like(getattr(weights, name))
    check(weights)
    assert len(prepared) == 3


def test_a_transposed_weight() -> None:
    weights = folded()
    check(weights)
    weights.mix_weight.data = weights.mix_weight.data.t()
    check(weights)


@pytest.mark.parametrize("fused", [False, True])
def test_weights_that_an_optimizer_writes(fused: bool) -> None:
    """A fused one leaves no new version."""
    weights = folded().map(Tensor.requires_grad_)
    optimizer = torch.optim.Adam([t for t in weights if t is not None], lr=0.1, fused=fused)
    for _ in range(3):
        optimizer.zero_grad()
        ht_adapter(X, weights, GRID).square().mean().backward()
        optimizer.step()
        check(weights)


def test_weights_without_versions_are_prepared_for_each_call() -> None:
    with torch.inference_mode():
        weights = folded()
        check(weights)
        weights.up_weight.mul_(2)
        check(weights)


def test_one_set_serves_all_shapes(prepared: list[torch.dtype]) -> None:
    weights = folded()
    with torch.no_grad():
        for grid in ((3, 4), (2, 2), (3, 4), (12, 1)):
            x = torch.randn(1, 1 + grid[0] * grid[1], 20)
            torch.testing.assert_close(
                ht_adapter(x, weights, grid), ht_adapter(x, weights, grid, backend="reference"), rtol=1e-5, atol=1e-5
            )
        ht_adapter(X.bfloat16(), weights, GRID)
    assert prepared == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("grid", [(3, 4), (3, 5)])
def test_a_mask_is_for_its_grid(grid: tuple[int, int]) -> None:
    """3x4 and 3x5 have masks of one shape."""
    weights = folded(spectral=True)
    check(weights)
    x = torch.randn(1, 1 + grid[0] * grid[1], 20)
    with torch.no_grad():
        expected = ht_adapter(x, weights, grid, backend="reference")
        torch.testing.assert_close(ht_adapter(x, weights, grid), expected, rtol=1e-5, atol=1e-5)


def test_a_backend_for_one_call_is_for_that_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for backend in (cpu, reference):
        infer, name = backend.infer, backend.__name__.rpartition(".")[2]

        def note(*arguments: object, infer=infer, name=name) -> Tensor:  # type: ignore[no-untyped-def]
            calls.append(name)
            return infer(*arguments)

        monkeypatch.setattr(backend, "infer", note)
    weights = folded()
    with torch.no_grad():
        for backend in ("reference", None, None, "reference", None):
            ht_adapter(X, weights, GRID, backend=backend)
        ht.set_backend("reference")
        try:
            ht_adapter(X, weights, GRID)
            ht_adapter(X, weights, GRID)
        finally:
            ht.set_backend(None)
        ht_adapter(X, weights, GRID)
    assert calls == ["reference", "cpu", "cpu", "reference", "cpu", "reference", "reference", "cpu"]


def test_wrong_arguments_behind_right_ones() -> None:
    weights = folded()
    with torch.no_grad():
        for _ in range(2):
            ht_adapter(X, weights, GRID)
        with pytest.raises(ValueError, match="makes 17"):
            ht_adapter(X, weights, (4, 4))
        for grid in ((12,), (3, 4, 1), 12):
            with pytest.raises(ValueError, match=r"grid must be two numbers, \(height, width\), got"):
                ht_adapter(X, weights, grid)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="not negative"):
            ht_adapter(X, weights, GRID, -1)
        with pytest.raises(TypeError, match=r"torch\.float64"):
            ht_adapter(X.double(), weights, GRID)


def test_a_failure_behind_a_success(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A remembered backend that fails is retired, and the next takes over in that call."""

    def fail(*_: object) -> Tensor:
        raise BackendError("it broke")

    weights = folded()
    monkeypatch.setattr(dispatch.choices, "retired", {})
    with torch.no_grad():
        expected = ht_adapter(X, weights, GRID)
        monkeypatch.setattr(cpu, "infer", fail)
        for _ in range(2):
            torch.testing.assert_close(ht_adapter(X, weights, GRID), expected, rtol=1e-5, atol=1e-5)
    assert [record.getMessage() for record in caplog.records] == [
        "backend 'cpu' failed on cpu and is not used there any more: it broke"
    ]


def test_a_folded_model_follows_its_buffers() -> None:
    model = small_model("timm").float()
    other = small_model("timm").float()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
        frames = gray_frames(model, 2)
        inference, expected = ht.fold(model), ht.fold(other)(frames)
        before = inference(frames)
        inference.load_state_dict(ht.fold(other).state_dict())
        assert not torch.equal(before, expected)
        assert torch.equal(inference(frames), expected)
        name = next(name for name, _ in inference.named_buffers() if name.endswith("adapters.0.up_weight"))
        inference.load_state_dict({name: torch.zeros_like(inference.get_buffer(name))}, assign=True, strict=False)
        again = ht.fold(other)
        again.get_buffer(name).zero_()
        assert torch.equal(inference(frames), again(frames))


def test_the_compiled_core_has_the_same_weights() -> None:
    assert core.module.adapter_weights() == list(FoldedAdapter._fields)


def test_a_core_for_other_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.module, "adapter_weights", lambda: ["up_weight"])
    try:
        importlib.reload(core)
        assert "was built for other folded weights" in core.missing and "install the package again" in core.missing
        with pytest.raises(BackendError, match="other folded weights"):
            ht_adapter(X, folded(), GRID, backend="cpu")
    finally:
        monkeypatch.undo()
        importlib.reload(core)
    assert core.missing == ""


@pytest.mark.parametrize("change", [("mix_bias", "mix_offset"), ("  F(up_bias, FLOATS, ALWAYS)", "  "), ("", "")])
def test_the_build_compares_the_two_lists(change: tuple[str, str], tmp_path: Path) -> None:
    """A weight that is added, renamed or dropped in one of them stops CMake."""
    header = (ROOT / "csrc/include/ht_kernels.h").read_text()
    assert change[0] in header
    (tmp_path / "ht_kernels.h").write_text(header.replace(*change, 1) if change[0] else header)
    script = tmp_path / "check.cmake"
    script.write_text(
        f"include({ROOT}/cmake/check_weights.cmake)\n"
        f"check_weights({ROOT}/ht_kernels/folding.py {tmp_path}/ht_kernels.h)\n"
    )
    done = subprocess.run([sys.executable, "-m", "cmake", "-P", str(script)], capture_output=True, text=True)
    assert (done.returncode == 0) == (not change[0]), done.stderr
    assert not change[0] or "give both the same names in the same order" in " ".join(done.stderr.split())


def test_the_interpreter_of_triton_runs_for_who_names_it() -> None:
    pytest.importorskip("triton")
    case = dispatch.Case(torch.device("cpu"), torch.float16, 20, 8, GRID, 1, False)
    assert dispatch.choose(case) == "reference"
