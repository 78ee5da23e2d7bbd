"""The published code under torch.compile against ours: adapter and model, plain and as CUDA graphs.

Our model is timed under torch.compile too. :mod:`benchmarks.gpu.compiled_models` has both models in the mode that takes
longest.

This section comes late, because compiling takes long. Each item starts with an empty compiler cache; otherwise
torch.compile would fall back to eager after a few shapes. If torch.compile still compiles a function a second time, the
item fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

import ht_kernels as ht

from . import adapter, model
from .setting import Item, Row, Setting

MODES = ("default", "max-autotune-no-cudagraphs")
"""The modes of torch.compile. Both are without CUDA graphs, because we capture all implementations in the same way."""


def items(setting: Setting) -> Iterator[Item]:
    """Yield adapters and models with the default mode, and then adapters with max-autotune."""
    assert setting.backend is not None
    ht.set_backend(setting.backend)
    for mode in MODES:
        for batch in adapter.Sizes(setting.dry).batches:
            yield f"adapter, B={batch}, {mode}", lambda batch=batch, mode=mode: _adapter(batch, mode, setting)
        if mode == "default":
            for batch in model.batches(setting):
                call = partial(model.against_compiled, batch, model.DTYPE, compiled, mode, setting)
                yield f"model, B={batch}, {mode}", call


def _adapter(batch: int, mode: str, setting: Setting) -> list[Row]:
    sizes, dtype = adapter.Sizes(setting.dry), torch.bfloat16
    theirs, ours = adapter.pair(sizes, dtype, setting.device)
    inputs = adapter.tokens(sizes, batch, dtype, setting)
    what = f"adapter forward, B={batch}, bfloat16, beside {mode}"
    with compiled(theirs, mode, setting) as module:
        return [adapter.compare(what, f"published, compile ({mode})", module, ours, sizes, inputs, setting)]


@contextmanager
def compiled(module: nn.Module, mode: str, setting: Setting) -> Iterator[nn.Module]:
    """A context with ``module`` compiled for the shapes of its first call; other shapes raise.

    In a dry run the module is traced and no code is made, because that takes long and would not be the GPU's.
    """
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        if setting.dry:
            yield torch.compile(module, dynamic=False, backend="eager")
        else:
            yield torch.compile(module, dynamic=False, mode=mode)
