"""The model that training starts with: a new one, or one that takes weights from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ht_kernels.clip import HTCLIP
from ht_kernels.clip.checkpoint import kind
from ht_kernels.clip.injection import adapters
from ht_kernels.errors import InputError
from ht_kernels.folding import blocks_to_run
from ht_kernels.weights import locate

from .fingerprint import hash_tensors
from .recipe import uses_adapters

Say = Callable[[str], None]
_OF_ADAPTERS = ("variant", "bottleneck")

_OF_HEADS = ("reduce_dim", "feature_layers")
"""Options of the heads. A contrastive checkpoint has no heads, so its values of these options are not used."""


def build(method: str, **options: Any) -> HTCLIP:
    """Make a new model. If the method trains adapters, every block that is run gets one.

    Args:
        method: one of :data:`ht_kernels.train.METHODS`.
        options: arguments of HTCLIP, except ``adapter_layers``.

    Raises:
        InputError: HTCLIP does not accept an option.
    """
    run = None if options.get("task") == "contrastive" else blocks_to_run(options.get("feature_layers", (3, 6, 9)))
    return _make(**options, adapter_layers=run if uses_adapters(method) else ())


def start_from(
    path: Path,
    method: str,
    keep_adapters: bool | None = False,
    new_normalization: str | None = None,
    say: Say = lambda _: None,
    **options: Any,
) -> HTCLIP:
    """Make a model with weights from a checkpoint: the tower, the heads that fit and, if asked for, the adapters.

    The pyramid fits if the model's pyramid reads the same blocks and has the same width. The head fits if, in addition,
    task and classes are the same. All other parts are new, as :func:`build` makes them.

    Args:
        path: a checkpoint, as for :meth:`ht_kernels.HTCLIP.from_checkpoint`.
        method: one of :data:`ht_kernels.train.METHODS`.
        keep_adapters: take the adapters from the checkpoint. If ``spectral`` is given, it replaces their gain by a
            spectral filter. None takes them if the checkpoint has adapters, the method uses adapters, and ``variant``,
            ``bottleneck`` and ``spectral`` are theirs as far as they are given; ``start`` is then not used.
        new_normalization: the ``normalization`` of new adapters for another task than that of the checkpoint, unless
            ``options`` name it; None for that of HTCLIP.
        say: receives a sentence that says what is taken from the checkpoint, and what is new.
        options: arguments of HTCLIP; by default, the values of the checkpoint. If ``variant`` is given, adapters have a
            spectral filter only if ``spectral`` is given too.

    Raises:
        InputError: the checkpoint cannot be loaded, has no adapters to keep, its adapters were trained with another
            ``normalization`` than the model has, or an option does not fit it.
    """
    given = [name for name in (*_OF_ADAPTERS, "start") if name in options]
    if keep_adapters and given:
        raise InputError(f"{given[0]} was given for new adapters, but those of {path} are kept: leave one of them out")
    tower = {name: options[name] for name in ("backbone", "pretrained") if name in options}
    size = options.get("image_size")
    form = {"spectral": options.get("spectral")} if {"spectral", "variant"} & options.keys() else {}
    source = HTCLIP.from_checkpoint(path, **tower, **(form if keep_adapters else {}))
    if keep_adapters is None:
        asked = {name: options[name] for name in _OF_ADAPTERS if name in options} | form
        same = all(getattr(source.config, name) == value for name, value in asked.items())
        keep_adapters = uses_adapters(method) and bool(adapters(source.tower)) and same
        if keep_adapters:
            form = {}
            options = {name: value for name, value in options.items() if name not in (*asked, "start")}
    if keep_adapters and not adapters(source.tower):
        raise InputError(f"{path} has no adapters that could be kept: start with new ones, --new-adapters")
    task, own = options.get("task", source.config.task), source.config.normalization
    wanted = options.get("normalization", own if task == "contrastive" else "published")
    if keep_adapters and wanted != own:
        raise InputError(
            f"the adapters of {path} were trained with the normalization {own}, and would be fed with {wanted}: "
            "name the same with --normalization if the task has it, or start with new adapters, --new-adapters"
        )
    if size is not None and keep_adapters:
        try:
            source.resize(size)
        except InputError as error:
            if source.config.spectral is None:
                raise
            raise InputError(f"{error}; or start with new adapters, --new-adapters") from error
    elif size is not None and source.tower.image_size != (size, size):
        source.tower.resize(size)  # without the adapters, whose filters may be bound to a grid: new ones replace them
    missing = () if source.config.feature_layers else _OF_HEADS
    config = {name: value for name, value in vars(source.config).items() if name not in missing} | form
    if not keep_adapters and task != source.config.task:
        config["normalization"] = new_normalization
    config |= options
    if keep_adapters:
        config |= {name: getattr(source.config, name) for name in (*_OF_ADAPTERS, "adapter_layers", "spectral")}
        model = _make(**config)
    else:
        del config["adapter_layers"]
        model = build(method, **config)
    if source.holds_tower and model.depth > source.depth:
        raise InputError(
            f"{path} holds blocks 0 to {source.depth - 1} of its tower, and the model would run block "
            f"{model.depth - 1}, which has no trained weights: choose feature layers up to {source.depth - 1}, or name "
            "the tower's weights"
        )
    taken = _shared(source, model, keep_adapters)
    model.load_state_dict(taken, strict=False)
    model.started_from = hash_tensors(taken)
    model.trained_on = source.trained_on if taken else None
    model.from_file, model.resampled = source.from_file, source.resampled
    model.draws_tower = model.draws_tower and not model.tower_names() <= taken.keys()
    say(_start(path, source, model, taken, keep_adapters))
    return model


def _start(path: Path, source: HTCLIP, model: HTCLIP, taken: Mapping[str, Any], kept: bool) -> str:
    """A sentence that says what a model takes from a checkpoint, what of it is new, and whether adapters are lost."""
    parts, new = ["tower", *(["adapters"] if kept else [])], []
    if model.config.task != "contrastive":
        trained = kind(locate(path)) != "adapters"  # a file of adapters alone has no heads, and the model's are new
        pyramid = trained and any(name.startswith("reduces.") for name in taken)
        head = trained and any(name.startswith(("seg_head.", "cls_head.")) for name in taken)
        parts += ["heads"] if head else ["pyramid"] if pyramid else []
        new += [] if head else ["a new head"] if pyramid else ["new heads"]
    new += ["new adapters"] if adapters(model.tower) and not kept else []
    words = [f"starts from {path}: its {_joined(parts)}"]
    words += [_joined(new)] if new else []
    if adapters(source.tower) and not kept:
        words.append(f"those of {path} are left out" if adapters(model.tower) else "its adapters are left out")
    bare = [str(block) for block in range(model.depth) if block not in adapters(model.tower)]
    words += [f"no adapters behind the blocks {', '.join(bare)}"] if kept and bare else []
    return "; ".join(words)


def _joined(words: list[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _make(**config: Any) -> HTCLIP:
    try:
        return HTCLIP(**config)
    except ValueError as error:
        raise InputError(str(error)) from error


def _shared(source: HTCLIP, model: HTCLIP, keep_adapters: bool) -> dict[str, Any]:
    """The tensors of ``source`` that ``model`` takes.

    Of the tower these are the ones that the checkpoint holds. The model has read the others itself, in its own image
    size, as a checkpoint of it will.
    """
    ours, theirs = model.config, source.config
    pyramid = (ours.feature_layers, ours.reduce_dim) == (theirs.feature_layers, theirs.reduce_dim)
    classes = theirs.class_names in (None, ours.class_names) and ours.num_classes == theirs.num_classes
    head = pyramid and classes and ours.task == theirs.task

    def shared(name: str) -> bool:
        if name.startswith("pixel_") and ours.normalization != theirs.normalization:
            return False
        if ".mona." in name:
            return keep_adapters
        if name.startswith("clip_model."):
            return name in source.from_file | source.resampled
        return pyramid if name.startswith(("reduces.", "blocks.")) else head

    return {name: tensor for name, tensor in source.state_dict().items() if shared(name)}
