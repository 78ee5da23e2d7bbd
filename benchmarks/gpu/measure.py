"""Interleaved timing with CUDA events, of plain calls and CUDA graphs, and the measurement of the GPU's limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from ht_kernels.bench.measure import Timing

from .setting import Row, Setting

Call = Callable[[], object]

WARM_UP = 3
MAX_ROUNDS = 200
ROTATED_BYTES = 160 * 2**20
"""The bytes of memory through which the inputs of large batches rotate. This is more than any L2 cache holds."""
COPY = "copy of x"


def over(function: Callable[[Tensor], object], inputs: Collection[Tensor]) -> Call:
    """Return a call that applies ``function`` to each input, without gradients, and returns all results.

    The timing code keeps these results until it has the next ones. So the next results go to other memory, which is not
    already in L2, as in a model.
    """

    def call() -> list[object]:
        with torch.no_grad():
            return [function(x) for x in inputs]

    return call


def rotated(make: Callable[[], Tensor], device: torch.device) -> list[Tensor]:
    """Make as many inputs as fill ``ROTATED_BYTES``; on the CPU, make one."""
    first = make()
    count = -(-ROTATED_BYTES // first.nbytes) if device.type == "cuda" else 1
    return [first, *(make() for _ in range(count - 1))]


def compare(
    what: str,
    functions: Mapping[str, Call],
    results: int,
    setting: Setting,
    *,
    floor: Call | None = None,
    graphs: Collection[str] = (),
    **facts: object,
) -> Row:
    """Time ``functions`` in turn, and return a row with the times.

    Args:
        what: what is compared, in words.
        functions: the functions to time, by name. One that fails is reported and left out.
        results: the number of results that a call makes, by which its time is divided.
        floor: a call that only copies the same inputs in the same order. Its time is the cost of memory traffic.
        graphs: the names of functions to time as CUDA graphs too, on a GPU. The floor is always timed as a graph too.
        facts: further entries of the row.
    """
    calls: dict[str, Call] = {}
    failed = {}

    def add(name: str, make: Callable[[], Call]) -> None:
        try:
            calls[name] = make()
        except Exception as error:  # the other implementations are timed even if one does not run
            failed[name] = f"{type(error).__name__}: {str(error)[:300]}"

    for name, function in {**functions, **({COPY: floor} if floor else {})}.items():
        add(name, lambda function=function: _tried(function))
        if name in calls and setting.device.type == "cuda" and name in (*graphs, COPY):
            add(f"{name}, graph", lambda function=function: graphed(function))
    timings = _interleave_in(setting, calls, results)
    return {
        "kind": "timing",
        "what": what,
        **facts,
        "timings": {name: asdict(timing) for name, timing in timings.items()},
        "failed": failed,
    }


def _interleave_in(setting: Setting, calls: Mapping[str, Call], results: int) -> dict[str, Timing]:
    """Call :func:`interleave`; in a dry run with only two rounds, because an interpreted kernel takes a second."""
    if setting.dry:
        return interleave(calls, results, setting.device, setting.seconds, rounds=2, warm_up=0)
    return interleave(calls, results, setting.device, setting.seconds)


def _tried(call: Call) -> Call:
    call()
    return call


def interleave(
    calls: Mapping[str, Call],
    results: int,
    device: torch.device,
    seconds: float,
    rounds: int = 5,
    warm_up: int = WARM_UP,
) -> dict[str, Timing]:
    """Time ``calls`` in turn, A B C A B C ..., and return seconds per result. On a GPU, events around a call time it.

    After ``warm_up`` rounds that do not count, at least ``rounds`` rounds are made, and more until ``seconds`` have
    passed.
    """
    kept: dict[str, object] = {}
    for _ in range(warm_up):
        for name, call in calls.items():
            kept[name] = call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for index in range(MAX_ROUNDS):
        if index >= rounds and time.perf_counter() > end:
            break
        for name, call in calls.items():
            took, kept[name] = _timed(call, device)
            samples[name].append(took / results)
    return {name: Timing.of(values, results) for name, values in samples.items()}


def _timed(call: Call, device: torch.device) -> tuple[float, object]:
    """The seconds that a call took, and its result."""
    if device.type != "cuda":
        start = time.perf_counter()
        result = call()
        return time.perf_counter() - start, result
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    before.record()
    result = call()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / 1e3, result


def latencies(call: Callable[[], Tensor], frames: int) -> list[float]:
    """Measure ``frames`` times the seconds from a call to its result in host memory: the latency that a user sees."""
    values = []
    for _ in range(frames):
        start = time.perf_counter()
        call().cpu()
        values.append(time.perf_counter() - start)
    return values


def graphed(call: Call) -> Call:
    """Capture ``call`` as one CUDA graph, and return a call that replays it, each time into the same results."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):  # restores the current stream even if the capture fails
        for _ in range(WARM_UP):
            call()
        with torch.cuda.graph(graph, stream=stream):
            results = call()
    torch.cuda.current_stream().wait_stream(stream)

    def replay() -> object:
        graph.replay()
        return results

    return replay


def ceilings(setting: Setting) -> list[Row]:
    """Measure the limits of the GPU, and return them as a row.

    They are the bytes per second, read plus written, of a copy far larger than the caches, and the operations per
    second of large matrix products of random numbers in torch.
    """
    device, cuda = setting.device, setting.device.type == "cuda"
    source = torch.randint(0, 256, (2**30 if cuda else 2**20,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = interleave({"copy": lambda: target.copy_(source)}, 1, device, setting.seconds)["copy"]
    row: Row = {"kind": "ceilings", "copy_bytes_per_second": 2 * source.nbytes / copy.median}
    size = 8192 if cuda else 64
    for dtype in (torch.bfloat16, torch.float32):
        a = torch.randn(size, size, device=device).to(dtype)
        product = interleave({"product": lambda a=a: a @ a}, 1, device, setting.seconds)["product"]
        row[f"{str(dtype).removeprefix('torch.')}_operations_per_second"] = 2 * size**3 / product.median
    return [row]
