"""The whole model under torch.compile in its slowest and best mode: the published one and ours, and ours in FP8.

``GraphRunner(compiled=True)`` of :mod:`ht_kernels.deploy` replays ours in this mode, as a graph. Every item compiles
two models, which takes a minute or more each.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import torch

import ht_kernels as ht
from ht_kernels.deploy.float8 import why_not_float8
from ht_kernels.deploy.torch_compile import MODE

from . import model
from .baselines import compiled
from .setting import Item, Setting


def items(setting: Setting) -> Iterator[Item]:
    """Yield the models in both 16-bit dtypes, one frame first, and then ours in FP8, or why that does not run here."""
    assert setting.backend is not None
    ht.set_backend(setting.backend)
    for batch, dtype in itertools.product(model.batches(setting), (torch.float16, torch.bfloat16)):
        name = f"model, B={batch}, {str(dtype).removeprefix('torch.')}, {MODE}"
        yield name, partial(model.against_compiled, batch, dtype, compiled, MODE, setting)
    cause = why_not_float8(setting.device)
    if cause is not None:
        yield "model, FP8", lambda: [{"kind": "tool", "what": "model in FP8", "skipped": f"not run: {cause}"}]
        return
    for batch in model.batches(setting):
        yield f"model, B={batch}, FP8, {MODE}", partial(model.fp8_against_bfloat16, batch, compiled, MODE, setting)
