"""The tensors in a TorchScript archive, such as OpenAI's CLIP models, without running what else is in it.

An archive is a ZIP file. ``data.pkl`` has the modules, each as an object with its attributes; ``data/`` has the bytes
of tensors; ``code/`` has the program, which is not looked at.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DEEPEST = 50
_NO_WEIGHTS = ("attn_mask", "input_resolution", "context_length", "vocab_size")
_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive. A damaged file is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # zipfile raises different exceptions for different damage
        return False


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor that is an attribute of a module, by the path of attributes that leads to it.

    These are the names in the state dict of the module that was saved. Attributes of OpenAI's modules that are no
    weights, attention masks and sizes, are left out.

    Raises:
        ValueError: the archive is malformed or holds something other than modules and tensors.
    """
    with zipfile.ZipFile(path) as archive:
        (modules,) = (name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
        root = _Modules(archive, modules.removesuffix("data.pkl")).load()
    tensors: dict[str, Tensor] = {}

    def collect(value: Any, name: str, depth: int) -> None:
        if isinstance(value, Tensor):
            if name.rpartition(".")[2] not in _NO_WEIGHTS:
                tensors[name] = value
        elif isinstance(value, _Module):
            if depth == _DEEPEST:
                raise ValueError(f"its modules are nested more than {_DEEPEST} deep")
            for key, inner in vars(value).items():
                collect(inner, f"{name}.{key}" if name else key, depth + 1)

    collect(root, "", 0)
    return tensors


class _Module:
    """Stands for a module of any class."""


class _Modules(pickle._Unpickler):
    """Reads ``data.pkl``, and makes nothing but modules, tensors and lists of numbers.

    The base class is written in Python, because the one written in C reserves as much memory as a file asks for.
    """

    def __init__(self, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{prefix}data.pkl")))
        self._archive, self._prefix = archive, prefix
        self._read: dict[str, Tensor] = {}
        self._class = type("Module", (_Module,), {})  # of this file alone, since a pickle can change its classes

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return self._class
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("collections", "OrderedDict"): OrderedDict,
            **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "double", "bool", "tensor")},
            **{("torch", storage): dtype for storage, dtype in _STORAGES.items()},
        }
        if (module, name) not in known:
            raise ValueError(f"it holds {module}.{name}, expected modules and tensors")
        return known[module, name]

    def persistent_load(self, saved: Any) -> Tensor:
        _, dtype, key, _, count = saved
        if key not in self._read:
            content = bytearray(self._archive.read(f"{self._prefix}data/{key}"))
            self._read[key] = (
                torch.frombuffer(content, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
            )
        return self._read[key]

    def _tensor(self, storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        return storage.as_strided(tuple(size), tuple(stride), offset)
