"""Frames as models take them: the compiled core and Pillow give the same pixels."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ht_kernels import compiled
from ht_kernels.errors import InputError
from ht_kernels.media.frames import Box
from ht_kernels.media.preprocess import by_pillow, preprocess

pytestmark = pytest.mark.usefixtures("one_thread")
needs_core = pytest.mark.skipif(bool(compiled.missing), reason="there is no compiled core")
sides = st.integers(1, 40) | st.sampled_from((1, 2, 63, 64, 65, 100, 131))
EXTREMES = np.array([0, 255], np.uint8)


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def assert_as_pillow(frame: NDArray[np.uint8], size: tuple[int, int]) -> None:
    pixels = preprocess(frame, size)
    assert pixels.shape == (1, 1, *size) and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert np.array_equal(pixels, by_pillow(np.ascontiguousarray(frame), size))


@settings(max_examples=300, deadline=None)
@given(
    frame=st.tuples(sides, sides),
    size=st.tuples(sides, sides),
    color=st.booleans(),
    extreme=st.booleans(),
    seed=st.integers(0, 999),
)
def test_equals_pillow(frame: tuple[int, int], size: tuple[int, int], color: bool, extreme: bool, seed: int) -> None:
    """Extreme content overshoots, and is clipped after each pass."""
    values = noise(*frame, 3, seed=seed) if color else noise(*frame, seed=seed)
    assert_as_pillow(EXTREMES[values % 2] if extreme else values, size)


@pytest.mark.parametrize("shape", [(240, 320), (240, 320, 3), (672, 896, 3), (768, 1024), (1080, 1920, 3), (81, 4100)])
def test_video_frames(shape: tuple[int, ...]) -> None:
    frame = noise(*shape)
    assert_as_pillow(frame, (224, 224))
    before = preprocess(frame, (224, 224))
    torch.set_num_threads(3)
    assert np.array_equal(preprocess(frame, (224, 224)), before)
    assert np.array_equal(preprocess(frame, (224, 224), threads=1), before)


def test_every_color_has_the_gray_of_pillow() -> None:
    """The luma of each red and green with some blues, not resized."""
    red, green = np.meshgrid(np.arange(256), np.arange(256))
    for blue in (0, 1, 77, 128, 254, 255):
        frame = np.stack([red, green, np.full_like(red, blue)], -1).astype(np.uint8)
        assert_as_pillow(frame, (256, 256))


@pytest.mark.parametrize("period", [1, 2, 3, 8])
def test_checkerboards_and_constants(period: int) -> None:
    rows, columns = np.indices((120, 150)) // period
    board = EXTREMES[(rows + columns) % 2]
    for size in ((37, 41), (120, 150), (224, 224), (1, 1), (119, 151)):
        assert_as_pillow(board, size)
        assert (preprocess(np.full((120, 150, 3), 255 // period, np.uint8), size) == 255 // period).all()


@pytest.mark.parametrize("color", [False, True])
def test_views(color: bool) -> None:
    """A crop is read in place; so are rows from the bottom up. Other views are copied."""
    frame = noise(90, 120, 3) if color else noise(90, 120)
    crop = Box(7, 5, 61, 43).of(frame)
    assert crop.base is frame
    in_place = crop, frame[::-1], frame[::3], np.broadcast_to(frame[:1], frame.shape)
    for view in (*in_place, frame[:, ::2], frame[:, ::-1], np.asfortranarray(frame), frame[..., ::-1]):
        assert_as_pillow(view, (32, 48))


@needs_core
def test_a_crop_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = []
    fake = SimpleNamespace(preprocess=lambda sizes, frame, *others: addresses.append(frame))
    monkeypatch.setattr(compiled, "module", fake)
    frame = noise(90, 120, 3)
    preprocess(Box(7, 5, 61, 43).of(frame), (32, 48))
    assert addresses == [frame.ctypes.data + 5 * 360 + 7 * 3]


def test_without_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = noise(50, 60, 3)
    expected = preprocess(frame, (32, 40))
    monkeypatch.setattr(compiled, "missing", "it was not built")
    monkeypatch.setattr(compiled, "module", None, raising=False)
    assert np.array_equal(preprocess(frame, (32, 40)), expected)
    assert np.array_equal(preprocess(frame[::-1], (32, 40)), preprocess(frame[::-1].copy(), (32, 40)))


@needs_core
@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_lower_instruction_sets(level: str) -> None:
    program = (
        "import numpy as np; from ht_kernels.media.preprocess import by_pillow, preprocess\n"
        "for shape in ((50, 61), (50, 61, 3), (9, 200, 3)):\n"
        "    frame = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)\n"
        "    assert np.array_equal(preprocess(frame, (33, 40)), by_pillow(frame, (33, 40)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "HT_KERNELS_CPU": level})


@pytest.mark.parametrize("missing", [False, True])
def test_what_is_no_frame(missing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing:
        monkeypatch.setattr(compiled, "missing", "it was not built")
    for shape in ((4,), (4, 4, 1), (4, 4, 4), (2, 4, 4, 3)):
        with pytest.raises(InputError, match=r"a frame has shape \(.*\), expected an array \(H, W\) or \(H, W, 3\)"):
            preprocess(np.zeros(shape, np.uint8), (8, 8))
    with pytest.raises(InputError, match=r"a frame has shape \(0, 4\), expected sides of 1 to 1048576 pixels"):
        preprocess(np.zeros((0, 4), np.uint8), (8, 8))
    with pytest.raises(InputError, match="a frame has dtype float32, expected uint8"):
        preprocess(np.zeros((4, 4), np.float32), (8, 8))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"a frame has the type list, expected an array \(H, W\)"):
        preprocess([[0, 1]], (8, 8))  # type: ignore[arg-type]
    for size in ((0, 8), (8, -1), (8,), (8, 2.0), (8, 2**21), 4, None, "44", (True, 4)):
        with pytest.raises(InputError, match=r"size must be .* two whole numbers from 1 to 1048576, got"):
            preprocess(np.zeros((4, 4), np.uint8), size)  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", [False, True])
def test_sizes_of_numpy_and_wrong_numbers_of_threads(missing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing:
        monkeypatch.setattr(compiled, "missing", "it was not built")
    frame = np.arange(48, dtype=np.uint8).reshape(6, 8)
    expected = preprocess(frame, (4, 5))
    for size in ((np.int64(4), np.uint8(5)), np.array([4, 5]), [4, 5], torch.tensor([4, 5])):
        assert np.array_equal(preprocess(frame, size, threads=np.int64(1)), expected)  # type: ignore[arg-type]
    for threads in (0, -1, 10**9, 1.5, "2", True):
        with pytest.raises(InputError, match=f"threads must be a whole number from 1 to 1024, got {threads!r}"):
            preprocess(frame, (4, 5), threads=threads)  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", [False, True])
def test_sizes_that_would_fill_the_memory(missing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing:
        monkeypatch.setattr(compiled, "missing", "it was not built")
    with pytest.raises(InputError, match=r"of 8x6 pixels was to be resized to 1048576x1048576, .* take a smaller size"):
        preprocess(np.zeros((6, 8), np.uint8), (2**20, 2**20))
    with pytest.raises(InputError, match="of 1x1024 pixels was to be resized to 1048576x1"):
        preprocess(np.zeros((1024, 1), np.uint8), (1, 2**20))
