"""Folded models, their files in ONNX and what ONNX Runtime computes with them."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import torch

from helpers.small_models import calibrated, small_model
from ht_kernels import fold
from ht_kernels.deploy import FoldedHTCLIP


def folded_model(tower: str = "timm", task: str = "segmentation", variant: str = "hybrid") -> FoldedHTCLIP:
    return fold(small_model(tower, task, variant).float())


def calibrated_model(tower: str = "timm", task: str = "segmentation", **options: object) -> FoldedHTCLIP:
    """A folded model that gives distances."""
    return fold(calibrated(small_model(tower, task, **options)).float())


def some_frames(folded: FoldedHTCLIP, batch: int = 3, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (batch, channels, *folded.image_size), dtype=torch.uint8, generator=generator)


def balanced(classes: int) -> tuple[FoldedHTCLIP, torch.Tensor]:
    """A segmentation model, and frames in which about half the pixels are class 0 and the others are class 1."""
    folded = fold(small_model("timm", num_classes=classes).float())
    frames = some_frames(folded, 2)
    folded.pyramid_bias[2:] -= 1e3
    logits = folded(frames)
    margin = logits[:, 0] if classes == 1 else logits[:, 1] - logits[:, 0]
    middle = margin.flatten().sort().values[int(0.45 * margin.numel()) : int(0.55 * margin.numel())]
    widest = int(middle.diff().argmax())  # no pixel is so close to the limit that rounding decides its class
    folded.pyramid_bias[0 if classes == 1 else 1] -= middle[widest : widest + 2].mean()
    shares = folded.classes(folded(frames)).flatten().bincount() / frames[:, 0].numel()
    assert len(shares) == 2 and shares.min() > 0.4, shares
    return folded, frames


def run(path: Path, frames: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"frames": frames.numpy()})[0])


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    assert got.shape == expected.shape and got.dtype == expected.dtype
    return float((got - expected).abs().max() / expected.abs().max())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def corrupt(path: Path, name: str, factor: float) -> None:
    """Multiply a constant of the file."""
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array((values * factor).astype(values.dtype), name))
    onnx.save(model, path)
