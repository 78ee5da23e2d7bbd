"""Checkpoints: our format, and the two formats that the published code writes, which are read here.

Our format is one safetensors file. It holds the adapters, the pyramid and the head under their state-dict names; a
contrastive model has no pyramid and no head, and stores the mean and standard deviation of pixels instead. A calibrated
model also stores its ``familiarity``. The tower's weights are stored if they were trained, if they are random, or if
:func:`save` was asked for them; otherwise a frozen tower takes no space. The metadata holds, under the key
``ht_kernels``, a JSON text with ``format``, ``version`` and ``config``, the arguments of HTCLIP, and, of a model that
was trained here, ``trained_on``, short hashes of its images (:mod:`ht_kernels.train.trained_on`).

No code in a checkpoint is executed: torch files are read with ``weights_only``.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ht_kernels.errors import InputError, reason
from ht_kernels.files import write_whole
from ht_kernels.nn import ClassificationHead, Familiarity
from ht_kernels.published import VARIANTS
from ht_kernels.weights import KEY, locate
from ht_kernels.weights.named import names_weights

from .injection import adapters
from .weight_file import outline, read_content, read_metadata, unwrap

if TYPE_CHECKING:
    from .htclip import HTCLIP

FORMAT = 1
BASELINE = "ht_kernels_baseline"
"""The key of the metadata in checkpoints of :class:`ht_kernels.train.Baseline`, which have no tower."""
_ADAPTER_NAME = re.compile(r"(?:^|\.)(?:resblocks|blocks)\.(\d+)\.mona\.(?:clip_mona\.)?(.+)$")
_HEADS = {"seg_head": "segmentation", "cls_head": "classification"}
_FAMILIARITY = "familiarity."
PUBLISHED_LAYERS = (3, 6, 9)
"""The feature layers of published models, whose checkpoints do not name them."""


def save(model: HTCLIP, path: str | Path, tower: bool = False, dtype: torch.dtype | None = None) -> None:
    """Write the trained tensors and the configuration. The file appears complete or not at all.

    Args:
        model: the model.
        path: the file to write, a safetensors file.
        tower: write the weights of the frozen tower too, except for blocks that the task does not run. The file then
            needs no other weights, and its configuration names none. Random weights (``model.draws_tower``) are written
            in any case, because nothing else has them.
        dtype: the type of the tensors in the file, such as ``torch.float16``; None for their own. What tells familiar
            images keeps its own type. :func:`load` makes a model of the tower's usual type in either case.

    Raises:
        InputError: the file cannot be written.
        ValueError: ``tower`` is given for a contrastive model, whose preprocessing belongs to its pretrained weights.
    """
    from safetensors.torch import save as to_bytes

    import ht_kernels

    if tower and model.config.task == "contrastive":
        raise ValueError("tower=True is for segmentation and classification; a contrastive model names its tower")
    config = vars(model.config) | ({"pretrained": None} if tower else {})
    header = {"format": FORMAT, "version": ht_kernels.__version__, "config": config}
    if model.trained_on is not None:
        header["trained_on"] = model.trained_on
    # The tensors are cloned, because safetensors refuses tensors that share memory, such as those of an adapter that
    # several blocks share.
    kept = (_run(model) if tower or model.draws_tower else {}) | trained(model)
    tensors = {
        name: t.detach()
        .to("cpu", None if name.startswith(_FAMILIARITY) else dtype)
        .clone(memory_format=torch.contiguous_format)
        for name, t in kept.items()
    }
    write_whole(Path(path), to_bytes(tensors, metadata={KEY: json.dumps(header)}), "the checkpoint")


def kind(path: Path) -> str:
    """What a checkpoint is: ``ours``, ``published``, or ``adapters`` for a published one without pyramid and head.

    Raises:
        InputError: the file is missing, damaged, of another format, or holds code.
    """
    content = read_content(path, "checkpoint file")
    if read_metadata(path) is not None:
        return "ours"
    parts, _ = _published_parts(path, content)
    return "published" if "reduces" in parts else "adapters"


def load(path: str | Path, **overrides: Any) -> HTCLIP:
    """Make a model from a checkpoint.

    Args:
        path: the name of weights that ship (:data:`ht_kernels.weights.SHIPPED`), a file in our format, or a torch file
            with one of these: a state dict of adapters only;
            ``{"reduces", "blocks", "seg_head" | "cls_head", "mona"}``, with an empty ``mona`` for a model without
            adapters; the state dict of a whole task model, whose tower is not read. A state dict may lie under a key
            that training scripts use (:data:`ht_kernels.clip.weight_file.WRAPPERS`).
        overrides: arguments of HTCLIP. They take precedence over those in the file. Pass ``backbone`` and
            ``pretrained`` for a published file, which does not name its tower, and ``task`` for a file with two heads.
            The ``normalization`` of a file cannot be changed; a published file has ``published``.
            ``spectral`` converts adapters with a gain per channel, as ``HTCLIP.to_spectral`` does. ``image_size``
            resizes a model of our format, as ``HTCLIP.resize`` does; a warning says so if its ``familiarity`` is lost.

    A ``backbone`` that is a module gets its adapters, in place, before the file's tensors are compared with it.

    Raises:
        InputError: no weights ship under the name; or the file is missing, damaged or of another format, holds code, or
            does not fit the model; or the weights of its tower are neither in it nor named, so that they would be drawn
            at random.
    """
    path = locate(path)
    content = read_content(path, "checkpoint file")
    form = overrides.pop("spectral", None)
    metadata = read_metadata(path)
    model = (
        _load_published(path, content, overrides)
        if metadata is None
        else _load_ours(path, content, metadata, overrides)
    )
    if form is None or form == model.config.spectral:
        return model
    try:
        return model.to_spectral(form)
    except ValueError as error:
        raise InputError(f"{path} cannot be converted: {error}") from error


def _run(model: HTCLIP) -> dict[str, Tensor]:
    """The tensors of a model by name, without those of blocks that are not run."""
    left_out = {id(t) for block in model.tower.blocks[model.depth :] for t in block.state_dict(keep_vars=True).values()}
    return {name: t for name, t in model.state_dict(keep_vars=True).items() if id(t) not in left_out}


def trained(model: HTCLIP) -> dict[str, Tensor]:
    """The tensors to save, by name: adapters, pyramid and head, and the trained weights of the tower.

    A weight of the tower counts as trained if it is trainable, came from a checkpoint, or was resampled.
    """
    trainable = {name for name, p in model.named_parameters() if p.requires_grad} | model.from_file | model.resampled
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("clip_model.") or ".mona." in name or name in trainable
    }


def _load_ours(
    path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str], overrides: dict[str, Any]
) -> HTCLIP:
    if BASELINE in metadata:
        raise InputError(
            f"{path} holds a UNet or ResNet that was trained as a baseline: ht-kernels evaluate takes it, and all else "
            "needs a model with a tower"
        )
    if KEY not in metadata:
        raise InputError(
            f"{path} is a safetensors file of something else: expected a checkpoint written by HTCLIP.save, with "
            f"'{KEY}' in its metadata"
        )
    try:
        header = json.loads(metadata[KEY])
        form, config = header["format"], dict(header["config"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: its '{KEY}' metadata is not what HTCLIP.save writes") from error
    if form != FORMAT:
        raise InputError(f"{path} has checkpoint format {form}, and this version reads format {FORMAT}")
    # Compare the configuration with the tensors before building, so that a damaged number cannot build a huge model.
    for name, shown in _read(path, _split(tensors)).items():
        if name in ("variant", "bottleneck", "task", "num_classes", "reduce_dim") and config.get(name) != shown:
            raise InputError(
                f"{path} is damaged: its configuration says {name} {config.get(name)!r}, its tensors {shown!r}"
            )
    size = overrides.pop("image_size", None)
    if config.get("task") == "contrastive":
        config.setdefault("normalization", "clip")  # older files do not say it
        _check_normalization(path, config["normalization"], overrides)
    config = {**config, **overrides}
    if config.get("backbone") is None:
        raise InputError(
            f"{path} was saved from a model around a module, not a name: pass backbone=, the module or the name of the "
            "same vision tower"
        )
    if isinstance(config["backbone"], nn.Module):
        config["pretrained"] = None
    for name in ("feature_layers", "class_names"):
        if isinstance(config.get(name), list):
            config[name] = tuple(config[name])
    model = _build(path, config)
    model.trained_on = header.get("trained_on")
    if any(name.startswith(_FAMILIARITY) for name in tensors):
        model.familiarity = _like_that_of(path, model, tensors)
    _fill(path, model, tensors)
    if model.draws_tower and not model.tower_names() <= tensors.keys():
        raise InputError(_drawn(path, config["backbone"]))
    model.draws_tower = False
    if model.familiarity is not None:
        _check_familiarity(path, model.familiarity)
        if size not in (None, model.config.image_size):
            warnings.warn(
                f"{path.name} is calibrated for another image size, so at {size} pixels it gives no distances from its "
                "training images; calibrate it again",
                stacklevel=4,
            )
    # A trained tower has positions of its own, so the model gets its weights first and another size then.
    return model if size is None else model.resize(size)


def _check_normalization(path: Path, own: str, overrides: Mapping[str, Any]) -> None:
    """Raise InputError if the overrides have another ``normalization`` than the one that a file was tuned with."""
    given = overrides.get("normalization", own)
    if given != own:
        raise InputError(
            f"{path} was tuned with the normalization {own}, and would give other embeddings with {given}: leave "
            "normalization out"
        )


def _like_that_of(path: Path, model: HTCLIP, tensors: Mapping[str, Tensor]) -> Familiarity:
    """A new Familiarity for a model, with as many directions and quantiles as the file has."""
    counts = []
    for name, dimensions in (("directions", 2), ("quantiles", 1)):
        tensor = tensors.get(_FAMILIARITY + name)
        if tensor is None or tensor.dim() != dimensions:
            raise InputError(f"{path} is damaged: it has a familiarity without the {name}")
        counts.append(tensor.shape[0])
    familiarity = Familiarity(len(model.config.feature_layers) * model.tower.dim, *counts)
    return familiarity.to(model.tower.patch_embedding.weight.device)


def _check_familiarity(path: Path, familiarity: Familiarity) -> None:
    """Raise InputError if a familiarity that a file has filled gives distances that mean nothing."""
    for name in ("spread", "variances", "remainder"):
        if not (getattr(familiarity, name) > 0).all():
            raise InputError(f"{path} is damaged: its familiarity.{name} has values that are not positive")
    if not familiarity.scale.sound():
        raise InputError(f"{path} is damaged: its familiarity.limit is not positive, or its familiarity.quantiles fall")


def _load_published(path: Path, content: Any, overrides: dict[str, Any]) -> HTCLIP:
    content, whole = _published_parts(path, content)
    parts = {name: content[name] for name in ("reduces", "blocks", *_HEADS) if name in content}
    groups = _group_adapters(path, content.get("mona"))
    # The published baseline has no adapters: ``mona`` is empty, or names only the tower, the pyramid and the head. A
    # file with adapters under other names is not taken for one.
    mona = content.get("mona")
    others = isinstance(mona, dict) and not any(".mona." in str(name) for name in mona)
    bare = bool(parts) and (mona == {} or (whole and others))
    if not (groups or bare):
        raise InputError(
            f"{path} holds no adapters: expected tensors with names such as blocks.0.mona.clip_mona.project1.weight, "
            f"got {outline(content.get('mona'))}"
        )
    _check_normalization(path, "published", overrides)
    config: dict[str, Any] = {"normalization": "published", **_read(path, content, overrides.get("task")), **overrides}
    if not groups:
        config.setdefault("adapter_layers", ())
    backbone = config.get("backbone")
    if backbone is None:
        raise InputError(
            f"{path} does not name its vision tower: pass --backbone and --pretrained (in Python backbone= and "
            "pretrained=) of the tower that it was trained on"
        )
    if isinstance(backbone, str) and not names_weights(backbone, config.get("pretrained")):
        raise InputError(_drawn(path, backbone))
    model = _build(path, config)
    headless = model.config.task == "contrastive"
    if not (parts or headless):
        warnings.warn(f"{path.name} holds adapters only: the heads are untrained", stacklevel=4)
    tensors = {}
    prefixes = _adapter_prefixes(model)
    for block, group in groups.items():
        if block not in prefixes:
            raise InputError(f"{path} has an adapter for block {block}, and the model has none there")
        tensors.update({prefixes[block] + name: tensor for name, tensor in group.items()})
    for part in parts:
        if hasattr(model, part):
            tensors.update({f"{part}.{name}": tensor for name, tensor in parts[part].items()})
    _fill(path, model, tensors, heads=bool(parts) and not headless)
    return model


def _drawn(path: Path, backbone: str) -> str:
    """A sentence that refuses a checkpoint whose tower is neither in it nor named."""
    return (
        f"{path} does not hold the weights of its vision tower, and {backbone} alone has random weights: pass "
        "--pretrained (in Python pretrained=) with the weights that it was trained on; random ones are lost, and then "
        "it has to be trained again"
    )


def _published_parts(path: Path, content: Any) -> tuple[dict[Any, Any], bool]:
    """The parts of a published checkpoint, and whether they were found in one state dict rather than stored apart."""
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {outline(content)}, expected a state dict or a published checkpoint")
    if not ("mona" in content or "reduces" in content):
        content = unwrap(path, content)
    whole = not ("mona" in content or "reduces" in content)
    return (_split(content) if whole else content), whole


def _split(state: Mapping[Any, Any]) -> dict[str, dict[Any, Any]]:
    """Split the state dict of a task model into the parts of a published checkpoint. Names may have any prefix."""
    parts: dict[str, dict[Any, Any]] = {"mona": dict(state)}
    first = next((n for n in state if isinstance(n, str) and re.search(r"(?:^|\.)reduces\.0\.weight$", n)), None)
    if first is not None:
        for part in ("reduces", "blocks", *_HEADS):
            prefix = first.removesuffix("reduces.0.weight") + f"{part}."
            found = {n[len(prefix) :]: t for n, t in state.items() if isinstance(n, str) and n.startswith(prefix)}
            if found:
                parts[part] = found
    return parts


def _read(path: Path, content: Mapping[str, Any], task: str | None = None) -> dict[str, Any]:
    """The arguments of HTCLIP that can be read from the tensors."""
    parts = {name: content[name] for name in ("reduces", "blocks", *_HEADS) if name in content}
    groups = _group_adapters(path, content.get("mona"))
    return {**_read_adapters(path, groups), **_read_parts(path, parts, task)}


def _group_adapters(path: Path, mona: Any) -> dict[int, dict[str, Tensor]]:
    """The tensors of each adapter, by block. Entries with other names are ignored."""
    groups: dict[int, dict[str, Tensor]] = {}
    for name, tensor in mona.items() if isinstance(mona, dict) else ():
        match = _ADAPTER_NAME.search(str(name))
        if not match:
            continue
        if len(match[1]) > 4:
            raise InputError(f"{path} has an adapter for a block whose number has {len(match[1])} digits")
        group = groups.setdefault(int(match[1]), {})
        if match[2] in group:
            raise InputError(f"{path} has two tensors for {match[2]} of the adapter of block {int(match[1])}")
        group[match[2]] = _plain(path, name, tensor)
    return groups


def _plain(path: Path, name: Any, tensor: Any) -> Tensor:
    """Return ``tensor`` if it is a dense floating-point tensor with finite values that lie in the file.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(tensor, Tensor):
        raise InputError(f"{path} has a {type(tensor).__name__} under {name}, expected a tensor")
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.is_floating_point()
    if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise InputError(f"{path}: {name} is not a plain tensor of floating-point numbers")
    if not tensor.isfinite().all():
        raise InputError(f"{path}: {name} has values that are not finite numbers")
    return tensor.detach()


def _read_adapters(path: Path, groups: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Any]:
    """Variant, bottleneck, blocks and spectral form, read from the tensors."""
    if not groups:
        return {}
    found = set()
    for block, group in groups.items():
        weight = group.get("project1.weight")
        if weight is None or weight.dim() != 2:
            raise InputError(f"{path} has an adapter for block {block} without a project1.weight (bottleneck, dim)")
        has = {name.split(".")[1] for name in group if name.startswith("adapter_conv.")}
        variant = next(
            name
            for name, kind in VARIANTS.items()
            if (kind.frequency, kind.noise) == (bool({"freq_filter", "spectral"} & has), "noise_estimator" in has)
        )
        found.add((variant, weight.shape[0], _form(group)))
    if len(found) > 1:
        raise InputError(
            f"{path} mixes adapters of several kinds, {sorted(found, key=str)}; expected one variant, width and "
            "spectral form"
        )
    ((variant, bottleneck, spectral),) = found
    return {
        "variant": variant,
        "bottleneck": bottleneck,
        "adapter_layers": tuple(sorted(groups)),
        "spectral": spectral,
    }


def _form(group: Mapping[str, Tensor]) -> str | None:
    """The form of an adapter's spectral mask, or None if it has no mask."""
    mask = group.get("adapter_conv.spectral.mask")
    if mask is None:
        return None
    if mask.dim() == 2:
        return "radial"
    return "shared" if mask.shape[:1] == (1,) else "full"


def _read_parts(path: Path, parts: dict[str, Any], task: str | None) -> dict[str, Any]:
    """Task, number of classes, pyramid width and feature layers, read from the tensors."""
    if not parts:
        return {}
    heads = [name for name in _HEADS if name in parts]
    if len(heads) == 2 and task in _HEADS.values():
        heads = [name for name in heads if _HEADS[name] == task]
    if len(heads) == 2:
        raise InputError(f"{path} has both heads, {' and '.join(heads)}: pass task=, {' or '.join(_HEADS.values())}")
    if not heads:
        raise InputError(f"{path} has no head, expected one of {', '.join(_HEADS)}")
    for part in ("reduces", "blocks", heads[0]):
        tensors = parts.get(part)
        if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors):
            raise InputError(f"{path} has no state dict under '{part}'")
        for name, tensor in tensors.items():
            _plain(path, f"{part}.{name}", tensor)
    reduces, head = parts["reduces"], parts[heads[0]]
    weights = [t for name, t in reduces.items() if name.endswith(".weight") and t.dim() == 2]
    biases = [t for name, t in head.items() if name.endswith(".bias") and t.dim() == 1]
    if not weights or not biases:
        raise InputError(f"{path} is incomplete: no weights under 'reduces' or no bias under '{heads[0]}'")
    config = {"task": _HEADS[heads[0]], "num_classes": biases[-1].shape[0], "reduce_dim": weights[0].shape[0]}
    if len(weights) == len(PUBLISHED_LAYERS):
        config["feature_layers"] = PUBLISHED_LAYERS
    return config


def _build(path: Path, config: dict[str, Any]) -> HTCLIP:
    from .htclip import HTCLIP

    try:
        return HTCLIP(**config)
    except Exception as error:  # the arguments come from a file, and may be anything
        raise InputError(f"{path} does not make a model: {reason(error)}") from error


def _adapter_prefixes(model: HTCLIP) -> dict[int, str]:
    """The prefix of each adapter's names in the model's state dict, by block."""
    names = {id(module): name for name, module in model.named_modules()}
    return {block: f"{names[id(adapter)]}." for block, adapter in adapters(model.tower).items()}


def _fill(path: Path, model: HTCLIP, tensors: Mapping[str, Tensor], heads: bool = True) -> None:
    """Load tensors into a model. The model must have all of them, and each of its trained tensors must be among them.

    With ``heads=False``, only tensors of adapters must be among them.
    """
    hidden = "cls_head.5.weight" in tensors
    if model.config.task == "classification" and heads and hidden != hasattr(model.cls_head, "5"):
        # The published code for OpenAI's CLIP and its code for other towers have different heads. A checkpoint may
        # combine either head with any tower.
        like = next(model.cls_head.parameters())
        head = ClassificationHead(model.config.reduce_dim, model.config.num_classes, hidden)
        model.cls_head = head.to(like.device, like.dtype)
    state = model.state_dict()
    wanted = {name for name in trained(model) if heads or ".mona." in name}
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
        _plain(path, name, tensor)
    model.load_state_dict(dict(tensors), strict=False)
    model.from_file = frozenset(n for n in tensors if n.startswith("clip_model."))
