"""Timings of one backend, plain and as CUDA graphs, against the published code in eager mode.

:mod:`benchmarks.gpu.baselines` times the published code under torch.compile, because compiling takes long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import ht_kernels as ht

from . import adapter, measure, model, spectral
from .setting import Item, Row, Setting


def items(setting: Setting) -> Iterator[Item]:
    """Yield the GPU's limits, adapters and spectral filters; then training for Triton, or the whole model for CUDA."""
    assert setting.backend is not None
    ht.set_backend(setting.backend)  # a backend set by name never falls back to another one
    yield "ceilings", lambda: measure.ceilings(setting)
    low, wide = (torch.bfloat16, torch.float32)
    sizes = adapter.Sizes(setting.dry)
    for batch in sizes.batches:
        yield f"adapter, B={batch}, bfloat16", lambda batch=batch: _adapter(batch, low, setting)
    if not setting.dry:
        yield "adapter, B=1, float16", lambda: _adapter(1, torch.float16, setting)
        yield "adapter, B=32, float32", lambda: _adapter(32, wide, setting)
    for shape in spectral.timed(setting):
        for dtype in (low,) if setting.dry else (low, wide):
            name = f"spectral filter, {spectral.words(shape)}, {_name(dtype)}"
            yield name, lambda shape=shape, dtype=dtype: spectral.forward(shape, dtype, setting)
    if setting.backend == "triton":
        batch = sizes.batches[-1] if setting.dry else 32
        yield f"adapter forward + backward, B={batch}", lambda: _training(batch, setting)
        shape = spectral.timed(setting)[0]
        yield "spectral filter forward + backward", lambda: spectral.training(shape, wide, setting)
    else:
        for batch in model.batches(setting):
            yield f"model, B={batch}", lambda batch=batch: model.against_eager(batch, setting)
        yield "latency of one frame", lambda: model.latency(setting)


def _adapter(batch: int, dtype: torch.dtype, setting: Setting) -> list[Row]:
    sizes = adapter.Sizes(setting.dry)
    theirs, ours = adapter.pair(sizes, dtype, setting.device)
    inputs = adapter.tokens(sizes, batch, dtype, setting)
    what = f"adapter forward, B={batch}, {_name(dtype)}"
    return [adapter.compare(what, "published, eager", theirs, ours, sizes, inputs, setting)]


def _training(batch: int, setting: Setting) -> list[Row]:
    """Time forward and backward in float32, which the published Fourier transform needs.

    Dropout is off, so that both implementations compute the same.
    """
    sizes = adapter.Sizes(setting.dry)
    theirs, ours = adapter.pair(sizes, torch.float32, setting.device)
    x = adapter.tokens(sizes, batch, torch.float32, setting)[0].requires_grad_()
    gradient = torch.randn_like(x)

    def step(module: torch.nn.Module) -> Callable[[], Tensor | None]:
        def call() -> Tensor | None:
            module.zero_grad(set_to_none=True)
            x.grad = None
            module(x, grid=sizes.grid, prefix_tokens=sizes.prefix).backward(gradient)
            return x.grad

        return call

    functions = {"published, eager": step(theirs), "ours": step(ours)}
    name = f"adapter forward + backward, B={batch}, float32"
    return [measure.compare(name, functions, 1, setting, backend=setting.backend)]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
