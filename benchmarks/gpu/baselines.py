"""The published code under torch.compile against ours: adapter and model, plain and as CUDA graphs.

This section comes last, because compiling takes longest. Each item starts with an empty compiler cache; otherwise
torch.compile would fall back to eager after a few shapes. If torch.compile still compiles a function a second time, the
item fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

import ht_kernels as ht

from . import adapter, model
from .setting import Item, Row, Setting

MODES = ("default", "max-autotune-no-cudagraphs")
"""The modes of torch.compile. Both are without CUDA graphs, because we capture all implementations in the same way."""


def items(setting: Setting) -> Iterator[Item]:
    """Yield all items with the default mode, and then all with max-autotune."""
    assert setting.backend is not None
    ht.set_backend(setting.backend)
    for mode in MODES:
        for batch in adapter.Sizes(setting.dry).batches:
            yield f"adapter, B={batch}, {mode}", lambda batch=batch, mode=mode: _adapter(batch, mode, setting)
        if mode == "default" or not setting.dry:
            for batch in model.batches(setting):
                name = f"model, B={batch}, {mode}"
                yield name, lambda batch=batch, mode=mode: model.against_compiled(batch, _compiled, mode, setting)


def _adapter(batch: int, mode: str, setting: Setting) -> list[Row]:
    sizes, dtype = adapter.Sizes(setting.dry), torch.bfloat16
    theirs, ours = adapter.pair(sizes, dtype, setting.device)
    inputs = adapter.tokens(sizes, batch, dtype, setting)
    what = f"adapter forward, B={batch}, bfloat16, beside {mode}"
    with _compiled(theirs, mode, setting) as compiled:
        return [adapter.compare(what, f"published, compile ({mode})", compiled, ours, sizes, inputs, setting)]


@contextmanager
def _compiled(module: nn.Module, mode: str, setting: Setting) -> Iterator[nn.Module]:
    """A context with ``module`` compiled for the shapes of its first call; other shapes raise.

    In a dry run the module is traced and no code is made, because that takes long and would not be the GPU's.
    """
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        if setting.dry:
            yield torch.compile(module, dynamic=False, backend="eager")
        else:
            yield torch.compile(module, dynamic=False, mode=mode)
