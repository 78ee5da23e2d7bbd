"""Checkpoints in the form that the published code writes and loads; :mod:`ht_kernels.clip.checkpoint` reads them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ht_kernels.errors import InputError
from ht_kernels.files import write_whole
from ht_kernels.nn import HTAdapter

from .checkpoint import PUBLISHED_LAYERS, trained
from .in_place import seed
from .injection import adapters
from .torchscript import is_archive
from .towers import DinoTower, TimmTower

if TYPE_CHECKING:
    from .htclip import HTCLIP

_PLACES = {
    "timm": "visual.trunk.blocks.{}.mona.clip_mona.",
    "open_clip": "visual.transformer.resblocks.{}.mona.clip_mona.",
    "openai": "visual.transformer.resblocks.{}.mona.",
}
"""Where published CLIP models have the adapter of a block, by the package that the tower comes from."""


def to_published(model: HTCLIP) -> dict[str, Any]:
    """Return the weights in the form that the published code writes and loads.

    For segmentation and classification these are state dicts under ``reduces``, ``blocks``, ``seg_head`` or
    ``cls_head``, and ``mona``. A contrastive model has neither pyramid nor head, and gives the state dict of its
    adapters alone. Adapters have the names of the published code's CLIP model from the same package: timm's as a trunk,
    open_clip's, or OpenAI's, which is also taken for OpenAI's weights in open_clip's tower. The published code has two
    classification heads for one structure of tower, open_clip's and OpenAI's; there the head decides.

    A published model has an adapter behind every block, unless it is told a number of blocks. So a block without one
    gets a new adapter whose ``project2`` is zero, which adds nothing; a model without any adapter stays as it is. A
    spectral filter whose mask is constant becomes the gain per channel that it is.

    The form has no place for ``familiarity``, the names of the classes, the feature layers, which are
    :data:`ht_kernels.clip.checkpoint.PUBLISHED_LAYERS`, the image size and the name of the tower.

    Raises:
        InputError: the form has no place for a part of the model that its results depend on: weights of the tower that
            were trained, resampled or read from a checkpoint, a spectral mask that depends on frequency, a
            classification head that the published model of the same tower does not have, or the ``normalization``
            ``clip``.
    """
    if model.config.normalization != "published":
        raise InputError(
            "the published code never subtracts mean and standard deviation, and this model's adapters were tuned on "
            "images that are normalized as CLIP's: it would give other embeddings. Tune with --normalization published"
        )
    own = [name for name in trained(model) if name.startswith("clip_model.") and ".mona." not in name]
    if own:
        raise InputError(
            f"the published format has no place for weights of the tower, and {len(own)} of this model's were trained, "
            f"resampled or read from its checkpoint, such as {own[0]}"
        )
    present, contrastive = adapters(model.tower), model.config.task == "contrastive"
    if contrastive and not present:
        raise InputError("the published format has only adapters of a contrastive model, and this model has none")
    prefix = ("" if contrastive else "clip_model.") + _PLACES[package(model)]
    mona: dict[str, Tensor] = {}
    for block in range(len(model.tower.blocks)) if present else ():
        state = _published_state(block, present[block]) if block in present else _adds_nothing(model)
        mona.update({prefix.format(block) + name: tensor for name, tensor in state.items()})
    if contrastive:
        return mona
    head = "seg_head" if model.config.task == "segmentation" else "cls_head"
    return {**{part: getattr(model, part).state_dict() for part in ("reduces", "blocks", head)}, "mona": mona}


def package(model: HTCLIP) -> str:
    """The package that the published code takes a model's tower from: ``timm``, ``open_clip`` or ``openai``.

    Raises:
        InputError: the published model with this tower has another classification head, or no adapters.
    """
    hidden = model.config.task == "classification" and hasattr(model.cls_head, "5")
    if isinstance(model.tower, TimmTower):
        if hidden:
            raise InputError(
                "the published format has no place for this classification head: its hidden layer goes with OpenAI's "
                "tower, and the tower is one of timm"
            )
        return "timm"
    if isinstance(model.tower, DinoTower):
        raise InputError(
            "the published code puts no adapters into a tower of DINOv2's own code, so its format has no names for them"
        )
    if model.config.task == "classification":
        return "openai" if hidden else "open_clip"
    return "openai" if not model.tower.batch_first or _of_openai(model.config.pretrained) else "open_clip"


def check_layers(model: HTCLIP) -> None:
    """Raise InputError if the published code would read other feature layers than a model does."""
    layers = model.config.feature_layers
    if layers not in ((), PUBLISHED_LAYERS):
        raise InputError(
            f"the published code reads the feature layers {', '.join(map(str, PUBLISHED_LAYERS))}, and this model "
            f"{', '.join(map(str, layers))}: a published file has no place for that"
        )


def save_published(model: HTCLIP, path: str | Path) -> None:
    """Write what :func:`to_published` returns, a torch file. The file appears complete or not at all.

    Raises:
        InputError: as for :func:`to_published`, or the file cannot be written.
    """
    content = io.BytesIO()
    torch.save(to_published(model), content)
    write_whole(Path(path), content.getvalue(), "the checkpoint")


def _of_openai(pretrained: str | None) -> bool:
    """Whether the name of weights means OpenAI's: its tag, or a TorchScript archive, as OpenAI publishes them."""
    return pretrained == "openai" or (
        pretrained is not None and Path(pretrained).is_file() and is_archive(Path(pretrained))
    )


def _published_state(block: int, adapter: HTAdapter) -> dict[str, Tensor]:
    """The state dict of an adapter, with a gain per channel in place of a spectral filter that is one."""
    state: dict[str, Tensor] = adapter.state_dict()
    if adapter.spectral is not None:
        part: Any = adapter.get_submodule("adapter_conv.spectral")
        gain = part.gain()
        if gain is None:
            raise InputError(
                f"the published format has a gain per channel and no place for the {adapter.spectral} spectral filter "
                f"of block {block}, whose mask depends on frequency"
            )
        del state["adapter_conv.spectral.mask"]
        state["adapter_conv.freq_filter"] = gain.expand(adapter.project1.out_features).clone()
    return state


def _adds_nothing(model: HTCLIP) -> dict[str, Tensor]:
    """The state dict of a new adapter like those of a model, which returns its input. It is the same every time."""
    cpu = torch.device("cpu")
    with torch.random.fork_rng(()), cpu:
        seed(cpu)
        new = HTAdapter(model.tower.dim, model.config.bottleneck, model.config.variant, start="identity")
    like = next(iter(adapters(model.tower).values())).gamma
    state: dict[str, Tensor] = new.to(like.device, like.dtype).state_dict()
    return state
