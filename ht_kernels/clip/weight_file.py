"""Reading files of weights: safetensors, torch files and TorchScript archives, told apart by their content.

No code in a file is executed. Torch files are read with ``weights_only``, which knows tensors and plain containers.
NumPy's numbers, times and ``argparse.Namespace``, which training scripts store beside the weights, are allowed besides.
Of a TorchScript archive only the tensors are read.
"""

from __future__ import annotations

import argparse
import datetime
import re
import warnings
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ht_kernels.errors import InputError, reason
from ht_kernels.weights import SHIPPED
from ht_kernels.weights.foreign import foreign

from . import torchscript

WRAPPERS = ("model_state_dict", "state_dict", "mona_state_dict", "model", "module", "net", "network", "weights")
"""Keys under which training scripts put the state dict."""

_DEEPEST = 4  # wrappers within wrappers
_PREFIXES = re.compile(r"^(?:module\.|_orig_mod\.)+")  # of DataParallel and torch.compile
_MODELS = ("model", "net", "clip", "clip_model")  # attributes under which scripts keep the CLIP model


def read_content(path: Path, what: str) -> Any:
    """What a file holds: the tensors by name, or the object that was written by ``torch.save``.

    Args:
        path: the file.
        what: what it should be, for the error message, such as "checkpoint file".

    Raises:
        InputError: the file is missing, cannot be read, or holds something else; the message says what.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a {what}: name the file in it")
    if not path.is_file():
        shipped = f", or {path.stem}, whose weights come with the package" if path.stem in SHIPPED else ""
        raise InputError(f"there is no {what} {path}: name one that exists{shipped}")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    problem = foreign(path, head)
    try:
        if not problem:
            if is_safetensors(head):
                from safetensors.torch import load_file

                return load_file(path)
            if torchscript.is_archive(path):
                return torchscript.read_tensors(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about the legacy format
                # Given a path, torch.load goes by the name of the file.
                with torch.serialization.safe_globals(_allowed()), path.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        problem = _problem(error)
        cause: Exception | None = error
    else:
        cause = None
    raise InputError(f"{path} cannot be read as a {what}: {problem}") from cause


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A state dict from a file of weights.

    A wrapper around it (:data:`WRAPPERS`), the prefixes of DataParallel and ``torch.compile``, the name of an attribute
    that holds the whole model, such as ``model.``, and entries that are no tensors are taken away.

    Raises:
        InputError: as :func:`read_content` and :func:`unwrap`, or the file holds no state dict.
    """
    path = Path(path)
    state = unwrap(path, read_content(path, "weights file"))
    tensors = {k: t for k, t in state.items() if isinstance(t, Tensor)} if isinstance(state, dict) else {}
    if not tensors:
        raise InputError(f"{path} holds no state dict: expected names with tensors, got {outline(state)}")
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise InputError(f"{path}: {name} is not a plain tensor whose values lie in the file")
    named = {_PREFIXES.sub("", str(name)): tensor for name, tensor in tensors.items()}
    for prefix in _MODELS:
        if all(name.startswith(f"{prefix}.") for name in named):
            return {name.removeprefix(f"{prefix}."): tensor for name, tensor in named.items()}
    return named


def read_metadata(path: Path) -> dict[str, str] | None:
    """The metadata of a safetensors file; None for a file of another kind."""
    from safetensors import safe_open

    with path.open("rb") as file:
        if not is_safetensors(file.read(9)):
            return None
    with safe_open(path, framework="pt") as content:
        return content.metadata() or {}


def is_safetensors(head: bytes) -> bool:
    """Whether a file with these first bytes is of safetensors: the length of a JSON text, and the text."""
    return head[8:9] == b"{"


def unwrap(path: Path, content: Any) -> Any:
    """The state dict in what a training script wrote: the content itself, or what lies under one of the wrappers.

    Raises:
        InputError: the content has several wrappers, so that it is unclear which is meant.
    """
    for _ in range(_DEEPEST):
        found = [key for key in WRAPPERS if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)]
        if len(found) > 1:
            raise InputError(f"{path} holds several state dicts, {', '.join(found)}: save the one that is meant alone")
        if not found:
            break
        content = content[found[0]]
    return dict(content) if isinstance(content, Mapping) else content


def outline(content: Any) -> str:
    """What was found, in a few words."""
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    names = [str(name) for name in content]
    return f"{', '.join(names[:5])}{' and so on' if len(names) > 5 else ''}" if names else "nothing"


def _problem(error: Exception) -> str:
    """Why torch or safetensors could not read a file."""
    words = reason(error)
    found = re.search(r"GLOBAL (\S+)", words)
    if found:
        return f"it holds {found[1]}, which is code or an object and is not run; save the weights alone"
    if "weights_only" in words or "nsupported" in words:
        return "it holds more than tensors, such as code, which is not run; save the weights alone"
    return f"it is damaged, or not a torch or safetensors file ({words.removesuffix('.')})"


def _allowed() -> list[Any]:
    """Numbers and containers that may lie beside tensors. To make one runs no code of the file."""
    scalar = np.float64(0).__reduce__()[0]
    array = np.zeros(0).__reduce__()[0]
    dtypes = {type(np.dtype(kind)) for kind in "?bhilqBHILQefdSUMm"}
    aliases = [
        (made, f"{module}.multiarray.{name}")
        for module in ("numpy.core", "numpy._core")  # before and since NumPy 2
        for made, name in ((scalar, "scalar"), (array, "_reconstruct"))
    ]
    paths = [
        (kind, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")  # the latter in Python 3.13
        for kind, name in ((PurePosixPath, "PosixPath"), (PureWindowsPath, "WindowsPath"))
    ]
    times = [datetime.datetime, datetime.date, datetime.timedelta]
    return [argparse.Namespace, *times, np.ndarray, np.dtype, *dtypes, *aliases, *paths]
