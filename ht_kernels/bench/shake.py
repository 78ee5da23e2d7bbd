"""Random parameters for comparisons. A new adapter changes its input so little that errors would not show."""

from __future__ import annotations

import torch
from torch import nn

_STEP = 0.02


@torch.no_grad()
def shake(module: nn.Module) -> None:
    """Add normal random numbers of standard deviation 0.02, from torch's generator, to every parameter in place."""
    for parameter in module.parameters():
        parameter.add_(_STEP * torch.randn_like(parameter))
