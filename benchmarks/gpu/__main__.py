"""Build, check and time everything on the GPU at hand; see the package."""

from __future__ import annotations

import argparse
import datetime
import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

BUDGET = 500.0
"""Seconds for everything; what does not fit any more is left out and said so."""


def main() -> int:
    """Exit status 0, or 1 when something computed wrong or did not run, or 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for results.json and results.md")
    parser.add_argument("--skip-build", action="store_true", help="measure the compiled core that is there")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks.gpu needs an NVIDIA GPU, and torch sees none here", file=sys.stderr)
        return 2
    start = time.perf_counter()
    if args.skip_build:
        built: dict[str, Any] = {"built": False, "error": "not asked for"}
    else:
        from . import build

        say("building the CUDA kernels")
        built = build.build(timeout=200)
        say(f"  {built}")
    document = run(torch.device("cuda"), lambda: BUDGET - (time.perf_counter() - start), full=True)
    document["build"] = built
    from . import report

    report.write(document, args.output)
    print("\n".join(report.table(document)))
    say(f"{time.perf_counter() - start:.0f} s in all")
    wrong = [row for row in document["correctness"] if "error" in row and not (row["passed"] and row["same_bits"])]
    wrong += [row for row in document["timings"] if row.get("passed") is False]
    return 1 if wrong or document["errors"] else 0


def run(device: torch.device, left: Callable[[], float], full: bool, backbone: str | None = None) -> dict[str, Any]:
    """Everything but the build.

    Args:
        left: seconds left of the budget.
        full: all shapes and sizes; otherwise the smallest of each, for a test of this program.
        backbone: of the model, by default ViT-B/16.
    """
    import ht_kernels as ht

    from . import adapter, correctness, model, sanitize, spectral, timing

    cuda = device.type == "cuda"
    backends = [name for name in ht.available_backends() if name in ("cuda", "triton")]
    document: dict[str, Any] = {**facts(), "backends": backends, "correctness": [], "sanitizer": [], "timings": []}
    errors: dict[str, str] = {}
    document["errors"] = errors

    def section(name: str, seconds: float, work: Callable[[], None]) -> None:
        """Do ``work`` if ``seconds`` are left; what it raises is written down, and the rest goes on."""
        if left() < seconds:
            say(f"{name}: left out, {left():.0f} s are left")
            errors[name] = "no time left"
            return
        say(name)
        try:
            work()
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {str(error)[:500]}"
            say(f"  {errors[name]}")
        if cuda:
            torch.cuda.empty_cache()

    bandwidth = timing.copy_bandwidth(device)
    document["ceilings"] = {
        "copy_bytes_per_second": bandwidth,
        "bfloat16_operations_per_second": timing.matrix_rate(device, torch.bfloat16),
    }
    say(f"backends {backends}; copy {bandwidth / 1e9:.0f} GB/s")
    shapes = correctness.SHAPES if full else [("hybrid", 1, 32, 8, (2, 3), 1), ("hybrid+full", 1, 32, 8, (2, 3), 1)]
    section("correctness", 30, lambda: document["correctness"].extend(correctness.check(backends, device, shapes)))
    filters = spectral.SHAPES if full else [(1, 2, (2, 3))]
    for what, checks in (("", spectral.check), (", gradients", spectral.check_gradients)):
        check_filter = functools.partial(checks, backends, device, filters)
        section(f"spectral filter{what}", 20, lambda check=check_filter: document["correctness"].extend(check()))
    if cuda and "cuda" in backends:
        for tool in ("memcheck", "racecheck"):
            section(tool, 60, lambda tool=tool: document["sanitizer"].append(sanitize.sanitize(tool, 45)))

    def time_adapter(batch: int, dtype: torch.dtype) -> None:
        document["timings"].append(adapter.forward(batch, dtype, backends, device, bandwidth, 4.0 if full else 0.01))

    for batch, dtype in (
        ((1, torch.bfloat16), (32, torch.bfloat16), (64, torch.bfloat16), (1, torch.float16), (32, torch.float32))
        if full
        else ((1, torch.float32),)
    ):
        section(f"adapter forward B={batch} {dtype}", 40, lambda b=batch, d=dtype: time_adapter(b, d))

    def time_filter(shape: spectral.Shape, dtype: torch.dtype) -> None:
        seconds = 2.0 if full else 0.01
        document["timings"].append(spectral.forward(shape, dtype, backends, device, seconds))
        document["timings"].append(spectral.training(shape, dtype, device, seconds))

    for shape in spectral.TIMED if full else filters:
        for dtype in (torch.float32, torch.bfloat16) if full else (torch.float32,):
            section(f"spectral filter {shape} {dtype}", 20, lambda shape=shape, d=dtype: time_filter(shape, d))

    def train_adapter(batch: int) -> None:
        document["timings"].append(adapter.training(batch, torch.float32, device, 4.0 if full else 0.01))

    section("adapter training", 40, lambda: train_adapter(32 if full else 1))

    def time_model(batch: int, dtype: torch.dtype, autotune: bool) -> None:
        built = model.build(backbone or model.BACKBONE)
        document["timings"].append(model.run(built, batch, dtype, device, 5.0 if full else 0.01, autotune))

    low = torch.bfloat16 if cuda else torch.float32

    def time_latency() -> None:
        built = model.build(backbone or model.BACKBONE)
        document["latency"] = model.latency(built, low, device, 2000 if full else 5)

    section("latency", 40, time_latency)
    section("model B=1", 60, lambda: time_model(1, low, False))
    if full:
        section("model B=32", 60, lambda: time_model(32, low, False))
        section("model B=1, max-autotune", 150, lambda: time_model(1, low, True))
    return document


def facts() -> dict[str, Any]:
    """GPU, driver, versions, commit, date."""
    from ht_kernels import environment
    from ht_kernels.bench.report import commit

    gpu: dict[str, Any] = {"name": "no GPU"}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu = {
            "name": properties.name,
            "compute capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory": f"{properties.total_memory / 2**30:.0f} GiB",
            "driver": _driver(),
        }
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": os.environ.get("HT_KERNELS_COMMIT") or commit(),
        "gpu": gpu,
        "torch": torch.__version__,
        "triton": environment.version("triton"),
        "environment": environment.describe(),
    }


def _driver() -> str | None:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0].strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
