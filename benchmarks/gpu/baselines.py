"""The published code under torch.compile beside ours: adapter and model, plain and as CUDA graphs.

Compiling takes longest, and so this comes last. Each item starts from an empty compiler: what torch.compile keeps of
earlier shapes would make it fall back to eager after a few. Should it compile a function a second time all the same,
that is an error and not a time.
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
"""Of torch.compile. Graphs are captured by us, for all alike."""


def items(setting: Setting) -> Iterator[Item]:
    """The default mode of everything first, then the mode that searches."""
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
    with _compiled(theirs, mode) as compiled:
        return [adapter.compare(what, f"published, compile ({mode})", compiled, ours, sizes, inputs, setting)]


@contextmanager
def _compiled(module: nn.Module, mode: str) -> Iterator[nn.Module]:
    """``module`` compiled for the shapes it meets first, and for no others."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield torch.compile(module, dynamic=False, mode=mode)
