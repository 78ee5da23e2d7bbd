"""OpenVINO's own format, IR, made of an exported ONNX file: a graph NAME.xml and its weights NAME.bin."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from ht_kernels.errors import InputError, reason
from ht_kernels.files import why, write_whole

from .manifest import Manifest, manifest_of, sha256_of_files, write_manifest
from .openvino_runtime import import_openvino
from .places import check_place, described_files


def build_ir(onnx: str | Path, path: str | Path) -> Manifest:
    """Write an ONNX file as IR, and a manifest beside it. The graph and every constant stay as they are.

    Args:
        onnx: a file written by :func:`ht_kernels.deploy.export_onnx`, with its manifest beside it.
        path: the graph to write, ``NAME.xml``. The weights are ``NAME.bin``, the manifest is ``NAME.xml.json``, which
            is written last and holds one hash for both files.

    Returns:
        The manifest of the IR.

    Raises:
        InputError: OpenVINO is not installed or refuses the graph, or a file has a wrong name, does not fit its
            manifest, cannot be written or would replace what no export of it wrote.
    """
    onnx, path = Path(onnx), Path(path)
    if path.suffix != ".xml":
        raise InputError(f"the output {path} must end in .xml: OpenVINO's weights go into a file beside it, NAME.bin")
    check_place(path)
    ov = import_openvino()
    manifest = manifest_of(onnx)
    try:
        model = ov.Core().read_model(onnx.read_bytes())
    except Exception as error:  # OpenVINO's exceptions have no narrower common class
        raise InputError(f"OpenVINO {ov.__version__} refuses {onnx}: {reason(error)}") from error
    graph, weights = described_files(path)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.absolute().parent) as folder:
            written = [Path(folder) / file.name for file in (graph, weights)]
            ov.serialize(model, *written)
            contents = [file.read_bytes() for file in written]
    except (OSError, RuntimeError) as error:
        cause = why(error) if isinstance(error, OSError) else reason(error)
        raise InputError(f"the IR {path} cannot be written: {cause}") from error
    write_whole(weights, contents[1], "the weights")
    write_whole(graph, contents[0], "the graph")
    built = replace(
        manifest,
        kind="openvino",
        file=path.name,
        sha256=sha256_of_files(contents),
        versions={**manifest.versions, "openvino": ov.__version__},
    )
    write_manifest(built, path)
    return built
