"""The manifest beside an exported file: what the file is, its inputs and outputs, and a hash that identifies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import ht_kernels
from ht_kernels import environment
from ht_kernels.choices import LARGEST_SIDE, RESULTS_OF
from ht_kernels.distance_scale import DistanceScale
from ht_kernels.errors import InputError
from ht_kernels.files import read_whole, write_whole

from .batch import LARGEST_BATCH
from .places import described_files, manifest_path

if TYPE_CHECKING:
    from .folded import FoldedHTCLIP

FORMAT = 1
DISTANCE = "distance"
"""The name of the second output of a file whose model is calibrated: the distances (B,) float32."""

_PACKAGES = ("torch", "onnx", "onnxruntime", "nncf")


@dataclass(frozen=True)
class Manifest:
    """The description of an ONNX file, of an engine or IR built from one, or of a TorchScript file.

    Attributes:
        format: the version of the manifest format.
        kind: ``onnx``, ``openvino``, ``tensorrt``, ``tensorrt_rtx`` or ``torchscript``.
        file: the name of the described file, which lies in the same folder.
        sha256: the hash of the described file, or of both files of an IR; see :func:`sha256_of_files`.
        onnx_sha256: the hash of the ONNX file: the described file itself, or the one that the file was built from;
            empty for TorchScript.
        targets: compute capabilities that an engine was built for, such as ``sm_86``; empty for other files.
        versions: versions of ht_kernels and of the libraries used, by package name.
        opset: the version of the ONNX operator set; 0 for TorchScript.
        precision: the precision of matrix products: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        plugin: whether adapters are nodes for the TensorRT plugin instead of standard operators.
        task: ``segmentation``, ``classification`` or ``contrastive``.
        num_classes: the number of classes K; 0 for a contrastive model.
        class_names: the name of each class, or None.
        batch: smallest, usual and largest batch size.
        input_name, input_type, input_shape: the input, frames. A dynamic batch size is written as ``batch``.
        output_name, output_type, output_shape: the first output, the result, written the same way.
        preprocessing: what to do with a frame before passing it in, in words.
        pixel_scale, pixel_mean, pixel_std: how the graph itself normalizes pixel values:
            ``(pixel * scale - mean) / std``, with mean and standard deviation by channel.
        familiarity: what the distances from the training images mean, which the file then gives as second output,
            :data:`DISTANCE`; None if it gives none, as in the manifests of older versions.
        grid: for segmentation, the patch grid (h, w) that logits are upsampled from; None for other tasks, and in the
            manifests of older versions.
    """

    format: int
    kind: str
    file: str
    sha256: str
    onnx_sha256: str
    targets: tuple[str, ...]
    versions: dict[str, str]
    opset: int
    precision: str
    plugin: bool
    task: str
    num_classes: int
    class_names: tuple[str, ...] | None
    batch: tuple[int, int, int]
    input_name: str
    input_type: str
    input_shape: tuple[int | str, ...]
    output_name: str
    output_type: str
    output_shape: tuple[int | str, ...]
    preprocessing: str
    pixel_scale: float
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    familiarity: DistanceScale | None = None
    grid: tuple[int, int] | None = None

    @property
    def outputs(self) -> list[tuple[str, tuple[int | str, ...], str]]:
        """The name, shape and type of each output of the file, in its order."""
        result = self.output_name, self.output_shape, self.output_type
        return [result] if self.familiarity is None else [result, (DISTANCE, self.output_shape[:1], "float32")]


def sha256(content: bytes) -> str:
    """The SHA-256 hash of ``content`` in hexadecimal, as manifests hold it."""
    return hashlib.sha256(content).hexdigest()


def sha256_of_files(contents: Sequence[bytes]) -> str:
    """The hash of a file with this content; of several, the hash of their hashes, written one behind the other."""
    hashes = [sha256(content) for content in contents]
    return hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode())


def describe(
    folded: FoldedHTCLIP,
    path: Path,
    content: bytes,
    precision: str,
    batch: tuple[int, int, int],
    output: str,
    channels: int,
    plugin: bool,
    kind: str = "onnx",
) -> Manifest:
    """The manifest of the ONNX file, or of another ``kind``, at ``path`` with this ``content``."""
    onnx_sha256, opset = "", 0
    if kind == "onnx":
        from .onnx_graph import OPSET

        onnx_sha256, opset = sha256(content), OPSET
    height, width = folded.image_size
    count: int | str = batch[0] if batch[0] == batch[2] else "batch"
    pixels = (height, width) if folded.config.task == "segmentation" else ()
    if output == "grid":
        pixels = folded.grid
    colors = "gray (ITU-R 601 luma)" if channels == 1 else "RGB"
    versions = {"ht_kernels": ht_kernels.__version__, **_installed(_PACKAGES if kind == "onnx" else ("torch",))}
    return Manifest(
        format=FORMAT,
        kind=kind,
        file=path.name,
        sha256=sha256(content),
        onnx_sha256=onnx_sha256,
        targets=(),
        versions=versions,
        opset=opset,
        precision=precision,
        plugin=plugin,
        task=folded.config.task,
        num_classes=folded.config.num_classes,
        class_names=folded.config.class_names,
        batch=batch,
        input_name="frames",
        input_type="uint8",
        input_shape=(count, channels, height, width),
        output_name=output,
        output_type="uint8" if output == "mask" else "float32",
        output_shape=(count, *pixels) if output == "mask" else (count, folded.width, *pixels),
        preprocessing=f"{colors}, {folded.resizing}, values 0 to 255; the graph scales them",
        pixel_scale=1 / 255,
        pixel_mean=folded.pixel_mean,
        pixel_std=folded.pixel_std,
        familiarity=None if folded.familiarity is None else folded.familiarity.scale,
        grid=folded.grid if folded.config.task == "segmentation" else None,
    )


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write the manifest beside ``path``, the exported file.

    Raises:
        InputError: the manifest cannot be written.
    """
    content = json.dumps(asdict(manifest), indent=2) + "\n"
    write_whole(manifest_path(path), content.encode(), "the manifest")


def manifest_of(path: Path) -> Manifest:
    """Read and check the manifest beside an exported file.

    Raises:
        InputError: as :func:`read_manifest`, there is no such file, or the manifest is that of another.
    """
    place = manifest_path(path)
    if not (path.exists() or place.exists()):
        raise InputError(f"there is no file {path}")
    if not place.exists():
        raise InputError(
            f"the manifest {place} cannot be read: there is none, and an exported file is opened with its manifest "
            f"beside it. Copy the manifest too; if {path.name} was renamed, give it back the name of its export"
        )
    manifest = read_manifest(place)
    if manifest.file != path.name:
        raise InputError(f"the manifest {place} is of {manifest.file}, not of {path.name}: open {manifest.file}")
    return manifest


def read_manifest(path: str | Path) -> Manifest:
    """Read and check the manifest at ``path`` (``*.json``), including the hash of the file that it describes.

    Raises:
        InputError: the manifest is missing, damaged or of another format, or the file that it describes is missing or
            has another hash.
    """
    path = Path(path)
    content = read_whole(path, "the manifest")
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the manifest {path} is damaged: it is not JSON; export the model again") from error
    if not isinstance(values, dict) or "format" not in values:
        raise InputError(f"{path} is not a manifest: expected what ht-kernels export writes")
    if values["format"] != FORMAT:
        raise InputError(f"{path} has manifest format {values['format']!r}, and this version reads format {FORMAT}")
    for added in ("familiarity", "grid"):
        values.setdefault(added, None)
    names = [field.name for field in fields(Manifest)]
    for problem, found in (("lacks", set(names) - values.keys()), ("has the unknown", values.keys() - set(names))):
        if found:
            raise InputError(f"the manifest {path} {problem} {sorted(found)[0]!r}; export the model again")
    hints = get_type_hints(Manifest)
    read: dict[str, Any] = {}
    for name in names:
        value = _distance_scale(values[name]) if name == "familiarity" else _tuples(values[name])
        if not _is(value, hints[name]):
            raise InputError(f"the manifest {path} is damaged: {name} is {values[name]!r}; export the model again")
        read[name] = value
    manifest = Manifest(**read)
    for name, problem in _contradictions(manifest):
        raise InputError(
            f"the manifest {path} is damaged: {name} is {values[name]!r}, expected {problem}; export the model again"
        )
    _check_file(manifest, path)
    return manifest


def read_described(path: Path, manifest: Manifest) -> list[bytes]:
    """Read what a manifest describes and check its hash.

    The returned bytes, not the files, are what runs, so the check holds for them.

    Raises:
        InputError: a file cannot be read, or has another hash.
    """
    contents = [read_whole(part, "the file") for part in described_files(path)]
    if sha256_of_files(contents) != manifest.sha256:
        raise InputError(f"{path} is not the file that its manifest describes; export the model again")
    return contents


def _tuples(value: Any) -> Any:
    """A value from JSON, with a list converted to a tuple."""
    return tuple(value) if isinstance(value, list) else value


def _distance_scale(value: Any) -> Any:
    """The DistanceScale that a value from JSON holds, or the value itself if it holds none."""
    hints = get_type_hints(DistanceScale)
    if not isinstance(value, dict) or value.keys() != hints.keys():
        return value
    held = {name: _tuples(one) for name, one in value.items()}
    return DistanceScale(**held) if all(_is(held[name], hint) for name, hint in hints.items()) else value


def _contradictions(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the name of each field with an impossible value, and the value expected.

    The fields are checked because buffers are allocated, and masks are named, by them.
    """
    low, usual, high = manifest.batch
    if not 1 <= low <= usual <= high <= LARGEST_BATCH:
        yield "batch", f"1 to {LARGEST_BATCH} frames, not falling"
    if manifest.task not in RESULTS_OF:
        yield "task", " or ".join(RESULTS_OF)
    if (manifest.num_classes < 1) != (manifest.task == "contrastive"):
        yield "num_classes", "1 or more, or 0 of a contrastive model"
    if manifest.class_names is not None and len(manifest.class_names) != manifest.num_classes:
        yield "class_names", f"{manifest.num_classes} names"
    count = low if low == high else "batch"
    first, *rest = manifest.input_shape or ("",)
    sizes = [size for size in rest if isinstance(size, int) and 0 < size <= LARGEST_SIDE]
    if first != count or len(rest) != 3 or rest != sizes or rest[0] not in (1, 3):
        yield "input_shape", f"({count}, 1 or 3, height, width)"
    if manifest.input_type != "uint8":
        yield "input_type", "uint8"
    if manifest.output_name not in RESULTS_OF[manifest.task]:
        yield "output_name", " or ".join(RESULTS_OF[manifest.task])
    if manifest.output_type != ("uint8" if manifest.output_name == "mask" else "float32"):
        yield "output_type", "uint8 of a mask, else float32"
    pixels = rest[1:] if manifest.task == "segmentation" else []
    if manifest.output_name == "grid":  # of any size
        pixels = [size for size in manifest.output_shape[2:] if isinstance(size, int) and 0 < size <= LARGEST_SIDE]
        pixels = pixels if len(pixels) == 2 else [0]
    width = {"logits": [manifest.num_classes], "grid": [manifest.num_classes], "mask": []}.get(manifest.output_name)
    if width is None:  # embeddings may have any width
        width = [size for size in manifest.output_shape[1:2] if isinstance(size, int) and 0 < size <= LARGEST_SIDE]
    if manifest.output_shape != (count, *width, *pixels) or len(manifest.output_shape) == 1:
        yield "output_shape", f"the shape of {manifest.output_name} of {manifest.num_classes} classes"
    patches = manifest.grid
    if patches is not None and (
        manifest.task != "segmentation"
        or not all(1 <= patch <= size for patch, size in zip(patches, sizes[1:], strict=True))
        or (manifest.output_name == "grid" and manifest.output_shape[2:] != patches)
    ):
        yield "grid", "null, or the patch grid of a segmentation model, (height, width)"
    scale = manifest.familiarity
    if scale is not None and not (scale.sound() and manifest.task != "contrastive"):
        yield "familiarity", "null, or a limit above 0 and quantiles that do not fall, of a model with classes"


def _check_file(manifest: Manifest, path: Path) -> None:
    if Path(manifest.file).name != manifest.file or manifest.file in ("", "..", "."):
        raise InputError(f"the manifest {path} names {manifest.file!r}, expected a file in its own folder")
    file = path.parent / manifest.file
    if manifest_path(file).name != path.name:
        raise InputError(
            f"the manifest {path} is of {manifest.file}, so files were renamed: an exported file and its manifest keep "
            f"their names. Name them {manifest.file} and {manifest_path(file).name} again, or export the model under "
            "the new name"
        )
    contents = []
    for part in described_files(file):
        try:
            contents.append(part.read_bytes())
        except OSError as error:
            raise InputError(f"{part}, named by the manifest {path}, cannot be read: {error.strerror}") from error
    found = sha256_of_files(contents)
    if found != manifest.sha256:
        names = " with ".join(str(part) for part in described_files(file))
        raise InputError(f"{names} is not the file that the manifest {path} describes (its sha256 is {found})")


def _is(value: Any, hint: Any) -> bool:
    """Whether a value from JSON, with lists converted to tuples, has the type ``hint``."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return any(_is(value, one) for one in inner)
    if origin is dict:
        return isinstance(value, dict) and all(_is(item, inner[1]) for item in value.values())
    if origin is tuple:
        kinds = inner[:1] * len(value) if inner[1:] == (Ellipsis,) and isinstance(value, tuple) else inner
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is, value, kinds))
    return type(value) is hint


def _installed(packages: Sequence[str]) -> dict[str, str]:
    return {name: found for name in packages if (found := environment.version(name))}
