"""The end of a contrastive tower: final norm, pooling and projection, folded into one norm and one matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ht_kernels.clip.htclip import HTCLIP
from ht_kernels.clip.towers import ClipTower
from ht_kernels.errors import InputError
from ht_kernels.folding import at_least_float32


class Pooled(nn.Module):
    """Turns the tokens (B, N, D) after the last block into embeddings (B, E) of unit length, in float32 or float64.

    Pooling takes the class token or the mean of the patches. Both are means, and the projection is linear, so the
    weight and bias of the norm can be folded into the projection, whether the norm comes before or after pooling.

    Args:
        model: a contrastive HTCLIP.

    Raises:
        InputError: the tower pools in another way, or a layer after pooling is not linear.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, model: HTCLIP) -> None:
        super().__init__()
        parts = _read(model)
        norms = [norm for norm in (parts.before, parts.after) if not isinstance(norm, nn.Identity)]
        plain = len(norms) == 1 and isinstance(norms[0], nn.LayerNorm) and norms[0].bias is not None
        if not plain or parts.pool not in ("token", "mean") or not all(isinstance(m, nn.Linear) for m in parts.maps):
            raise InputError(
                "the end of the tower cannot be folded: expected one LayerNorm, pooling by class token or by the mean "
                f"of the patches, and Linear, got {type(parts.before).__name__}, pooling {parts.pool!r}, "
                f"{', '.join(type(m).__name__ for m in (parts.after, *parts.maps))}"
            )
        norm: Any = norms[0]
        self.eps = float(norm.eps)
        self.norm_first = norm is parts.before
        self.tokens = slice(0, 1) if parts.pool == "token" else slice(model.tower.prefix_tokens, None)
        weight, bias = at_least_float32(norm.weight).diag(), at_least_float32(norm.bias)
        for linear in parts.maps:
            weight, bias = at_least_float32(linear.weight) @ weight, at_least_float32(linear.weight) @ bias
            if linear.bias is not None:
                bias = bias + at_least_float32(linear.bias)
        self.register_buffer("weight", weight.clone())
        self.register_buffer("bias", bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, self.tokens].to(self.weight.dtype)
        if not self.norm_first:
            x = x.mean(1, keepdim=True)
        pooled = F.layer_norm(x, x.shape[-1:], eps=self.eps).mean(1)
        return F.normalize(F.linear(pooled, self.weight, self.bias), dim=-1)


class _Parts(NamedTuple):
    """The norms before and after pooling, one of which is an identity, the kind of pooling, and the layers after it."""

    before: Any
    pool: str
    after: Any
    maps: list[Any]


def _read(model: HTCLIP) -> _Parts:
    visual: Any = model.tower.visual
    if isinstance(model.tower, ClipTower):
        kind = getattr(visual, "pool_type", "tok") if getattr(visual, "attn_pool", None) is None else "attention"
        norms = visual.ln_post, nn.Identity()
        before, after = norms[::-1] if getattr(visual, "final_ln_after_pool", False) else norms
        return _Parts(before, {"tok": "token", "avg": "mean"}.get(kind, kind), after, _projection(visual.proj))
    whole: Any = model.clip_model.visual
    behind = [visual.head] if whole is visual else [visual.head, *whole.head]
    maps = [m for m in behind if not isinstance(m, nn.Identity | nn.Dropout)]
    kind = visual.global_pool if getattr(visual, "attn_pool", None) is None else "attention"
    return _Parts(visual.norm, "mean" if kind == "avg" else kind, visual.fc_norm, maps)


def _projection(matrix: Tensor | None) -> list[nn.Linear]:
    """A list with the Linear that computes ``x @ matrix``; empty if ``matrix`` is None."""
    if matrix is None:
        return []
    width, embedding = matrix.shape
    linear = nn.Linear(width, embedding, bias=False, device="meta")
    linear.weight = nn.Parameter(matrix.detach().t(), requires_grad=False)
    return [linear]
