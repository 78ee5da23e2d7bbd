"""Masks from logits on a grid as a torch operator, ``torch.ops.ht_kernels.grid_to_mask``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ht_kernels.backends import reference
from ht_kernels.backends.call import MaskCase

from . import dispatch

_library: Any = torch.library.Library("ht_kernels", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("grid_to_mask(Tensor logits, SymInt height, SymInt width, str backend) -> Tensor")


def grid_to_mask(logits: Tensor, size: tuple[int, int], asked: str | None) -> Tensor:
    """The classes (B, H, W) uint8 of ``logits`` (B, K, h, w) upsampled to ``size``, (H, W).

    The arguments are already checked. ``asked`` is the name of the backend that the caller asked for. Where the process
    asked for one, which is chosen for the adapters, and it cannot run this call, reference does.
    """
    case, logits = MaskCase(logits.device, logits.dtype), logits.detach()
    if asked is None:
        asked = dispatch.asked_for()
        why_not = None if asked is None else dispatch.reason(asked, case)
        if why_not is not None:
            dispatch.debug("%s: not used for masks: %s", asked, why_not)
            asked = "reference"
    if torch.compiler.is_compiling():
        return _classes(dispatch.choose(case, asked), logits, size)
    return dispatch.run(case, asked, lambda name: _classes(name, logits, size))


def _classes(name: str, logits: Tensor, size: tuple[int, int]) -> Tensor:
    if name == "reference":
        return reference.grid_to_mask(logits, size)
    mask: Tensor = torch.ops.ht_kernels.grid_to_mask.default(logits, *size, name)
    return mask


def _empty(logits: Tensor, height: int, width: int, backend: str) -> Tensor:
    return logits.new_empty((logits.shape[0], height, width), dtype=torch.uint8)


def _forward(logits: Tensor, height: int, width: int, backend: str) -> Tensor:
    mask = _empty(logits, height, width, backend)
    dispatch.BACKENDS[backend].grid_to_mask(logits, mask)
    return mask


for _device in ("CUDA", "CPU"):
    _library.impl("grid_to_mask", _forward, _device)
torch.library.register_fake("ht_kernels::grid_to_mask", _empty, lib=_library)
