"""The time of each stage of an adapter call: by the compiled core's own clock on the CPU, by torch's profiler on a GPU.

On the CPU every thread measures its own stages (``ht_adapter_forward_stages_cpu`` in csrc/include/ht_kernels.h). A
stage of a call is the mean over the threads that ran, so the stages add up to the wall time of the call. Two rows are
no stages of the core: ``wait`` also has what threads wait at the end for the last one, and ``outside`` is what the call
takes besides, to start threads and in Python.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ht_kernels.backends import core, cpu
from ht_kernels.backends.call import Layout
from ht_kernels.folding import FoldedAdapter, on_grid

from .measure import uncounted

OUTSIDE = "outside"
PROFILED_CALLS = 50
GPU_STAGES = {
    "down_project": ("down",),
    "spectral_filter": ("filter",),
    "mix_and_up_project": ("noise", "mix", "up"),
}
"""The stages of :mod:`ht_kernels.bench.work` that a kernel of a forward pass on a GPU does."""


class StagedCall:
    """A call of the CPU kernels that keeps the seconds of its stages.

    Args:
        run: the call, given the address of float64 (threads, stages), to which the core adds seconds.
        threads: the number of threads that the call may use.
        kept: the tensors whose addresses the call has.

    Attributes:
        calls: for every call so far, the seconds of each stage by name.
    """

    def __init__(self, run: Callable[[int], None], threads: int, *kept: Tensor) -> None:
        self._run, self._threads, self._kept = run, threads, kept
        self.calls: list[dict[str, float]] = []

    def __call__(self) -> None:
        names = core.module.adapter_stages()
        seconds = torch.zeros(self._threads, len(names), dtype=torch.float64)
        start = time.perf_counter()
        self._run(seconds.data_ptr())
        took = time.perf_counter() - start
        self.calls.append(split(names, seconds.tolist(), took))

    def samples(self, count: int, calls: int) -> dict[str, list[float]]:
        """The means of the last ``count`` samples of ``calls`` calls each, for every stage that took any time."""
        made = uncounted(calls) + calls
        last = self.calls[-count * made :]
        samples = [last[end - calls : end] for end in range(made, len(last) + 1, made)]
        found = {name: [sum(call[name] for call in sample) / calls for sample in samples] for name in last[0]}
        return {name: values for name, values in found.items() if any(values)}


def split(names: Sequence[str], threads: Sequence[Sequence[float]], took: float) -> dict[str, float]:
    """The seconds of each stage of a call that took ``took``, from those of each thread. They add up to ``took``."""
    ran = [stages for stages in threads if any(stages)]
    totals = [sum(stages) for stages in ran]
    mean = {name: sum(stages[i] for stages in ran) / len(ran) for i, name in enumerate(names)}
    mean["wait"] += max(totals) - sum(totals) / len(totals)
    return {**mean, OUTSIDE: took - max(totals)}


def forward_call(x: Tensor, folded: FoldedAdapter, layout: Layout) -> tuple[StagedCall, Tensor]:
    """A forward pass without gradients on the CPU, and the tensor that its result goes to. ``x`` is contiguous."""
    prepared, out, threads = _prepare(x, folded, layout), torch.empty_like(x), torch.get_num_threads()
    call = (x.shape[0], *layout, x.dtype is torch.bfloat16, core.tokens(x), 0, core.tokens(out), 0, 0, threads)
    return StagedCall(lambda seconds: prepared.forward(*call, seconds), threads, x, out), out


def backward_call(
    x: Tensor, grad_out: Tensor, folded: FoldedAdapter, layout: Layout
) -> tuple[StagedCall, Tensor, FoldedAdapter]:
    """A backward pass on the CPU, and where its results go: the gradients of ``x`` and of the folded weights.

    ``x`` and ``grad_out`` are contiguous. The forward pass that the gradients belong to is run here.
    """
    folded = on_grid(folded, layout.grid)
    prepared, threads = _prepare(x, folded, layout), torch.get_num_threads()
    h, stats, _ = cpu.empty_state(x, folded, torch.float32)
    out, grad_x = torch.empty_like(x), torch.empty_like(x)
    grads = folded.map(lambda t: t.new_empty(t.shape, dtype=torch.float32))
    start = (x.shape[0], *layout, x.dtype is torch.bfloat16)
    state = h.data_ptr(), stats.data_ptr()
    prepared.forward(*start, core.tokens(x), 0, core.tokens(out), *state, threads)
    call = (*start, core.tokens(grad_out), core.tokens(x), 0, *state, core.tokens(grad_x), grads, threads)
    staged = StagedCall(lambda seconds: prepared.backward(*call, seconds), threads, x, grad_out, h, stats, grad_x)
    return staged, grad_x, grads


def gpu_kernels(call: Callable[[], object]) -> dict[str, list[float]]:
    """The seconds of each GPU kernel in each of ``PROFILED_CALLS`` calls, by the kernel's name."""
    from torch.profiler import ProfilerActivity, profile

    rows = []
    for _ in range(PROFILED_CALLS):
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            call()
            torch.cuda.synchronize()
        rows.append(by_kernel(profiler.events() or ()))
    return {name: [row.get(name, 0.0) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}


def by_kernel(events: Iterable[Any]) -> dict[str, float]:
    """The seconds that the events of a profile spent on a GPU, by the function's name without its template."""
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        if event.device_type.name == "CUDA":
            name = re.search(r"(\w+)\s*(?:[<(]|$)", event.name)
            seconds[name[1] if name else event.name] += event.time_range.elapsed_us() / 1e6
    return dict(seconds)


def _prepare(x: Tensor, folded: FoldedAdapter, layout: Layout) -> core.module.CpuAdapter:
    return cpu.prepare(on_grid(folded, layout.grid), x.dtype, layout.grid)
