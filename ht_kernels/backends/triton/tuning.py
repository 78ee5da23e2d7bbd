"""How tiles are chosen: a short list per kernel, timed once per size of work and kept on disk by Triton.

The tile decides in which order sums are taken. So the same input gives the same bits as long as the tile is the same:
within a process, and in all processes that share Triton's cache. Another search, on another machine or behind an
emptied cache, may choose another tile, whose result differs by rounding.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import triton
from triton.runtime import Autotuner

_NUMBERS = 16
"""Of a tile's rows and columns in each thread: with twice as many registers spill."""
_STAGE = 36 << 10
"""Bytes that one step of DEPTH takes of x and of a matrix: three such steps and more are in shared memory, of which the
smallest of the GPUs has 99 KiB for a block."""
_WIDE_DEPTH = 32
"""Steps of float32 tiles with more than 64 columns: with more, the parts of their products do not fit registers."""
_unsearched = 0
"""How many :func:`without_search` are open, in all threads."""
_counting = threading.Lock()


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on the CPU."""
    return bool(triton.knobs.runtime.interpret)


@contextmanager
def without_search() -> Iterator[None]:
    """Inside, in every thread, each kernel takes one tile that suits the case, the interpreter's, and times nothing."""
    global _unsearched
    with _counting:
        _unsearched += 1
    try:
        yield
    finally:
        with _counting:
            _unsearched -= 1


class Tuned(Autotuner):  # type: ignore[misc]
    """A kernel with tiles to choose from: constants of the kernel, ``num_warps``, and ``maxnreg``, without which ptxas
    may spill a few bytes to fit one more block on a multiprocessor.

    Triton's search adds the dtypes of all arguments to ``key``. It runs the kernel again and again on the caller's
    tensors, so a kernel must not write what it reads.
    """

    def __init__(self, kernel: Any, tiles: Sequence[dict[str, int]], key: Sequence[str]) -> None:
        configs = []
        for tile in tiles:
            sizes = {name: size for name, size in tile.items() if name.isupper()}
            configs.append(triton.Config(sizes, num_warps=tile["num_warps"], maxnreg=tile.get("maxnreg")))
        super().__init__(kernel, kernel.arg_names, configs, list(key), None, None, cache_results=True)
        self._lock = threading.Lock()

    def run(self, *args: Any, **kwargs: Any) -> Any:
        with self._lock:  # the search keeps its state in the object
            if _may_search():
                return super().run(*args, **kwargs)
            self.nargs = dict(zip(self.arg_names, args, strict=False))
            tile = self.prune_configs(kwargs)[-1]
            self.nargs = {}  # the caller's tensors go
            return self.fn.run(*args, **kwargs, **tile.all_kwargs())

    def prune_configs(self, kwargs: dict[str, Any]) -> list[triton.Config]:
        """The tiles that suit the arguments, of which Triton has put the positional ones into ``nargs``."""
        x = next(iter(self.nargs.values()))
        return [tile for tile in self.configs if suits(tile, x.element_size(), kwargs["CHANNELS"])]


def suits(tile: triton.Config, size: int, channels: int) -> bool:
    """Whether a tile leaves enough registers and shared memory, with numbers of ``size`` bytes."""
    rows, columns, depth = (int(tile.kwargs.get(name, 0)) for name in ("ROWS", "COLUMNS", "DEPTH"))
    columns = columns or padded(channels)
    if size == 4 and columns > 64 and depth > _WIDE_DEPTH:
        return False
    numbers = _NUMBERS * 32 * int(tile.num_warps)
    return rows * columns <= numbers and (rows + columns) * depth * size <= _STAGE


def tuned(*tiles: dict[str, int], key: Sequence[str]) -> Callable[[Any], Tuned]:
    """Decorates a kernel: ``tiles`` to try, and the arguments by whose values one is chosen."""
    return lambda kernel: Tuned(kernel, tiles, key)


def size_of(work: int) -> int:
    """``work`` rounded up to a power of two: calls of one size share a search."""
    return 1 << max(work - 1, 0).bit_length()


def padded(count: int) -> int:
    """The power of two, at least 16, that holds ``count``: tiles have such sides."""
    return max(16, 1 << (count - 1).bit_length()) if count else 16


def _may_search() -> bool:
    return not (interpreted() or _unsearched)
