"""The whole segmentation model on ViT-B/16: a uint8 frame in, a mask out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ht_kernels as ht
from ht_kernels.deploy import FoldedHTCLIP
from ht_kernels.published import PublishedHTCLIP

from . import baseline
from .timing import Call, graphed, interleave, latencies

BACKBONE = "timm/vit_base_patch16_224"
AGREEMENT = 0.98
"""Smallest share of pixels on which a 16-bit mask agrees with that of the published model in float32."""


def build(backbone: str = BACKBONE) -> ht.HTCLIP:
    """A hybrid model whose adapters do something: their parameters are moved away from where training starts."""
    torch.manual_seed(0)
    model = ht.HTCLIP(backbone=backbone, task="segmentation", num_classes=2, variant="hybrid").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".mona." in name:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def run(
    model: ht.HTCLIP, batch: int, dtype: torch.dtype, device: torch.device, seconds: float, autotune: bool
) -> dict[str, Any]:
    """Seconds per call of each implementation, and how well the masks agree with published float32.

    ``tower`` is the frozen tower alone, all blocks; ``read blocks`` is the tower up to the last block that a head
    reads, without adapters and heads: what the model costs more than that is the cost of Hybrid-tuning.
    """
    torch.manual_seed(1)
    frames = torch.randint(0, 256, (batch, 1, *model.tower.image_size), dtype=torch.uint8, device=device)
    theirs = PublishedHTCLIP.like(model).to(device)
    expected = _classes(_published(theirs, torch.float32)(frames))
    low = baseline.in_dtype(theirs, dtype)
    folded = ht.fold(model, None if dtype == torch.float32 else dtype).to(device)
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "published, eager": _published(low, dtype),
        "published, compile": _published(torch.compile(low, dynamic=False), dtype),
        "ours": lambda frames: folded.classes(folded(frames)),
        "tower": _tower(copy.deepcopy(low.tower), dtype),
        "read blocks": _backbone_alone(folded),
    }
    if autotune:
        torch.compiler.reset()
        functions["published, compile max-autotune"] = _published(
            torch.compile(low, dynamic=False, mode="max-autotune"), dtype
        )
    calls: dict[str, Call] = {}
    failed, agreement = {}, {}
    for name, function in functions.items():
        call = _without_gradients(function, frames)
        try:
            mask = call()
            if name not in ("tower", "read blocks"):
                agreement[name] = float((mask == expected).float().mean())
            calls[name] = call
            if device.type == "cuda" and name in ("ours", "tower", "read blocks"):
                calls[f"{name}, graph"] = graphed(call)
        except Exception as error:  # one implementation that does not run must not cost the others' figures
            failed[name] = f"{type(error).__name__}: {str(error)[:300]}"
    timings = interleave(calls, dict.fromkeys(calls, 1), device, seconds)
    return {
        "what": "segmentation model",
        "batch": batch,
        "dtype": str(dtype).removeprefix("torch."),
        "timings": timings,
        "failed": failed,
        "floor": None,
        "agreement": agreement,
        "passed": all(share >= AGREEMENT for name, share in agreement.items() if name.startswith("ours")),
    }


def latency(model: ht.HTCLIP, dtype: torch.dtype, device: torch.device, frames: int) -> dict[str, float]:
    """Milliseconds from a frame in host memory to its mask there, one frame at a time."""
    folded = ht.fold(model, None if dtype == torch.float32 else dtype).to(device)
    torch.manual_seed(2)
    frame = torch.randint(0, 256, (1, 1, *model.tower.image_size), dtype=torch.uint8)
    if device.type == "cuda":
        runner: Callable[[Tensor], Tensor] = ht.deploy.GraphRunner(folded, masks=True)
    else:
        runner = _without_gradients(lambda frame: folded.classes(folded(frame)))
    latencies(lambda: runner(frame), 20)
    milliseconds = 1e3 * np.array(latencies(lambda: runner(frame), frames))
    p50, p95, p99 = np.percentile(milliseconds, (50, 95, 99))
    return {"frames": frames, "p50": float(p50), "p95": float(p95), "p99": float(p99), "max": float(milliseconds.max())}


def _published(model: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    def call(frames: Tensor) -> Tensor:
        images = (frames.to(dtype) / 255).expand(-1, 3, -1, -1)
        return _classes(model(images))

    return lambda frames: _without_gradients(call, frames)()


def _classes(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.uint8 else logits.argmax(1).to(torch.uint8)


def _tower(tower: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The frozen tower, all blocks and the final norm, without adapters."""

    def call(frames: Tensor) -> Tensor:
        x = tower.embed((frames.to(dtype) / 255).expand(-1, 3, -1, -1))
        for block in tower.blocks:
            x = block(x)
        return tower.finish(x)

    return call


def _backbone_alone(folded: FoldedHTCLIP) -> Callable[[Tensor], Tensor]:
    """The folded tower without adapters and heads."""

    def call(frames: Tensor) -> Tensor:
        x = folded.embed(frames)
        for block in folded.blocks:
            x = block(x)
        return x

    return call


def _without_gradients(function: Callable[..., Tensor], *arguments: Tensor) -> Callable[..., Tensor]:
    def call(*more: Tensor) -> Tensor:
        with torch.no_grad():
            return function(*arguments, *more)

    return call
