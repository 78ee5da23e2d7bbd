"""The choice of tiles.

Each kernel has a short list of tiles, which are timed once per size of work. Triton stores the choice on disk.

The tile determines the order in which sums are taken. So the same input gives the same bits as long as the tile is the
same: within a process, and in all processes that share Triton's cache. Another search, on another machine or after the
cache was emptied, may choose another tile, whose result differs by rounding.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import triton
from triton.runtime import Autotuner

_NUMBERS = 16
"""The largest number of elements of a tile (rows times columns) per thread, unless a kernel says otherwise. With twice
as many, registers spill."""
_STAGE = 36 << 10
"""The largest size, in bytes, of the parts of x and of a matrix that one step of DEPTH reads. Several such steps are in
shared memory at once, and the smallest GPUs have 99 KiB of it for a block."""
_WIDE_DEPTH = 32
"""The largest DEPTH of float32 tiles with more than 64 columns. With more, their operands do not fit into registers."""
_unsearched = 0
"""The number of open :func:`without_search` contexts, in all threads."""
_counting = threading.Lock()


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on the CPU."""
    return bool(triton.knobs.runtime.interpret)


@contextmanager
def without_search() -> Iterator[None]:
    """A context in which no kernel, in any thread, times tiles. Each takes the last tile that fits."""
    global _unsearched
    with _counting:
        _unsearched += 1
    try:
        yield
    finally:
        with _counting:
            _unsearched -= 1


class Tuned(Autotuner):  # type: ignore[misc]
    """A kernel with a list of tiles to choose from.

    A tile consists of constants of the kernel, ``num_warps`` and, optionally, ``maxnreg``. Without ``maxnreg``, ptxas
    may spill a few bytes in order to fit one more block on a multiprocessor.

    Triton's search adds the dtypes of all arguments to ``key``. It runs the kernel repeatedly on the caller's tensors,
    so a kernel must not write to its inputs.
    """

    def __init__(self, kernel: Any, tiles: Sequence[dict[str, int]], key: Sequence[str], numbers: int) -> None:
        self.numbers = numbers
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
            self.nargs = {}  # do not keep the caller's tensors alive
            return self.fn.run(*args, **kwargs, **tile.all_kwargs())

    def prune_configs(self, kwargs: dict[str, Any]) -> list[triton.Config]:
        """The tiles that suit the arguments. Triton has put the positional arguments into ``nargs``."""
        x = next(iter(self.nargs.values()))
        return [tile for tile in self.configs if suits(tile, x.element_size(), kwargs["CHANNELS"], self.numbers)]


def suits(tile: triton.Config, size: int, channels: int, numbers: int = _NUMBERS) -> bool:
    """Whether a tile fits into registers and shared memory, with elements of ``size`` bytes, ``numbers`` per thread."""
    rows, columns, depth = (int(tile.kwargs.get(name, 0)) for name in ("ROWS", "COLUMNS", "DEPTH"))
    columns = columns or padded(channels)
    if size == 4 and columns > 64 and depth > _WIDE_DEPTH:
        return False
    return rows * columns <= numbers * 32 * int(tile.num_warps) and (rows + columns) * depth * size <= _STAGE


def tuned(*tiles: dict[str, int], key: Sequence[str], numbers: int = _NUMBERS) -> Callable[[Any], Tuned]:
    """Decorate a kernel with the ``tiles`` to try; one is chosen for each combination of the arguments ``key``.

    ``numbers`` is the largest number of elements of a tile per thread.
    """
    return lambda kernel: Tuned(kernel, tiles, key, numbers)


def size_of(work: int) -> int:
    """Round ``work`` up to a power of two, so that calls of similar size share one search."""
    return 1 << max(work - 1, 0).bit_length()


def padded(count: int) -> int:
    """The smallest power of two that is at least 16 and at least ``count``. Tiles have such sides."""
    return max(16, 1 << (count - 1).bit_length()) if count else 16


def _may_search() -> bool:
    return not (interpreted() or _unsearched)
