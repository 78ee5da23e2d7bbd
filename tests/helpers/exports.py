"""Folded models, their files in ONNX and what ONNX Runtime computes with them."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import torch

from helpers.small_models import small_model
from ht_kernels import fold
from ht_kernels.deploy import FoldedHTCLIP


def folded_model(tower: str = "timm", task: str = "segmentation", variant: str = "hybrid") -> FoldedHTCLIP:
    return fold(small_model(tower, task, variant).float())


def some_frames(folded: FoldedHTCLIP, batch: int = 3, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (batch, channels, *folded.image_size), dtype=torch.uint8, generator=generator)


def run(path: Path, frames: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"frames": frames.numpy()})[0])


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    assert got.shape == expected.shape and got.dtype == expected.dtype
    return float((got - expected).abs().max() / expected.abs().max())


def corrupt(path: Path, name: str, factor: float) -> None:
    """Multiply a constant of the file."""
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array((values * factor).astype(values.dtype), name))
    onnx.save(model, path)
