"""Timings of the whole segmentation model on ViT-B/16, from uint8 frames to masks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn

import ht_kernels as ht
from ht_kernels.bench.shake import shake
from ht_kernels.clip.injection import adapters
from ht_kernels.deploy import FoldedHTCLIP, quantize_fp8
from ht_kernels.deploy.calibration import LEAST
from ht_kernels.published import PublishedHTCLIP

from . import limits, low_precision, measure
from .setting import Row, Setting

BACKBONE = "timm/vit_base_patch16_224"
DTYPE = torch.bfloat16


def batches(setting: Setting) -> tuple[int, ...]:
    return (1,) if setting.dry else (1, 32)


def build(setting: Setting) -> ht.HTCLIP:
    """A hybrid model with random changes to the adapters' initial parameters, so that the adapters have an effect."""
    torch.manual_seed(0)
    options = {"task": "segmentation", "num_classes": 2, "variant": "hybrid"}
    if setting.dry:
        import timm.models.vision_transformer as timm_vit  # takes seconds, and most sections need no model

        tower = timm_vit.VisionTransformer(32, 16, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2, num_classes=0)
        model = ht.HTCLIP(tower, bottleneck=8, reduce_dim=16, feature_layers=(0, 1), **options)
    else:
        model = ht.HTCLIP(BACKBONE, **options)
    for adapter in adapters(model.tower).values():
        shake(adapter)
    return model.eval()


def against_eager(batch: int, setting: Setting) -> list[Row]:
    """Time our model, the published model in eager mode, and the tower without adapters and heads.

    ``tower`` is the frozen tower with all blocks. ``read blocks`` is the folded tower up to the last block that a head
    reads; the difference between it and our model is the cost of Hybrid-tuning.
    """
    parts = _Parts(setting, batch)
    functions = {
        "published, eager": _published(parts.theirs),
        "ours": _ours(parts.folded),
        "tower": _tower(parts.theirs.tower),
        "read blocks": _read_blocks(parts.folded),
    }
    row = _compare(f"segmentation model, B={batch}, bfloat16", functions, parts, setting)
    return [row, parts.agreement(parts.folded)]


def against_compiled(
    batch: int,
    dtype: torch.dtype,
    compiled: Callable[[nn.Module, str, Setting], AbstractContextManager[nn.Module]],
    mode: str,
    setting: Setting,
) -> list[Row]:
    """Time our model, and the published one and ours under torch.compile, by ``compiled(model, mode, setting)``.

    The agreement is that of ours under torch.compile.
    """
    parts = _Parts(setting, batch, dtype)
    with compiled(parts.theirs, mode, setting) as theirs, compiled(parts.folded, mode, setting) as ours:
        functions = {
            f"published, compile ({mode})": _published(theirs),
            "ours": _ours(parts.folded),
            f"ours, compile ({mode})": _ours(ours),
        }
        name = f"segmentation model, B={batch}, {parts.words}, beside {mode}"
        return [_compare(name, functions, parts, setting), parts.agreement(ours, f", compile ({mode})")]


def fp8_against_bfloat16(
    batch: int,
    compiled: Callable[[nn.Module, str, Setting], AbstractContextManager[nn.Module]],
    mode: str,
    setting: Setting,
) -> list[Row]:
    """Time our model in bfloat16 and with its blocks in FP8, plain and under torch.compile.

    FP8 is calibrated on other random frames. Its logits under torch.compile are checked.
    """
    parts = _Parts(setting, batch)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        shape = (LEAST, 1, *parts.model.tower.image_size)
        known = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        quantized = _Alone(quantize_fp8(ht.fold(parts.model).to(setting.device), known))
    with compiled(parts.folded, mode, setting) as wide, compiled(quantized, mode, setting) as narrow:
        functions = {
            "ours": _ours(parts.folded),
            f"ours, compile ({mode})": _ours(wide),
            "ours, FP8": _ours(quantized),
            f"ours, FP8, compile ({mode})": _ours(narrow),
        }
        row = _compare(f"segmentation model, B={batch}, FP8 beside bfloat16, {mode}", functions, parts, setting)
        return [row, parts.check(narrow, setting)]


class _Alone(nn.Module):
    """A model of another class, for torch.compile takes a second model of the same class for a recompilation."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> Tensor:
        return self.model(frames)


def latency(setting: Setting) -> list[Row]:
    """Measure the milliseconds from a frame in host memory to its mask in host memory, one frame at a time."""
    model = build(setting)
    folded = ht.fold(model, DTYPE).to(setting.device)
    torch.manual_seed(2)
    frame = torch.randint(0, 256, (1, 1, *model.tower.image_size), dtype=torch.uint8)
    if setting.dry:
        runner: Callable[[Tensor], Tensor] = _ours(folded)
    else:
        runner = ht.deploy.GraphRunner(folded, masks=True)
    with torch.no_grad():
        measure.latencies(lambda: runner(frame), 20)
        milliseconds = 1e3 * np.array(measure.latencies(lambda: runner(frame), 20 if setting.dry else 2000))
    p50, p95, p99 = np.percentile(milliseconds, (50, 95, 99))
    percentiles = {"p50": float(p50), "p95": float(p95), "p99": float(p99), "max": float(milliseconds.max())}
    return [{"kind": "latency", "what": "one frame, host to host", "frames": len(milliseconds), **percentiles}]


class _Parts:
    """The published model and ours in a 16-bit dtype, and input frames."""

    def __init__(self, setting: Setting, batch: int, dtype: torch.dtype = DTYPE) -> None:
        self.model = build(setting)
        self.published = PublishedHTCLIP.like(self.model).to(setting.device)
        self.theirs = low_precision.in_dtype(self.published, dtype)
        self.folded: FoldedHTCLIP = ht.fold(self.model, dtype).to(setting.device)
        self.words = str(dtype).removeprefix("torch.")
        generator = torch.Generator().manual_seed(1)
        shape = (batch, 1, *self.model.tower.image_size)

        def make() -> Tensor:
            return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(setting.device)

        self.inputs = [make() for _ in range(1 if batch > 1 else 4)]

    @torch.no_grad()
    def agreement(self, model: nn.Module, how: str = "") -> Row:
        """Count the pixels on which masks of ``model``, ours, differ from masks of the published model in float64.

        Our masks may differ on ``limits.SLACK`` times as many pixels as the published model's masks, plus one.
        """
        frames = self.inputs[0]
        expected = _published(low_precision.in_dtype(self.published, torch.float64))(frames)
        theirs, ours = (_differing(f(frames), expected) for f in (_published(self.theirs), _ours(model)))
        return {
            "kind": "agreement",
            "what": f"masks in {self.words}, B={len(frames)}{how}",
            "pixels": expected.numel(),
            "published_differs": theirs,
            "ours_differs": ours,
            "passed": ours <= limits.SLACK * theirs + 1,
        }

    @torch.no_grad()
    def check(self, fp8: nn.Module, setting: Setting) -> Row:
        """Compare logits of a model in FP8 with those of the published model in float64."""
        frames = self.inputs[0]
        expected = _logits(low_precision.in_dtype(self.published, torch.float64))(frames)
        theirs, ours, again = _logits(self.theirs)(frames), fp8(frames), fp8(frames)
        error, published_error = (float((y - expected).norm() / expected.norm()) for y in (ours, theirs))
        return {
            "kind": "check",
            "backend": setting.backend,
            "what": f"logits of the model, B={len(frames)}",
            "dtype": "float8_e4m3fn",
            "error": error,
            "limit": limits.FP8,
            "published_error": published_error,
            "passed": error <= limits.FP8,
            "same_bits": bool(torch.equal(ours, again)),
        }


def _differing(mask: Tensor, expected: Tensor) -> int:
    return int((mask != expected).sum())


def _compare(
    what: str,
    functions: dict[str, Callable[[Tensor], Tensor]],
    parts: _Parts,
    setting: Setting,
) -> Row:
    calls = {name: measure.over(function, parts.inputs) for name, function in functions.items()}
    return measure.compare(what, calls, len(parts.inputs), setting, graphs=functions, backend=setting.backend)


def _published(model: nn.Module) -> Callable[[Tensor], Tensor]:
    logits = _logits(model)
    return lambda frames: logits(frames).argmax(1).to(torch.uint8)


def _logits(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Those of the published model."""
    dtype = next(model.parameters()).dtype
    return lambda frames: model((frames.to(dtype) / 255).expand(-1, 3, -1, -1))


def _ours(folded: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda frames: FoldedHTCLIP.classes(folded(frames))


def _tower(tower: nn.Module) -> Callable[[Tensor], Tensor]:
    """The frozen tower with all blocks and the final norm, without adapters."""

    def call(frames: Tensor) -> Tensor:
        x = tower.embed((frames.to(DTYPE) / 255).expand(-1, 3, -1, -1))
        for block in tower.blocks:
            x = block(x)
        return tower.finish(x)

    return call


def _read_blocks(folded: FoldedHTCLIP) -> Callable[[Tensor], Tensor]:
    """The folded tower without adapters and heads."""

    def call(frames: Tensor) -> Tensor:
        x = folded.embed(frames)
        for block in folded.blocks:
            x = block(x)
        return x

    return call
