"""One adapter on one backend, forward and backward and by stage, beside what the machine can do in the same run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import ht_kernels as ht
from ht_kernels.backends.call import Layout
from ht_kernels.folding import FoldedAdapter
from ht_kernels.functional import ht_adapter
from ht_kernels.ops.dispatch import choices, set_backend

from . import stages, work
from .document import facts
from .measure import Call, Timing, copy_call, interleave, product_call
from .setting import DTYPES, Setting
from .shake import shake
from .text import aligned, milliseconds
from .work import Work

EPS = 1e-5
ALL = "all"
"""The name of the row of all stages together, of the calls in which they were measured."""
Row = dict[str, Any]


class Peaks(NamedTuple):
    """What the machine does in a second: operations of a matrix product, and bytes that a copy reads plus writes."""

    operations: float
    bytes: float


def run(setting: Setting, seconds: float, by_stage: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure, and return the document that docs/benchmarks.md describes.

    Args:
        setting: what is timed.
        seconds: the time to spend on all calls together, which take turns.
        by_stage: whether stages are timed, too.
        say: receives a line for what is left out.

    A large matrix product and a copy take turns with the adapter; their fastest samples are the peaks that shares are
    of. The product is of float32 numbers on the CPU, where the kernels compute in float32 except for products of
    bfloat16 with AVX512-BF16, and of the tokens' dtype on a GPU.
    """
    device = setting.device()
    dtype = DTYPES[setting.dtype] if device.type == "cuda" else torch.float32
    with _chosen(setting):
        x, grad_out, folded = _inputs(setting, device)
        (product, operations), (copy, copied) = product_call(dtype, device), copy_call(device)
        calls: dict[str, Call] = {"product": product, "copy": copy, "forward": _forward(setting, x, folded)}
        staged: dict[str, stages.StagedCall] = {}
        left_out: dict[str, str] = {}
        reason = setting.why_no_backward()
        if reason is None:
            calls["forward + backward"] = _step(setting, x, grad_out, folded)
        else:
            left_out["forward + backward"] = reason
        if by_stage and setting.backend == "cpu":
            layout = Layout(*setting.grid, setting.prefix_tokens, EPS)
            staged["forward"] = stages.forward_call(x, folded, layout)[0]
            staged["backward"] = stages.backward_call(x, grad_out, folded, layout)[0]
        elif by_stage and device.type == "cpu":
            left_out["stages"] = f"the backend {setting.backend} has no stages on the CPU"
        for name, reason in left_out.items():
            say(f"without {name}: {reason}")
        timings = interleave({**calls, **{f"{name}, stages": call for name, call in staged.items()}}, seconds, device)
        kernels = stages.gpu_kernels(calls["forward"]) if by_stage and device.type == "cuda" else {}
    peaks = Peaks(operations / min(timings["product"].each), copied / min(timings["copy"].each))
    sizes = _sizes(setting, folded, device)
    works = {
        "product": Work(operations, 0),
        "copy": Work(0, copied),
        "forward": work.forward(sizes),
        "forward + backward": work.step(sizes),
    }
    return {
        "form": "adapter",
        **facts(),
        "unit": "seconds per call",
        "command": setting.command(f"--seconds {seconds:g}{' --stages' if by_stage else ''}"),
        "shape": setting.describe(),
        "backend": setting.backend,
        "device": str(device),
        "threads": setting.threads,
        "limits": {
            "product_dtype": str(dtype).removeprefix("torch."),
            "product_operations_per_second": peaks.operations,
            "copy_bytes_per_second": peaks.bytes,
        },
        "left_out": left_out,
        "rows": [
            *(_row(name, None, timings[name], works[name], peaks) for name in calls),
            *(row for name in staged for row in _stages(name, staged[name], timings[f"{name}, stages"], sizes, peaks)),
            *(_kernel(name, values, sizes, peaks) for name, values in kernels.items()),
        ],
    }


def table(document: dict[str, Any]) -> list[str]:
    """The rows as aligned lines of text, and how much of a pass the stages of it add up to."""
    header = ["", "p10", "p50", "p90", "GFLOP/s", "of peak", "GB/s", "of copy"]
    lines = [header]
    for row in document["rows"]:
        cells = [label(row), *(milliseconds(row[p]) for p in ("p10", "p50", "p90"))]
        for amount, share in (("operations", "share_of_product_peak"), ("bytes", "share_of_copy_bandwidth")):
            known = row[share] is not None
            cells += [f"{row[amount] / row['p50'] / 1e9:.1f}", f"{100 * row[share]:.0f} %"] if known else ["-", "-"]
        lines.append(cells)
    return [*aligned(lines), *_sums(document["rows"])]


def _sums(rows: list[Row]) -> Iterator[str]:
    """A line for each pass with stages: the share of its measured calls that the core's stages add up to."""
    for whole in (row for row in rows if row["stage"] == ALL):
        outside = next(row for row in rows if row["call"] == whole["call"] and row["stage"] == stages.OUTSIDE)
        share = 1 - sum(outside["each"]) / sum(whole["each"])
        yield f"{whole['call']}: the stages, waits included, add up to {100 * share:.1f} % of the measured calls"


def label(row: Row) -> str:
    """A row's name: the call, and the stage if it is of one."""
    name: str = row["call"] if row["stage"] is None else f"{row['call']}: {row['stage']}"
    return name


def _stages(name: str, call: stages.StagedCall, timing: Timing, sizes: work.Sizes, peaks: Peaks) -> Iterator[Row]:
    """The row of all stages of a pass together, and the row of each; ``timing`` says how many calls a sample has."""
    whole, parts = {
        "forward": (work.forward, work.forward_stages),
        "backward": (work.backward, work.backward_stages),
    }[name]
    samples, works = call.samples(timing.samples, timing.calls), parts(sizes)
    together = [sum(each) for each in zip(*samples.values(), strict=True)]
    yield _row(name, ALL, Timing.of(together, timing.calls), whole(sizes), peaks)
    for stage, values in samples.items():
        yield _row(name, stage, Timing.of(values, timing.calls), works.get(stage), peaks)


def _kernel(name: str, values: list[float], sizes: work.Sizes, peaks: Peaks) -> Row:
    """The row of a kernel of a forward pass on a GPU, with the work of the stages that it does."""
    works = work.forward_stages(sizes)
    parts = [works[stage] for stage in stages.GPU_STAGES.get(name, ()) if stage in works]
    done = Work(sum(part.operations for part in parts), sum(part.bytes for part in parts)) if parts else None
    return _row("forward", name, Timing.of(values, 1), done, peaks)


def _row(call: str, stage: str | None, timing: Timing, done: Work | None, peaks: Peaks) -> Row:
    p10, p50, p90 = (float(p) for p in np.percentile(timing.each, (10, 50, 90)))
    operations, moved = (None, None) if done is None else (done.operations or None, done.bytes or None)
    return {
        "call": call,
        "stage": stage,
        "p10": p10,
        "p50": p50,
        "p90": p90,
        "operations": operations,
        "bytes": moved,
        "share_of_product_peak": operations / p50 / peaks.operations if operations and p50 else None,
        "share_of_copy_bandwidth": moved / p50 / peaks.bytes if moved and p50 else None,
        "calls": timing.calls,
        "each": list(timing.each),
    }


@contextmanager
def _chosen(setting: Setting) -> Iterator[None]:
    """Make every call use the setting's backend and threads, and undo it at the end."""
    threads, asked = torch.get_num_threads(), choices.asked
    torch.set_num_threads(setting.threads)
    set_backend(setting.backend)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        set_backend(asked)


def _inputs(setting: Setting, device: torch.device) -> tuple[Tensor, Tensor, FoldedAdapter]:
    """Tokens, a gradient of the result and folded weights, all random and the same in every run."""
    batch, tokens, dim, bottleneck = setting.shape
    torch.manual_seed(0)
    adapter = ht.HTAdapter(dim, bottleneck, setting.variant, setting.spectral, dropout=0.0, grid=setting.grid)
    shake(adapter)
    x, grad_out = (torch.randn(batch, tokens, dim).to(device, DTYPES[setting.dtype]) for _ in range(2))
    with torch.no_grad():
        folded = adapter.to(device).eval().folded()
        return x, grad_out, folded.map(Tensor.clone)


def _forward(setting: Setting, x: Tensor, folded: FoldedAdapter) -> Call:
    def call() -> Tensor:
        with torch.no_grad():
            return ht_adapter(x, folded, setting.grid, setting.prefix_tokens, eps=EPS)

    return call


def _step(setting: Setting, x: Tensor, grad_out: Tensor, folded: FoldedAdapter) -> Call:
    """Forward and backward, to the gradients of x and of the folded weights, which is what the kernels compute."""
    leaf, weights = x.detach().clone().requires_grad_(), folded.map(lambda t: t.detach().clone().requires_grad_())
    inputs = [leaf, *(weight for weight in weights if weight is not None)]

    def call() -> tuple[Tensor, ...]:
        out = ht_adapter(leaf, weights, setting.grid, setting.prefix_tokens, eps=EPS)
        return torch.autograd.grad(out, inputs, grad_out)

    return call


def _sizes(setting: Setting, folded: FoldedAdapter, device: torch.device) -> work.Sizes:
    hidden = 0 if folded.hidden_weight is None else folded.hidden_weight.shape[0]
    itemsize = DTYPES[setting.dtype].itemsize
    return work.Sizes(
        *setting.shape,
        grid=setting.grid,
        hidden=hidden,
        scales=folded.scale_kernels.shape[0],
        spectral=folded.mask is not None,
        itemsize=itemsize,
        h_itemsize=itemsize if device.type == "cuda" else torch.float32.itemsize,
    )
