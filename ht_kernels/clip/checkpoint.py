"""Checkpoints: our format, and the two that published code writes.

Ours is one safetensors file: adapters, pyramid and head by their state-dict names, and under ``ht_kernels`` in the
metadata a JSON text with ``format``, ``version`` and ``config``, the arguments of HTCLIP. The frozen tower is left out.

Nothing in a checkpoint is executed: torch files are read with ``weights_only``.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ht_kernels.errors import InputError
from ht_kernels.published import VARIANTS

from .injection import adapters

if TYPE_CHECKING:
    from .htclip import HTCLIP

FORMAT = 1
_KEY = "ht_kernels"
_ADAPTER_NAME = re.compile(r"(?:^|\.)(?:resblocks|blocks)\.(\d+)\.mona\.(?:clip_mona\.)?(.+)$")
_HEADS = {"seg_head": "segmentation", "cls_head": "classification"}
_LEVELS = (3, 6, 9)
"""Feature layers of published models."""


def save(model: HTCLIP, path: str | Path) -> None:
    """Write what was trained, and the configuration; the file appears whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    from safetensors.torch import save as to_bytes

    import ht_kernels

    header = {"format": FORMAT, "version": ht_kernels.__version__, "config": vars(model.config)}
    tensors = {name: t.detach().cpu().contiguous() for name, t in _trained(model).items()}
    _write(Path(path), to_bytes(tensors, metadata={_KEY: json.dumps(header)}))


def to_published(model: HTCLIP) -> dict[str, dict[str, Tensor]]:
    """The form that published code writes for a task model: ``reduces``, ``blocks``, the head, ``mona``.

    ``torch.save`` it; published code and :func:`load` read it.
    """
    head = "seg_head" if model.config.task == "segmentation" else "cls_head"
    parts = {name: getattr(model, name).state_dict() for name in ("reduces", "blocks", head)}
    parts["mona"] = {name: t for name, t in model.state_dict().items() if ".mona." in name}
    return parts


def load(path: str | Path, **overrides: Any) -> HTCLIP:
    """A model from a checkpoint.

    Args:
        path: our format; or a torch file with an adapter-only state dict; or one with ``{"reduces", "blocks",
            "seg_head" | "cls_head", "mona"}``.
        overrides: arguments of HTCLIP, over those that the file names or shows. A published file does not name
            its tower: give ``backbone`` and ``pretrained``.

    Raises:
        InputError: the file is missing, damaged, of another format, holds code, or does not fit the model.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no checkpoint file {path}")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if head[8:] == b"{":
        return _load_ours(path, overrides)
    return _load_published(path, overrides)


def _trained(model: HTCLIP) -> dict[str, Tensor]:
    """By name: adapters, pyramid, head, and what else the caller made trainable."""
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("clip_model.") or ".mona." in name or name in trainable
    }


def _load_ours(path: Path, overrides: dict[str, Any]) -> HTCLIP:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise InputError(f"{path} is damaged: it cannot be read as safetensors ({error})") from error
    if _KEY not in metadata:
        raise InputError(
            f"{path} is a safetensors file of something else: expected a checkpoint written by HTCLIP.save, with "
            f"'{_KEY}' in its metadata"
        )
    try:
        header = json.loads(metadata[_KEY])
        form, config = header["format"], dict(header["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: its '{_KEY}' metadata is not what HTCLIP.save writes") from error
    if form != FORMAT:
        raise InputError(f"{path} has checkpoint format {form}, and this version reads format {FORMAT}")
    config = {**config, **overrides}
    if config.get("backbone") is None:
        raise InputError(
            f"{path} was saved from a model around a module, not a name: pass backbone=, the module or the name of the "
            "same vision tower"
        )
    if isinstance(config["backbone"], nn.Module):
        config["pretrained"] = None
    for name in ("feature_layers", "class_names"):
        if config.get(name) is not None:
            config[name] = tuple(config[name])
    model = _build(path, config)
    _fill(path, model, tensors)
    return model


def _load_published(path: Path, overrides: dict[str, Any]) -> HTCLIP:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        words = str(error)
        if "weights_only" in words or "Unsupported" in words or "unsupported" in words:
            reason = "it holds more than tensors, such as code, which is not run"
        else:
            reason = "it is damaged, or not a torch or safetensors file"
        raise InputError(f"{path} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, expected a state dict or a published checkpoint")
    if "mona" in content or "reduces" in content:
        mona, parts = content.get("mona", {}), content
    else:
        inner = next((content[k] for k in ("mona_state_dict", "state_dict") if isinstance(content.get(k), dict)), None)
        mona, parts = inner or content, {}
    groups = _group_adapters(path, mona)
    config: dict[str, Any] = {**_read_adapters(path, groups), **_read_parts(path, parts), **overrides}
    if "backbone" not in config:
        warnings.warn(
            f"{path.name} does not name its vision tower, so ViT-B-16 with random weights is used; pass backbone= and "
            "pretrained= of the tower that it was trained on",
            stacklevel=4,
        )
    model = _build(path, config)
    if not parts:
        warnings.warn(f"{path.name} holds adapters only: the heads are untrained", stacklevel=4)
    tensors = {}
    prefixes = _adapter_prefixes(model)
    for block, group in groups.items():
        if block not in prefixes:
            raise InputError(f"{path} has an adapter for block {block}, and the model has none there")
        tensors.update({prefixes[block] + name: tensor for name, tensor in group.items()})
    for part in parts.keys() - {"mona"}:
        if hasattr(model, part):
            tensors.update({f"{part}.{name}": tensor for name, tensor in parts[part].items()})
    _fill(path, model, tensors, heads=bool(parts))
    return model


def _group_adapters(path: Path, mona: Any) -> dict[int, dict[str, Tensor]]:
    """The tensors of each adapter by block; other entries are somebody else's."""
    groups: dict[int, dict[str, Tensor]] = {}
    for name, tensor in mona.items() if isinstance(mona, dict) else ():
        match = _ADAPTER_NAME.search(str(name))
        if match and isinstance(tensor, Tensor):
            groups.setdefault(int(match[1]), {})[match[2]] = tensor
    if not groups:
        raise InputError(
            f"{path} holds no adapters: expected tensors with names such as blocks.0.mona.clip_mona.project1.weight"
        )
    return groups


def _read_adapters(path: Path, groups: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Any]:
    """Variant, bottleneck and blocks, read off the tensors."""
    found = set()
    for block, group in groups.items():
        weight = group.get("project1.weight")
        if weight is None or weight.dim() != 2:
            raise InputError(f"{path} has an adapter for block {block} without a project1.weight (bottleneck, dim)")
        has = {name.split(".")[1] for name in group if name.startswith("adapter_conv.")}
        variant = next(
            name
            for name, kind in VARIANTS.items()
            if (kind.frequency, kind.noise) == ("freq_filter" in has, "noise_estimator" in has)
        )
        found.add((variant, weight.shape[0]))
    if len(found) > 1:
        raise InputError(f"{path} mixes adapters of several kinds, {sorted(found)}; expected one variant and width")
    ((variant, bottleneck),) = found
    return {"variant": variant, "bottleneck": bottleneck, "adapter_layers": tuple(sorted(groups))}


def _read_parts(path: Path, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Task, classes and pyramid, read off the tensors."""
    if not parts:
        return {}
    heads = [name for name in _HEADS if name in parts]
    if len(heads) != 1:
        raise InputError(f"{path} has {' and '.join(heads) or 'no head'}, expected one of {', '.join(_HEADS)}")
    for part in ("reduces", "blocks", heads[0]):
        tensors = parts.get(part)
        if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
            raise InputError(f"{path} has no state dict under '{part}'")
    reduces, head = parts["reduces"], parts[heads[0]]
    weights = [t for name, t in reduces.items() if name.endswith(".weight") and t.dim() == 2]
    classes = [t.shape[0] for name, t in head.items() if name.endswith(".bias")]
    if not weights or not classes:
        raise InputError(f"{path} is incomplete: no weights under 'reduces' or no bias under '{heads[0]}'")
    config = {"task": _HEADS[heads[0]], "num_classes": classes[-1], "reduce_dim": weights[0].shape[0]}
    if len(weights) == len(_LEVELS):
        config["feature_layers"] = _LEVELS
    return config


def _build(path: Path, config: dict[str, Any]) -> HTCLIP:
    from .htclip import HTCLIP

    try:
        return HTCLIP(**config)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} does not make a model: {error}") from error


def _adapter_prefixes(model: HTCLIP) -> dict[int, str]:
    """Where the adapter of each block is in the model's state dict."""
    names = {id(module): name for name, module in model.named_modules()}
    return {block: f"{names[id(adapter)]}." for block, adapter in adapters(model.tower).items()}


def _fill(path: Path, model: HTCLIP, tensors: Mapping[str, Tensor], heads: bool = True) -> None:
    """Load tensors into a model that has all of them, and must get all that was trained."""
    state = model.state_dict()
    wanted = {name for name in _trained(model) if heads or ".mona." in name}
    missing, unknown = sorted(wanted - tensors.keys()), sorted(tensors.keys() - state.keys())
    if missing or unknown:
        words = [f"{name} is missing" for name in missing[:1]] + [f"{name} is unknown" for name in unknown[:1]]
        raise InputError(f"{path} does not fit the model: {' and '.join(words)}")
    for name, tensor in tensors.items():
        if tensor.shape != state[name].shape:
            raise InputError(
                f"{path} does not fit the model: {name} has shape {tuple(tensor.shape)}, expected "
                f"{tuple(state[name].shape)}"
            )
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise InputError(f"{path}: {name} has values that are not finite numbers")
    model.load_state_dict(dict(tensors), strict=False)


def _write(path: Path, content: bytes) -> None:
    """Through a temporary file beside it."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise InputError(f"the checkpoint {path} cannot be written: {error.strerror}") from error
