"""Adapters and inputs for tests of the adapter, and the measure of error that the design states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ht_kernels.published import VARIANTS, PublishedAdapter

DATA = Path(__file__).parents[1] / "golden"
GOLDEN = sorted(path.stem for path in DATA.glob("adapter_*.safetensors"))
"""Cases computed with the published code in float64: input, parameters, output and gradients."""


def read_golden(name: str) -> tuple[PublishedAdapter, tuple[int, int], int, dict[str, Tensor]]:
    """The adapter (float64), grid, prefix tokens and all tensors of a golden case."""
    with safe_open(DATA / f"{name}.safetensors", "pt") as file:
        info, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    adapter = VARIANTS[info["variant"]](int(info["dim"]), int(info["bottleneck"])).double().eval()
    adapter.load_state_dict({key[6:]: value for key, value in tensors.items() if key.startswith("param.")})
    height, width = info["grid"].split("x")
    return adapter, (int(height), int(width)), int(info["prefix_tokens"]), tensors


def random_adapter(variant: str, dim: int, bottleneck: int, seed: int = 0) -> PublishedAdapter:
    """A published adapter in float64 whose every term counts."""
    torch.manual_seed(seed)
    adapter = VARIANTS[variant](dim, bottleneck).double().eval()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return adapter


def random_tokens(batch: int, dim: int, grid: tuple[int, int], prefix: int) -> tuple[Tensor, Tensor]:
    """Tokens, and a gradient of the same shape."""
    torch.manual_seed(1)
    x = torch.randn(batch, prefix + grid[0] * grid[1], dim)
    return x, torch.randn_like(x)


def run_adapter(
    adapter: nn.Module,
    x: Tensor,
    grid: tuple[int, int],
    prefix: int,
    grad: Tensor,
    forward: Callable[..., Tensor] | None = None,
) -> dict[str, Tensor]:
    """``out - x`` and all gradients, on the CPU in float64. ``forward`` computes in the place of the adapter."""
    adapter.zero_grad()
    leaf = x.detach().requires_grad_()
    out = (forward or adapter)(leaf, grid, prefix)
    out.backward(grad.to(out.dtype))
    assert leaf.grad is not None
    found = {"out": out.detach().double() - x.double(), "x": leaf.grad}
    found |= {name: p.grad for name, p in adapter.named_parameters() if p.grad is not None}
    return {name: t.cpu().double() for name, t in found.items()}


def harness_adapter(dim: int, bottleneck: int) -> PublishedAdapter:
    """A published adapter as the GPU harness checks it: float32, a little away from where training starts."""
    torch.manual_seed(0)
    adapter = VARIANTS["hybrid"](dim, bottleneck).eval()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return adapter


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Relative L2 error."""
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).norm() / expected.norm().clamp_min(1e-30)) if expected.numel() else 0.0
