"""Export of the folded model to an ONNX file with a manifest."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ht_kernels.errors import InputError
from ht_kernels.files import write_whole
from ht_kernels.packages import import_package

from .batch import batch_range
from .calibration import check_count, why_unlike
from .folded import FoldedHTCLIP
from .manifest import Manifest, describe, write_manifest
from .places import check_place
from .quantize import import_nncf, quantize
from .results import check_result

_log = logging.getLogger("ht_kernels")

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
RESULTS = ("logits", "mask", "grid", "embeddings")

_LARGEST = 2**31 - 2**24
"""The largest size of the weights in bytes. A protobuf message ends at 2**31 bytes, and the nodes need some of them."""


def export_onnx(
    folded: FoldedHTCLIP,
    path: str | Path,
    *,
    precision: str = "fp32",
    batch: int | tuple[int, int, int] = 1,
    output: str | None = None,
    channels: int = 1,
    plugin: bool = False,
    calibration: Tensor | None = None,
) -> Manifest:
    """Write the model to ``path`` (``*.onnx``), and a manifest beside it (``*.json``).

    The graph takes ``frames`` (B, channels, H, W) uint8 with values 0 to 255. It returns one of these:

    - ``logits`` float32, (B, K, H, W) for segmentation or (B, K) for classification;
    - ``grid`` (B, K, h, w) float32, the logits on the patch grid, for segmentation;
    - ``mask`` (B, H, W) uint8, the class of each pixel, for segmentation;
    - ``embeddings`` (B, E) float32 of unit length, for a contrastive model.

    If the model is calibrated (``folded.familiarity``), the graph also returns ``distance`` (B,) float32, how far each
    frame is from the training images, and the manifest says which distances are usual.

    Args:
        folded: a model folded in float32 or float64.
        path: the file to write; it appears complete or not at all.
        precision: the precision of matrix products: ``fp32``, ``fp16``, ``bf16`` or ``int8``;
            :mod:`ht_kernels.deploy.quantize` says which of them are in int8.
        batch: B, or (smallest, usual, largest) for a dynamic B. The manifest records the range.
        output: ``logits``, ``grid``, ``mask`` or ``embeddings``; None for the model's own result, logits or embeddings.
        channels: 1 for gray frames, 3 for RGB.
        plugin: write adapters as nodes ``ht_kernels::adapter_inference``, which only TensorRT with the plugin of
            ``csrc/tensorrt`` can run. These nodes take and return tokens in the precision of matrix products. It does
            not go with int8, for which adapters run too.
        calibration: for int8, and only for it: frames (N, channels, H, W) uint8 like those that the file will see. They
            decide the scales of activations. At least :data:`~ht_kernels.deploy.calibration.LEAST`; if most are unlike
            the training images, as a calibrated model can tell, a warning in the log says so.

    Returns:
        The manifest.

    Raises:
        TypeError: ``folded`` is not a folded model, or was folded to a 16-bit dtype.
        InputError: an argument is wrong, the model cannot be exported, a package is missing, or a file cannot be
            written or would replace what no export of it wrote.
    """
    import_onnx()
    path = Path(path)
    batches = _check(folded, path, precision, batch, output, channels)
    check_place(path)
    _check_calibration(folded, precision, calibration, channels, plugin)
    output = output or folded.result
    content = _content(folded, precision, batches, output, channels, plugin, calibration, check=True)
    write_whole(path, content, "the ONNX file")
    manifest = describe(folded, path, content, precision, batches, output, channels, plugin)
    write_manifest(manifest, path)
    return manifest


def onnx_in_memory(
    folded: FoldedHTCLIP, precision: str, batch: int | tuple[int, int, int], output: str
) -> tuple[bytes, Manifest]:
    """The content of the file that :func:`export_onnx` would write for gray frames, and its manifest.

    ONNX does not check the graph, which takes as long as making it; a runtime that reads it does so anyway.

    Raises:
        TypeError, InputError: as :func:`export_onnx`.
    """
    import_onnx()
    path = Path("model.onnx")
    batches = _check(folded, path, precision, batch, output, 1)
    _check_calibration(folded, precision, None, 1, False)
    content = _content(folded, precision, batches, output, 1, False, None, check=False)
    return content, describe(folded, path, content, precision, batches, output, 1, False)


def import_onnx() -> Any:
    """Import onnx and return it.

    Raises:
        InputError: it is not installed or cannot be imported.
    """
    return import_package("onnx", "the export needs onnx", "onnx onnxruntime")


def check_model(folded: object, output: str | None, channels: int) -> None:
    """Refuse a model, a result or a number of channels that no export takes.

    Raises:
        TypeError: ``folded`` is not a folded model, or was folded to a 16-bit dtype.
        InputError: the model does not give ``output``, or ``channels`` is wrong.
    """
    if not isinstance(folded, FoldedHTCLIP):
        raise TypeError(f"folded must be a FoldedHTCLIP, got {type(folded).__name__}: pass ht.fold(model)")
    if folded.position.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"folded was folded into {folded.position.dtype}: fold without dtype, precision= rounds it")
    if output is not None and output not in RESULTS:
        raise InputError(f"output must be one of {', '.join(RESULTS)}, got {output!r}")
    if output is not None:
        check_result(output, folded.config.task)
    if output == "mask" and folded.config.num_classes > 256:
        raise InputError(f"a mask holds up to 256 classes, and the model has {folded.config.num_classes}")
    if channels not in (1, 3):
        raise InputError(f"channels must be 1 (gray) or 3 (RGB), got {channels}")


def _content(
    folded: FoldedHTCLIP,
    precision: str,
    batches: tuple[int, int, int],
    output: str,
    channels: int,
    plugin: bool,
    calibration: Tensor | None,
    check: bool,
) -> bytes:
    """The ONNX file, checked by ONNX if asked for."""
    from .onnx_model import build

    model = build(folded, precision if calibration is None else "fp32", batches, output, channels, plugin)
    if calibration is not None:
        model = quantize(model, calibration)
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size > _LARGEST:
        raise InputError(f"the weights take {size / 1e9:.1f} GB in {precision}, and an ONNX file holds 2: try fp16")
    if check:
        import_onnx().checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def _check(
    folded: FoldedHTCLIP, path: Path, precision: str, batch: object, output: str | None, channels: int
) -> tuple[int, int, int]:
    """Check the arguments, and return the range of B."""
    check_model(folded, output, channels)
    if path.suffix != ".onnx":
        raise InputError(f"the output {path} must be named NAME.onnx")
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return batch_range(batch)


def _check_calibration(
    folded: FoldedHTCLIP, precision: str, calibration: Tensor | None, channels: int, plugin: bool
) -> None:
    if (precision == "int8") != (calibration is not None):
        found = "none were given" if calibration is None else f"the precision is {precision}"
        raise InputError(f"frames to calibrate on go with int8, which needs them, and {found}")
    if calibration is None:
        return
    folded.check(calibration)
    if calibration.dtype != torch.uint8:
        raise InputError(f"frames to calibrate on must be uint8, got {calibration.dtype}")
    if calibration.shape[1] != channels:
        raise InputError(f"the file takes {channels} channels, and frames to calibrate on have {calibration.shape[1]}")
    if plugin:
        raise InputError("the plugin computes in fp32, fp16 or bf16, and int8 was asked for: export without the plugin")
    check_count(len(calibration), "int8")
    import_nncf()
    unlike = why_unlike(folded, calibration, "int8")
    if unlike is not None:
        _log.warning("export: %s", unlike)
