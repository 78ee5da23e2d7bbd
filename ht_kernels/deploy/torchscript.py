"""Export of the folded model to TorchScript, for programs that have torch and not this package, with a manifest."""

from __future__ import annotations

import copy
import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ht_kernels.backends import reference
from ht_kernels.errors import InputError, reason
from ht_kernels.files import write_whole
from ht_kernels.folding import KERNEL_SIZE, FoldedAdapter, noise_weights

from .batch import LARGEST_BATCH
from .folded import FoldedHTCLIP
from .manifest import Manifest, describe, write_manifest
from .onnx import check_model
from .places import check_place

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

_OF_TORCH = ("aten", "prim")
"""The namespaces of the operators that torch itself has."""


def export_torchscript(
    folded: FoldedHTCLIP,
    path: str | Path,
    *,
    precision: str = "fp32",
    output: str | None = None,
    channels: int = 1,
) -> Manifest:
    """Write the model to ``path`` (``*.pt``) as TorchScript of torch's own operators, and a manifest beside it.

    ``torch.jit.load(path)`` opens it on the CPU, where this package need not be installed; ``to(device)`` moves it.
    ``model(frames)`` takes frames (B, channels, H, W) with values 0 to 255, uint8 or floating point, for any B from 1
    on, and returns one tensor: what :func:`ht_kernels.deploy.export_onnx` calls ``logits``, ``grid``, ``mask`` or
    ``embeddings``. If the model is calibrated, ``model.with_distance(frames)`` returns that and the distances (B,)
    float32 of the frames from the training images.

    The file's ``config.json``, which ``torch.jit.load`` returns in ``_extra_files``, has the ``shape`` of one frame,
    [1, channels, H, W]: 3D Slicer's TorchSequenceSegmentation reads it.

    Args:
        folded: a model folded in float32 or float64.
        path: the file to write; it appears complete or not at all. The manifest is ``NAME.pt.json``.
        precision: ``fp32``, or ``fp16`` or ``bf16`` for tokens and the matrices of blocks and pyramid; adapters and
            distances are computed in float32.
        output: ``logits``, ``grid``, ``mask`` or ``embeddings``; None for the model's own result, logits or embeddings.
        channels: 1 for gray frames, 3 for RGB.

    Returns:
        The manifest.

    Raises:
        TypeError: ``folded`` is not a folded model, or was folded to a 16-bit dtype.
        InputError: an argument is wrong, the model has a part that TorchScript or torch alone does not run, or a file
            cannot be written or would replace what no export of it wrote.
    """
    path = Path(path)
    if path.suffix != ".pt":
        raise InputError(f"the output {path} must be named NAME.pt")
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    check_model(folded, output, channels)
    check_place(path)
    output = output or folded.result
    plain = _plain(folded, PRECISIONS[precision])
    content = _content(plain, output, channels)
    write_whole(path, content, "the TorchScript file")
    batch = 1, 1, LARGEST_BATCH
    manifest = describe(folded, path, content, precision, batch, output, channels, plugin=False, kind="torchscript")
    write_manifest(manifest, path)
    return manifest


def load_script(content: bytes) -> Any:
    """Load the content of a TorchScript file onto the CPU.

    Raises:
        InputError: torch cannot load it.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\.", FutureWarning)
            return torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise InputError(f"torch cannot load the TorchScript file: {reason(error)}") from error


class _Hosted(nn.Module):
    """What is traced: a call gives the result, and ``with_distance`` the result and the distances."""

    def __init__(self, model: FoldedHTCLIP, output: str, channels: int) -> None:
        super().__init__()
        self.model, self.output = model, output
        self.size = model.grid if output == "grid" else None
        self.shape = channels, *model.image_size
        # A script stays in a trace with its conditions, which a function of Python does not.
        self.check = torch.jit.script(_check)  # type: ignore[no-untyped-call]

    def forward(self, frames: Tensor) -> Tensor:
        return self._given(self.model.compute(self.check(frames, *self.shape), self.size)[0])

    def with_distance(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        result, distances = self.model.compute(self.check(frames, *self.shape), self.size, distance=True)
        return self._given(result), distances

    def _given(self, result: Tensor) -> Tensor:
        return self.model.classes(result) if self.output == "mask" else result


def _check(frames: Tensor, channels: int, height: int, width: int) -> Tensor:
    """The frames, if they have the model's shape; a program that has the file alone gets a sentence, too."""
    if list(frames.shape[1:]) != [channels, height, width]:
        raise ValueError(f"frames must have shape (B, {channels}, {height}, {width}), got {list(frames.shape)}")
    return frames


class _PlainAdapter(nn.Module):
    """A folded adapter in torch's own operators, for any number of frames."""

    def __init__(self, adapter: Any) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(
        self, x: Tensor, grid: tuple[int, int], prefix_tokens: int, following: Any
    ) -> tuple[Tensor, Tensor | None]:
        folded = reference.prepare(self.adapter.values(), x.dtype, grid)
        wide = x.to(folded.up_weight.dtype)
        m = F.gelu(_mix(reference.down_project(wide, folded, self.adapter.eps), folded, grid, prefix_tokens))
        out = (wide + F.linear(m, folded.up_weight, folded.up_bias)).to(x.dtype)
        return out, None if following is None else F.layer_norm(out, out.shape[-1:], eps=following.eps[0])


def _mix(h: Tensor, folded: FoldedAdapter, grid: tuple[int, int], prefix_tokens: int) -> Tensor:
    """What :func:`ht_kernels.backends.reference.mix` computes, with the scales weighted behind their convolutions.

    One kernel per image needs a group of the convolution for each image, and a trace fixes the number of groups.
    """
    prefix, patches = h[:, :prefix_tokens], h[:, prefix_tokens:]
    s = patches.transpose(1, 2).reshape(-1, h.shape[2], *grid)
    f = s if folded.mask is None else reference.spectral_filter(s, folded.mask)
    scales, channels = folded.scale_bias.shape
    kernels = folded.scale_kernels.transpose(0, 1).reshape(channels * scales, 1, KERNEL_SIZE, KERNEL_SIZE)
    bias = folded.scale_bias.t().reshape(-1)
    y = F.conv2d(f, kernels, bias, padding=KERNEL_SIZE // 2, groups=channels)
    weights = noise_weights(folded, patches.mean(1)).repeat(1, channels)  # the scales lie beside each other
    y = (y * weights[:, :, None, None]).view(-1, channels, scales, *grid).sum(2)
    if folded.mask is not None:
        y = y + s
    return torch.cat([prefix, F.linear(y.flatten(2).transpose(1, 2), folded.mix_weight, folded.mix_bias)], dim=1)


def _plain(folded: FoldedHTCLIP, dtype: torch.dtype) -> FoldedHTCLIP:
    """A copy of the model on the CPU, in ``dtype``, whose adapters are torch's own operators."""
    plain = copy.deepcopy(folded).cpu()
    plain.round_to(dtype)
    for place, adapter in list(plain.adapters.items()):
        plain.adapters[place] = _PlainAdapter(adapter)
    return plain


@torch.no_grad()
def _content(model: FoldedHTCLIP, output: str, channels: int) -> bytes:
    """The TorchScript file of a model of torch's own operators.

    It is traced on two uint8 frames. The cast to the model's dtype, which the trace records, takes floating-point
    frames too.
    """
    frames = torch.zeros(2, channels, *model.image_size, dtype=torch.uint8)
    methods = ["forward"] if model.familiarity is None else ["forward", "with_distance"]
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\.", FutureWarning)  # torch writes no new TorchScript
            # Of checks in Python that hold for every number of frames.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            hosted = _Hosted(model, output, channels).eval()
            script: Any = torch.jit.trace_module(  # type: ignore[no-untyped-call]
                hosted, dict.fromkeys(methods, frames), check_trace=False
            )
            config = json.dumps({"shape": [1, *frames.shape[1:]]})
            torch.jit.save(script, file, _extra_files={"config.json": config})  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise InputError(f"the model cannot be written as TorchScript: {reason(error)}") from error
    foreign = sorted({kind for name in methods for kind in _kinds(getattr(script, name).inlined_graph)})
    if foreign:
        raise InputError(f"the model computes {', '.join(foreign)}, which torch alone does not: export it as ONNX")
    return file.getvalue()


def _kinds(graph: Any) -> set[str]:
    """The operators of a graph that are not torch's own."""
    return {node.kind() for node in graph.nodes() if node.kind().split("::")[0] not in _OF_TORCH}
