"""The whole model under torch.compile in its slowest and best mode: the published one and ours.

``GraphRunner(compiled=True)`` of :mod:`ht_kernels.deploy` replays ours in this mode, as a graph. Every item compiles
two models, which takes a minute or more each.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import torch

import ht_kernels as ht
from ht_kernels.deploy.torch_compile import MODE

from . import model
from .baselines import compiled
from .setting import Item, Setting


def items(setting: Setting) -> Iterator[Item]:
    """Yield the models in both 16-bit dtypes, one frame first."""
    assert setting.backend is not None
    ht.set_backend(setting.backend)
    for batch, dtype in itertools.product(model.batches(setting), (torch.float16, torch.bfloat16)):
        name = f"model, B={batch}, {str(dtype).removeprefix('torch.')}, {MODE}"
        yield name, partial(model.against_compiled, batch, dtype, compiled, MODE, setting)
