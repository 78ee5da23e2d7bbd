"""The ways to run a model on a CPU: which computation, in which runtime, in which precision."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

import ht_kernels as ht
from ht_kernels.bench.shake import shake
from ht_kernels.clip.injection import adapters
from ht_kernels.deploy import Session, export_onnx
from ht_kernels.deploy.fastest import fastest
from ht_kernels.environment import version
from ht_kernels.media.opening import open_file
from ht_kernels.media.preprocess import sample_frames
from ht_kernels.published import PublishedHTCLIP
from ht_kernels.video.example import example_clip
from ht_kernels.weights import SHIPPED

FRAMES, CALIBRATION = 8, 16
"""How many frames of the example clip are run, and how many others calibrate int8."""

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""A gray frame (1, 1, H, W) to its logits, of the size of the frame or of its patch grid."""


@dataclass(frozen=True)
class Way:
    """One row of the ladder.

    Attributes:
        name: of the row.
        graph: ``published``, or ``ours`` for the folded model.
        precision: ``fp32``, ``bf16`` or ``int8``.
        packages: the distributions that it needs beside torch.
        open: makes the call from a model.
        after: what is made of the logits within the time of the row, from them and the size of the frame; None for
            nothing.
    """

    name: str
    graph: str
    precision: str
    packages: tuple[str, ...]
    open: Callable[[ht.HTCLIP], Run]
    after: Callable[[NDArray[np.float32], tuple[int, int]], object] | None = None

    def missing(self) -> str | None:
        """Why it cannot run here, in a clause; None if it can."""
        absent = [name for name in self.packages if version(name) is None]
        if absent:
            return f"{absent[0]} is not installed"
        if self.precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return "this CPU has no instructions for bf16"
        return None


def model(name: str) -> ht.HTCLIP:
    """Shipped weights by their name, or a backbone with weights that are random and the same in every process."""
    if name in SHIPPED:
        return ht.HTCLIP.from_checkpoint(name).eval()
    torch.manual_seed(0)
    made = ht.HTCLIP(name, task="segmentation", num_classes=2).eval()
    for adapter in adapters(made.tower).values():
        shake(adapter)
    return made


class _FromFrames(nn.Module):
    """The published model with its preprocessing in front, on a gray frame (1, 1, H, W) uint8."""

    def __init__(self, made: ht.HTCLIP) -> None:
        super().__init__()
        self.model = PublishedHTCLIP.like(made)

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.model((frames.float() / 255).expand(-1, 3, -1, -1))
        return logits


def _in_torch(module: Callable[[Tensor], Tensor]) -> Run:
    @torch.inference_mode()
    def run(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        return module(torch.from_numpy(frame)).float().numpy()

    return run


def _published(made: ht.HTCLIP, compiled: bool = False) -> Run:
    module = _FromFrames(made).eval()
    return _in_torch(torch.compile(module, dynamic=False) if compiled else module)


def _published_in_onnxruntime(made: ht.HTCLIP) -> Run:
    import onnxruntime

    frame = torch.zeros(1, 1, *made.tower.image_size, dtype=torch.uint8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "published.onnx"
        torch.onnx.export(_FromFrames(made).eval(), (frame,), path, dynamo=True, opset_version=20, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda frame: session.run(None, {name: frame})[0]


def _published_in_openvino(made: ht.HTCLIP, precision: str) -> Run:
    import openvino

    frame = torch.zeros(1, 1, *made.tower.image_size, dtype=torch.uint8)
    with torch.no_grad():
        graph = openvino.convert_model(_FromFrames(made).eval(), example_input=frame, input=[tuple(frame.shape)])
    hints: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino.Core().compile_model(graph, "CPU", hints)
    return lambda frame: compiled(frame)[0].copy()


def _folded(made: ht.HTCLIP, dtype: torch.dtype | None = None) -> Run:
    return _in_torch(ht.fold(made, dtype))


def _session(made: ht.HTCLIP, runtime: str, precision: str | None = None) -> Run:
    return _run(Session.open(ht.fold(made), runtime=runtime, precision=precision))


def _int8(made: ht.HTCLIP, runtime: str) -> Run:
    """The int8 file in a runtime. Frames that are not timed calibrate it."""
    frames = sample_frames(open_file(example_clip()), made.tower.image_size, CALIBRATION + FRAMES)[FRAMES:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        export_onnx(ht.fold(made), path, precision="int8", calibration=torch.from_numpy(frames))
        return _run(Session.open(path, runtime=runtime))


def _default(made: ht.HTCLIP) -> Run:
    """What ``ht-kernels stream`` takes by itself. A session's logits are on the patch grid."""
    chosen = fastest(made)
    return _run(chosen) if isinstance(chosen, Session) else _in_torch(chosen)


def _run(session: Session) -> Run:
    return lambda frame: session(torch.from_numpy(frame)).numpy()


def _mask(logits: NDArray[np.float32], size: tuple[int, int]) -> Tensor:
    return ht.functional.grid_to_mask(torch.from_numpy(logits), size)


def upsampled(logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Logits (B, K, h, w) at the size of the frames, as the published head upsamples them."""
    return F.interpolate(torch.from_numpy(logits), size, mode="bilinear", align_corners=False).numpy()


WAYS = (
    Way("published, torch eager", "published", "fp32", (), _published),
    Way("published, torch.compile", "published", "fp32", (), partial(_published, compiled=True)),
    Way("published, ONNX Runtime", "published", "fp32", ("onnxruntime", "onnxscript"), _published_in_onnxruntime),
    Way("published, OpenVINO", "published", "fp32", ("openvino",), partial(_published_in_openvino, precision="f32")),
    Way("published, OpenVINO", "published", "bf16", ("openvino",), partial(_published_in_openvino, precision="bf16")),
    Way("ours, by default, with the mask", "ours", "fp32", (), _default, after=_mask),
    Way("ours, torch", "ours", "fp32", (), _folded),
    Way("ours, torch", "ours", "bf16", (), partial(_folded, dtype=torch.bfloat16)),
    Way("ours, ONNX Runtime", "ours", "fp32", ("onnxruntime",), partial(_session, runtime="onnxruntime")),
    Way("ours, ONNX Runtime", "ours", "int8", ("onnxruntime", "nncf"), partial(_int8, runtime="onnxruntime")),
    Way("ours, OpenVINO", "ours", "fp32", ("openvino",), partial(_session, runtime="openvino")),
    Way("ours, OpenVINO", "ours", "bf16", ("openvino",), partial(_session, runtime="openvino", precision="bf16")),
    Way("ours, OpenVINO", "ours", "int8", ("openvino", "nncf"), partial(_int8, runtime="openvino")),
)
