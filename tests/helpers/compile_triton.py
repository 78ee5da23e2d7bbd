"""Compile the Triton kernels for GPUs that need not be here, as launches there would.

``compile_triton.py 89:float32,base 90`` compiles one case for compute capability 8.9, and every case for 9.0. The
backend runs on tensors in host memory, and where it would launch a kernel, the kernel is compiled for just those
arguments. Of the tiles it takes the last one that suits, which needs most registers, or with ``--all`` every one.

Prints a line for each kernel: architecture, case, kernel, tile, bytes of shared memory, registers per thread, and bytes
of stack per thread, which is where registers are spilled to. At the end it says, on standard error, how much time of a
processor the compilers took: with ``--all`` and one case, what the first call of a model has to compile.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

import ht_kernels as ht
from ht_kernels.backends.call import Layout, Training
from ht_kernels.backends.triton import backend
from ht_kernels.backends.triton.tuning import Tuned
from ht_kernels.folding import FoldedAdapter, fold_adapter, on_grid

DTYPES = {  # of x, of the bottleneck, and whether TF32 is allowed
    "float32": (torch.float32, torch.float32, False),
    "tf32": (torch.float32, torch.float32, True),
    "float16": (torch.float16, torch.float16, False),
    "bfloat16": (torch.bfloat16, torch.bfloat16, False),
    "autocast": (torch.float32, torch.bfloat16, False),
}
SIZES = {  # dim, bottleneck, side of the grid
    "base": (768, 64, 14),
    "large": (1024, 128, 37),
}


class Gpu:
    """Stands in for Triton's driver: a GPU of some architecture, each a device of its own."""

    arch = 90

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0


class Recorder:
    """Compiles where kernels would be launched, and prints what came out, once for each."""

    def __init__(self, gpu: Gpu, every_tile: bool) -> None:
        self.gpu, self.every_tile, self.case, self.seen = gpu, every_tile, "", set[tuple[int, str]]()
        self.run, self.seconds = JITFunction.run, 0.0
        driver.set_active(gpu)
        triton.knobs.nvidia.dump_ptxas_log = True
        triton.knobs.compilation.disable_line_info = True  # it takes time and no register
        JITFunction.run = lambda kernel, *args, **kwargs: self.compile(kernel, *args, **kwargs)
        Tuned.run = lambda kernel, *args, **kwargs: self.tune(kernel, *args, **kwargs)

    def tune(self, kernel: Tuned, *args: Any, **kwargs: Any) -> None:
        kernel.nargs = dict(zip(kernel.arg_names, args, strict=False))
        for tile in kernel.prune_configs(kwargs)[0 if self.every_tile else -1 :]:
            kernel.fn.run(*args, **kwargs, **tile.all_kwargs())

    def compile(self, kernel: JITFunction, *args: Any, grid: object, warmup: bool, **kwargs: Any) -> None:
        before = processor_time()
        with redirect_stdout(io.StringIO()) as report:
            made = self.run(kernel, *args, grid=None, warmup=True, **kwargs)
        self.seconds += processor_time() - before
        if (self.gpu.arch, made.hash) in self.seen:
            return
        self.seen.add((self.gpu.arch, made.hash))
        names = ("ROWS", "COLUMNS", "SLICES", "DEPTH", "ALL_HEIGHT", "ALL_WIDTH", "num_warps")
        tile = ",".join(f"{name}={kwargs[name]}" for name in names if name in kwargs) or "-"
        print(self.gpu.arch, self.case, kernel.__name__, tile, made.metadata.shared, *registers(report.getvalue()))


def processor_time() -> float:
    """Seconds that this process and the compilers that it started have taken of processors."""
    return sum(os.times()[:4])


def registers(report: str) -> tuple[int, int]:
    """Registers per thread, and the bytes per thread that did not fit into them: the stack."""
    used, stack = re.search(r"Used (\d+) registers", report), re.search(r"(\d+) bytes stack frame", report)
    assert used and stack, report
    return int(used[1]), int(stack[1])


def adapter(dtype: str, size: str, form: str | None, training: bool) -> None:
    """Launch what one adapter launches: its forward, or with dropout its forward and backward."""
    (of_x, of_h, tf32), (dim, bottleneck, side) = DTYPES[dtype], SIZES[size]
    grid, prefix = (side, side), 1
    folded = fold_adapter(ht.HTAdapter(dim, bottleneck, "hybrid", form, grid=grid if form else None))
    folded = FoldedAdapter(*(None if t is None else t.detach() for t in (on_grid(folded, grid) if form else folded)))
    x, layout = torch.zeros(1, prefix + side * side, dim, dtype=of_x), Layout(*grid, prefix, 1e-5)
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    if not training:
        backend.infer(backend.prepare(folded, of_h, grid), x, layout, autocast=False)
        return
    prepared = backend.prepare_training(folded, of_h, grid)
    how = Training(None, torch.zeros(1, dtype=torch.int64), 0.1, of_h)
    out, *state = backend.forward(prepared, folded, x, layout, how)
    backend.backward(prepared, folded, out, x, layout, how, tuple(state), torch.empty_like(x))


def image_filter(dtype: str, side: int, forward: bool) -> None:
    """Launch the forward of the filter, or its backward, which filters by the conjugate mask."""
    x, mask = torch.zeros(1, 64, side, side, dtype=DTYPES[dtype][0]), torch.zeros(64, side, side // 2 + 1, 2)
    if forward:
        backend.spectral_filter(x, mask, torch.empty_like(x))
    else:
        backend.spectral_filter_backward(x, x, mask, torch.empty_like(x), torch.empty_like(mask))


def cases() -> dict[str, Callable[[], None]]:
    """Functions that launch, by name."""
    found: dict[str, Callable[[], None]] = {}
    for dtype, size in itertools.product(DTYPES, SIZES):
        found[f"{dtype},{size}"] = partial(adapter, dtype, size, None, training=False)
        found[f"{dtype},{size},training"] = partial(adapter, dtype, size, None, training=True)
        found[f"{dtype},{size},training,spectral"] = partial(adapter, dtype, size, "full", training=True)
    for dtype, side in itertools.product(("float32", "float16", "bfloat16"), (14, 24, 37, 64)):
        found[f"{dtype},{side}x{side}"] = partial(image_filter, dtype, side, forward=True)
        found[f"{dtype},{side}x{side},backward"] = partial(image_filter, dtype, side, forward=False)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every tile, which takes hours with every case")
    parser.add_argument("target", nargs="+", help="compute capability without its point, or that, a colon and a case")
    args = parser.parse_args()
    gpu = Gpu()
    recorder = Recorder(gpu, args.all)
    with tempfile.TemporaryDirectory() as triton.knobs.cache.dir:  # ptxas says nothing of what was compiled before
        for target in args.target:
            arch, _, chosen = target.partition(":")
            gpu.arch = int(arch)
            for recorder.case, launch in cases().items():
                if chosen in ("", recorder.case):
                    launch()
    print(f"{len(recorder.seen)} kernels, {recorder.seconds:.1f} s of a processor", file=sys.stderr)


if __name__ == "__main__":
    main()
