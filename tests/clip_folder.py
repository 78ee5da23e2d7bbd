"""A small CLIP model with random weights, as open_clip keeps one in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from small_towers import DEPTH, DIM, HEADS, IMAGE, PATCH

CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": IMAGE, "patch_size": PATCH, "width": DIM, "layers": DEPTH, "head_width": DIM // HEADS},
    "text_cfg": {"context_length": 16, "width": DIM, "heads": HEADS, "layers": 2},
}


def clip_folder(path: Path, **preprocessing: object) -> Path:
    """Write it; ``preprocessing`` is what open_clip's configuration says of images."""
    path.mkdir()
    config = {"model_cfg": CONFIG, "preprocess_cfg": preprocessing}
    (path / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(4)
    save_file(open_clip.CLIP(**CONFIG).state_dict(), path / "open_clip_model.safetensors")
    return path
