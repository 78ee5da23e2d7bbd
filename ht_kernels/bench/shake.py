"""Random parameters for what is compared: a new adapter passes its input on almost unchanged, whatever it computes."""

from __future__ import annotations

import torch
from torch import nn

_STEP = 0.02


@torch.no_grad()
def shake(module: nn.Module) -> None:
    """Add to every parameter, in place, normal random numbers of standard deviation 0.02 from torch's generator."""
    for parameter in module.parameters():
        parameter.add_(_STEP * torch.randn_like(parameter))
