"""Files that are taken for weights and are something else, told by their first bytes, without torch."""

from __future__ import annotations

import codecs
import zipfile
from pathlib import Path

_STATE = b"made_of"
"""The first name in the state of a training, the ``last.pt`` of :class:`ht_kernels.train.Trainer`."""


def foreign(path: Path, head: bytes) -> str:
    """What a file is that holds no weights, in words; "" if it may hold some."""
    text = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if not head:
        return "it is empty"
    if text.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS and not the file that it stands for: run git lfs pull"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "it is a web page: the download failed, or needs a login"
    if head.startswith(b"\x89HDF"):
        return "it is an HDF5 file; convert the weights to safetensors"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")) or head[257:262] == b"ustar":
        return "it is a packed archive: unpack it first"
    if head.startswith(b"\x93NUMPY"):
        return "it is an array of NumPy; convert the weights to safetensors"
    if head.startswith(b"PK"):
        return _foreign_archive(path)
    if head.startswith(b"\x08") and b"\x12" in head[:4]:
        return "it is an ONNX file, which cannot be turned back into a checkpoint"
    return "it is a text, not weights" if _is_text(head) else ""


def _is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are of a text in UTF-8; the last character may be cut."""
    text = codecs.getincrementaldecoder("utf-8")()
    try:
        return all(c.isprintable() or c in "\t\r\n\ufeff" for c in text.decode(head))
    except UnicodeDecodeError:
        return False


def _foreign_archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries if entry.filename.endswith("data.pkl")]
            is_state = any(_STATE in archive.open(name).read(32) for name in names)
    except Exception:  # zipfile raises different exceptions for different damage
        return "it is cut off or damaged; the download may be incomplete"
    if not names:
        numpy = any(entry.filename.endswith(".npy") for entry in entries)
        return "it is an archive of NumPy" if numpy else "it is a ZIP archive of other files: unpack it first"
    if any("/code/__torch__/ht_kernels/deploy/torchscript" in entry.filename for entry in entries):
        return (
            "it is a TorchScript file of ht-kernels export, for programs without this package, and cannot be turned "
            "back into a checkpoint: name the checkpoint that it was exported from, or an ONNX file"
        )
    if is_state:
        best = path.with_name("best.safetensors")
        advice = f"name {best}, its best weights" if best.is_file() else "name the best.safetensors that it wrote"
        return f"it is the state of a training, for ht-kernels train to go on from: {advice}"
    data = [entry for entry in entries if "/data" in entry.filename]
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in data):
        return "its tensors are compressed, which torch does not do"
    if sum(entry.file_size for entry in data) > path.stat().st_size:
        return "its tensors are said to be larger than the file"
    return ""
