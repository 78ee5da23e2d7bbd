"""What a GPU says of a call whose time is predicted: seconds, and by ncu the instructions that were executed.

``python -m benchmarks.gpu.measured BATCH HEIGHT WIDTH DIM BOTTLENECK DTYPE`` makes the call once, for ncu to watch.
"""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import Tensor

import ht_kernels as ht

from . import measure
from .launches import Call

METRIC = "smsp__inst_executed.sum"


def prepared(call: Call) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    """An adapter on the GPU by the CUDA kernels, and inputs that together fill more than L2."""
    device, dtype = torch.device("cuda"), getattr(torch, call.dtype)
    ht.set_backend("cuda")
    module = ht.HTAdapter(call.dim, call.channels, "hybrid").eval().to(device, dtype)
    shape = (call.batch, call.tokens, call.dim)
    inputs = measure.rotated(lambda: torch.randn(shape, device=device, dtype=dtype), device)
    return lambda x: module(x, (call.height, call.width), call.prefix), inputs


def seconds(call: Call) -> float:
    """The median of an adapter's time in a CUDA graph."""
    function, inputs = prepared(call)
    graph = measure.graphed(measure.over(function, inputs))
    timings = measure.interleave({"graph": graph}, len(inputs), torch.device("cuda"), 1.5)
    return timings["graph"].median


def instructions(call: Call) -> dict[str, float]:
    """Executed instructions of all warps by kernel; none where ncu is not installed.

    Raises:
        RuntimeError: ncu fails, as where counters are for administrators alone.
    """
    program = shutil.which("ncu")
    if program is None:
        return {}
    sizes = [str(size) for size in (call.batch, call.height, call.width, call.dim, call.channels, call.dtype)]
    command = [program, "--csv", "--metrics", METRIC, sys.executable, "-m", "benchmarks.gpu.measured", *sizes]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ncu failed: {(done.stderr or done.stdout).strip()[-900:]}")
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    found = {}
    for row in csv.DictReader(lines):
        name = re.search(r"\b(down_project|mix_and_up_project)\b", row["Kernel Name"])
        if name and row["Metric Name"] == METRIC:
            found[name[1]] = float(row["Metric Value"].replace(",", ""))
    return found


if __name__ == "__main__":
    if len(sys.argv) != 7:
        sys.exit(__doc__)
    batch, height, width, dim, channels = map(int, sys.argv[1:6])
    run, tokens = prepared(Call(batch, sys.argv[6], height, width, dim=dim, channels=channels))
    with torch.no_grad():
        run(tokens[0])
    torch.cuda.synchronize()
