"""A few small calls of every CUDA kernel without torch, for compute-sanitizer to watch.

``python kernels_alone.py PATH_OF_C cupy|numpy`` imports only CuPy and the compiled core, which start in seconds under
the tools. Each array has its own cudaMalloc, so that a tool knows where it ends. Inputs are random, and outputs are
filled with NaN; the program fails if a NaN is left. With NumPy, the core must have emulated kernels.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2  # ht_dtype
NAMES = {FLOAT32: "float32", BFLOAT16: "bfloat16", FLOAT16: "float16"}

# batch, D, C, hidden, scales, H, W, prefix, masks. The sizes are chosen so that most tiles are cut off at an edge.
ADAPTERS = (
    (2, 96, 24, 6, 3, 5, 9, 1, 0),
    (1, 64, 64, 0, 1, 3, 3, 0, 0),
    (1, 768, 64, 16, 3, 4, 5, 1, 0),
    (1, 104, 128, 32, 3, 6, 6, 2, 0),
    (2, 96, 24, 6, 3, 5, 8, 1, 24),
    (1, 1064, 16, 4, 3, 2, 3, 1, 1),  # a row too long for a warp's registers in float32
)
FILTERS = ((2, 11, 5, 8, 11), (1, 2, 37, 31, 1), (1, 1, 1, 1, 1))
# batch, classes, grid height and width, height and width of the masks; the last group of pixels is whole in one.
MASKS = ((2, 3, 5, 9, 23, 31), (1, 1, 14, 14, 40, 64), (1, 256, 2, 3, 1, 1))


class Memory:
    """Allocates arrays in the memory that the kernels use, and keeps them alive."""

    def __init__(self, library: str) -> None:
        self.arrays = importlib.import_module(library)
        self.random = np.random.default_rng(0)
        self.kept: list[Any] = []
        if library == "cupy":
            self.arrays.cuda.set_allocator(None)  # no pool: every array gets its own cudaMalloc

    def place(self, host: np.ndarray) -> Any:
        """Copy ``host``, and keep the copy alive."""
        if self.arrays is np:
            room = np.empty(host.nbytes + 64, np.uint8)
            start = -room.ctypes.data % 64
            array = room[start : start + host.nbytes].view(host.dtype).reshape(host.shape)
            array[...] = host
        else:
            array = self.arrays.asarray(host)
        self.kept.append(array)
        return array

    def normal(self, *shape: int, dtype: int = FLOAT32) -> int:
        """Allocate random numbers, and return their address."""
        values = self.random.standard_normal(shape).astype(np.float32) / 10
        return self.address(self.place(bits(values, dtype)))

    def room(self, size: int) -> int:
        """Allocate ``size`` bytes of uninitialised memory, and return the address."""
        garbage = np.full(size, 0xFF, np.uint8)
        array = self.place(garbage) if self.arrays is np else self.arrays.empty(size, np.uint8)
        self.kept.append(array)
        return self.address(array)

    def address(self, array: Any) -> int:
        return int(array.ctypes.data if self.arrays is np else array.data.ptr)

    def host(self, array: Any) -> np.ndarray:
        return array if self.arrays is np else self.arrays.asnumpy(array)


def bits(values: np.ndarray, dtype: int) -> np.ndarray:
    """Convert float32 numbers to ``dtype``. bfloat16 numbers are uint16, the upper halves of the float32 bits."""
    if dtype == BFLOAT16:
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values if dtype == FLOAT32 else values.astype(np.float16)


def numbers(stored: np.ndarray, dtype: int) -> np.ndarray:
    """Convert the result of :func:`bits` back to float32."""
    if dtype == BFLOAT16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


class Weight:
    """A weight in GPU memory, with the attributes that the compiled core reads from a tensor."""

    def __init__(self, address: int, shape: tuple[int, ...]) -> None:
        self.address, self.shape = address, shape

    def data_ptr(self) -> int:
        return self.address


def run_adapter(core: ModuleType, memory: Memory, sizes: tuple[int, ...], dtype: int, tf32: bool) -> None:
    """Call the adapter once. Raises AssertionError if a part of the result was not written."""
    batch, dim, channels, hidden, scales, height, width, prefix, masks = sizes
    tokens = prefix + height * width
    shapes: dict[str, tuple[int, ...] | None] = {
        "down_weight": (channels, dim),
        "norm_gain": (dim,),
        "skip_gain": (dim,),
        "down_bias": (channels,),
        "scale_kernels": (scales, channels, 7, 7),
        "scale_bias": (scales, channels),
        "hidden_weight": (hidden, channels) if hidden else None,
        "hidden_bias": (hidden,) if hidden else None,
        "score_weight": (scales, hidden) if hidden else None,
        "score_bias": (scales,) if hidden else None,
        "mix_weight": (channels, channels),
        "mix_bias": (channels,),
        "up_weight": (dim, channels),
        "up_bias": (dim,),
        "mask": (masks, height, width // 2 + 1, 2) if masks else None,
    }
    matrices = ("down_weight", "mix_weight", "up_weight")  # these are in the dtype of x
    weights = {
        name: None
        if shape is None
        else Weight(memory.normal(*shape, dtype=dtype if name in matrices else FLOAT32), shape)
        for name, shape in shapes.items()
    }
    adapter = core.CudaAdapter(SimpleNamespace(**weights), dtype)
    x = memory.normal(batch, tokens, dim, dtype=dtype)
    out, normed = (memory.place(bits(np.full((batch, tokens, dim), np.nan, np.float32), dtype)) for _ in range(2))
    call = (batch, height, width, prefix, 1e-5)
    workspace, strides = memory.room(adapter.workspace(*call)), (tokens * dim, dim)
    prepared = memory.room(adapter.prepared())
    adapter.prepare(prepared, 0)
    results = ((memory.address(result), *strides) for result in (out, normed))
    adapter.forward(*call, tf32, prepared, (x, *strides), *results, 1e-5, workspace, 0)
    what = f"adapter {sizes} in {NAMES[dtype]}"
    check(memory, out, dtype, what)
    check(memory, normed, dtype, f"the LayerNorm of {what}")
    memory.kept.clear()


def run_filter(core: ModuleType, memory: Memory, sizes: tuple[int, ...], dtype: int) -> None:
    """Call the spectral filter once. Raises AssertionError if a part of the result was not written."""
    batch, channels, height, width, masks = sizes
    x = memory.normal(batch, channels, height, width, dtype=dtype)
    mask = memory.normal(masks, height, width // 2 + 1, 2)
    out = memory.place(bits(np.full((batch, channels, height, width), np.nan, np.float32), dtype))
    core.spectral_filter_cuda(sizes, dtype, x, mask, memory.address(out), 0)
    check(memory, out, dtype, f"spectral filter {sizes} in {NAMES[dtype]}")
    memory.kept.clear()


def run_mask(core: ModuleType, memory: Memory, sizes: tuple[int, ...]) -> None:
    """Call grid_to_mask once. Raises AssertionError if a pixel has no class of the model, as one not written."""
    batch, classes, grid_height, grid_width, height, width = sizes
    logits = memory.normal(batch, classes, grid_height, grid_width)
    mask = memory.place(np.full((batch, height, width), 255, np.uint8))
    core.grid_to_mask_cuda(sizes, logits, memory.address(mask), 0)
    known = memory.host(mask) < max(classes, 2)  # the copy waits for the kernel
    assert classes == 256 or known.all(), f"grid_to_mask {sizes}: {np.count_nonzero(~known)} pixels were not written"
    memory.kept.clear()


def check(memory: Memory, out: Any, dtype: int, what: str) -> None:
    written = np.isfinite(numbers(memory.host(out), dtype))  # the copy waits for the kernels
    assert written.all(), f"{what}: {np.count_nonzero(~written)} of {written.size} numbers were not written"


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: kernels_alone.py FILE_OF_THE_CORE cupy|numpy")
    path, library = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("_C", path)
    assert spec is not None and spec.loader is not None
    core = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(core)
    memory = Memory(library)
    calls = 0
    for dtype in (FLOAT32, BFLOAT16, FLOAT16):
        for sizes in ADAPTERS:
            for tf32 in (False, True) if dtype == FLOAT32 else (False,):
                run_adapter(core, memory, sizes, dtype, tf32)
                calls += 1
        for sizes in FILTERS:
            run_filter(core, memory, sizes, dtype)
            calls += 1
    for sizes in MASKS:
        run_mask(core, memory, sizes)
        calls += 1
    print(f"{calls} calls, all outputs written")


if __name__ == "__main__":
    main()
