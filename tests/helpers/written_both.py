"""A CUDA backend that computes the adapter and its norm by the reference, on CPU tensors, at the addresses it gets."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import no_driver
from ht_kernels.backends import reference
from ht_kernels.backends.call import Layout
from ht_kernels.folding import FoldedAdapter


def at(address: int, *shape: int) -> Tensor:
    """float32 numbers in memory."""
    memory = (ctypes.c_float * torch.Size(shape).numel()).from_address(address)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)


def tokens_at(where: tuple[int, int, int], batch: int, tokens: int, dim: int) -> Tensor:
    """The tokens (B, N, D) float32 of an address, a distance of images and one of tokens."""
    address, batch_stride, token_stride = where
    whole = at(address, (batch - 1) * batch_stride + (tokens - 1) * token_stride + dim)
    return whole.as_strided((batch, tokens, dim), (batch_stride, token_stride, 1))


def install(monkeypatch: pytest.MonkeyPatch, seen: Callable[[bool], None] = lambda asked: None) -> None:
    """Replace the backend ``cuda`` until the test ends. ``seen`` is told whether each launch was asked for the norm."""

    def launch(weights: FoldedAdapter, batch: int, height: int, width: int, prefix: int, eps: float, *rest: object):
        _, _, x, out, normed, norm_eps, _, _ = rest
        layout, dim = Layout(height, width, prefix, eps), weights.up_bias.shape[0]
        tokens = prefix + height * width
        result = tokens_at(out, batch, tokens, dim)
        with torch.no_grad():
            made = reference.prepare(weights, torch.float32, (height, width))
            result.copy_(reference.infer(made, tokens_at(x, batch, tokens, dim), layout, False))
            if normed[0]:
                tokens_at(normed, batch, tokens, dim).copy_(F.layer_norm(result, (dim,), eps=norm_eps))
        seen(bool(normed[0]))

    no_driver.replace(monkeypatch, launch)
