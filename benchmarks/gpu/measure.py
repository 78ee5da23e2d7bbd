"""Interleaved timing with CUDA events, plain and as CUDA graphs, and the ceilings of the GPU."""

from __future__ import annotations

import statistics
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
"""Inputs of large batches rotate through this much memory, more than any L2 holds."""
COPY = "copy of x"


def over(function: Callable[[Tensor], object], inputs: Collection[Tensor]) -> Call:
    """One call of ``function`` per input, without gradients.

    It returns all results, and whoever times it keeps them until the next results are there: so results go to memory
    that no store has just brought into L2, as in a model.
    """

    def call() -> list[object]:
        with torch.no_grad():
            return [function(x) for x in inputs]

    return call


def rotated(make: Callable[[], Tensor], device: torch.device) -> list[Tensor]:
    """As many inputs as fill ``ROTATED_BYTES``; one on the CPU."""
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
    """A row with the times of ``functions`` in turn.

    Args:
        what: is compared, in words.
        functions: by name; one that does not run is reported and left out.
        results: how many results a call makes; its time is divided by that.
        floor: a copy of the inputs, of the same size and in the same order: what memory alone costs.
        graphs: names of functions that are timed as CUDA graphs, too; the floor always is. Only on a GPU.
        facts: what else the row says.
    """
    calls: dict[str, Call] = {}
    failed = {}

    def add(name: str, make: Callable[[], Call]) -> None:
        try:
            calls[name] = make()
        except Exception as error:  # one implementation that does not run must not cost the others' figures
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
    """As few rounds as make a median in a dry run, where a call of an interpreted kernel takes a second."""
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
    """Time ``calls`` in turn, A B C A B C ...; seconds per result, on a GPU between two events around the call.

    Spends ``seconds`` on all of them and makes at least ``rounds``, after ``warm_up`` that do not count.
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
    timings = {}
    for name, values in samples.items():
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        timings[name] = Timing(median, lower, upper, len(values), results)
    return timings


def _timed(call: Call, device: torch.device) -> tuple[float, object]:
    """Seconds of a call, and its result."""
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
    """Seconds from the call to its result in host memory, ``frames`` times: what a scanner sees."""
    values = []
    for _ in range(frames):
        start = time.perf_counter()
        call().cpu()
        values.append(time.perf_counter() - start)
    return values


def graphed(call: Call) -> Call:
    """``call`` captured as one CUDA graph; its results stay where the graph writes them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):  # torch.cuda.graph alone leaves its stream the current one when a capture fails
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
    """What the GPU can do: bytes per second of a copy far larger than the caches, read plus written, and operations
    per second of large matrix products through torch, on random numbers."""
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
