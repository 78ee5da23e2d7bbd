"""Loading towers by name, from open_clip, the Hugging Face hub, a local folder or timm.

The text tower is built only if asked for, because segmentation and classification do not use it, and some text towers,
such as BiomedCLIP's, need another package and another download. The hub is contacted only if the name starts with
``hf-hub:`` or ``pretrained`` is the tag of weights that must be downloaded.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ht_kernels.errors import InputError, reason
from ht_kernels.packages import import_package

from .open_clip import open_clip
from .torchscript import is_archive
from .towers import check_size, find_tower
from .weight_file import read_weights

_CONFIG = "open_clip_config.json"
_WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")


class VisionOnly(nn.Module):
    """A CLIP model without its text tower. Its only child is named ``visual``, as in CLIP models and checkpoints."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual

    def encode_image(self, images: Tensor) -> Tensor:
        """Return the image embeddings (B, E), not normalised."""
        embeddings: Tensor = self.visual(images)
        return embeddings


def load_backbone(
    name: str, pretrained: str | None = None, image_size: int | None = None, text: bool = False
) -> nn.Module:
    """Load the vision tower called ``name``, or, with ``text``, the whole CLIP model.

    Args:
        name: an open_clip name (``ViT-B-16``), ``hf-hub:ORG/REPO``, ``local-dir:FOLDER`` (a folder with
            ``open_clip_config.json`` and the weights), or ``timm/NAME``.
        pretrained: a tag that open_clip or timm knows, or the path of a weights file. With None, ``hf-hub:`` and
            ``local-dir:`` models get the weights that lie there, and all others random weights.
        image_size: the side of the images in pixels, a multiple of the patch size; None for the tower's own, which for
            a timm tower is that of the weights. If it differs from the weights', the position embedding is resampled.
        text: build the text tower too, and set open_clip's preprocessing on the model.

    Raises:
        InputError: the name or tag is unknown, the hub cannot be reached, a file cannot be read or does not fit, the
            tower cannot take images of ``image_size``, or ``text`` is true for a model without a text tower.
    """
    if name.startswith("timm/"):
        if text:
            raise InputError(f"{name} has no text tower, which image-text tasks need; name a CLIP model of open_clip")
        model: nn.Module = _load_timm(name.removeprefix("timm/"), pretrained)
    else:
        model = _load_open_clip(name, pretrained, image_size, text)
    if image_size is not None:
        tower = find_tower(model)
        if tower.image_size != (image_size, image_size):
            tower.resize(image_size)
    return model


def _load_timm(name: str, pretrained: str | None) -> Any:
    timm = import_package("timm", f"backbone timm/{name} needs timm", "timm")
    local = pretrained is not None and Path(pretrained).is_file()
    full_name = name if pretrained is None or local else f"{name}.{pretrained}"
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}{_suggest(name, timm.list_models())}")
    from_hub = pretrained is not None and not local
    if from_hub and full_name not in (known := timm.list_pretrained(f"{name}.*")):
        raise _no_weights(name, str(pretrained), [each.removeprefix(f"{name}.") for each in known])
    try:
        model: Any = timm.create_model(full_name, pretrained=from_hub, num_classes=0)
    except Exception as error:
        if not from_hub:
            raise InputError(f"timm cannot build {name} ({reason(error)})") from error
        raise InputError(
            f"the weights {full_name} could not be loaded ({reason(error)}); offline, pass pretrained=PATH of a "
            "weights file"
        ) from error
    if local:
        state = {k: t for k, t in read_weights(str(pretrained)).items() if not k.startswith(("head.", "fc_norm."))}
        state = _in_timms_names(state) if "mask_token" in state else state
        _take_size(model, model, state.get("pos_embed"))
        _assign(model, state, str(pretrained))
    return model


def _in_timms_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a DINOv2 in timm's names, from those of its own code, as its files have them.

    With registers timm has no position for the class token; the one it has here is added to the token.
    """
    names = {"mlp.w12.": "mlp.fc1.", "mlp.w3.": "mlp.fc2.", "register_tokens": "reg_token"}
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for theirs, timms in names.items():
            name = name.replace(theirs, timms)
        renamed[name] = tensor
    del renamed["mask_token"]
    if {"reg_token", "cls_token", "pos_embed"} <= renamed.keys():
        positions = renamed["pos_embed"]
        renamed |= {"cls_token": renamed["cls_token"] + positions[:, :1], "pos_embed": positions[:, 1:]}
    return renamed


def _load_open_clip(name: str, pretrained: str | None, image_size: int | None, text: bool) -> nn.Module:
    library = open_clip(f"backbone {name}")
    from open_clip.model import _build_vision_tower, resize_pos_embed  # type: ignore[import-untyped]

    schema, _, place = name.partition(":")
    try:
        config = library.get_model_config(name)
    except Exception as error:
        raise InputError(
            f"the configuration of {name} could not be read ({reason(error)}); offline, pass "
            "backbone='local-dir:FOLDER', a folder with open_clip_config.json and the weights"
        ) from error
    if config is None:
        raise InputError(f"open_clip has no model {name!r}{_suggest(name, library.list_models())}")
    path, quick_gelu = _find_weights(name, schema, place, pretrained)
    vision = dict(config["vision_cfg"])
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    elif image_size is not None:
        if "patch_size" in vision and image_size != vision.get("image_size", 224):
            check_size(image_size, (vision["patch_size"], vision["patch_size"]))
        vision["image_size"] = image_size
    if quick_gelu is None:
        quick_gelu = bool(config.get("quick_gelu", False))
    model: nn.Module
    if text:
        model = _build_clip(name, {**config, "vision_cfg": vision, "quick_gelu": quick_gelu})
        _set_preprocessing(model, name, schema, place, pretrained)
    else:
        model = VisionOnly(_build_vision_tower(config["embed_dim"], vision, quick_gelu))
    if path is not None:
        state = read_weights(path)
        if text:
            state = _name_text(state, model)
        else:
            state = {k: t for k, t in state.items() if k.startswith("visual.")}
            if not state:
                raise InputError(f"{path} holds no vision tower: expected names that start with 'visual.'")
        resize_pos_embed(state, model)
        if "timm_model_name" in vision:
            visual: Any = model.visual
            _take_size(visual.trunk, visual, state.get("visual.trunk.pos_embed"))
        _assign(model, state, path)
    return model


def _build_clip(name: str, config: dict[str, Any]) -> nn.Module:
    """Build a CLIP model, vision and text tower, with random weights."""
    from open_clip.model import CLIP, CustomTextCLIP

    text = dict(config.pop("text_cfg"))
    if "multimodal_cfg" in config:
        raise InputError(f"{name} has a text decoder behind its towers; image-text tuning needs a CLIP model without")
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    kind = CustomTextCLIP if config.pop("custom_text", False) or "hf_model_name" in text else CLIP
    try:
        model: nn.Module = kind(**config, text_cfg=text)
    except Exception as error:  # open_clip raises different exceptions for missing packages
        raise InputError(f"the towers of {name} cannot be built ({reason(error)})") from error
    return model


def _set_preprocessing(model: nn.Module, name: str, schema: str, place: str, pretrained: str | None) -> None:
    """Set the preprocessing of images (mean, standard deviation, resizing) on the model, as open_clip does."""
    from open_clip import get_pretrained_cfg  # type: ignore[import-untyped]
    from open_clip.model import set_model_preprocess_cfg
    from open_clip.pretrained import download_pretrained_from_hf  # type: ignore[import-untyped]
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict  # type: ignore[import-untyped]

    known: dict[str, Any] = {} if pretrained is None else get_pretrained_cfg(name, pretrained)
    if place and schema in ("hf-hub", "local-dir"):
        file = Path(place) / _CONFIG if schema == "local-dir" else download_pretrained_from_hf(place, filename=_CONFIG)
        known = json.loads(Path(file).read_text(encoding="utf-8")).get("preprocess_cfg", {})
    set_model_preprocess_cfg(model, merge_preprocess_dict(PreprocessCfg(), known))


def _name_text(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename the text tower's tensors in a state dict to the names that the model uses."""
    from open_clip.model import convert_to_custom_text_state_dict

    if not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    # Older versions of transformers saved this buffer of position indices. It is no weight, and newer models lack it.
    state.pop("text.transformer.embeddings.position_ids", None)
    return state


def _no_weights(name: str, pretrained: str, tags: Sequence[str]) -> InputError:
    """The error for ``pretrained``, which is neither a file nor one of the tags of a backbone."""
    expected = f"one of the tags {', '.join(tags)}, or " if tags else ""
    return InputError(f"pretrained={pretrained!r} does not exist for {name}; expected {expected}the path of a file")


def _find_weights(name: str, schema: str, place: str, pretrained: str | None) -> tuple[str | None, bool | None]:
    """The path of the weights file, downloaded if necessary, and whether the weights were trained with QuickGELU.

    The path is None for random weights; the second value is None if it is not known.
    """
    library = open_clip(f"backbone {name}")
    from open_clip.pretrained import download_pretrained_from_hf  # type: ignore[import-untyped]

    if pretrained is not None and Path(pretrained).is_file():
        # OpenAI's own files are TorchScript archives; its towers were trained with QuickGELU.
        return pretrained, True if is_archive(Path(pretrained)) else None
    known = place and schema in ("hf-hub", "local-dir")
    if pretrained is not None:
        tag = None if known else library.get_pretrained_cfg(name, pretrained)
        if not tag:
            raise _no_weights(name, pretrained, [] if known else library.list_pretrained_tags_by_model(name))
        try:
            return library.download_pretrained(tag), tag.get("quick_gelu")
        except Exception as error:
            raise InputError(
                f"the weights {name} {pretrained!r} could not be downloaded ({reason(error)}); offline, pass "
                "pretrained=PATH of a weights file"
            ) from error
    if schema == "local-dir" and place:
        found = [path for path in (Path(place) / file for file in _WEIGHT_FILES) if path.is_file()]
        if not found:
            raise InputError(f"{place} holds no weights: expected one of {', '.join(_WEIGHT_FILES)}")
        return str(found[0]), None
    if schema == "hf-hub" and place:
        try:
            return download_pretrained_from_hf(place), None
        except Exception as error:
            raise InputError(
                f"the weights of {name} could not be downloaded ({reason(error)}); offline, pass "
                "backbone='local-dir:FOLDER', a folder with open_clip_config.json and the weights"
            ) from error
    return None, None


def _take_size(trunk: Any, resized: Any, positions: Tensor | None) -> None:
    """Give a timm tower the image size that weights were made for, if their position embedding is a square grid.

    ``resized`` is the module whose ``set_input_size`` is called: the tower, or open_clip's wrapper around it.
    """
    own = getattr(trunk, "pos_embed", None)
    if own is None or positions is None or positions.dim() != 3 or positions.shape == own.shape:
        return
    prefix = 0 if getattr(trunk, "no_embed_class", False) else getattr(trunk, "num_prefix_tokens", 0)
    side = math.isqrt(max(positions.shape[1] - prefix, 0))
    if hasattr(trunk, "set_input_size") and side and side * side + prefix == positions.shape[1]:
        patch = trunk.patch_embed.patch_size
        resized.set_input_size((side * patch[0], side * patch[1]))


def _assign(model: nn.Module, state: dict[str, Tensor], path: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path} does not fit this tower: {_difference(model, state) or reason(error)}") from error


def _difference(model: nn.Module, state: dict[str, Tensor]) -> str:
    """What a state dict lacks, has too much, and has in another shape, with an example of each."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    other = [f"{n} with shape {given[n]}, expected {wanted[n]}" for n in wanted if given.get(n, wanted[n]) != wanted[n]]
    kinds = {
        "it lacks": [name for name in wanted if name not in given],
        "it has, unknown here,": [name for name in given if name not in wanted],
        "it has": other,
    }
    return "; ".join(
        f"{words} {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}"
        for words, names in kinds.items()
        if names
    )


def _suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    if not close:
        return ": take a name such as ViT-B-16, timm/vit_base_patch16_224 or hf-hub:ORG/REPO"
    return f"; did you mean {' or '.join(close)}?"
