"""What threads share below a session: an adapter's prepared weights, the kernels' memory, retired backends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor

import ht_kernels as ht
from helpers.small_models import gray_frames, small_model
from helpers.small_towers import shake
from ht_kernels import deploy
from ht_kernels.backends import cpu
from ht_kernels.nn import HTAdapter, adapter
from ht_kernels.ops import dispatch, prepared

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
THREADS = 4


def new(spectral: str | None = None, dim: int = 64, width: int = 16) -> HTAdapter:
    torch.manual_seed(0)
    return shake(HTAdapter(dim, width, spectral=spectral)).eval()


def tokens(grid: tuple[int, int], seed: int, dim: int = 64, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 1 + grid[0] * grid[1], dim, generator=generator)


def in_threads(work: Callable[[int], list[Tensor]]) -> list[list[Tensor]]:
    together = threading.Barrier(THREADS)

    def start(number: int) -> list[Tensor]:
        together.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(start, range(THREADS)))


def assert_same(got: list[list[Tensor]], expected: list[Tensor]) -> None:
    for results, right in zip(got, expected, strict=True):
        wrong = sum(not torch.equal(result, right) for result in results)
        assert wrong == 0, f"{wrong} of {len(results)} results are wrong"


@pytest.mark.parametrize("spectral", [None, "radial"])
def test_threads_share_an_adapter(spectral: str | None) -> None:
    """On two OpenMP threads each, while the folded weights are forgotten again and again."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        shared = new(spectral, dim=256, width=32)
        grids = [(14, 14), (9, 7), (14, 14), (5, 16)]
        inputs = [tokens(grid, seed, dim=256, batch=3) for seed, grid in enumerate(grids)]

        @torch.no_grad()
        def work(number: int) -> list[Tensor]:
            results = []
            for i in range(30):
                if number == 0 and i % 3 == 0:
                    shared.eval()
                results.append(shared(inputs[number], grids[number]))
            return results

        expected = [work(number)[-1] for number in range(THREADS)]
        assert_same(in_threads(work), expected)
    finally:
        torch.set_num_threads(threads)


class Forgetful(HTAdapter):
    """What is kept is forgotten between two looks at it, as another thread that trains does now and then."""

    looks = 0

    @property
    def _cache(self) -> object:
        self.__dict__["looks"] = self.looks + 1
        return self.__dict__["kept"] if self.looks % 2 else None

    @_cache.setter
    def _cache(self, value: object) -> None:
        self.__dict__["kept"] = value


def test_another_thread_may_forget_the_folded_weights() -> None:
    torch.manual_seed(0)
    shared, x = shake(Forgetful(64, 16)).eval(), tokens((3, 2), 0)
    with torch.no_grad():
        expected = new()(x, (3, 2))
        for _ in range(4):
            assert torch.equal(shared(x, (3, 2)), expected)


def test_another_thread_may_move_the_folded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, for the tuples that a folded model keeps."""
    model = small_model("timm").float()
    folded, frames = ht.fold(model), gray_frames(model)
    expected = folded(frames)
    looks = count()

    def look(self: Any) -> object:
        return None if next(looks) % 2 else self.__dict__["kept"]

    monkeypatch.setattr(
        deploy.folded._Tensors,
        "kept",
        property(look, lambda self, kept: self.__dict__.update(kept=kept)),
        raising=False,
    )
    for _ in range(2):
        assert torch.equal(folded(frames), expected)


def test_one_thread_at_a_time_prepares_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one set of weights; a radial mask is made for the grid of the call."""
    busy, most = threading.Semaphore(1), []
    make = cpu.prepare

    def slow(*args: Any) -> object:
        most.append(busy.acquire(blocking=False))
        time.sleep(0.05)
        if most[-1]:
            busy.release()
        return make(*args)

    monkeypatch.setattr(cpu, "prepare", slow)
    shared = new("radial")
    grids = [(2, 2), (3, 2), (4, 2), (5, 2)]

    @torch.no_grad()
    def work(number: int) -> list[Tensor]:
        return [shared(tokens(grids[number], number), grids[number])]

    with torch.no_grad():
        expected = [new("radial")(tokens(grid, number), grid) for number, grid in enumerate(grids)]
        shared.folded()
        most.clear()
        assert_same(in_threads(work), expected)
    assert most == [True] * THREADS


def test_a_capture_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, x = new(), tokens((3, 2), 0)
    with torch.no_grad():
        expected = shared(x, (3, 2))
        kept = shared._cache
        with monkeypatch.context() as patch:
            for module in (adapter, prepared):
                patch.setattr(module, "is_captured", lambda t: True)
            other = tokens((2, 2), 1)
            assert torch.equal(shared(other, (2, 2)), new()(other, (2, 2)))
            assert shared._cache is kept and len(kept.folded.prepared._calls) == 1
            shared.eval()
            assert torch.equal(shared(x, (3, 2)), expected) and shared._cache is None
        assert torch.equal(shared(x, (3, 2)), expected) and shared._cache is not None


def test_a_backend_is_retired_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            time.sleep(0.05)

    monkeypatch.setattr(dispatch.choices, "retired", {})
    handler = Slow()
    dispatch.log.addHandler(handler)
    try:
        with caplog.at_level(logging.WARNING, "ht_kernels"):
            in_threads(lambda number: [dispatch.retire("cuda", torch.device("cuda", 0), "it failed")])
    finally:
        dispatch.log.removeHandler(handler)
    assert len(caplog.records) == 1 and len(dispatch.choices.retired) == 1


@contextmanager
def held_up() -> Iterator[None]:
    """A stream of its own that is busy for some milliseconds."""
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(20_000_000)
        yield


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spectral", [None, "radial"])
@torch.no_grad()
def test_what_one_stream_made_another_reads(spectral: str | None, dtype: torch.dtype) -> None:
    grid, x = (3, 2), tokens((3, 2), 0).cuda().to(dtype)
    shared = new(spectral).cuda()
    expected = shared(x, grid)
    for _ in range(5):
        shared.eval()
        torch.cuda.synchronize()
        with held_up():
            shared(x, grid)
        got = shared(x, grid)
        torch.cuda.synchronize()
        assert torch.equal(got, expected)


@needs_gpu
@torch.no_grad()
def test_weights_folded_in_a_capture_are_not_kept() -> None:
    grid, x = (3, 2), tokens((3, 2), 0).cuda()
    shared = new().cuda()
    expected = shared(x, grid)
    captured, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        shared(x, grid)
    shared.eval()
    with torch.cuda.graph(captured, stream=stream):
        out = shared(x, grid)
    assert torch.equal(shared(x, grid), expected)  # before any replay
    captured.replay()
    torch.testing.assert_close(out, expected)
