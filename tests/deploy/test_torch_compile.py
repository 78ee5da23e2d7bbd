"""Compiled functions and models, and what is taken where torch.compile fails or computes something else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import ht_kernels as ht
from helpers.small_models import calibrated, gray_frames, small_model
from ht_kernels.deploy import torch_compile
from ht_kernels.ops import operators

FRAMES = torch.arange(6.0).view(1, 6)
compile_ = torch.compile


def doubled(x: Tensor) -> tuple[Tensor, ...]:
    return (2 * x,)


@pytest.fixture(autouse=True)
def nothing_is_known(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO, "ht_kernels")
    torch_compile.why_not.cache_clear()
    yield
    torch_compile.why_not.cache_clear()


def fake(monkeypatch: pytest.MonkeyPatch, make: Callable[[Any], Any]) -> None:
    """Let ``make`` be torch.compile for all but the addition that is tried first."""

    def compile(function: Any, **options: Any) -> Any:
        return function if "mode" not in options else make(function)

    monkeypatch.setattr(torch, "compile", compile)


@pytest.mark.timeout(300)
def test_a_model_with_our_operators_is_one_graph(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By inductor's backend for CPUs, as far as torch finds a C++ compiler for it."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    if torch_compile.why_not(torch.device("cpu")):
        pytest.skip("torch.compile does not work here")
    model = calibrated(small_model("timm")).float()
    folded, frames, ran = ht.fold(model), gray_frames(model), []
    infer = operators._infer
    monkeypatch.setattr(operators, "_infer", lambda *args: ran.append(args[0]) or infer(*args))

    def compute(x: Tensor) -> tuple[Tensor, ...]:
        return folded.compute(x, folded.grid, True)

    with torch.inference_mode():
        found = torch_compile.compiled(compute, frames, torch.float32)
        assert found is not compute, caplog.text
        assert ran == ["cpu"] * len(folded.adapters)
        other = 255 - frames
        before = found(other)
        torch.testing.assert_close(before, compute(other), rtol=1e-5, atol=1e-5)
        for weights in (folded.position, folded.blocks[1].out_weight, folded.adapters["1"].up_weight):
            weights.mul_(1.5)  # a graph of it would see the values that are written in place
            after = found(other)
            assert not torch.allclose(after[0], before[0], rtol=1e-3)
            torch.testing.assert_close(after, compute(other), rtol=1e-5, atol=1e-5)
            before = after
    assert "frames (3, 1, 64, 64) torch.uint8 compiled in" in caplog.text


def test_many_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """For one function torch.compile would refuse the ninth."""
    fake(monkeypatch, lambda function: compile_(function, fullgraph=True, dynamic=False, backend="eager"))
    for width in range(1, 11):
        assert torch_compile.compiled(doubled, torch.ones(1, width), torch.float32) is not doubled


def fails(*_: object) -> Any:
    raise ValueError("there is\nno compiler")


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (fails, "ValueError: there is no compiler"),
        (lambda function: fails, "ValueError: there is no compiler"),
        (lambda function: lambda x: (2.0001 * x,), "its result differs by 5.0e-05, and 3.8e-06 is allowed"),
        (lambda function: lambda x: (2 * x / 0,), "its result differs by nan"),
        (lambda function: lambda x: (2 * x[0],), r"its result is (6,) torch.float32, expected (1, 6) torch.float32"),
    ],
)
def test_the_function_itself(
    make: Callable[[Any], Any], cause: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake(monkeypatch, make)
    assert torch_compile.compiled(doubled, FRAMES, torch.float32) is doubled
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert warning.message.startswith("torch.compile is not used for frames (1, 6) torch.float32: " + cause)


def test_rounding_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def takes(error: float, dtype: torch.dtype) -> bool:
        fake(monkeypatch, lambda function: lambda x: (2 * x * (1 + error),))
        return torch_compile.compiled(doubled, FRAMES, dtype) is not doubled

    assert takes(2e-6, torch.float32) and not takes(1e-4, torch.float32)
    assert takes(1e-2, torch.float16) and not takes(1e-1, torch.float16)
    assert takes(1e-1, torch.bfloat16) and not takes(1.0, torch.bfloat16)
    torch.set_float32_matmul_precision("high")
    try:
        assert takes(1e-2, torch.float32)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("make", "cause"),
    [(fails, "ValueError: there is no compiler"), (lambda function: lambda x: x + 2, "it gets 0 + 1 wrong")],
)
def test_it_is_tried_once(
    make: Callable[..., Any], cause: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: tried.append(options) or make(function))
    for _ in range(2):
        assert torch_compile.compiled(doubled, FRAMES, torch.float32) is doubled
    assert len(tried) == 1 and caplog.text.count(f"does not work ({cause}) on cpu") == 1
    assert caplog.text.count(f"is not used for frames (1, 6) torch.float32: {cause}") == 2


def test_what_the_function_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, lambda function: function)

    def broken(x: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError("the model is broken")

    with pytest.raises(RuntimeError, match="the model is broken"):
        torch_compile.compiled(broken, FRAMES, torch.float32)
