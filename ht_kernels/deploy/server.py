"""Model repositories for NVIDIA's Triton Inference Server: folders from which it serves an exported ONNX file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ht_kernels.class_names import names_of
from ht_kernels.errors import InputError
from ht_kernels.files import output_folder

from .manifest import Manifest, manifest_of
from .places import check_folder, manifest_path

_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}
_DELAY = 2000
"""The longest time, in microseconds, that a request waits for others to share its batch."""


def write_repository(onnx: str | Path, folder: str | Path) -> Path:
    """Write a folder with ``config.pbtxt``, ``1/`` with the ONNX file and its manifest, and ``labels.txt``.

    ``labels.txt`` has a class a line, from class 0 on; it is written only if the classes have names. The name of the
    folder becomes the name of the model; pass the parent of the folder to the server with ``--model-repository``. If
    the batch size is dynamic, the server gathers requests into batches of up to the largest size in the manifest.

    Args:
        onnx: a file written by :func:`ht_kernels.deploy.export_onnx`, with its manifest beside it.
        folder: the folder to write, which must not exist. It appears complete or not at all.

    Returns:
        ``folder``.

    Raises:
        InputError: the name of the folder cannot be a model's name, the folder exists or cannot be written, the file
            needs the plugin, or the file does not fit its manifest.
    """
    onnx, folder = Path(onnx), Path(folder)
    check_folder(folder)
    manifest = manifest_of(onnx)
    if manifest.kind != "onnx" or manifest.plugin:
        raise InputError(
            "Triton Inference Server runs the ONNX file with standard operators: export without the plugin"
        )
    with output_folder(folder) as hidden:
        (hidden / "1").mkdir()
        shutil.copyfile(onnx, hidden / "1" / onnx.name)
        shutil.copyfile(manifest_path(onnx), hidden / "1" / manifest_path(onnx).name)
        (hidden / "config.pbtxt").write_text(configuration(manifest, folder.name), encoding="utf-8")
        if manifest.class_names:
            names = names_of(manifest.num_classes, manifest.class_names)
            (hidden / "labels.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return folder


def configuration(manifest: Manifest, name: str) -> str:
    """The content of ``config.pbtxt`` for an exported file: an ``inference.ModelConfig`` in protobuf's text format."""
    dynamic = manifest.batch[0] != manifest.batch[2]
    first = 1 if dynamic else 0  # the server itself adds the batch dimension if it gathers batches

    def described(shape: tuple[int | str, ...], kind: str) -> str:
        sizes = shape[first:]
        # The server refuses a tensor without dimensions, such as one number per frame, unless it is reshaped.
        reshape = "" if sizes else " reshape { shape: [ ] }"
        return f"data_type: {_TYPES[kind]} dims: [ {', '.join(map(str, sizes or (1,)))} ]{reshape}"

    frames = described(manifest.input_shape, manifest.input_type)
    # The server names the largest value of a result. A single logit is always the largest, so it gets no name.
    named = manifest.class_names and manifest.task == "classification" and manifest.num_classes > 1
    labels = ' label_filename: "labels.txt"' if named else ""
    smallest, usual, largest = manifest.batch
    # The first inference of a model is slow, so the server runs one on zeros before it accepts requests.
    zeros = f'inputs {{ key: "{manifest.input_name}" value: {{ {frames} zero_data: true }} }}'
    lines = [
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        f"default_model_filename: {json.dumps(manifest.file)}",
        f"max_batch_size: {largest if dynamic else 0}",
        f'input {{ name: "{manifest.input_name}" {frames} }}',
        *(
            f'output {{ name: "{output}" {described(shape, kind)}{labels if output == manifest.output_name else ""} }}'
            for output, shape, kind in manifest.outputs
        ),
        f'model_warmup {{ name: "zeros" batch_size: {smallest if dynamic else 0} {zeros} }}',
    ]
    if dynamic:
        lines.append(f"dynamic_batching {{ preferred_batch_size: [ {usual} ] max_queue_delay_microseconds: {_DELAY} }}")
    return "\n".join(lines) + "\n"
