"""A small CLIP model with random weights, as open_clip keeps one in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

from helpers.small_towers import DEPTH, DIM, HEADS, IMAGE, PATCH

CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": IMAGE, "patch_size": PATCH, "width": DIM, "layers": DEPTH, "head_width": DIM // HEADS},
    "text_cfg": {"context_length": 16, "width": DIM, "heads": HEADS, "layers": 2},
}


TIMM = {**CONFIG, "vision_cfg": {"timm_model_name": "test_vit", "timm_proj": "linear", "image_size": 160}}
"""The same with a vision tower of timm."""


def clip_folder(
    path: Path, model: dict[str, object] = CONFIG, custom_text: bool = False, **preprocessing: object
) -> Path:
    """Write it; ``preprocessing`` is what open_clip's configuration says of images.

    With ``custom_text`` the model has its text tower apart, and the weights are named as older ones were.
    """
    path.mkdir()
    config = {"model_cfg": {**model, "custom_text": custom_text}, "preprocess_cfg": preprocessing}
    (path / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(4)
    save_file(open_clip.CLIP(**model).state_dict(), path / "open_clip_model.safetensors")
    return path
