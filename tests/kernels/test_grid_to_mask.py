"""Masks from logits on a grid: every backend against upsampling and taking the class, ties aside."""

from __future__ import annotations

import ctypes
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ht_kernels.backends import core, reference, torch_private
from ht_kernels.backends.call import MaskCase
from ht_kernels.errors import BackendError
from ht_kernels.functional import grid_to_mask
from ht_kernels.ops import dispatch
from ht_kernels.ops.dispatch import BACKENDS

pytestmark = pytest.mark.usefixtures("one_thread")
sides = st.integers(1, 20) | st.sampled_from((24, 37, 50))


def logits_of(batch: int, classes: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Logits whose largest class is often that of the neighbours too, as in masks."""
    torch.manual_seed(seed)
    coarse = torch.randn(batch, classes, -(-height // 3), -(-width // 3))
    return F.interpolate(coarse, (height, width), mode="nearest") + 0.2 * torch.randn(batch, classes, height, width)


def assert_classes(mask: Tensor, logits: Tensor, size: tuple[int, int]) -> None:
    """Where a mask differs from the reference, the logits of the two classes are equal up to rounding."""
    assert mask.dtype == torch.uint8 and mask.shape == (len(logits), *size) and mask.is_contiguous()
    if mask.numel() == 0:
        return
    scores = F.interpolate(logits.double(), size, mode="bilinear", align_corners=False)
    if scores.shape[1] == 1:
        scores = torch.cat([torch.zeros_like(scores), scores], 1)
    chosen = scores.gather(1, mask[:, None].long())[:, 0]
    rounding = 2.4e-7 * (sum(logits.shape[2:]) + 4) * float(logits.abs().max())
    assert (scores.amax(1) - chosen).max() <= rounding


@settings(max_examples=120, deadline=None)
@given(
    grid=st.tuples(sides, sides),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    classes=st.sampled_from((1, 2, 3, 5, 32, 256)),
    batch=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_equals_upsampling_and_the_largest(
    grid: tuple[int, int], size: tuple[int, int], classes: int, batch: int, seed: int
) -> None:
    logits = logits_of(batch, classes, *grid, seed)
    for backend in ("cpu", "reference"):
        assert_classes(grid_to_mask(logits, size, backend=backend), logits, size)


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_a_video_frame(classes: int) -> None:
    logits = logits_of(1, classes, 14, 14)
    mask = grid_to_mask(logits, (1080, 1920))
    assert_classes(mask, logits, (1080, 1920))
    assert mask.unique().tolist() == list(range(max(2, classes)))


def test_the_first_of_equal_logits_wins() -> None:
    for backend in ("cpu", "reference"):
        assert not grid_to_mask(torch.ones(1, 3, 4, 4), (9, 9), backend=backend).any()
        assert not grid_to_mask(torch.zeros(1, 1, 4, 4), (9, 9), backend=backend).any()
        second = torch.tensor([0.0, 2.0, 2.0]).view(1, 3, 1, 1)
        assert (grid_to_mask(second, (3, 5), backend=backend) == 1).all()


def test_threads_do_not_change_a_mask() -> None:
    logits = logits_of(2, 5, 14, 14)
    alone = grid_to_mask(logits, (500, 500))
    torch.set_num_threads(3)
    assert torch.equal(grid_to_mask(logits, (500, 500)), alone)


def test_strides_dtypes_and_an_empty_batch() -> None:
    scores = logits_of(2, 3, 6, 8).flatten(2).transpose(1, 2).contiguous()  # as the pyramid gives them
    logits = scores.transpose(1, 2).unflatten(2, (6, 8))
    assert not logits.is_contiguous()
    expected = grid_to_mask(logits.contiguous(), (40, 30))
    assert torch.equal(grid_to_mask(logits, (40, 30)), expected)
    assert torch.equal(grid_to_mask(logits.flip(0)[::2], (40, 30)), expected[1:])
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        narrow = logits.to(dtype)
        assert torch.equal(grid_to_mask(narrow, (40, 30)), reference.grid_to_mask(narrow, (40, 30)))
    for backend in ("cpu", "reference", None):
        assert grid_to_mask(torch.empty(0, 3, 6, 8), (40, 30), backend=backend).shape == (0, 40, 30)


def test_logits_that_are_not_finite_give_a_class() -> None:
    logits = logits_of(1, 3, 6, 6)
    logits[0, 0, 1, 1], logits[0, 1, 3, 3], logits[0, 2, 4, 2] = torch.nan, torch.inf, -torch.inf
    assert int(grid_to_mask(logits, (50, 50), backend="cpu").max()) < 3


def test_gradients_are_not_asked_for() -> None:
    logits = logits_of(1, 2, 4, 4).requires_grad_()
    assert not grid_to_mask(logits, (8, 8)).requires_grad


def test_compilers_see_an_operator() -> None:
    logits = logits_of(2, 3, 5, 6)
    arguments = (logits, 20, 31, "cpu")
    torch.library.opcheck(torch.ops.ht_kernels.grid_to_mask.default, arguments)
    compiled = torch.compile(lambda x: grid_to_mask(x * 2, (20, 31)), backend="eager", fullgraph=True)
    assert torch.equal(compiled(logits), grid_to_mask(logits * 2, (20, 31)))


def test_arguments_that_do_not_fit() -> None:
    for shape in ((3, 4, 4), (1, 0, 4, 4), (1, 257, 4, 4), (1, 2, 0, 4)):
        with pytest.raises(ValueError, match=r"logits must have shape \(batch, 1 to 256 classes, height, width\)"):
            grid_to_mask(torch.zeros(shape), (8, 8))
    with pytest.raises(TypeError, match=r"float16 or float64, got torch\.int64"):
        grid_to_mask(torch.zeros(1, 2, 4, 4, dtype=torch.int64), (8, 8))
    for logits, kind in ((None, "NoneType"), (np.zeros((1, 2, 4, 4), np.float32), "ndarray")):
        with pytest.raises(TypeError, match=f"logits must be a tensor, got {kind}"):
            grid_to_mask(logits, (8, 8))  # type: ignore[arg-type]
    for size in ((0, 8), (8, -1), (8,)):
        with pytest.raises(ValueError, match="two whole numbers from 1 to"):
            grid_to_mask(torch.zeros(1, 2, 4, 4), size)  # type: ignore[arg-type]


def test_a_backend_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the call it raises where it cannot run; by the process, which means the adapters, reference runs instead."""
    logits = logits_of(1, 2, 4, 4)
    with pytest.raises(BackendError, match=r"'triton' was asked for by name .* no kernel that makes masks"):
        grid_to_mask(logits, (8, 8), backend="triton")
    with pytest.raises(BackendError, match=r"it makes masks of float32, and the logits are torch\.float64"):
        grid_to_mask(logits.double(), (8, 8), backend="cpu")
    ran = []
    plain = reference.grid_to_mask
    monkeypatch.setattr(reference, "grid_to_mask", lambda *arguments: ran.append(1) or plain(*arguments))
    for name in ("triton", "cuda", "reference"):
        monkeypatch.setattr(dispatch.choices, "asked", name)
        assert torch.equal(grid_to_mask(logits, (8, 8)), plain(logits, (8, 8)))
    assert len(ran) == 3
    monkeypatch.setattr(dispatch.choices, "asked", "cpu")
    grid_to_mask(logits, (8, 8))
    assert len(ran) == 3


def test_the_log_says_that_reference_runs_instead(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dispatch.choices, "asked", "triton")
    with caplog.at_level("DEBUG", "ht_kernels"):
        grid_to_mask(logits_of(1, 2, 4, 4), (8, 8))
    assert [record.message for record in caplog.records if "triton: not used for masks: " in record.message]


def test_what_a_launch_on_a_gpu_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = []

    def launch(sizes: tuple[int, ...], logits: int, mask: int, stream: int) -> None:
        batch, classes, *grid, height, width = sizes
        values = (ctypes.c_float * (batch * classes * grid[0] * grid[1])).from_address(logits)
        pixels = (ctypes.c_uint8 * (batch * height * width)).from_address(mask)
        given = torch.frombuffer(values, dtype=torch.float32).view(batch, classes, *grid)
        np.frombuffer(pixels, np.uint8)[:] = reference.grid_to_mask(given, (height, width)).flatten().numpy()
        launches.append(stream)

    monkeypatch.setattr(core, "module", SimpleNamespace(grid_to_mask_cuda=launch))
    monkeypatch.setattr(BACKENDS["cuda"], "can_mask", lambda case: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch_private, "current_stream", lambda index: 7)
    logits = logits_of(2, 3, 5, 6).transpose(2, 3)
    mask = grid_to_mask(logits, (21, 11))
    assert launches == [7] and torch.equal(mask, reference.grid_to_mask(logits, (21, 11)))

    def refused(*arguments: object) -> None:
        raise RuntimeError("grid_to_mask did not start: out of memory")

    monkeypatch.setattr(core, "module", SimpleNamespace(grid_to_mask_cuda=refused))
    with pytest.raises(BackendError, match="grid_to_mask did not start"):
        grid_to_mask(logits, (21, 11), backend="cuda")


def test_the_reasons_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, can_mask = torch.device("cuda", 0), BACKENDS["cuda"].can_mask
    monkeypatch.setattr(core, "module", SimpleNamespace(CudaAdapter=None))
    monkeypatch.setattr(BACKENDS["cuda"], "_device_reason", lambda index: None)
    assert can_mask(MaskCase(gpu, torch.float32)) is None
    assert "logits are torch.float16" in str(can_mask(MaskCase(gpu, torch.float16)))
    assert "it runs on an NVIDIA GPU" in str(can_mask(MaskCase(torch.device("cpu"), torch.float32)))


def test_sizes_of_numpy() -> None:
    logits = torch.randn(1, 3, 2, 2)
    expected = grid_to_mask(logits, (6, 7))
    for size in ((np.int64(6), np.int32(7)), np.array([6, 7]), torch.tensor([6, 7])):
        assert torch.equal(grid_to_mask(logits, size), expected)
