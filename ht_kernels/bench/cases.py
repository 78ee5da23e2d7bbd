"""The benchmark cases, on ViT-B/16 sizes: the adapter, the heads and the whole segmentation model.

Each case has three implementations that compute the same result: ``eager`` is the published computation, ``compile`` is
the same under torch.compile, and ``ours`` is this package.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ht_kernels as ht
from ht_kernels import published
from ht_kernels.folding import fold_pyramid
from ht_kernels.functional import feature_pyramid
from ht_kernels.nn import SegmentationHead, pyramid

from .shake import shake

DIM, BOTTLENECK, GRID, PREFIX = 768, 64, (14, 14), 1
IMAGE, WIDTH, LEVELS, CLASSES = 224, 512, 3, 2
TOKENS = PREFIX + GRID[0] * GRID[1]
IMPLEMENTATIONS = ("eager", "compile", "ours")
LABELS = {"eager": "published, eager", "compile": "published, torch.compile", "ours": "ht_kernels"}

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    """One comparison. All implementations have the same weights and the same input.

    Attributes:
        part: ``adapter``, ``heads`` or ``model``.
        group: what is computed, in words.
        batch: the number of images per call.
        build: makes the call of an implementation, given the batch and the name of the implementation.
        bytes: the least memory traffic of a call, in bytes: every input is read and every output written once
            (docs/kernels.md). 0 if it is not defined for the case.
        flops: the floating-point operations of the matrix products in a call; 0 if not defined for the case.
    """

    part: str
    group: str
    batch: int
    build: Callable[[int, str], Call]
    bytes: int = 0
    flops: int = 0

    def calls(self, names: Collection[str] = IMPLEMENTATIONS) -> dict[str, Call]:
        """Make the calls of the implementations. Code that torch.compile cached for earlier cases is dropped first."""
        torch.compiler.reset()
        return {name: self.build(self.batch, name) for name in names}

    def __str__(self) -> str:
        return f"{self.group}, B={self.batch}"


def cases(part: str | None = None, batches: Collection[int] | None = None) -> list[Case]:
    """All cases, or only the cases of one part or of some batch sizes."""
    everything = [*_adapter_cases(), *_heads_cases(), *_model_cases()]
    return [c for c in everything if part in (None, c.part) and (batches is None or c.batch in batches)]


def _adapter_cases() -> Iterator[Case]:
    for backward in (False, True):
        for batch in (1, 8, 32):
            # The forward reads x, writes out and has two products with a D x C matrix. The backward reads x and the
            # gradient of out, writes the gradient of x, and has two products for each of the forward's: one for the
            # gradient of its input and one for the gradient of its weight.
            tensors, products = (5, 6) if backward else (2, 2)
            yield Case(
                "adapter",
                "adapter forward + backward" if backward else "adapter forward",
                batch,
                _adapter_training if backward else _adapter_inference,
                bytes=tensors * batch * TOKENS * DIM * torch.float32.itemsize,
                flops=products * 2 * batch * TOKENS * DIM * BOTTLENECK,
            )
    for batch in (1, 8, 32):
        yield Case(
            "adapter",
            "spectral adapter forward",
            batch,
            _spectral_inference,
            bytes=2 * batch * TOKENS * DIM * torch.float32.itemsize,
            flops=2 * 2 * batch * TOKENS * DIM * BOTTLENECK,
        )


def _heads_cases() -> Iterator[Case]:
    for batch in (1, 8, 32):
        yield Case("heads", "segmentation head", batch, _heads)


def _model_cases() -> Iterator[Case]:
    for batch in (1, 4):
        yield Case("model", "segmentation model", batch, _model)


def _adapter(batch: int, name: str) -> tuple[nn.Module, Callable[..., Tensor], Tensor]:
    torch.manual_seed(0)
    adapter: nn.Module = published.HybridAdapter(DIM, BOTTLENECK)
    shake(adapter)
    if name == "ours":
        ours = ht.HTAdapter(DIM, BOTTLENECK, "hybrid")
        ours.load_state_dict(adapter.state_dict())
        adapter = ours
    # Dropout is off even with gradients, so that the results of the implementations can be compared.
    adapter.eval()
    torch.manual_seed(1)
    return adapter, _maybe_compile(adapter, name), torch.randn(batch, TOKENS, DIM)


def _adapter_inference(batch: int, name: str) -> Call:
    _, function, x = _adapter(batch, name)
    return _without_gradients(lambda: function(x, grid=GRID, prefix_tokens=PREFIX))


class _MaskedMultiScale(published.MultiScale):
    """The published spatial part, with a mask over frequencies instead of the gain per channel."""

    mask: Tensor

    def filtered(self, s: Tensor) -> Tensor:
        image: Tensor = torch.fft.irfft2(torch.fft.rfft2(s) * self.mask, s=s.shape[-2:])
        return image


def _spectral_inference(batch: int, name: str) -> Call:
    adapter, function, x = _adapter(batch, name)
    generator = torch.Generator().manual_seed(2)
    mask = torch.randn(BOTTLENECK, GRID[0], GRID[1] // 2 + 1, dtype=torch.complex64, generator=generator)
    if isinstance(adapter, ht.HTAdapter):
        adapter.to_spectral("full", grid=GRID)
        adapter.get_parameter("adapter_conv.spectral.mask").data.copy_(torch.view_as_real(mask))
    else:
        spatial = _MaskedMultiScale(BOTTLENECK, frequency=True, noise=True)
        spatial.load_state_dict(adapter.get_submodule("adapter_conv").state_dict())
        spatial.register_buffer("mask", mask)
        adapter.adapter_conv = spatial
    return _without_gradients(lambda: function(x, grid=GRID, prefix_tokens=PREFIX))


def _adapter_training(batch: int, name: str) -> Call:
    adapter, function, x = _adapter(batch, name)
    gradient = torch.randn_like(x)
    x.requires_grad_()

    def call() -> Tensor:
        adapter.zero_grad(set_to_none=True)
        x.grad = None
        torch.autograd.backward(function(x, grid=GRID, prefix_tokens=PREFIX), gradient)
        assert x.grad is not None
        return x.grad

    return call


class _PublishedHeads(nn.Module):
    """The published computation: three pyramid levels are summed, upsampled at full width, and projected to classes."""

    def __init__(self, reduces: nn.ModuleList, blocks: nn.ModuleList, head: nn.Sequential) -> None:
        super().__init__()
        self.reduces, self.blocks, self.projection = reduces, blocks, head[-1]

    def forward(self, features: list[Tensor]) -> Tensor:
        parts = zip(features, self.reduces, self.blocks, strict=True)
        first, second, third = [block(reduce(x)) for x, reduce, block in parts]
        image = (first + second + third).transpose(1, 2).reshape(-1, WIDTH, *GRID)
        image = F.interpolate(image, (IMAGE, IMAGE), mode="bilinear", align_corners=False)
        logits: Tensor = self.projection(image)
        return logits


def _heads(batch: int, name: str) -> Call:
    torch.manual_seed(0)
    reduces, blocks = pyramid(DIM, WIDTH, LEVELS)
    head = SegmentationHead(WIDTH, CLASSES)
    features = [torch.randn(batch, GRID[0] * GRID[1], DIM) for _ in range(LEVELS)]
    if name == "ours":
        levels, bias = fold_pyramid(reduces, blocks, head.weight, head.bias)
        return _without_gradients(lambda: head(feature_pyramid(features, levels, bias), GRID, (IMAGE, IMAGE)))
    function = _maybe_compile(_PublishedHeads(reduces, blocks, head), name)
    return _without_gradients(lambda: function(features))


@functools.cache
def _htclip() -> ht.HTCLIP:
    torch.manual_seed(0)
    return ht.HTCLIP(backbone="ViT-B-16", task="segmentation", num_classes=CLASSES).eval()


def _model(batch: int, name: str) -> Call:
    model = _htclip()
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (batch, 1, IMAGE, IMAGE), dtype=torch.uint8)
    if name == "ours":
        folded = ht.fold(model)
        return _without_gradients(lambda: folded(frames))
    # The published preprocessing is not timed, although the folded model includes it.
    images = (frames / 255).expand(-1, 3, -1, -1).contiguous()
    function = _maybe_compile(published.PublishedHTCLIP.like(model), name)
    return _without_gradients(lambda: function(images))


def _maybe_compile(module: nn.Module, name: str) -> Callable[..., Tensor]:
    return torch.compile(module, dynamic=False) if name == "compile" else module


def _without_gradients(function: Call) -> Call:
    def call() -> Tensor:
        with torch.no_grad():
            return function()

    return call
