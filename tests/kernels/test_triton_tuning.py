"""How the Triton backend chooses tiles; in the interpreter without a GPU, where nothing is timed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
from ht_kernels.backends.triton import tuning
from ht_kernels.backends.triton.kernels.depthwise_backward import depthwise_backward
from ht_kernels.backends.triton.kernels.depthwise_input_backward import depthwise_input_backward
from ht_kernels.backends.triton.kernels.down_project import down_project
from ht_kernels.backends.triton.kernels.down_project_backward import down_project_backward
from ht_kernels.backends.triton.kernels.mix_and_up_project import mix_and_up_project
from ht_kernels.backends.triton.kernels.mix_and_up_project_backward import mix_and_up_project_backward
from ht_kernels.backends.triton.kernels.stacked_down_project import stacked_down_project

KERNELS = (
    down_project,
    mix_and_up_project,
    mix_and_up_project_backward,
    depthwise_backward,
    depthwise_input_backward,
    down_project_backward,
)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.fn.__name__)
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("channels", [1, 16, 24, 64, 128])
def test_every_case_has_a_tile(kernel: Any, size: int, channels: int) -> None:
    assert any(tuning.suits(tile, size, channels) for tile in kernel.configs)


@pytest.mark.parametrize("channels", [1, 16, 24, 64, 128])
def test_every_case_of_16_bits_has_a_tile(channels: int) -> None:
    kernel = stacked_down_project
    assert all(tuning.suits(tile, 2, channels, kernel.numbers) for tile in kernel.configs)


def test_large_tiles_do_not_suit_wide_bottlenecks() -> None:
    suiting = [[tile for tile in mix_and_up_project.configs if tuning.suits(tile, 4, c)] for c in (64, 128)]
    assert len(suiting[0]) > len(suiting[1]) > 0


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """down_project searches as on a GPU, but launches nothing: it writes down with what it would have."""
    launches: list[dict[str, Any]] = []

    class Kernel:
        @staticmethod
        def run(*args: object, **kwargs: Any) -> None:
            launches.append(kwargs)

    monkeypatch.setattr(tuning, "interpreted", lambda: False)
    monkeypatch.setattr(down_project, "fn", Kernel)
    monkeypatch.setattr(down_project, "cache_results", False)
    monkeypatch.setattr(down_project, "cache", {})
    return launches


def launch(work: int) -> None:
    x = torch.zeros(1)
    values = [work if name == "work" else x for name in down_project.arg_names if not name.isupper()]
    sizes = {"DIM": 16, "CHANNELS": 64, "POOL": False, "STATS": False, "PRECISION": "ieee", "SUM_ROWS": 16}
    down_project.run(*values, grid=(1,), warmup=False, **sizes)


def test_without_search(launched: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    timings = iter(range(99))

    def time(call: Any, quantiles: object) -> list[float]:
        """The first tile is fastest."""
        call()
        return [float(next(timings))] * 3

    monkeypatch.setitem(vars(down_project), "do_bench", time)
    suiting = [tile.all_kwargs() for tile in down_project.configs if tuning.suits(tile, 4, 64)]
    assert len(suiting) > 2

    def tiles() -> list[dict[str, Any]]:
        found = [{name: launch[name] for name in suiting[0]} for launch in launched]
        launched.clear()
        return found

    with tuning.without_search():
        with tuning.without_search():
            launch(1)
        launch(1)
    assert tiles() == [suiting[-1]] * 2
    launch(1)
    assert tiles() == [*suiting, suiting[0]]  # each is tried, then the fastest runs
    launch(1)
    with tuning.without_search():
        launch(1)
    assert tiles() == [suiting[0], suiting[-1]]
    monkeypatch.setattr(tuning, "interpreted", lambda: True)
    launch(1)
    assert tiles() == [suiting[-1]]


def test_threads_search_one_after_another(launched: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton keeps the arguments of a search in the kernel, where another thread's launch would overwrite them."""
    inside, together = [0], [0]

    def time(call: Any, quantiles: object) -> list[float]:
        inside[0] += 1
        together[0] = max(together[0], inside[0])
        threading.Event().wait(0.02)
        inside[0] -= 1
        return [1.0] * 3

    monkeypatch.setitem(vars(down_project), "do_bench", time)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(launch, range(4)))
    assert together[0] == 1 and len(down_project.cache) == 4
