"""The adapter at ViT-B/16 sizes: forward, and forward plus backward, against the published module."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

import ht_kernels as ht
from ht_kernels import published
from ht_kernels.bench.cases import BOTTLENECK, DIM, GRID, PREFIX, TOKENS
from ht_kernels.fold import cast_matrices, fold_adapter
from ht_kernels.functional import ht_adapter

from . import baseline
from .timing import Call, interleave, runnable

_ROTATED_BYTES = 160 * 2**20
"""Inputs of large batches rotate through this much memory, more than any L2 holds. A single frame's tokens do not: in
a model they come from the block before, through L2."""


def forward(
    batch: int, dtype: torch.dtype, backends: Collection[str], device: torch.device, bandwidth: float, seconds: float
) -> dict[str, Any]:
    """Seconds per call of each implementation, and the floor: x read once and out written once."""
    inputs = _inputs(batch, dtype, device)
    functions = {name: _over(function, inputs) for name, function in _functions(dtype, backends, device).items()}
    calls, failed = runnable(functions, device)
    timings = interleave(calls, dict.fromkeys(calls, len(inputs)), device, seconds)
    floor = 2 * batch * TOKENS * DIM * dtype.itemsize / bandwidth
    return _row("adapter forward", batch, dtype, timings, failed, floor)


def training(batch: int, dtype: torch.dtype, device: torch.device, seconds: float) -> dict[str, Any]:
    """Forward and backward; parameters in float32 under autocast, as one trains. Ours uses the backend it chooses."""
    torch.manual_seed(0)
    theirs = _adapter().to(device)
    ours = ht.HTAdapter(DIM, BOTTLENECK, "hybrid").to(device)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(batch, TOKENS, DIM, device=device, requires_grad=True)
    gradient = torch.randn_like(x)

    def step(module: Callable[..., Tensor], parameters: nn.Module) -> Call:
        def call() -> None:
            parameters.zero_grad(set_to_none=True)
            x.grad = None
            module(x, grid=GRID, prefix_tokens=PREFIX).backward(gradient)

        return call

    # Dropout is off so that all compute the same; the Fourier transform needs float32, so autocast is left out.
    theirs, ours = theirs.eval(), ours.eval()
    calls = {
        "published, eager": step(theirs, theirs),
        "published, compile": step(torch.compile(theirs, dynamic=False), theirs),
        "ours": step(ours, ours),
    }
    failed = {}
    for name in list(calls):
        try:
            calls[name]()
        except Exception as error:  # as in runnable
            failed[name] = f"{type(error).__name__}: {str(error)[:300]}"
            del calls[name]
    timings = interleave(calls, dict.fromkeys(calls, 1), device, seconds)
    return _row("adapter forward + backward", batch, dtype, timings, failed, None)


def _adapter() -> nn.Module:
    torch.manual_seed(0)
    adapter = published.HybridAdapter(DIM, BOTTLENECK).eval()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return adapter


def _functions(
    dtype: torch.dtype, backends: Collection[str], device: torch.device
) -> dict[str, Callable[[Tensor], Tensor]]:
    theirs = baseline.in_dtype(_adapter().to(device), dtype)
    folded = cast_matrices(fold_adapter(_adapter().to(device)), dtype)
    folded = type(folded)(*(t if t is None else t.detach() for t in folded))
    modules = {
        "published, eager": theirs,
        "published, compile": torch.compile(theirs, dynamic=False),
        "published, compile max-autotune": torch.compile(theirs, dynamic=False, mode="max-autotune"),
    }
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        name: lambda x, module=module: module(x, GRID, PREFIX) for name, module in modules.items()
    }
    for backend in backends:
        functions[f"ours, {backend}"] = lambda x, backend=backend: ht_adapter(x, folded, GRID, PREFIX, backend=backend)
    return functions


def _inputs(batch: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    size = batch * TOKENS * DIM * dtype.itemsize
    count = 4 if batch == 1 else max(1, -(-_ROTATED_BYTES // size)) if device.type == "cuda" else 1
    generator = torch.Generator(device).manual_seed(1)
    return [torch.randn(batch, TOKENS, DIM, device=device, generator=generator).to(dtype) for _ in range(count)]


def _over(function: Callable[[Tensor], Tensor], inputs: list[Tensor]) -> Call:
    def call() -> None:
        with torch.no_grad():
            for x in inputs:
                function(x)

    return call


def _row(
    what: str, batch: int, dtype: torch.dtype, timings: dict[str, Any], failed: dict[str, str], floor: float | None
) -> dict[str, Any]:
    return {
        "what": what,
        "batch": batch,
        "dtype": str(dtype).removeprefix("torch."),
        "timings": timings,
        "failed": failed,
        "floor": floor,
    }
