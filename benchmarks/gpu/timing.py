"""Interleaved timing with CUDA events, CUDA graphs of plain calls, and the ceilings of the GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ht_kernels.bench.measure import Timing

Call = Callable[[], object]

WARM_UP = 3
MIN_ROUNDS, MAX_ROUNDS = 5, 200


def runnable(functions: Mapping[str, Call], device: torch.device) -> tuple[dict[str, Call], dict[str, str]]:
    """The functions that run, on a GPU also ours as CUDA graphs, and why the others do not."""
    calls: dict[str, Call] = {}
    failed = {}
    for name, function in functions.items():
        try:
            function()
            calls[name] = function
            if device.type == "cuda" and name.startswith("ours"):
                calls[f"{name}, graph"] = graphed(function)
        except Exception as error:  # one implementation that does not run must not cost the others' figures
            failed[name] = f"{type(error).__name__}: {str(error)[:300]}"
    return calls, failed


def interleave(calls: Mapping[str, Call], repeats: Mapping[str, int], device: torch.device, seconds: float):
    """Time ``calls`` in turn, A B C A B C ...; seconds per call in a dict of :class:`Timing`.

    Args:
        calls: what to time, by name.
        repeats: how many results each call makes; its time is divided by that.
        device: where it runs. On a GPU the time is that between two events around the call.
        seconds: to spend on all of them; at least ``MIN_ROUNDS`` rounds are made.
    """
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for index in range(MAX_ROUNDS):
        if index >= MIN_ROUNDS and time.perf_counter() > end:
            break
        for name, call in calls.items():
            samples[name].append(_seconds(call, device) / repeats[name])
    timings = {}
    for name, values in samples.items():
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        timings[name] = Timing(median, lower, upper, len(values), repeats[name])
    return timings


def _seconds(call: Call, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def latencies(call: Callable[[], Tensor], frames: int) -> list[float]:
    """Seconds from the call to its result in host memory, ``frames`` times: what a scanner sees."""
    values = []
    for _ in range(frames):
        start = time.perf_counter()
        call().cpu()
        values.append(time.perf_counter() - start)
    return values


def graphed(call: Call) -> Call:
    """``call`` captured as one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        call()
    return graph.replay


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, read plus written, of a copy far larger than the caches."""
    source = torch.ones(2**30 if device.type == "cuda" else 2**22, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timing = interleave({"copy": lambda: target.copy_(source)}, {"copy": 1}, device, 1.0)["copy"]
    return 2 * source.nbytes / timing.median


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product through torch."""
    size = 8192 if device.type == "cuda" else 256
    a = torch.randn(size, size, device=device).to(dtype)
    timing = interleave({"product": lambda: a @ a}, {"product": 1}, device, 1.0)["product"]
    return 2 * size**3 / timing.median
