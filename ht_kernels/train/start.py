"""The model that a training starts with: new adapters and heads, or some of those of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ht_kernels.clip import HTCLIP
from ht_kernels.errors import InputError
from ht_kernels.folding import blocks_to_run

from .methods import uses_adapters

_OF_ADAPTERS = ("variant", "bottleneck")
_OF_HEADS = ("reduce_dim", "feature_layers")
"""Of which a contrastive checkpoint has none."""


def build(method: str, **options: Any) -> HTCLIP:
    """A new model with adapters where the method trains them: behind the blocks that are run.

    Args:
        method: one of :data:`ht_kernels.train.METHODS`.
        options: arguments of HTCLIP, ``adapter_layers`` apart.

    Raises:
        InputError: an option does not fit.
    """
    run = None if options.get("task") == "contrastive" else blocks_to_run(options.get("feature_layers", (3, 6, 9)))
    return _make(**options, adapter_layers=run if uses_adapters(method) else ())


def start_from(path: Path, method: str, keep_adapters: bool = False, **options: Any) -> HTCLIP:
    """A model with the weights of a checkpoint: its tower, what fits of its heads and, if asked for, its adapters.

    The pyramid fits where it reads the same blocks in the same width, the head where it also has the same task and
    classes. Everything else is as new as :func:`build` makes it.

    Args:
        path: a checkpoint, as for :meth:`ht_kernels.HTCLIP.from_checkpoint`.
        method: one of :data:`ht_kernels.train.METHODS`.
        keep_adapters: keep the checkpoint's, with a spectral filter for their gain if ``spectral`` is given.
        options: arguments of HTCLIP; those that are not given are the checkpoint's.

    Raises:
        InputError: the checkpoint cannot be loaded, or an option does not fit it.
    """
    given = [name for name in _OF_ADAPTERS if name in options]
    if keep_adapters and given:
        raise InputError(f"{given[0]} was given for new adapters, but those of {path} are kept: leave one of them out")
    tower = {name: options[name] for name in ("backbone", "pretrained") if name in options}
    kept = {"spectral": options.pop("spectral", None)}
    source = HTCLIP.from_checkpoint(path, **tower, **(kept if keep_adapters else {}))
    missing = () if source.config.feature_layers else _OF_HEADS
    config = {name: value for name, value in vars(source.config).items() if name not in missing} | kept | options
    if keep_adapters:
        config |= {name: getattr(source.config, name) for name in (*_OF_ADAPTERS, "adapter_layers", "spectral")}
        model = _make(**config)
    else:
        del config["adapter_layers"]
        model = build(method, **config)
    model.load_state_dict(_shared(source, model, keep_adapters), strict=False)
    model.trained_before = source.trained_before
    return model


def _make(**config: Any) -> HTCLIP:
    try:
        return HTCLIP(**config)
    except ValueError as error:
        raise InputError(str(error)) from error


def _shared(source: HTCLIP, model: HTCLIP, keep_adapters: bool) -> dict[str, Any]:
    """The tensors of ``source`` that ``model`` is to have."""
    ours, theirs = model.config, source.config
    pyramid = (ours.feature_layers, ours.reduce_dim) == (theirs.feature_layers, theirs.reduce_dim)
    classes = theirs.class_names in (None, ours.class_names) and ours.num_classes == theirs.num_classes
    head = pyramid and classes and ours.task == theirs.task

    def shared(name: str) -> bool:
        if name.startswith("clip_model."):
            return keep_adapters or ".mona." not in name
        return pyramid if name.startswith(("reduces.", "blocks.")) else head

    return {name: tensor for name, tensor in source.state_dict().items() if shared(name)}
